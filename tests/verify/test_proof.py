"""What was proved of a visit's bytes is not checked again, and hides nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from icf_utils import deposit_visit_metadata, remove_visit
from icf_utils.store.layout import Visit
from icf_utils.verify.proof import proof_path, read_proof
from tests.cli.program import Inside
from tests.verify.keys import make_key, signers
from tests.verify.stores import STUDY, catalog_files, contents, make_visit, write_input


@pytest.fixture
def proved(own: Visit, inside: Inside) -> Visit:
    """A visit that was verified, with a record of it that says how many images there were: 77 of 5."""
    assert inside("verify", "-o", own.root, "--log").code == 0
    edit_proof(own, images=77)
    return own


def edit_proof(place: Visit, **values: object) -> None:
    path = proof_path(place)
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_unchanged_bytes_are_not_taken_apart(proved: Visit, inside: Inside) -> None:
    before = contents(proved.of_study.folder / "catalog")
    for _ in range(2):
        assert "everything is correct (77 images)" in inside("verify", "-o", proved.root, "--log").out
        assert "everything is correct (77 images)" in inside("verify", "-o", proved.root, "--for", "1h", "-j", "2").out
    assert "everything is correct (5 images)" in inside("verify", "-o", proved.root).out
    assert contents(proved.of_study.folder / "catalog") == before
    edit_proof(proved, **{"icf-utils": "0.0.1"})
    assert "everything is correct (5 images)" in inside("verify", "-o", proved.root, "--log").out
    assert "everything is correct (5 images)" in inside("verify", "-o", proved.root, "--log").out


@pytest.mark.parametrize("text", ["", "[]", "{}", "{" * 100_000, '{"format": 1}', "\0"])
def test_a_record_that_cannot_be_read(own: Visit, inside: Inside, text: str) -> None:
    proof_path(own).parent.mkdir(parents=True, exist_ok=True)
    proof_path(own).write_text(text)
    assert read_proof(own) is None
    assert "everything is correct (5 images)" in inside("verify", "-o", own.root, "--log").out
    assert read_proof(own) is not None


def test_what_was_changed_later_is_found(proved: Visit, inside: Inside) -> None:
    files = [proved.archive, proved.checksum, proved.dicoms_json, proved.tarball_json, proved.refs, proved.export]
    for path in [*files, proved.sums, *catalog_files(proved)[:3]]:
        data, status = path.read_bytes(), path.stat()
        flip(path, len(data) // 2)
        ran = inside("verify", "-o", proved.root, "--log")
        assert (ran.code, path.name in ran.out) == (1, True), (path, ran)
        path.unlink()
        ran = inside("verify", "-o", proved.root, "--log", "-q")
        assert ran.code == 1 or (path == proved.sums and "no-sums" in ran.err), path
        path.write_bytes(data)
        path.chmod(status.st_mode & 0o7777)
    assert "everything is correct (77 images)" in inside("verify", "-o", proved.root, "--log").out
    for name in ("v1_SHA256SUMS.sig", "v1_x_output.tar"):
        (proved.of_study.folder / name).write_text("x")
        code = inside("verify", "-o", proved.root, "--log", "-q").code
        assert code == (1 if name.endswith("tar") else 0), name
        (proved.of_study.folder / name).unlink()


def test_a_forged_record_does_not_replace_a_signature(proved: Visit, tmp_path: Path, inside: Inside) -> None:
    key = make_key(tmp_path / "key")
    allowed = signers(tmp_path / "signers", ("steward", "", key))
    assert inside("sign", "-o", proved.root, "--key", key).code == 0
    check = ("verify", "-o", proved.root, "--log", "--signers", allowed)
    assert "(77 images; signed by steward)" in inside(*check).out
    flip(proved.archive, 3000)
    edit_proof(proved, md5=json.loads(proof_path(proved).read_text())["md5"])
    ran = inside(*check)
    assert (ran.code, proved.archive.name in ran.out) == (1, True), ran


def test_a_changed_visit_is_proved_anew(proved: Visit, tmp_path: Path, inside: Inside) -> None:
    tags = tmp_path / "tags"
    tags.write_text("PhotometricInterpretation\n")
    place = make_visit(write_input(tmp_path / "in"), tmp_path / "store", tags=tags)
    assert inside("verify", "-o", place.root, "--log").code == 0
    shutil.copy(proof_path(place), proof_path(proved))
    assert "everything is correct (5 images)" in inside("verify", "-o", proved.root, "--log").out
    assert deposit_visit_metadata(proved.root, STUDY, "v1")


def test_the_record_goes_with_the_visit(proved: Visit) -> None:
    assert proof_path(proved).exists()
    assert remove_visit(proved.root, STUDY, "v1").traces == ()
    assert not proof_path(proved).exists()
