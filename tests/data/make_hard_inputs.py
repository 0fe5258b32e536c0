"""Hard inputs for an archiver of visits: one folder for each case, with whatever real exports have done wrong.

``make_hard_inputs(folder)`` makes all of them in half a second. The docstring of a case's function says what the case
is about; what the stages make of it is the tests' matter. Contents, names, modes and times of the files are the same
on every machine. What a file system or a user cannot have (a name of bytes, a FIFO) is left out and returned.
"""

from __future__ import annotations

import os
import struct
import unicodedata
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from tests.data.make_dicom import (
    CT_IMAGE,
    DEFLATED,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    JPEG_BASELINE,
    UNDEFINED_LENGTH,
    dicom_bytes,
    element,
    item,
    uid,
)

ENHANCED_MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4.1"
PET_IMAGE = "1.2.840.10008.5.1.4.1.1.128"
DICOMDIR_STORAGE = "1.2.840.10008.1.3.10"
JPEG_2000 = "1.2.840.10008.1.2.4.90"

_ITEM_END = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
_SEQUENCE_END = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
_FIRST_TIME = 1_600_000_000


@dataclass
class HardInput:
    """The folder of one case while it is being made. Names are text with surrogate escapes for bytes outside UTF-8."""

    root: bytes
    missing: list[str] = field(default_factory=list)
    closed: list[bytes] = field(default_factory=list)
    files: int = 0

    def path(self, name: str) -> bytes:
        return os.path.join(self.root, name.encode("utf-8", "surrogateescape"))

    def put(self, name: str, content: bytes = b"", *, mode: int = 0o644, time: int | None = None) -> None:
        """Write a new file; without ``time`` (seconds since 1970), it gets one that follows from its number."""
        path = self.path(name)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "xb") as handle:
                handle.write(content)
        except OSError:
            self.missing.append(name)
            return
        self.files += 1
        os.chmod(path, mode)
        stamp = _FIRST_TIME + 37 * self.files if time is None else time
        os.utime(path, (stamp, stamp))

    def special(self, name: str, make: Callable[[bytes], object]) -> None:
        """Make something that is not a plain file, by a function of its path."""
        try:
            make(self.path(name))
        except OSError:
            self.missing.append(name)

    def link(self, name: str, target: str) -> None:
        self.special(name, lambda path: os.symlink(os.fsencode(target), path))

    def close(self, name: str) -> None:
        """Take all rights from a file or folder once the case is complete."""
        self.closed.append(self.path(name))


HARD_INPUTS: dict[str, Callable[[HardInput], None]] = {}


def make_hard_inputs(folder: Path, names: Collection[str] = ()) -> dict[str, list[str]]:
    """Make the cases of these ``names`` (default: all) below a folder; returns what each could not get.

    Raises ``FileExistsError`` where a case's folder exists.
    """
    missing = {}
    mask = os.umask(0o022)
    try:
        for name in names or HARD_INPUTS:
            made = HardInput(os.fsencode(folder / name))
            os.makedirs(made.root)
            HARD_INPUTS[name](made)
            for path in made.closed:
                os.chmod(path, 0)
            missing[name] = made.missing
    finally:
        os.umask(mask)
    return missing


def image(number: int = 1, **changes: object) -> bytes:
    """An image of 16 x 16 pixels, the ``number`` of its series, with ``changes`` as for :func:`dicom_bytes`."""
    series = changes.get("SeriesNumber", 1)
    values = {
        "InstanceNumber": number,
        "ProtocolName": "t1_mprage",
        "Rows": 16,
        "Columns": 16,
        "PixelData": struct.pack(
            "<256H", *(zlib.crc32(f"{series}/{number}/{at}".encode()) & 0xFFF for at in range(256))
        ),
    }
    return dicom_bytes(**{**values, **changes})  # type: ignore[arg-type]


def _case(make: Callable[[HardInput], None]) -> Callable[[HardInput], None]:
    HARD_INPUTS[make.__name__] = make
    return make


