"""Names of files and folders that systems leave in people's folders, and that belong to no visit. Pure.

The Finder of macOS writes ``.DS_Store`` and ``._*`` into folders that it shows, Windows ``Thumbs.db`` and
``desktop.ini``, Synology's file servers ``@eaDir``. They appear after a visit was archived as well, and its archive
would never be reproducible. What is left out:

- where ``[archive] leave_out`` of the store's settings is given: what it names, in all commands;
- else, of a new archive, these five, except by ``make_studyvisit_archive``, which leaves out nothing: its archives have
  the bytes of those of the facility's original tool;
- else, where an input is compared with an archive that exists, those of the five that the archive does not have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from fnmatch import translate
from functools import cached_property, lru_cache

from icf_utils.errors import InvalidSetting, printable
from icf_utils.results import Notice
from icf_utils.settings import DEFAULT_LEAVE_OUT


class LeftOut:
    """Patterns of names to leave out, in the form of shell patterns without ``/``, ignoring case.

    ``list_kept`` gives the paths of files that are not left out, whatever their names; it is called only if a name fits
    a pattern. Raises :class:`~icf_utils.errors.InvalidSetting` for an empty pattern, one with ``/``, and one that fits
    every name.
    """

    def __init__(
        self, patterns: Iterable[str] = DEFAULT_LEAVE_OUT, list_kept: Callable[[], Collection[str]] = frozenset
    ) -> None:
        self.patterns = tuple(patterns)
        self._list_kept = list_kept
        for pattern in self.patterns:
            if not pattern or "/" in pattern or not pattern.strip("*?"):
                problem = f"'{printable(pattern)}' is not a pattern of names to leave out, such as '.DS_Store' or '._*'"
                raise InvalidSetting("[archive] leave_out", problem)
        self._matches = _compiled(self.patterns)

    @classmethod
    def of(cls, setting: Sequence[str] | None) -> LeftOut:
        """Those that a store's settings name, or the default ones."""
        return DEFAULT if setting is None else cls(setting)

    def name(self, name: str) -> bool:
        """Whether the name of a file or folder fits a pattern.

        >>> LeftOut().name("thumbs.db"), LeftOut().name("1.dcm")
        (True, False)
        """
        return bool(self._matches and self._matches.fullmatch(name))

    def path(self, path: str) -> bool:
        """Whether a file or folder is left out: its name, or that of a folder above it, fits a pattern.

        >>> LeftOut().path("scan/@eaDir/1.dcm")
        True
        """
        return bool(self._matches) and any(map(self.name, path.split("/"))) and path not in self._kept

    @cached_property
    def _kept(self) -> frozenset[str]:
        """The files to keep, and the folders above them."""
        parts = [path.split("/") for path in self._list_kept()]
        return frozenset("/".join(names[:count]) for names in parts for count in range(1, len(names) + 1))


def left_out_notices(names: Iterable[str]) -> list[Notice]:
    """Name the files and folders that are left out."""
    message = "is left out; 'leave_out' in the store's settings lists the names that are"
    return [Notice("left-out", name, message) for name in sorted(names)]


@lru_cache(maxsize=16)
def _compiled(patterns: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(translate, patterns)), re.IGNORECASE) if patterns else None


#: The default patterns, for callers without settings.
DEFAULT = LeftOut()
