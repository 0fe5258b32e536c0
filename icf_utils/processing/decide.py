"""Decide whether a processing has to run on a visit: from what its output was made of. Reads the store's small files.

The recipe of the output that is there is compared with the recipe of today: archive, version, settings, arguments,
input. The digests of the program are recorded but not compared: a program may be updated without being another one for
its user, and ``version`` is what says that it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from icf_utils.errors import DepositMissing
from icf_utils.metadata.records import TarballRecord, parse_tarball
from icf_utils.outputs.provenance import ProgramRecord, Provenance, Recipe, read_provenance
from icf_utils.processing.digests import record_program
from icf_utils.processing.model import Processing
from icf_utils.store.layout import Visit, read_deposit

_MAKE_FIRST = "run 'icf-utils run' first, up to the stage metadata"


@dataclass(frozen=True)
class Decision:
    """Whether a processing runs on a visit: ``reasons`` say why, none if the output that is there is up to date.

    ``recipe`` is what an output of today would be made of.
    """

    recipe: Recipe
    reasons: tuple[str, ...]
    before: Provenance | None


def decide(
    place: Visit, processing: Processing, arguments: Sequence[str] | None, always: bool, with_digests: bool = True
) -> Decision:
    """Decide about one visit. ``arguments`` of ``None`` are those with which the output was made, if there is one.

    Raises :class:`~icf_utils.errors.DepositMissing` for a visit without metadata or without the input's output,
    :class:`~icf_utils.errors.DepositDamaged`, and :class:`~icf_utils.errors.MissingRequirement` for a program that is
    not there, unless ``with_digests`` is false.
    """
    tarball = read_tarball(place)
    before = read_provenance(place, processing.name)
    given = tuple(arguments) if arguments is not None else before.recipe.arguments if before else ()
    recipe = _recipe(place, processing, given, tarball, with_digests)
    reasons = _reasons(place, recipe, before)
    if always and not reasons:
        reasons = ("requested by --always-make",)
    return Decision(recipe, reasons, before)


def read_tarball(place: Visit) -> TarballRecord:
    """The record of the visit's archive. Raises ``DepositMissing`` or ``DepositDamaged``."""
    raw = read_deposit(place.tarball_json, _MAKE_FIRST)
    return parse_tarball(raw, str(place.tarball_json))


def _recipe(
    place: Visit, processing: Processing, arguments: tuple[str, ...], tarball: TarballRecord, with_digests: bool
) -> Recipe:
    source = processing.input_from
    input_md5 = ""
    if source:
        provenance = read_provenance(place, source)
        if provenance is None:
            raise DepositMissing(place.provenance(source), f"run 'icf-utils process {source}' first")
        input_md5 = provenance.output.md5
    return Recipe(
        study=place.study,
        visit=place.visit,
        processing=processing.name,
        version=processing.version,
        archive_md5=tarball.md5,
        archive_size=tarball.size,
        input_from=source,
        input_md5=input_md5,
        layout=processing.layout if not source else "output",
        program=record_program(processing) if with_digests else _without_digests(processing),
        arguments=arguments,
        environment=processing.environment,
        settings=processing.settings,
    )


def _without_digests(processing: Processing) -> ProgramRecord:
    if processing.container is not None:
        return ProgramRecord("container", (processing.container.name, *processing.args), {})
    return ProgramRecord("command", processing.command, {})


def _reasons(place: Visit, recipe: Recipe, before: Provenance | None) -> tuple[str, ...]:
    if before is None:
        return ("it was not processed yet",)
    old = before.recipe
    found = []
    if old.archive_md5 != recipe.archive_md5:
        found.append("its archive is another one")
    if old.version != recipe.version:
        found.append(f"version {recipe.version}, processed by {old.version}")
    words = {
        "arguments": "arguments",
        "settings": "settings",
        "environment": "environment",
        "layout": "layout",
        "input_from": "input_from",
    }
    found += [f"other {word}" for name, word in words.items() if getattr(old, name) != getattr(recipe, name)]
    if (old.program.kind, old.program.words) != (recipe.program.kind, recipe.program.words):
        found.append("another command")
    if old.input_md5 != recipe.input_md5 and old.input_from == recipe.input_from:
        found.append(f"the output of '{recipe.input_from}' is another one")
    if not found and not _has_size(place.output(recipe.processing), before.output.size):
        found.append("the output is missing or has another size")
    return tuple(found)


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def is_same_program(recipe: Recipe, processing: Processing) -> bool:
    """Whether the program's files are still those of the recipe: they may be replaced while it runs."""
    return replace(recipe, program=record_program(processing)) == recipe
