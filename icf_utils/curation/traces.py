"""What a store has of a visit: the files that belong to it, and its traces in other files. Reads the store."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from icf_utils.errors import IcfError, storage_errors
from icf_utils.metadata.records import UID_TAGS, read_unchecked_metadata
from icf_utils.progress import SILENT, Progress
from icf_utils.settings import STAGE_NAMES
from icf_utils.store.layout import TOMBSTONE_SUFFIX, WORK_DIR_NAME, Study, Visit
from icf_utils.store.visit_files import FILE_FORMS, VISIT_FORMS, belongs

#: Names in a work folder: copies and unfinished files of the above, states of stages, inputs, logs of
#: processings and of verifications.
_WORK_FORMS = re.compile(
    rf"(?:{VISIT_FORMS.pattern})?(?:\.\d+)?(?:\.part)?|_annex\+.*\.part|\.json(?:\.\d+)?|\.jsonl"
    rf"|\.(?:{'|'.join(STAGE_NAMES)})(?:\.error)?\.json(?:\..*\.part)?|\.[A-Za-z0-9-]+(?:\.failure\.json|\.log)"
)
_ARCHIVE = re.compile(r".+_dicom(?:\.v\d+)?\.tar|.+_output(?:\.v\d+)?\.tar")
_EXPORT_SUFFIX = "_XDLRA--repo-export"
_KEY = re.compile(rb"MD5E-s\d+--([0-9a-f]{32})")
_MD5 = re.compile(rb"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")
#: Blank all but the characters of UIDs, or of MD5s, so that splitting a text gives those that are in it. This is ten
#: times as fast as a regular expression.
_UID_CHARACTERS = bytes(byte if byte in b"0123456789." else 32 for byte in range(256))
_MD5_CHARACTERS = bytes(byte if byte in b"0123456789abcdef" else 32 for byte in range(256))
#: The same for the file with the metadata of a visit's images, which are most of a store beside its archives.
_IMAGES_SUFFIX = "_metadata_dicoms.json"
_UID_FIELD, _MD5_FIELD = re.compile(rb'UID": ?"([^"]*)"'), re.compile(rb'"md5": ?"([^"]*)"')
#: What follows an identifier, or the name of a file, in a text: a dot may end a sentence.
_END = rb"(?!\.?[A-Za-z0-9_-])"
_CHUNK = 1 << 22
#: Length of the shortest UID that is searched for in files other than the metadata of images.
_SHORTEST_UID = 5
_IDENTIFIER = "its identifier"
_OVERLAP = 256


def work_files(place: Visit) -> list[Path]:
    """The files in the study's work folder that are about a visit: states, inputs, damaged copies, job lists."""
    found = []
    traces = Traces(place.study, place.visit)
    for path in _files_below(place.workdir):
        inside = path.relative_to(place.workdir).parts
        if inside[0].startswith("+") or path.name.endswith(".lock"):
            continue
        is_named = any(_is_named(part, place.visit) for part in inside)
        if is_named or (inside[0] in ("slurm", "state", "inputs") and next(traces.of_file(path), None)):
            found.append(path)
    return found


def study_records(study: Study) -> list[Path]:
    """The files in a study's work folder that are about its visits as a whole: states of its catalog."""
    return [path for path in _files_below(study.workdir / "state") if path.name.startswith("+")]


def _is_named(name: str, visit: str) -> bool:
    """Whether a file or folder in a work folder is named after a visit."""
    return name.startswith(visit) and _WORK_FORMS.fullmatch(name[len(visit) :]) is not None


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in sorted(names))


@dataclass(frozen=True)
class Traces:
    """What identifies a visit: its identifiers where paths and records have them, its UIDs and its MD5s."""

    study: str
    visit: str
    uids: frozenset[bytes] = frozenset()
    md5s: frozenset[bytes] = frozenset()

    def _names(self, in_study: bool) -> re.Pattern[bytes]:
        """What names the visit in a file; in those of its study, that another visit was merged with it."""
        study, visit = re.escape(self.study.encode()), re.escape(self.visit.encode())
        forms = (
            rb"(?<![A-Za-z0-9._-])%s(?:%s)(?:\.(?:\d+|part))?%s" % (visit, FILE_FORMS.encode(), _END),
            rb"(?<![A-Za-z0-9._-])%s/%s%s" % (study, visit, _END),
            rb"(?<![A-Za-z0-9._-])%s_%s/" % (study, visit),
            rb'"(?:visit|dataset_path)": ?"%s"' % visit,
            rb"^%s[,\t]%s[,\t\r\n]" % (study, visit),
            *([rb"\bmerged with %s%s" % (visit, _END)] if in_study else []),
        )
        return re.compile(b"|".join(forms), re.MULTILINE)

    def of_file(self, path: Path, in_study: bool = False) -> Iterator[str]:
        """What of it is in a file, by a word for each kind; ``in_study`` if that is one of the visit's study.

        Raises :class:`~icf_utils.errors.StorageFailure`.
        """
        names, visit, found = self._names(in_study), self.visit.encode(), set()
        digests = (
            _fields if path.name.endswith(_IMAGES_SUFFIX) else _keys if path.name.endswith(_EXPORT_SUFFIX) else _words
        )
        with storage_errors(path, "read"), path.open("rb", buffering=0) as handle:
            rest = b""
            while block := handle.read(_CHUNK):
                text = rest + block
                if visit in text and names.search(text):
                    found.add(_IDENTIFIER)
                uids, md5s = digests(text)
                if self.uids and not self.uids.isdisjoint(uids):
                    found.add("UIDs")
                if self.md5s and not self.md5s.isdisjoint(md5s):
                    found.add("MD5s")
                rest = text[-_OVERLAP:]
        yield from sorted(found)


