"""Each way to end: exit code, message, and the JSON object that says the same."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from icf_utils.cli.main import main
from icf_utils.store.layout import Visit
from tests.cli.program import COMMANDS, PROGRAM, PYTHON, Ran, icf, run, stage_commands, surrounding
from tests.verify.stores import STUDY, make_visit

ARCHIVE, METADATA, DATASET, CATALOG, VERIFY = COMMANDS


def assert_failed(ran: Ran, code: int, kind: str, command: str, message: str) -> None:
    assert ran.code == code, ran
    assert ran.err.splitlines()[-1:] or ran.out, ran
    if ran.out:
        value = ran.json
        assert (value["command"], value["ok"], value["exit_code"], value["error"]["type"]) == (
            command,
            False,
            code,
            kind,
        )
        assert message in value["error"]["message"]
        assert f"icf-utils {command}: {value['error']['message']}\n" in ran.err or not command
    assert f"icf-utils {command}: " in ran.err or not command
    assert message in ran.err


Break = Callable[[Visit, Path], tuple[str | Path, ...]]


def id_of(place: Visit) -> tuple[str | Path, ...]:
    return ("-o", place.root, "--id", place.study, place.visit)


def bad_identifier(place: Visit, source: Path) -> tuple[str | Path, ...]:
    return (METADATA, "-o", place.root, "--id", STUDY, "../v1")


def bad_zone(place: Visit, source: Path) -> tuple[str | Path, ...]:
    return (ARCHIVE, "-o", place.root, "--id", STUDY, "v2", "--timezone", "Berlin", source)


def bad_setting(place: Visit, source: Path) -> tuple[str | Path, ...]:
    (place.root / "icf.toml").write_text("[store]\nadress = 'x'\n")
    return (CATALOG, *id_of(place))


def bad_url(place: Visit, source: Path) -> tuple[str | Path, ...]:
    return (DATASET, *id_of(place), "--store-url", "data.example.org")


def rebuild_without_id(place: Visit, source: Path) -> tuple[str | Path, ...]:
    return (VERIFY, "-o", place.root, "--rebuild", source)


def empty_input(place: Visit, source: Path) -> tuple[str | Path, ...]:
    (place.root / "empty").mkdir()
    return (ARCHIVE, "-o", place.root, "--id", STUDY, "v2", place.root / "empty")


def no_input(place: Visit, source: Path) -> tuple[str | Path, ...]:
    return (ARCHIVE, "-o", place.root, "--id", STUDY, "v2", "nowhere")


def other_input(place: Visit, source: Path) -> tuple[str | Path, ...]:
    (source / "more.txt").write_text("more")
    return (ARCHIVE, *id_of(place), source)


def other_dataset(place: Visit, source: Path) -> tuple[str | Path, ...]:
    return (DATASET, *id_of(place), "--store-url", "https://other.example.org")


def foreign_catalog(place: Visit, source: Path) -> tuple[str | Path, ...]:
    shutil.rmtree(place.of_study.catalog)
    place.of_study.catalog.mkdir()
    (place.of_study.catalog / "index.html").write_text("mine")
    return (CATALOG, *id_of(place))


def no_archive(place: Visit, source: Path) -> tuple[str | Path, ...]:
    return (METADATA, "-o", place.root, "--id", STUDY, "v2")


def no_metadata(place: Visit, source: Path) -> tuple[str | Path, ...]:
    return (CATALOG, "-o", place.root, "--id", STUDY, "v2")


def no_store(place: Visit, source: Path) -> tuple[str | Path, ...]:
    return (VERIFY, "-o", place.root / "nowhere")


def cut_archive(place: Visit, source: Path) -> tuple[str | Path, ...]:
    os.truncate(place.archive, 1000)
    return (METADATA, *id_of(place))


def damaged_json(place: Visit, source: Path) -> tuple[str | Path, ...]:
    place.dicoms_json.write_text("[")
    return (DATASET, *id_of(place))


def store_below_a_file(place: Visit, source: Path) -> tuple[str | Path, ...]:
    (place.root / "file").write_text("")
    return (ARCHIVE, "-o", place.root / "file", "--id", STUDY, "v1", source)


CASES: list[tuple[Break, int, str, str]] = [
    (bad_identifier, 2, "InvalidIdentifier", "letters, digits"),
    (bad_zone, 2, "InvalidSetting", "Europe/Berlin"),
    (bad_setting, 2, "InvalidSetting", "adress"),
    (bad_url, 2, "InvalidSetting", "https://"),
    (rebuild_without_id, 2, "InvalidSetting", "--id"),
    (empty_input, 3, "InputRefused", "contains no files"),
    (no_input, 3, "InputRefused", "nowhere"),
    (other_input, 4, "DepositDiffers", "more.txt"),
    (other_dataset, 4, "DepositDiffers", "https://other.example.org"),
    (foreign_catalog, 4, "ExistingFileDiffers", "not made by icf-utils"),
    (no_archive, 5, "DepositMissing", "v2_dicom.tar"),
    (no_metadata, 5, "DepositMissing", "v2_metadata_tarball.json"),
    (no_store, 2, "InvalidSetting", "is not a store: the folder does not exist"),
    (cut_archive, 5, "DepositDamaged", "v1_dicom.tar"),
    (damaged_json, 5, "DepositDamaged", "v1_metadata_dicoms.json"),
    (store_below_a_file, 6, "StorageFailure", "Not a directory"),
]


@pytest.mark.parametrize(("cause", "code", "kind", "message"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_errors(source: Path, root: Path, cause: Break, code: int, kind: str, message: str) -> None:
    place = make_visit(source, root)
    arguments = cause(place, source)
    command = str(arguments[0])
    for options in ((), ("--json", "--quiet")):
        ran = icf(*arguments, *options)
        assert bool(ran.out) == bool(options)
        assert_failed(ran, code, kind, command, message)


def test_findings(source: Path, root: Path) -> None:
    place = make_visit(source, root)
    place.checksum.write_text("x")
    for options in ((), ("-q",)):
        ran = icf(VERIFY, "-o", root, *options)
        assert ran.code == 1
        assert "1 problem" in ran.out
        assert "v1_dicom.tar.md5sum" in ran.out
    ran = icf(VERIFY, "-o", root, "--json")
    assert (ran.code, ran.json["ok"], ran.err) == (1, False, "")
    (visit,) = ran.json["result"]["visits"]
    assert visit["findings"][0]["path"] == str(place.checksum)


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (("nonsense",), ""),
        (("--nonsense",), ""),
        ((ARCHIVE,), ARCHIVE),
        ((METADATA, "--id", "only-one"), METADATA),
        ((ARCHIVE, "--id", "a", "b", "--strip-components", "-1", "in"), ARCHIVE),
        ((ARCHIVE, "--id", "a", "b", "--strip-components", "x\x1b[31m", "in"), ARCHIVE),
        (("xnat", "\x1b[31mtoo\nmuch"), "xnat"),
        (("catalog", "build", "study", "more"), "catalog build"),
    ],
)
def test_a_command_line_that_makes_no_sense(arguments: tuple[str, ...], command: str) -> None:
    plain = icf(*arguments)
    assert (plain.code, plain.out) == (2, "")
    assert plain.err.startswith("usage: icf-utils")
    assert "\x1b" not in plain.err
    as_json = icf(*arguments, "--json")
    assert_failed(as_json, 2, "InvalidSetting", command, "command line: ")


def test_without_git(source: Path, root: Path, tmp_path: Path) -> None:
    make_visit(source, root)
    (tmp_path / "bin").mkdir()
    for arguments in ((), ("--json",)):
        ran = icf(*stage_commands(root, source)[2], *arguments, env={"PATH": str(tmp_path / "bin")})
        assert_failed(ran, 7, "MissingRequirement", DATASET, "git")


_WITHOUT_CATALOG = """
import sys
sys.modules["datalad_catalog"] = None
from icf_utils.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_without_datalad_catalog(source: Path, root: Path) -> None:
    """A catalog cannot be made. Verifying says that it was not compared, and checks everything else."""
    place = make_visit(source, root)
    ran = run(*PYTHON, "-c", _WITHOUT_CATALOG, *stage_commands(root, source)[3])
    assert_failed(ran, 7, "MissingRequirement", COMMANDS[3], "datalad-catalog")
    ran = run(*PYTHON, "-c", _WITHOUT_CATALOG, *stage_commands(root, source)[4])
    assert (ran.code, "[catalog-not-checked]" in ran.err) == (0, True)
    shutil.rmtree(place.of_study.catalog)
    ran = run(*PYTHON, "-c", _WITHOUT_CATALOG, *stage_commands(root, source)[4])
    assert (ran.code, ran.err.count("catalog-not-checked")) == (0, 0)


