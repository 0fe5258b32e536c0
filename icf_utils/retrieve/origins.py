"""Where images are retrieved from: a COD bucket, or a store of ours. Uses the network when it looks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from icf_utils.credentials import Login, Secret, without_credentials
from icf_utils.progress import Progress
from icf_utils.retrieve.layout import BUCKET_LAYOUT, BUCKET_ZIP_LAYOUT, STORE_LAYOUT
from icf_utils.retrieve.places import BucketPlace
from icf_utils.retrieve.selection import Selection
from icf_utils.retrieve.stores import check_folder, store_url, visits_of
from icf_utils.retrieve.values import Found

if TYPE_CHECKING:
    from icf_utils.fetch.web import Web


class Origin(Protocol):
    """A place with TARs of images."""

    @property
    def where(self) -> str:
        """What it is called in messages; without credentials."""

    def layout(self, zipped: bool) -> str:
        """The template that says where images go if nothing else does."""

    def look(self, selection: Selection, keywords: Sequence[str], jobs: int, web: Web, progress: Progress) -> Found:
        """What is there; at least what the selection takes, with values of the DICOM ``keywords``."""


@dataclass(frozen=True)
class BucketOrigin:
    """Studies of a COD bucket; none named: all."""

    place: BucketPlace
    studies: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        return self.place.where

    def layout(self, zipped: bool) -> str:
        return BUCKET_ZIP_LAYOUT if zipped else BUCKET_LAYOUT

    def look(self, selection: Selection, keywords: Sequence[str], jobs: int, web: Web, progress: Progress) -> Found:
        from icf_utils.retrieve.looking import look
        from icf_utils.retrieve.opening import open_bucket

        only = frozenset() if selection.has_numbers() else frozenset(selection.series)
        bucket = open_bucket(self.place, web)
        return look(bucket, self.place, self.studies, only=only, keywords=keywords, jobs=jobs, progress=progress)


@dataclass(frozen=True)
class StoreOrigin:
    """Visits (pairs of study and visit) of a store of ours; none named: all of ``studies``, or all there are.

    ``url`` may be a path on this machine, too.
    """

    url: str | os.PathLike[str]
    visits: tuple[tuple[str, str], ...] = ()
    studies: tuple[str, ...] = ()
    auth: Login | Secret | None = field(default=None, repr=False)

    @property
    def where(self) -> str:
        return without_credentials(store_url(self.url))

    def layout(self, zipped: bool) -> str:
        return STORE_LAYOUT

    def look(self, selection: Selection, keywords: Sequence[str], jobs: int, web: Web, progress: Progress) -> Found:
        from icf_utils.retrieve.stores import look

        url, visits = store_url(self.url), self.visits
        check_folder(url)
        if self.studies or not visits:
            visits += visits_of(url, self.studies)
        return look(url, visits, web, self.auth, jobs, progress)