def _odd_among_good(visit: HardInput, **changes: object) -> None:
    """One odd image between two good ones of the same series."""
    visit.put("a_good.dcm", image(1))
    visit.put("b_odd.dcm", image(2, **changes))
    visit.put("c_good.dcm", image(3))


def _sequence(tag: int, contents: list[bytes], *, undefined: bool = False) -> bytes:
    """A sequence of items, of explicit or of undefined length (PS3.5 section 7.5)."""
    if not undefined:
        return element(tag, "SQ", b"".join(map(item, contents)))
    items = b"".join(item(content, length=UNDEFINED_LENGTH) + _ITEM_END for content in contents)
    return element(tag, "SQ", items + _SEQUENCE_END, length=UNDEFINED_LENGTH)


def _stored_deflate(content: bytes) -> bytes:
    packer = zlib.compressobj(level=0, wbits=-zlib.MAX_WBITS)
    return packer.compress(content) + packer.flush()


# -- dates and times


@_case
def baseline(visit: HardInput) -> None:
    """Three series and two companions; nothing is wrong."""
    for series, description in ((1, "localizer"), (2, "mprage"), (3, "bold")):
        for at in (1, 2, 3):
            content = image(at, SeriesNumber=series, SeriesDescription=description)
            visit.put(f"s{series:02}_{description}/{at:04}.dcm", content)
    visit.put("protocol.pdf", b"%PDF-1.4\n%not really\n")
    visit.put("physio/run1.tsv", b"a\tb\n1\t2\n")


@_case
def date_missing(visit: HardInput) -> None:
    """One image lacks StudyDate."""
    _odd_among_good(visit, StudyDate=None)


@_case
def time_missing(visit: HardInput) -> None:
    """One image lacks StudyTime."""
    _odd_among_good(visit, StudyTime=None)


@_case
def date_empty(visit: HardInput) -> None:
    """StudyDate of one image is empty."""
    _odd_among_good(visit, StudyDate=b"")


@_case
def time_empty(visit: HardInput) -> None:
    """StudyTime of one image is empty."""
    _odd_among_good(visit, StudyTime=b"")


@_case
def date_missing_all(visit: HardInput) -> None:
    """No image has a usable StudyDate."""
    for at in (1, 2, 3):
        visit.put(f"{at}.dcm", image(at, StudyDate=b"" if at > 1 else None))
    visit.put("note.txt", b"n\n")


@_case
def date_garbage(visit: HardInput) -> None:
    """StudyDate is ``***``, as in public data of one vendor."""
    _odd_among_good(visit, StudyDate=b"***")


@_case
def date_retired_form(visit: HardInput) -> None:
    """Date and time as ACR-NEMA wrote them."""
    _odd_among_good(visit, StudyDate=b"1994.01.30", StudyTime=b"11:25:01")


@_case
def date_impossible(visit: HardInput) -> None:
    """A day and a time that do not exist."""
    _odd_among_good(visit, StudyDate=b"20230230", StudyTime=b"256199")


@_case
def time_forms(visit: HardInput) -> None:
    """Every form that VR TM allows, and one fraction with a digit too many."""
    forms = (
        "10 1011 101112 101112.1 101112.123 101112.123456 101112.999999 235960 235960.5 101112__ 000000 101112.1234567"
    )
    for at, form in enumerate(forms.split(), 1):
        visit.put(f"{at:02}.dcm", image(at, StudyTime=form.replace("_", " ").encode()))


@_case
def date_multivalue(visit: HardInput) -> None:
    """StudyDate or StudyTime with two values, or as the range of a query."""
    visit.put("a.dcm", image(1))
    visit.put("b.dcm", image(2, StudyDate=b"20200101\\20200102"))
    visit.put("c.dcm", image(3, StudyTime=b"101112\\101113"))
    visit.put("d.dcm", image(4, StudyDate=b"20200101-20200102"))


