"""The receiver's rules: what becomes of images for one called AE title, and what a rule may not say. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from icf_utils.dicom.confidential import TABLE, is_identifying
from icf_utils.dicom.values import BINARY_VRS, dictionary_vr, keyword_tag
from icf_utils.errors import InvalidIdentifier, InvalidSetting, shown
from icf_utils.intake.naming import Template, parse_template
from icf_utils.store import check_identifier

if TYPE_CHECKING:
    from icf_utils.xnat.values import Target

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

    def admits(self, calling_ae: str, address: str) -> str:
        """Empty text where a sender may use the rule, else what is wrong with it: ``calling AE`` or ``address``."""
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
    _check_titles(rule, where, source)
    if rule.until not in _STAGES:
        raise InvalidSetting(source, f"{where} until: there is no stage '{shown(rule.until)}' ({', '.join(_STAGES)})")
    if min(rule.quiet, rule.workers) < 1 or min(rule.force, rule.expected) < 0:
        raise InvalidSetting(source, f"{where}: 'quiet' and 'workers' must be at least 1, 'force' and 'expected' 0")
    if wrong := [text for text in rule.addresses if not _is_network(text)]:
        raise InvalidSetting(source, f"{where} addresses: '{shown(wrong[0])}' is no address or network")
    _check_template(rule, where, source)
    _check_time_zone(rule, where, source)
    _check_xnat(rule, where, source)


def _check_study(rule: Rule, where: str, source: str) -> None:
    try:
        check_identifier("study", rule.study)
    except InvalidIdentifier as error:
        raise InvalidSetting(source, f"{where}: {error}") from error


def _check_time_zone(rule: Rule, where: str, source: str) -> None:
    from icf_utils.archive.stage import zone_named

    try:
        zone_named(rule.timezone)
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
        if "*" in title:  # nobody is called so, and nobody would get in
            advice = "there are no patterns; leave 'calling_ae' out to let everybody send"
            raise InvalidSetting(source, f"{where}: '{shown(title)}' is taken as it is: {advice}")


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
