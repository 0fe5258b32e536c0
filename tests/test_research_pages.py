"""The pages for researchers are true: their shell blocks are run as they are, against a store with a password."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pydicom
import pytest

from icf_utils import deposit_visit_dataset, deposit_visit_metadata, init_store, make_studyvisit_archive
from icf_utils.catalog.stage import catalogify_studyvisit_from_meta
from tests.dataset.conftest import CLONE_TOOLS, require
from tests.dataset.servers import PASSWORD, USER, Server, nginx
from tests.pages import blocks, reader_environment, write_example

ADDRESS = "https://data.example.org"

#: Lines that a test cannot run as they are, by how they begin, and why.
_NOT_RUN = {
    "pip install": "the programs are those of the tests' environment",
    "datalad credentials set": "asks at the terminal",
    "keyring set": "asks at the terminal",
    "git remote add lab": "a server at another place; tests/dataset/special_remote/test_configure.py runs one",
    "git config remote.lab": "see above",
    "git push lab": "see above",
    "git annex copy --to lab": "see above",
    "git annex verifyremote archivist": "asks for a number",
}

_PROGRAM = "#!{python}\nimport sys\nfrom {module} import main\nsys.exit(main())\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A store with a study of one visit, that of the tutorial, with protocols."""
    require("nginx", *CLONE_TOOLS)
    folder = tmp_path_factory.mktemp("store")
    write_example(folder)
    for path in (folder / "export").rglob("*.dcm"):
        image = pydicom.dcmread(path)
        image.ProtocolName = "t1_mprage" if "MR1" in path.parts else "localizer"
        image.save_as(path)
    store = folder / "store"
    (folder / "nginx").mkdir()
    with nginx(store, folder / "nginx") as server:
        init_store(store, server.url)
        make_studyvisit_archive(folder / "export", store, "study-a", "visit-01")
        deposit_visit_metadata(store, "study-a", "visit-01")
        deposit_visit_dataset(store, "study-a", "visit-01", annex_url=True)
        catalogify_studyvisit_from_meta(store, "study-a", "visit-01")
        yield server


@pytest.fixture
def reader(server: Server, tmp_path: Path) -> Mapping[str, str]:
    """A researcher with the password, where the page says that it can be."""
    home, programs = tmp_path / "home", tmp_path / "bin"
    home.mkdir()
    programs.mkdir()
    for name, module in {"icf-utils": "cli.main", "git-annex-remote-icf": "dataset.special_remote.program"}.items():
        (programs / name).write_text(_PROGRAM.format(python=sys.executable, module=f"icf_utils.{module}"))
        (programs / name).chmod(0o755)
    environment = reader_environment(home)
    netrc = home / ".netrc"
    netrc.write_text(f"machine {server.url.removeprefix('http://')} login {USER} password {PASSWORD}\n")
    netrc.chmod(0o600)
    # the test's server is on this machine, which git-annex asks only if it is allowed
    with (home / ".gitconfig").open("a", encoding="utf-8") as config:
        config.write('[annex "security"]\n\tallowed-ip-addresses = 127.0.0.1\n')
    path = os.pathsep.join([str(programs), environment["PATH"]])
    return {**environment, **server.credential(), "PATH": path, "PYTHONPATH": str(Path(__file__).parents[1])}


def run_page(
    page: str, which: slice, server: Server, folder: Path, environment: Mapping[str, str], store: str = ""
) -> None:
    """Run blocks of a page in one shell each, in ``folder``; the first line that fails ends the test.

    ``store`` is what is mounted at ``/archive/store``.
    """
    for block in blocks(page, "sh")[which]:
        lines = [line for line in block.splitlines() if not line.startswith(tuple(_NOT_RUN))]
        if not shutil.which("dcm2niix"):
            lines = [line.replace("dcm2niix", ": dcm2niix") for line in lines]
        script = "\n".join(["set -ex", *lines]).replace(ADDRESS, server.url).replace("/archive/store", store)
        done = subprocess.run(
            ["sh", "-c", script.replace("file:///data/ria", f"file://{folder}/ria")],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, f"{page}:\n{script}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"


def test_for_researchers(server: Server, reader: Mapping[str, str], tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    run_page("for-researchers.md", slice(None), server, work, reader)
    assert len(list((work / "data").rglob("*.dcm"))) > 3
    if shutil.which("dcm2niix"):
        images = [path.name for path in (work / "nifti").glob("*.nii.gz")]
        assert images, "dcm2niix has converted nothing"
        assert all(name.startswith("study-a_visit-01_") for name in images)
    assert (work / "visit-01/.git/annex/objects").is_dir()


def test_visits_are_installed_with_a_password_of_netrc(
    server: Server, reader: Mapping[str, str], tmp_path: Path
) -> None:
    """DataLad, which installs them, does not read netrc."""
    few = {name: value for name, value in reader.items() if not name.startswith("DATALAD_CREDENTIAL")}
    for command in (["clone", f"{server.url}/study-a", "study"], ["get", "-r", "--series", "2", "study"]):
        subprocess.run(["icf-utils", *command], cwd=tmp_path, env=few, check=True)
    assert list((tmp_path / "study/visit-01/.git/annex/objects").rglob("*.dcm"))


def test_whole_studies_and_write_to_your_clone(server: Server, reader: Mapping[str, str], tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    pages = "write-to-your-clone.md"
    run_page(pages, slice(0, 1), server, work, reader)
    clone = work / "visit-01"
    (tmp_path / "tree").mkdir()
    export = ("type=directory", f"directory={tmp_path}/tree", "encryption=none", "exporttree=yes")
    for command in (
        ["git", "annex", "initremote", "tree", *export],
        ["icf-utils", "get"],
        ["icf-utils", "get", "icf"],
    ):
        subprocess.run(command, cwd=clone, env=dict(reader), check=True)
    run_page(pages, slice(1, 2), server, work, reader)
    run_page(pages, slice(2, None), server, clone, reader)
    assert len(list((tmp_path / "tree").rglob("*.dcm"))) > 3
    run_page("whole-studies.md", slice(0, 2), server, work, reader)
    run_page("whole-studies.md", slice(3, 4), server, work, reader)
    assert (work / "study-a/visit-01/study-a_visit-01").is_dir()


def test_get_many_images(
    server: Server, reader: Mapping[str, str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In clones of a visit and of its study, and from the store's folder."""

    def here(clone: Path) -> int:
        found = subprocess.run(
            ["git", "annex", "find", "-q"], cwd=clone, env=dict(reader), capture_output=True, check=True
        )
        return len(found.stdout.splitlines())

    page = "get-images.md"
    for name in ("visit-01", "."):
        clone = [
            *("icf-utils", "clone"),
            f"{server.url}/study-a/{name}".removesuffix("/."),
            f"{name}-clone".strip(".-"),
        ]
        subprocess.run(clone, cwd=tmp_path, env=dict(reader), check=True)
    visit, study = tmp_path / "visit-01-clone", tmp_path / "clone"
    (store,) = tmp_path_factory.getbasetemp().glob("store[0-9]*/store")
    run_page(page, slice(2, 3), server, visit, reader, str(store))
    assert here(visit) > 0
    run_page(page, slice(0, 1), server, visit, reader)
    assert here(visit) == len(list((visit / "study-a_visit-01").rglob("*.dcm")))
    run_page(page, slice(1, 2), server, study, reader)
    assert here(study / "visit-01") == here(visit)
