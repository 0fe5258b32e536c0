"""The receiver's settings: a TOML file of its own, with a table for each rule. Reads that one file.

All mistakes that can be seen in it are refused before anything listens.


The receiver's rules: what becomes of images for one called AE title, and what a rule may not say. Pure.

What can be seen of a receiver's settings on this machine before anything is received.

Reads certificates, and takes the address for a moment.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import ssl
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from icf_utils.dicom.ae_titles import parse_ae_title
from icf_utils.dicom.confidentiality import TABLE, is_identifying
from icf_utils.dicom.values import UNCONVERTIBLE_VRS, dictionary_vr, tag_for_keyword
from icf_utils.errors import InvalidIdentifier, InvalidSetting, printable, storage_errors
from icf_utils.fetch.tls import server_context
from icf_utils.store.layout import check_identifier
from icf_utils.templates import Template, parse_template

if TYPE_CHECKING:
    from icf_utils.xnat.model import UploadTarget


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
        raise InvalidSetting(source, f"several rules are called '{printable(twice[0])}': give each a 'name'")
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
    where = f"[[rule]] number {number}" + (f" ({printable(called)})" if isinstance(called, str) else "")
    rule: Rule = _section(Rule, given, where, source)
    rule = _with_titles(rule, where, source)
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
        raise InvalidSetting(
            source, f"unknown {kind}: {', '.join(map(printable, unknown))} (known: {', '.join(known)})"
        )


#: What a visit's template may use beside DICOM keywords.
FACTS = ("called_ae", "calling_ae", "address", "study_key")

_STAGES = ("metadata", "dataset", "catalog")


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

    def mismatch(self, calling_ae: str, address: str) -> str:
        """Which condition of the rule a sender does not meet: ``calling AE``, ``address``, or empty for none."""
        if self.calling_ae and calling_ae not in self.calling_ae:
            return "calling AE"
        here = ipaddress.ip_address(address)
        mapped = here.ipv4_mapped if isinstance(here, ipaddress.IPv6Address) else None
        networks = [ipaddress.ip_network(text, strict=False) for text in self.addresses]
        return "address" if networks and not any((mapped or here) in network for network in networks) else ""


def check_rule(rule: Rule, where: str, source: str) -> None:
    """Refuse a rule that no visit could be made by. Raises :class:`~icf_utils.errors.InvalidSetting`.

    ``source`` is the file and ``where`` the rule's place in it, for the message.
    """
    _check_study(rule, where, source)
    if rule.until not in _STAGES:
        raise InvalidSetting(
            source, f"{where} until: there is no stage '{printable(rule.until)}' ({', '.join(_STAGES)})"
        )
    if min(rule.quiet, rule.workers) < 1 or min(rule.force, rule.expected) < 0:
        raise InvalidSetting(source, f"{where}: 'quiet' and 'workers' must be at least 1, 'force' and 'expected' 0")
    if wrong := [text for text in rule.addresses if not _is_network(text)]:
        raise InvalidSetting(source, f"{where} addresses: '{printable(wrong[0])}' is no address or network")
    _check_template(rule, where, source)
    _check_time_zone(rule, where, source)
    _check_xnat(rule, where, source)


def _check_study(rule: Rule, where: str, source: str) -> None:
    try:
        check_identifier("study", rule.study)
    except InvalidIdentifier as error:
        raise InvalidSetting(source, f"{where}: {error}") from error


def _check_time_zone(rule: Rule, where: str, source: str) -> None:
    from icf_utils.archive.stage import parse_time_zone

    try:
        parse_time_zone(rule.timezone)
    except InvalidSetting as error:  # it names the option of a command
        raise InvalidSetting(source, f"{where} timezone: {error.problem}") from error


def _check_xnat(rule: Rule, where: str, source: str) -> None:
    if not rule.xnat:
        lonely = [name for name in ("xnat_project", "xnat_user") if getattr(rule, name)]
        if lonely:
            raise InvalidSetting(source, f"{where} {lonely[0]}: this goes with 'xnat', the address of an XNAT")
        return
    try:
        xnat_target(rule)
    except InvalidSetting as error:  # it names the options of a command
        problem = error.problem
        if error.source == "--url":
            problem = "expected an address such as https://xnat.org, without user, password and query"
        raise InvalidSetting(source, f"{where} {_XNAT_KEYS.get(error.source, error.source)}: {problem}") from error


#: Options of the commands about XNAT, and the keys that stand for them here.
_XNAT_KEYS = {"--url": "xnat", "--project": "xnat_project"}


def xnat_target(rule: Rule) -> UploadTarget:
    """Where the rule's visits go in XNAT. Raises :class:`~icf_utils.errors.InvalidSetting`."""
    from icf_utils.xnat.model import UploadTarget

    if rule.xnat_dest == "prearchive":
        return UploadTarget(rule.xnat, rule.xnat_project)
    if rule.xnat_dest == "archive":
        return UploadTarget(rule.xnat, rule.xnat_project, "archive")
    raise InvalidSetting("xnat_dest", f"'{printable(rule.xnat_dest)}' is neither 'prearchive' nor 'archive'")


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _with_titles(rule: Rule, where: str, source: str) -> Rule:
    """The rule with its AE titles without padding, and with a name."""
    try:
        called = parse_ae_title("called_ae", rule.called_ae)
        calling = tuple(parse_ae_title("calling_ae", title) for title in rule.calling_ae)
    except InvalidSetting as error:
        raise InvalidSetting(source, f"{where} {error.source}: {error.problem}") from error
    if "*" in calling:  # a title like any other, but meant as a pattern, and nobody would get in
        advice = "there are no patterns; leave 'calling_ae' out to let everybody send"
        raise InvalidSetting(source, f"{where} calling_ae: '*' is taken literally: {advice}")
    return replace(rule, name=rule.name or called, called_ae=called, calling_ae=calling)


