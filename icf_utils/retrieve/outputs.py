"""The outputs of processings of visits in a store: each TAR with its provenance. Uses the network, or reads files.

Both are listed like images, so that they are transferred, checked and resumed as those are: the visit's SHA-256 sums
name the digest of the TAR, or else the provenance its MD5, and the provenance is the one that was read while listing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from icf_utils.errors import DepositDamaged, printable
from icf_utils.fetch.errors import FetchFailure
from icf_utils.fetch.ranges import Span
from icf_utils.outputs.provenance import parse_provenance
from icf_utils.progress import Progress
from icf_utils.retrieve.model import Digest, Failure, Image, Listing, Tar
from icf_utils.retrieve.store_source import StoreReader, VisitChoice, choose_visits, read_each
from icf_utils.retrieve.sums import fetch_sums
from icf_utils.store.layout import Visit


def list_outputs(
    reader: StoreReader, choice: VisitChoice, processings: Sequence[str], jobs: int, progress: Progress
) -> Listing:
    """The outputs of these processings of the chosen visits; what does not exist is a failure.

    Raises what :func:`~icf_utils.retrieve.store_source.list_images` raises.
    """
    visits, failures = choose_visits(reader, choice)
    wanted = [(place, name) for place in visits for name in processings]
    with progress.task("Reading provenance", len(wanted), "output") as task:
        parts = read_each(wanted, lambda one: _read(reader, *one), jobs, task)
    tars = tuple(tar for part in parts for tar in part.tars)
    notices = tuple(dict.fromkeys(notice for part in parts for notice in part.notices))
    return Listing(tars, (*failures, *(failure for part in parts for failure in part.failures)), notices)


def _read(reader: StoreReader, place: Visit, processing: str) -> Listing:
    provenance, tar = place.provenance(processing), place.output(processing)
    try:
        raw, where = reader.read(provenance.as_posix())
        sums = fetch_sums(reader.read, place)
        sums.check(provenance.name, raw, where)
        output = parse_provenance(raw, place, processing, where).output
    except FetchFailure as error:
        if error.kind in ("unauthorised", "stopped"):
            raise
        problem = f"its provenance could not be fetched: {error}"
        if error.kind == "missing":
            problem = f"{place.study}/{place.visit} has no output of '{printable(processing)}'"
        return Listing((), (Failure(f"{reader.url}/{tar.as_posix()}", problem, study=place.study),))
    except DepositDamaged as error:
        problem = f"its provenance cannot be used: expected {error.expected}, found {error.found}"
        return Listing((), (Failure(f"{reader.url}/{tar.as_posix()}", problem, study=place.study),))
    known = sums.values.get(tar.name)
    digest = Digest("sha256", known) if known else Digest("md5", output.md5)
    read = Digest("sha256", hashlib.sha256(raw).hexdigest())
    return Listing(
        (
            _whole(reader, place, processing, provenance, Span(0, len(raw)), read),
            _whole(reader, place, processing, tar, Span(0, output.size), digest),
        ),
        notices=sums.notices,
    )


def _whole(reader: StoreReader, place: Visit, processing: str, path: Path, span: Span, digest: Digest) -> Tar:
    """A file of the store as one item."""
    key = path.as_posix()
    item = Image(place.study, place.visit, processing, "", path.name, key, span, digest)
    return Tar(f"{reader.url}/{key}", reader.source(key, span.size), (item,))
