"""Images in which every identifying element holds a marker, and the search for markers in what was made of them.

Identifying is what DICOM PS3.15 Table E.1-1 lists, person names and private elements. By design the six standard tags
and the study's time are recorded, and the three UIDs of an image stand in the metadata's JSON, and there alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from icf_utils.dataset.export import read_export
from icf_utils.dicom.confidentiality import profile_entries
from icf_utils.dicom.values import dictionary_vr
from icf_utils.metadata.records import STANDARD_TAGS
from tests.cli.program import Ran
from tests.data.make_dicom import dicom_bytes, element
from tests.trust.server import Ended

#: Recorded by design: the standard tags, and the time that the archive and the dataset have.
BY_DESIGN = {*STANDARD_TAGS, "StudyDate", "StudyTime"}
EXPLICIT = "1.2.840.10008.1.2.1"


def marker_of(tag: int, vr: str) -> bytes:
    if vr == "UI":
        return f"1.9999.{tag}".encode("ascii")
    return f"ZQ{tag:08X}".encode("ascii")


def _elements() -> dict[int, tuple[bytes, bytes]]:
    """Every element of the table that a data set can have, and a private one: its bytes and its marker."""
    found = {}
    for entry in profile_entries():
        tag, vr = entry.number, dictionary_vr(entry.number)
        if vr is None or tag >> 16 < 8 or entry.keyword in BY_DESIGN:
            continue
        vr = vr.split()[0]  # of several, any
        marker = marker_of(tag, vr)
        content = marker + (b"\0" if vr in ("UI", "OB", "UN") else b" ") * (len(marker) % 2)
        if vr == "SQ":
            inner = element(0x00100010, "PN", content, transfer_syntax=EXPLICIT)
            content = b"\xfe\xff\x00\xe0" + len(inner).to_bytes(4, "little") + inner
        found[tag] = (element(tag, vr, content, transfer_syntax=EXPLICIT), marker)
    for tag, vr in ((0x00090010, "LO"), (0x00091001, "LT")):
        marker = marker_of(tag, vr)
        found[tag] = (element(tag, vr, marker, transfer_syntax=EXPLICIT), marker)
    return found


ELEMENTS = _elements()
MARKERS = {marker for _, marker in ELEMENTS.values()}


#: Of SOPInstanceUID, StudyInstanceUID and SeriesInstanceUID.
UID_MARKERS = tuple(ELEMENTS[tag][1] for tag in (0x00080018, 0x0020000D, 0x0020000E))


def image(number: int) -> bytes:
    """An image with the head of an ordinary one and all these elements, in the order of their tags."""
    plain = {
        0x00080020: element(0x00080020, "DA", b"20200229", transfer_syntax=EXPLICIT),
        0x00080030: element(0x00080030, "TM", b"101112", transfer_syntax=EXPLICIT),
        0x00080060: element(0x00080060, "CS", b"MR", transfer_syntax=EXPLICIT),
        0x00080016: element(0x00080016, "UI", b"1.2.840.10008.5.1.4.1.1.4\0", transfer_syntax=EXPLICIT),
        0x0008103E: element(0x0008103E, "LO", b"series %d" % number, transfer_syntax=EXPLICIT),
        0x00200011: element(0x00200011, "IS", b"%d " % number, transfer_syntax=EXPLICIT),
    }
    every = {**{tag: data for tag, (data, _) in ELEMENTS.items()}, **plain}
    whole = dicom_bytes(transfer_syntax=EXPLICIT)
    meta = whole[: 132 + 12 + int.from_bytes(whole[140:144], "little")]
    return meta + b"".join(every[tag] for tag in sorted(every))


def markers_in(data: bytes, allowed: Sequence[bytes] = ()) -> set[bytes]:
    """Markers in the bytes; one pattern is looked for first, as there are hundreds."""
    if b"ZQ" not in data and b"1.9999." not in data:
        return set()
    return {marker for marker in MARKERS if marker in data} - set(allowed)


def leaks(folder: Path) -> list[tuple[str, set[bytes]]]:
    """Files with markers, but for archives, finished or not."""
    found = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name.endswith(("_dicom.tar", "_dicom.tar.part")):
            continue
        data = path.read_bytes()
        if path.name.endswith("_XDLRA--repo-export"):
            with suppress(ValueError):  # a damaged one; its objects are stored uncompressed all the same
                data += b"".join(item.data for item in read_export(data)[0].values())
        has_uids = "_metadata_dicoms.json" in path.name or path.parent.name == "handover"
        marked = markers_in(data, UID_MARKERS if has_uids else ())
        if marked or markers_in(os.fsencode(path.name)):
            found.append((str(path), marked))
    return found


def said(*ran: Ran | Ended, allowed: Sequence[bytes] = ()) -> None:
    for one in ran:
        assert not markers_in((one.out + one.err).encode("utf-8"), allowed), one
