"""Explain, file by file, how an archive and an input differ. Reads both, or only their names and sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from icf_utils.archive.members import digest_members
from icf_utils.archive.reader import list_members
from icf_utils.errors import IcfError, printable
from icf_utils.formatting import format_count
from icf_utils.sources.digests import digest_file
from icf_utils.sources.source import Source

_NAMED_AT_MOST = 3


def explain_difference(archive: Path, source: Source) -> str:
    """The files that are in the input and not in the archive, that differ, and that only the archive has.

    Empty if the files are the same, or if one of both cannot be read any more: other headers make the difference then.
    """
    try:
        there = digest_members(archive, lambda member: member.is_file)
        now = {entry.name: digest_file(source, entry)[1] for entry in source.entries}
    except IcfError:
        return ""
    return ", ".join(_words(there, now))


def explain_listing(archive: Path, source: Source) -> str:
    """Do what :func:`explain_difference` does by names and sizes: other differences are not found."""
    members = [member for member in list_members(archive) if member.is_file]
    there = {member.name.partition("/")[2]: str(member.size) for member in members}
    return ", ".join(_words(there, {entry.name: str(entry.size) for entry in source.entries}))


def _words(there: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    added, removed = sorted(now.keys() - there.keys()), sorted(there.keys() - now.keys())
    changed = sorted(name for name in now.keys() & there.keys() if now[name] != there[name])
    for names, what in ((added, "added"), (changed, "changed"), (removed, "missing")):
        if names:
            yield f"{format_count(len(names), 'file')} {what} ({_listed(names)})"


def _listed(names: Sequence[str]) -> str:
    named = ", ".join(f"'{printable(name)}'" for name in names[:_NAMED_AT_MOST])
    return named + (f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else "")
