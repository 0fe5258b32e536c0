"""Whole stores by the command line: complete, repeatable, the same everywhere, and without what identifies a person."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from icf_utils.cli.main import main
from icf_utils.dataset.export import read_export
from icf_utils.dicom.confidentiality import profile_entries
from icf_utils.dicom.values import dictionary_vr
from icf_utils.store.layout import Visit
from tests.cli.program import PYTHON, Inside, stage_commands, surrounding
from tests.conftest import VISIT_NAMES, VISITS
from tests.data.make_dicom import dicom_bytes, element, item, write_visit
from tests.verify.stores import contents, files_of, snapshot

STUDY = "study-a"
Arguments = Sequence[str | Path]


@pytest.fixture
def inside(capsys: pytest.CaptureFixture[str]) -> Inside:
    return Inside(capsys)


def commands(root: Path, names: Iterable[str], inputs: Path) -> list[Arguments]:
    """The four stages of each visit."""
    return [arguments for name in names for arguments in stage_commands(root, inputs / name, name)[:4]]


@pytest.fixture(scope="module")
def whole(visits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with all open visits in one study."""
    root = tmp_path_factory.mktemp("whole") / "store"
    for arguments in commands(root, VISIT_NAMES, visits):
        assert main([*map(str, arguments), "-q"]) == 0
    return root


def test_all_visits_are_there_and_sound(whole: Path, inside: Inside) -> None:
    ran = inside("verify", "-o", whole, "--json")
    assert (ran.code, ran.err) == (0, "")
    found = ran.json["result"]["visits"]
    assert [visit["visit"] for visit in found] == VISIT_NAMES
    assert all((visit["absent"], visit["findings"]) == ([], []) for visit in found)
    for name in VISIT_NAMES:
        place = Visit(whole, STUDY, name)
        assert all(path.is_file() for path in files_of(place).values())
        rebuilt = inside("verify", "-o", whole, "--id", STUDY, name, "--rebuild", VISITS / name, "-q")
        assert (rebuilt.code, rebuilt.out, rebuilt.err) == (0, "", "")
    expected = {f"{name}{suffix}" for name in VISIT_NAMES for suffix in (*suffixes(), "_SHA256SUMS")} | {
        *("catalog", "visits.json", "XDLRA--refs", "XDLRA--repo-export")
    }
    assert {path.name for path in (whole / STUDY).iterdir()} == expected
    assert [path.name for path in whole.iterdir()] == [STUDY]


def suffixes() -> list[str]:
    return [path.name.removeprefix("v") for path in files_of(Visit(Path(), "s", "v")).values()]


def test_again_nothing_is_touched(whole: Path, visits: Path, inside: Inside) -> None:
    before = {name: state[:3] + state[4:] for name, state in snapshot(whole).items() if Path(name).is_file()}
    for arguments in commands(whole, reversed(VISIT_NAMES), visits):
        ran = inside(*arguments, "--json")
        assert ran.code == 0
        result = ran.json["result"]
        written = [result.get("archive"), result.get("checksum"), *result.get("files", [])]
        assert {file["state"] for file in written if file} <= {"unchanged"}
        assert result.get("files_written", 0) == 0
    after = {name: state[:3] + state[4:] for name, state in snapshot(whole).items() if Path(name).is_file()}
    assert after == before


def without_order(root: Path) -> dict[str, bytes]:
    """All files but the dataset of the study, whose history tells in which order visits came."""
    return {name: data for name, data in contents(root).items() if not name.startswith(f"{STUDY}/XDLRA--")}


_ALL = """
import json, os, sys
os.umask(0o077)
from icf_utils.cli.main import main
for arguments in json.load(sys.stdin):
    code = main([*arguments, "-q"])
    if code:
        sys.exit(code)
"""

SURROUNDINGS = [
    {"TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONHASHSEED": "1"},
    {"TZ": "America/New_York", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "2", "PYTHONOPTIMIZE": "1"},
]


