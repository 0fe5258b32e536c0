"""From a bucket's place to the bucket. Touches neither disk nor network by itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from icf_utils.retrieve.buckets import Bucket, FolderBucket, GcsBucket
from icf_utils.retrieve.places import BucketPlace

if TYPE_CHECKING:
    from icf_utils.fetch.web import Web


def open_bucket(place: BucketPlace, web: Web) -> Bucket:
    """The bucket at a place. Raises :class:`~icf_utils.errors.MissingRequirement` without the extra ``cloud``."""
    if place.scheme == "file":
        return FolderBucket(Path(place.bucket))
    if place.scheme in ("gs", "s3"):
        from icf_utils.retrieve.cloud import CloudBucket

        return CloudBucket(place, web)
    return GcsBucket(place, web)
