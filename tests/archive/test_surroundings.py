"""The same bytes whatever the settings of the machine and the form of the input."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from icf_utils.archive.stage import make_studyvisit_archive
from tests.archive.reference import reference_archive
from tests.data.make_dicom import dicom_bytes, write_visit


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A visit with names that are easily garbled, times near a clock change, and companions."""
    folder = tmp_path_factory.mktemp("surroundings") / "in"
    write_visit(folder, {1: ("localizer", 2), 2: ("t1 mprage", 2)}, companions={"a first.txt": b"1", "z/last": b"2"})
    times = ("023000.5", "013000", "120000")
    names = ("Sch\u00e4del.dcm", "\u982d\u90e8/\U0001f9e0.dcm", "e\u0301.dcm")
    for number, (name, clock) in enumerate(zip(names, times, strict=True), 10):
        path = os.path.join(os.fsencode(folder), name.encode())
        put(path, dicom_bytes(InstanceNumber=number, StudyDate="20240331", StudyTime=clock))
    put(os.path.join(os.fsencode(folder), b"Sch\xe4del.dcm"), dicom_bytes(InstanceNumber=20, StudyTime="1"))
    put(os.path.join(os.fsencode(folder), b"back\\slash\nline.dcm"), dicom_bytes(InstanceNumber=21))
    return folder


def put(path: bytes, data: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "xb") as handle:
        handle.write(data)


@pytest.fixture(scope="module")
def expected(visit: Path) -> str:
    return hashlib.md5(reference_archive(visit, "study_visit")).hexdigest()


def run(source: Path | str, store: Path, *options: str, preparation: str = "", **environment: str) -> str:
    """Archive in a separate process; returns the MD5 of the archive."""
    program = f"import os, sys\n{preparation}\nfrom icf_utils.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    command = ["make_studyvisit_archive", "-o", str(store), "--id", "study", "visit", "--json", *options, str(source)]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *command],
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "ICF_NEW_STORE": "1", **environment},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    md5 = str(json.loads(done.stdout)["result"]["md5"])
    archive = (store / "study" / "visit_dicom.tar").read_bytes()
    assert hashlib.md5(archive).hexdigest() == md5
    return md5


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"])
def test_zone_of_the_machine(visit: Path, expected: str, tmp_path: Path, zone: str) -> None:
    assert run(visit, tmp_path, TZ=zone) == expected


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_umask(visit: Path, expected: str, tmp_path: Path, mask: int) -> None:
    assert run(visit, tmp_path, preparation=f"os.umask({mask})") == expected
    modes = [
        (tmp_path / "study" / name).stat().st_mode & 0o777 for name in ("visit_dicom.tar", "visit_dicom.tar.md5sum")
    ]
    assert modes == [0o666 & ~mask] * 2


