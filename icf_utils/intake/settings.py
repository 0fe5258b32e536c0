"""The receiver's settings: a TOML file of its own, with a table for each rule. Reads that one file.

All mistakes that can be seen in it are refused before anything listens.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from icf_utils.errors import InvalidSetting, shown, storage_errors
from icf_utils.intake.rules import Rule, check_rule

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the same module under the name it had before it joined the standard library
    import tomli as tomllib


@dataclass(frozen=True)
class Listen:
    """``[listen]``: where connections come in, and what they may cost. Times in seconds.

    ``reserve`` is what stays free on the spool's disk, in megabytes; ``max_pdu`` is in bytes. With ``client_ca`` a
    client must show a certificate. ``durable = false`` answers before images are on the disk, for measurements only.
    """

    host: str = "127.0.0.1"
    port: int = 11112
    max_associations: int = 32
    max_pdu: int = 131072
    timeout: int = 60
    reserve: int = 1024
    workers: int = 1
    certificate: str = ""
    key: str = ""
    client_ca: str = ""
    durable: bool = True


@dataclass(frozen=True)
class Http:
    """``[http]``: what may be posted to the pages, in megabytes.

    ``upload_limit`` is about a zip as it comes, ``unpacked_limit`` about all that is in it.
    """

    upload_limit: int = 16_000
    unpacked_limit: int = 64_000


@dataclass(frozen=True)
class ReceiverSettings:
    """Everything that the file says: folders, ``[listen]``, the rules in their order, and ``[http]``.

    ``source`` is the file, for messages.
    """

    store: Path
    spool: Path
    listen: Listen
    rules: tuple[Rule, ...]
    http: Http = field(default_factory=Http)
    source: str = "settings"


def load_receiver_settings(path: Path) -> ReceiverSettings:
    """The settings in a file; relative folders are relative to it.

    Raises :class:`~icf_utils.errors.InvalidSetting` and :class:`~icf_utils.errors.StorageFailure`.
    """
    with storage_errors(path, "read"):
        raw = path.read_bytes()
    return parse_receiver_settings(raw, path)


def parse_receiver_settings(raw: bytes, path: Path) -> ReceiverSettings:
    """The same from the file's bytes; ``path`` says where it lies."""
    source = str(path)
    try:
        table = tomllib.loads(raw.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidSetting(source, f"this is not a TOML file ({error})") from error
    _refuse_unknown(table, ("store", "spool", "listen", "http", "rule"), "key", source)
    store, spool = _folders(table, path.absolute().parent, source)
    rules = table.get("rule", [])
    if not isinstance(rules, list) or not rules:
        raise InvalidSetting(source, "there is no rule: write [[rule]] on a line of its own, and its keys below")
    found = tuple(_rule(given, number, source) for number, given in enumerate(rules, 1))
    names = [rule.name for rule in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidSetting(source, f"several rules are called '{shown(twice[0])}': give each a 'name'")
    here = path.absolute().parent
    http: Http = _section(Http, table.get("http", {}), "[http]", source)
    if min(http.upload_limit, http.unpacked_limit) < 1:
        raise InvalidSetting(source, "[http] upload_limit and unpacked_limit must be at least 1")
    return ReceiverSettings(store, spool, _listen(table, here, source), found, http, source)


def _folders(table: Mapping[str, Any], here: Path, source: str) -> tuple[Path, Path]:
    """Store and spool: two folders, neither of them in the other, since each would take the other's files for its own.

    Links are followed for this.
    """
    for name in ("store", "spool"):
        if not isinstance(table.get(name), str) or not table[name].strip():
            raise InvalidSetting(source, f"'{name}' must be there, and name a folder")
    store, spool = here / table["store"], here / table["spool"]
    real = {name: Path(os.path.realpath(folder)) for name, folder in (("store", store), ("spool", spool))}
    if real["store"] == real["spool"]:
        raise InvalidSetting(source, "'store' and 'spool' are the same folder; they must be two")
    for inner, outer in (("store", "spool"), ("spool", "store")):
        if real[inner].is_relative_to(real[outer]):
            raise InvalidSetting(source, f"'{inner}' lies in '{outer}'; neither may lie in the other")
    return store, spool


def _listen(table: Mapping[str, Any], here: Path, source: str) -> Listen:
    listen: Listen = _section(Listen, table.get("listen", {}), "[listen]", source)
    for name, least in (("port", 0), ("max_associations", 1), ("max_pdu", 4096), ("timeout", 1), ("workers", 1)):
        if getattr(listen, name) < least:
            raise InvalidSetting(source, f"[listen] {name} must be at least {least}")
    if listen.port > 65535 or listen.max_pdu > 1 << 24 or listen.reserve < 0:
        raise InvalidSetting(source, "[listen] port, max_pdu or reserve is out of range")
    if bool(listen.certificate) != bool(listen.key) or (listen.client_ca and not listen.key):
        raise InvalidSetting(source, "[listen] TLS takes 'certificate' and 'key', and 'client_ca' beside them")
    files = {name: str(here / text) for name in ("certificate", "key", "client_ca") if (text := getattr(listen, name))}
    return Listen(**{**{item.name: getattr(listen, item.name) for item in fields(Listen)}, **files})


def _rule(given: Any, number: int, source: str) -> Rule:
    called = given.get("name") or given.get("called_ae") if isinstance(given, dict) else None
    where = f"[[rule]] number {number}" + (f" ({shown(called)})" if isinstance(called, str) else "")
    rule: Rule = _section(Rule, given, where, source)
    rule = rule if rule.name else replace(rule, name=rule.called_ae)
    check_rule(rule, where, source)
    return rule


def _section(cls: type[Any], given: Any, where: str, source: str) -> Any:
    if not isinstance(given, dict):
        raise InvalidSetting(source, f"{where} must be a table")
    _refuse_unknown(given, [item.name for item in fields(cls)], f"key in {where}", source)
    needed = [item.name for item in fields(cls) if item.default is MISSING and item.name not in given]
    if needed:
        raise InvalidSetting(source, f"{where}: '{needed[0]}' is missing")
    hints = get_type_hints(cls)
    return cls(**{key: _typed(value, hints[key], f"{where} {key}", source) for key, value in given.items()})


def _typed(value: Any, hint: Any, what: str, source: str) -> Any:
    if hint in (str, bool, int) and type(value) is hint:
        return value
    if hint == tuple[str, ...] and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    expected = {str: "text", bool: "true or false", int: "a whole number"}.get(hint, "a list of texts")
    raise InvalidSetting(source, f"{what} must be {expected}, found {type(value).__name__}")


def _refuse_unknown(given: Mapping[str, Any], known: Any, kind: str, source: str) -> None:
    if unknown := sorted(set(given) - set(known)):
        raise InvalidSetting(source, f"unknown {kind}: {', '.join(map(shown, unknown))} (known: {', '.join(known)})")
