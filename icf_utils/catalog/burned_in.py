"""Which images may have text in their pixels that identifies somebody. Pure.

BurnedInAnnotation (0028,0301) decides where it is present. Where it is absent, the kind of image decides: ultrasound
machines, film scanners and cameras write names into the pixels as a matter of course (PS3.15 E.3.1, "Clean Pixel Data
Option"). Such a kind is shown only if the user asks for it by its name. An image that says YES, and the label of a
slide (SpecimenLabelInImage, PS3.3 section C.8.12.4), are never shown.

Kinds are recognised by the modality (PS3.3 section C.7.3.1.1.1) or the SOP class (PS3.4 annex B.5); UIDs of SOP classes
are compared by the numbers after the part that all storage classes share.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from icf_utils.dicom.constants import STORAGE_SOP_CLASSES
from icf_utils.errors import InvalidSetting, printable

if TYPE_CHECKING:
    from pydicom import Dataset


@dataclass(frozen=True)
class ImageKind:
    """A kind of image that often has text in its pixels; ``noun`` completes "it is ...".

    ``classes`` are the SOP classes' numbers after the common part; one that ends with a dot means all below it.
    """

    name: str
    noun: str
    modalities: frozenset[str]
    classes: tuple[str, ...]


#: The kinds, by the names with which a user asks for them.
KINDS = (
    ImageKind("ultrasound", "an ultrasound image", frozenset({"US", "IVUS", "BDUS"}), ("3", "3.1", "6", "6.1", "6.2")),
    ImageKind("document", "a scanned document", frozenset({"DOC", "SD", "HC"}), ("104.",)),
    ImageKind("screen-capture", "a secondary capture", frozenset({"OT", "DG", "PRESENTATION"}), ("7", "7.")),
    ImageKind(
        "photograph",
        "a photograph or an endoscopic image",
        frozenset({"XC", "ES", "GM", "OP", "DMS", "STAIN"}),
        ("77.1.1", "77.1.1.", "77.1.2", "77.1.2.", "77.1.3", "77.1.4", "77.1.4.", "77.1.5.1", "77.1.5.2", "77.1.7"),
    ),
    ImageKind(
        "fluoroscopy", "a fluoroscopic or angiographic image", frozenset({"RF", "XA", "DF", "DS", "CF"}), ("12.",)
    ),
    ImageKind("slide", "an image of a microscope slide", frozenset({"SM"}), ("77.1.6",)),
)

KIND_NAMES = tuple(kind.name for kind in KINDS)


def check_kinds(names: Collection[str]) -> tuple[str, ...]:
    """The names, each once. Raises :class:`~icf_utils.errors.InvalidSetting` for a name not in :data:`KINDS`."""
    unknown = sorted(set(names) - set(KIND_NAMES))
    if unknown:
        problem = f"'{printable(unknown[0])}' is not a kind of image (known: {', '.join(KIND_NAMES)})"
        raise InvalidSetting("previews_of", problem)
    return tuple(name for name in KIND_NAMES if name in names)


def burned_in_reason(dataset: Dataset, wanted: Collection[str] = ()) -> str:
    """Why an image is left out because of text in its pixels; empty text if it may be shown.

    ``wanted`` are names of :data:`KINDS` that the user has asked for. Never quotes a value from the header.
    """
    annotated = _text(dataset, "BurnedInAnnotation")
    if annotated == "YES":
        return "BurnedInAnnotation is YES: text in the image may identify the patient"
    if _text(dataset, "SpecimenLabelInImage") == "YES" or "LABEL" in _types(dataset):
        return "it shows the label of a slide, which may identify the patient"
    kind = image_kind(dataset)
    if annotated == "NO" or kind is None or kind.name in wanted:
        return ""
    return f"it is {kind.noun}, and BurnedInAnnotation does not say NO; see --previews-of {kind.name}"


def image_kind(dataset: Dataset) -> ImageKind | None:
    """The kind of an image among those that often have text in their pixels.

    An empty ConversionType says nothing: all images of one manufacturer have it.
    """
    modality, sop_class = _text(dataset, "Modality"), _text(dataset, "SOPClassUID")
    for kind in KINDS:
        if modality in kind.modalities or _is_below(sop_class, kind.classes):
            return kind
    is_capture = _text(dataset, "ConversionType") or any("SCREEN" in item for item in _types(dataset))
    return next(kind for kind in KINDS if kind.name == "screen-capture") if is_capture else None


def _is_below(sop_class: str, classes: tuple[str, ...]) -> bool:
    own = sop_class.removeprefix(STORAGE_SOP_CLASSES)
    return own != sop_class and any(own == one or (one.endswith(".") and own.startswith(one)) for one in classes)


def _types(dataset: Dataset) -> list[str]:
    value: Any = dataset.get("ImageType", None) or []
    return [str(item).upper() for item in ([value] if isinstance(value, str) else value)]


def _text(dataset: Dataset, keyword: str) -> str:
    return str(dataset.get(keyword, None) or "").strip().upper()
