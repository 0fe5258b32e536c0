"""Settings files: TOML that becomes frozen dataclasses, for stores (``icf.toml``) and for receivers alike.

The dataclasses are the one definition of what a file can have: :func:`build_settings` checks a document against their
fields, types and bounds (:func:`setting`), and reports all mistakes at once, each with its place, what was expected,
what was found, and what was probably meant. An unknown key is a mistake: a misspelt setting that is silently ignored
would be found years later. ``docs/decisions/0016-settings.md`` says why no library does this.

Reads the one file that it is given; writes nothing.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args, get_origin, get_type_hints

from icf_utils.errors import InvalidSetting, printable, storage_errors
from icf_utils.regular_files import read_regular

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the same module under the name it had before it joined the standard library
    import tomli as tomllib

_Settings = TypeVar("_Settings")


def setting(
    default: Any = MISSING, *, least: int | None = None, most: int | None = None, choices: Collection[str] = ()
) -> Any:
    """Define a field of a settings dataclass with bounds for a number, or the texts that it can have.

    Without a default the key must be given.
    """
    return field(default=default, metadata={"least": least, "most": most, "choices": tuple(choices)})


#: The stages of the chain, in their order.
STAGE_NAMES = ("archive", "metadata", "dataset", "catalog")

#: What usually shows that folders were taken for the wrong visits. Each is a notice's code, and a word of ``--allow``.
#: ``skipped-image`` concerns trees of folders only.
RUN_CHECKS = ("shared-study", "several-patients", "no-dicom")
REPLACE_CHECKS = ("shared-study", "several-patients")
MERGE_CHECKS = ("several-patients",)
INPUT_CHECKS = (*RUN_CHECKS, "skipped-image")
UPLOAD_CHECKS = ("shared-study", "several-patients", "skipped-image")

#: File name of the settings, below the store's root.
SETTINGS_NAME = "icf.toml"

#: The environment variable with the address of stores whose settings name none.
STORE_URL_VARIABLE = "ICF_STORE_URL"


@dataclass(frozen=True)
class StoreSettings:
    """``[store]``: the store's address, what identifies it when that address changes, and who may use it.

    ``url`` is that of the environment variable ``ICF_STORE_URL`` unless it is given. Without one the store has no
    address, and nothing that contains it can be made. ``archives`` is the address of another store that has the
    archives, where this one only indexes them (:mod:`icf_utils.store.elsewhere`). ``group_shared``: members of the
    folders' group may read all files and add to the store, whatever the umask.
    """

    url: str = field(default_factory=lambda: os.environ.get(STORE_URL_VARIABLE, ""))
    id: str = ""
    archives: str = ""
    group_shared: bool = False


#: DICOM keywords of how images were acquired, recorded unless a store's settings say otherwise; none is listed in
#: PS3.15 Table E.1-1.
TECHNICAL_TAGS = (
    "Manufacturer",
    "ManufacturerModelName",
    "MagneticFieldStrength",
    "EchoTime",
    "RepetitionTime",
    "InversionTime",
    "FlipAngle",
    "EchoTrainLength",
    "SliceThickness",
    "PixelSpacing",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "BodyPartExamined",
    "ImageType",
    "ScanningSequence",
    "SequenceVariant",
)

#: Names that systems leave in folders; see :mod:`icf_utils.sources.leave_out`.
DEFAULT_LEAVE_OUT = (".DS_Store", "._*", "Thumbs.db", "desktop.ini", "@eaDir")


@dataclass(frozen=True)
class ArchiveSettings:
    """``[archive]``: patterns of the names of files and folders that are left out of every input.

    ``None``: the file names none (:mod:`icf_utils.sources.leave_out`).
    """

    leave_out: tuple[str, ...] | None = None


@dataclass(frozen=True)
class MetadataSettings:
    """``[metadata]``: DICOM keywords recorded in addition to the standard ones.

    ``technical_tags`` has the default list, which may be shortened down to nothing; ``tags`` are further ones.
    """

    tags: tuple[str, ...] = ()
    allow_identifying: bool = False
    technical_tags: tuple[str, ...] = TECHNICAL_TAGS


@dataclass(frozen=True)
class DatasetSettings:
    """``[dataset]``: whether datasets are also deposited for git-annex's ``annex::`` addresses."""

    annex_url: bool = False


