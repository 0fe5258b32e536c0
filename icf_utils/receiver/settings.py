"""The receiver's settings: a TOML file with ``store``, ``spool``, ``[listen]``, ``[http]`` and a ``[[rule]]`` for each
AE.

The dataclasses define keys, types, defaults and limits (see :mod:`icf_utils.settings`); relative paths are relative to
the file. All mistakes that the file shows are refused when it is loaded. :func:`check_machine` refuses what cannot work
on this machine, before the spool is touched: it reads the TLS files, and binds the address for a moment.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
import ssl
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar
from urllib.parse import urlsplit

from icf_utils.dicom.ae_titles import parse_ae_title
from icf_utils.dicom.confidentiality import TABLE, is_identifying
from icf_utils.dicom.values import UNCONVERTIBLE_VRS, dictionary_vr, tag_for_keyword
from icf_utils.errors import InvalidIdentifier, InvalidSetting, printable, storage_errors
from icf_utils.fetch.tls import server_context
from icf_utils.formatting import format_size
from icf_utils.settings import STAGE_NAMES, ProcessingSettings, build_settings, parse_toml, setting
from icf_utils.store.layout import check_identifier
from icf_utils.templates import Template, parse_template

if TYPE_CHECKING:
    from icf_utils.xnat.model import UploadTarget


@dataclass(frozen=True)
class Listen:
    """``[listen]``: the address of the receiver, and its limits. ``timeout`` is in seconds, ``max_pdu`` in bytes.

    ``min_rate`` is the slowest rate of an image, in bytes a second, as long as this side waits for the sender.
    ``keep_associations`` are the days for which the journal has an association, ``keep_sessions`` those for which it
    has a session whose files were removed (0: for ever). ``reserve`` is the space that stays free on the spool's disk,
    in megabytes. ``low_space``, in megabytes, is what is reported as an event if less is free on the disks of spool or
    store. ``retry`` is the number of seconds after which a session is retried that failed because a disk was full or
    a folder could not be used; the pause doubles each time, up to an hour (0: no retry).
    With ``client_ca``, senders must present a certificate. ``durable = false`` answers before images are on the disk,
    for measurements only.
    """

    host: str = "127.0.0.1"
    port: int = setting(11112, least=0, most=65535)
    max_associations: int = setting(32, least=1)
    max_per_address: int = setting(0, least=0)
    max_pdu: int = setting(131072, least=4096, most=1 << 24)
    timeout: int = setting(60, least=1)
    min_rate: int = setting(1000, least=0)
    reserve: int = setting(1024, least=0)
    low_space: int = setting(0, least=0)
    retry: int = setting(60, least=0, most=3600)
    keep_associations: int = setting(365, least=1)
    keep_sessions: int = setting(3650, least=0)
    workers: int = setting(1, least=1)
    certificate: str = ""
    key: str = ""
    client_ca: str = ""
    durable: bool = True

    @property
    def associations_per_address(self) -> int:
        """How many associations of one address may be open. By default a quarter of all is left to others."""
        return min(self.max_per_address or self.max_associations - self.max_associations // 4, self.max_associations)

    @property
    def low_space_bytes(self) -> int:
        """Free space below which an event is reported, in bytes; by default twice the reserve."""
        return (self.low_space or 2 * self.reserve) * 1_000_000


@dataclass(frozen=True)
class Http:
    """``[http]``: limits of uploaded zips in megabytes, as they are and unpacked."""

    upload_limit: int = setting(16_000, least=1)
    unpacked_limit: int = setting(64_000, least=1)


#: What can be reported to a program or a web server. The first four are states of sessions.
EVENT_KINDS = ("success", "partial", "failed", "held", "refused", "low-space", "send-failed", "rejected")


@dataclass(frozen=True)
class EventSettings:
    """``[[event]]``: where events are reported: a web server at ``url``, or a program by its ``command``.

    ``on`` has kinds of events, ``rules`` the names of the rules whose sessions are reported (empty: all). The key that
    signs requests is in the file ``secret_file``, or in the environment variable ``secret_variable``. ``timeout`` is in
    seconds, ``ca`` a file with trusted CA certificates.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("name",)

    name: str
    url: str = ""
    command: tuple[str, ...] = ()
    on: tuple[str, ...] = EVENT_KINDS[:7]
    rules: tuple[str, ...] = ()
    secret_file: str = ""
    secret_variable: str = ""
    timeout: int = setting(10, least=1, most=600)
    attempts: int = setting(30, least=1)
    ca: str = ""


