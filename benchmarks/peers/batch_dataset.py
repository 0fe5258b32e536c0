"""The same dataset by git-annex's own batch commands: one process per kind of record, not per image."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

STANDARD = ("SeriesDescription", "SeriesNumber", "Modality", "MRAcquisitionType", "ProtocolName", "PulseSequenceName")


def main(store: Path, study: str, visit: str) -> None:
    """Build the dataset of a visit whose metadata lie in ``store``, and pack it."""
    folder = store / study
    tarball = json.loads((folder / f"{visit}_metadata_tarball.json").read_text())
    dicoms = json.loads((folder / f"{visit}_metadata_dicoms.json").read_text())
    key = f"MD5E-s{tarball['size']}--{tarball['md5']}.tar"
    with tempfile.TemporaryDirectory() as place:
        git = _Git(Path(place))
        git("init", "--quiet", "--initial-branch=main")
        git("annex", "init", "visit")
        uuids = {name: git.remote(name) for name in ("archivist", "uncurl")}
        images = [(f"MD5E-s{item['size']}--{item['md5']}{Path(item['path']).suffix}", item) for item in dicoms]
        git.lines(["annex", "fromkey", "--force", "--batch"], [f"{key} {tarball['dspath']}"])
        git.lines(["annex", "fromkey", "--force", "--batch"], [f"{name} {item['path']}" for name, item in images])
        urls = [f"{name} dl+archive:{key}#path={item['path']}&size={item['size']}" for name, item in images]
        git.lines(["annex", "registerurl", "--remote=archivist", "--batch"], urls)
        git.lines(
            ["annex", "registerurl", "--remote=uncurl", "--batch"], [f"{key} file://{store}/{tarball['storepath']}"]
        )
        present = [f"{name} {uuids['archivist']} 1" for name, _ in images]
        git.lines(["annex", "setpresentkey", "--batch"], [*present, f"{key} {uuids['uncurl']} 1"])
        git.lines(["annex", "metadata", "--batch", "--json"], [_fields(name, item) for name, item in images])
        git("commit", "--quiet", "-m", "visit")
        git("gc", "--quiet")
        _pack(Path(place) / ".git", folder / "batch-export.zip")


def _fields(key: str, item: dict[str, object]) -> str:
    values = {tag.lower(): [str(item[tag])] for tag in STANDARD if item[tag] != ""}
    return json.dumps({"key": key, "fields": values})


class _Git:
    def __init__(self, place: Path) -> None:
        self._place = place

    def __call__(self, *arguments: str) -> str:
        settings = ["-c", "user.name=benchmark", "-c", "user.email=benchmark@example.org", "-c", "annex.backend=MD5E"]
        command = ["git", *settings, *arguments]
        return subprocess.run(command, cwd=self._place, check=True, stdout=subprocess.PIPE, text=True).stdout

    def lines(self, arguments: list[str], lines: list[str]) -> None:
        text = "".join(f"{line}\n" for line in lines)
        subprocess.run(
            ["git", *arguments], cwd=self._place, check=True, input=text, stdout=subprocess.DEVNULL, text=True
        )

    def remote(self, name: str) -> str:
        self("annex", "initremote", name, "type=external", f"externaltype={name}", "encryption=none", "autoenable=true")
        return self("config", f"remote.{name}.annex-uuid").strip()


def _pack(repository: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(repository.rglob("*")):
            if path.is_file():
                packed.write(path, path.relative_to(repository))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
