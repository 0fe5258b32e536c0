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
    from icf_utils.dataset.stage import DatasetResult, deposit_visit_dataset
    from icf_utils.errors import IcfError
    from icf_utils.metadata.stage import MetadataResult, deposit_visit_metadata
    from icf_utils.results import Notice, Written
    from icf_utils.verify.stage import Finding, VerifyResult, VisitCheck, verify_store, verify_visit

__version__ = "0.1.0"

__all__ = [
    "ArchiveResult",
    "CatalogResult",
    "DatasetResult",
    "Finding",
    "IcfError",
    "MetadataResult",
    "Notice",
    "VerifyResult",
    "VisitCheck",
    "Written",
    "__version__",
    "catalogify_studyvisit_from_meta",
    "deposit_visit_dataset",
    "deposit_visit_metadata",
    "make_studyvisit_archive",
    "verify_store",
    "verify_visit",
]

_HOME = {
    "ArchiveResult": "archive.stage",
    "CatalogResult": "catalog.stage",
    "DatasetResult": "dataset.stage",
    "Finding": "verify.stage",
    "IcfError": "errors",
    "MetadataResult": "metadata.stage",
    "Notice": "results",
    "VerifyResult": "verify.stage",
    "VisitCheck": "verify.stage",
    "Written": "results",
    "catalogify_studyvisit_from_meta": "catalog.stage",
    "deposit_visit_dataset": "dataset.stage",
    "deposit_visit_metadata": "metadata.stage",
    "make_studyvisit_archive": "archive.stage",
    "verify_store": "verify.stage",
    "verify_visit": "verify.stage",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"icf_utils.{_HOME[name]}"), name)
    raise AttributeError(f"module 'icf_utils' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
