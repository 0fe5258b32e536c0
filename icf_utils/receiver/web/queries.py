"""Queries for sessions, parsed and checked. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from icf_utils.errors import InvalidSetting, printable
from icf_utils.receiver.model import SESSION_STATES, SessionFilter, SessionState

#: The parameters of a query; ``state`` may be given several times, or with commas.
PARAMETERS = ("sender", "called", "study", "visit", "rule", "state", "limit", "offset")

_MOST = 1_000_000


@dataclass(frozen=True)
class Query:
    """Which sessions to list, how many at most (0: all), and how many to skip."""

    wanted: SessionFilter
    limit: int = 0
    offset: int = 0


def parse_query(given: Mapping[str, Sequence[str]]) -> Query:
    """Parse the parameters of a query. Raises :class:`~icf_utils.errors.InvalidSetting`."""
    if unknown := sorted(set(given) - set(PARAMETERS)):
        raise InvalidSetting(
            "query", f"unknown parameter '{printable(unknown[0][:40])}' (known: {', '.join(PARAMETERS)})"
        )
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
    """Parse texts such as ``queued,running``. Raises :class:`~icf_utils.errors.InvalidSetting`."""
    names = [name.strip() for text in texts for name in text.split(",") if name.strip()]
    if unknown := sorted(set(names) - set(SESSION_STATES)):
        known = ", ".join(SESSION_STATES)
        raise InvalidSetting("state", f"unknown state '{printable(unknown[0][:40])}' (states: {known})")
    return tuple(state for state in SESSION_STATES if state in names)


def _number(word: str, texts: Mapping[str, str], least: int) -> int:
    """A parameter that is a number; 0 if it is not given."""
    if word not in texts:
        return 0
    text = texts[word]
    if not (text.isascii() and text.isdecimal() and len(text) < 8 and least <= int(text) <= _MOST):
        raise InvalidSetting(word, f"'{printable(text[:40])}' is not a number from {least} to {_MOST}")
    return int(text)
