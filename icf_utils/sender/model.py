"""The results of sending, the meaning of C-STORE statuses, and which images share an association. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from icf_utils.dicom.constants import (
    DEFLATED_TRANSFER_SYNTAXES,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)
from icf_utils.results import Notice
from icf_utils.sender.images import SendableImage

#: The number of presentation contexts that fit into an association (PS3.8 section 9.3.2.2: odd ids below 256).
MAX_CONTEXTS = 128

SUCCESS = 0x0000

#: Statuses of C-STORE responses, from the first to the last value (PS3.4 section B.2.3, PS3.7 annex C).
_MEANINGS = (
    (0x0000, 0x0000, "stored"),
    (0x0110, 0x0110, "the receiver could not process it"),
    (0x0117, 0x0117, "the receiver considers its SOPInstanceUID invalid"),
    (0x0122, 0x0122, "the receiver does not support this SOP class"),
    (0x0124, 0x0124, "the receiver does not authorize it"),
    (0xA700, 0xA7FF, "the receiver is out of resources, for example disk space"),
    (0xA900, 0xA9FF, "the data set does not match its SOP class, according to the receiver"),
    (0xB000, 0xB000, "stored, but the receiver changed some elements"),
    (0xB006, 0xB006, "stored, but the receiver discarded some elements"),
    (0xB007, 0xB007, "stored, although the data set does not match its SOP class"),
    (0xB000, 0xBFFF, "stored, with a warning"),
    (0xC000, 0xCFFF, "the receiver cannot understand it"),
)

#: Sending the image again would give the same status.
_FINAL = ((0x0117, 0x0117), (0x0122, 0x0122), (0x0124, 0x0124), (0xA900, 0xA9FF), (0xC000, 0xCFFF))

SendState = Literal["sent", "warned", "failed"]


@dataclass(frozen=True)
class ImageOutcome:
    """The result for one file. ``status`` is that of the response (PS3.7 annex C), ``None`` if there was none.

    ``tries`` counts how often the file was sent. ``converted``: to implicit VR little endian, since the receiver
    accepted nothing else.
    """

    name: str
    state: SendState
    status: int | None
    meaning: str
    tries: int
    converted: bool = False


@dataclass(frozen=True)
class SendResult:
    """The result of sending. ``images`` are in the order of the source, damaged files last.

    ``size`` is that of the images that were sent, in bytes; ``seconds`` is wall time; ``associations`` counts those
    that were opened.
    """

    peer: str
    images: tuple[ImageOutcome, ...]
    skipped: tuple[Notice, ...]
    size: int
    seconds: float
    associations: int
    sent: int = field(init=False)
    failed: int = field(init=False)
    converted: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "failed", len(self.failures))
        object.__setattr__(self, "sent", len(self.images) - self.failed)
        converted = sum(image.converted and image.state != "failed" for image in self.images)
        object.__setattr__(self, "converted", converted)

    @property
    def failures(self) -> tuple[ImageOutcome, ...]:
        """The images that could not be sent."""
        return tuple(image for image in self.images if image.state == "failed")


def outcome_from_status(name: str, status: int, tries: int) -> ImageOutcome:
    """The outcome of an image by the status of the response.

    >>> outcome_from_status("a.dcm", 0xA700, 1).state
    'failed'
    """
    state: SendState = "sent" if status == SUCCESS else "warned" if _is_warning(status) else "failed"
    meaning = next((text for first, last, text in _MEANINGS if first <= status <= last), "the receiver refused it")
    return ImageOutcome(name, state, status, meaning, tries)


def _is_warning(status: int) -> bool:
    return 0xB000 <= status <= 0xBFFF or status in (0x0001, 0x0107, 0x0116)


def may_change(status: int) -> bool:
    """Whether the status may be another one if the image is sent again."""
    return not any(first <= status <= last for first, last in _FINAL)


#: Transfer syntaxes whose data sets can be converted to implicit VR little endian without a change of any value.
_CONVERTIBLE = frozenset({EXPLICIT_VR_LITTLE_ENDIAN, *DEFLATED_TRANSFER_SYNTAXES})


def presentation_contexts(image: SendableImage) -> tuple[tuple[str, str], ...]:
    """The presentation contexts that are proposed for an image, pairs of SOP class and transfer syntax.

    The first one is the file's own. Implicit VR little endian, which every node must accept (PS3.5 section 10.1),
    follows where the data set can be converted to it.
    """
    own = (image.sop_class, image.transfer_syntax)
    if image.transfer_syntax not in _CONVERTIBLE:
        return (own,)
    return own, (image.sop_class, IMPLICIT_VR_LITTLE_ENDIAN)


def split_by_contexts(images: Sequence[SendableImage], most: int = MAX_CONTEXTS) -> list[list[SendableImage]]:
    """The images of each association: one association, unless they need more than ``most`` presentation contexts."""
    number: dict[tuple[str, str], int] = {}
    at, used = 0, set[tuple[str, str]]()
    found: dict[int, list[SendableImage]] = {}
    for image in images:
        contexts = presentation_contexts(image)
        if contexts[0] not in number:
            if len(used | set(contexts)) > most:
                at, used = at + 1, set()
            used |= set(contexts)
            number[contexts[0]] = at
        found.setdefault(number[contexts[0]], []).append(image)
    return [found[place] for place in sorted(found)]
