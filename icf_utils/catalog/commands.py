"""Commands that a reader pastes into a shell to get a visit. Pure; everything is quoted for a POSIX shell."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from icf_utils.dataset import origin
from icf_utils.store.layout import Visit


@dataclass(frozen=True)
class VisitAddress:
    """Where a visit is: ``url`` is the store's address without a slash at its end."""

    url: str
    study: str
    visit: str


def clone_rows(place: VisitAddress, annex: str) -> dict[str, str]:
    """The commands by their purpose; those for git-annex alone where ``annex``, the address for it, is not empty."""
    rows = {
        "datalad": clone_command(place),
        "datalad: all images": f"datalad -C {place.visit} get .",
        "datalad: the archive": f"datalad -C {place.visit} get icf/{place.visit}_dicom.tar",
    }
    if annex:
        rows["git-annex"] = f"git clone {shlex.quote(annex)} {place.visit}"
        if place.url.lower().startswith("file:"):  # git-annex reads such addresses only where it is told that it may
            allow = "config annex.security.allowed-url-schemes 'http https file'"
            rows["git-annex: allow file:// addresses"] = f"git -C {place.visit} {allow}"
        rows["git-annex: the archive"] = f"git -C {place.visit} annex get icf/{place.visit}_dicom.tar"
        rows["git-annex: all images, from the archive"] = unpack_command(place)
    return {**rows, "icf-utils": retrieve_command(place)}


def clone_url(place: VisitAddress) -> str:
    """The address that ``datalad clone`` takes (datalad-next's ``datalad-annex::`` remote helper)."""
    return origin.clone_url(place.url, Visit(Path(), place.study, place.visit))


def clone_command(place: VisitAddress) -> str:
    """The command to paste into a shell: the address is quoted, the dataset lands in a folder named by the visit."""
    return f"datalad clone {shlex.quote(clone_url(place))} {place.visit}"


def unpack_command(place: VisitAddress) -> str:
    """Give the archive's members to git-annex, which knows their checksums; the rest, such as notes, is left out.

    The backend is named since the files lie outside of the clone, where its attributes say nothing.
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
    """Images without a clone, by this package."""
    return f"icf-utils retrieve --store {shlex.quote(place.url)} --id {place.study} {place.visit} -d {place.visit}"