_HOLD = """
import sys
from pathlib import Path
from icf_utils.store.locks import catalog_lock, visit_lock
from icf_utils.progress import SILENT
from icf_utils.store.layout import Visit
place = Visit(Path(sys.argv[1]), "study-a", "v1")
with visit_lock(place, SILENT), catalog_lock(place.of_study, SILENT):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_busy(source: Path, root: Path) -> None:
    make_visit(source, root)
    with subprocess.Popen(
        [*PYTHON, "-c", _HOLD, str(root)], env=surrounding(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        for stage in range(4):
            ran = icf(*stage_commands(root, source)[stage], "--json", env={"ICF_LOCK_TIMEOUT": "0.1"})
            assert_failed(ran, 8, "Busy", COMMANDS[stage], f"process {holder.pid} on ")
        assert icf(*stage_commands(root, source)[4]).code == 0  # whoever only reads need not wait
        holder.stdin.close()
    assert icf(*stage_commands(root, source)[0]).code == 0


def test_a_patience_that_is_no_number(source: Path, root: Path) -> None:
    ran = icf(*stage_commands(root, source)[0], env={"ICF_LOCK_TIMEOUT": "long"})
    assert_failed(ran, 2, "InvalidSetting", ARCHIVE, "ICF_LOCK_TIMEOUT")


_BUG = """
import sys
import icf_utils.metadata.stage
def deposit_visit_metadata(*args, **options):
    raise ValueError("Doe^Jane, born 1970")