@dataclass(frozen=True)
class CatalogSettings:
    """``[catalog]``: the look and content of a study's catalog. An empty text is the default look."""

    name: str = ""
    description: str = ""
    logo: str = ""
    link_color: str = "#0b5fa5"
    link_hover_color: str = "#083e6b"
    about: str = ""
    documentation: str = ""
    github: str = ""
    mastodon: str = ""
    x: str = ""
    hide_dates: bool = False
    file_names: str = setting("plain", choices=("plain", "all", "none"))


@dataclass(frozen=True)
class Author:
    """``[[study.authors]]``: a person as "Family, Given"; ORCID as ``0000-0001-2345-6789``."""

    LABELS = ("name",)

    name: str
    orcid: str = ""
    affiliation: str = ""
    email: str = ""


@dataclass(frozen=True)
class Publication:
    """``[[study.publications]]``: what has been published about the study."""

    LABELS = ("title",)

    title: str
    doi: str = ""
    authors: tuple[str, ...] = ()


@dataclass(frozen=True)
class StudySettings:
    """``[study]`` in a study's own ``icf.toml``: what the study says of itself. ``logo`` is relative to the store."""

    name: str = ""
    description: str = ""
    logo: str = ""
    keywords: tuple[str, ...] = ()
    license: str = ""
    license_url: str = ""
    doi: str = ""
    year: str = ""
    publisher: str = ""
    funding: tuple[str, ...] = ()
    contact: str = ""
    access: str = ""
    access_url: str = ""
    ethics: str = ""
    authors: tuple[Author, ...] = ()
    publications: tuple[Publication, ...] = ()


@dataclass(frozen=True)
class StudyFile:
    """Everything that the ``icf.toml`` of a study can have."""

    study: StudySettings = field(default_factory=StudySettings)


