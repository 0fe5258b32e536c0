"""Every command and script that a catalog shows in a browser, run unchanged against a store that requires a password.

What a visit's page always shows is run by ``test_commands_with_password.py``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from icf_utils import deposit_visit_dataset, deposit_visit_metadata, init_store, make_studyvisit_archive
from icf_utils.catalog.stage import catalogify_studyvisit_from_meta
from icf_utils.processing.execute import ProcessConfig, process_visit
from tests.catalog.browsing import Visitor, served
from tests.catalog.test_browser_series import CATCH
from tests.catalog.test_commands_with_password import shell  # noqa: F401 - a fixture
from tests.data.make_dicom import uid, write_visit
from tests.dataset.commands import run
from tests.dataset.conftest import CLONE_TOOLS, _own_settings, require  # noqa: F401 - a fixture
from tests.dataset.servers import Server, nginx
from tests.processing import conftest as processing

STUDY = "study-a"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A store with two visits that have everything: a dataset for all programs, an output, a catalog."""
    require("nginx", "curl", "md5sum", *CLONE_TOOLS)
    store = tmp_path / "store"
    (tmp_path / "nginx").mkdir()
    with nginx(store, tmp_path / "nginx") as server:
        init_store(store, server.url)
        for visit in ("v1", "v2"):
            write_visit(tmp_path / "in" / visit, {1: ("T1w", 2), 2: ("rest", 2)}, StudyInstanceUID=uid(visit))
            make_studyvisit_archive(tmp_path / "in" / visit, store, STUDY, visit)
            deposit_visit_metadata(store, STUDY, visit)
            deposit_visit_dataset(store, STUDY, visit)
            program = processing.shell("echo 1 > x", name="one", isolation="none")
            assert process_visit(ProcessConfig(store, program), STUDY, visit).state == "success"
            catalogify_studyvisit_from_meta(store, STUDY, visit)
        yield server


def images(folder: Path) -> list[str]:
    """The MD5s of images below a folder."""
    found = [path for path in folder.rglob("*.dcm") if path.is_file() and ".git" not in path.parts]
    return sorted(hashlib.md5(path.read_bytes()).hexdigest() for path in found)


def commands(visitor: Visitor, within: str) -> list[str]:
    """The commands that a page shows, each once, also those inside of what is folded."""
    script = """
        document.querySelectorAll(arguments[0] + " details").forEach(one => { one.open = true; });
        return [...document.querySelectorAll(arguments[0] + " pre")].map(one => one.textContent);"""
    return list(dict.fromkeys(visitor.driver.execute_script(script, within)))


def test_the_commands_of_pages(
    server: Server,
    shell: dict[str, str],  # noqa: F811 - the fixture
    tmp_path: Path,
    visitor: Visitor,
) -> None:
    store = tmp_path / "store"
    with served(store) as address:
        site = f"{address}/{STUDY}/catalog/"
        visitor.open(f"{site}#/visit/v1")
        visitor.wait(lambda: commands(visitor, "[data-processing]"))
        for one in visitor.all("details.icf-series, .icf-series details"):
            visitor.click(one.find_element("css selector", "summary"))
        shown = visitor.wait(lambda: [text for text in commands(visitor, "main") if "annex get --metadata" in text])
        shown = commands(visitor, "main")
        visitor.open(f"{site}#/?q=number%3A1")
        visitor.wait(lambda: visitor.texts(".icf-count") == ["2 of 2 visits, 2 series"])
        visitor.driver.execute_script(CATCH)
        visitor.click(visitor.one(".icf-takeaway summary"))
        (selected,) = commands(visitor, ".icf-takeaway")
        save = "document.querySelectorAll('.icf-takeaway button').forEach(one => one.click()); return window.saved;"
        saved = dict(visitor.driver.execute_script(save))
    everything = images(tmp_path / "in/v1") + images(tmp_path / "in/v2")
    first = sorted(digest for visit in ("v1", "v2") for digest in images(next((tmp_path / "in" / visit).glob("01_*"))))
    assert (len(everything), len(first)) == (8, 4)

    data = json.loads((store / STUDY / "catalog/data/visits/v1.json").read_bytes())
    elsewhere = {*data["clone"].values(), *data["commands"].values()}
    own = [text for text in shown if text not in elsewhere]
    assert elsewhere <= set(shown)
    assert {text.split()[0] for text in own} == {"icf-utils", "git", "curl"}
    assert len(own) >= 6  # two series by two programs, the output by two

    page, scripts = tmp_path / "page", tmp_path / "scripts"
    page.mkdir()
    scripts.mkdir()
    for name, text in saved.items():
        (scripts / name).write_text(text, newline="")
    for command in (f"sh {STUDY}-retrieve.sh", selected):
        run("sh", "-c", command, cwd=scripts, env=shell)
        assert images(scripts / f"{STUDY}-images") == first
        run("rm", "-r", f"{STUDY}-images", cwd=scripts)
    run("icf-utils", "retrieve", "--store", server.url, "--from", f"{STUDY}-selection.tsv", cwd=scripts, env=shell)
    run("sh", f"{STUDY}-clone.sh", cwd=scripts, env=shell)
    run("sh", "-c", f"xargs -n 1 curl --netrc-optional -sfLO < {STUDY}-archives.txt", cwd=scripts, env=shell)
    for visit in ("v1", "v2"):
        assert (scripts / f"{visit}_dicom.tar").read_bytes() == (store / STUDY / f"{visit}_dicom.tar").read_bytes()
        assert (scripts / visit / f"{STUDY}_{visit}").is_dir()
    (scripts / "v1").rename(page / "v1")
    for command in own:
        run("sh", "-c", command, cwd=page, env=shell)
    assert set(images(page)) == set(images(tmp_path / "in/v1"))
    assert (page / "v1_one_output.tar").read_bytes() == (store / STUDY / "v1_one_output.tar").read_bytes()
