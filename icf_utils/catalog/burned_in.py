"""Which images may have text in their pixels that identifies somebody. Pure.

BurnedInAnnotation (0028,0301) decides where it is present. Where it is absent, the kind of image decides: ultrasound
machines, film scanners and cameras write names into the pixels as a matter of course (PS3.15 E.3.1, "Clean Pixel Data
Option"). Such a kind is shown only if the user asks for it by its name. An image that says YES, and the label of a
slide (SpecimenLabelInImage, PS3.3 section C.8.12.4), are never shown.

Kinds are recognised by the modality (PS3.3 section C.7.3.1.1.1) or the SOP class (PS3.4 annex B.5); UIDs of SOP classes
are compared by the numbers after the part that all storage classes share.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, MutableSequence
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
    ImageKind("ultrasound", "an ultrasound image", frozenset({"US", "IVUS", "BDUS"}), ("3", "3.1", "6", "6.")),
    ImageKind("document", "a scanned document", frozenset({"DOC", "SD", "HC"}), ("104.",)),
    ImageKind("screen-capture", "a secondary capture", frozenset({"OT", "DG", "PRESENTATION"}), ("7", "7.")),
    ImageKind(
        "photograph",
        "a photograph or an endoscopic image",
        frozenset({"XC", "ES", "OP", "DMS", "STAIN"}),
        ("77.1.1", "77.1.1.", "77.1.4", "77.1.4.", "77.1.5.", "77.1.7", "77.1.7."),
    ),
    ImageKind(
        "fluoroscopy", "a fluoroscopic or angiographic image", frozenset({"RF", "XA", "DF", "DS", "CF"}), ("12.",)
    ),
    ImageKind(
        "slide",
        "an image of a microscope slide",
        frozenset({"SM", "GM", "CFM"}),
        ("77.1.2", "77.1.2.", "77.1.3", "77.1.6", "77.1.8", "77.1.9"),
    ),
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
    annotated = _values(dataset, "BurnedInAnnotation")
    if "YES" in annotated:
        return "BurnedInAnnotation is YES: text in the image may identify the patient"
    if _shows_label(dataset):
        return "it shows the label of a slide, which may identify the patient"
    kind = image_kind(dataset)
    if annotated == {"NO"} or kind is None or kind.name in wanted:
        return ""
    return f"it is {kind.noun}, and BurnedInAnnotation does not say NO; see --previews-of {kind.name}"


def _shows_label(dataset: Dataset) -> bool:
    """Whether it is the label of a slide, or an overview of a slide that does not say that the label is left out."""
    said, types = _values(dataset, "SpecimenLabelInImage"), _values(dataset, "ImageType")
    return "YES" in said or "LABEL" in types or ("OVERVIEW" in types and said != {"NO"})


def image_kind(dataset: Dataset) -> ImageKind | None:
    """The kind of an image among those that often have text in their pixels.

    An empty ConversionType says nothing: all images of one manufacturer have it.
    """
    modalities, sop_classes = _values(dataset, "Modality"), _values(dataset, "SOPClassUID")
    if not sop_classes:
        sop_classes = _values(getattr(dataset, "file_meta", {}), "MediaStorageSOPClassUID")
    for kind in KINDS:
        if modalities & kind.modalities or any(_is_below(one, kind.classes) for one in sop_classes):
            return kind
    is_capture = _values(dataset, "ConversionType") or any("SCREEN" in item for item in _values(dataset, "ImageType"))
    return next(kind for kind in KINDS if kind.name == "screen-capture") if is_capture else None


def _is_below(sop_class: str, classes: tuple[str, ...]) -> bool:
    own = sop_class.removeprefix(STORAGE_SOP_CLASSES)
    return own != sop_class and any(own == one or (one.endswith(".") and own.startswith(one)) for one in classes)


def _values(dataset: Mapping[Any, Any] | Dataset, keyword: str) -> set[str]:
    """The values of an element that are not empty; where the standard allows one value, several all count."""
    value: Any = dataset.get(keyword, None) or []
    values = value if isinstance(value, MutableSequence) else [value]
    return {str(item).strip().upper() for item in values} - {""}
