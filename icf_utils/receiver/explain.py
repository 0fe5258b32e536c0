"""Which rule would take a file, and why. Reads the file."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from icf_utils.errors import InvalidSetting, printable
from icf_utils.receiver.identify import (
    ImageRejection,
    Sender,
    identify,
    read_file_header,
    sop_uids,
    unmet_condition,
)
from icf_utils.receiver.settings import Rule, fits


@dataclass(frozen=True)
class Explanation:
    """What a rule does with a file, without header values. The first rule that ``takes_it`` does."""

    rule: str
    takes_it: bool
    reason: str


def explain(
    rules: Sequence[Rule], path: Path, called_ae: str | None, calling_ae: str | None, address: str | None
) -> list[Explanation]:
    """What each rule does with a file from a sender, of whom ``None`` is not known and fits every rule.

    Raises :class:`~icf_utils.errors.InvalidSetting` for an address or a file that is not one, and
    :class:`~icf_utils.errors.StorageFailure`.
    """
    if address is not None:
        try:
            ipaddress.ip_address(address)
        except ValueError as error:
            raise InvalidSetting("--address", f"'{printable(address)}' is not an IP address") from error
    header = read_file_header(path, rules)
    if header is None:
        raise InvalidSetting("--explain", f"'{printable(path)}' is not a complete DICOM image")
    found: list[Explanation] = []
    is_taken = False
    for rule in rules:
        reason = _mismatch(rule, called_ae, calling_ae, address)
        if not reason and (keyword := unmet_condition(header, rule)):
            reason = f"{keyword} does not match '{rule.where[keyword]}'"
        if reason:
            found.append(Explanation(rule.name, False, reason))
            continue
        sender = Sender(called_ae or "CALLED", calling_ae or "CALLING", address or "0.0.0.0")  # noqa: S104 - a value
        identity = identify(header, rule, sender, *sop_uids(header))
        if is_taken:
            found.append(Explanation(rule.name, False, "fits, but an earlier rule fits as well"))
        elif isinstance(identity, ImageRejection):
            found.append(Explanation(rule.name, False, f"fits, but refuses it: {identity.reason}"))
        else:
            found.append(Explanation(rule.name, True, f"takes it, as {identity.study}/{identity.visit}"))
        is_taken = True
    return found


def _mismatch(rule: Rule, called_ae: str | None, calling_ae: str | None, address: str | None) -> str:
    if called_ae is not None and not fits(rule.called_ae, called_ae):
        return f"the called AE title does not match '{rule.called_ae}'"
    if calling_ae is not None and rule.calling_ae and not any(fits(item, calling_ae) for item in rule.calling_ae):
        return "the calling AE title is not among those of the rule"
    if address is not None and rule.mismatch(calling_ae or "", address) == "address":
        return "the address is not among those of the rule"
    return ""
