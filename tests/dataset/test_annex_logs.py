"""Records of the git-annex branch that follow earlier ones: later lines say what no longer holds."""

from __future__ import annotations

import pytest

from icf_utils.dataset.annex_logs import live_values, next_records, parse_log
from icf_utils.dataset.git_objects import FILE, BranchFile

KEY = b"aaa/bbb/MD5E-s1--0.dcm"
OLD_TAR, NEW_TAR = b"MD5E-s9--old.tar", b"MD5E-s9--new.tar"


def branch(**contents: bytes) -> dict[bytes, BranchFile]:
    suffixes = {"log": b".log", "web": b".log.web", "met": b".log.met"}
    return {KEY + suffixes[name]: BranchFile(FILE, content) for name, content in contents.items()}


def image(tar: bytes, time: int, at: int = 512) -> dict[bytes, BranchFile]:
    url = b":dl+archive:%s#path=a&size=1&offset=%d" % (tar, at)
    return branch(log=b"%ds 1 archivist\n" % time, web=b"%ds 1 %s\n" % (time, url))


def after(
    old: dict[bytes, BranchFile], wanted: dict[bytes, BranchFile], kept: tuple[bytes, ...] = ()
) -> dict[str, bytes]:
    found = next_records(old, wanted, 20, kept)
    return {path.rpartition(b".log")[2].decode() or "log": item.content for path, item in found.items()}


def test_what_holds_on_keeps_its_line() -> None:
    assert after(image(OLD_TAR, 10), image(OLD_TAR, 20)) == {
        "log": b"10s 1 archivist\n",
        ".web": b"10s 1 :dl+archive:MD5E-s9--old.tar#path=a&size=1&offset=512\n",
    }


def test_an_image_in_another_archive() -> None:
    found = after(image(OLD_TAR, 10), image(NEW_TAR, 20))
    assert found["log"] == b"10s 1 archivist\n"
    assert [(line.time, line.status) for line in parse_log(found[".web"])] == [(20, b"0"), (20, b"1")]
    assert live_values(found[".web"]) == [b":dl+archive:MD5E-s9--new.tar#path=a&size=1&offset=512"]


def test_a_removed_image_is_dead() -> None:
    found = after(image(OLD_TAR, 10), {})
    assert found["log"] == b"20s X archivist\n"
    assert live_values(found[".web"]) == []


def test_a_removed_image_of_a_kept_archive() -> None:
    found = after(image(OLD_TAR, 10), {}, (OLD_TAR,))
    assert found["log"] == b"10s 1 archivist\n"
    assert len(live_values(found[".web"])) == 1


def test_an_image_that_comes_back() -> None:
    gone = next_records(image(OLD_TAR, 10), {}, 15)
    assert after(gone, image(OLD_TAR, 20)) == {
        "log": b"20s 1 archivist\n",
        ".web": b"20s 1 :dl+archive:MD5E-s9--old.tar#path=a&size=1&offset=512\n",
    }


@pytest.mark.parametrize(
    ("old", "wanted", "line"),
    [
        (b"10s a +1 +2 b +x\n", b"20s a +1 +2 b +x\n", b""),
        (b"10s a +1 +2 b +x\n", b"20s a +1 b +y\n", b"20s a -2 b -x +y\n"),
        (b"10s a +1\n15s a -1 +2\n", b"20s a +1\n", b"20s a -2 +1\n"),
        (b"10s a +1\n", b"20s c +!eCB5\n", b"20s a -1 c +!eCB5\n"),
    ],
)
def test_tags(old: bytes, wanted: bytes, line: bytes) -> None:
    assert after(branch(met=old), branch(met=wanted)) == {".met": old + line}


def test_tags_of_a_removed_image_stay() -> None:
    assert after(branch(met=b"10s a +1\n"), {}) == {".met": b"10s a +1\n"}
