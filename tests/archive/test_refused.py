"""Inputs that cannot become an archive are refused by name; nothing is written, and existing files stay untouched."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from icf_utils.archive.stage import make_studyvisit_archive
from icf_utils.errors import IcfError, InputRefused, InvalidIdentifier, InvalidSetting, StorageFailure
from tests.archive.reference import reference_archive
from tests.data.make_dicom import dicom_bytes, write_visit


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Everything below a folder: mode, time, content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_mtime_ns if content else 0, content)
    return found


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store in which the study already has another visit."""
    write_visit(tmp_path / "earlier", {1: ("a", 1)})
    make_studyvisit_archive(tmp_path / "earlier", tmp_path / "store", "study", "earlier")
    return tmp_path / "store"


@contextmanager
def refused(store: Path, kind: type[IcfError] = InputRefused) -> Iterator[pytest.ExceptionInfo[IcfError]]:
    """The block is refused, and the store does not change."""
    before = snapshot(store)
    with pytest.raises(kind) as caught:
        yield caught
    assert snapshot(store) == before


def refusals(source: Path, store: Path) -> dict[str, str]:
    """The names and reasons of a refusal."""
    with refused(store) as caught:
        make_studyvisit_archive(source, store, "study", "visit")
    assert isinstance(caught.value, InputRefused)
    assert caught.value.exit_code == 3
    assert "nothing was written" in str(caught.value)
    return dict(caught.value.refusals)


BAD_IDENTIFIERS = [
    *("", ".", "..", "../x", "a/b", "/etc", ".hidden", "-o", "a b", "a\nb", "x\n", "a\0b", "+catalog", "x" * 101),
    *("\u0663", "\u00e4", "\u212a", "a\\b", "a:b", "%2e", "~", "\udcff", "caf\u00e9", "a*"),
]


@pytest.mark.parametrize("identifier", BAD_IDENTIFIERS)
@pytest.mark.parametrize("which", ["study", "visit"])
def test_identifiers(store: Path, identifier: str, which: str) -> None:
    names = {"study": "study", "visit": "visit", which: identifier}
    with refused(store, InvalidIdentifier) as caught:
        make_studyvisit_archive(store.parent / "earlier", store, names["study"], names["visit"])
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert f"the {which} identifier" in message
    assert InvalidIdentifier.RULE in message
    assert message.isprintable()


@pytest.mark.parametrize("identifier", ["a", "_", "0", "A.b-c_d", "x" * 100, "a.", "CON", "a..b"])
def test_allowed_identifiers(tmp_path: Path, identifier: str) -> None:
    write_visit(tmp_path / "in", {1: ("a", 1)})
    result = make_studyvisit_archive(tmp_path / "in", tmp_path / "store", identifier, identifier)
    assert result.archive.path == tmp_path / "store" / identifier / f"{identifier}_dicom.tar"
    assert result.archive.path.read_bytes() == reference_archive(tmp_path / "in", f"{identifier}_{identifier}")


def test_no_input(store: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path / "earlier" / "01_a" / "0001.dcm" / "below"):
        assert refusals(path, store) == {str(path): "does not exist"}


