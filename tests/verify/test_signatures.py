"""Signed visits: what somebody forged is found, whatever else agrees; keys come and go."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from icf_utils import deposit_visit_metadata, make_studyvisit_archive, verify_visit
from icf_utils.store.layout import Visit
from tests.cli.program import Inside
from tests.verify.keys import make_key, signers
from tests.verify.stores import STUDY, contents, make_visit, write_input

pytestmark = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="ssh-keygen is not installed")


@pytest.fixture
def place(model: Path, tmp_path: Path) -> Visit:
    shutil.copytree(model / "store", tmp_path / "store")
    return Visit(tmp_path / "store", STUDY, "v1")


def test_a_forged_visit_is_found(place: Visit, tmp_path: Path, inside: Inside) -> None:
    key, other = make_key(tmp_path / "key"), make_key(tmp_path / "other")
    allowed = signers(tmp_path / "signers", ("steward@example.org", "", key))
    ran = inside("verify", "-o", place.root, "--signers", allowed)
    assert (ran.code, "is not signed" in ran.out) == (1, True), ran
    ran = inside("sign", "-o", place.root, "--key", key, STUDY)
    assert (ran.code, "1 signed, 0 signed before" in ran.out) == (0, True), ran
    assert verify_visit(place.root, STUDY, "v1", signers=allowed).signed_by == "steward@example.org"
    ran = inside("verify", "-o", place.root, "--signers", allowed)
    assert (ran.code, "signed by steward@example.org" in ran.out) == (0, True), ran
    by_hand = ["ssh-keygen", "-Y", "verify", "-f", str(allowed), "-I", "steward@example.org", "-n", "icf-utils"]
    with place.sums.open("rb") as sums:
        assert not subprocess.run([*by_hand, "-s", str(place.signature)], stdin=sums, check=False).returncode
    genuine = contents(place.root)
    assert inside("sign", "-o", place.root, "--key", key).out == "1 visit: 0 signed, 1 signed before\n"
    assert contents(place.root) == genuine

    # another archive, with all that follows from it: everything agrees, but for the signature
    forged = make_visit(write_input(tmp_path / "in", StudyTime="111213"), tmp_path / "forged")
    shutil.copy(place.signature, forged.signature)
    assert verify_visit(forged.root, STUDY, "v1").findings == ()
    (finding,) = verify_visit(forged.root, STUDY, "v1", signers=allowed).findings
    assert finding.path == forged.signature
    ran = inside("sign", "-o", forged.root, "--key", other)
    assert (ran.code, "is not a signature of the present SHA-256 sums" in ran.out) == (1, True), ran
    assert inside("sign", "-o", forged.root, "--key", other, "--again").code == 0
    (finding,) = verify_visit(forged.root, STUDY, "v1", signers=allowed).findings
    assert "its key is not allowed to sign" in finding.problem
    assert inside("verify", "-o", forged.root, "--signers", allowed, "-q").code == 1


def test_keys_come_and_go(place: Visit, tmp_path: Path, inside: Inside) -> None:
    old, new = make_key(tmp_path / "old"), make_key(tmp_path / "new")
    sign = ("sign", "-o", place.root, "--key")
    dates = ('valid-before="20260101"', 'valid-after="20260101"')
    allowed = signers(tmp_path / "signers", ("steward", dates[0], old), ("steward", dates[1], new))
    check = ("verify", "-o", place.root, "--signers", allowed, "-q")
    for key, date, code in ((old, "2025-06-01", 0), (old, "2026-06-01", 1), (new, "2025-06-01", 1), (new, "", 0)):
        assert inside(*sign, key, "--again", *(("--date", date) if date else ())).code == 0
        assert inside(*check).code == code, (key, date)
    signature = place.signature.read_bytes()
    place.signature.write_bytes(re.sub(rb"Date: .*", b"Date: 2026-02-30", signature))
    assert inside(*check).code == 1
    elsewhere = signers(tmp_path / "others", ("steward", "", old))
    assert inside("verify", "-o", place.root, "--signers", elsewhere, "-q").code == 1
    other_purpose = tmp_path / "purpose"
    other_purpose.write_text(allowed.read_text().replace("icf-utils", "git"))
    assert inside("verify", "-o", place.root, "--signers", other_purpose, "-q").code == 1


def test_what_is_wrong_is_not_signed(place: Visit, tmp_path: Path, inside: Inside) -> None:
    key = make_key(tmp_path / "key")
    place.checksum.write_bytes(b"0" * 32 + b"  v1_dicom.tar\n")
    ran = inside("sign", "-o", place.root, "--key", key)
    assert (ran.code, "v1: not signed" in ran.out, place.signature.exists()) == (1, True, False), ran
    for wrong in (tmp_path / "nothing", place.archive):
        assert inside("sign", "-o", place.root, "--key", wrong).code != 0
        assert not place.signature.exists()
    for text in ("", "# no key\n"):
        (tmp_path / "signers").write_text(text)
        assert inside("verify", "-o", place.root, "--signers", tmp_path / "signers").code == 2


def test_a_visit_without_sums_gets_them(place: Visit, tmp_path: Path, inside: Inside) -> None:
    before = place.sums.read_bytes()
    place.sums.unlink()
    assert inside("sign", "-o", place.root, "--key", make_key(tmp_path / "key")).code == 0
    assert place.sums.read_bytes() == before
    place.sums.unlink()
    ran = inside("verify", "-o", place.root)
    assert (ran.code, "is missing although its signature is there" in ran.out) == (1, True), ran


def test_a_signed_list_decides_what_is_repaired(place: Visit, tmp_path: Path, inside: Inside) -> None:
    """All other records may be of another archive, in a store whose files were replaced or mixed up."""
    key = make_key(tmp_path / "key")
    allowed = signers(tmp_path / "signers", ("steward@example.org", "", key))
    assert inside("sign", "-o", place.root, "--key", key).code == 0
    genuine = contents(place.root)
    other = make_visit(write_input(tmp_path / "in", StudyTime="111213"), tmp_path / "other")
    repair = ("verify", "-o", place.root, "--repair")

    archive = place.archive.read_bytes()
    for path in (place.archive, place.checksum, place.dicoms_json, place.tarball_json, place.refs, place.export):
        shutil.copy(other.of_study.folder / path.name, path)
    ran = inside(*repair, "--signers", allowed)
    assert (ran.code, "is damaged or was replaced: its SHA-256" in ran.out) == (1, True), ran
    assert "the SHA-256 sums that steward@example.org signed say; restore it from a copy" in ran.out
    assert place.signature.read_bytes() == genuine[f"{STUDY}/v1_SHA256SUMS.sig"]

    place.archive.write_bytes(archive)
    ran = inside(*repair)
    assert (ran.code, "it is not clear which is damaged" in ran.out) == (1, True), ran
    ran = inside(*repair, "--signers", allowed)
    assert "its SHA-256 agrees with the SHA-256 sums that steward@example.org signed" in ran.out
    right = {place.checksum, place.dicoms_json, place.tarball_json, place.sums, place.signature}
    assert {path: path.read_bytes() for path in right} == {
        path: genuine[path.relative_to(place.root).as_posix()] for path in right
    }


def test_signed_lines_are_not_replaced(place: Visit, tmp_path: Path, inside: Inside) -> None:
    tags = tmp_path / "tags.txt"
    tags.write_text("PhotometricInterpretation\n")
    make_studyvisit_archive(write_input(tmp_path / "in"), tmp_path / "store-2", STUDY, "v1")
    deposit_visit_metadata(tmp_path / "store-2", STUDY, "v1", tags=tags)
    made = Visit(tmp_path / "store-2", STUDY, "v1")
    key = make_key(tmp_path / "key")
    assert inside("sign", "-o", made.root, "--key", key).code == 0
    signed = made.sums.read_bytes()
    made.dicoms_json.unlink()
    ran = inside("verify", "-o", made.root, "--repair")
    assert ran.code == 1
    assert "is signed, and lists other SHA-256s for 'v1_metadata_dicoms.json': restore these files" in ran.out
    assert made.sums.read_bytes() == signed