@_case
def date_extreme(visit: HardInput) -> None:
    """Dates before 1970, beyond 32 bits, and far in the future."""
    for at, date in enumerate(["19000101", "18000101", "19691231", "19700101", "20380120", "21060208", "99991231"], 1):
        visit.put(f"{at}_{date}.dcm", image(at, StudyDate=date.encode()))


@_case
def date_year_one(visit: HardInput) -> None:
    """Midnight of the first day that Python knows, which a time zone moves out of its range."""
    _odd_among_good(visit, StudyDate=b"00010101", StudyTime=b"000000")


@_case
def time_zone(visit: HardInput) -> None:
    """Times in the gap and in the overlap of daylight saving time, with and without TimezoneOffsetFromUTC."""
    visit.put("gap.dcm", image(1, StudyDate=b"20240310", StudyTime=b"023000"))
    visit.put("overlap.dcm", image(2, StudyDate=b"20241103", StudyTime=b"013000"))
    visit.put("offset.dcm", image(3, StudyDate=b"20240601", StudyTime=b"120000", TimezoneOffsetFromUTC=b"+0900"))


@_case
def two_studies(visit: HardInput) -> None:
    """Two studies of two patients in one folder."""
    other = {
        "StudyInstanceUID": uid("other"),
        "StudyDate": "20210301",
        "PatientID": "TEST02",
        "PatientName": "Else^Body",
    }
    for at in (1, 2):
        visit.put(f"one/{at}.dcm", image(at))
        visit.put(f"two/{at}.dcm", image(at, **other))
    visit.put("readme.txt", b"r\n")


@_case
def study_time_varies(visit: HardInput) -> None:
    """One study whose StudyTime differs among its series."""
    for at, time in enumerate((b"101112", b"101113", b"235959"), 1):
        visit.put(f"{at}.dcm", image(at, SeriesNumber=at, StudyTime=time))
    visit.put("note.txt", b"n\n")


# -- the file format


@_case
def no_preamble(visit: HardInput) -> None:
    """Data sets without the preamble, and without the file meta information."""
    visit.put("a_good.dcm", image(1))
    visit.put("b_bare_explicit.dcm", image(2, preamble=False, file_meta=False))
    visit.put("c_bare_implicit.dcm", image(3, preamble=False, file_meta=False, transfer_syntax=IMPLICIT_LITTLE))
    visit.put("d_meta_only.dcm", image(4, preamble=False))


@_case
def no_file_meta(visit: HardInput) -> None:
    """The preamble, but no group 0002 after it."""
    visit.put("a_good.dcm", image(1))
    visit.put("b.dcm", image(2, file_meta=False))
    visit.put("c.dcm", image(3, file_meta=False, transfer_syntax=IMPLICIT_LITTLE))


@_case
def dicomdir(visit: HardInput) -> None:
    """A DICOMDIR with the images, which has no StudyDate by design."""
    meta = element(0x00020002, "UI", DICOMDIR_STORAGE.encode()) + element(
        0x00020010, "UI", EXPLICIT_LITTLE.encode() + b"\0"
    )
    directory = (
        element(0x00041130, "CS", b"TEST")
        + element(0x00041200, "UL", bytes(4))
        + element(0x00041202, "UL", bytes(4))
        + element(0x00041212, "US", bytes(2))
        + element(0x00041220, "SQ", b"")
    )
    length = element(0x00020000, "UL", struct.pack("<I", len(meta)))
    visit.put("DICOMDIR", bytes(128) + b"DICM" + length + meta + directory)
    for at in (1, 2):
        visit.put(f"DICOM/0000{at}", image(at))


@_case
def truncated(visit: HardInput) -> None:
    """Files that end in the pixels, in a header element, in the file meta information, in the preamble."""
    visit.put("0_good.dcm", image(9))
    whole = image(1)
    class_uid = whole.index(element(0x00080016, "UI", b"")[:6])
    ends = {
        "pixels": len(whole) - 100,
        "pixel_head": len(whole) - 520,  # 512 bytes of pixels, 8 of the 12 bytes before them
        "late_header": whole.index(b"Test^Invented") + 4,
        "mid_element": class_uid + 12,
        "meta": 132 + 30,
        "meta_head": 132 + 4,
        "only_magic": 132,
        "preamble": 128,
        "short": 60,
    }
    for name, end in ends.items():
        visit.put(f"{name}.dcm", whole[:end])


