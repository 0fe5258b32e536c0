"""What a verification says. Pure values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from icf_utils.errors import DepositDamaged, DepositMissing, IcfError, StorageFailure
from icf_utils.results import Notice


@dataclass(frozen=True)
class Finding:
    """Something that is wrong: the file of the store, the image or page in it where that is known, and what."""

    path: Path
    subject: str
    problem: str


@dataclass(frozen=True)
class VisitCheck:
    """The verification of one visit; no findings means that every promise between its files holds.

    ``absent`` names the steps that were not made yet (``metadata``, ``dataset``, ``catalog``), which breaks none.
    """

    study: str
    visit: str
    images: int
    absent: tuple[str, ...]
    findings: tuple[Finding, ...]
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True)
class VerifyResult:
    """The verification of a store or of one visit."""

    visits: tuple[VisitCheck, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything that is wrong, in the order of the visits."""
        return tuple(finding for visit in self.visits for finding in visit.findings)


#: How errors name a place within a JSON file.
_RECORD = re.compile(r"(.+\.json), (record \d+)", re.DOTALL)


def finding_of(path: Path, error: IcfError, remedy: bool = False) -> Finding:
    """An error that a check met, as a finding about the file that the error names, or else ``path``.

    With ``remedy``, what to do about damage is said: where a repair could do nothing, nobody else will.
    """
    if isinstance(error, DepositDamaged):
        within = _RECORD.fullmatch(error.path)
        place, subject = within.groups() if within else (error.path, "")
        advice = f"; {error.remedy}" if remedy else ""
        return Finding(Path(place), subject, f"expected {error.expected}, found {error.found}{advice}")
    if isinstance(error, DepositMissing):
        return Finding(Path(error.path), "", f"does not exist; {error.remedy}")
    if isinstance(error, StorageFailure):
        return Finding(Path(error.path), "", str(error))
    return Finding(path, "", str(error))
