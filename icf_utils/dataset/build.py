"""A visit's deposit from its metadata: pure, the same bytes on every machine. Reads and writes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from icf_utils.dataset import branches
from icf_utils.dataset.export import ANNEX, MAIN, export_bytes, refs_bytes
from icf_utils.dataset.gitobjects import ObjectStore
from icf_utils.dataset.origin import Origin
from icf_utils.errors import InputRefused
from icf_utils.metadata.records import VisitMetadata
from icf_utils.results import Notice
from icf_utils.store import Visit

_MAIN_MESSAGE = "Dataset of a visit"
_ANNEX_MESSAGE = "Annex of a visit"


@dataclass(frozen=True)
class Built:
    """The bytes of ``<visit>_XDLRA--refs`` and ``<visit>_XDLRA--repo-export``, and what they hold."""

    refs: bytes
    export: bytes
    main_commit: str
    annex_commit: str
    images: int
    notices: tuple[Notice, ...]


def expected_deposit(metadata: VisitMetadata, visit: Visit, origin: Origin) -> Built:
    """The deposit that ``metadata`` and ``origin`` make; of ``visit``, only the identifiers matter.

    ``metadata`` has passed :func:`icf_utils.metadata.checks.check_metadata`. Raises
    :class:`~icf_utils.errors.InputRefused` for more images than a deposit can hold (over a million).
    """
    plan = branches.plan(metadata, visit, origin)
    objects = ObjectStore()
    main = objects.add_commit(plan.main, origin.time, _MAIN_MESSAGE).hex()
    annex = objects.add_commit(plan.annex, origin.time, _ANNEX_MESSAGE).hex()
    refs = {MAIN: main, ANNEX: annex}
    try:
        export = export_bytes(objects.objects, refs)
    except OverflowError as error:
        reason = f"the dataset of its {plan.images} images would be larger than 2 GiB"
        raise InputRefused(visit.dicoms_json, [(visit.dicoms_json.name, reason)]) from error
    return Built(refs_bytes(refs), export, main, annex, plan.images, plan.notices)