@dataclass(frozen=True)
class RunSettings:
    """``[run]``: what ``icf-utils run`` does without options. 0 jobs: as many as there are processors.

    ``settle`` is a duration such as ``5m``: an input must not have changed for so long. If it is empty, it is 5 minutes
    for inputs found by a pattern, and 0 for those that a table names.
    ``process`` names the processings with which a run ends.
    """

    jobs: int = setting(0, least=0)
    table: str = ""
    pattern: str = ""
    until: str = setting("catalog", choices=STAGE_NAMES)
    timezone: str = "UTC"
    settle: str = ""
    process: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProcessingSettings:
    """``[[processing]]``: a program of the user's own that is run on visits (:mod:`icf_utils.processing`).

    Either ``command``, a program with its arguments, or ``container``, an Apptainer or Singularity image, with
    ``args``. ``timeout`` is in seconds, ``memory`` text such as ``4G``. ``input_from`` names the processing whose
    output is the input; empty: the images of the visit. ``folders`` are those that a sandboxed program may read in
    addition. ``keep_old`` keeps an output that is replaced.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("name",)

    name: str = setting()
    version: str = setting()
    description: str = ""
    command: tuple[str, ...] = ()
    container: str = ""
    args: tuple[str, ...] = ()
    input_from: str = ""
    layout: str = setting("series", choices=("series", "mercure", "archive"))
    timeout: int = setting(3600, least=1)
    memory: str = ""
    cores: int = setting(1, least=1)
    workers: int = setting(1, least=1)
    network: bool = False
    isolation: str = setting("auto", choices=("auto", "required", "none"))
    folders: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    on: str = setting("local", choices=("local", "slurm"))
    partition: str = ""
    time: str = ""
    account: str = ""
    keep_log: str = setting("failed", choices=("failed", "always", "never"))
    keep_old: bool = False


@dataclass(frozen=True)
class Settings:
    """Everything that an ``icf.toml`` can have."""

    store: StoreSettings = field(default_factory=StoreSettings)
    archive: ArchiveSettings = field(default_factory=ArchiveSettings)
    metadata: MetadataSettings = field(default_factory=MetadataSettings)
    dataset: DatasetSettings = field(default_factory=DatasetSettings)
    catalog: CatalogSettings = field(default_factory=CatalogSettings)
    run: RunSettings = field(default_factory=RunSettings)
    processing: tuple[ProcessingSettings, ...] = ()


def load_settings(store_dir: Path) -> Settings:
    """Load the settings of the store at ``store_dir``; defaults where the file or a key is absent.

    Where the file names no address, that of the environment variable ``ICF_STORE_URL`` is taken. Raises
    :class:`~icf_utils.errors.InvalidSetting` for a file that is not TOML, and for every mistake in it.
    """
    path = store_dir / SETTINGS_NAME
    with storage_errors(path, "read"):
        try:
            raw = read_regular(path)
        except (FileNotFoundError, NotADirectoryError):
            raw = b""
    return parse_settings(raw, str(path))


def load_study_settings(study_folder: Path) -> StudySettings:
    """Load what a study says of itself in its ``icf.toml``; nothing without the file.

    Raises :class:`~icf_utils.errors.InvalidSetting` for a file that is not TOML, and for every mistake in it.
    """
    path = study_folder / SETTINGS_NAME
    with storage_errors(path, "read"):
        try:
            raw = read_regular(path)
        except (FileNotFoundError, NotADirectoryError):
            return StudySettings()
    return build_settings(StudyFile, parse_toml(raw, str(path)), str(path)).study


def parse_settings(raw: bytes, source: str) -> Settings:
    """Parse the bytes of an ``icf.toml``; ``source`` names it in errors."""
    return build_settings(Settings, parse_toml(raw, source), source)


def parse_toml(raw: bytes, source: str) -> dict[str, Any]:
    """Parse a TOML document. Raises :class:`~icf_utils.errors.InvalidSetting`; ``source`` names it there."""
    try:
        document: dict[str, Any] = tomllib.loads(raw.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidSetting(source, f"this is not a TOML file ({error})") from error
    return document


def build_settings(cls: type[_Settings], document: Mapping[str, Any], source: str) -> _Settings:
    """Make a settings dataclass of a TOML document; tables become its dataclasses, arrays of tables tuples of them.

    Raises :class:`~icf_utils.errors.InvalidSetting` with every mistake; ``source`` names the file there.
    """
    problems: list[str] = []
    made = _build_table(cls, document, "", problems)
    if len(problems) == 1:
        raise InvalidSetting(source, problems[0])
    if problems:
        raise InvalidSetting(source, "\n  ".join([f"{len(problems)} mistakes:", *problems]))
    return made  # type: ignore[no-any-return]


def _build_table(cls: type[Any], given: Mapping[str, Any], where: str, problems: list[str]) -> Any:
    """The dataclass, or ``None`` where something was wrong, which is noted."""
    known = {item.name: item for item in fields(cls)}
    before = len(problems)
    problems += [_unknown(name, known, where) for name in sorted(set(given) - set(known))]
    hints, values = {name: _without_none(hint) for name, hint in get_type_hints(cls).items()}, {}
    for name, item in known.items():
        if name in given:
            values[name] = _build_value(hints[name], given[name], _place(where, name, hints[name]), item, problems)
        elif item.default is MISSING and item.default_factory is MISSING:
            problems.append(_missing(hints[name], _place(where, name, hints[name])))
    return cls(**values) if len(problems) == before else None


def _build_value(hint: Any, value: Any, place: str, item: Field[Any], problems: list[str]) -> Any:
    if is_dataclass(hint):
        if isinstance(value, dict):
            return _build_table(hint, value, place, problems)  # type: ignore[arg-type]
        problems.append(f"'{item.name}' must be a table: write {place} on a line of its own, and its keys below")
    elif _is_tables(hint):
        if isinstance(value, list) and all(isinstance(table, dict) for table in value) and value:
            return tuple(_build_tables(get_args(hint)[0], value, place, problems))
        problems.append(_missing(hint, place))
    elif problem := _problem(hint, value, item.metadata):
        problems.append(f"{place}: {problem}")
    return tuple(value) if isinstance(value, list) else value


def _build_tables(cls: type[Any], tables: list[dict[str, Any]], place: str, problems: list[str]) -> Iterator[Any]:
    for number, table in enumerate(tables, 1):
        yield _build_table(cls, table, f"{place} number {number}{_label(cls, table)}", problems)


def _label(cls: type[Any], table: Mapping[str, Any]) -> str:
    """What people call one of several tables: the first text that it has under the class's ``LABELS``."""
    texts = [table[key] for key in getattr(cls, "LABELS", ()) if isinstance(table.get(key), str) and table[key]]
    return f" ({printable(texts[0])})" if texts else ""


