"""The scene of the trials: a store with a complete visit, two more that come in, and what must never change."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from icf_utils.store.layout import Visit
from tests.cli.program import COMMANDS, icf
from tests.data.make_dicom import uid, write_visit
from tests.verify.stores import STUDY, are_sums, contents, files_of, in_any_order, write_input

URL = "https://data.example.org/store"

#: The operations that are disturbed: the four steps of a visit, all of them by one command, and a repair.
OPERATIONS = (*COMMANDS[:4], "run", "run -j 2", "verify --repair")

#: The operations that change a deposited visit.
CURATION = ("visit replace", "visit merge", "visit rename", "visit refresh", "visit remove")

#: The operations that bring visits in and out, and signatures.
TRANSFERS = ("ingest", "sign", "export", "retrieve")

#: The folder next to a store that gets what is exported and retrieved.
OUTSIDE = "outside"

Tree = dict[str, bytes]


def visible(root: Path) -> Tree:
    """The bytes of everything that users see, in whatever order the visits came: all but the work folder.

    Also of what was brought out of the store; the log of ``retrieve`` lists images in the order in which they came.
    """
    tree = in_any_order(root, {name: data for name, data in contents(root).items() if "/.icf/" not in name})
    outside = contents(root.parent / OUTSIDE).items()
    passed = ("log.json", ".icf-retrieve")
    return tree | {f"{OUTSIDE}/{name}": data for name, data in outside if name.split("/")[0] not in passed}


def leftovers(root: Path) -> list[str]:
    """What should not stay in a work folder: all but states of runs, what stages hand over, files kept by repairs."""
    found = []
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        parts = name.split("/")
        if len(parts) > 2 and parts[1] == ".icf":
            kept = (parts[2] in ("state", "handover") and path.suffix in (".json", "")) or parts[2] == "damaged"
            if not kept:
                found.append(name)
    return found


@dataclass(frozen=True)
class Done:
    """The identity of a complete visit's files: bytes, times, inodes and modes."""

    files: dict[str, tuple[object, ...]]

    @classmethod
    def of(cls, root: Path, visit: str) -> Done:
        found: dict[str, tuple[object, ...]] = {}
        for kind, path in files_of(Visit(root, STUDY, visit)).items():
            status = path.stat()
            mode = stat.S_IMODE(status.st_mode)
            found[kind] = (path.read_bytes(), status.st_mtime_ns, status.st_ino, mode)
        return cls(found)


