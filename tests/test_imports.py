"""The house's rules: rooms import downwards only, no circles, and a command loads only what it needs."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import icf_utils

PACKAGE = Path(icf_utils.__file__).parent

#: From the ground up: a room may import what stands before it.
ROOMS = [
    *(
        "errors",
        "json_schema",
        "schemas",
        "formatting",
        "durations",
        "waiting",
        "installation",
        "results",
        "progress",
        "notebook",
        "page_style",
        "interrupts",
        "regular_files",
        "child_environment",
        "worker_process",
        "worker_pool",
        "settings",
        "templates",
        "deflate",
        "store",
        "credentials",
        "fetch",
    ),
    *(
        "dicom",
        "sources",
        "archive",
        "outputs",
        "metadata",
        "dataset",
        "catalog",
        "verify",
        "curation",
        "export",
        "pipeline",
    ),
    *("slurm", "processing", "sender", "xnat", "receiver", "ingest", "retrieve", "doctor", "cli", "__main__"),
]


def modules() -> dict[str, Path]:
    """Dotted names below the package to files."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = modules()


def imported(name: str) -> set[str]:
    """The package's modules that a module imports, inside of functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            assert node.module
            found.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
    ours = {module.removeprefix("icf_utils.") for module in found if module.startswith("icf_utils.")}
    return ours & set(MODULES)


def room(name: str) -> str:
    return name.partition(".")[0]


@pytest.mark.parametrize("name", sorted(set(MODULES) - {""}))
def test_a_module_imports_from_below(name: str) -> None:
    assert room(name) in ROOMS, "a new room needs its place in the order"
    for other in imported(name):
        if other:
            assert ROOMS.index(room(other)) <= ROOMS.index(room(name)), f"{name} imports {other}"


def test_nobody_imports_the_command_line() -> None:
    users = {name for name in MODULES for other in imported(name) if room(other) == "cli" and room(name) != "cli"}
    assert users == {"__main__"}


def test_no_circles() -> None:
    """Between single modules, imports inside of functions included."""
    edges = {name: imported(name) - {name} for name in MODULES if name}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above[above.index(name) :], name))
        if name in done:
            return
        for other in edges.get(name, set()):
            visit(other, (*above, name))
        done.add(name)

    for name in sorted(edges):
        visit(name, ())


#: Modules that may use the standard streams.
WRITERS = {
    "cli.console": "prints",
    "dataset.special_remote.program": "its standard output is git-annex's",
}


def stream_uses(path: Path) -> set[str]:
    """How a module uses the standard streams: ``print`` and the names of streams."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "input"):
            found.add(node.func.id)
        if isinstance(node, ast.Attribute) and node.attr.strip("_") in ("stdout", "stderr"):
            found |= {node.attr} if isinstance(node.value, ast.Name) and node.value.id == "sys" else set()
        if isinstance(node, ast.ImportFrom) and node.module == "sys":
            found |= {alias.name for alias in node.names} & {"stdout", "stderr"}
    return found


def test_only_the_console_writes() -> None:
    assert {name for name, path in MODULES.items() if stream_uses(path)} <= set(WRITERS)


def test_a_module_that_writes_is_found(tmp_path: Path) -> None:
    for text in (
        "print(1)",
        "import sys\nsys.stderr.write('')",
        "import sys\nx = sys.__stdout__",
        "from sys import stdout",
    ):
        (tmp_path / "module.py").write_text(text)
        assert stream_uses(tmp_path / "module.py")


def test_errors_do_no_input_or_output() -> None:
    """What is imported could do none: the functions of ``os`` there turn numbers and paths into text."""
    tree = ast.parse(MODULES["errors"].read_text("utf-8"))
    plain = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names = [
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert plain == {"errno"}
    allowed = ("__future__.", "collections.abc.", "typing.", "contextlib.contextmanager")
    assert {name for name in names if not name.startswith(allowed)} == {"os.PathLike", "os.fspath", "os.strerror"}
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"open", "print", "input", "exec", "eval", "__import__"}


#: What is defined once, as a pattern of source text, and the modules that may contain it.
DEFINED_ONCE = [
    (r"\b0x00[0-9A-Fa-f]{6}\b|\b0x7FE0[0-9A-Fa-f]{4}\b", {"dicom.constants", "dicom.part10"}),  # tags
    (r"[\"']1\.2\.840\.", {"dicom.constants"}),  # UIDs
    (r"\bb[\"']DICM", {"dicom.part10"}),
    (
        r"\bread_head\(",
        {
            "dicom.header",
            "sources.images",
            "archive.writer",
            "archive.member_times",
            "metadata.describe",
            "metadata.study_uids",
        }
        | {"receiver.identify"},
    ),
    (r"[\"']\\x78\\x01[\"']", {"deflate"}),
]


@pytest.mark.parametrize(("pattern", "places"), DEFINED_ONCE)
def test_defined_once(pattern: str, places: set[str]) -> None:
    """DICOM constants, file meta information, reading a file's head and stored deflate have one place each."""
    found = set()
    for name, path in MODULES.items():
        text = path.read_text("utf-8")
        docs = [
            node.value
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        ]
        lines = text.splitlines()
        for node in docs:  # examples in docstrings may write numbers
            lines[node.lineno - 1 : node.end_lineno] = [""] * ((node.end_lineno or node.lineno) - node.lineno + 1)
        if re.search(pattern, "\n".join(lines)):
            found.add(name)
    assert found <= places


def loaded(statement: str) -> set[str]:
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


HEAVY = {
    *("pydicom", "datalad", "datalad_next", "datalad_catalog", "jsonschema", "tqdm", "zstandard", "numpy"),
    *("pynetdicom", "requests", "flask", "waitress", "psycopg", "obstore", "urllib3", "certifi", "PIL", "sqlite3"),
}


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize(
    "statement",
    ["import icf_utils", "import icf_utils.cli.main", "from icf_utils.cli.main import build_parser; build_parser()"],
)
def test_starting_is_cheap(statement: str) -> None:
    assert loaded(statement) & HEAVY == set()


@pytest.mark.usefixtures("unmeasured")
def test_archiving_needs_no_dicom_library() -> None:
    assert loaded("from icf_utils.archive.stage import make_studyvisit_archive") & HEAVY == set()


def test_the_public_names_are_there() -> None:
    for name in icf_utils.__all__:
        assert getattr(icf_utils, name) is not None
    assert set(icf_utils.__all__) <= set(dir(icf_utils))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = icf_utils.nothing
