"""The list of outputs that a study's catalog shows: ``data/outputs.json``, a line for each output.

The list is apart from the catalog's other files, so that an output that is deposited changes this one file. A line has
the identifiers of visit and processing, the state, the version, number and total size (bytes) of the files, and size
and MD5 of the TAR; nothing that the program has printed, and no settings. Callers hold the catalog's lock when they
write it. Reads the store; writes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import astuple, dataclass, fields
from functools import lru_cache

from icf_utils.errors import DepositDamaged, IcfError, storage_errors
from icf_utils.outputs.provenance import Provenance, read_provenance
from icf_utils.store.layout import (
    OUTPUT_SUFFIX,
    PROVENANCE_SUFFIX,
    Study,
    Visit,
    find_deposit,
    list_kept_outputs,
    list_outputs,
)

#: The list's path below the catalog's folder.
OUTPUTS_PATH = "data/outputs.json"

_REMEDY = "run 'icf-utils catalog build' for this study"


@dataclass(frozen=True)
class OutputLine:
    """An output as the list has it. Sizes are in bytes: ``bytes`` of the files, ``size`` of the TAR."""

    visit: str
    processing: str
    state: str
    version: str
    files: int
    bytes: int
    size: int
    md5: str


def output_line(provenance: Provenance) -> OutputLine:
    """The line of an output."""
    recipe, output = provenance.recipe, provenance.output
    return OutputLine(
        *(recipe.visit, recipe.processing, provenance.state, recipe.version),
        *(output.files, output.bytes, output.size, output.md5),
    )


def encode_outputs(lines: Iterable[OutputLine]) -> bytes:
    """Encode the list, sorted by visit and processing."""
    ordered = sorted(lines, key=lambda line: (line.visit, line.processing))
    body = ",\n".join(json.dumps(astuple(line), ensure_ascii=False, separators=(",", ":")) for line in ordered)
    return f"[\n{body}\n]\n".encode("utf-8", "backslashreplace")


def parse_outputs(raw: bytes, source: str) -> list[OutputLine]:
    """Parse the list. Raises :class:`~icf_utils.errors.DepositDamaged`."""
    try:
        lines = json.loads(raw.decode("utf-8"))
        if not isinstance(lines, list):
            raise TypeError("not a list")
        found = [OutputLine(*values) for values in lines]
        kinds = {field.name: int if field.name in ("files", "bytes", "size") else str for field in fields(OutputLine)}
        if any(type(getattr(line, name)) is not kind for line in found for name, kind in kinds.items()):
            raise TypeError("a line has other values")
    except (ValueError, TypeError, RecursionError) as error:
        raise DepositDamaged(source, "the list of a catalog's outputs", "something else", _REMEDY) from error
    return found


def read_list(study: Study) -> bytes | None:
    """Read the list's bytes; ``None`` where there is none. Raises :class:`~icf_utils.errors.StorageFailure`."""
    return find_deposit(study.catalog / OUTPUTS_PATH)


def visit_outputs(place: Visit) -> list[OutputLine]:
    """The lines of a visit's outputs, from their provenance; those that cannot be read are left out."""
    with storage_errors(place.of_study.folder, "examine"):
        changed = place.of_study.folder.stat().st_mtime_ns
    found = []
    for processing in outputs_by_visit(place.of_study, changed).get(place.visit, ()):
        try:
            provenance = read_provenance(place, processing)
        except IcfError:  # 'verify' reports it
            continue
        if provenance:
            found.append(output_line(provenance))
    return found


@lru_cache(maxsize=2)
def outputs_by_visit(study: Study, _changed: int) -> Mapping[str, tuple[str, ...]]:
    """The names of processings by visit, also of outputs of which a file is missing.

    The study's folder is listed once for all of its visits: ``_changed`` is its time of modification.
    """
    found: dict[str, tuple[str, ...]] = {}
    for visit, processing in list_outputs(study, (OUTPUT_SUFFIX, PROVENANCE_SUFFIX)):
        found[visit] = (*found.get(visit, ()), processing)
    return found


@lru_cache(maxsize=2)
def kept_by_visit(study: Study, _changed: int) -> Mapping[str, tuple[tuple[str, int], ...]]:
    """The names and numbers of earlier outputs that were kept, by visit, as :func:`outputs_by_visit` lists others."""
    found: dict[str, tuple[tuple[str, int], ...]] = {}
    for visit, processing, number in list_kept_outputs(study):
        found[visit] = (*found.get(visit, ()), (processing, number))
    return found


def changed_list(
    study: Study, raw: bytes | None, lines: Iterable[OutputLine] = (), *, without: Collection[str] = ()
) -> bytes:
    """The list after outputs were deposited (``lines``), and those of the visits ``without`` went.

    ``raw`` is the list before; ``None`` means that there is none. A damaged one is made again from the provenance of
    all outputs.
    """
    try:
        before = parse_outputs(raw, str(study.catalog / OUTPUTS_PATH)) if raw is not None else []
    except DepositDamaged:
        before = [line for visit in study.visits() for line in visit_outputs(Visit(study.root, study.study, visit))]
    table = {(line.visit, line.processing): line for line in before if line.visit not in without}
    table.update({(line.visit, line.processing): line for line in lines})
    return encode_outputs(table.values())