icf_utils.metadata.stage.deposit_visit_metadata = deposit_visit_metadata
from icf_utils.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_fault_of_ours(source: Path, root: Path) -> None:
    """Its kind and place are told, its text is not: it may hold values of a header."""
    for options in ((), ("--json",), ("--quiet",)):
        ran = run(*PYTHON, "-c", _BUG, *stage_commands(root, source)[1], *options)
        assert_failed(ran, 70, "InternalError", METADATA, "internal error (ValueError at ")
        assert "Doe" not in ran.out + ran.err
    debugged = subprocess.run(
        [*PYTHON, "-c", _BUG, *map(str, stage_commands(root, source)[1])],
        env=surrounding(ICF_DEBUG="1"),
        capture_output=True,
        check=False,
    )
    assert b"ValueError: Doe^Jane" in debugged.stderr


def test_an_error_without_a_path_is_a_message_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], source: Path, root: Path
) -> None:
    """From the operating system, by a place in the code that names nothing better."""
    for filename, shown in ((None, "a file"), (b"/a\xff", "/a\\xff"), (3, "a file"), ("/x\n", "/x\\n")):

        def fail(*_args: object, _name: object = filename, **_options: object) -> None:
            raise OSError(5, "Input/output error", _name)

        monkeypatch.setattr("icf_utils.metadata.stage.deposit_visit_metadata", fail)
        assert main(list(map(str, stage_commands(root, source)[1]))) == 6
        assert capsys.readouterr().err == f"icf-utils {METADATA}: cannot use '{shown}': Input/output error\n"


def test_the_program_is_installed() -> None:
    """The entry point is the same program."""
    if shutil.which("icf-utils") is None:
        pytest.skip("icf-utils is not on the PATH")
    installed, here = run("icf-utils", "--help"), run(*PROGRAM, "--help")
    assert installed == here
