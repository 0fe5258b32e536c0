"""Settings of a store, from ``<store>/icf.toml``. Reads that one file; writes nothing.

All settings have defaults, so a store without the file works. Unknown keys are refused: a misspelt setting that is
silently ignored would be found years later.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from icf_utils.errors import InvalidSetting, printable, storage_errors

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the same module under the name it had before it joined the standard library
    import tomli as tomllib

#: File name of the settings, below the store's root.
SETTINGS_NAME = "icf.toml"

#: Where the facility's stores are served, when nothing else is said.
DEFAULT_STORE_URL = "https://data.inm-icf.de"


@dataclass(frozen=True)
class StoreSettings:
    """``[store]``: where the store is reached, what identifies it when that address changes, and who may use it.

    ``group_shared``: whoever is in the folders' group may read all files and add to the store, whatever the umask.
    """

    url: str = DEFAULT_STORE_URL
    id: str = ""
    group_shared: bool = False


@dataclass(frozen=True)
class MetadataSettings:
    """``[metadata]``: DICOM keywords recorded beside the standard ones."""

    tags: tuple[str, ...] = ()
    allow_identifying: bool = False


@dataclass(frozen=True)
class DatasetSettings:
    """``[dataset]``: whether datasets are deposited for git-annex's ``annex::`` addresses, too."""

    annex_url: bool = False


@dataclass(frozen=True)
class CatalogSettings:
    """``[catalog]``: how a study's catalog presents itself. Empty text means: the default look."""

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
    file_names: str = "plain"


@dataclass(frozen=True)
class RunSettings:
    """``[run]``: what ``icf-utils run`` does when its options say nothing. 0 jobs: as many as there are processors."""

    jobs: int = 0
    table: str = ""
    pattern: str = ""
    until: str = "catalog"
    timezone: str = "UTC"


@dataclass(frozen=True)
class Settings:
    """Everything that ``icf.toml`` can say."""

    store: StoreSettings = field(default_factory=StoreSettings)
    metadata: MetadataSettings = field(default_factory=MetadataSettings)
    dataset: DatasetSettings = field(default_factory=DatasetSettings)
    catalog: CatalogSettings = field(default_factory=CatalogSettings)
    run: RunSettings = field(default_factory=RunSettings)


def load_settings(store_dir: Path) -> Settings:
    """The settings of the store at ``store_dir``; defaults where the file or a key is absent.

    Raises :class:`~icf_utils.errors.InvalidSetting` for what is not TOML, not known or of the wrong type.
    """
    path = store_dir / SETTINGS_NAME
    with storage_errors(path, "read"):
        try:
            raw = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return Settings()
    return parse_settings(raw, str(path))


def parse_settings(raw: bytes, source: str) -> Settings:
    """Settings from the bytes of a TOML document; ``source`` names it in errors."""
    try:
        table = tomllib.loads(raw.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidSetting(source, f"this is not a TOML file ({error})") from error
    _refuse_unknown(table, Settings, source, "table")
    return Settings(
        store=_section(StoreSettings, table, "store", source),
        metadata=_section(MetadataSettings, table, "metadata", source),
        dataset=_section(DatasetSettings, table, "dataset", source),
        catalog=_section(CatalogSettings, table, "catalog", source),
        run=_section(RunSettings, table, "run", source),
    )


def _section(cls: type[Any], table: Mapping[str, Any], name: str, source: str) -> Any:
    given = table.get(name, {})
    if not isinstance(given, dict):
        raise InvalidSetting(source, f"'{name}' must be a table: write [{name}] on a line of its own")
    _refuse_unknown(given, cls, source, f"key in [{name}]")
    hints = get_type_hints(cls)
    return cls(**{key: _typed(value, hints[key], f"[{name}] {key}", source) for key, value in given.items()})


def _typed(value: Any, hint: Any, what: str, source: str) -> Any:
    if hint is str and isinstance(value, str):
        return value
    if hint in (bool, int) and type(value) is hint:
        return value
    if hint == tuple[str, ...] and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    expected = {str: "text", bool: "true or false", int: "a whole number"}.get(hint, "a list of texts")
    raise InvalidSetting(source, f"{what} must be {expected}, found {type(value).__name__}")


def _refuse_unknown(given: Mapping[str, Any], cls: type[Any], source: str, kind: str) -> None:
    known = [item.name for item in fields(cls)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise InvalidSetting(
            source, f"unknown {kind}: {', '.join(map(printable, unknown))} (known: {', '.join(known)})"
        )
