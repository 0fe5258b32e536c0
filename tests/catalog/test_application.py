from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from icf_utils.catalog.application import EARLY_SCRIPT, SCRIPTS, STYLE, find_datalad_catalog, load_application_files
from icf_utils.catalog.content import study_files
from icf_utils.catalog.study import StudyPage
from icf_utils.errors import MissingRequirement
from icf_utils.settings import CatalogSettings

COLORS = ("#0b5fa5", "navy")
SCRIPT_FILES = [f"assets/{name}" for name in (EARLY_SCRIPT, *SCRIPTS)]


def first_page(settings: CatalogSettings | None = None) -> str:
    return study_files("s", "id", StudyPage(), settings or CatalogSettings())["index.html"].decode()


def test_the_files_are_complete_and_the_same_each_time() -> None:
    first, second = load_application_files(*COLORS), load_application_files(*COLORS)
    assert first == second
    assert list(first) == sorted(first)
    named = re.findall(r'\s(?:src|href)="([^":#]+)"', first_page())
    assert {*SCRIPT_FILES, f"assets/{STYLE}"} <= set(named)
    made = ("list/", "feed.xml")
    assert [name for name in named if name not in first and not name.startswith(made)] == []
    assert [name for name in first if name.startswith("schema/")] != []


def test_no_asset_loads_from_another_host() -> None:
    for name, data in load_application_files(*COLORS).items():
        if name.endswith((".css", ".js")):
            assert not re.search(rb"@import|url\(|import\(|fetch\(\s*['\"`]https?:", data), name


def test_the_scripts_neither_compile_text_nor_take_it_for_markup() -> None:
    """What ``default-src 'self'`` forbids, and what would make a header's value markup."""
    files = load_application_files(*COLORS)
    for name in SCRIPT_FILES:
        assert not re.search(
            rb"innerHTML|outerHTML|insertAdjacentHTML|\beval\b|new Function|document\.write", files[name]
        ), name
    assert not re.search(
        r"<style|\sstyle=|\son[a-z]+=|<script(?! defer| type=\"application| src=\"assets/)", first_page()
    )


def test_the_scripts_are_written_for_browsers_of_2021() -> None:
    """Safari 15 and Firefox ESR; ``node`` with acorn is not everywhere, so what they lack is looked for by name."""
    newer = (
        rb"\(\?<[=!]|\.at\(|\.findLast|structuredClone|Object\.hasOwn|\.toSorted|\.toReversed|\.toSpliced|Object\.groupBy"
        rb"|\.replaceAll\(|static \{|#[a-z]+ in |\bawait \w+\(.*\);?\n(?=\S)(?!  )|/v[;,.)]|import\.meta|\.isWellFormed"
    )
    files = load_application_files(*COLORS)
    for name in SCRIPT_FILES:
        assert re.search(newer, files[name]) is None, name


#: Parses each file in the language of ECMAScript 2021, with the parser that comes with node (``--expose-internals``).
PARSE = """
const acorn = require("internal/deps/acorn/acorn/dist/acorn");
for (const file of process.argv.slice(1)) {
  try {
    acorn.parse(require("fs").readFileSync(file, "utf8"), { ecmaVersion: 2021, sourceType: "script" });
  } catch (error) {
    console.log(`${file}: ${error.message}`);
  }
}
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_scripts_parse_in_the_language_of_2021(tmp_path: Path) -> None:
    """What Safari 15 and Firefox ESR understand."""
    for at, name in enumerate(SCRIPT_FILES):
        (tmp_path / f"{at}-{Path(name).name}").write_bytes(load_application_files(*COLORS)[name])
    (tmp_path / "newer.js").write_text("class A { static { } }")
    files = sorted(str(path) for path in tmp_path.iterdir())
    command = ["node", "--expose-internals", "-e", PARSE, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "Cannot find module" in done.stderr:
        pytest.skip("this node has its parser elsewhere")
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [str(tmp_path / "newer.js")], done


def test_the_colours_of_links_are_in_the_style_sheet() -> None:
    style = load_application_files(*COLORS)[f"assets/{STYLE}"]
    assert style.startswith(b":root { --link-color: #0b5fa5; --link-hover-color: navy; }\n")


def test_the_title_and_the_description_are_text() -> None:
    page = first_page(CatalogSettings(name="<b>&", description='"><script>'))
    assert "<title>&lt;b&gt;&amp;</title>" in page
    assert "<script>" not in page
    assert '"name":"\\u003cb>&"' in page


def test_without_the_package_the_command_to_install_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingRequirement, match="pip install 'datalad-catalog"):
        load_application_files(*COLORS)


def test_neither_datalad_nor_jsonschema_is_imported_early() -> None:
    code = (
        "import sys, icf_utils.catalog.stage as s; "
        "from icf_utils.catalog.application import load_application_files as load; load('red', 'red');"
        "print([m for m in ('datalad', 'datalad_catalog', 'jsonschema') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_schemas_are_those_of_the_installed_package() -> None:
    folder = find_datalad_catalog()
    files = load_application_files(*COLORS)
    assert files["schema/jsonschema_dataset.json"] == (folder / "schema" / "jsonschema_dataset.json").read_bytes()
