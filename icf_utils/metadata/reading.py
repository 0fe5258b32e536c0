"""A visit's metadata as later steps read it. Reads the two JSON files; writes nothing."""

from __future__ import annotations

from icf_utils.metadata.checks import check_metadata
from icf_utils.metadata.records import VisitMetadata, parse_images, parse_tarball
from icf_utils.store import Visit, read_deposit

_REMEDY = "run 'icf-utils deposit_visit_metadata' for this visit first"


def read_visit_metadata(visit: Visit) -> VisitMetadata:
    """What the visit's two JSON files say, checked to be about this visit and to make sense.

    Raises :class:`~icf_utils.errors.DepositMissing` or :class:`~icf_utils.errors.DepositDamaged`.
    """
    metadata = parse_visit_metadata(visit)
    check_metadata(metadata, visit)
    return metadata


def parse_visit_metadata(visit: Visit) -> VisitMetadata:
    """The same as far as the files can be read at all, for a reader that does the checking."""
    tarball = parse_tarball(read_deposit(visit.tarball_json, _REMEDY), str(visit.tarball_json))
    return VisitMetadata(tarball, parse_images(read_deposit(visit.dicoms_json, _REMEDY), str(visit.dicoms_json)))