@pytest.mark.parametrize("environment", SURROUNDINGS)
def test_elsewhere_the_same_bytes(whole: Path, visits: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    """Another folder, zone, locale, umask, order of visits and of stages."""
    root = tmp_path / "another" / "store"
    ordered = commands(root, reversed(VISIT_NAMES), visits)
    by_step = [arguments for step in range(4) for arguments in ordered[step::4]]
    done = subprocess.run(
        [*PYTHON, "-c", _ALL],
        input=json.dumps([[str(word) for word in arguments] for arguments in by_step]),
        env=surrounding(**environment),
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert without_order(root) == without_order(whole)
    modes = {path.stat().st_mode & 0o777 for path in root.rglob("*") if path.is_file()}
    assert modes == {0o600}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_the_same_bytes(
    whole: Path,
    visits: Path,
    open_tmp_path: Path,
    inside: Inside,
    as_nobody: Callable[[], AbstractContextManager[None]],
) -> None:
    chosen = VISIT_NAMES[-2:]
    for name in chosen:
        shutil.copytree(visits / name, open_tmp_path / "in" / name)
    with as_nobody():
        for arguments in commands(open_tmp_path / "store", chosen, open_tmp_path / "in"):
            ran = inside(*arguments, "-q")
            assert ran.code == 0, ran
        assert inside("verify", "-o", open_tmp_path / "store", "-q").code == 0
    made, expected = without_order(open_tmp_path / "store"), without_order(whole)
    listed, all_listed = made.pop(f"{STUDY}/visits.json"), expected[f"{STUDY}/visits.json"]
    assert len(json.loads(listed)) == len(chosen)
    assert {line.rstrip(b",") for line in listed.splitlines()} <= {
        line.rstrip(b",") for line in all_listed.splitlines()
    }
    files = [name for name in made if not name.startswith(f"{STUDY}/catalog/")]
    assert len(files) == 14
    assert {name: made[name] for name in files} == {name: expected[name] for name in files}
    assert (open_tmp_path / "store" / STUDY).stat().st_uid == 65534


def test_other_url_other_dataset_same_rest(whole: Path, visits: Path, tmp_path: Path, inside: Inside) -> None:
    """A store's address changes the dataset and the catalog; archive and metadata do not know of it."""
    name = VISIT_NAMES[0]
    for arguments in stage_commands(tmp_path, visits / name, name)[:4]:
        other = [
            "https://moved.example.org" if word == "https://data.example.org/store" else word for word in arguments
        ]
        assert inside(*other, "-q").code == 0
    for kind, path in files_of(Visit(tmp_path, STUDY, name)).items():
        same = path.read_bytes() == files_of(Visit(whole, STUDY, name))[kind].read_bytes()
        assert same == (kind not in ("refs", "export"))


# -- what identifies a person stays in the archive

#: Recorded on purpose, or what the archive's times are made of, or what makes the images one study: a warning names
#: the StudyInstanceUIDs where there are several.
BY_DESIGN = {"SeriesDescription", "ProtocolName", "StudyDate", "StudyTime", "StudyInstanceUID"}
UIDS = {"SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"}

TEXT, DATE, TIME, NUMBER = "SECRET", "18830117", "031415", "2718281828"
UID = f"1.2.826.0.1.3680043.8.{NUMBER}"
MARKERS = (TEXT, DATE, TIME, NUMBER)


def marked(vr: str | None, at: int) -> bytes:
    """A value of a VR that no output can hold by chance."""
    special = {
        "DA": DATE,
        "TM": f"{TIME}.926535",
        "DT": f"{DATE}{TIME}.926535",
        "UI": f"{UID}.{at}",
        "DS": f"{NUMBER}.5",
        "IS": NUMBER,
        "AS": "031Y",
        "PN": f"{TEXT}^{at}",
    }
    raw = special.get(vr or "", f"{TEXT}{at}").encode()
    return raw + (b"\0" if vr == "UI" else b" ") * (len(raw) % 2)


def marked_elements() -> dict[int, bytes]:
    """Every attribute of the confidentiality profile that a data set can hold, each with a marker."""
    elements = {}
    for at, entry in enumerate(profile_entries()):
        vr = dictionary_vr(entry.number)
        if entry.number >> 16 < 8 or entry.keyword in BY_DESIGN:
            continue
        if vr == "SQ":
            inner = element(0x00080104, "LO", marked("LO", at)) + element(0x00100010, "PN", marked("PN", at))
            elements[entry.number] = element(entry.number, "SQ", item(inner))
        else:
            known = vr if vr and len(vr) == 2 and vr != "US" else "UN"
            elements[entry.number] = element(entry.number, known, marked(vr, at))
    elements[0x00090010] = element(0x00090010, "LO", marked("LO", 9990))
    elements[0x00091001] = element(0x00091001, "UN", marked("UN", 9991))
    return elements


def marked_visit(folder: Path) -> Path:
    """An ordinary image, one that is cut, one whose recorded tags are of identifying kinds, one in another syntax."""
    elements = marked_elements()
    assert len(elements) > 550
    write_visit(folder, {1: ("localizer", 1)})
    image = dicom_bytes(raw=elements, SeriesNumber=2)
    (folder / "marked.dcm").write_bytes(image)
    (folder / "cut.dcm").write_bytes(image[: len(image) // 2])
    names = {
        0x0008103E: element(0x0008103E, "PN", marked("PN", 1)),
        0x00181030: element(0x00181030, "SQ", item(element(0x00100010, "PN", marked("PN", 2)))),
        0x00180023: element(0x00180023, "OB", marked("OB", 3)),
    }
    (folder / "kinds.dcm").write_bytes(dicom_bytes(raw={**elements, **names}, SeriesNumber=3))
    (folder / "bare.dcm").write_bytes(dicom_bytes(raw=elements, preamble=False, file_meta=False, SeriesNumber=4))
    (folder / "notes.txt").write_text(f"{TEXT} {DATE}")
    (folder / "fake.dcm").write_bytes(bytes(128) + b"DICM" + TEXT.encode() * 20)
    (folder / "other.dcm").write_bytes(dicom_bytes(raw=elements, StudyDate=f"{TEXT}", SeriesNumber=b"5"))
    return folder


#: A value with spaces in git-annex's metadata.
_ENCODED = re.compile(rb"[+-]!((?:[A-Za-z0-9+/]{4})+(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?)")


def assert_clean(what: str, text: str | bytes) -> None:
    raw = text.encode() if isinstance(text, str) else text
    for word in _ENCODED.findall(raw):
        raw += b"\n" + base64.b64decode(word)
    for marker in (*MARKERS, UID):
        assert marker.encode() not in raw, f"{marker} in {what}"
        assert base64.b64encode(marker.encode())[:-4] not in raw, f"{marker} in {what}"


def without_uids(raw: bytes) -> bytes:
    """The three identifiers that the store's JSON records on purpose, taken out."""
    records = json.loads(raw)
    for record in records:
        for keyword in UIDS:
            del record[keyword]
    return json.dumps(records).encode()


def test_markers_stay_in_the_archive(tmp_path: Path, inside: Inside) -> None:
    source, root = marked_visit(tmp_path / "in"), tmp_path / "store"
    for arguments in stage_commands(root, source, "v1"):
        for option in ((), ("--json",)):
            ran = inside(*arguments, *option)
            assert ran.code == 0
            assert_clean(f"what {arguments[0]} says", ran.out + ran.err)
    place = Visit(root, STUDY, "v1")
    archive = place.archive.read_bytes()
    for marker in (*MARKERS, UID):
        assert archive.count(marker.encode()) > 5
    records = place.dicoms_json.read_bytes()
    assert UID.encode() in records  # the search finds what is there
    assert len(json.loads(records)) == 6
    assert_clean(place.dicoms_json.name, without_uids(records))
    for kind in ("checksum", "tarball", "refs"):
        assert_clean(kind, files_of(place)[kind].read_bytes())
    objects, _ = read_export(place.export.read_bytes())
    assert len(objects) > 20
    for git_object in objects.values():
        assert_clean(f"{place.export.name} ({git_object.kind})", git_object.data)
    for name, data in contents(place.of_study.catalog).items():
        assert_clean(name, data)


def test_markers_in_no_message_of_failure(tmp_path: Path, inside: Inside) -> None:
    """Whatever goes wrong with such a visit."""
    source, root = marked_visit(tmp_path / "in"), tmp_path / "store"
    for arguments in stage_commands(root, source, "v1")[:4]:
        assert inside(*arguments, "-q").code == 0
    place = Visit(root, STUDY, "v1")
    archive, images = place.archive.read_bytes(), place.dicoms_json.read_bytes()
    tags = tmp_path / "tags"
    tags.write_text("PatientName\nPatientID\nReferringPhysicianName\nEchoTime\n")
    store: Arguments = ("-o", root, "--id", STUDY, "v1")

    def failures(codes: set[int]) -> None:
        attempts: list[Arguments] = [
            *stage_commands(root, source, "v1"),
            ("deposit_visit_metadata", *store, "--tags", tags),
        ]
        attempts.append(("verify", *store, "--rebuild", source))
        found = set()
        for arguments in attempts:
            for option in ((), ("--json",)):
                ran = inside(*arguments, *option)
                found.add(ran.code)
                assert_clean(f"what {arguments[0]} says", ran.out + ran.err)
        assert codes <= found

    failures({0, 2})
    at = archive.index(TEXT.encode())
    place.archive.write_bytes(archive[:at] + b"s" + archive[at + 1 :])
    failures({1, 2, 5})
    place.archive.write_bytes(archive[: len(archive) // 2])
    failures({1, 5})
    place.archive.write_bytes(archive)
    for old, new in ((b'"MR"', b'["MR"'), (b'"MR"', b'"MT"'), (b'"size"', b'"sise"'), (UID.encode(), b"1.2.3")):
        place.dicoms_json.write_bytes(images.replace(old, new, 1))
        failures({1})
    place.dicoms_json.write_bytes(images)
    marked = source / "marked.dcm"
    marked.write_bytes(marked.read_bytes().replace(TEXT.encode(), b"secret", 3))
    failures({1, 2, 4})


def test_markers_that_are_asked_for(tmp_path: Path, inside: Inside) -> None:
    """The control: with the switch that allows it, the same search finds them where they were asked for."""
    source, root = marked_visit(tmp_path / "in"), tmp_path / "store"
    tags = tmp_path / "tags"
    tags.write_text("allow_identifying: true\nPatientName\n")
    for arguments in stage_commands(root, source, "v1")[:4]:
        extra = ("--tags", tags) if arguments[0] == "deposit_visit_metadata" else ()
        ran = inside(*arguments, *extra)
        assert ran.code == 0
        assert_clean("a message", ran.out + ran.err)
    place = Visit(root, STUDY, "v1")
    with pytest.raises(AssertionError, match="SECRET in"):
        assert_clean("the metadata", without_uids(place.dicoms_json.read_bytes()))
    objects, _ = read_export(place.export.read_bytes())
    with pytest.raises(AssertionError, match="SECRET in"):
        assert_clean("the dataset", b"".join(git_object.data for git_object in objects.values()))
    for name, data in contents(place.of_study.catalog).items():
        assert_clean(name, data)
    assert inside(*stage_commands(root, source, "v1")[4]).code == 0
