from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from icf_utils.catalog import application as assets_module
from icf_utils.catalog.application import (
    INDEX,
    LOCAL_VUE_PATCH,
    SCRIPTS,
    STYLE,
    VIEW_PATCHES,
    Patch,
    apply_patches,
    find_datalad_catalog,
    load_application_files,
    needs_network,
    title_patch,
)
from icf_utils.errors import MissingRequirement


def copy_of_package(folder: Path) -> Path:
    return Path(shutil.copytree(find_datalad_catalog(), folder / "catalog"))


def test_every_change_finds_its_place() -> None:
    assert load_application_files("Study s").notices == ()


def test_the_files_are_complete_and_the_same_each_time() -> None:
    first, second = load_application_files("Study s"), load_application_files("Study s")
    assert first == second
    assert list(first.files) == sorted(first.files)
    page = first.files[INDEX].decode()
    for name in re.findall(r'\s(?:src|href)="([^":]+)"', page):
        assert name in first.files


def test_no_asset_loads_from_another_host() -> None:
    for name, data in load_application_files("Study s").files.items():
        if name.endswith(".css"):
            assert not re.search(rb"@import|url\(\s*['\"]?(?:https?:)?//", data), name
        if name.endswith(".html"):
            assert not needs_network(data.decode()), name
    scripts = {
        name: data for name, data in load_application_files("s").files.items() if re.match(r"assets/app.*\.js", name)
    }
    for name, data in scripts.items():
        assert not re.search(rb"fetch\(\s*['\"`]https?:", data), name


def test_fonts_of_the_style_sheets_are_there() -> None:
    files = load_application_files("Study s").files
    for font in re.findall(r'url\("([^"]+woff2)"\)', files["assets/style.css"].decode()):
        assert f"assets/{font}" in files


def test_the_view_replaces_datalad_catalogs_own() -> None:
    files = load_application_files("Study s").files
    assert {f"assets/{name}" for name in (*SCRIPTS, STYLE)} <= set(files)
    assert not [name for name in files if "bootstrap" in name or "marked" in name or name.startswith("templates/")]
    assert not any(b"innerHTML" in files[f"assets/{name}"] or b"v-html" in files[f"assets/{name}"] for name in SCRIPTS)


def test_the_title_is_text() -> None:
    page = load_application_files("<b>&").files[INDEX].decode()
    assert "<title>&lt;b&gt;&amp;</title>" in page


def test_another_version_keeps_its_own_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy_of_package(tmp_path)
    page = folder / INDEX
    page.write_text(page.read_text().replace("app_component_item", "component_of_items"))
    monkeypatch.setattr(assets_module, "find_datalad_catalog", lambda: folder)
    loaded = load_application_files("Study s")
    assert {(notice.code, notice.subject) for notice in loaded.notices} == {("catalog-template", INDEX)}
    template = "templates/dataset-template.html"
    assert loaded.files[template] == (folder / template).read_bytes()
    assert "assets/icf_view.js" not in loaded.files
    assert b"component_of_items" in loaded.files[INDEX]


def test_pages_that_need_the_network_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy_of_package(tmp_path)
    page = folder / INDEX
    page.write_text(page.read_text().replace("unpkg.com/vue@2.6.14", "cdn.example.org/vue@3"))
    monkeypatch.setattr(assets_module, "find_datalad_catalog", lambda: folder)
    with pytest.raises(MissingRequirement, match="offline"):
        load_application_files("Study s")


def test_a_version_that_is_offline_already_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy_of_package(tmp_path)
    page = folder / INDEX
    page.write_text(page.read_text().replace(LOCAL_VUE_PATCH.start, LOCAL_VUE_PATCH.instead))
    monkeypatch.setattr(assets_module, "find_datalad_catalog", lambda: folder)
    assert load_application_files("Study s").notices == ()


def test_without_the_package_the_command_to_install_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingRequirement, match="pip install 'datalad-catalog"):
        load_application_files("Study s")


def test_neither_datalad_nor_jsonschema_is_imported_early() -> None:
    code = (
        "import sys, icf_utils.catalog.stage as s; "
        "from icf_utils.catalog.application import load_application_files as load; load('x');"
        "print([m for m in ('datalad', 'datalad_catalog', 'jsonschema') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_patch_replaces_up_to_its_end() -> None:
    patch = Patch("f", "x", "<a>", "", end="</a>")
    assert apply_patches([patch], {"f": "1<a>2</a>3</a>"}) == ({"f": "13</a>"}, [])
    for text in ("1</a>", "1<a>2"):
        assert apply_patches([patch], {"f": text}) == ({"f": text}, [patch])


def test_patches_of_missing_files_are_reported() -> None:
    assert apply_patches([title_patch("x")], {}) == ({}, [title_patch("x")])


def test_every_patch_says_what_it_is_for() -> None:
    assert len({patch.what for patch in VIEW_PATCHES}) == len(VIEW_PATCHES)


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ('<script src="https://x/y.js">', True),
        ("<link rel=stylesheet href='//x/y.css'>", True),
        ("<img alt=a src=http://x/y.png>", True),
        ('<!-- <script src="https://x/y.js"> --><script src="a.js">', False),
        ('<a href="https://x">', False),
    ],
)
def test_needs_network(page: str, expected: bool) -> None:
    assert needs_network(page) is expected
