"""Clones with git and git-annex alone: the deposit's bytes, and what a consumer without DataLad does with it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from icf_utils.dataset.stage import deposit_visit_dataset
from icf_utils.errors import DepositDiffers, InvalidSetting
from icf_utils.pipeline.model import RunConfig, StageOptions, VisitInput
from icf_utils.pipeline.run import run_visits
from icf_utils.settings import DatasetSettings, Settings
from icf_utils.store.layout import Visit
from icf_utils.verify.verify import verify_visit
from tests.dataset.commands import run
from tests.dataset.conftest import require
from tests.dataset.servers import PASSWORD, USER, nginx
from tests.dataset.test_bytes import PINS, VISITS, digests
from tests.dataset.visits import SMALL, make_visit

URL = "https://example.org/store"

#: Whoever changes one of these changes every such deposit that is made from now on.
PINNED = {
    "small": "fac35cbf0cb118855ada2f801ef39581370023e3b9c7201420513d648aed04ec",
    "odd": "1943d640f980c1f739c7c89821efee0833882a9728c3ceab207a72f939a5af9c",
}

#: The only programs that this consumer has besides git and git-annex: those that they call.
ALLOWED = ("git", "git-annex", "git-remote-annex", "sh", "env", "uname", "cat", "rm", "cp", "ls", "sed")


def deposit_files(place: Visit) -> list[Path]:
    """The deposit's files, sorted."""
    return [*sorted(path for path in place.annex_folder.rglob("*") if path.is_file()), place.annex_url]


def digest(place: Visit) -> str:
    """One digest of all names and bytes."""
    found = {os.fspath(path.relative_to(place.root)): path.read_bytes() for path in deposit_files(place)}
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()


def deposit(place: Visit, url: str = URL, annex_url: bool | None = True) -> list[tuple[Path, str]]:
    result = deposit_visit_dataset(place.root, "study", "v1", store_url=url, annex_url=annex_url)
    return [(file.path, file.state) for file in result.files]


@pytest.mark.parametrize("name", VISITS)
def test_pinned(name: str, tmp_path: Path) -> None:
    """The pair for DataLad has the bytes that it has without the option."""
    place = make_visit(tmp_path, VISITS[name])
    deposit(place)
    assert digests(place) == PINS[name]
    assert digest(place) == PINNED[name]
    assert [path.name.partition("-")[0] for path in deposit_files(place)] == ["GITBUNDLE", "GITMANIFEST", "v1.annex"]


def test_the_mark_of_completeness_is_written_last(tmp_path: Path) -> None:
    place = make_visit(tmp_path)
    assert [path for path, _ in deposit(place)][-1] == place.annex_url


def test_repeated(tmp_path: Path) -> None:
    """An equal deposit is not touched; a visit that has one keeps it without the option."""
    place = make_visit(tmp_path)
    deposit(place)
    stamps = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in deposit_files(place)]
    for wish in (True, None, False):
        assert {state for _, state in deposit(place, annex_url=wish)} == {"unchanged"}
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in deposit_files(place)] == stamps


def test_later(tmp_path: Path) -> None:
    """It can be added to an existing dataset."""
    place = make_visit(tmp_path)
    deposit(place, annex_url=False)
    assert deposit_files(place) == [place.annex_url]
    assert not place.annex_url.exists()
    before = digests(place)
    states = [state for _, state in deposit(place)]
    assert states == ["unchanged", "unchanged", "written", "written", "written"]
    assert digests(place) == before


def test_an_interrupted_one_is_completed(tmp_path: Path) -> None:
    place = make_visit(tmp_path)
    deposit(place)
    made = digest(place)
    place.annex_url.unlink()
    deposit_files(place)[0].unlink()
    assert [state for _, state in deposit(place, annex_url=None)].count("written") == 2
    assert digest(place) == made