#: Values of ``keep_input`` other than a number of days (``7d``), in days.
_KEEP_WORDS = {"always": inf, "never": 0.0}

#: The fields of the templates of labels in XNAT that are not DICOM keywords.
VISIT_FIELDS = ("study", "visit")

#: The fields of a visit's template that are not DICOM keywords.
ASSOCIATION_FIELDS = ("called_ae", "calling_ae", "address", "study_key")


@dataclass(frozen=True)
class Target:
    """``[[rule.send]]``: a DICOM node or an XNAT to which files of a session are sent when it has ended.

    ``when`` is the session's state, ``where`` has patterns for elements, as a rule's. ``xnat`` is the address of an
    XNAT, in place of a node; its other keys are those of a rule, and ``xnat_session`` has ``{processing}`` in addition.
    ``alternative_to`` names the target in whose place this one is used when that has failed.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("name",)

    name: str
    host: str = ""
    called_ae: str = ""
    port: int = setting(104, least=1, most=65535)
    calling_ae: str = "ICF-UTILS"
    when: str = setting("success", choices=("success", "partial", "failed", "always"))
    what: str = setting("output", choices=("output", "input"))
    where: Mapping[str, str] = field(default_factory=dict)
    alternative_to: str = ""
    attempts: int = setting(10, least=1)
    tls: bool = False
    ca: str = ""
    certificate: str = ""
    key: str = ""
    xnat: str = ""
    xnat_project: str = ""
    xnat_user: str = ""
    xnat_dest: str = setting("prearchive", choices=("prearchive", "archive"))
    xnat_subject: str = "{visit}"
    xnat_session: str = ""


@dataclass(frozen=True)
class Rule:
    """``[[rule]]``: what is done with the images that fit it. Times are in seconds.

    AE titles and the values of ``where`` are patterns: ``*`` is any text, ``?`` one character. ``calling_ae`` and
    ``addresses`` (or networks) say who may send; empty means everybody. ``where`` has patterns of header values by
    DICOM keywords. ``study`` and ``visit`` are templates. ``late`` says what becomes of images that arrive after their
    visit was archived: its next ``version``, a ``separate`` visit, or ``hold`` them until they are released.
    ``force`` and ``expected`` are not used if they are 0.
    ``process`` names processings that are run when the visit has its metadata; ``arguments`` names an element of the
    images, by keyword or tag, that has words for them. ``xnat`` is the address of an XNAT to
    which visits are uploaded when they are in the store; its password comes from where ``icf-utils xnat`` takes it.
    ``xnat_subject`` and ``xnat_session`` are the templates of their labels there; their fields are ``study``,
    ``visit`` and DICOM keywords.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("name", "called_ae")

    called_ae: str
    study: str
    name: str = ""
    visit: str = "{study_key}"
    calling_ae: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    where: Mapping[str, str] = field(default_factory=dict)
    quiet: int = setting(30, least=1)
    force: int = setting(0, least=0)
    expected: int = setting(0, least=0)
    late: str = setting("version", choices=("version", "separate", "hold"))
    workers: int = setting(1, least=1)
    until: str = setting("catalog", choices=STAGE_NAMES[1:])
    process: tuple[str, ...] = ()
    arguments: str = ""
    timezone: str = "UTC"
    keep_input: str = "always"
    allow_identifying: bool = False
    xnat: str = ""
    xnat_project: str = ""
    xnat_user: str = ""
    xnat_dest: str = setting("prearchive", choices=("prearchive", "archive"))
    xnat_subject: str = "{visit}"
    xnat_session: str = "{study}_{visit}"
    send: tuple[Target, ...] = ()

    @property
    def template(self) -> Template:
        """The template of visit identifiers."""
        return Template(self.visit)

    @property
    def input_days(self) -> float:
        """Days for which the received files are kept after success; infinite for ``always``."""
        if self.keep_input in _KEEP_WORDS:
            return _KEEP_WORDS[self.keep_input]
        return float(self.keep_input.removesuffix("d"))

    @property
    def study_template(self) -> Template:
        """The template of study identifiers."""
        return Template(self.study)

    @property
    def keywords(self) -> tuple[str, ...]:
        """The DICOM keywords that the templates use."""
        found = (*self.study_template.fields, *self.template.fields)
        return tuple(dict.fromkeys(name for name in found if name not in ASSOCIATION_FIELDS))

    def mismatch(self, calling_ae: str, address: str) -> str:
        """Which condition of the rule a sender does not meet: ``calling AE``, ``address``, or empty for none."""
        if self.calling_ae and not any(fits(pattern, calling_ae) for pattern in self.calling_ae):
            return "calling AE"
        here = ipaddress.ip_address(address)
        mapped = here.ipv4_mapped if isinstance(here, ipaddress.IPv6Address) else None
        networks = [ipaddress.ip_network(text, strict=False) for text in self.addresses]
        return "address" if networks and not any((mapped or here) in network for network in networks) else ""


