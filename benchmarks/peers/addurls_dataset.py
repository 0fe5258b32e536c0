"""The known recipe for a dataset: addurls, one presence record per image, a push to a ``datalad-annex::`` deposit."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import datalad.api as dl
from datalad_next.datasets import Dataset


def main(store: Path, study: str, visit: str, deposit: Path) -> None:
    """Deposit the dataset of a visit whose metadata lie in ``store`` in the folder ``deposit``."""
    folder = store / study
    tarball = json.loads((folder / f"{visit}_metadata_tarball.json").read_text())
    dicoms = json.loads((folder / f"{visit}_metadata_dicoms.json").read_text())
    key = f"MD5E-s{tarball['size']}--{tarball['md5']}.tar"
    with tempfile.TemporaryDirectory() as place:
        dataset = dl.create(place, result_renderer="disabled")
        repo = dataset.repo
        remotes = {name: _remote(repo, name) for name in ("archivist", "uncurl")}
        repo.call_annex(["fromkey", "--force", key, tarball["dspath"]])
        repo.call_annex(["registerurl", "--remote=uncurl", key, f"file://{store}/{tarball['storepath']}"])
        repo.call_annex(["setpresentkey", key, remotes["uncurl"], "1"])
        dataset.save(message="the archive", result_renderer="disabled")
        _add_images(dataset, dicoms, key, remotes["archivist"])
        url = f"datalad-annex::?type=directory&directory={deposit}&encryption=none"
        repo.call_git(["remote", "add", "deposit", url])
        dl.push(dataset=dataset, to="deposit", data="nothing", result_renderer="disabled")


def _remote(repo: object, name: str) -> str:
    options = ["type=external", f"externaltype={name}", "encryption=none", "autoenable=true"]
    repo.call_annex(["initremote", name, *options])  # type: ignore[attr-defined]
    return str(repo.call_git(["config", f"remote.{name}.annex-uuid"]).strip())  # type: ignore[attr-defined]


def _add_images(dataset: Dataset, dicoms: list[dict[str, object]], key: str, remote: str) -> None:
    for record in dicoms:
        record["url"] = f"dl+archive:{key}#path={record['path']}&size={record['size']}"
    dl.addurls(
        dataset=dataset,
        urlfile=dicoms,
        urlformat="{url}",
        filenameformat="{path}",
        key="et:MD5-s{size}--{md5}",
        exclude_autometa="*",
        meta=["seriesnumber={SeriesNumber}", "protocolname={ProtocolName}"],
        fast=True,
        result_renderer="disabled",
    )
    for record in dicoms:
        image = f"MD5E-s{record['size']}--{record['md5']}{Path(str(record['path'])).suffix}"
        dataset.repo.call_annex(["setpresentkey", image, remote, "1"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]))
