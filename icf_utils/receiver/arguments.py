"""The arguments of one send: words for the programs that process a session, given by who sends it.

They come with an upload, or are announced over HTTP before the images are sent (``icf-utils send --arguments``), or are
in an element of the images that the rule names (``arguments``). A session keeps its words in a file, so that a rerun
has the same. Reads the images of a session; writes to the spool and the session's folder.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from icf_utils.errors import InvalidSetting, printable, storage_errors
from icf_utils.processing.digests import arguments_problem
from icf_utils.receiver.identify import study_key
from icf_utils.receiver.model import Session
from icf_utils.receiver.settings import Rule, parse_element
from icf_utils.sources.images import scan_files
from icf_utils.sources.open import open_source
from icf_utils.store.files import replace_file

_NAME, _FOLDER = "arguments.json", "arguments"

#: Seconds for which announced arguments wait for their images.
_PATIENCE = 86_400.0

_KEY = re.compile(r"[0-9a-f]{12}", re.ASCII)


def split_words(text: str) -> tuple[str, ...]:
    """Split a text into words as a shell does, without expanding anything.

    Raises :class:`~icf_utils.errors.InvalidSetting`, without the text, which may be from a header.
    """
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise InvalidSetting("arguments", "a quotation is not closed") from error
    if problem := arguments_problem(words):
        raise InvalidSetting("arguments", problem)
    return words


def announce_arguments(spool: Path, key: str, words: Sequence[str]) -> None:
    """Keep words for the session of the study with this :func:`~icf_utils.receiver.identify.study_key`.

    Words that nobody has used for a day go. Raises :class:`~icf_utils.errors.InvalidSetting` for another key.
    """
    if not _KEY.fullmatch(key):
        raise InvalidSetting("study_key", f"expected 12 hexadecimal digits, found '{printable(key[:40])}'")
    folder = spool / _FOLDER
    with storage_errors(folder, "create"):
        folder.mkdir(exist_ok=True)
        for path in folder.iterdir():
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _PATIENCE:
                    path.unlink()
    _write(folder / key, words)


def keep_arguments(folder: Path, words: Sequence[str]) -> None:
    """Keep the words of a session in its folder."""
    _write(folder / _NAME, words)


def kept_arguments(folder: Path) -> tuple[str, ...] | None:
    """The words that a session has kept; ``None`` if there are none."""
    return _read(folder / _NAME)


def _write(path: Path, words: Sequence[str]) -> None:
    replace_file(path, json.dumps(list(words)).encode("ascii") + b"\n")


def session_arguments(spool: Path, rule: Rule, session: Session) -> tuple[str, ...] | None:
    """The words of a session; ``None`` if nobody gave any. Those that are announced or in the images are kept.

    Raises :class:`~icf_utils.errors.InvalidSetting` for an element that is not the same in all images, or not usable.
    """
    words = kept_arguments(session.folder)
    if words is not None:
        return words
    announced = spool / _FOLDER / study_key(session.study_uid) if session.study_uid else None
    words = _read(announced) if announced else None
    if words is None and rule.arguments and session.input.exists():
        words = _words_in_images(session, rule.arguments)
    if words is not None:
        keep_arguments(session.folder, words)
    if announced:
        with suppress(OSError):
            announced.unlink()
    return words


def _read(path: Path) -> tuple[str, ...] | None:
    try:
        return tuple(map(str, json.loads(path.read_bytes())))
    except (OSError, ValueError, TypeError):
        return None


def _words_in_images(session: Session, name: str) -> tuple[str, ...] | None:
    tag = parse_element(name)
    assert tag is not None  # as the settings were checked
    with open_source(session.input, session.folder) as source:
        texts = {file.header.ascii_text(tag).strip() for file in scan_files(source, frozenset({tag})) if file.is_image}
    texts.discard("")
    if len(texts) > 1:
        raise InvalidSetting("arguments", f"the images have different values of {name}")
    return split_words(texts.pop().replace("\\", " ")) if texts else None
