"""Single bits of every file of a store, one after the other: ``verify`` must find each, and name file and image."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from icf_utils.metadata.records import read_unchecked_metadata
from icf_utils.store.layout import Visit
from icf_utils.verify.checks import VisitCheck
from tests.verify.stores import catalog_files, check, files_of, make_visit, write_input

#: Kinds of files; those that hold most come as often as the others.
KINDS = ("archive", "checksum", "dicoms", "tarball", "refs", "export", "catalog")


def flip_anywhere(folder: Path, count: int, seed: str) -> Counter[str]:
    """Flip ``count`` bits; how many of each kind of file. An assertion fails at the first that is not found."""
    place = make_visit(write_input(folder / "in"), folder / "store")
    assert check(place).findings == ()
    images = read_unchecked_metadata(place).images
    chance, figures = random.Random(seed), Counter[str]()
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        path = chance.choice(catalog_files(place)) if kind == "catalog" else files_of(place)[kind]
        before = path.read_bytes()
        at, bit = chance.randrange(len(before)), chance.randrange(8)
        data = bytearray(before)
        data[at] ^= 1 << bit
        path.write_bytes(data)
        found = check(place)
        where = (kind, path.name, at, bit, found.findings)
        assert found.findings, where
        assert any(finding.path == path for finding in found.findings), where
        if kind == "archive":
            inside = [image.path for image in images if image.offset <= at < image.offset + image.size]
            _check_image(place, found, inside, where)
            figures["archive, in an image" if inside else "archive, around the images"] += 1
        else:
            figures[kind] += 1
        path.write_bytes(before)
    assert check(place).findings == ()
    return figures


def _check_image(place: Visit, found: VisitCheck, inside: list[str], where: object) -> None:
    """The image that the bit is in is named, and no other."""
    if inside:
        named = {finding.subject for finding in found.findings if finding.path == place.dicoms_json}
        assert named == set(inside), where
