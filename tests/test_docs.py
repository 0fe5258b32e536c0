"""The documentation is true: commands print what it says, and every code, key and help text in it is the program's.

``python docs/make_commands.py`` and ``python docs/make_architecture.py`` bring the made pages up to date.
"""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path

import pytest

from icf_utils import errors
from icf_utils.cli.main import EXIT_BUG, EXIT_INTERRUPTED, EXIT_TERMINATED
from icf_utils.cli.parser import UsageError, build_parser
from icf_utils.settings import ProcessingSettings, Settings, parse_settings
from tests.pages import (
    CLONE_TOOLS,
    DOCS,
    ROOT,
    Shell,
    Step,
    blocks,
    page,
    reader_environment,
    steps,
    write_example,
)


def first_cells(name: str) -> list[str]:
    """What stands in the first column of the page's tables, without the headings."""
    cells = re.findall(r"(?m)^\| *([^|]+?) *\|", page(name))
    return [cell.strip("`") for cell in cells if cell.startswith("`") or cell.isdecimal()]


@pytest.mark.parametrize("program", ["make_commands.py", "make_architecture.py", "make_man.py"])
def test_made_pages_are_current(program: str) -> None:
    done = subprocess.run(
        [sys.executable, DOCS / program, "--check"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_every_room_is_explained() -> None:
    rooms = {
        path.stem for path in (ROOT / "icf_utils").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert set(first_cells("architecture.md")) == rooms - {"__init__"}


def test_every_exit_code_is_explained() -> None:
    classes = [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, errors.IcfError)]
    known = {item.exit_code for item in classes} | {0, EXIT_BUG, EXIT_INTERRUPTED, EXIT_TERMINATED}
    explained = [int(cell) for cell in first_cells("errors.md") if cell.isdecimal()]
    assert sorted(explained) == sorted(known)
    for item in classes:
        assert f"`{item.__name__}`" in page("errors.md")


def test_every_notice_is_explained() -> None:
    explained = [cell for cell in first_cells("errors.md") if not cell.isdecimal()]
    assert sorted(explained) == sorted(notice_codes())


def notice_codes() -> set[str]:
    """The first argument of every ``Notice(...)`` in the source."""
    found = set()
    for path in (ROOT / "icf_utils").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Notice":
                if not node.args:  # one that was stored, and is read again
                    continue
                code = node.args[0]
                assert isinstance(code, ast.Constant), f"{path}:{node.lineno}: the code is no constant"
                found.add(str(code.value))
    return found


def setting_keys() -> dict[str, list[str]]:
    """The keys of each table of the settings."""
    default = Settings()
    sections = {section.name: getattr(default, section.name) for section in fields(Settings)}
    sections["processing"] = ProcessingSettings
    return {name: [key.name for key in fields(section)] for name, section in sections.items()}


def test_every_setting_is_explained() -> None:
    known = {f"[{section}] {key}" for section, keys in setting_keys().items() for key in keys}
    tables = re.split(r"(?m)^## `\[+(\w+)\]+`.*$", page("settings.md"))[1:]
    explained = {
        f"[{section}] {key}"
        for section, text in zip(tables[::2], tables[1::2], strict=True)
        for cell in re.findall(r"(?m)^\| (`\w+`(?:, `\w+`)*) \|", text)
        for key in re.findall(r"\w+", cell)
    }
    assert explained == known


def test_the_example_of_all_settings_is_one() -> None:
    (example,) = blocks("settings.md", "toml")
    parse_settings(example.encode(), "settings.md")
    for section, keys in setting_keys().items():
        assert f"[{section}]" in example
        for key in keys:
            assert re.search(rf"(?m)^{key} = ", example), f"[{section}] {key} is not in the example"


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md"])
def test_links_to_files_of_the_project_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / name).read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target


def test_the_readme_leads_every_reader_to_a_first_page() -> None:
    """All pages are in the manual's index: Sphinx refuses one that is not."""
    readme = page("../README.md")
    assert len(readme.splitlines()) < 100
    for path in DOCS.glob("for-*.md"):
        assert f"(docs/{path.name})" in readme, path.name
        assert f"{{doc}}`{path.stem}`" in page("index.md"), path.name


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    return reader_environment(tmp_path_factory.mktemp("reader"))


@pytest.fixture
def example_visit(tmp_path: Path) -> Path:
    """A folder in which the tutorial's program has made its visit."""
    write_example(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def after_the_tutorial(
    tmp_path_factory: pytest.TempPathFactory, environment: Mapping[str, str]
) -> Iterator[tuple[Shell, list[Step]]]:
    """The shell in which the tutorial was followed up to its clone, and the steps that are left."""
    folder = tmp_path_factory.mktemp("tutorial")
    (folder / "example.py").write_text(blocks("tutorial.md", "python")[0], encoding="utf-8")
    left = list(steps("tutorial.md"))
    shell = Shell(folder, environment)
    try:
        while not left[0].command.startswith("datalad"):
            shell.run(left.pop(0))
        yield shell, left
    finally:
        shell.close()


def test_the_tutorial_prints_what_it_says(
    after_the_tutorial: tuple[Shell, list[Step]], environment: Mapping[str, str]
) -> None:
    shell, left = after_the_tutorial
    missing = [tool for tool in CLONE_TOOLS if not shutil.which(tool, path=environment["PATH"])]
    if missing:
        pytest.skip(f"its steps up to the clone are fine; not installed for the rest: {', '.join(missing)}")
    for step in left:
        shell.run(step)


@pytest.mark.parametrize(
    "name",
    [
        "archive.md",
        "metadata.md",
        "catalog.md",
        "errors.md",
        "verify.md",
        "run.md",
        "retrieve.md",
        "process.md",
        "correct-a-visit.md",
        "remove-a-visit.md",
    ],
)
def test_other_pages_print_what_they_say(
    name: str, after_the_tutorial: tuple[Shell, list[Step]], environment: Mapping[str, str], tmp_path: Path
) -> None:
    """These pages go on from the store that the tutorial has made."""
    shell, _ = after_the_tutorial
    for part in ("store", "export"):
        shutil.copytree(shell.start / part, tmp_path / part)
    own = Shell(tmp_path, environment)
    found = list(steps(name))
    assert found
    try:
        for step in found:
            own.run(step)
    finally:
        own.close()


def test_the_readme_prints_what_it_says(example_visit: Path, environment: Mapping[str, str]) -> None:
    shell = Shell(example_visit, environment)
    for step in steps("../README.md"):
        shell.run(step)


def test_the_archive_can_be_made_again_as_the_page_says(example_visit: Path, environment: Mapping[str, str]) -> None:
    from icf_utils import make_studyvisit_archive

    (example_visit / "again.py").write_text(blocks("archive.md", "python")[0], encoding="utf-8")
    command = [sys.executable, "again.py", "export", "study-a", "visit-01", "again.tar"]
    subprocess.run(command, cwd=example_visit, env=environment, check=True, timeout=60)
    result = make_studyvisit_archive(example_visit / "export", example_visit / "store", "study-a", "visit-01")
    assert result.archive.path.read_bytes() == (example_visit / "again.tar").read_bytes()


def test_the_tour_prints_what_its_page_says(example_visit: Path, environment: Mapping[str, str]) -> None:
    tour = ROOT / "docs/examples/tour.py"
    done = subprocess.run(
        [sys.executable, "-W", "error", tour, "export", "tour-store"],
        cwd=example_visit,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert f"$ python tour.py export tour-store\n{done.stdout}" in blocks("for-developers.md", "text")


def test_the_python_example_runs(example_visit: Path, environment: Mapping[str, str]) -> None:
    (example_visit / "store").mkdir()
    (example_visit / "api.py").write_text(blocks("python.md", "python")[0], encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "api.py"],
        cwd=example_visit,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    (printed,) = blocks("python.md", "text")[:1]
    assert Step("python.md", "api.py", printed).matches(done.stdout), done.stdout


def command_lines() -> list[tuple[str, str]]:
    """Each line of a shell block that runs icf-utils, and whole commands in the running text, with its page."""
    found = []
    for path in [ROOT / "README.md", *DOCS.glob("*.md")]:
        text = path.read_text(encoding="utf-8")
        for block in re.findall(r"(?ms)^```(?:sh|console)\n(.*?)^```", text):
            joined = re.sub(r"\\\n>?\s*", "", block)
            start = r"\$ " if block.startswith("$ ") else ""  # the rest of a console block is output
            found += [(path.name, line) for line in re.findall(rf"(?m)^{start}(icf-utils [^#|>;&\n]+)", joined)]
    return found


def test_command_lines_of_all_pages_are_understood() -> None:
    """Also of those that no test runs. Words in capitals, and options in brackets, are the reader's."""
    wrong = []
    for name, line in command_lines():
        words = shlex.split(line)[1:]
        if any(word in ("...", "COMMAND") or word.startswith("[") for word in words) or "--help" in words:
            continue
        try:
            build_parser().parse_args(words)
        except (UsageError, SystemExit) as error:
            wrong.append(f"{name}: {line}: {error}")
    assert wrong == []