@pytest.fixture(scope="module")
def latin_locale(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """A locale whose character set is ISO-8859-1, made here."""
    if not shutil.which("localedef"):
        pytest.skip("localedef is not installed")
    place = tmp_path_factory.mktemp("locales")
    command = ["localedef", "-i", "de_DE", "-f", "ISO-8859-1", "--no-warnings=ascii", str(place / "de_DE.ISO-8859-1")]
    done = subprocess.run(command, capture_output=True, check=False)
    if not (place / "de_DE.ISO-8859-1" / "LC_CTYPE").exists():
        pytest.skip(f"no locale could be made: {done.stderr.decode(errors='replace')[-200:]}")
    return {"LOCPATH": str(place), "LC_ALL": "de_DE.ISO-8859-1"}


PLAIN = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("settings", [{"LC_ALL": "C"}, {"LC_ALL": "C", **PLAIN}, {"LC_ALL": "C.UTF-8"}])
def test_locale(visit: Path, expected: str, tmp_path: Path, settings: dict[str, str]) -> None:
    assert run(visit, tmp_path, **settings) == expected


def test_latin_locale(visit: Path, expected: str, tmp_path: Path, latin_locale: dict[str, str]) -> None:
    settings = {**latin_locale, **PLAIN}
    check = "assert sys.getfilesystemencoding() == 'iso8859-1', sys.getfilesystemencoding()"
    assert run(visit, tmp_path / "store", preparation=check, **settings) == expected
    # the input itself with a name outside ASCII, and packed
    copy = tmp_path / "\u00fcbung"
    shutil.copytree(visit, copy)
    assert run(copy, tmp_path / "second", **settings) == expected
    packed = pack_tar(copy, tmp_path / "\u00e4.tar")
    assert run(packed, tmp_path / "third", **settings) == expected


def test_order_of_creation_and_file_attributes(visit: Path, expected: str, tmp_path: Path) -> None:
    copy = tmp_path / "in"
    names = [os.path.join(place, name) for place, _, files in os.walk(os.fsencode(visit)) for name in files]
    random.Random(1).shuffle(names)
    for number, name in enumerate(names):
        path = os.path.join(os.fsencode(copy), os.path.relpath(name, os.fsencode(visit)))
        with open(name, "rb") as handle:
            put(path, handle.read())
        os.chmod(path, [0o600, 0o755, 0o4755, 0o444, 0o777][number % 5])
        os.utime(path, (number * 10**8, number * 10**8 + 0.25))
        if os.geteuid() == 0:
            os.chown(path, 1000 + number, 2000 + number)
    assert run(copy, tmp_path / "store") == expected


def test_hard_links_and_links_inside(visit: Path, expected: str, tmp_path: Path) -> None:
    copy = tmp_path / "in"
    shutil.copytree(visit, copy)
    image = copy / "01_localizer" / "0001.dcm"
    twin, third = copy / "02_t1_mprage" / "twin.dcm", copy / "third.dcm"
    shutil.copyfile(image, twin)
    shutil.copyfile(image, third)
    plain = run(copy, tmp_path / "plain")
    assert plain != expected
    twin.unlink()
    third.unlink()
    os.link(image, twin)
    third.symlink_to("02_t1_mprage/../01_localizer/0001.dcm")
    assert run(copy, tmp_path / "linked") == plain


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user(
    visit: Path, expected: str, open_tmp_path: Path, as_nobody: Callable[[], AbstractContextManager[None]]
) -> None:
    shutil.copytree(visit, open_tmp_path / "in")
    with as_nobody():
        result = make_studyvisit_archive(open_tmp_path / "in", open_tmp_path / "store", "study", "visit")
    assert result.md5 == expected
    assert result.archive.path.stat().st_uid != 0


# -- packed inputs


def pack_tar(folder: Path, path: Path, mode: str = "w", prefix: bool = True, **options: int) -> Path:
    with tarfile.open(path, mode, encoding="utf-8", errors="surrogateescape", **options) as archive:  # type: ignore[call-overload]
        root = os.fsencode(folder)
        for place, _, files in os.walk(root):
            for name in [b"", *files] if prefix else files:
                full = os.path.join(place, name).rstrip(b"/")
                relative = os.path.relpath(full, root).decode("utf-8", "surrogateescape")
                info = archive.gettarinfo(os.fsdecode(full))
                info.name = f"./{relative}" if prefix else relative
                if info.isreg():
                    with open(full, "rb") as handle:
                        archive.addfile(info, handle)
                else:
                    archive.addfile(info)
    return path


def by_program(command: Sequence[str | bytes], folder: Path, path: Path) -> Path:
    """Pack with a program, in the folder."""
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]!r} is not installed")
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return path


def zstd(folder: Path, path: Path) -> Path:
    import zstandard

    plain = pack_tar(folder, path.with_suffix(".plain")).read_bytes()
    half = len(plain) // 2
    one, two = zstandard.ZstdCompressor(write_checksum=True), zstandard.ZstdCompressor(write_content_size=False)
    path.write_bytes(one.compress(plain[:half]) + b"\x50\x2a\x4d\x18\2\0\0\0xx" + two.compress(plain[half:]))
    return path