@pytest.mark.parametrize("left", ["all", "key files", "mark"])
def test_a_different_one_is_refused(tmp_path: Path, left: str) -> None:
    place = make_visit(tmp_path)
    deposit(place)
    for path in (place.refs, place.export):
        path.unlink()
    if left == "key files":
        place.annex_url.unlink()
    elif left == "mark":
        shutil.rmtree(place.annex_folder)
    before = {path: path.read_bytes() for path in place.of_study.folder.rglob("*") if path.is_file()}
    with pytest.raises(DepositDiffers):
        deposit(place, "https://elsewhere.example.org")
    after = {path: path.read_bytes() for path in place.of_study.folder.rglob("*") if path.is_file()}
    assert after == before


def test_a_store_that_git_annex_cannot_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="ssh"):
        deposit(make_visit(tmp_path), "ssh://example.org/store")


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    place = make_visit(tmp_path)
    place.workdir.mkdir()
    (place.workdir / "v1_annex+003+32d+GITBUNDLE-x.part").write_bytes(b"half")
    deposit(place)
    assert not place.workdir.exists()


def _sound(place: Visit) -> bool:
    found = verify_visit(place.root, "study", "v1")
    own = (place.annex_url, place.annex_folder)
    return not [item for item in found.findings if any(path == item.path or path in item.path.parents for path in own)]


def test_verify_sees_every_file(tmp_path: Path) -> None:
    place = make_visit(tmp_path)
    deposit(place)
    assert _sound(place)
    for path in deposit_files(place):
        raw = path.read_bytes()
        for damage in (raw[:-1], raw + b"x", bytes([raw[0] ^ 1]) + raw[1:]):
            path.write_bytes(damage)
            assert not _sound(place), path
        path.unlink()
        assert not _sound(place), path
        path.write_bytes(raw)
    stray = place.annex_folder / "000" / "stray"
    stray.parent.mkdir()
    stray.write_bytes(b"")
    assert not _sound(place)
    stray.unlink()
    assert _sound(place)
    for path in (place.refs, place.export):
        path.unlink()
    assert not _sound(place)


def test_a_run_makes_it_if_the_settings_say_so(tmp_path: Path) -> None:
    place = make_visit(tmp_path)
    digest_line = f"{hashlib.md5(place.archive.read_bytes()).hexdigest()}  {place.archive.name}\n"
    place.checksum.write_text(digest_line, encoding="ascii")
    wanted = [VisitInput("study", "v1")]

    def chain(annex_url: bool) -> RunConfig:
        settings = Settings(dataset=DatasetSettings(annex_url))
        return RunConfig(place.root, settings, StageOptions(store_url=URL), until="dataset")

    def reasons(annex_url: bool) -> tuple[str, ...]:
        (visit,) = run_visits(wanted, chain(annex_url), jobs=1).visits
        assert visit.failed is None, visit.failed
        (stage,) = [item for item in visit.stages if item.stage == "dataset"]
        return stage.reasons

    for path in (place.dicoms_json, place.tarball_json):
        path.unlink()
    assert reasons(False)
    assert not place.annex_url.exists()
    assert reasons(True) == ("annex URL 'none' -> 'yes'",)
    assert place.annex_url.exists()
    assert reasons(True) == ()
    assert reasons(False) == ()
    place.annex_url.unlink()
    assert reasons(True) == ("output missing: v1.annex",)
    shutil.rmtree(place.annex_folder)
    assert reasons(True) == ("output missing: v1_annex",)
    assert reasons(True) == ()


@dataclass(frozen=True)
class Plain:
    """A consumer without DataLad: a working folder and the complete environment."""

    folder: Path
    environment: Mapping[str, str]

    def run(self, *command: str, folder: str = "") -> bytes:
        return run(*command, cwd=self.folder / folder, env=self.environment)


@pytest.fixture
def plain(tmp_path: Path) -> Plain:
    require("git", "git-annex", "git-remote-annex")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ALLOWED:
        found = shutil.which(name)
        assert found, name
        (programs / name).symlink_to(found)
    environment = {**os.environ, "PATH": os.fspath(programs)}
    for tool in ("datalad", "git-annex-remote-archivist", "git-annex-remote-uncurl", "git-annex-remote-icf"):
        assert shutil.which(tool, path=environment["PATH"]) is None
    home = Path(environment["HOME"])
    with (home / "gitconfig").open("a") as config:
        config.write('[annex "security"]\n\tallowed-ip-addresses = all\n')
        config.write(f"[credential]\n\thelper = store --file={home}/credentials\n")
    (tmp_path / "work").mkdir()
    return Plain(tmp_path / "work", environment)


