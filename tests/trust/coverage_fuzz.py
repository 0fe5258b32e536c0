"""Coverage-guided fuzzing of the readers of bytes, with atheris, by hand:

``python -m tests.trust.coverage_fuzz READER FOLDER -max_total_time=600``

The options are those of libFuzzer. ``FOLDER`` gets the inputs that reach new code. ``tests/trust/corpus/READER`` has
the kept ones, over which the tests run (``tests/trust/test_coverage_fuzz.py``). To keep those of a folder, merge them:
``python -m tests.trust.coverage_fuzz READER tests/trust/corpus/READER FOLDER -merge=1``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from icf_utils.errors import IcfError

CORPUS = Path(__file__).with_name("corpus")

#: The longest input (bytes).
LONGEST = 4096


def _refusable(read: Callable[[], object]) -> None:
    """Read what may be refused, in words without control characters."""
    text = ""
    try:
        read()
    except IcfError as error:
        text = str(error)
    assert "\x1b" not in text


def _image(data: bytes) -> None:
    from icf_utils.dicom.elements import SEQUENCES, Element
    from icf_utils.dicom.header import FACT_TAGS, IDENTITY_TAGS, file_kind, read_head
    from icf_utils.dicom.values import convert_value

    place = 0

    def read(size: int) -> bytes:
        nonlocal place
        place += size
        return data[place - size : place]

    _, found = read_head(read, len(data), FACT_TAGS | IDENTITY_TAGS | SEQUENCES | {0x00080005, 0x00081030, 0x00180081})
    file_kind(found)
    for tag, element in found.elements.items():
        assert isinstance(element, Element)
        convert_value(tag, element.vr, element.raw, (), found.big_endian, True)


def _tar(data: bytes) -> None:
    from icf_utils.archive.reader import DamagedTar, read_header_time, read_members

    def read(position: int, size: int) -> bytes:
        found = data[position : position + size]
        if len(found) < size:
            raise DamagedTar("more", "the end")
        return found

    def count(*, any_names: bool) -> None:
        with suppress(DamagedTar):
            assert sum(1 for _ in read_members(read, any_names=any_names)) <= len(data) // 512

    count(any_names=False)
    count(any_names=True)
    read_header_time(data)


def _metadata(data: bytes) -> None:
    from icf_utils.metadata.history import parse_history
    from icf_utils.metadata.records import VisitMetadata, check_metadata, parse_images, parse_tarball
    from icf_utils.metadata.visit_list import parse_visit_list
    from icf_utils.outputs.provenance import parse_provenance
    from icf_utils.store.layout import Visit

    place = Visit(Path(), "s", "v")
    tarball = parse_tarball(b'{"size": 9999, "md5": "%s", "dspath": "", "storepath": ""}' % (b"0" * 32), "x")
    for read in (
        lambda: parse_tarball(data, "x"),
        lambda: check_metadata(VisitMetadata(tarball, parse_images(data, "x")), place),
        lambda: parse_history(data, "x"),
        lambda: parse_visit_list(data, "x"),
        lambda: parse_provenance(data, place, "p", "x"),
    ):
        _refusable(read)


def _lists(data: bytes) -> None:
    from icf_utils.archive.checksum import parse_checksum
    from icf_utils.metadata.allowlist import parse_allow_list
    from icf_utils.store.sums import format_sums, parse_sums, read_lines

    read_lines(data)
    for read in (
        lambda: parse_checksum(data, "v_dicom.tar", "x"),
        lambda: parse_allow_list(data.decode("utf-8", "replace"), "x"),
    ):
        _refusable(read)
    assert format_sums(parse_sums(data, "x")) == data


def _settings(data: bytes) -> None:
    from icf_utils.settings import parse_settings

    parse_settings(data, "x")


def _page(data: bytes) -> None:
    from icf_utils.catalog.study import parse_study_page

    parse_study_page(data, "x")


def _export(data: bytes) -> None:
    from icf_utils.dataset.reader import parse_dataset
    from icf_utils.store.layout import Visit

    parse_dataset(data[:200], data, Visit(Path(), "s", "v"))


def _bucket(data: bytes) -> None:
    from icf_utils.retrieve.cod import InvalidMetadata, read_series

    with suppress(InvalidMetadata):
        read_series(data, "1.2.3", "1.2.3.1", "http://x", ["Modality"])


#: What reads bytes, by name.
READERS: dict[str, Callable[[bytes], None]] = {
    "image": _image,
    "tar": _tar,
    "metadata": _metadata,
    "lists": _lists,
    "settings": _settings,
    "page": _page,
    "export": _export,
    "bucket": _bucket,
}


def attempt(reader: str, data: bytes) -> None:
    """Let a reader read; anything but an error of icf-utils is an error of it."""
    _refusable(lambda: READERS[reader](data))


def main() -> None:
    """Run libFuzzer; see the module's docstring."""
    atheris = importlib.import_module("atheris")
    reader, *words = sys.argv[1:]
    with atheris.instrument_imports(include=["icf_utils"]):
        attempt(reader, b"")
    (CORPUS / reader).mkdir(parents=True, exist_ok=True)
    folders = words if "-merge=1" in words else [*words[:1], str(CORPUS / reader), *words[1:]]
    atheris.Setup([sys.argv[0], *folders, f"-max_len={LONGEST}"], lambda data: attempt(reader, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
