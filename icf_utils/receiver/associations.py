"""Which associations are admitted, and what is known of an open one. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from icf_utils.receiver.identify import Sender
from icf_utils.receiver.model import AssociationState
from icf_utils.receiver.settings import Rule

#: Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21).
ResultCodes = tuple[int, int, int]

_CALLED_TITLE: ResultCodes = (1, 1, 7)
_CALLING_TITLE: ResultCodes = (1, 1, 3)
_NO_REASON: ResultCodes = (1, 1, 1)
_LIMIT_EXCEEDED: ResultCodes = (2, 3, 2)
_CONGESTION: ResultCodes = (2, 3, 1)


@dataclass(frozen=True)
class AssociationRejection:
    """Why an association is rejected: as codes for the peer, and in words for the log."""

    codes: ResultCodes
    reason: str


TOO_MANY = AssociationRejection(_LIMIT_EXCEEDED, "too many associations are open")


@dataclass
class OpenAssociation:
    """An admitted association. ``id`` is its number in the journal; ``end`` is set when its end is known.

    ``has_changed`` says that counts, transfer syntaxes or sessions are not in the journal yet.
    """

    id: int
    rule: Rule
    sender: Sender
    counts: Counter[str] = field(default_factory=Counter)
    transfer_syntaxes: set[str] = field(default_factory=set)
    sessions: set[str] = field(default_factory=set)
    end: AssociationState | None = None
    has_changed: bool = False


def admit_association(rules: Sequence[Rule], sender: Sender) -> Rule | AssociationRejection:
    """The first rule that admits a sender, or why none does."""
    called = [rule for rule in rules if rule.called_ae == sender.called_ae]
    mismatches = [rule.mismatch(sender.calling_ae, sender.address) for rule in called]
    for rule, mismatch in zip(called, mismatches, strict=True):
        if not mismatch:
            return rule
    if not called:
        return AssociationRejection(_CALLED_TITLE, "no rule has this called AE title")
    if "address" in mismatches:
        return AssociationRejection(_NO_REASON, "the address is not among those of the rule")
    return AssociationRejection(_CALLING_TITLE, "the calling AE title is not among those of the rule")


def congestion(reason: str) -> AssociationRejection:
    """A rejection because the receiver cannot work at present."""
    return AssociationRejection(_CONGESTION, reason)
