"""What an examination finds, as values. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

#: ``ok``: works. ``warning``: works, but not as it should. ``failed``: does not work. ``absent``: an optional part
#: that is not installed. ``skipped``: could not be examined.
State = Literal["ok", "warning", "failed", "absent", "skipped"]


@dataclass(frozen=True)
class Check:
    """One thing that was examined. ``remedy`` says what to do about it, and is empty where nothing is to be done."""

    subject: str
    state: State
    message: str
    remedy: str = ""


@dataclass(frozen=True)
class Examination:
    """All checks, in the order in which they were made."""

    checks: Sequence[Check]

    @property
    def failed(self) -> bool:
        """Whether something does not work."""
        return any(check.state == "failed" for check in self.checks)
