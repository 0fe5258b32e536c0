"""What a command prints, where, and in which form."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import termios
from pathlib import Path

import pytest

from tests.cli.program import COMMANDS, PROGRAM, Inside, Ran, icf, stage_commands, surrounding
from tests.data.make_dicom import dicom_bytes, uid, write_visit
from tests.dataset.visits import ODD_NAMES
from tests.verify.stores import STUDY, URL, make_visit, write_input

_DONE = re.compile(r"[^\n]+: [^\n]+ in \d+\.\d s\n")


def test_plain(inside: Inside, source: Path, root: Path) -> None:
    """Results on standard output, one line per stage on standard error."""
    lines: list[tuple[str, ...]] = [
        (r".*/v1_dicom\.tar: {} \(5 DICOM files, 1 other file, .* kB, MD5 [0-9a-f]{{32}}\)",),
        (r".*_dicoms\.json: {}", r".*_tarball\.json: {}", "5 images described, 1 other file without a record"),
        (
            r".*--repo-export: {}",
            r".*--refs: {}",
            "dataset .{{36}} of 5 images; clone it with",
            r"  datalad clone 'datalad-annex::\?.*&url=https://data\.example\.org/store/.*' v1",
        ),
        (r".*/catalog: 5 images in 2 series of visit v1; \d+ files? written, \d+ unchanged",),
        (r"study-a/v1: everything is correct \(5 images\)",),
    ]
    for state in ("written", "unchanged"):
        for arguments, expected in zip(stage_commands(root, source), lines, strict=True):
            ran = inside(*arguments)
            assert ran.code == 0
            for line, pattern in zip(ran.out.splitlines(), expected, strict=True):
                assert re.fullmatch(pattern.format(state), line), (pattern, line)
            progress = [line for line in ran.err.splitlines() if not line.startswith("no record [not-dicom]")]
            is_handed_over = (state, arguments[0]) == ("written", "deposit_visit_metadata")
            assert len(progress) == (0 if is_handed_over else 1), "an archive that was just made is not read again"
            assert all(_DONE.fullmatch(line + "\n") for line in progress)


def test_json(inside: Inside, source: Path, root: Path) -> None:
    """One object on standard output and nothing on standard error."""
    fields = [
        {"archive", "checksum", "dicom_files", "md5", "notices", "other_files", "size", "study", "time", "visit"},
        {"files", "images", "notices", "skipped", "study", "visit"},
        {
            "annex_commit",
            "annex_url",
            "clone_url",
            "dataset_id",
            "files",
            "images",
            "main_commit",
            "notices",
            "study",
            "visit",
        },
        {
            "catalog",
            "dataset_id",
            "files_unchanged",
            "files_written",
            "images",
            "notices",
            "previews",
            "series",
            "study",
            "visit",
        },
        {"visits", "left"},
    ]
    for arguments, expected in zip(stage_commands(root, source), fields, strict=True):
        ran = inside(*arguments, "--json")
        assert (ran.code, ran.err) == (0, "")
        assert (ran.json["command"], ran.json["ok"]) == (arguments[0], True)
        assert set(ran.json) == {"command", "ok", "result"}
        assert set(ran.json["result"]) == expected
    assert ran.json["result"]["visits"] == [
        {"study": STUDY, "visit": "v1", "images": 5, "absent": [], "findings": [], "notices": [], "signed_by": ""}
    ]


def test_quiet(inside: Inside, source: Path, root: Path) -> None:
    """Silence where all is well, although a file has no record."""
    for arguments in stage_commands(root, source):
        assert inside(*arguments, "-q") == Ran(0, "", "")


def test_quiet_with_warnings(inside: Inside, source: Path, root: Path) -> None:
    (source / "late.dcm").write_bytes(dicom_bytes(StudyDate="***", InstanceNumber=77))
    ran = inside(*stage_commands(root, source)[0], "--quiet")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.startswith("warning [no-study-time]: 'late.dcm': ")
    assert ran.err.count("\n") == 1


def test_warnings_of_a_run_name_their_visits(inside: Inside, tmp_path: Path, root: Path) -> None:
    for visit in (1, 2):
        write_visit(tmp_path / f"v{visit}", {1: ("x", 1)}, StudyInstanceUID=uid(visit))
        (tmp_path / f"v{visit}" / "aux.txt").write_text("x")
    (tmp_path / "t.csv").write_text(f"study,visit,input\ns,v1,{tmp_path / 'v1'}\ns,v2,{tmp_path / 'v2'}\n")
    ran = inside("run", "-o", root, "--table", tmp_path / "t.csv", "--until", "metadata")
    assert "warning [windows-name]: 's/v1: aux.txt', 's/v2: aux.txt': cannot be" in ran.err


def test_quiet_verify_names_the_wrong_visits_only(inside: Inside, source: Path, root: Path) -> None:
    make_visit(source, root)
    make_visit(source, root, "v2").checksum.write_text("")
    ran = inside("verify", "-o", root, "-q")
    assert (ran.code, ran.err) == (1, "")
    assert ran.out.startswith("study-a/v2: 1 problem (5 images)\n  '")


def test_warnings_of_a_kind_stand_together(inside: Inside, tmp_path: Path, root: Path) -> None:
    write_visit(tmp_path / "in", {1: ("x", 8)}, StudyDate=None)
    ran = inside(*stage_commands(root, tmp_path / "in")[0])
    (line,) = [line for line in ran.err.splitlines() if line.startswith("warning [no-study-time]")]
    assert line.count(".dcm'") == 5
    assert " and 3 more: " in line
    notices = inside(*stage_commands(root, tmp_path / "in")[0], "--json").json["result"]["notices"]
    assert len([notice for notice in notices if notice["code"] == "no-study-time"]) == 8


def test_output_dir_is_what_store_dir_was_called(source: Path, root: Path) -> None:
    rest: tuple[str | Path, ...] = ("--id", STUDY, "v1", source)
    for option in (("--output-dir", str(root)), (f"--output-dir={root}",)):
        ran = icf(COMMANDS[0], *option, *rest)
        assert ran.code == 0
        assert ran.err.splitlines()[0] == "warning: --output-dir is deprecated, use -o/--store-dir"
        assert (root / STUDY / "v1_dicom.tar").exists()
    as_json = icf(COMMANDS[0], "--output-dir", root, *rest, "--json")
    assert as_json.json["result"]["archive"]["state"] == "unchanged"
    assert icf(COMMANDS[0], "--store-dir", root, *rest, "-q") == Ran(0, "", "")
    assert "--output-dir" not in icf(COMMANDS[0], "--help").out


def test_the_store_is_the_current_directory_by_default(source: Path, root: Path) -> None:
    for arguments in stage_commands(root, source)[:2]:
        shortened = [word for word in arguments if word not in ("-o", root)]
        assert icf(*shortened, cwd=root).code == 0
    assert (root / STUDY / "v1_metadata_tarball.json").exists()


def on_a_terminal(*arguments: str | Path, lines: int = 25) -> tuple[int, str, str]:
    """Exit code, standard output, and what a terminal received as standard error."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, 100, 0, 0))
    with subprocess.Popen(
        [*PROGRAM, *map(str, arguments)],
        env=surrounding(TERM="xterm"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    ) as process:
        os.close(theirs)
        received = b""
        while select.select([ours], [], [], 60)[0]:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other side is gone
                break
            if not piece:
                break
            received += piece
        os.close(ours)
        assert process.stdout is not None
        out = process.stdout.read()
    return process.returncode, out, received.decode()


def test_a_bar_on_a_terminal(tmp_path: Path, root: Path) -> None:
    source = write_input(tmp_path / "in")
    (source / "large.bin").write_bytes(bytes(3_000_000))
    labels = ("archive", "metadata", "dataset", "catalog", "metadata")
    for arguments, label in zip(stage_commands(root, source), labels, strict=True):
        shutil.rmtree(root / STUDY / ".icf/handover", ignore_errors=True)  # so that the archive is read
        code, out, err = on_a_terminal(*arguments)
        assert code == 0
        assert out
        assert re.search(rf"\r{label}: +\d+%\|", err), err
        assert not _DONE.search(err.replace("\r", "\n"))
        assert "\r" in err.rsplit("%|", 1)[1], "the bar stays"
    for option in ("--quiet", "--json"):
        assert on_a_terminal(*arguments, option)[2] == ""
    assert _DONE.fullmatch(on_a_terminal(*arguments, lines=0)[2].replace("\r", ""))


HOSTILE = ("red\x1b[31m.dcm", "new\nline.dcm", "title\x1b]0;x\x07.dcm", "\u202etrap.dcm", "c1\x9b.dcm")


def safe(text: str) -> bool:
    """Nothing in it can steer a terminal or fake a line."""
    return all(line.isprintable() for line in text.split("\n"))


def test_hostile_names(inside: Inside, tmp_path: Path) -> None:
    """In warnings, refusals, results and findings: each message is made of its own lines only."""
    source, root = write_input(tmp_path / "in\x1b[1m\nput"), tmp_path / "st\x1b[32more\nx"
    for at, name in enumerate(HOSTILE):
        (source / name).write_bytes(dicom_bytes(StudyDate="***", SeriesNumber=b"abc", InstanceNumber=50 + at))
        (source / f"{name}.txt").write_text("no DICOM")
    for arguments in stage_commands(root, source):
        ran = inside(*arguments)
        assert ran.code == 0
        assert safe(ran.out + ran.err)
        assert all(re.match(r"[^\n]+: |dataset |  datalad |\d+ images ", line) for line in ran.out.splitlines())
    warnings = "".join(inside(*arguments).err for arguments in stage_commands(root, source))
    for shown in (r"red\x1b[31m.dcm", r"new\nline.dcm", r"\u202etrap.dcm"):
        assert shown in warnings
    os.mkfifo(source / "pipe\x1b[5m\n.dcm")
    ran = inside(*stage_commands(root, source)[0])
    assert ran.code == 3
    assert safe(ran.err)
    assert r"'pipe\x1b[5m\n.dcm': is a named pipe" in ran.err
    refused = inside(*stage_commands(root, source)[0], "--json")
    assert safe(refused.out)
    assert r"pipe\x1b[5m\n.dcm" in refused.json["error"]["message"]
    with open(root / STUDY / "v1_dicom.tar", "r+b") as handle:
        content = handle.read()
        handle.seek(content.index(b"t1 mprage"))
        handle.write(b"t2")
    found = inside(*stage_commands(root, source)[4])
    assert found.code == 1
    assert safe(found.out)


def test_names_that_are_no_text(inside: Inside, tmp_path: Path, root: Path) -> None:
    """Bytes that no encoding explains, and every other odd name, in any form of output."""
    source = tmp_path / "in"
    for at, name in enumerate(ODD_NAMES):
        path = os.path.join(os.fsencode(source), name.encode("utf-8", "surrogateescape"))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as handle:
            handle.write(dicom_bytes(StudyTime="", InstanceNumber=at + 1))
    for arguments in stage_commands(root, source):
        for option in ((), ("--json",)):
            ran = inside(*arguments, *option)
            assert ran.code == 0
            assert safe(ran.out + ran.err)
    notices = inside(*stage_commands(root, source)[0], "--json").json["result"]["notices"]
    found = {notice["subject"] for notice in notices if notice["code"] == "no-study-time"}
    assert found == set(ODD_NAMES)


PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("encoding", [{}, {"PYTHONIOENCODING": "ascii:strict"}])
def test_a_locale_without_unicode(tmp_path: Path, encoding: dict[str, str]) -> None:
    """Names and messages are UTF-8 all the same; also the names of input and store."""
    source, root = write_input(tmp_path / "übung", SeriesDescription="Übersicht"), tmp_path / "größe"
    (source / "頭部.dcm").write_bytes(dicom_bytes(StudyDate="***", InstanceNumber=77))
    for arguments in stage_commands(root, source):
        ran = icf(*arguments, env={**PLAIN, **encoding})
        assert ran.code == 0
        if arguments[0] == COMMANDS[0]:
            assert "'頭部.dcm'" in ran.err
    assert (root / STUDY / "v1_XDLRA--refs").exists()
    ran = icf(*stage_commands(root, source / "nowhere")[0], env={**PLAIN, **encoding})
    assert ran.code == 3
    assert icf(*stage_commands(root, source)[4], "--store-url", f"{URL}").code == 0