def two_gzip_members(folder: Path, path: Path) -> Path:
    plain = pack_tar(folder, path.with_suffix(".plain")).read_bytes()
    path.write_bytes(gzip.compress(plain[:999]) + gzip.compress(plain[999:]))
    return path


PACKINGS: dict[str, Callable[[Path, Path], Path]] = {
    "tar-with-dot-and-folders": pack_tar,
    "tar-without": lambda folder, path: pack_tar(folder, path, prefix=False),
    "tar-gnu-format": lambda folder, path: pack_tar(folder, path, format=tarfile.GNU_FORMAT),
    "tar-gz": lambda folder, path: pack_tar(folder, path, "w:gz"),
    "tar-bz2": lambda folder, path: pack_tar(folder, path, "w:bz2"),
    "tar-xz": lambda folder, path: pack_tar(folder, path, "w:xz"),
    "tar-zst-of-three-frames": zstd,
    "tar-gz-of-two-members": two_gzip_members,
    "gnu-tar": lambda folder, path: by_program(["tar", "-cf", str(path), "."], folder, path),
    "gnu-tar-posix": lambda folder, path: by_program(["tar", "--format=posix", "-cf", str(path), "."], folder, path),
    "gnu-tar-v7-gz": lambda folder, path: by_program(["tar", "--format=v7", "-czf", str(path), "."], folder, path),
    "zip-stored": lambda folder, path: by_program(["zip", "-q", "-0", "-r", str(path), "."], folder, path),
    "zip-deflated": lambda folder, path: by_program(["zip", "-q", "-r", str(path), "."], folder, path),
    "zip-without-folders": lambda folder, path: by_program(["zip", "-q", "-D", "-r", str(path), "."], folder, path),
}


@pytest.mark.parametrize("packing", PACKINGS)
def test_packed(visit: Path, expected: str, tmp_path: Path, packing: str) -> None:
    suffix = ".zip" if packing.startswith("zip") else ".packed"
    path = PACKINGS[packing](visit, tmp_path / f"visit{suffix}")
    result = make_studyvisit_archive(path, tmp_path / "store", "study", "visit")
    assert result.md5 == expected
    assert [(notice.code, notice.subject) for notice in result.notices] == [
        ("windows-name", "back\\slash\nline.dcm"),
        ("no-study-time", "Sch\udce4del.dcm"),
    ]
    assert sorted(os.listdir(tmp_path / "store" / "study")) == [
        "visit_SHA256SUMS",
        "visit_dicom.tar",
        "visit_dicom.tar.md5sum",
    ]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zipfile(tmp_path: Path, method: int) -> None:
    write_visit(tmp_path / "in", {1: ("a", 3)}, companions={"Sch\u00e4del\U0001f9e0.txt": b"x" * 5000, "leer": b""})
    with zipfile.ZipFile(tmp_path / "packed", "w", method) as archive:
        for path in sorted((tmp_path / "in").rglob("*"), reverse=True):
            archive.write(path, path.relative_to(tmp_path / "in"))
    result = make_studyvisit_archive(tmp_path / "packed", tmp_path / "store", "study", "visit")
    assert result.archive.path.read_bytes() == reference_archive(tmp_path / "in", "study_visit")


def test_strip_components(visit: Path, expected: str, tmp_path: Path) -> None:
    deep = tmp_path / "deep"
    shutil.copytree(visit, deep / "export" / "0815")
    packed = pack_tar(deep, tmp_path / "packed.tar", prefix=False)
    result = make_studyvisit_archive(packed, tmp_path / "store", "study", "visit", strip=2)
    assert result.md5 == expected