@_case
def zero_byte(visit: HardInput) -> None:
    """Empty files, named like an image and not."""
    visit.put("a_good.dcm", image(1))
    visit.put("b.dcm")
    visit.put("c.txt")


@_case
def fake_magic(visit: HardInput) -> None:
    """Text with ``DICM`` in the right place, and lengths that point beyond the end."""
    visit.put("a_good.dcm", image(1))
    visit.put("b.dcm", b"x" * 128 + b"DICM" + b"this is a text and not an image\n" * 5)
    visit.put("c.dcm", bytes(128) + b"DICM" + b"\xff" * 400)
    visit.put("d.dcm", bytes(132))
    visit.put("e.dcm", image(2))
    endless = image(3, raw={0x00204000: element(0x00204000, "UT", b"abc", length=0x7FFFFFF0)})
    visit.put("f.dcm", endless[: endless.index(b"abc") + 3])


@_case
def transfer_syntaxes(visit: HardInput) -> None:
    """Every kind of transfer syntax, one that is unknown, and two files that end early."""
    plain = {
        "implicit": IMPLICIT_LITTLE,
        "explicit": EXPLICIT_LITTLE,
        "big": EXPLICIT_BIG,
        "deflated": DEFLATED,
        "unknown": "1.2.3.4.5",
        "jpeg": JPEG_BASELINE,
        "j2k": JPEG_2000,
    }
    for at, (name, syntax) in enumerate(plain.items(), 1):
        visit.put(f"{name}.dcm", image(at, transfer_syntax=syntax))
    fragments = element(0x7FE00010, "OB", item(b"") + item(bytes(64)), length=UNDEFINED_LENGTH)
    visit.put("jpeg_no_end.dcm", image(8, transfer_syntax=JPEG_BASELINE, raw={0x7FE00010: fragments}))
    visit.put("deflate_broken.dcm", image(9, transfer_syntax=DEFLATED)[:-300])


@_case
def enhanced(visit: HardInput) -> None:
    """Enhanced multi-frame images with functional groups, of explicit and of undefined length."""
    for at, (name, undefined) in enumerate((("enh_def", False), ("enh_undef", True)), 1):
        frames = []
        for frame in range(1, 6):
            position = element(0x00209057, "UL", struct.pack("<I", frame))
            frames.append(_sequence(0x00209111, [position], undefined=undefined))
        groups = {0x52009230: _sequence(0x52009230, frames, undefined=undefined)}
        changes = {"NumberOfFrames": 5, "PulseSequenceName": "*epfid2d1_64", "PixelData": bytes(512 * 5)}
        visit.put(f"{name}.dcm", image(at, SOPClassUID=ENHANCED_MR_IMAGE, raw=groups, **changes))


@_case
def deep_nesting(visit: HardInput) -> None:
    """Sequences nested 60 and 3000 deep."""
    visit.put("a_good.dcm", image(1))
    head = element(0x00400440, "SQ", b"", length=UNDEFINED_LENGTH) + item(b"", length=UNDEFINED_LENGTH)
    for depth in (60, 3000):
        nest = head * depth + element(0x00080100, "SH", b"DEEP") + (_ITEM_END + _SEQUENCE_END) * depth
        visit.put(f"nest_{depth:04}.dcm", image(depth, raw={0x00400440: nest}))


