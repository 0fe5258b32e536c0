"""The commands that a visit's page offers for getting the visit. Pure; everything is quoted for a POSIX shell."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from icf_utils.dataset import origin
from icf_utils.store.layout import Visit


@dataclass(frozen=True)
class VisitAddress:
    """Where a visit is: ``url`` is the store's address without a final slash."""

    url: str
    study: str
    visit: str


def clone_rows(place: VisitAddress, annex: str, has_dataset: bool = True) -> dict[str, str]:
    """The commands by purpose: those for DataLad only if the visit has a dataset, those for git-annex alone only if
    ``annex``, the address for it, is not empty.
    """
    rows = (
        {}
        if not has_dataset
        else {
            "datalad": clone_command(place),
            "datalad: all images": f"datalad -C {place.visit} get .",
            "datalad: the archive": f"datalad -C {place.visit} get icf/{place.visit}_dicom.tar",
        }
    )
    if annex:
        rows["git-annex"] = f"git clone {shlex.quote(annex)} {place.visit}"
        if place.url.lower().startswith("file:"):  # git-annex reads such addresses only if this is configured
            allow = "config annex.security.allowed-url-schemes 'http https file'"
            rows["git-annex: allow file:// addresses"] = f"git -C {place.visit} {allow}"
        rows["git-annex: the archive"] = f"git -C {place.visit} annex get icf/{place.visit}_dicom.tar"
        rows["git-annex: all images, from the archive"] = unpack_command(place)
    return {**rows, "icf-utils": retrieve_command(place)}


def clone_url(place: VisitAddress) -> str:
    """The address for ``datalad clone`` (the ``datalad-annex::`` remote helper of datalad-next)."""
    return origin.clone_url(place.url, Visit(Path(), place.study, place.visit))


def clone_command(place: VisitAddress) -> str:
    """The command that clones the dataset into a folder named after the visit."""
    return f"datalad clone {shlex.quote(clone_url(place))} {place.visit}"


def unpack_command(place: VisitAddress) -> str:
    """The command that gives the archive's members to git-annex, which knows their checksums; other files are left out.

    The backend is named because the files are outside of the clone, where its attributes do not apply.
    """
    visit, aside = place.visit, f"../{place.visit}.tmp"
    steps = (
        f"cd {visit}",
        f"mkdir {aside}",
        f"tar -xf icf/{visit}_dicom.tar -C {aside}",
        f"find {aside} -type f -exec git annex reinject --known --backend=MD5E {{}} +",
        f"rm -r {aside}",
    )
    return f"({' && '.join(steps)})"


def retrieve_command(place: VisitAddress) -> str:
    """The command that gets images without a clone, with this package."""
    return (
        f"icf-utils retrieve --store {shlex.quote(place.url)} --id {place.study} {place.visit} -d {place.visit}-images"
    )
