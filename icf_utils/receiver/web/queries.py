"""What a client may ask for: the query of a list of sessions, checked. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from icf_utils.errors import InvalidSetting, printable
from icf_utils.receiver.model import SESSION_STATES, SessionFilter, SessionState

#: The words of a query; ``state`` may be given several times, or with commas.
WORDS = ("sender", "called", "study", "visit", "rule", "state", "limit", "offset")

_MOST = 1_000_000


@dataclass(frozen=True)
class Query:
    """Which sessions, how many of them (0: all), and after how many."""

    wanted: SessionFilter
    limit: int = 0
    offset: int = 0


def parse_query(given: Mapping[str, Sequence[str]]) -> Query:
    """A query from its words. Raises :class:`~icf_utils.errors.InvalidSetting` for what means nothing."""
    if unknown := sorted(set(given) - set(WORDS)):
        raise InvalidSetting("query", f"'{printable(unknown[0][:40])}' means nothing (known: {', '.join(WORDS)})")
    texts = {word: given[word][-1] for word in given if word != "state"}
    wanted = SessionFilter(
        sender=texts.get("sender", ""),
        called_ae=texts.get("called", ""),
        study=texts.get("study", ""),
        visit=texts.get("visit", ""),
        rule=texts.get("rule", ""),
        states=parse_states(given.get("state", ())),
    )
    return Query(wanted, _number("limit", texts, 1), _number("offset", texts, 0))


def parse_states(texts: Sequence[str]) -> tuple[SessionState, ...]:
    """States from texts such as ``queued,running``, in their order."""
    names = [name.strip() for text in texts for name in text.split(",") if name.strip()]
    if unknown := sorted(set(names) - set(SESSION_STATES)):
        known = ", ".join(SESSION_STATES)
        raise InvalidSetting("state", f"there is no state '{printable(unknown[0][:40])}' (states: {known})")
    return tuple(state for state in SESSION_STATES if state in names)


def _number(word: str, texts: Mapping[str, str], least: int) -> int:
    """A number; 0 where none is given."""
    if word not in texts:
        return 0
    text = texts[word]
    if not (text.isascii() and text.isdecimal() and len(text) < 8 and least <= int(text) <= _MOST):
        raise InvalidSetting(word, f"'{printable(text[:40])}' is no number from {least} to {_MOST}")
    return int(text)
