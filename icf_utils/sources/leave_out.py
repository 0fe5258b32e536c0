"""Names of files and folders that systems leave in people's folders, and that belong to no visit. Pure.

They are left out of every input: the Finder of macOS writes ``.DS_Store`` and ``._*`` into folders that it shows,
Windows ``Thumbs.db`` and ``desktop.ini``, Synology's file servers ``@eaDir``. They appear after a visit was archived as
well, and its archive would never be reproducible.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import translate
from functools import lru_cache

from icf_utils.errors import InvalidSetting, printable
from icf_utils.results import Notice
from icf_utils.settings import DEFAULT_LEAVE_OUT


class LeftOut:
    """Patterns of names to leave out, in the form of shell patterns without ``/``, ignoring case.

    Raises :class:`~icf_utils.errors.InvalidSetting` for an empty pattern, one with ``/``, and one that fits every name.
    """

    def __init__(self, patterns: Iterable[str] = DEFAULT_LEAVE_OUT) -> None:
        self.patterns = tuple(patterns)
        for pattern in self.patterns:
            if not pattern or "/" in pattern or not pattern.strip("*?"):
                problem = f"'{printable(pattern)}' is not a pattern of names to leave out, such as '.DS_Store' or '._*'"
                raise InvalidSetting("[archive] leave_out", problem)
        self._matches = _compiled(self.patterns)

    def name(self, name: str) -> bool:
        """Whether a file or folder of this name is left out.

        >>> LeftOut().name("thumbs.db"), LeftOut().name("1.dcm")
        (True, False)
        """
        return bool(self._matches and self._matches.fullmatch(name))

    def path(self, path: str) -> bool:
        """Whether a file is left out: its name, or that of a folder above it, fits a pattern.

        >>> LeftOut().path("scan/@eaDir/1.dcm")
        True
        """
        return bool(self._matches) and any(map(self.name, path.split("/")))


def left_out_notices(names: Iterable[str]) -> list[Notice]:
    """Name the files and folders that are left out."""
    message = "is left out, as 'leave_out' in the store's settings says"
    return [Notice("left-out", name, message) for name in sorted(names)]


@lru_cache(maxsize=16)
def _compiled(patterns: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(translate, patterns)), re.IGNORECASE) if patterns else None


#: The default patterns, for callers without settings.
DEFAULT = LeftOut()
