"""Previews: pictures of the images of each series. Reads archives and catalogs; writes nothing.

A series has a small picture of its middle image, and larger ones of its first, middle and last image, or of the frames
of a multi-frame image. A picture's file is named by the position of its series on the visit's page, the number of a
larger picture, and the MD5 of its own bytes, so that a check needs nothing else and a changed picture gets another
address. Pictures belong to one version of a visit: they disappear when its archive changes.

pydicom decodes the pixels and applies DICOM's tables (modality LUT and window, PS3.3 sections C.11.1 and C.11.2).
Scaling is integer arithmetic, and the PNG file (ISO/IEC 15948) is not compressed, so that its bytes depend on no
library, except for the decoders of lossy transfer syntaxes.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableSequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from icf_utils.catalog.burned_in import burned_in_reason
from icf_utils.catalog.records import PictureKey, VisitPage, previews_folder
from icf_utils.deflate import stored_zlib
from icf_utils.errors import DepositMissing, storage_errors
from icf_utils.installation import missing_package
from icf_utils.progress import Progress
from icf_utils.results import Notice
from icf_utils.store.layout import Study, Visit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pydicom import Dataset


_NAME = re.compile(r"([0-9]{4,6})-(?:([1-3])-)?([0-9a-f]{32})\.png")
_REMEDY = "previews are made from the archive; without it, leave out --previews"


def preview_name(key: PictureKey, png: bytes) -> str:
    """The file name of a picture."""
    at, place = key
    number = f"{place}-" if place else ""
    return f"{at:04d}-{number}{hashlib.md5(png, usedforsecurity=False).hexdigest()}.png"


def count_previews(page: VisitPage) -> int:
    """How many series of a page have pictures."""
    return sum(place == 0 for _, place in page.previews)


def list_previews(study: Study, page: VisitPage) -> dict[PictureKey, str]:
    """List the names of the catalog's pictures of this page."""
    folder = study.catalog / previews_folder(page)
    with storage_errors(folder, "read"):
        try:
            names = sorted(path.name for path in folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return {}
    matches = (_NAME.fullmatch(name) for name in names)
    found = {_key(match): match.group() for match in matches if match}
    return {key: name for key, name in found.items() if key[0] < len(page.series)}


def _key(match: re.Match[str]) -> PictureKey:
    return int(match[1]), int(match[2] or 0)


def is_intact(name: str, png: bytes) -> bool:
    """Whether a picture matches the MD5 in its name."""
    match = _NAME.fullmatch(name)
    return match is not None and preview_name(_key(match), png) == name


def read_previews(study: Study, page: VisitPage) -> dict[PictureKey, bytes]:
    """Read the intact pictures that the catalog has of this page."""
    folder, found = study.catalog / previews_folder(page), {}
    for key, name in list_previews(study, page).items():
        with storage_errors(folder / name, "read"):
            png = (folder / name).read_bytes()
        if is_intact(name, png):
            found[key] = png
    return {key: png for key, png in found.items() if (key[0], 0) in found}


def make_previews(
    place: Visit, page: VisitPage, progress: Progress, wanted: Collection[str] = ()
) -> tuple[dict[PictureKey, bytes], tuple[Notice, ...]]:
    """Make the pictures of each series, and notices about what was left out.

    ``wanted`` are kinds of images to show although they may have text in their pixels
    (:data:`icf_utils.catalog.burned_in.KINDS`).

    Raises :class:`~icf_utils.errors.MissingRequirement` without numpy and :class:`~icf_utils.errors.DepositMissing`
    without the archive. An image that cannot be decoded is left out and named.
    """
    _require_numpy()
    if not place.archive.exists():
        raise DepositMissing(place.archive, _REMEDY)
    found: dict[PictureKey, bytes] = {}
    notices: list[Notice] = []
    with progress.task("previews", len(page.series), "series") as task:
        for at, picture in enumerate(_make_series_previews(place.archive, page, wanted)):
            subject = f"{page.visit}, series {_number(page, at)}"
            if isinstance(picture, OmittedPreview):
                notices.append(Notice("preview-left-out", subject, picture.reason))
            else:
                found[at, 0] = picture.png
                for which, larger in picture.larger.items():
                    if isinstance(larger, OmittedPreview):
                        notices.append(Notice("preview-left-out", f"{subject}, {_PLACES[which]} image", larger.reason))
                    elif len(picture.larger) > 1 or larger != picture.png:
                        found[at, which] = larger
                if picture.head:
                    notices.append(_face(subject))
            task.advance(1)
    return found, tuple(notices)


def _number(page: VisitPage, at: int) -> str:
    """How a notice names a series: by its number, never by text from a header."""
    number = page.series[at].number
    return number if number.isascii() and number.isdigit() else f"at position {at + 1} on the page"


def _face(subject: str) -> Notice:
    why = "the preview shows a head, or may show one; faces can be recognised in such images"
    return Notice("preview-face", subject, why)


def _make_series_previews(
    archive: Path, page: VisitPage, wanted: Collection[str]
) -> Iterator[Preview | OmittedPreview]:
    with storage_errors(archive, "read"), archive.open("rb") as handle:
        for series in page.series:
            texts = (series.description, series.protocol)
            places = {1: series.ends[0], 2: series.middle, 3: series.ends[1]}
            contents = {place: _read_at(handle, *part) for place, part in places.items()}
            preview = _make_preview(contents.pop(2), texts, wanted)
            if isinstance(preview, Preview) and len(series.images) > 1:
                ends = {place: _make_larger(content, wanted) for place, content in contents.items()}
                if len(series.images) == 2:  # the last image is the middle one
                    del ends[3]
                preview = replace(preview, larger=dict(sorted({**preview.larger, **ends}.items())))
            yield preview


def _read_at(handle: BinaryIO, offset: int, size: int) -> bytes:
    handle.seek(offset)
    return handle.read(size)


def _make_larger(content: bytes, wanted: Collection[str]) -> bytes | OmittedPreview:
    """Make a larger picture of an image, of its middle frame."""
    found = _make_preview(content, (), wanted)
    return found if isinstance(found, OmittedPreview) else found.larger[2]


def _make_preview(content: bytes, texts: tuple[str, ...], wanted: Collection[str]) -> Preview | OmittedPreview:
    """Make the pictures of one file; decoders raise all kinds of errors, none of which stops the catalog."""
    import warnings

    from pydicom import dcmread

    dataset = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they concern values that a picture does not need
            dataset = dcmread(io.BytesIO(content), force=True)
            png = make_thumbnail(dataset, wanted)
            if isinstance(png, OmittedPreview):
                return png
            return Preview(png, shows_head(dataset, texts), _frames(dataset))
    except Exception:  # noqa: BLE001 - see the docstring
        return OmittedPreview(_undecodable(dataset))


def _require_numpy() -> None:
    try:
        import numpy  # noqa: F401
    except ImportError as error:
        raise missing_package("numpy", "previews") from error


#: The longer side of a picture, in pixels.
SIDE = 160
#: The longer side of a larger picture.
LARGE_SIDE = 256
_PLACES = {1: "first", 2: "middle", 3: "last"}
#: Percentiles of the pixel values that become black and white if the image defines no window.
_DARK, _BRIGHT = 1.0, 99.0

#: Body parts (PS3.16 Annex L, CID 4 and others) and words of descriptions that indicate a head.
_HEAD = re.compile(
    r"head|brain|skull|neuro|face|facial|orbit|sinus|iac|jaw|dental|maxill|mandib|sella|pituit|cereb|hirn|kopf|"
    r"sch[aä]del|mprage|tfe|spgr|bravo|fspgr|bold|fmri|dti|dwi|flair|swi|tof|asl|\bt[12]w?\b",
    re.IGNORECASE,
)
#: Words for body parts without a face.
_OTHER_PARTS = re.compile(
    r"abdomen|pelvis|knee|hip|leg|foot|ankle|hand|wrist|elbow|arm|shoulder|liver|kidney|prostate|heart|breast|lumbar|"
    r"thorac|[lt]spine|chest|phantom|thigh|calf|uterus|colon",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Preview:
    """A small picture as a PNG file, and larger ones: 1 is the first image or frame, 2 the middle one, 3 the last one.

    ``head`` says that it shows a head, or may show one.
    """

    png: bytes
    head: bool
    larger: Mapping[int, bytes | OmittedPreview] = field(default_factory=dict)


@dataclass(frozen=True)
class OmittedPreview:
    """Why a picture was left out; never quotes a value from a header."""

    reason: str


def make_thumbnail(dataset: Dataset, wanted: Collection[str] = ()) -> bytes | OmittedPreview:
    """Make the PNG file of an image, or say why it is left out. Raises whatever a decoder raises.

    ``wanted`` are kinds of images to show although they may have text in their pixels
    (:data:`icf_utils.catalog.burned_in.KINDS`).
    """
    if "PixelData" not in dataset:
        return OmittedPreview("it contains no image that can be shown")
    reason = burned_in_reason(dataset, wanted)
    if reason:
        return OmittedPreview(reason)
    return encode_png(shrink(to_eight_bits(_with_transfer_syntax(dataset))))


def _frames(dataset: Dataset) -> dict[int, bytes | OmittedPreview]:
    """The larger pictures of an image whose small one could be made: of its first, middle and last frame."""
    frames = _frame_count(dataset)
    places = {2: frames // 2} if frames < 2 else {1: 0, 2: frames // 2, 3: frames - 1}
    if frames == 2:
        del places[3]
    return {place: encode_png(shrink(to_eight_bits(dataset, at), LARGE_SIDE)) for place, at in places.items()}


def _frame_count(dataset: Dataset) -> int:
    return int(dataset.get("NumberOfFrames", 1) or 1)


def _with_transfer_syntax(dataset: Dataset) -> Dataset:
    """The dataset with the transfer syntax that it was read with, if it came without file meta information."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    meta = getattr(dataset, "file_meta", None)
    if meta is None or "TransferSyntaxUID" not in meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRBigEndian if little is False else ExplicitVRLittleEndian
        dataset.file_meta = FileMetaDataset() if meta is None else meta
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


def _undecodable(dataset: Dataset | None) -> str:
    """Why an image cannot be shown, by its transfer syntax: errors of decoders may quote values."""
    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    if dataset is None or syntax is None or syntax.is_private:
        return "its header or pixel data cannot be decoded"
    bits = dataset.get("BitsStored", None)
    depth = f" with {bits} bits" if isinstance(bits, int) else ""
    return f"its pixel data ({syntax.name}{depth}) are damaged or cannot be decoded here"


def shows_head(dataset: Dataset, texts: Iterable[str]) -> bool:
    """Whether an MR, CT or PET image shows a head or may show one: if nothing names a body part, it may."""
    if str(dataset.get("Modality", "")) not in ("MR", "CT", "PT"):
        return False
    if str(dataset.get("RecognizableVisualFeatures", "")).upper() == "NO":
        return False
    words = " ".join([str(dataset.get("BodyPartExamined", "")), str(dataset.get("StudyDescription", "")), *texts])
    return _HEAD.search(words) is not None or _OTHER_PARTS.search(words) is None


def to_eight_bits(dataset: Dataset, frame: int | None = None) -> NDArray[np.uint8]:
    """The image, or one of several frames (by default the middle one), as bytes: ``(rows, columns)``, or with three
    colours.
    """
    import numpy as np
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut
    from pydicom.pixels.utils import pixel_array

    pixels = pixel_array(dataset, index=_frame_count(dataset) // 2 if frame is None else frame)
    if dataset.SamplesPerPixel > 1:
        return _scaled(pixels, 0, (1 << int(dataset.BitsStored)) - 1)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        coloured = apply_color_lut(pixels, dataset)
        return _scaled(coloured, 0, np.iinfo(coloured.dtype).max)
    values = apply_modality_lut(pixels, dataset)
    windowed = apply_voi_lut(values, dataset) if "VOILUTSequence" in dataset or _has_window(dataset) else None
    shown = _scaled(values, *_limits(values)) if windowed is None else _scaled(windowed, *_range(windowed))
    return np.invert(shown) if dataset.PhotometricInterpretation == "MONOCHROME1" else shown


def _has_window(dataset: Dataset) -> bool:
    """Whether the image defines a window that can be applied; some define one of width 0 (PS3.3 section C.11.2.1.2)."""
    width = dataset.get("WindowWidth", None)
    first = width[0] if isinstance(width, MutableSequence) and width else width
    least = 1 if dataset.get("VOILUTFunction", "LINEAR") in ("LINEAR", "", None) else 0
    return isinstance(first, (int, float)) and first >= least and first > 0


def _limits(values: NDArray[Any]) -> tuple[float, float]:
    """Values for black and white that ignore the few darkest and brightest pixels."""
    import numpy as np

    ordered = np.sort(values, axis=None)
    last = ordered.size - 1
    return float(ordered[int(last * _DARK / 100)]), float(ordered[int(last * _BRIGHT / 100)])


def _range(values: NDArray[Any]) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _scaled(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    import numpy as np

    if not high > low:
        return np.zeros(values.shape, np.uint8)
    unit = (np.clip(values.astype(np.float64), low, high) - low) / (high - low)
    return np.floor(unit * 255 + 0.5).astype(np.uint8)


def shrink(pixels: NDArray[np.uint8], side: int = SIDE) -> NDArray[np.uint8]:
    """Shrink a picture to at most ``side`` pixels on its longer side, by the means of whole blocks of pixels."""
    import numpy as np

    rows, columns = pixels.shape[:2]
    factor = max(rows, columns) / side
    if factor <= 1:
        return pixels
    sums = pixels.astype(np.int64)
    for axis, length in enumerate((rows, columns)):
        blocks = max(1, int(length / factor))
        begin = np.arange(blocks) * length // blocks
        sums = np.add.reduceat(sums, begin, axis=axis)
        counts = np.diff(np.append(begin, length)).reshape([-1 if at == axis else 1 for at in range(sums.ndim)])
        sums = (sums + counts // 2) // counts
    return sums.astype(np.uint8)


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode a PNG file without compression and without optional chunks."""
    rows, columns = pixels.shape[:2]
    kind = 2 if pixels.ndim == 3 else 0  # colour or grey
    lines = b"".join(b"\0" + pixels[row].tobytes() for row in range(rows))
    header = struct.pack(">IIBBBBB", columns, rows, 8, kind, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", stored_zlib(lines)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
