"""Using a clone that gets images by byte ranges; the server's log shows the requests."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest

from icf_utils.dataset.special_remote.configure import configure_clone
from tests.dataset.special_remote.conftest import CONTENTS, IMAGES, Cloned, Serve
from tests.dataset.visits import ODD_NAMES, Member

ONE = "study_v1/s1/007.dcm"
SERIES_1 = [name for name in CONTENTS if "/s1/" in name]


def test_one_image(usual: Cloned) -> None:
    """Exactly its own bytes; authentication is required once."""
    usual.run("git", "annex", "get", ONE)
    assert usual.holds([ONE])
    assert not usual.has_archive()
    assert usual.requests() == [("HEAD", 401, 0), ("HEAD", 200, 0), ("GET", 206, len(CONTENTS[ONE]))]


def test_a_series(usual: Cloned) -> None:
    """Requests grow; in the end, at most as many bytes are read in vain as were needed."""
    usual.run("datalad", "get", "study_v1/s1")
    assert usual.holds(SERIES_1)
    asked = usual.requests()
    assert [status for _, status, _ in asked].count(401) == 1
    assert len(asked) < 12
    assert sum(size for _, _, size in asked) < 2.2 * sum(len(CONTENTS[name]) for name in SERIES_1)


def test_all_images_with_four_jobs(usual: Cloned) -> None:
    usual.run("git", "annex", "get", "-J4", "study_v1")
    assert usual.holds(list(CONTENTS))
    asked = usual.requests()
    assert [status for _, status, _ in asked].count(401) == 1
    assert len(asked) < IMAGES
    assert sum(size for _, _, size in asked) < 1.5 * sum(map(len, CONTENTS.values()))
    assert usual.run("git", "annex", "fsck", "--from", "archivist", "study_v1")


def test_images_selected_by_tags(usual: Cloned) -> None:
    usual.run("git", "annex", "get", "--metadata", "seriesnumber=1")
    assert usual.holds(SERIES_1)


def test_drop_and_get_again(usual: Cloned) -> None:
    usual.run("git", "annex", "get", *SERIES_1[:3])
    usual.run("git", "annex", "drop", *SERIES_1[:3])  # which asks whether they can be had again
    assert usual.holds([])
    usual.run("datalad", "get", *SERIES_1[:3])
    usual.run("datalad", "drop", SERIES_1[0])
    assert usual.holds(SERIES_1[1:3])
    usual.run("git", "annex", "fsck", "study_v1")
    usual.run("git", "annex", "fsck", "--fast", "--from", "archivist", "study_v1")


def test_progress(serve: Serve) -> None:
    cloned = serve([Member("large.dcm", os.urandom(30_000_000))])
    outcome = cloned.run("git", "annex", "get", "--json", "--json-progress", "study_v1/large.dcm")
    seen = [json.loads(line).get("byte-progress") for line in outcome.splitlines()]
    assert any(0 < amount < 30_000_000 for amount in seen if amount is not None)


def test_whereis(usual: Cloned) -> None:
    outcome = usual.run("git", "annex", "whereis", ONE).decode()
    assert f"archivist: {ONE} in MD5E-s" in outcome


def test_a_local_store(local: Cloned) -> None:
    local.run("git", "annex", "get", "-J4", "study_v1")
    assert local.holds(list(CONTENTS))
    assert not local.has_archive()
    local.run("git", "annex", "fsck", "--fast", "--from", "archivist", "study_v1")


def test_the_archive_in_the_clone_is_used_first(usual: Cloned) -> None:
    usual.run("git", "annex", "get", "icf")
    usual.requests()
    usual.run("git", "annex", "get", "study_v1")
    assert usual.holds(list(CONTENTS))
    assert usual.requests() == []


def test_a_server_without_ranges(serve: Serve) -> None:
    """The whole archive is downloaded once, as with archivist."""
    cloned = serve(more="max_ranges 0;")
    outcome = cloned.attempt("git", "annex", "get", "study_v1/s1")
    assert outcome.returncode == 0
    assert b"Getting the whole archive instead" in outcome.stdout + outcome.stderr
    assert cloned.holds(SERIES_1)
    assert cloned.has_archive()
    whole = [size for _, _, size in cloned.requests() if size > cloned.place.archive.stat().st_size * 0.9]
    assert len(whole) <= 2  # the answer to the refused range was not read, but may stand in buffers


def test_locators_without_a_position(usual: Cloned) -> None:
    """Those of other programs: the image is found in the whole archive by its name."""
    key = usual.run("git", "annex", "lookupkey", ONE).decode().strip()
    archive = usual.run("git", "annex", "lookupkey", "icf/v1_dicom.tar").decode().strip()
    url = f"dl+archive:{archive}#path={ONE}&size={len(CONTENTS[ONE])}"
    (offset,) = [image["offset"] for image in json.loads(usual.place.dicoms_json.read_bytes()) if image["path"] == ONE]
    usual.run("git", "annex", "unregisterurl", "--remote=archivist", key, f"{url}&offset={offset}")
    usual.run("git", "annex", "registerurl", "--remote=archivist", key, url)
    usual.run("git", "annex", "get", ONE)
    assert usual.holds([ONE])
    assert usual.has_archive()


def test_names_that_archivist_cannot_read(serve: Serve) -> None:
    names = [name for name in ODD_NAMES if "\n" not in name]
    members = [Member(name, b"content %d" % at) for at, name in enumerate(names)]
    cloned = serve(members)
    cloned.run("git", "annex", "get", ".", "--in", "archivist")
    for member in members:
        assert (cloned.folder / "study_v1" / member.name).read_bytes() == member.content


def test_an_archive_that_was_replaced(usual: Cloned) -> None:
    """Another size is noticed before, other bytes after the transfer; neither gets into the annex."""
    archive = usual.place.archive
    raw = archive.read_bytes()
    with tarfile.open(archive) as tar:
        at = tar.getmember(ONE).offset_data
    archive.write_bytes(raw[:at] + b"XX" + raw[at + 2 :])
    outcome = usual.attempt("git", "annex", "get", ONE)
    assert outcome.returncode != 0
    assert b"the archive at its address was changed" in outcome.stdout + outcome.stderr
    archive.write_bytes(raw + b"\0" * 512)
    outcome = usual.attempt("git", "annex", "get", ONE)
    assert outcome.returncode != 0
    assert f"expected {len(raw)} bytes in total, found {len(raw) + 512}".encode() in outcome.stdout + outcome.stderr
    assert usual.holds([])


def test_presence_is_asked_for(usual: Cloned) -> None:
    key = usual.run("git", "annex", "lookupkey", ONE).decode().strip()
    check = ("git", "annex", "checkpresentkey", key, "archivist")
    assert usual.attempt(*check).returncode == 0
    archive = usual.place.archive
    raw = archive.read_bytes()
    archive.write_bytes(raw[:-512])
    assert usual.attempt(*check).returncode == 1
    archive.unlink()
    assert usual.attempt(*check).returncode == 1
    archive.write_bytes(raw)
    assert usual.attempt(*check).returncode == 0


def test_unknown_is_not_absent(usual: Cloned) -> None:
    key = usual.run("git", "annex", "lookupkey", ONE).decode().strip()
    wrong = {"DATALAD_CREDENTIAL_ICFTEST_SECRET": "wrong"}
    refused = Cloned(usual.place, usual.folder, usual.server, {**usual.extra, **wrong})
    assert refused.attempt("git", "annex", "checkpresentkey", key, "archivist").returncode == 100


def test_a_wrong_password(usual: Cloned) -> None:
    """It is sent once, since servers lock accounts after some refused passwords."""
    wrong = {"DATALAD_CREDENTIAL_ICFTEST_SECRET": "wrong"}
    assert usual.server
    before = len(usual.server.requests())
    outcome = Cloned(usual.place, usual.folder, usual.server, {**usual.extra, **wrong}).attempt(
        "git", "annex", "get", "-J2", *SERIES_1[:6]
    )
    said = outcome.stdout + outcome.stderr
    assert len(usual.server.requests()) - before == 2  # without a password, and with this one
    assert outcome.returncode != 0
    assert b"rejects the user and password" in said
    assert b"datalad credentials set" in said
    assert b"wrong" not in said
    assert usual.holds([])


def test_without_a_password(usual: Cloned) -> None:
    """Without a terminal, there is no question; netrc is read."""
    nobody = Cloned(usual.place, usual.folder, usual.server)
    outcome = nobody.attempt("git", "annex", "get", ONE)
    assert outcome.returncode != 0
    assert b"requires authentication (401)" in outcome.stdout + outcome.stderr
    extra = usual.extra
    netrc = Path(os.environ["HOME"], ".netrc")
    assert usual.server
    machine = usual.server.url.removeprefix("http://")
    user, password = extra["DATALAD_CREDENTIAL_ICFTEST_USER"], extra["DATALAD_CREDENTIAL_ICFTEST_SECRET"]
    netrc.write_text(f"machine {machine} login {user} password {password}\n", encoding="ascii")
    netrc.chmod(0o600)
    nobody.run("git", "annex", "get", ONE)
    assert usual.holds([ONE])


def test_a_password_is_asked_for_once(usual: Cloned) -> None:
    """On the terminal; git-annex's jobs share one process of the program. The password is not shown."""
    pexpect = pytest.importorskip("pexpect", reason="pexpect is not installed")
    environment = {name: text for name, text in os.environ.items() if name != "GIT_TERMINAL_PROMPT"}
    user, password = (usual.extra[f"DATALAD_CREDENTIAL_ICFTEST_{name}"] for name in ("USER", "SECRET"))
    started = pexpect.spawn(
        "git", ["annex", "get", "-J4", "study_v1/s1"], cwd=usual.folder, env=environment, timeout=60
    )
    started.expect(rb"requires authentication.*User: ")
    started.sendline(user)
    started.expect(rb"Password: ")
    started.sendline(password)
    said = started.read()
    started.close()
    assert started.exitstatus == 0, said
    assert b"requires authentication" not in said
    assert password.encode() not in said
    assert usual.holds(SERIES_1)


def test_people_without_the_program_get_every_image(usual: Cloned, program: Path) -> None:
    """Through archivist: the dataset does not need icf-utils."""
    configure_clone(usual.folder, undo=True)
    paths = [path for path in os.environ["PATH"].split(os.pathsep) if path != os.fspath(program)]
    lacking = Cloned(usual.place, usual.folder, usual.server, {**usual.extra, "PATH": os.pathsep.join(paths)})
    lacking.run("git", "annex", "get", "study_v1/s1")
    assert usual.holds(SERIES_1)
    assert usual.has_archive()