@_case
def odd_elements(visit: HardInput) -> None:
    """Private groups, a repeated element, an unknown VR, an odd length, an element out of order, trailing bytes."""
    private = (
        element(0x00290010, "LO", b"SIEMENS CSA HEADER")
        + element(0x00291010, "OB", b"SV10" + bytes(60))
        + element(0x00291011, "UN", b"\xff\xfe" * 8)
    )
    twice = element(0x0008103E, "LO", b"first ") + element(0x0008103E, "LO", b"second")
    visit.put("private.dcm", image(1, raw={0x00290010: private}))
    visit.put("repeated.dcm", image(2, raw={0x0008103E: twice}))
    visit.put("unknown_vr.dcm", image(3, raw={0x00400300: element(0x00400300, "QQ", b"ab")}))
    visit.put("odd_length.dcm", image(4, raw={0x00400254: element(0x00400254, "LO", b"abc")}))
    visit.put("unsorted.dcm", image(5, raw={0x00080000: element(0x00200011, "IS", b"77")}))
    visit.put("trailing.dcm", image(6) + bytes(512))
    visit.put("garbage_after.dcm", image(7) + b"tail of an interrupted copy")


# -- values


@_case
def json_values(visit: HardInput) -> None:
    """Values that JSON cannot hold as they are, or that a careless writer drops."""
    visit.put("plain.dcm", image(1))
    visit.put("series_number_two.dcm", image(2, SeriesNumber=b"1\\2"))
    visit.put("series_number_empty.dcm", image(3, SeriesNumber=b""))
    visit.put("series_number_big.dcm", image(4, SeriesNumber=b"99999999999"))
    visit.put("description_two.dcm", image(5, SeriesDescription=b"first\\second"))
    visit.put("description_empty.dcm", image(6, SeriesDescription=b""))
    visit.put("modality_two.dcm", image(7, Modality=b"PT\\CT"))
    visit.put("description_control.dcm", image(8, SeriesDescription=b'tab\there\x1bnul\x00end"quote"'))
    visit.put("description_long.dcm", image(9, SeriesDescription=b"x" * 60000))
    visit.put("protocol_missing.dcm", image(10, ProtocolName=None, Modality=None, MRAcquisitionType=None))


@_case
def series_number_text(visit: HardInput) -> None:
    """SeriesNumber is not a number."""
    _odd_among_good(visit, SeriesNumber=b"abc")


@_case
def series_number_fraction(visit: HardInput) -> None:
    """SeriesNumber is not an integer."""
    _odd_among_good(visit, SeriesNumber=b"1.5")


@_case
def series_number_multi(visit: HardInput) -> None:
    """SeriesNumber has two values."""
    _odd_among_good(visit, SeriesNumber=b"1\\2")


@_case
def description_multi(visit: HardInput) -> None:
    """SeriesDescription has two values."""
    _odd_among_good(visit, SeriesDescription=b"first\\second")


@_case
def wrong_vr_sq(visit: HardInput) -> None:
    """SeriesDescription is a sequence."""
    nested = _sequence(0x0008103E, [element(0x00080100, "SH", b"X ")])
    _odd_among_good(visit, raw={0x0008103E: nested})


@_case
def wrong_vr_bytes(visit: HardInput) -> None:
    """ProtocolName is bytes."""
    _odd_among_good(visit, raw={0x00181030: element(0x00181030, "OB", b"\xff\x00\x01\x02")})


@_case
def wrong_vr_name(visit: HardInput) -> None:
    """ProtocolName is a person's name."""
    _odd_among_good(visit, raw={0x00181030: element(0x00181030, "PN", b"Test^Name ")})


@_case
def wrong_vr_number(visit: HardInput) -> None:
    """SeriesDescription is a decimal number, and SeriesNumber one that is not a number."""
    description, number = element(0x0008103E, "DS", b"1.50"), element(0x00200011, "DS", b"nan ")
    _odd_among_good(visit, raw={0x0008103E: description, 0x00200011: number})


@_case
def wrong_vr_date(visit: HardInput) -> None:
    """StudyDate as text and as bytes of unknown VR."""
    visit.put("a.dcm", image(1))
    visit.put("b.dcm", image(2, raw={0x00080020: element(0x00080020, "LO", b"20200229")}))
    visit.put("c.dcm", image(3, raw={0x00080020: element(0x00080020, "UN", b"20200229")}))