def _words(text: bytes) -> tuple[Iterable[bytes], Iterable[bytes]]:
    """Whatever can be a UID or an MD5 in a text; a dot may end a sentence."""
    uids = (word.strip(b".") for word in text.translate(_UID_CHARACTERS).split() if len(word) > _SHORTEST_UID)
    return uids, text.translate(_MD5_CHARACTERS).split()


def _fields(text: bytes) -> tuple[Iterable[bytes], Iterable[bytes]]:
    """The UIDs and MD5s in metadata of images."""
    return _UID_FIELD.findall(text), _MD5_FIELD.findall(text)


def _keys(text: bytes) -> tuple[Iterable[bytes], Iterable[bytes]]:
    """The MD5s in the keys of a dataset, whose parts are stored without compression; it has no UIDs."""
    return (), _KEY.findall(text)


def collect_traces(place: Visit) -> Traces:
    """Collect what identifies a visit, from its metadata and its dataset, earlier versions included."""
    uids: set[bytes] = set()
    md5s: set[bytes] = set()
    with suppress(IcfError):
        metadata = read_unchecked_metadata(place)
        md5s |= {metadata.tarball.md5.encode(), *(image.md5.encode() for image in metadata.images)}
        uids |= {image.uids[tag].encode() for image in metadata.images for tag in UID_TAGS if image.uids.get(tag)}
    for path in (place.export, place.checksum, place.history):
        with suppress(OSError):
            raw = path.read_bytes()
            md5s |= set(_KEY.findall(raw)) if path == place.export else set(_MD5.findall(raw))
    return Traces(place.study, place.visit, frozenset(uids), frozenset(md5s))


@dataclass(frozen=True)
class Found:
    """What a search has found: files that still have something of a visit, and what.

    ``shared`` counts files of other visits with some of its UIDs or MD5s, as an image can be in several visits;
    ``shared_with`` names these visits, sorted (``STUDY/VISIT``).
    """

    traces: tuple[tuple[Path, str], ...]
    shared: int
    shared_with: tuple[str, ...]


def find_traces(root: Path, traces: Traces, progress: Progress = SILENT) -> Found:
    """Search a store for a visit that was removed.

    Archives of other visits and datasets of other studies are not read: nothing of the visit comes there. A tombstone
    is not a trace.
    """
    found: list[tuple[Path, str]] = []
    shared = 0
    shared_with: set[str] = set()
    visits = _VisitsOf(root)
    with progress.task("searching the store", sum(1 for _ in _files_below(root)), "file") as task:
        for path in _files_below(root):
            task.advance(1)
            if path.name.endswith((".lock", TOMBSTONE_SUFFIX)):
                continue
            inside = path.relative_to(root).parts
            if inside[0] == traces.study and _is_named_in(inside, traces.visit, visits):
                found.append((path, "its name"))
            elif not _ARCHIVE.fullmatch(path.name) and not _is_foreign_dataset(inside, traces.study):
                words = list(traces.of_file(path, inside[0] == traces.study))
                if words and (other := _visit_of(inside, visits)):
                    if words != [_IDENTIFIER]:
                        shared += 1
                        shared_with.add(other)
                    words = [word for word in words if word == _IDENTIFIER]
                found += [(path, " and ".join(words))] if words else []
    return Found(tuple(found), shared, tuple(sorted(shared_with)))


def _is_foreign_dataset(inside: Sequence[str], study: str) -> bool:
    return inside[0] != study and inside[-1].endswith(_EXPORT_SUFFIX)


class _VisitsOf:
    """The visits of a store's studies, each listed once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[str, list[str]] = {}

    def __getitem__(self, study: str) -> list[str]:
        if study not in self._known:
            self._known[study] = []
            with suppress(IcfError):
                self._known[study] = Study(self._root, study).visits()
        return self._known[study]


def _visit_of(inside: Sequence[str], visits: _VisitsOf) -> str:
    """The visit (``STUDY/VISIT``) that is in the store and has this file; empty if there is none."""
    if len(inside) < 2:
        return ""
    found = [visit for visit in visits[inside[0]] if belongs(inside[1], visit, ())]
    return f"{inside[0]}/{max(found, key=len)}" if found else ""


def _is_named_in(inside: Sequence[str], visit: str, visits: _VisitsOf) -> bool:
    """Whether a file of the visit's study has the name of one of the visit's, or that of a record about it."""
    if len(inside) < 2 or not any(part.startswith(visit) for part in inside[1:]):
        return False
    others = [other for other in visits[inside[0]] if other.startswith(visit)]
    in_work_folder = inside[1] == WORK_DIR_NAME and any(_is_named(part, visit) for part in inside[2:])
    return belongs(inside[1], visit, others) or in_work_folder
