"""Which associations are admitted, and what is known of an open one. Pure."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from icf_utils.dicom.pdu import RejectionCodes
from icf_utils.receiver.identify import Sender
from icf_utils.receiver.settings import Rule, fits

# -- rejections (PS3.8 table 9-21)
_CALLED_TITLE = RejectionCodes(1, 1, 7)
_CALLING_TITLE = RejectionCodes(1, 1, 3)
_NO_REASON = RejectionCodes(1, 1, 1)
_LIMIT_EXCEEDED = RejectionCodes(2, 3, 2)
_CONGESTION = RejectionCodes(2, 3, 1)


@dataclass(frozen=True)
class AssociationRejection:
    """Why an association is rejected: as codes for the peer, and in words for the log."""

    codes: RejectionCodes
    reason: str


TOO_MANY = AssociationRejection(_LIMIT_EXCEEDED, "too many associations are open")
TOO_MANY_OF_ADDRESS = AssociationRejection(_LIMIT_EXCEEDED, "too many associations of this address are open")


@dataclass
class OpenAssociation:
    """An admitted association. ``id`` is its number in the journal; ``is_recorded`` says whether it is there yet.

    ``rules`` are those that admit its sender; the first one that an image fits takes the image. ``has_changed`` says
    that counts, transfer syntaxes or sessions are not in the journal yet. ``last_image`` is when it was opened or last
    brought a part of an image, by the monotonic clock.
    """

    id: int
    rules: tuple[Rule, ...]
    sender: Sender
    counts: Counter[str] = field(default_factory=Counter)
    transfer_syntaxes: set[str] = field(default_factory=set)
    sessions: set[str] = field(default_factory=set)
    has_changed: bool = False
    last_image: float = field(default_factory=time.monotonic)
    is_recorded: bool = False

    @property
    def rule(self) -> Rule:
        """The first rule, for what is not known of images."""
        return self.rules[0]


def admit_association(rules: Sequence[Rule], sender: Sender) -> tuple[Rule, ...] | AssociationRejection:
    """The rules that admit a sender, or why none does."""
    called = [rule for rule in rules if fits(rule.called_ae, sender.called_ae)]
    mismatches = [rule.mismatch(sender.calling_ae, sender.address) for rule in called]
    if found := tuple(rule for rule, mismatch in zip(called, mismatches, strict=True) if not mismatch):
        return found
    if not called:
        return AssociationRejection(_CALLED_TITLE, "no rule has this called AE title")
    if "address" in mismatches:
        return AssociationRejection(_NO_REASON, "the address is not among those of the rule")
    return AssociationRejection(_CALLING_TITLE, "the calling AE title is not among those of the rule")


def congestion(reason: str) -> AssociationRejection:
    """A rejection because the receiver cannot work at present."""
    return AssociationRejection(_CONGESTION, reason)