def test_links_inside_a_tar(tmp_path: Path) -> None:
    source = tmp_path / "in"
    write_visit(source, {1: ("a", 2)})
    image = (source / "01_a" / "0001.dcm").read_bytes()
    for name in ("hard.dcm", "soft.dcm", "soft_of_soft.dcm"):
        (source / name).write_bytes(image)
    expected = reference_archive(source, "study_visit")
    for name in ("hard.dcm", "soft.dcm", "soft_of_soft.dcm"):
        (source / name).unlink()
    os.link(source / "01_a" / "0001.dcm", source / "hard.dcm")
    (source / "soft.dcm").symlink_to("./01_a/0001.dcm")
    (source / "soft_of_soft.dcm").symlink_to("01_a/../soft.dcm")
    with tarfile.open(tmp_path / "packed", "w") as archive:
        archive.add(source, ".")
        assert sorted(info.name for info in archive if info.issym() or info.islnk()) == [
            "./hard.dcm",
            "./soft.dcm",
            "./soft_of_soft.dcm",
        ]
    result = make_studyvisit_archive(tmp_path / "packed", tmp_path / "store", "study", "visit")
    assert result.archive.path.read_bytes() == expected
    zipped = by_program(["zip", "-q", "-y", "-r", str(tmp_path / "packed.zip"), "."], source, tmp_path / "packed.zip")
    result = make_studyvisit_archive(zipped, tmp_path / "second", "study", "visit")
    assert result.archive.path.read_bytes() == expected


@pytest.mark.parametrize("form", [["--format=gnu"], ["--format=posix", "--sparse-version=0.1"], ["--format=posix"]])
def test_sparse_members(tmp_path: Path, form: list[str]) -> None:
    """``tar -S`` stores holes as a map."""
    source = tmp_path / "in"
    source.mkdir()
    image = source / "sparse.dcm"
    image.write_bytes(dicom_bytes(PixelData=bytes(2 << 20))[: -(2 << 20)])
    os.truncate(image, image.stat().st_size + (2 << 20))
    (source / "other.dcm").write_bytes(dicom_bytes(InstanceNumber=2))
    packed = by_program(["tar", "-S", *form, "-cf", str(tmp_path / "packed"), "."], source, tmp_path / "packed")
    if packed.stat().st_size > 1 << 20:
        pytest.skip("the file system keeps no holes")
    result = make_studyvisit_archive(packed, tmp_path / "store", "study", "visit")
    assert result.archive.path.read_bytes() == reference_archive(source, "study_visit")
    again = make_studyvisit_archive(source, tmp_path / "store", "study", "visit")
    assert again.archive.state == "unchanged"


def test_unicode_path_field_of_a_zip(tmp_path: Path) -> None:
    """A name in an old code page, with the right name in an extra field: the same in every Python version."""
    import struct
    import zlib

    path = tmp_path / "packed.zip"
    raw = "Sch\u00e4del.dcm".encode("cp850")
    info = zipfile.ZipInfo(raw.decode("cp437"))
    info.create_system = 0
    meant = "Sch\u00e4del \U0001f9e0.dcm".encode()
    info.extra = struct.pack("<HHBL", 0x7075, 5 + len(meant), 1, zlib.crc32(raw)) + meant
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, dicom_bytes())
    data = path.read_bytes()
    # zipfile wrote the name in UTF-8 and said so; put the old bytes in their place
    written = raw.decode("cp437").encode()
    assert data.count(written) == 2
    padded = raw[:-4] + b"_" * (len(written) - len(raw)) + raw[-4:]
    data = data.replace(written, padded).replace(
        struct.pack("<L", zlib.crc32(raw)), struct.pack("<L", zlib.crc32(padded))
    )
    for signature, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        place = data.index(signature) + at
        data = data[:place] + b"\0\0" + data[place + 2 :]
    path.write_bytes(data)
    result = make_studyvisit_archive(path, tmp_path / "store", "study", "visit")
    with tarfile.open(result.archive.path) as archive_made:
        assert archive_made.getnames() == ["study_visit/Sch\u00e4del \U0001f9e0.dcm"]