def test_empty_folder(store: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert refusals(tmp_path / "in", store) == {str(tmp_path / "in"): "contains no files"}


def test_only_empty_folders(store: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "a" / "b").mkdir(parents=True)
    assert refusals(tmp_path / "in", store) == {str(tmp_path / "in"): "contains no files"}


def test_a_device_as_input(store: Path) -> None:
    assert refusals(Path("/dev/null"), store) == {"/dev/null": "is neither a folder nor a file"}


def test_a_pipe_as_input(store: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert set(refusals(tmp_path / "pipe", store)) == {str(tmp_path / "pipe")}


@pytest.mark.parametrize("content", [b"", b"text\n", b"\0" * 10240, b"PK\5\6" + bytes(18)])
def test_a_file_that_is_not_a_packed_visit(store: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert set(refusals(tmp_path / "file", store)) == {str(tmp_path / "file")}


def test_a_single_image(store: Path, tmp_path: Path) -> None:
    (tmp_path / "image.dcm").write_bytes(dicom_bytes())
    assert set(refusals(tmp_path / "image.dcm", store)) == {str(tmp_path / "image.dcm")}


def test_links(store: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    write_visit(source, {1: ("real", 1)})
    (tmp_path / "in-outside").mkdir()
    (tmp_path / "in-outside" / "secret").write_bytes(b"secret")
    links = {
        "folder": "01_real",
        "up": "..",
        "itself": ".",
        "dangling": "nowhere",
        "loop1": "loop2",
        "loop2": "loop1",
        "self": "self",
        "outside": "../in-outside/secret",
        "absolute": "/etc/hostname",
        "device": "/dev/null",
        "into_a_file": "01_real/0001.dcm/x",
        "to_dangling": "dangling",
    }
    for name, target in links.items():
        (source / name).symlink_to(target)
    reasons = refusals(source, store)
    assert set(reasons) == set(links)
    assert reasons["folder"] == "is a symbolic link to a folder"
    assert reasons["dangling"] == reasons["loop1"] == reasons["self"] == "is a broken symbolic link"
    for name in ("up", "outside", "absolute", "device"):
        assert reasons[name] == "is a symbolic link to a place outside the input"


def test_a_link_as_input_is_followed(tmp_path: Path) -> None:
    write_visit(tmp_path / "real", {1: ("a", 1)})
    (tmp_path / "link").symlink_to("real")
    result = make_studyvisit_archive(tmp_path / "link", tmp_path / "store", "study", "visit")
    assert result.archive.path.read_bytes() == reference_archive(tmp_path / "real", "study_visit")


def test_special_files(store: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    write_visit(source, {1: ("a", 1)})
    os.mkfifo(source / "pipe.dcm")
    expected = {"pipe.dcm": "is a named pipe", "socket": "is a socket"}
    with socket.socket(socket.AF_UNIX) as listener:
        # a relative name: the whole path may be longer than a socket's may be
        descriptor = os.open(source, os.O_RDONLY)
        try:
            listener.bind(f"/proc/self/fd/{descriptor}/socket")
        finally:
            os.close(descriptor)
    if os.geteuid() == 0:
        try:
            os.mknod(source / "device", 0o600 | 0o020000, os.makedev(1, 3))
            expected["device"] = "is a device"
        except PermissionError:  # a container may not
            pass
    assert refusals(source, store) == expected


def test_unreadable_files_and_folders(
    open_tmp_path: Path, as_nobody: Callable[[], AbstractContextManager[None]]
) -> None:
    source, store = open_tmp_path / "in", open_tmp_path / "store"
    write_visit(source, {1: ("a", 2), 2: ("closed", 1), 3: ("listed", 1)})
    make_studyvisit_archive(source, open_tmp_path / "warm-up", "study", "visit")
    with as_nobody():
        store.mkdir()
    (source / "01_a" / "0001.dcm").chmod(0)
    (source / "02_closed").chmod(0)
    (source / "03_listed").chmod(0o444)
    try:
        with as_nobody():
            reasons = refusals(source, store)
    finally:
        (source / "02_closed").chmod(0o755)
        (source / "03_listed").chmod(0o755)
    assert reasons == {
        "01_a/0001.dcm": "cannot be read (no permission)",
        "02_closed": "cannot be read as a folder (Permission denied)",
        "03_listed/0001.dcm": "cannot be examined (Permission denied)",
    }


def test_unreadable_input(open_tmp_path: Path, as_nobody: Callable[[], AbstractContextManager[None]]) -> None:
    source, store = open_tmp_path / "packed.tar", open_tmp_path / "store"
    source.write_bytes(b"")
    source.chmod(0)
    with as_nobody():
        store.mkdir()
        with refused(store, StorageFailure) as caught:
            make_studyvisit_archive(source, store, "study", "visit")
    assert str(source) in str(caught.value)
    assert "Permission denied" in str(caught.value)


def test_a_store_that_cannot_be_written(
    open_tmp_path: Path, as_nobody: Callable[[], AbstractContextManager[None]]
) -> None:
    write_visit(open_tmp_path / "in", {1: ("a", 1)})
    store = open_tmp_path / "store"
    (store / "study").mkdir(parents=True)
    (store / "study").chmod(0o555)
    with as_nobody(), refused(store, StorageFailure) as caught:
        make_studyvisit_archive(open_tmp_path / "in", store, "study", "visit")
    assert caught.value.exit_code == 6
    assert str(store / "study" / ".icf") in str(caught.value)


@pytest.mark.parametrize("below", ["", "deeper", "in/../deeper"])
def test_a_store_inside_the_input(tmp_path: Path, below: str) -> None:
    source = tmp_path / "in"
    write_visit(source, {1: ("a", 1)})
    before = snapshot(source)
    for store in (source / below, tmp_path / "link" / below):
        if not (tmp_path / "link").exists():
            (tmp_path / "link").symlink_to(source)
        with pytest.raises(InputRefused, match="contains the folder that the archive is written to"):
            make_studyvisit_archive(source, store, "study", "visit")
    assert snapshot(source) == before


def test_the_study_itself_as_input(tmp_path: Path) -> None:
    write_visit(tmp_path / "store" / "study", {1: ("a", 1)})
    with pytest.raises(InputRefused):
        make_studyvisit_archive(tmp_path / "store" / "study", tmp_path / "store", "study", "visit")


def test_an_input_inside_the_store(tmp_path: Path) -> None:
    source = tmp_path / "store" / "study" / "incoming"
    write_visit(source, {1: ("a", 1)})
    result = make_studyvisit_archive(source, tmp_path / "store", "study", "visit")
    assert result.archive.path.read_bytes() == reference_archive(source, "study_visit")


@pytest.mark.parametrize(
    "zone",
    [
        "",
        "Nowhere",
        "../../etc/passwd",
        "/etc/localtime",
        "localtime",
        "posixrules",
        "Europe",
        "Europe/Berlin\n",
        "a\0b",
        "\udcff",
        "Z" * 999,
    ],
)
def test_unknown_zones(store: Path, zone: str) -> None:
    with refused(store, InvalidSetting) as caught:
        make_studyvisit_archive(store.parent / "earlier", store, "study", "visit", time_zone=zone)
    assert "--timezone" in str(caught.value)


def test_strip_components_of_a_folder(store: Path) -> None:
    with refused(store, InvalidSetting):
        make_studyvisit_archive(store.parent / "earlier", store, "study", "visit", strip=1)


def test_a_folder_under_the_name_of_the_archive(tmp_path: Path) -> None:
    write_visit(tmp_path / "in", {1: ("a", 1)})
    (tmp_path / "store" / "study" / "visit_dicom.tar").mkdir(parents=True)
    with refused(tmp_path / "store", StorageFailure) as caught:
        make_studyvisit_archive(tmp_path / "in", tmp_path / "store", "study", "visit")
    assert "visit_dicom.tar" in str(caught.value)


def test_a_message_names_twenty_and_counts_the_rest(store: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(30):
        (tmp_path / "in" / f"link{number:02}\x1b[31m\n").symlink_to("nowhere")
    with refused(store) as caught:
        make_studyvisit_archive(tmp_path / "in", store, "study", "visit")
    assert isinstance(caught.value, InputRefused)
    assert len(caught.value.refusals) == 30
    message = str(caught.value)
    assert message.count("is a broken symbolic link") == 20
    assert "and 10 more" in message
    assert all(line.isprintable() for line in message.splitlines())
    assert len(message.splitlines()) < 25


# -- inputs that are odd and become archives all the same


def notice_codes(source: Path, tmp_path: Path) -> dict[str, list[str]]:
    """Subjects by notice code, for an archive that equals the reference."""
    result = make_studyvisit_archive(source, tmp_path / "store", "study", "visit")
    assert result.archive.path.read_bytes() == reference_archive(source, "study_visit")
    codes: dict[str, list[str]] = {}
    for notice in result.notices:
        codes.setdefault(notice.code, []).append(notice.subject)
    return codes


def test_no_dicom_at_all(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_bytes(b"a")
    label = str(tmp_path / "in")
    assert notice_codes(tmp_path / "in", tmp_path) == {"no-dicom": [label], "no-time": [label]}


@pytest.mark.parametrize(
    ("date", "clock"),
    [
        *((None, "101112"), ("", "101112"), ("***", "101112"), ("20230230", "101112"), ("20231301", "101112")),
        *(("2020-02-29", "101112"), ("20200229-20200301", "101112"), ("20200229\\20200301", "101112")),
        *(("202002", "101112"), ("00000101", "101112"), ("\u0662", "101112"), (b"\xff\xfe20200", "101112")),
        *(("20200229", None), ("20200229", ""), ("20200229", "***"), ("20200229", "11:25:01"), ("20200229", "256199")),
        *(("20200229", "101112.1234567"), ("20200229", "101112\\101113"), ("20200229", "1"), ("20200229", "101")),
        *(("20200229", "101161"), ("20200229", "101112-101113"), ("20200229", "101112,5")),
    ],
)
def test_unusable_study_times(tmp_path: Path, date: str | None, clock: str | None) -> None:
    source = tmp_path / "in"
    source.mkdir()
    if isinstance(date, str) and not date.isascii():
        date = date.encode()  # type: ignore[assignment]
    (source / "a.dcm").write_bytes(dicom_bytes(StudyDate=date, StudyTime=clock))
    (source / "b.dcm").write_bytes(dicom_bytes(InstanceNumber=2, StudyTime="101113"))
    (source / "c.dcm").write_bytes(dicom_bytes(InstanceNumber=3, StudyTime="101112"))
    assert notice_codes(source, tmp_path) == {"no-study-time": ["a.dcm"]}


def test_no_image_with_a_time(tmp_path: Path) -> None:
    write_visit(tmp_path / "in", {1: ("a", 2)}, StudyDate=None)
    codes = notice_codes(tmp_path / "in", tmp_path)
    assert codes == {"no-study-time": ["01_a/0001.dcm", "01_a/0002.dcm"], "no-time": [str(tmp_path / "in")]}


def test_names_that_clash_and_empty_folders(tmp_path: Path) -> None:
    source = tmp_path / "in"
    for name in ("Sub/a.dcm", "sub/a.dcm", "IM1", "im1", "full/x/y"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(dicom_bytes())
    if len(list(source.iterdir())) != 5:
        pytest.skip("this file system knows no upper and lower case")
    (source / "empty" / "inner").mkdir(parents=True)
    (source / "full" / "hollow").mkdir()
    assert notice_codes(source, tmp_path) == {
        "case-clash": ["im1", "sub/a.dcm"],
        "empty-folder": ["empty", "empty/inner", "full/hollow"],
    }


@pytest.mark.parametrize(
    ("study", "visit", "named"), [("CON", "v.", ["CON", "v."]), ("s", "v.1", []), ("x.", "x.", ["x."])]
)
def test_identifiers_that_windows_cannot_have(tmp_path: Path, study: str, visit: str, named: list[str]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.dcm").write_bytes(dicom_bytes())
    result = make_studyvisit_archive(tmp_path / "in", tmp_path / "store", study, visit)
    assert [notice.subject for notice in result.notices if notice.code == "windows-name"] == named


def test_a_truncated_image_is_kept(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "whole.dcm").write_bytes(dicom_bytes())
    (source / "pixels.dcm").write_bytes(dicom_bytes(InstanceNumber=2)[:-1])
    (source / "header.dcm").write_bytes(dicom_bytes(InstanceNumber=3)[:400])
    shutil.copyfile(source / "whole.dcm", source / "copy.dcm")
    codes = notice_codes(source, tmp_path)
    assert codes["cut-dicom"] == ["header.dcm", "pixels.dcm"]
