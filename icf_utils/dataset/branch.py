"""The text of the files in a ``git-annex`` branch. Pure.

Formats: https://git-annex.branchable.com/internals/ ("The git-annex branch"). Every record carries a time; ``time`` is
in whole seconds since 1970, and each file is byte for byte what git-annex's batch commands write when their clock
(``GIT_ANNEX_VECTOR_CLOCK``) stands at it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from uuid import UUID

#: A metadata value with one of these would end or change the record; git-annex writes it in base64.
_NEEDS_BASE64 = re.compile(rb"\A!|[ \r\n]")


def uuid_log(descriptions: Mapping[UUID, str], time: int) -> bytes:
    """``uuid.log``: who the repositories and remotes are."""
    return _by_uuid({uuid: f"{text} timestamp={time}s" for uuid, text in descriptions.items()})


def remote_log(external: Mapping[UUID, str], time: int) -> bytes:
    """``remote.log``: external special remotes that every clone enables by itself; each is named as its program."""
    line = "autoenable=true encryption=none externaltype={0} name={0} type=external timestamp={1}s"
    return _by_uuid({uuid: line.format(name, time) for uuid, name in external.items()})


def _by_uuid(texts: Mapping[UUID, str]) -> bytes:
    return "".join(f"{uuid} {texts[uuid]}\n" for uuid in sorted(texts, key=str)).encode("utf-8")


def location_log(uuid: UUID, time: int) -> bytes:
    """``<key>.log``: the one place that has the key."""
    return b"%ds 1 %s\n" % (time, str(uuid).encode("ascii"))


def url_log(urls: Iterable[bytes], time: int) -> bytes:
    """``<key>.log.web``: where to ask for the key. The colon says that a special remote claims the address."""
    return b"".join(b"%ds 1 :%s\n" % (time, url) for url in urls)


def web_log(urls: Iterable[bytes], time: int) -> bytes:
    """The same for addresses that git-annex itself asks, as its ``web`` special remote: without the colon."""
    return b"".join(b"%ds 1 %s\n" % (time, url) for url in urls)


def metadata_log(fields: Mapping[str, Iterable[bytes]], time: int) -> bytes:
    """``<key>.log.met``: the fields of a key, each with its set of values. Empty if there are none."""
    texts = [_field(name, set(fields[name])) for name in sorted(fields) if fields[name]]
    return b"%ds %s\n" % (time, b" ".join(texts)) if texts else b""


def _field(name: str, values: set[bytes]) -> bytes:
    return b" ".join([name.encode("ascii"), *(b"+" + _value(value) for value in sorted(values))])


def _value(value: bytes) -> bytes:
    return b"!" + base64.b64encode(value) if _NEEDS_BASE64.search(value) else value