class Scene:
    """Inputs, models and expected results, made once in a folder."""

    def __init__(self, folder: Path, curation: bool = False) -> None:
        self.folder = folder
        for number in range(3):
            source = write_input(folder / "in" / f"v{number}", StudyTime=f"1{number}0000", StudyInstanceUID=uid(number))
            (source / "large.bin").write_bytes(bytes(range(256)) * 6000)
        self.input = folder / "in" / "v1"
        self._write_table("one", 1)
        self._write_table("all", 3)
        self.made("before", "run", "-o", folder / "before", "--table", folder / "one.csv", "--store-url", URL)
        #: Every form that a file has in one of the stores that may be met on the way.
        self.forms: dict[str, set[bytes]] = {}
        for visits in ((0,), (0, 1), (0, 2), (0, 1, 2)):
            root = self._with_visits(visits)
            for name, data in visible(root).items():
                self.forms.setdefault(name, set()).add(data)
        self._write_late()
        self._write_ingest_table()
        self.key = self._make_key() if curation else folder / "key"
        operations = (*OPERATIONS, *CURATION, *TRANSFERS) if curation else OPERATIONS
        self.models = {operation: self._model(operation) for operation in operations}
        self.expected = {operation: self._expected(operation) for operation in operations}
        for operation in operations[len(OPERATIONS) :]:
            for tree in (visible(self.models[operation]), self.expected[operation]):
                for name, data in tree.items():
                    self.forms.setdefault(name, set()).add(data)

    def _write_late(self) -> None:
        """The next state of a visit's input, and images that arrived as a visit of their own."""
        write_visit(
            self.folder / "next", {2: ("t1 mprage", 2), 5: ("bold", 3)}, StudyTime="110000", StudyInstanceUID=uid(1)
        )
        write_visit(self.folder / "late", {7: ("late", 2)}, StudyTime="110000", StudyInstanceUID=uid(1))

    def _write_ingest_table(self) -> None:
        (self.folder / "ingest.csv").write_text(f"folder,study,visit\nv1,{STUDY},v1\n")

    def _write_table(self, name: str, count: int) -> None:
        rows = [f"{STUDY},v{number},in/v{number}" for number in range(count)]
        (self.folder / f"{name}.csv").write_text("\n".join(["study,visit,input", *rows, ""]))

    def made(self, what: str, *arguments: str | Path) -> None:
        ran = icf(*arguments)
        assert ran.code == 0, (what, ran)

    def _with_visits(self, visits: tuple[int, ...]) -> Path:
        name = "with-" + "".join(map(str, visits))
        root = self.folder / name
        shutil.copytree(self.folder / "before", root, copy_function=shutil.copy2)
        targets = [f"{STUDY}/v{number}" for number in visits]
        table = self.folder / "all.csv"
        self.made(name, "run", "-o", root, "--table", table, "--store-url", URL, *targets)
        return root

    def arguments(self, operation: str, root: Path) -> tuple[str | Path, ...]:
        """The command line of an operation."""
        if operation.startswith("run"):
            jobs = ("-j", operation[-1]) if operation[-1].isdigit() else ("-j", "1")
            return ("run", "-o", root, "--table", self.folder / "all.csv", "--store-url", URL, *jobs)
        if operation == "verify --repair":
            return ("verify", "-o", root, "--repair")
        if operation in CURATION:
            return self._curation(operation, root)
        if operation in TRANSFERS:
            return self._transfer(operation, root)
        more: dict[str, tuple[str | Path, ...]] = {COMMANDS[0]: (self.input,), COMMANDS[2]: ("--store-url", URL)}
        return (operation, "-o", root, "--id", STUDY, "v1", *more.get(operation, ()))

    def _make_key(self) -> Path:
        """A key of a signer; its signatures of the same bytes are the same."""
        key = self.folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)], check=True)
        return key

    def _transfer(self, operation: str, root: Path) -> tuple[str | Path, ...]:
        outside, table = root.parent / OUTSIDE, ("--table", self.folder / "ingest.csv")
        words: dict[str, tuple[str | Path, ...]] = {
            "ingest": ("ingest", self.folder / "in", "-o", root, *table, "-j", "1", "--store-url", URL),
            "sign": ("sign", "-o", root, "--key", self.key, "--date", "2026-01-02", f"{STUDY}/v1"),
            "export": ("export", "-o", root, "--bagit", "--to", outside, STUDY),
            "retrieve": ("retrieve", "-o", root, "--study", STUDY, "-d", outside),
        }
        return words[operation]

    def _curation(self, operation: str, root: Path) -> tuple[str | Path, ...]:
        words = tuple(operation.split())
        if operation == "visit refresh":
            return (*words, "-o", root, f"{STUDY}/v1")
        more: dict[str, tuple[str | Path, ...]] = {
            "visit replace": (self.folder / "next", "--reason", "next", "--keep"),
            "visit merge": ("--from", "late"),
            "visit rename": ("--to", STUDY, "v9"),
        }
        return (*words, "-o", root, "--id", STUDY, "v1", *more.get(operation, ()), "--yes")

    def _model(self, operation: str) -> Path:
        """A store as it is just before the operation."""
        root = self.folder / ("model-" + operation.replace(" ", "_"))
        if operation == "verify --repair":
            shutil.copytree(self.folder / "with-01", root, copy_function=shutil.copy2)
            _damage(Visit(root, STUDY, "v1"))
            return root
        if operation in TRANSFERS and operation != "ingest":
            shutil.copytree(self.folder / "with-01", root, copy_function=shutil.copy2)
            return root
        if operation in CURATION:
            shutil.copytree(self.folder / "with-01", root, copy_function=shutil.copy2)
            if operation == "visit merge":
                for command in COMMANDS[:4]:
                    given: dict[str, tuple[str | Path, ...]] = {
                        COMMANDS[0]: (self.folder / "late",),
                        COMMANDS[2]: ("--store-url", URL),
                    }
                    self.made(command, command, "-o", root, "--id", STUDY, "late", *given.get(command, ()))
            if operation == "visit refresh":
                text = f'[store]\nurl = "{URL}"\n[metadata]\ntags = ["InstanceNumber"]\n'
                (root / "icf.toml").write_text(text)
            return root
        shutil.copytree(self.folder / "before", root, copy_function=shutil.copy2)
        if operation in COMMANDS:
            for earlier in COMMANDS[: COMMANDS.index(operation)]:
                self.made(earlier, *self.arguments(earlier, root))
        return root

    def _expected(self, operation: str) -> Tree:
        """What an undisturbed run makes."""
        root = self.folder / "undisturbed" / "store"
        shutil.copytree(self.models[operation], root, copy_function=shutil.copy2)
        self.made(operation, *self.arguments(operation, root))
        assert leftovers(root) == []
        tree = visible(root)
        shutil.rmtree(root.parent)
        return tree

    def store(self, operation: str, root: Path) -> Done:
        """Put the store before the operation at ``root``; the identity of its complete visit."""
        shutil.copytree(self.models[operation], root, copy_function=shutil.copy2, dirs_exist_ok=True)
        return Done.of(root, "v0")

    def half_written(self, operation: str, root: Path) -> list[str]:
        """Files under final names that have another content than a whole one.

        The dataset of a study has a form for each order of visits; it is compared when the operation is complete.
        """
        before = visible(self.models[operation]) if operation == "verify --repair" else {}
        return [
            name
            for name, data in visible(root).items()
            if data not in self.forms.get(name, ()) and before.get(name) != data and "/XDLRA--" not in name
            if not are_sums(name, data, *self.forms.get(name, ()))
            if not (name.startswith(OUTSIDE) and "/." in name)  # what an export has not finished yet
        ]


def _damage(place: Visit) -> None:
    """Everything that can be repaired."""
    os.truncate(place.checksum, 10)
    data = bytearray(place.dicoms_json.read_bytes())
    data[200] ^= 4
    place.dicoms_json.write_bytes(data)
    export = bytearray(place.export.read_bytes())
    export[-40] ^= 1
    place.export.write_bytes(export)
    place.refs.unlink()
    for path in sorted(place.of_study.catalog.rglob("config.json")):
        path.write_bytes(b"{}")