def test_a_clone_over_http_with_a_password(plain: Plain, tmp_path: Path) -> None:
    """A store's address with characters that must be quoted, twice on the way."""
    require("nginx")
    place = make_visit(tmp_path / "served" / "the store")
    scratch = tmp_path / "nginx"
    scratch.mkdir()
    with nginx(tmp_path / "served", scratch) as server:
        netloc = urlsplit(server.url).netloc
        Path(plain.environment["HOME"], "credentials").write_text(f"http://{USER}:{PASSWORD}@{netloc}\n")
        deposit(place, f"{server.url}/the%20store")
        plain.run("git", "clone", f"annex::{server.url}/the%20store/study/v1.annex", "clone")
        _gets_all_without_datalad(plain, place)
        _updates(plain)


def test_a_clone_over_file(plain: Plain, tmp_path: Path) -> None:
    place = make_visit(tmp_path / "the store")
    result = deposit_visit_dataset(
        place.root, "study", "v1", store_url=f"file://{tmp_path}/the%20store", annex_url=True
    )
    assert result.annex_url == place.annex_url.read_text()
    plain.run("git", "clone", result.annex_url, "clone")
    plain.run("git", "config", "annex.security.allowed-url-schemes", "http https file", folder="clone")
    _gets_all_without_datalad(plain, place)


def _gets_all_without_datalad(plain: Plain, place: Visit) -> None:
    """The steps of the manual, for an unpacked archive next to the clone."""
    clone = plain.folder / "clone"
    plain.run("git", "fsck", "--strict", "--full", folder="clone")
    plain.run("git", "annex", "get", "icf/", folder="clone")
    assert (clone / "icf/v1_dicom.tar").read_bytes() == place.archive.read_bytes()
    (plain.folder / "unpacked").mkdir()
    subprocess.run(["tar", "-xf", clone / "icf/v1_dicom.tar"], cwd=plain.folder / "unpacked", check=True)
    images = [str(path) for path in sorted((plain.folder / "unpacked").rglob("*")) if path.is_file()]
    plain.run("git", "config", "annex.backend", "MD5E", folder="clone")
    plain.run("git", "annex", "reinject", "--known", *images, folder="clone")
    for member in SMALL:
        if member.tags is not None:
            assert (clone / "study_v1" / member.name).read_bytes() == member.content
    plain.run("git", "annex", "fsck", folder="clone")
    output = plain.run("git", "annex", "whereis", "--json", "icf/v1_dicom.tar", folder="clone")
    assert {"web", "uncurl"} <= {item["description"].strip("[]") for item in json.loads(output)["whereis"]}
    plain.run("git", "annex", "drop", "icf/", folder="clone")


def _updates(plain: Plain) -> None:
    plain.run("git", "pull", "-q", folder="clone")
    assert plain.run("git", "status", "--porcelain", folder="clone") == b""


def test_the_branch_continues_that_of_the_other_deposit(tmp_path: Path) -> None:
    """A clone by DataLad can fetch from here as well: the histories do not diverge."""
    require("git")
    place = make_visit(tmp_path / "store")
    result = deposit_visit_dataset(place.root, "study", "v1", store_url=URL, annex_url=True)
    bundle = next(path for path in deposit_files(place) if path.name.startswith("GITBUNDLE"))
    listed = run("git", "bundle", "list-heads", bundle.name, cwd=bundle.parent).decode().splitlines()
    by_name = {name.rpartition("/")[2]: commit for commit, name in map(str.split, listed)}
    assert by_name["main"] == result.main_commit
    run("git", "init", "-q", "--bare", "all", cwd=tmp_path)
    run("git", "fetch", "-q", str(bundle), "refs/*:refs/*", cwd=tmp_path / "all")
    run("git", "fsck", "--strict", "--full", cwd=tmp_path / "all")
    log = run("git", "log", "--format=%H", by_name["git-annex"], cwd=tmp_path / "all").decode().split()
    assert log == [by_name["git-annex"], result.annex_commit]
