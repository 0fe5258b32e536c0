"""icf-utils: DICOM visits become reproducible archives, metadata, DataLad datasets and a browsable catalog.

The commands as plain functions, with typed results:

>>> from icf_utils import make_studyvisit_archive, deposit_visit_metadata
>>> from icf_utils import deposit_visit_dataset, catalogify_studyvisit_from_meta, verify_visit, verify_store

They raise :class:`icf_utils.errors.IcfError`. Each is loaded when it is first used, so that importing the package
costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icf_utils.archive.stage import ArchiveResult, make_studyvisit_archive
    from icf_utils.catalog.stage import CatalogResult, catalogify_studyvisit_from_meta
    from icf_utils.curation.difference import VisitDifference
    from icf_utils.curation.merge import merge_visits
    from icf_utils.curation.refresh import RefreshOptions, RefreshResult, refresh_visit
    from icf_utils.curation.remove import RemoveResult, remove_visit
    from icf_utils.curation.rename import RenameResult, rename_visit
    from icf_utils.curation.replace import ReplaceResult, replace_visit
    from icf_utils.dataset.stage import DatasetResult, deposit_visit_dataset
    from icf_utils.errors import IcfError
    from icf_utils.metadata.stage import MetadataResult, deposit_visit_metadata
    from icf_utils.pipeline.model import (
        RunConfig,
        RunResult,
        StageDecision,
        StageFailure,
        StageOptions,
        StageOutcome,
        VisitInput,
        VisitOutcome,
        VisitPlan,
    )
    from icf_utils.pipeline.plan import make_plan
    from icf_utils.pipeline.run import run_visits
    from icf_utils.pipeline.status import StageStatus, VisitStatus, store_status
    from icf_utils.pipeline.visit_table import collect_visits
    from icf_utils.results import Notice, Written
    from icf_utils.settings import Settings, load_settings
    from icf_utils.store.init_store import InitResult, init_store
    from icf_utils.verify.repair import Repair, RepairResult, VisitRepair, repair_store, repair_visit
    from icf_utils.verify.verify import Finding, VerifyResult, VisitCheck, verify_store, verify_visit

__version__ = "0.1.0"

__all__ = [
    "ArchiveResult",
    "CatalogResult",
    "DatasetResult",
    "Finding",
    "IcfError",
    "InitResult",
    "MetadataResult",
    "Notice",
    "RefreshOptions",
    "RefreshResult",
    "RemoveResult",
    "RenameResult",
    "Repair",
    "RepairResult",
    "ReplaceResult",
    "RunConfig",
    "RunResult",
    "Settings",
    "StageDecision",
    "StageFailure",
    "StageOptions",
    "StageOutcome",
    "StageStatus",
    "VerifyResult",
    "VisitCheck",
    "VisitDifference",
    "VisitInput",
    "VisitOutcome",
    "VisitPlan",
    "VisitRepair",
    "VisitStatus",
    "Written",
    "__version__",
    "catalogify_studyvisit_from_meta",
    "collect_visits",
    "deposit_visit_dataset",
    "deposit_visit_metadata",
    "init_store",
    "load_settings",
    "make_plan",
    "make_studyvisit_archive",
    "merge_visits",
    "refresh_visit",
    "remove_visit",
    "rename_visit",
    "repair_store",
    "repair_visit",
    "replace_visit",
    "run_visits",
    "store_status",
    "verify_store",
    "verify_visit",
]

_HOME = {
    "ArchiveResult": "archive.stage",
    "CatalogResult": "catalog.stage",
    "DatasetResult": "dataset.stage",
    "Finding": "verify.verify",
    "IcfError": "errors",
    "InitResult": "store.init_store",
    "MetadataResult": "metadata.stage",
    "Notice": "results",
    "Repair": "verify.repair",
    "RepairResult": "verify.repair",
    "RefreshOptions": "curation.refresh",
    "RefreshResult": "curation.refresh",
    "RemoveResult": "curation.remove",
    "RenameResult": "curation.rename",
    "ReplaceResult": "curation.replace",
    "RunConfig": "pipeline.model",
    "RunResult": "pipeline.model",
    "Settings": "settings",
    "StageDecision": "pipeline.model",
    "StageFailure": "pipeline.model",
    "StageOptions": "pipeline.model",
    "StageOutcome": "pipeline.model",
    "StageStatus": "pipeline.status",
    "VerifyResult": "verify.verify",
    "VisitCheck": "verify.verify",
    "VisitDifference": "curation.difference",
    "VisitInput": "pipeline.model",
    "VisitOutcome": "pipeline.model",
    "VisitPlan": "pipeline.model",
    "VisitRepair": "verify.repair",
    "VisitStatus": "pipeline.status",
    "Written": "results",
    "catalogify_studyvisit_from_meta": "catalog.stage",
    "collect_visits": "pipeline.visit_table",
    "deposit_visit_dataset": "dataset.stage",
    "deposit_visit_metadata": "metadata.stage",
    "init_store": "store.init_store",
    "load_settings": "settings",
    "make_plan": "pipeline.plan",
    "make_studyvisit_archive": "archive.stage",
    "merge_visits": "curation.merge",
    "repair_store": "verify.repair",
    "repair_visit": "verify.repair",
    "refresh_visit": "curation.refresh",
    "remove_visit": "curation.remove",
    "rename_visit": "curation.rename",
    "replace_visit": "curation.replace",
    "run_visits": "pipeline.run",
    "store_status": "pipeline.status",
    "verify_store": "verify.verify",
    "verify_visit": "verify.verify",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"icf_utils.{_HOME[name]}"), name)
    raise AttributeError(f"module 'icf_utils' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
