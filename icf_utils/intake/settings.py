"""The receiver's settings: a TOML file of its own, with a table for each rule. Reads that one file.

All mistakes that can be seen in it are refused before anything listens.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from icf_utils.dicom.confidential import TABLE, is_identifying
from icf_utils.dicom.values import BINARY_VRS, dictionary_vr, keyword_tag
from icf_utils.errors import InvalidSetting, shown, storage_errors
from icf_utils.intake.naming import Template, parse_template
from icf_utils.store import check_identifier

if TYPE_CHECKING:
    from icf_utils.xnat.values import Target

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the same module under the name it had before it joined the standard library
    import tomli as tomllib

#: What a visit's template may use beside DICOM keywords.
FACTS = ("called_ae", "calling_ae", "address", "study_key")

_STAGES = ("metadata", "dataset", "catalog")


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
class Rule:
    """``[[rule]]``: what becomes of images for one called AE. Times in seconds; 0 of ``force`` and ``expected``: none.

    ``calling_ae`` and ``addresses`` (or networks) say who may send; empty: everybody. ``xnat`` is the address of an
    XNAT that visits are uploaded to when they are in the store; its password comes from where ``icf-utils xnat`` takes
    it.
    """

    called_ae: str
    study: str
    name: str = ""
    visit: str = "{study_key}"
    calling_ae: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    quiet: int = 30
    force: int = 0
    expected: int = 0
    workers: int = 1
    until: str = "catalog"
    timezone: str = "UTC"
    keep_input: bool = True
    allow_identifying: bool = False
    xnat: str = ""
    xnat_project: str = ""
    xnat_user: str = ""
    xnat_dest: str = "prearchive"

    @property
    def template(self) -> Template:
        """How a visit gets its identifier."""
        return Template(self.visit)

    @property
    def keywords(self) -> tuple[str, ...]:
        """The DICOM keywords that the template uses."""
        return tuple(name for name in self.template.fields if name not in FACTS)

    def admits(self, calling_ae: str, address: str) -> str:
        """Empty text where a sender may use the rule, else what is wrong with it: ``calling AE`` or ``address``."""
        if self.calling_ae and calling_ae not in self.calling_ae:
            return "calling AE"
        here = ipaddress.ip_address(address)
        mapped = here.ipv4_mapped if isinstance(here, ipaddress.IPv6Address) else None
        networks = [ipaddress.ip_network(text, strict=False) for text in self.addresses]
        return "address" if networks and not any((mapped or here) in network for network in networks) else ""


@dataclass(frozen=True)
class ReceiverSettings:
    """Everything that the file says: folders, ``[listen]`` and the rules in their order."""

    store: Path
    spool: Path
    listen: Listen
    rules: tuple[Rule, ...]


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
    _refuse_unknown(table, ("store", "spool", "listen", "rule"), "key", source)
    for name in ("store", "spool"):
        if not isinstance(table.get(name), str):
            raise InvalidSetting(source, f"'{name}' must be there, and name a folder")
    rules = table.get("rule", [])
    if not isinstance(rules, list) or not rules:
        raise InvalidSetting(source, "there is no rule: write [[rule]] on a line of its own, and its keys below")
    found = tuple(_rule(given, number, source) for number, given in enumerate(rules, 1))
    names = [rule.name for rule in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidSetting(source, f"several rules are called '{shown(twice[0])}': give each a 'name'")
    here = path.absolute().parent
    return ReceiverSettings(here / table["store"], here / table["spool"], _listen(table, here, source), found)


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
    where = f"[[rule]] number {number}"
    rule: Rule = _section(Rule, given, where, source)
    if not rule.name:
        rule = Rule(**{**{item.name: getattr(rule, item.name) for item in fields(Rule)}, "name": rule.called_ae})
    check_identifier("study", rule.study)
    _check_titles(rule, where, source)
    if rule.until not in _STAGES:
        raise InvalidSetting(source, f"{where} until: there is no stage '{shown(rule.until)}' ({', '.join(_STAGES)})")
    if min(rule.quiet, rule.workers) < 1 or min(rule.force, rule.expected) < 0:
        raise InvalidSetting(source, f"{where}: 'quiet' and 'workers' must be at least 1, 'force' and 'expected' 0")
    if wrong := [text for text in rule.addresses if not _is_network(text)]:
        raise InvalidSetting(source, f"{where} addresses: '{shown(wrong[0])}' is no address or network")
    _check_template(rule, where, source)
    if rule.xnat:
        xnat_target(rule)
    return rule


def xnat_target(rule: Rule) -> Target:
    """Where the rule's visits go in XNAT. Raises :class:`~icf_utils.errors.InvalidSetting`."""
    from icf_utils.xnat.values import Target

    if rule.xnat_dest == "prearchive":
        return Target(rule.xnat, rule.xnat_project)
    if rule.xnat_dest == "archive":
        return Target(rule.xnat, rule.xnat_project, "archive")
    raise InvalidSetting("xnat_dest", f"'{shown(rule.xnat_dest)}' is neither 'prearchive' nor 'archive'")


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _check_titles(rule: Rule, where: str, source: str) -> None:
    """AE titles: up to 16 characters of the default repertoire, without backslash (PS3.5 table 6.2-1)."""
    for title in (rule.called_ae, *rule.calling_ae):
        if not (0 < len(title) <= 16 and title.isascii() and title.isprintable() and "\\" not in title):
            raise InvalidSetting(source, f"{where}: '{shown(title)}' is no AE title")
        if title != title.strip():
            raise InvalidSetting(source, f"{where}: AE title '{shown(title)}' begins or ends with a space")


def _check_template(rule: Rule, where: str, source: str) -> None:
    keywords = [name for name in rule.template.fields if keyword_tag(name) is not None]
    parse_template(f"{source}: {where} visit", rule.visit, {*FACTS, *keywords})
    for keyword in rule.keywords:
        tag = keyword_tag(keyword)
        assert tag is not None
        if dictionary_vr(tag) in (None, "SQ", *BINARY_VRS):
            raise InvalidSetting(source, f"{where} visit: {keyword} has no plain value")
        if is_identifying(tag) and not rule.allow_identifying:
            raise InvalidSetting(
                source,
                f"{where} visit: {keyword} can identify a person ({TABLE}); use {{study_key}}, "
                "or say 'allow_identifying = true' in the rule",
            )


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