def fits(pattern: str, text: str) -> bool:
    """Whether a text fits a pattern, in which ``*`` is any text and ``?`` one character.

    >>> fits("CT*", "CT1"), fits("CT?", "CT"), fits("[A]", "A")
    (True, False, False)
    """
    return _expression(pattern).fullmatch(text) is not None


@lru_cache(maxsize=1024)
def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)


@dataclass(frozen=True)
class CommitmentPeer:
    """``[[commitment]]``: where a sender, by its AE title or a pattern, takes reports on storage commitment.

    ``host`` is by default the address that the request came from.
    """

    LABELS: ClassVar[tuple[str, ...]] = ("calling_ae",)

    calling_ae: str
    host: str = ""
    port: int = setting(104, least=1, most=65535)
    tls: bool = False
    ca: str = ""
    certificate: str = ""
    key: str = ""


#: A DICOM node that this receiver calls.
_Node = TypeVar("_Node", Target, CommitmentPeer)


@dataclass(frozen=True)
class ReceiverFile:
    """The content of the receiver's settings file."""

    store: str
    spool: str
    rule: tuple[Rule, ...]
    listen: Listen = field(default_factory=Listen)
    http: Http = field(default_factory=Http)
    processing: tuple[ProcessingSettings, ...] = ()
    event: tuple[EventSettings, ...] = ()
    commitment: tuple[CommitmentPeer, ...] = ()


@dataclass(frozen=True)
class ReceiverSettings:
    """The settings, with absolute paths and the rules in their order. ``source`` is the file, for messages."""

    store: Path
    spool: Path
    listen: Listen
    rules: tuple[Rule, ...]
    http: Http = field(default_factory=Http)
    source: str = "settings"
    processing: tuple[ProcessingSettings, ...] = ()
    events: tuple[EventSettings, ...] = ()
    commitment: tuple[CommitmentPeer, ...] = ()


def load_receiver_settings(path: Path) -> ReceiverSettings:
    """Load the settings from a file.

    Raises :class:`~icf_utils.errors.InvalidSetting` and :class:`~icf_utils.errors.StorageFailure`.
    """
    with storage_errors(path, "read"):
        raw = path.read_bytes()
    return parse_receiver_settings(raw, path)


def parse_receiver_settings(raw: bytes, path: Path) -> ReceiverSettings:
    """Parse the content of the file at ``path``. Raises :class:`~icf_utils.errors.InvalidSetting`."""
    source, here = str(path), path.absolute().parent
    file = build_settings(ReceiverFile, parse_toml(raw, source), source)
    store, spool = _folders(file, here, source)
    rules = tuple(_checked_rule(_with_paths(rule, here), number, source) for number, rule in enumerate(file.rule, 1))
    names = [rule.name for rule in rules]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidSetting(source, f"several rules are called '{printable(twice[0])}': give each a 'name'")
    return ReceiverSettings(
        store=store,
        spool=spool,
        listen=_listen(file.listen, here, source),
        rules=rules,
        http=file.http,
        source=source,
        processing=file.processing,
        events=_checked_events(file.event, names, here, source),
        commitment=tuple(_with_own_paths(peer, here) for peer in file.commitment),
    )


