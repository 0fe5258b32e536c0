"""Whether XNAT has the images of an upload: by StudyInstanceUID and checksums. Pure.

A label can be given to another visit, and a corrected study has as many images as the one that it replaces. So neither
label nor number is evidence that XNAT has the same images:

- the StudyInstanceUID, which XNAT lists for sessions of the prearchive (``tag``) and of the archive (``UID``), proves
  that a session is of another study;
- the MD5s of the files prove that the images are the same, or that they are not. XNAT lists them in the archive
  (``digest``), unless the site has turned them off;
- sizes only prove that images are not the same.

Where nothing proves either, the answer is :data:`UNPROVED`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from icf_utils.formatting import format_count

#: What a comparison shows: XNAT has the ``same`` images, it has ``different`` ones, or neither is proved.
Identity = Literal["same", "different", "unproved"]

SAME: Identity = "same"
DIFFERENT: Identity = "different"
UNPROVED: Identity = "unproved"


@dataclass(frozen=True)
class ImageDigest:
    """Size (bytes, -1 if unknown) and MD5 (empty if unknown) of an image file, here or in XNAT."""

    size: int
    md5: str


@dataclass(frozen=True)
class HeldImages:
    """What XNAT shows of the images of one session.

    ``study_uid`` is empty and ``count`` is ``None`` where XNAT does not say. ``size`` is the sum of their sizes in
    bytes, ``None`` if unknown. ``digests`` are those of the single files, empty where XNAT does not list them.
    """

    study_uid: str = ""
    count: int | None = None
    size: int | None = None
    digests: tuple[ImageDigest, ...] = ()

    @property
    def has_checksums(self) -> bool:
        """Whether the MD5 of every image is known."""
        return bool(self.digests) and all(image.md5 for image in self.digests)


def is_other_study(held: Sequence[HeldImages], study_uid: str) -> bool:
    """Whether a session is of another DICOM study than ``study_uid``. One whose study XNAT does not show may be it."""
    return any(item.study_uid and item.study_uid != study_uid for item in held)


def compare_images(held: Sequence[HeldImages], study_uid: str, images: Sequence[ImageDigest]) -> tuple[Identity, str]:
    """Compare what XNAT shows of a session, which may be in several places, with images; the second value is why.

    >>> compare_images([HeldImages("1.2", 1, 4)], "1.2", [ImageDigest(4, "d41d8cd98f00b204e9800998ecf8427e")])
    ('unproved', 'XNAT shows no checksums of its images')
    """
    if is_other_study(held, study_uid):
        return DIFFERENT, "it is of another StudyInstanceUID"
    if sum(item.count or 0 for item in held) != len(images):
        return DIFFERENT, "the number of images differs"
    known = [image for item in held for image in item.digests]
    if held and all(item.has_checksums for item in held):
        missing = Counter(image.md5 for image in images) - Counter(image.md5 for image in known)
        if not missing:
            return SAME, "all checksums are equal"
        return DIFFERENT, f"the checksums of {missing.total()} of {format_count(len(images), 'image')} differ"
    if all(item.size is not None for item in held) and sum(item.size or 0 for item in held) != sum(
        image.size for image in images
    ):
        return DIFFERENT, "the sizes of the images differ"
    return UNPROVED, "XNAT shows no checksums of its images"


def contains_all(held: Sequence[HeldImages], images: Sequence[ImageDigest]) -> bool | None:
    """Whether XNAT has a file of the same MD5 for each image; ``None`` where it shows no checksums."""
    if not held or not all(item.has_checksums for item in held):
        return None
    known = Counter(image.md5 for item in held for image in item.digests)
    return not Counter(image.md5 for image in images) - known
