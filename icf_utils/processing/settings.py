"""Check the ``[[processing]]`` tables of a settings file and turn them into processings. Reads that one file.

That a program or an image exists is checked where it is run: a settings file may be written on another machine.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from icf_utils.errors import InvalidSetting, printable, storage_errors
from icf_utils.processing.model import Isolation, KeepLog, Layout, Processing
from icf_utils.settings import (
    SETTINGS_NAME,
    ProcessingSettings,
    build_settings,
    did_you_mean,
    load_settings,
    parse_toml,
)
from icf_utils.store.layout import is_processing_name
from icf_utils.templates import Template

#: The fields that the words of a command can have. ``{arguments}`` is a word of its own, and becomes any number.
FIELDS = ("input", "output", "task", "study", "visit", "arguments")

_MEMORY = re.compile(r"([1-9][0-9]{0,8})([KMGT])", re.ASCII)
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def make_processings(tables: Sequence[ProcessingSettings], source: str, folder: Path) -> dict[str, Processing]:
    """The processings of a settings file by name, in its order; relative paths are relative to ``folder``.

    Raises :class:`~icf_utils.errors.InvalidSetting` with every mistake; ``source`` names the file there.
    """
    problems = [f"[[processing]] '{printable(table.name)}' {text}" for table in tables for text in _problems(table)]
    names = [table.name for table in tables]
    problems += [f"[[processing]] '{printable(name)}' is there twice" for name in set(names) if names.count(name) > 1]
    problems += _chain_problems(tables)
    if problems:
        start = f"{len(problems)} mistakes:\n  " if len(problems) > 1 else ""
        raise InvalidSetting(source, start + "\n  ".join(sorted(problems)))
    return {table.name: _processing(table, folder) for table in tables}


@dataclass(frozen=True)
class _ProcessingFile:
    """The part of a settings file that has processings."""

    processing: tuple[ProcessingSettings, ...] = ()


def load_processings(store: Path, file: Path | None = None) -> dict[str, Processing]:
    """The processings of a store by name, or those of another settings file, such as a receiver's.

    Raises :class:`~icf_utils.errors.InvalidSetting` and :class:`~icf_utils.errors.StorageFailure`.
    """
    if file is None:
        return make_processings(load_settings(store).processing, str(store / SETTINGS_NAME), store)
    with storage_errors(file, "read"):
        document = parse_toml(file.read_bytes(), str(file))
    wanted = {key: value for key, value in document.items() if key == "processing"}
    found = build_settings(_ProcessingFile, wanted, str(file))
    return make_processings(found.processing, str(file), file.absolute().parent)


def find_processings(names: Sequence[str], known: Mapping[str, Processing], source: str) -> list[Processing]:
    """The processings of these names, each after the one whose output it reads, if that is among them.

    Raises :class:`~icf_utils.errors.InvalidSetting` for a name that is not known.
    """
    for name in names:
        if name not in known:
            have = f" ({source} has: {', '.join(known)})" if known else f": {source} has no [[processing]]"
            raise InvalidSetting("processing", f"unknown name '{printable(name)}'{did_you_mean(name, known) or have}")
    found: list[Processing] = []
    waiting = [known[name] for name in dict.fromkeys(names)]
    while waiting:
        left = {processing.name for processing in waiting}
        ready = [processing for processing in waiting if processing.input_from not in left]
        found += ready
        waiting = [processing for processing in waiting if processing not in ready]
    return found


def parse_memory(text: str) -> int:
    """A number of bytes from text such as ``4G``; 0 for an empty one. Raises ``ValueError``."""
    if not text:
        return 0
    found = _MEMORY.fullmatch(text)
    if not found:
        raise ValueError(text)
    return int(found[1]) * _UNITS[found[2]]


def _problems(table: ProcessingSettings) -> Iterator[str]:
    if not is_processing_name(table.name):
        yield "name: expected letters, digits and '-', at most 50 characters, the first of them not '-'"
    if not table.version.strip():
        yield "version: must not be empty: it decides whether a visit has to be processed again"
    if bool(table.command) == bool(table.container):
        yield "needs either 'command' or 'container'"
    if table.args and not table.container:
        yield "args: needs 'container'; write the words of a command into 'command'"
    try:
        parse_memory(table.memory)
    except ValueError:
        yield f"memory: expected a number with K, M, G or T, such as '4G', found '{printable(table.memory[:40])}'"
    yield from _word_problems("command" if table.command else "args", table.command or table.args)
    for name in table.environment:
        if not _VARIABLE.fullmatch(name):
            yield f"environment: '{printable(name[:40])}' cannot be the name of a variable"
    try:
        json.dumps(table.settings, allow_nan=False)
    except (TypeError, ValueError):
        yield "settings: dates, times, infinity and NaN have no JSON form; write them as text"


def _word_problems(key: str, words: Sequence[str]) -> Iterator[str]:
    for word in words:
        if "\0" in word:
            yield f"{key}: a word of a command cannot have a NUL character"
        for field in Template(word).fields:
            if field not in FIELDS:
                yield f"{key}: unknown field {{{field}}}{did_you_mean(field, FIELDS)} (fields: {', '.join(FIELDS)})"
            elif field == "arguments" and word != "{arguments}":
                yield f"{key}: {{arguments}} must be a word of its own"


def _chain_problems(tables: Sequence[ProcessingSettings]) -> Iterator[str]:
    sources = {table.name: table.input_from for table in tables}
    for name, source in sources.items():
        if source and source not in sources:
            yield f"[[processing]] '{printable(name)}' input_from: unknown name '{printable(source)}'"
            continue
        chain, above = [name], source
        while above and above not in chain:
            chain.append(above)
            above = sources.get(above, "")
        words = " -> ".join([*chain, above])
        if above:
            yield f"[[processing]] '{printable(name)}' input_from: it would wait for itself ({words})"


def _processing(table: ProcessingSettings, folder: Path) -> Processing:
    return Processing(
        name=table.name,
        version=table.version,
        description=table.description,
        command=table.command,
        container=Path(os.path.abspath(folder / table.container)) if table.container else None,
        args=table.args,
        input_from=table.input_from,
        layout=cast(Layout, table.layout),
        timeout=table.timeout,
        memory=parse_memory(table.memory),
        cores=table.cores,
        workers=table.workers,
        network=table.network,
        isolation=cast(Isolation, table.isolation),
        folders=tuple(Path(os.path.abspath(folder / name)) for name in table.folders),
        environment=dict(table.environment),
        settings=_plain(table.settings),
        is_on_slurm=table.on == "slurm",
        partition=table.partition,
        time=table.time,
        account=table.account,
        keep_log=cast(KeepLog, table.keep_log),
        keep_old=table.keep_old,
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