def _without_none(hint: Any) -> Any:
    """The type that a key has if it is given: TOML has no null, ``None`` is for a key that is absent."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    return kinds[0] if type(None) in get_args(hint) else hint


def _is_tables(hint: Any) -> bool:
    return get_origin(hint) is tuple and is_dataclass(get_args(hint)[0])


def _place(where: str, name: str, hint: Any) -> str:
    """A key's place in the file, as people write it: ``[run] jobs``, ``[[rule]]``."""
    if is_dataclass(hint):
        return f"[{name}]"
    return f"[[{name}]]" if _is_tables(hint) else f"{where} {name}".strip()


def _missing(hint: Any, place: str) -> str:
    if _is_tables(hint):
        return f"there is no {place}: write {place} on a line of its own, and its keys below"
    return f"{place} is missing: expected {_EXPECTED[hint]}"


def _unknown(name: str, known: Mapping[str, Field[Any]], where: str) -> str:
    meant = did_you_mean(name, known)
    return f"{where} {printable(name)}: unknown key{meant} (known: {', '.join(known)})".strip()


def did_you_mean(text: str, known: Collection[str]) -> str:
    """What was probably meant, to be put behind a refusal; empty if nothing is close.

    >>> did_you_mean("timezon", ["jobs", "timezone"])
    "; did you mean 'timezone'?"
    """
    close = difflib.get_close_matches(text, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


#: Types that a setting can have, in words.
_EXPECTED: Mapping[Any, str] = {
    str: "text in quotes",
    bool: "true or false",
    int: "a whole number",
    tuple[str, ...]: "a list of texts",
    Mapping[str, str]: "a table of texts",
    Mapping[str, Any]: "a table",
}


def _problem(hint: Any, value: Any, bounds: Mapping[str, Any]) -> str:
    if get_origin(hint) is Mapping:
        return _table_problem(hint, value)
    is_list = hint == tuple[str, ...]
    if not (isinstance(value, list) if is_list else type(value) is hint):
        return f"expected {_EXPECTED[hint]}, found {_found(value)}"
    if is_list and (wrong := [item for item in value if not isinstance(item, str)]):
        return f"expected {_EXPECTED[hint]}, found {_found(wrong[0])} in it"
    return _out_of_bounds(value, bounds) if bounds else ""


def _table_problem(hint: Any, value: Any) -> str:
    """About a table whose keys the program does not know."""
    if not isinstance(value, dict):
        return f"expected {_EXPECTED[hint]}, found {_found(value)}"
    wrong = [item for item in value.values() if get_args(hint)[1] is str and not isinstance(item, str)]
    return f"expected {_EXPECTED[hint]}, found {_found(wrong[0])} in it" if wrong else ""


def _out_of_bounds(value: Any, bounds: Mapping[str, Any]) -> str:
    least, most, choices = bounds["least"], bounds["most"], bounds["choices"]
    if choices and value not in choices:
        expected = " or ".join(filter(None, [", ".join(map(repr, choices[:-1])), repr(choices[-1])]))
        return f"expected {expected}, found '{printable(value[:40])}'{did_you_mean(value, choices)}"
    if least is not None and value < least:
        return f"must be at least {least}, found {value}"
    return f"must be at most {most}, found {value}" if most is not None and value > most else ""


def _found(value: Any) -> str:
    if type(value) is bool:
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text '{printable(value[:40])}'"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    return "a list" if isinstance(value, list) else "a table" if isinstance(value, dict) else "a date or time"
