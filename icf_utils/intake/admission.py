"""Who may open an association: rules, and TLS. and what is known of it. Reads certificates."""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from icf_utils.errors import InvalidSetting
from icf_utils.intake.header import Sender
from icf_utils.intake.sessions import AssociationState
from icf_utils.intake.settings import Listen, Rule

#: Result, source and reason of a rejection (PS3.8 table 9-21).
BAD_CALLED, BAD_CALLING, NO_REASON, TOO_MANY = (1, 1, 7), (1, 1, 3), (1, 1, 1), (2, 3, 2)


@dataclass
class Connection:
    """What the receiver knows of an open association."""

    id: int
    rule: Rule
    sender: Sender
    counts: Counter[str] = field(default_factory=Counter)
    transfer_syntaxes: set[str] = field(default_factory=set)
    sessions: set[str] = field(default_factory=set)
    end: AssociationState | None = None
    is_changed: bool = False


def admit(rules: Sequence[Rule], sender: Sender) -> tuple[Rule | None, tuple[int, int, int], str]:
    """The first rule that lets a sender in; or how its association is rejected, and why in words. Pure."""
    called = [rule for rule in rules if rule.called_ae == sender.called_ae]
    objections = [rule.admits(sender.calling_ae, sender.address) for rule in called]
    for rule, objection in zip(called, objections, strict=True):
        if not objection:
            return rule, (0, 0, 0), ""
    if not called:
        return None, BAD_CALLED, "there is no rule for the called AE title"
    if "address" in objections:
        return None, NO_REASON, "the address is not among those of the rule"
    return None, BAD_CALLING, "the calling AE title is not among those of the rule"


def tls_context(listen: Listen) -> ssl.SSLContext | None:
    """TLS 1.2 and later, as the BCP 195 profiles of PS3.15 section B.9 ask for."""
    if not listen.certificate:
        return None
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(listen.certificate, listen.key)
        if listen.client_ca:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(listen.client_ca)
    except (OSError, ssl.SSLError) as error:
        raise InvalidSetting("[listen]", f"certificate, key or client_ca cannot be used ({error.strerror})") from error
    return context
