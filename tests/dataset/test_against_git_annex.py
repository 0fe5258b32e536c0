"""Both branches, file by file, against a dataset that git-annex builds with its own batch commands."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest

from icf_utils.dataset.annex_branch import annex_fields, archive_key, encode_name, key_log_path
from icf_utils.dataset.annex_keys import image_locator, md5e_key
from icf_utils.dataset.build import build_dataset
from icf_utils.dataset.git_objects import git_can_hold
from icf_utils.dataset.origin import DatasetUuids, make_origin
from icf_utils.metadata.records import ImageRecord, VisitMetadata
from icf_utils.store.layout import Visit
from tests.dataset.commands import branch_files, run
from tests.dataset.visits import ODD_NAMES, SMALL, TIME, Member, archive_and_metadata

URL = "https://example.org/store"
PLACE = Visit(Path("store"), "study", "v1")

ODD_VALUES: list[str | int | float] = ["a b", "!x", "x!", "tab\there", "line\nfeed", "return\rhere", "Größe", "Größe 2"]
ODD_VALUES += [
    "a\u00a0b",
    "a\u2028b",
    "",
    "+x",
    "-x",
    "a=b",
    " lead",
    "trail ",
    "%",
    "\\",
    '"',
    "\x01",
    "\ufeff",
    "timestamp=1s",
]
ODD = (
    *(Member(name, b"content %d" % at, {"SeriesNumber": at % 3}) for at, name in enumerate(ODD_NAMES)),
    Member("values.dcm", b"values", {"SeriesDescription": ODD_VALUES, "EchoTime": [1.5, 2, 1e-7, 10**20]}),
    Member("same/a.dcm", b"the same", {"SeriesNumber": 7, "Modality": "MR"}),
    Member("same/b.dcm", b"the same", {"SeriesNumber": 8, "Modality": "MR"}),
    Member("same/c.IMA", b"the same", {"SeriesNumber": 9}),
    Member("empty.dcm", b"", {"SeriesNumber": 10}),
    Member("no tags.dcm", b"untold", {}),
)


@pytest.mark.usefixtures("clone_tools")
@pytest.mark.parametrize("members", [SMALL, ODD], ids=["ordinary", "odd"])
@pytest.mark.parametrize("time", [0, TIME])
def test_same_branches(members: tuple[Member, ...], time: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = archive_and_metadata(PLACE, members)[1]
    origin = make_origin(URL, "", PLACE, time)
    monkeypatch.setenv("GIT_ANNEX_VECTOR_CLOCK", str(time))
    theirs = built_by_git_annex(tmp_path / "theirs", metadata, origin.uuids)
    ours = unpacked(build_dataset(metadata, PLACE, origin).export, tmp_path / "ours")
    for branch in ("git-annex", "main"):
        expected, found = branch_files(theirs, branch), branch_files(ours, branch)
        assert sorted(found) == sorted(expected)
        for path, item in expected.items():
            assert found[path] == item, path


def built_by_git_annex(folder: Path, metadata: VisitMetadata, uuids: DatasetUuids) -> Path:
    folder.mkdir()
    run("git", "init", "-q", "-b", "main", ".", cwd=folder)
    run("git", "config", "annex.uuid", str(uuids.repository), cwd=folder)
    run("git", "annex", "init", "-q", "icf-utils", cwd=folder)
    for name, uuid in (("uncurl", uuids.uncurl), ("archivist", uuids.archivist)):
        options = ("type=external", f"externaltype={name}", "encryption=none", "autoenable=true", f"uuid={uuid}")
        run("git", "annex", "initremote", name, *options, cwd=folder)
    (folder / ".datalad").mkdir()
    run("git", "config", "-f", ".datalad/config", "datalad.dataset.id", str(uuids.dataset), cwd=folder)
    attributes = b"* annex.backend=MD5E\n**/.git* annex.largefiles=nothing\n"
    (folder / ".gitattributes").write_bytes(attributes)
    _place(folder, metadata)
    _annotate(folder, metadata, uuids)
    run("git", "annex", "merge", cwd=folder)
    run("git", "add", "-f", ".", cwd=folder)
    run("git", "-c", "core.hooksPath=/dev/null", "commit", "-q", "-m", "x", cwd=folder)
    return folder


def _place(folder: Path, metadata: VisitMetadata) -> None:
    """The links, each made under a simple name in its folder: ``fromkey --batch`` does not accept every name."""
    pairs = [(archive_key(metadata.tarball), PLACE.dspath.encode())]
    pairs += [(_key(record), encode_name(record.path)) for record in metadata.images if git_can_hold(record.path)]
    plain = [b"%s/stand-in-%d" % (path.rpartition(b"/")[0], at) for at, (_, path) in enumerate(pairs)]
    asked = b"".join(b"%s %s\0" % (key, name) for (key, _), name in zip(pairs, plain, strict=True))
    run("git", "annex", "fromkey", "--force", "--batch", "-z", cwd=folder, stdin=asked)
    for (_, path), name in zip(pairs, plain, strict=True):
        (folder / name.decode()).rename(folder / path.decode("utf-8", "surrogateescape"))


def _annotate(folder: Path, metadata: VisitMetadata, uuids: DatasetUuids) -> None:
    archive = archive_key(metadata.tarball)
    urls = [b"%s %s" % (archive, f"{URL}/{PLACE.storepath}".encode())]
    present = [b"%s %s 1" % (archive, str(uuids.uncurl).encode())]
    by_key: dict[bytes, list[ImageRecord]] = {}
    for record in metadata.images:
        by_key.setdefault(_key(record), []).append(record)
        locator = image_locator(archive, encode_name(record.path), record.size, record.offset)
        urls.append(b"%s %s" % (_key(record), locator))
        present.append(b"%s %s 1" % (_key(record), str(uuids.archivist).encode()))
    run("git", "annex", "registerurl", "--batch", cwd=folder, stdin=b"\n".join(urls) + b"\n")
    run("git", "annex", "setpresentkey", "--batch", cwd=folder, stdin=b"\n".join(present) + b"\n")
    _tag(folder, by_key)


def _tag(folder: Path, by_key: dict[bytes, list[ImageRecord]]) -> None:
    """The metadata; a key outside UTF-8 cannot be named in JSON, so it gets a separate call."""
    lines = []
    for key, same in by_key.items():
        fields = {name: [value.decode() for value in values] for name, values in annex_fields(same).items() if values}
        if b"\xff" in key:
            settings = [
                option for name, values in fields.items() for value in values for option in ("-s", f"{name}+={value}")
            ]
            run("git", "annex", "metadata", b"--key=" + key, *settings, cwd=folder)
        else:
            lines.append(json.dumps({"key": key.decode(), "fields": fields}, ensure_ascii=False).encode())
    run("git", "annex", "metadata", "--batch", "--json", cwd=folder, stdin=b"\n".join(lines) + b"\n")


def _key(record: ImageRecord) -> bytes:
    return md5e_key(record.size, record.md5, encode_name(record.path))


def unpacked(export: bytes, folder: Path) -> Path:
    with zipfile.ZipFile(io.BytesIO(export)) as packed:
        assert packed.testzip() is None
        packed.extractall(folder)
    return folder


def test_paths_of_the_logs() -> None:
    assert key_log_path(b"XDLRA--refs", b".log.web") == b"3f7/4a3/XDLRA--refs.log.web"
