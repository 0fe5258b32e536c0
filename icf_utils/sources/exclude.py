"""Which scans to leave out: the file of patterns that dicomUpload reads. Reads that one file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from icf_utils.errors import InvalidSetting, shown, storage_errors

_FORM = 'expected JSON such as {"Exclude": ["localizer", "phoenix"]}'


@dataclass(frozen=True)
class Exclusions:
    """Patterns: a scan is left out if its folder's name holds one of them, upper or lower case being the same."""

    patterns: tuple[str, ...] = ()

    def matching(self, name: str) -> tuple[str, ...]:
        """The patterns that leave out a folder of this name.

        >>> Exclusions(("LOCALIZER", "phx")).matching("01_AAHead_Localizer")
        ('LOCALIZER',)
        """
        folded = name.casefold()
        return tuple(pattern for pattern in self.patterns if pattern.casefold() in folded)

    def unmatched(self, names: Iterable[str]) -> tuple[str, ...]:
        """The patterns that leave out none of these folders: perhaps they are misspelt."""
        used = {pattern for name in names for pattern in self.matching(name)}
        return tuple(pattern for pattern in self.patterns if pattern not in used)


def read_exclusions(path: Path) -> Exclusions:
    """The patterns of ``{"Exclude": [...]}``.

    Raises :class:`~icf_utils.errors.InvalidSetting` for anything else, also for an empty pattern, which would leave
    out everything.
    """
    with storage_errors(path, "read"):
        raw = path.read_bytes()
    try:
        value = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InvalidSetting(str(path), f"this is not JSON; {_FORM}") from error
    if not isinstance(value, dict) or "Exclude" not in value:
        raise InvalidSetting(str(path), f"there is no 'Exclude' in it; {_FORM}")
    if unknown := sorted(set(value) - {"Exclude"}):
        raise InvalidSetting(str(path), f"'{shown(unknown[0])}' means nothing here; {_FORM}")
    patterns = value["Exclude"]
    if not isinstance(patterns, list) or not all(isinstance(item, str) and item for item in patterns):
        raise InvalidSetting(str(path), f"'Exclude' must be a list of texts, none of them empty; {_FORM}")
    return Exclusions(tuple(dict.fromkeys(patterns)))
