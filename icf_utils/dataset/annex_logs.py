"""The ``git-annex`` branch of a dataset that changes: the records before and those wanted, to the next ones. Pure.

Clones merge this branch with their own by the union of all lines, and git-annex uses the line with the latest
time. Nothing is therefore taken away: what no longer holds gets a line that says so, with a later time, and what holds
on keeps its line. Formats: https://git-annex.branchable.com/internals/ ("The git-annex branch").
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from typing import NamedTuple

from icf_utils.dataset.git_objects import FILE, BranchFile

#: The status of a line: present, not present, and (in a location log) not to be expected anywhere again.
PRESENT, MISSING, DEAD = b"1", b"0", b"X"

_ARCHIVE_ADDRESS = b":dl+archive:"


class LogLine(NamedTuple):
    """A line of a location log or of a list of addresses; ``time`` in seconds since 1970."""

    time: int
    status: bytes
    value: bytes


def parse_log(content: bytes) -> Iterator[LogLine]:
    """Parse the lines of a location log or of a list of addresses. Raises ``ValueError``."""
    for line in content.splitlines():
        time, status, value = line.split(b" ", 2)
        yield LogLine(int(time.removesuffix(b"s")), status, value)


def encode_log(lines: Iterable[LogLine]) -> bytes:
    """Encode the lines of a log in their order."""
    return b"".join(b"%ds %s %s\n" % line for line in lines)


def live_values(content: bytes) -> list[bytes]:
    """The values of a log that hold."""
    return [line.value for line in parse_log(content) if line.status == PRESENT]


def next_records(
    old: Mapping[bytes, BranchFile], wanted: Mapping[bytes, BranchFile], time: int, kept: Container[bytes] = ()
) -> dict[bytes, BranchFile]:
    """The files of the branch's next commit: ``wanted`` from ``time`` on, which is later than all times in ``old``.

    ``kept`` has the keys of former archives whose bytes are still in the store: images can still be taken from them.
    """
    files = dict(wanted)
    for path, item in old.items():
        after = wanted[path].content if path in wanted else b""
        if path.endswith(b".log.web"):
            files[path] = BranchFile(FILE, _next_addresses(item.content, after, time, kept))
        elif path.endswith(b".log.met"):
            files[path] = BranchFile(FILE, _next_tags(item.content, after, time) if path in wanted else item.content)
        elif b"/" in path:
            from_kept = not after and _has_kept(old.get(path + b".web"), kept)
            retired = PRESENT if from_kept else MISSING if after else DEAD
            files[path] = BranchFile(FILE, _next_lines(item.content, after, time, retired))
    return files


def _next_lines(old: bytes, wanted: bytes, time: int, retired: bytes) -> bytes:
    """Lines that hold keep their time; ``retired`` is the status of those that are not wanted any more."""
    lines = {line.value: line for line in parse_log(old)}
    values = {line.value for line in parse_log(wanted)}
    for value, line in lines.items():
        if line.status == PRESENT and value not in values and retired != PRESENT:
            lines[value] = LogLine(time, retired, value)
    for line in parse_log(wanted):
        if line.value not in lines or lines[line.value].status != PRESENT:
            lines[line.value] = line
    return encode_log(lines.values())


def _next_addresses(old: bytes, wanted: bytes, time: int, kept: Container[bytes]) -> bytes:
    still = [value for value in live_values(old) if _archive_of(value) in kept]
    return _next_lines(old, wanted + b"".join(b"%ds 1 %s\n" % (time, value) for value in still), time, MISSING)


def _has_kept(addresses: BranchFile | None, kept: Container[bytes]) -> bool:
    return addresses is not None and any(_archive_of(value) in kept for value in live_values(addresses.content))


def _archive_of(value: bytes) -> bytes:
    """The key of the archive in an image's address; empty for other addresses."""
    return value[len(_ARCHIVE_ADDRESS) :].partition(b"#")[0] if value.startswith(_ARCHIVE_ADDRESS) else b""


def _next_tags(old: bytes, wanted: bytes, time: int) -> bytes:
    """Add a line with the values that are new (``+``) and those that do not hold any more (``-``)."""
    now, then = parse_tags(wanted), parse_tags(old)
    texts = []
    for name in sorted(now.keys() | then.keys()):
        gone, new = then.get(name, set()) - now.get(name, set()), now.get(name, set()) - then.get(name, set())
        if gone or new:
            texts += [name, *(b"-" + value for value in sorted(gone)), *(b"+" + value for value in sorted(new))]
    return old + b"%ds %s\n" % (time, b" ".join(texts)) if texts else old


def parse_tags(content: bytes) -> dict[bytes, set[bytes]]:
    """The values that hold, by field; values stay encoded. Later lines come later."""
    fields: dict[bytes, set[bytes]] = {}
    for line in content.splitlines():
        name = b""
        for token in line.split(b" ")[1:]:
            if token[:1] == b"+":
                fields.setdefault(name, set()).add(token[1:])
            elif token[:1] == b"-":
                fields.setdefault(name, set()).discard(token[1:])
            else:
                name = token
    return fields