@_case
def charsets(visit: HardInput) -> None:
    """Text in German, Japanese, Chinese, Korean and Greek, and in UTF-8."""
    texts = {
        "de": ("ISO_IR 100", "Schädel-Übersicht ß".encode("latin-1")),
        "ja": ("\\ISO 2022 IR 87", "頭部".encode("iso2022_jp")),
        "ja13": ("ISO_IR 13", "ﾔﾏﾀﾞ".encode("shift_jis")),
        "zh": ("GB18030", "头部扫描".encode("gb18030")),
        "ko": ("\\ISO 2022 IR 149", b"\x1b$)C" + "머리".encode("euc_kr")),
        "el": ("ISO_IR 126", "Κεφάλι".encode("iso8859_7")),
        "u8": ("ISO_IR 192", "Kopf – 頭 🧠".encode()),
    }
    for at, (name, (charset, text)) in enumerate(texts.items(), 1):
        changes = {"SpecificCharacterSet": charset.encode(), "SeriesDescription": text, "ProtocolName": text}
        visit.put(f"{name}.dcm", image(at, SeriesNumber=at, **changes))


@_case
def charsets_wrong(visit: HardInput) -> None:
    """Character sets that are missing, wrong, unknown or misspelt, and broken bytes."""
    latin, utf8 = "Schädel".encode("latin-1"), "Schädel".encode()
    texts = {
        "none_declared": (None, latin),
        "utf8_as_latin1": (b"ISO_IR 100", utf8),
        "latin1_as_utf8": (b"ISO_IR 192", latin),
        "unknown": (b"ISO_IR 999", utf8),
        "misspelt": (b"ISO-IR 100", latin),
        "empty": (b"", utf8),
        "broken_escape": (b"\\ISO 2022 IR 87", b"\x1b$B\xff\x1b"),
    }
    for at, (name, (charset, text)) in enumerate(texts.items(), 1):
        visit.put(f"{name}.dcm", image(at, SpecificCharacterSet=charset, SeriesDescription=text))


@_case
def pet_ct(visit: HardInput) -> None:
    """A CT and a PET series in one visit."""
    for at in (1, 2):
        for number, (modality, sop_class) in enumerate((("CT", CT_IMAGE), ("PT", PET_IMAGE)), 1):
            changes = {"SOPClassUID": sop_class, "Modality": modality, "MRAcquisitionType": None}
            visit.put(f"{modality.lower()}/{at}.dcm", image(at, SeriesNumber=number, **changes))


# -- names


