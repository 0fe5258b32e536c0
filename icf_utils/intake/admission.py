"""Who may open an association, and what is known of one that is open. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from icf_utils.intake.header import Sender
from icf_utils.intake.rules import Rule
from icf_utils.intake.sessions import AssociationState

#: Result, source and reason of a rejection (PS3.8 table 9-21).
BAD_CALLED, BAD_CALLING, NO_REASON, TOO_MANY, CONGESTION = (1, 1, 7), (1, 1, 3), (1, 1, 1), (2, 3, 2), (2, 3, 1)


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
