r"""Decide which names a git tree can contain. Pure.

git reserves some names on every platform, and ``git fsck --strict`` reports a tree with one of them as broken: ``.git``
and ``.gitmodules``, in any case, as HFS+ compares names (ignoring some invisible characters) and as NTFS does (ignoring
trailing dots and spaces, ``:stream``, with short names such as ``git~1`` and ``\`` as a separator). The rule here is
slightly stricter than git's; no name that git refuses passes it.
"""

from __future__ import annotations

import re

#: Code points that HFS+ ignores when it compares names (Apple's Technical Note TN1150, as git applies it).
_INVISIBLE = dict.fromkeys([*range(0x200C, 0x2010), *range(0x202A, 0x202F), *range(0x206A, 0x2070), 0xFEFF])

_OWN = re.compile(r"\.git|git~1|\.gitmodules|gitmod~[1-4]|(?=.{8}\Z)(?:gi7eba|gi7eb|gi7e|gi7|gi|g)?~[1-9][0-9]*")


def git_can_hold(path: str) -> bool:
    """Whether a git tree can contain a symbolic link at ``path``.

    >>> git_can_hold("a/b.dcm"), git_can_hold("a/.GIT/b.dcm"), git_can_hold("a/git~1")
    (True, False, False)
    """
    if "git" not in path.translate(_INVISIBLE).lower() and "~" not in path:
        return True  # nearly every path: no need to split it
    return not any(_OWN.fullmatch(_as_seen(part)) for part in re.split(r"[/\\]", path))


def _as_seen(part: str) -> str:
    return part.translate(_INVISIBLE).partition(":")[0].rstrip(" .").lower()