@_case
def names_lie(visit: HardInput) -> None:
    """One image under four names, a text named like an image, a packed image, a TAR."""
    content = image(1)
    for name in ("a.dcm", "copy of a.dcm", "sub/a.txt", "noext"):
        visit.put(name, content)
    visit.put("text.dcm", b"just text\n")
    trailer = struct.pack("<II", zlib.crc32(content), len(content))
    visit.put("a.dcm.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + _stored_deflate(content) + trailer)
    visit.put("inner.tar", b"inner".ljust(100, b"\0") + b"0" * 412)


_NAMES = [
    *("with space.dcm", " leading space.dcm", "trailing space ", "-leading-dash.dcm", "--help", "#hash.dcm"),
    *("%41percent.dcm", "amp&ersand=1.dcm", "question?.dcm", "star*.dcm", "back\\slash.dcm", "quote\"'.dcm"),
    *("semi;colon:.dcm", "tilde~.dcm", "~", "dollar$(x)`y`.dcm", "brace{path}.dcm", "bracket[1].dcm"),
    *("tab\tname.dcm", "new\nline.dcm", "cr\rname.dcm", "bell\x07.dcm", "del\x7f.dcm", "pipe|.dcm", "<angle>.dcm"),
    *("a..b.dcm", "..dots.dcm", "...", "con.dcm", "plus+.dcm", "comma,.dcm", "@at.dcm", "!bang.dcm", "caret^.dcm"),
    *("Schädel.dcm", "頭部.dcm", "Ω≈ç√.dcm", "🧠.dcm", "\u202etrap.dcm", "zero\u200bwidth.dcm", "nbsp\u00a0.dcm"),
    *("line\u2028sep.dcm", "%2e%2e%2fup.dcm", "#path=x&size=1"),
]


@_case
def names(visit: HardInput) -> None:
    """Blanks, quotes, newlines, backslashes, what URLs and shells give a meaning, controls, other alphabets."""
    for at, name in enumerate(_NAMES, 1):
        visit.put(name, image(at))
    visit.put("sub #1 & 2/%20/im age.dcm", image(99))


@_case
def names_bytes(visit: HardInput) -> None:
    """Names outside UTF-8, as the export of an old scanner leaves them."""
    visit.put("a_good.dcm", image(1))
    visit.put("Sch\udce4del.dcm", image(2))
    visit.put("\udcff\udcfe\udc80dir/\udc93\udcfa.dcm", image(3))


@_case
def names_normal_forms(visit: HardInput) -> None:
    """One name, composed and decomposed."""
    visit.put(unicodedata.normalize("NFC", "Schädel") + ".dcm", image(1))
    visit.put(unicodedata.normalize("NFD", "Schädel") + ".dcm", image(2))


@_case
def names_case(visit: HardInput) -> None:
    """Names that differ only in upper and lower case."""
    for at, name in enumerate(("IM0001.dcm", "im0001.dcm", "Sub/a.dcm", "sub/a.dcm"), 1):
        visit.put(name, image(at))


@_case
def names_long(visit: HardInput) -> None:
    """Paths beyond the limits of the TAR headers, and a name as long as file systems allow."""
    long = [
        "d" * 60 + "/" + "f" * 36 + ".dcm",
        "d" * 60 + "/" + "f" * 50 + ".dcm",
        "/".join(["e" * 80] * 3) + "/" + "g" * 90 + ".dcm",
        "h" * 251 + ".dcm",
        "/".join(["deep"] * 150) + "/x.dcm",
        "Ü" * 120 + ".dcm",
        "/".join(["2" + "n" * 250] * 12) + "/y.dcm",
    ]
    for at, name in enumerate(long, 1):
        visit.put(name, image(at))


@_case
def names_order(visit: HardInput) -> None:
    """Names whose order differs by path parts, bytes, code points and locale."""
    ordered = [
        "a/b.dcm",
        "a-b.dcm",
        "a.dcm",
        "a b.dcm",
        "ab.dcm",
        "A.dcm",
        "Z.dcm",
        "z.dcm",
        "é.dcm",
        "10.dcm",
        "9.dcm",
    ]
    ordered += ["a/c/d.dcm", "a!/x.dcm", "\uffee.dcm", "\U0001f600.dcm", "_.dcm"]
    for at, name in enumerate(ordered, 1):
        visit.put(name, image(at))


@_case
def hidden(visit: HardInput) -> None:
    """Hidden files and folders, and what Git, macOS and Windows leave in a folder."""
    for at, name in enumerate((".hidden.dcm", ".dir/a.dcm", "a.dcm", "sub/.git/b.dcm"), 1):
        visit.put(name, image(at))
    visit.put(".git/config", b"[core]\n")
    visit.put("sub/.git/HEAD", b"ref: refs/heads/main\n")
    visit.put(".gitattributes", b"* annex.largefiles=nothing\n")
    visit.put(".datalad/config")
    visit.put(".DS_Store", b"\0\0\0\1Bud1")
    visit.put("._a.dcm", b"\0\5\x16\7")


# -- the file system


@_case
def empty_dir(visit: HardInput) -> None:
    """An empty folder."""


@_case
def empty_folders(visit: HardInput) -> None:
    """Folders without a file."""
    os.makedirs(visit.path("a/b"))


@_case
def empty_folder_beside(visit: HardInput) -> None:
    """Folders without files next to an image."""
    visit.put("a.dcm", image(1))
    os.makedirs(visit.path("empty/inner"))


@_case
def only_companions(visit: HardInput) -> None:
    """Not a single DICOM file."""
    visit.put("a.txt", b"a\n")
    visit.put("b/c.nii.gz", b"\x1f\x8b")


@_case
def symlinks(visit: HardInput) -> None:
    """Links to a file, out of the folder, to a folder, to nothing, to each other."""
    visit.put("real/a.dcm", image(1))
    with open(visit.root + b".outside.dcm", "wb") as handle:
        handle.write(image(2, PatientID="OUTSIDE"))
    visit.link("link_file.dcm", "real/a.dcm")
    visit.link("link_dir", "real")
    visit.link("link_up", "..")
    visit.link("dangling.dcm", "nowhere")
    visit.link("loop1", "loop2")
    visit.link("loop2", "loop1")
    visit.link("self", "self")
    visit.link("out.dcm", "../symlinks.outside.dcm")
    visit.link("absolute", "/etc/hostname")


@_case
def symlink_dangling(visit: HardInput) -> None:
    """A link to nothing, and nothing else that is wrong."""
    visit.put("a.dcm", image(1))
    visit.link("dangling.dcm", "nowhere")


@_case
def symlink_inside(visit: HardInput) -> None:
    """A link to a file of the same folder."""
    visit.put("a.dcm", image(1))
    visit.link("b.dcm", "a.dcm")


@_case
def symlink_folder(visit: HardInput) -> None:
    """A link to a folder inside."""
    visit.put("d/a.dcm", image(1))
    visit.link("e", "d")


@_case
def hardlinks(visit: HardInput) -> None:
    """One image with three hard links."""
    visit.put("a.dcm", image(1))
    os.makedirs(visit.path("sub"))
    for name in ("b.dcm", "sub/c.dcm"):
        visit.special(name, lambda path: os.link(visit.path("a.dcm"), path))


@_case
def fifo(visit: HardInput) -> None:
    """A FIFO, on which a reader waits for ever."""
    visit.put("a.dcm", image(1))
    visit.special("pipe.dcm", lambda path: os.mkfifo(path, 0o644))


@_case
def sock(visit: HardInput) -> None:
    """A socket."""
    visit.put("a.dcm", image(1))
    visit.special("s.sock", lambda path: os.mknod(path, 0o140644))


@_case
def unreadable(visit: HardInput) -> None:
    """An image and a folder that may not be read; root reads them all the same."""
    visit.put("a.dcm", image(1))
    visit.put("b.dcm", image(2))
    visit.put("closed/c.dcm", image(3))
    visit.close("b.dcm")
    visit.close("closed")


@_case
def modes(visit: HardInput) -> None:
    """Odd modes, owners and times."""
    for at, mode in enumerate((0o600, 0o755, 0o4755, 0o444, 0o664, 0o777), 1):
        visit.put(f"{at}.dcm", image(at), mode=mode, time=10**9 * at // 3)
        if os.geteuid() == 0:
            os.chown(visit.path(f"{at}.dcm"), 1000 + at, 2000 + at)
            os.chmod(visit.path(f"{at}.dcm"), mode)
    visit.put("old.txt", b"o\n", time=0)
    visit.put("future.txt", b"f\n", time=4_102_444_800)


@_case
def modes_twin(visit: HardInput) -> None:
    """The contents of ``modes``, made in another order, with nothing odd."""
    visit.put("future.txt", b"f\n")
    for at in (6, 3, 5, 1, 4, 2):
        visit.put(f"{at}.dcm", image(at))
    visit.put("old.txt", b"o\n")


@_case
def sparse_small(visit: HardInput) -> None:
    """An image with a hole of 3 MiB."""
    visit.put("sparse.dcm", image(1, PixelData=b""))
    os.truncate(visit.path("sparse.dcm"), 3 << 20)
    os.utime(visit.path("sparse.dcm"), (_FIRST_TIME, _FIRST_TIME))


@_case
def large_header(visit: HardInput) -> None:
    """A text of 8 MiB before the pixels."""
    visit.put("a.dcm", image(1, raw={0x00204000: element(0x00204000, "UT", b"x" * (8 << 20))}))