def _check_template(rule: Rule, where: str, source: str) -> None:
    keywords = [name for name in rule.template.fields if tag_for_keyword(name) is not None]
    parse_template(f"{source}: {where} visit", rule.visit, {*FACTS, *keywords})
    for keyword in rule.keywords:
        tag = tag_for_keyword(keyword)
        assert tag is not None
        if dictionary_vr(tag) in (None, "SQ", *UNCONVERTIBLE_VRS):
            raise InvalidSetting(source, f"{where} visit: {keyword} has no plain value")
        if is_identifying(tag) and not rule.allow_identifying:
            raise InvalidSetting(
                source,
                f"{where} visit: {keyword} can identify a person ({TABLE}); use {{study_key}}, "
                "or say 'allow_identifying = true' in the rule",
            )


def check_machine(settings: ReceiverSettings) -> None:
    """Refuse TLS files that cannot be used, and an address that nobody could listen at.

    An address that is in use is none of the settings' faults: a receiver may run by them. Raises
    :class:`~icf_utils.errors.InvalidSetting`.
    """
    tls_context(settings.listen, settings.source)
    listen = settings.listen
    try:
        family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((listen.host, listen.port))
    except (OSError, UnicodeError) as error:  # of a name that is no host's, too
        if getattr(error, "errno", None) != errno.EADDRINUSE:
            raise cannot_listen(settings, error) from error


def cannot_listen(settings: ReceiverSettings, error: Exception) -> InvalidSetting:
    """Why there is no listening at the settings' address."""
    listen, reason = settings.listen, getattr(error, "strerror", None) or error
    return InvalidSetting(
        settings.source, f"[listen] host, port: cannot listen at {printable(listen.host)}:{listen.port} ({reason})"
    )


def tls_context(listen: Listen, source: str) -> ssl.SSLContext | None:
    """TLS 1.2 and later, as the BCP 195 profiles of PS3.15 section B.9 ask for; ``None`` without a certificate."""
    if not listen.certificate:
        return None
    for name in ("certificate", "key", "client_ca"):
        _check_readable(name, getattr(listen, name), source)
    try:
        return server_context(listen.certificate, listen.key, listen.client_ca)
    except (OSError, ValueError) as error:  # an SSLError is the former
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        problem = f"[listen] certificate, key or client_ca cannot be used ({reason})"
        raise InvalidSetting(source, problem) from error


def _check_readable(name: str, path: str, source: str) -> None:
    if not path:
        return
    try:
        with open(path, "rb") as file:
            os.fstat(file.fileno())
    except OSError as error:
        problem = f"[listen] {name}: cannot read '{printable(path)}' ({error.strerror})"
        raise InvalidSetting(source, problem) from error
