"""Whether a store has a page of all studies, to which the pages of its studies then link. Reads one file."""

from __future__ import annotations

from pathlib import Path

from icf_utils.errors import storage_errors

#: The page's name below the store.
INDEX_PAGE = "index.html"
#: Marks the page and its other files as made by this program, which may therefore replace them.
INDEX_MARK = "the studies of a store, by icf-utils"
#: Bytes of a file in which the mark must be.
_HEAD = 4096


def is_index_file(data: bytes) -> bool:
    """Whether this program made a file of the page of all studies."""
    return INDEX_MARK.encode("ascii") in data[:_HEAD]


def has_index_page(root: Path) -> bool:
    """Whether the store ``root`` has a page of all studies that this program made."""
    path = root / INDEX_PAGE
    with storage_errors(path, "read"):
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return is_index_file(file.read(_HEAD))