def _checked_events(
    given: Sequence[EventSettings], rules: Collection[str], here: Path, source: str
) -> tuple[EventSettings, ...]:
    """The targets of events with absolute paths. Raises :class:`~icf_utils.errors.InvalidSetting`."""
    names = [target.name for target in given]
    for target in given:
        where = f"[[event]] '{printable(target.name)}'"
        if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9._-]{0,63}", target.name) or names.count(target.name) > 1:
            raise InvalidSetting(source, f"{where}: give each a different name, of letters, digits, '.', '_' and '-'")
        if problem := event_problem(target, rules):
            raise InvalidSetting(source, f"{where} {problem}")
    return tuple(
        replace(
            target,
            secret_file=str(here / target.secret_file) if target.secret_file else "",
            ca=str(here / target.ca) if target.ca else "",
            command=_absolute_command(target.command, here),
        )
        for target in given
    )


def event_problem(target: EventSettings, rules: Collection[str]) -> str:
    """What is wrong with a target of events, with the key; empty if nothing is. ``rules`` are the known ones. Pure."""
    if bool(target.url) == bool(target.command):
        return "needs either 'url' or 'command'"
    if wrong := [kind for kind in target.on if kind not in EVENT_KINDS]:
        return f"on: expected some of {', '.join(EVENT_KINDS)}, found '{printable(wrong[0])}'"
    if wrong := [name for name in target.rules if name not in rules]:
        return f"rules: no rule '{printable(wrong[0])}'"
    return _program_problem(target) if target.command else _server_problem(target)


def _program_problem(target: EventSettings) -> str:
    given = [key for key in ("secret_file", "secret_variable", "ca") if getattr(target, key)]
    if given:
        return f"{given[0]}: is for 'url' only"
    return "" if target.command[0] else "command: it is empty"


def _server_problem(target: EventSettings) -> str:
    if bool(target.secret_file) == bool(target.secret_variable):
        return "needs the key that signs requests: either 'secret_file' or 'secret_variable'"
    if target.secret_variable and not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", target.secret_variable):
        return "secret_variable: expected the name of an environment variable"
    return _event_url_problem(target.url)


