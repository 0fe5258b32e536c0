"""All kinds of damage to an archive and to each file that records something about it, in all combinations."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from icf_utils.settings import load_settings
from icf_utils.store.layout import Visit
from icf_utils.verify.evidence import NOTHING_LEFT
from icf_utils.verify.repair import repair_visit
from icf_utils.verify.verify import verify_visit
from tests.verify.stores import contents, files_of

#: What can have happened to each. ``refit``: somebody has written the checksum of the present archive. ``flip``: one
#: bit. ``wiped``: zeros. ``signed``: with its signature, which ``torn`` has as well, and one bit flipped. The derived
#: files are the catalog and the list of visits.
STATES = {
    "archive": ("intact", "image", "other"),
    "checksum": ("intact", "gone", "flip", "refit"),
    "tarball": ("intact", "gone", "flip"),
    "dicoms": ("intact", "gone", "flip"),
    "export": ("intact", "gone", "wiped"),
    "refs": ("intact", "gone", "flip"),
    "derived": ("intact", "gone"),
    "sums": ("intact", "gone", "flip", "signed", "torn"),
}
COMBINATIONS = [dict(zip(STATES, states, strict=True)) for states in itertools.product(*STATES.values())]

Case = dict[str, str]


@dataclass(frozen=True)
class Damaged:
    """A visit that was damaged, and how."""

    place: Visit
    case: Case

    def is_intact(self, *names: str) -> bool:
        """Whether any of these files is as it was."""
        return any(self.case[name] in ("intact", "signed") for name in names)


def damage(model: Visit, root: Path, case: Case, chance: random.Random) -> Damaged:
    """Copy the model's store, which is signed, to ``root`` and damage it."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(model.root, root)
    place = Visit(root, model.study, model.visit)
    if case["archive"] != "intact":
        _flip(place.archive, _where(place, case["archive"], chance), chance)
    for kind, path in {**files_of(place), "sums": place.sums}.items():
        if kind != "archive":
            _HOW[case[kind]](place, path, chance)
    if case["sums"] not in ("signed", "torn"):
        place.signature.unlink()
    if case["derived"] == "gone":
        shutil.rmtree(place.of_study.catalog)
        place.of_study.visit_list.unlink()
    return Damaged(place, case)


def _where(place: Visit, what: str, chance: random.Random) -> int:
    images = json.loads(place.dicoms_json.read_bytes())
    if what == "image":
        image = chance.choice(images)
        return int(image["offset"]) + int(image["size"]) - 1 - chance.randrange(8)  # pixels, no element's length
    return place.archive.read_bytes().index(b"notes-of-the-visit")  # a file that is not an image


def _flip(path: Path, at: int, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << chance.randrange(7)
    path.write_bytes(data)


def _flip_any(_: Visit, path: Path, chance: random.Random) -> None:
    _flip(path, chance.randrange(path.stat().st_size), chance)


def _refit(place: Visit, path: Path, _: random.Random) -> None:
    md5 = hashlib.md5(place.archive.read_bytes(), usedforsecurity=False).hexdigest()
    path.write_text(f"{md5}  {place.archive.name}\n")


_HOW: dict[str, Callable[[Visit, Path, random.Random], object]] = {
    "intact": lambda *_: None,
    "gone": lambda _, path, __: path.unlink(),
    "flip": _flip_any,
    "wiped": lambda _, path, __: path.write_bytes(bytes(path.stat().st_size)),
    "refit": _refit,
    "signed": lambda *_: None,
    "torn": _flip_any,
}


def judge(model: Visit, damaged: Damaged, signers: Path) -> str:
    """Verify and repair the damaged visit: what must hold. Returns what became of it, for the figures.

    With a signature, what the ``signers`` signed is required.
    """
    place, case = damaged.place, damaged.case
    settings, before = load_settings(place.root), _visible(place)
    by = signers if case["sums"] in ("signed", "torn") else None
    found = verify_visit(place.root, place.study, place.visit, settings=settings, signers=by)
    done = repair_visit(place.root, place.study, place.visit, settings=settings, signers=by)
    after, right = _visible(place), _visible(model)
    texts = [finding.problem for finding in (*found.findings, *done.check.findings)]
    files = {**files_of(place), "sums": place.sums}
    for name in ("refs", "export", "checksum", "tarball", "dicoms", "sums"):  # nothing intact is ever replaced
        path = files[name].relative_to(place.root).as_posix()
        assert case[name] not in ("intact", "signed") or after[path] == right[path], (case, name, texts)
    proofs = ("checksum", "tarball", "export", "derived", "sums")
    if case["archive"] != "intact":
        seen = damaged.is_intact(*proofs) or (case["archive"] == "image" and damaged.is_intact("dicoms"))
        if seen:
            assert found.findings, (case, "verify saw nothing")
            assert done.check.findings, (case, "repair said that all is well")
            assert done.repairs == (), (case, done.repairs)
            assert after == before, case
            return "damaged archive, contradicted by what is left"
        return "damaged archive, nothing intact left that says so"
    is_unproved = any(NOTHING_LEFT in text for text in texts)
    has_torn_sums = case["sums"] in ("flip", "torn") and not is_unproved  # the line of the archive is left
    if (
        damaged.is_intact(*proofs)
        or case["checksum"] in ("flip", "refit")
        or case["tarball"] == "flip"
        or has_torn_sums
    ):
        return _judge_proved(damaged, done.check.findings == (), after, right, texts)
    if is_unproved:
        assert done.repairs == (), (case, done.repairs)
        assert after == before, case
        accepted = repair_visit(
            place.root, place.study, place.visit, settings=settings, accept_archive=True, signers=by
        )
        assert any("--accept-archive" in repair.action for repair in accepted.repairs), (case, accepted)
        return "intact archive, nothing left that could prove it"
    assert case["refs"] != "gone", (case, texts)
    return "intact archive, proved by the refs alone"


def _judge_proved(
    damaged: Damaged, is_well: bool, after: dict[str, bytes], right: dict[str, bytes], texts: list[str]
) -> str:
    """All files that are there are right; the dataset may be one of which nothing proves the origin."""
    case = damaged.case
    wrong = [name for name in after if after[name] != right.get(name)]
    if right.keys() - after.keys():  # a dataset of which nothing is left, and so no line of it
        wrong = [name for name in wrong if not name.endswith("_SHA256SUMS")]
    if is_well:
        assert wrong == [], (case, wrong)
        return "intact archive, repaired"
    assert not damaged.is_intact("export"), (case, texts)
    assert all("XDLRA" in name or name.endswith("_SHA256SUMS") for name in wrong), (case, wrong, texts)
    if case["sums"] == "torn":  # the line of a lost file may be the torn one
        assert any("is missing although" in text or "is not a signature of" in text for text in texts), (case, texts)
    else:
        assert any("deposit_visit_dataset" in text for text in texts), (case, texts)
    return "intact archive, repaired without the dataset, whose origin nothing proves"


def _visible(place: Visit) -> dict[str, bytes]:
    return {name: data for name, data in contents(place.root).items() if "/.icf/" not in name}
