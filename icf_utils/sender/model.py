"""Results of sending, what a status means, and which images go through one association. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from icf_utils.results import Notice
from icf_utils.sender.images import Image

#: An association has room for so many presentation contexts (PS3.8 section 9.3.2.2: odd numbers below 256).
MOST_CONTEXTS = 128

SUCCESS = 0x0000

#: Statuses of a C-STORE response by their first and last value (PS3.4 section B.2.3, PS3.7 annex C).
_MEANINGS = (
    (0x0000, 0x0000, "stored"),
    (0x0110, 0x0110, "the receiver failed to process it"),
    (0x0117, 0x0117, "the receiver takes its SOPInstanceUID for invalid"),
    (0x0122, 0x0122, "the receiver does not take this SOP class"),
    (0x0124, 0x0124, "the receiver says: not authorised"),
    (0xA700, 0xA7FF, "the receiver is out of resources, such as disk space"),
    (0xA900, 0xA9FF, "the receiver says: the data set does not match its SOP class"),
    (0xB000, 0xB000, "stored, but the receiver changed elements of it"),
    (0xB006, 0xB006, "stored, but the receiver left elements out"),
    (0xB007, 0xB007, "stored, though the data set does not match its SOP class"),
    (0xB000, 0xBFFF, "stored, with a warning"),
    (0xC000, 0xCFFF, "the receiver cannot understand it"),
)

#: Trying again gives the same answer.
_FINAL = ((0x0117, 0x0117), (0x0122, 0x0122), (0x0124, 0x0124), (0xA900, 0xA9FF), (0xC000, 0xCFFF))

State = Literal["sent", "warned", "failed"]


@dataclass(frozen=True)
class ImageOutcome:
    """What became of one file. ``status`` is the receiver's answer (PS3.7 annex C), ``None`` where there was none.

    ``tries`` counts how often it was sent.
    """

    name: str
    state: State
    status: int | None
    meaning: str
    tries: int


@dataclass(frozen=True)
class SendResult:
    """What was sent. ``images`` are in the order of the input, damaged ones last; ``size`` in bytes, of what arrived.

    ``seconds`` of wall time; ``associations`` counts those that were made.
    """

    peer: str
    images: tuple[ImageOutcome, ...]
    skipped: tuple[Notice, ...]
    size: int
    seconds: float
    associations: int
    sent: int = field(init=False)
    failed: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "failed", len(self.failures))
        object.__setattr__(self, "sent", len(self.images) - self.failed)

    @property
    def failures(self) -> tuple[ImageOutcome, ...]:
        """The images that did not arrive."""
        return tuple(image for image in self.images if image.state == "failed")


def outcome_of(name: str, status: int, tries: int) -> ImageOutcome:
    """What a receiver's answer says of an image.

    >>> outcome_of("a.dcm", 0xA700, 1).state
    'failed'
    """
    state: State = "sent" if status == SUCCESS else "warned" if _is_warning(status) else "failed"
    meaning = next((text for first, last, text in _MEANINGS if first <= status <= last), "the receiver refused it")
    return ImageOutcome(name, state, status, meaning, tries)


def _is_warning(status: int) -> bool:
    return 0xB000 <= status <= 0xBFFF or status in (0x0001, 0x0107, 0x0116)


def may_change(status: int) -> bool:
    """Whether another try may have another answer."""
    return not any(first <= status <= last for first, last in _FINAL)


def context_of(image: Image) -> tuple[str, str]:
    """What must be agreed on for an image: SOP class and transfer syntax."""
    return image.sop_class, image.transfer_syntax


def batches(images: Sequence[Image], most: int = MOST_CONTEXTS) -> list[list[Image]]:
    """Images by association: all in one, unless they need more than ``most`` presentation contexts."""
    number = {context: at for at, context in enumerate(dict.fromkeys(map(context_of, images)))}
    found: dict[int, list[Image]] = {}
    for image in images:
        found.setdefault(number[context_of(image)] // most, []).append(image)
    return [found[at] for at in sorted(found)]