def _event_url_problem(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_web, has_login = parts.scheme in ("http", "https") and bool(parts.hostname), "@" in parts.netloc
        _ = parts.port
    except ValueError:
        is_web, has_login = False, False
    if not is_web or parts.fragment:
        return "url: expected an address such as https://host.org/events"
    return "url: leave out user and password; requests are signed with the key" if has_login else ""


def _absolute_command(command: tuple[str, ...], here: Path) -> tuple[str, ...]:
    """The command with a program that is given as a path, such as ``./notify``, relative to the settings file."""
    return (str(here / command[0]), *command[1:]) if command and "/" in command[0] else command


def _folders(file: ReceiverFile, here: Path, source: str) -> tuple[Path, Path]:
    """Store and spool; neither may be inside the other, even through links, since each would treat the other's files
    as its own.
    """
    for name in ("store", "spool"):
        if not getattr(file, name).strip():
            raise InvalidSetting(source, f"'{name}' must be a folder")
    store, spool = here / file.store, here / file.spool
    real = {name: Path(os.path.realpath(folder)) for name, folder in (("store", store), ("spool", spool))}
    if real["store"] == real["spool"]:
        raise InvalidSetting(source, "'store' and 'spool' are the same folder; they must differ")
    for inner, outer in (("store", "spool"), ("spool", "store")):
        if real[inner].is_relative_to(real[outer]):
            raise InvalidSetting(source, f"'{inner}' is inside '{outer}'; neither may be inside the other")
    return store, spool


def _listen(listen: Listen, here: Path, source: str) -> Listen:
    """The section with its paths made absolute."""
    if bool(listen.certificate) != bool(listen.key) or (listen.client_ca and not listen.key):
        raise InvalidSetting(source, "[listen] TLS needs both 'certificate' and 'key'; 'client_ca' requires them")
    given = (listen.certificate, listen.key, listen.client_ca)
    certificate, key, client_ca = (str(here / text) if text else "" for text in given)
    return replace(listen, certificate=certificate, key=key, client_ca=client_ca)


def _with_paths(rule: Rule, here: Path) -> Rule:
    """The rule with the TLS files of its targets made absolute."""
    return replace(rule, send=tuple(_with_own_paths(target, here) for target in rule.send))


def _with_own_paths(node: _Node, here: Path) -> _Node:
    """A node with its TLS files made absolute."""
    ca, certificate, key = (str(here / name) if name else "" for name in (node.ca, node.certificate, node.key))
    return replace(node, ca=ca, certificate=certificate, key=key)


def _checked_rule(rule: Rule, number: int, source: str) -> Rule:
    where = f"[[rule]] number {number} ({printable(rule.name or rule.called_ae)})"
    rule = _with_titles(rule, where, source)
    check_rule(rule, where, source)
    return rule


def check_rule(rule: Rule, where: str, source: str) -> None:
    """Refuse a rule that cannot work. Raises :class:`~icf_utils.errors.InvalidSetting`.

    ``source`` is the file and ``where`` the rule's place in it, for the message.
    """
    _check_study(rule, where, source)
    if wrong := [text for text in rule.addresses if not _is_network(text)]:
        raise InvalidSetting(source, f"{where} addresses: '{printable(wrong[0])}' is not an IP address or network")
    _check_template(rule, where, source, "visit", rule.visit)
    if rule.keep_input not in _KEEP_WORDS and not re.fullmatch("[1-9][0-9]{0,4}d", rule.keep_input, re.ASCII):
        problem = f"expected 'always', 'never' or days such as '7d', found '{printable(rule.keep_input)}'"
        raise InvalidSetting(source, f"{where} keep_input: {problem}")
    if wrong := [keyword for keyword in rule.where if tag_for_keyword(keyword) is None]:
        raise InvalidSetting(source, f"{where} where: '{printable(wrong[0])}' is not a DICOM keyword")
    _check_time_zone(rule, where, source)
    _check_xnat(rule, where, source)
    _check_arguments(rule, where, source)
    _check_targets(rule, where, source)


def _check_targets(rule: Rule, where: str, source: str) -> None:
    names = [target.name for target in rule.send]
    for target in rule.send:
        place = f"{where} [[send]] '{printable(target.name)}'"
        if names.count(target.name) > 1 or not target.name:
            raise InvalidSetting(source, f"{place}: give each target a different name")
        others = names[: names.index(target.name)]
        if target.alternative_to and target.alternative_to not in others:
            raise InvalidSetting(source, f"{place} alternative_to: expected the name of a target above it")
        if target.what == "output" and not rule.process:
            raise InvalidSetting(source, f"{place} what: 'output' requires 'process' in the rule")
        for keyword in target.where:
            if tag_for_keyword(keyword) is None:
                raise InvalidSetting(source, f"{place} where: '{printable(keyword)}' is not a DICOM keyword")
        try:
            _check_address(target)
        except InvalidSetting as error:
            raise InvalidSetting(
                source, f"{place} {_XNAT_KEYS.get(error.source, error.source)}: {error.problem}"
            ) from error


def _check_address(target: Target) -> None:
    """Refuse a target that is not either a DICOM node or an XNAT. Raises :class:`~icf_utils.errors.InvalidSetting`."""
    from icf_utils.sender.peer import Peer
    from icf_utils.xnat.labels import LABEL

    of_node = [name for name in ("host", "called_ae", "tls", "where") if getattr(target, name)]
    of_xnat = [name for name in ("xnat_project", "xnat_user", "xnat_session") if getattr(target, name)]
    if not target.xnat:
        if of_xnat:
            raise InvalidSetting(of_xnat[0], "requires 'xnat', the address of an XNAT")
        Peer(target.host, target.port, target.called_ae, target.calling_ae)
        return
    if of_node:
        raise InvalidSetting(of_node[0], "cannot be combined with 'xnat'")
    xnat_target(target)
    for key in ("xnat_subject", "xnat_session"):
        if text := getattr(target, key):  # without 'xnat_session', the label depends on 'what'
            parse_template(key, text, TARGET_FIELDS, LABEL)


def _check_study(rule: Rule, where: str, source: str) -> None:
    if rule.study_template.fields:
        _check_template(rule, where, source, "study", rule.study)
        return
    try:
        check_identifier("study", rule.study)
    except InvalidIdentifier as error:
        raise InvalidSetting(source, f"{where}: {error}") from error


_ELEMENT = re.compile(r"([0-9A-Fa-f]{4}),([0-9A-Fa-f]{4})", re.ASCII)


def parse_element(name: str) -> int | None:
    """The tag of a DICOM keyword or of ``gggg,eeee``, which may be private; ``None`` for other text.

    >>> hex(parse_element("0099,1010") or 0), parse_element("Other")
    ('0x991010', None)
    """
    found = _ELEMENT.fullmatch(name)
    return int(found[1] + found[2], 16) if found else tag_for_keyword(name)


def _check_arguments(rule: Rule, where: str, source: str) -> None:
    tag = parse_element(rule.arguments) if rule.arguments else 0
    if tag is None:
        problem = f"expected a DICOM keyword or a tag such as '0099,1010', found '{printable(rule.arguments[:64])}'"
        raise InvalidSetting(source, f"{where} arguments: {problem}")
    if tag and not rule.allow_identifying and is_identifying(tag):
        problem = f"{rule.arguments} can identify a person ({TABLE}), and arguments are in the provenance of outputs"
        raise InvalidSetting(source, f"{where} arguments: {problem}; set 'allow_identifying = true' in the rule")


def _check_time_zone(rule: Rule, where: str, source: str) -> None:
    from icf_utils.archive.stage import parse_time_zone

    try:
        parse_time_zone(rule.timezone)
    except InvalidSetting as error:  # it names the option of a command
        raise InvalidSetting(source, f"{where} timezone: {error.problem}") from error


def _check_xnat(rule: Rule, where: str, source: str) -> None:
    if not rule.xnat:
        given = [name for name in ("xnat_project", "xnat_user") if getattr(rule, name)]
        given += [name for name in ("xnat_subject", "xnat_session") if getattr(rule, name) != getattr(Rule, name)]
        if given:
            raise InvalidSetting(source, f"{where} {given[0]}: requires 'xnat', the address of an XNAT")
        return
    try:
        xnat_target(rule)
    except InvalidSetting as error:  # it names the options of a command
        problem = error.problem
        if error.source == "--url":
            problem = "expected an address such as https://xnat.org, without user, password and query"
        raise InvalidSetting(source, f"{where} {_XNAT_KEYS.get(error.source, error.source)}: {problem}") from error
    for key in ("xnat_subject", "xnat_session"):
        _check_label_template(rule, key, where, source)


def _check_label_template(rule: Rule, key: str, where: str, source: str) -> None:
    """Refuse a template of a label in XNAT that has unknown fields, or values that are not allowed in names."""
    from icf_utils.xnat.labels import LABEL

    template = Template(getattr(rule, key))
    keywords = [name for name in template.fields if tag_for_keyword(name) is not None]
    parse_template(f"{source}: {where} {key}", template.text, {*VISIT_FIELDS, *keywords}, LABEL)
    _check_keywords(rule, keywords, f"{where} {key}", source)


#: Options of ``icf-utils xnat``, and the keys that correspond to them.
_XNAT_KEYS = {"--url": "xnat", "--project": "xnat_project"}


#: The fields of a target's labels in XNAT.
TARGET_FIELDS = frozenset({"study", "visit", "processing"})


def xnat_target(rule: Rule | Target) -> UploadTarget:
    """Where a rule's visits or a target's files are uploaded. Raises :class:`~icf_utils.errors.InvalidSetting`."""
    from icf_utils.xnat.model import UploadTarget

    return UploadTarget(rule.xnat, rule.xnat_project, "archive" if rule.xnat_dest == "archive" else "prearchive")


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _with_titles(rule: Rule, where: str, source: str) -> Rule:
    """The rule with a name, and with AE titles without padding."""
    try:
        called = parse_ae_title("called_ae", rule.called_ae)
        calling = tuple(parse_ae_title("calling_ae", title) for title in rule.calling_ae)
    except InvalidSetting as error:
        raise InvalidSetting(source, f"{where} {error.source}: {error.problem}") from error
    return replace(rule, name=rule.name or called, called_ae=called, calling_ae=calling)


def _check_template(rule: Rule, where: str, source: str, key: str, text: str) -> None:
    keywords = [name for name in Template(text).fields if tag_for_keyword(name) is not None]
    parse_template(f"{source}: {where} {key}", text, {*ASSOCIATION_FIELDS, *keywords})
    _check_keywords(rule, keywords, f"{where} {key}", source)


def _check_keywords(rule: Rule, keywords: Collection[str], where: str, source: str) -> None:
    """Refuse keywords whose values cannot be part of a name, or can identify a person without permission."""
    for keyword in keywords:
        tag = tag_for_keyword(keyword)
        assert tag is not None
        if dictionary_vr(tag) in (None, "SQ", *UNCONVERTIBLE_VRS):
            raise InvalidSetting(source, f"{where}: {keyword} has no value that a text can contain")
        if is_identifying(tag) and not rule.allow_identifying:
            raise InvalidSetting(
                source,
                f"{where}: {keyword} can identify a person ({TABLE}); use {{study_key}}, "
                "or set 'allow_identifying = true' in the rule",
            )


def check_machine(settings: ReceiverSettings) -> None:
    """Refuse TLS files that cannot be used, a disk that can take no image, and an address of another machine.

    An address that is in use is not a mistake: a receiver may be running with these settings. Raises
    :class:`~icf_utils.errors.InvalidSetting`.
    """
    tls_context(settings.listen, settings.source)
    _check_disk(settings)
    listen = settings.listen
    try:
        family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((listen.host, listen.port))
    except (OSError, UnicodeError) as error:  # a UnicodeError for a malformed host name
        if getattr(error, "errno", None) != errno.EADDRINUSE:
            raise cannot_listen(settings, error) from error


def _check_disk(settings: ReceiverSettings) -> None:
    """Refuse a reserve that the spool's disk could not keep free even without any file."""
    disk, reserve = _spool_disk(settings), settings.listen.reserve * 1_000_000
    size = disk.f_blocks * disk.f_frsize
    if size <= reserve:
        kept = f"{format_size(reserve)} of the spool's disk are to stay free, and it has only {format_size(size)}"
        raise InvalidSetting(settings.source, f"[listen] reserve: {kept}, so that no image could be taken; set less")


def lack_of_space(settings: ReceiverSettings) -> str:
    """A warning if a receiver with these settings would refuse every image now; else empty."""
    disk, reserve = _spool_disk(settings), settings.listen.reserve * 1_000_000
    free = disk.f_bavail * disk.f_frsize
    if free > reserve:
        return ""
    found = f"{format_size(free)} of the spool's disk are free, and {format_size(reserve)} must stay free"
    return f"no image would be taken now: {found}"


def _spool_disk(settings: ReceiverSettings) -> os.statvfs_result:
    """The disk of the spool, which need not exist yet."""
    spool = settings.spool.absolute()
    return os.statvfs(next(folder for folder in (spool, *spool.parents) if folder.is_dir()))


def cannot_listen(settings: ReceiverSettings, error: Exception) -> InvalidSetting:
    """The error for an address at which the receiver cannot listen."""
    listen, reason = settings.listen, getattr(error, "strerror", None) or error
    return InvalidSetting(
        settings.source, f"[listen] host, port: cannot listen at {printable(listen.host)}:{listen.port} ({reason})"
    )


def tls_context(listen: Listen, source: str) -> ssl.SSLContext | None:
    """The TLS context of the receiver; ``None`` without a certificate. Raises ``InvalidSetting``."""
    if not listen.certificate:
        return None
    for name in ("certificate", "key", "client_ca"):
        _check_readable(name, getattr(listen, name), source)
    try:
        return server_context(listen.certificate, listen.key, listen.client_ca)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
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
