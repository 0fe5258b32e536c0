"""The record of an output: what it was made from, and with.

``<visit>_<processing>_provenance.json`` is one object in canonical bytes: the *recipe* (archive, input, version,
program with its digests, arguments, settings), how the program ended, and the output's size and MD5. It has no clock,
no host, no name of a person and no word of the program, so that the same visit, program and settings give the same
bytes. The output itself begins with the same record without the output's digest (:func:`encode_record`), so that
neither of the two files can be replaced alone. Pure but for :func:`read_provenance`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from icf_utils.errors import DepositDamaged
from icf_utils.store.layout import Visit, find_deposit

#: The version of the file's format.
FORMAT = 1

OutputState = Literal["success", "partial"]

_MD5, _SHA256 = re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9a-f]{64}")
_REMEDY = "restore it from a copy, or run 'icf-utils process' again after moving it away"


@dataclass(frozen=True)
class ProgramRecord:
    """The program: ``kind`` is ``command`` or ``container``; ``words`` are its arguments as the settings have them.

    ``digests`` has the SHA-256 of the program, of the image, and of each file that is named among the arguments.
    """

    kind: Literal["command", "container"]
    words: tuple[str, ...]
    digests: Mapping[str, str]


@dataclass(frozen=True)
class Recipe:
    """What decides an output: the visit's archive, the input, and everything that the settings say about the program.

    ``input_from`` names the processing whose output is the input, and ``input_md5`` is that output's MD5; empty where
    the input is the visit's images. ``layout`` is how the input is arranged.
    """

    study: str
    visit: str
    processing: str
    version: str
    archive_md5: str
    archive_size: int
    input_from: str
    input_md5: str
    layout: str
    program: ProgramRecord
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class OutputFiles:
    """The output: MD5 and size in bytes of its TAR; number and total size of the files in it."""

    md5: str
    size: int
    files: int
    bytes: int


@dataclass(frozen=True)
class Provenance:
    """The content of ``<visit>_<processing>_provenance.json``."""

    recipe: Recipe
    state: OutputState
    output: OutputFiles


def encode_record(recipe: Recipe, state: OutputState) -> bytes:
    """Encode what an output begins with: the provenance, but for the output's own digest."""
    return _encode(_record(recipe, state))


def encode_provenance(provenance: Provenance) -> bytes:
    """Encode ``<visit>_<processing>_provenance.json`` in its canonical form."""
    return _encode({**_record(provenance.recipe, provenance.state), "output": asdict(provenance.output)})


def _record(recipe: Recipe, state: OutputState) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "study": recipe.study,
        "visit": recipe.visit,
        "processing": recipe.processing,
        "version": recipe.version,
        "archive": {"md5": recipe.archive_md5, "size": recipe.archive_size},
        "input": {"from": recipe.input_from, "md5": recipe.input_md5, "layout": recipe.layout},
        "program": {
            "kind": recipe.program.kind,
            "words": list(recipe.program.words),
            "sha256": dict(sorted(recipe.program.digests.items())),
        },
        "arguments": list(recipe.arguments),
        "environment": dict(sorted(recipe.environment.items())),
        "settings": _sorted(recipe.settings),
        "state": state,
    }


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, (list, tuple)) else value


def _encode(value: Mapping[str, Any]) -> bytes:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def parse_provenance(raw: bytes, place: Visit, processing: str, source: str = "") -> Provenance:
    """Parse the bytes of a provenance file (``source``), which must be that of this visit and processing.

    Raises :class:`~icf_utils.errors.DepositDamaged`, also for bytes other than the canonical ones.
    """
    source = source or str(place.provenance(processing))
    try:
        found = _provenance(json.loads(raw.decode("utf-8")))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DepositDamaged(source, "the provenance of an output", "something else", _REMEDY) from error
    recipe = found.recipe
    if (recipe.study, recipe.visit, recipe.processing) != (place.study, place.visit, processing):
        raise DepositDamaged(source, "the provenance of this visit's output", "that of another one", _REMEDY)
    if encode_provenance(found) != raw:
        raise DepositDamaged(source, "the bytes that icf-utils writes", "other bytes", _REMEDY)
    return found


def read_provenance(place: Visit, processing: str, kept: int = 0) -> Provenance | None:
    """Read the provenance of an output; ``None`` if there is none. ``kept`` is the number of an earlier one.

    Raises :class:`~icf_utils.errors.DepositDamaged` and :class:`~icf_utils.errors.StorageFailure`.
    """
    path = place.provenance(processing, kept)
    raw = find_deposit(path)
    return None if raw is None else parse_provenance(raw, place, processing, str(path))


def _provenance(value: Mapping[str, Any]) -> Provenance:
    if value["format"] != FORMAT or value["state"] not in ("success", "partial"):
        raise ValueError("another format")
    program, archive, source = value["program"], value["archive"], value["input"]
    if program["kind"] not in ("command", "container"):
        raise ValueError("another kind of program")
    recipe = Recipe(
        study=_text(value["study"]),
        visit=_text(value["visit"]),
        processing=_text(value["processing"]),
        version=_text(value["version"]),
        archive_md5=_digest(_MD5, archive["md5"]),
        archive_size=_number(archive["size"]),
        input_from=_text(source["from"]),
        input_md5=_digest(_MD5, source["md5"]) if source["from"] else _text(source["md5"]),
        layout=_text(source["layout"]),
        program=ProgramRecord(
            program["kind"],
            _texts(program["words"]),
            {_text(name): _digest(_SHA256, digest) for name, digest in program["sha256"].items()},
        ),
        arguments=_texts(value["arguments"]),
        environment={_text(name): _text(word) for name, word in value["environment"].items()},
        settings=dict(value["settings"]),
    )
    output = value["output"]
    numbers = [_number(output[field.name]) for field in fields(OutputFiles)[1:]]
    return Provenance(recipe, value["state"], OutputFiles(_digest(_MD5, output["md5"]), *numbers))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _texts(value: Sequence[Any]) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return tuple(map(_text, value))


def _number(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError("not a number")
    return value


def _digest(form: re.Pattern[str], value: Any) -> str:
    if not form.fullmatch(_text(value)):
        raise ValueError("not a digest")
    return str(value)
