"""How a study or visit gets its identifier: a template such as ``{subject}_{session}``, filled with values. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from icf_utils.errors import InvalidSetting, printable

_FIELD = re.compile(r"\{([A-Za-z][A-Za-z0-9_]*)\}", re.ASCII)
_FORBIDDEN = re.compile(r"[^A-Za-z0-9._-]+", re.ASCII)


@dataclass(frozen=True)
class Template:
    """Text with fields in braces, such as ``mri_{subject}``."""

    text: str

    @property
    def fields(self) -> tuple[str, ...]:
        """The names in braces, each once, in their order."""
        return tuple(dict.fromkeys(_FIELD.findall(self.text)))

    def fill(self, values: Mapping[str, str]) -> str:
        """The identifier; whatever an identifier cannot hold becomes ``-``, so that two values may become one.

        Raises ``KeyError`` with the field's name for a value that is missing or has nothing usable in it.

        >>> Template("{subject}_{session}").fill({"subject": "sub 01", "session": "A"})
        'sub-01_A'
        """
        return _FIELD.sub(lambda found: usable(values, found[1]), self.text).lstrip(".-")


def usable(values: Mapping[str, str], name: str) -> str:
    """A value as it may stand in an identifier; ``KeyError`` where nothing of it may."""
    text = _FORBIDDEN.sub("-", values.get(name, "").strip()).strip("-.")
    if not text:
        raise KeyError(name)
    return text


def parse_template(option: str, text: str, known: Collection[str]) -> Template:
    """A template that uses ``known`` fields only; ``option`` names it in errors.

    Raises :class:`~icf_utils.errors.InvalidSetting` for other fields, for other braces, and for characters that no
    identifier can hold.
    """
    template = Template(text)
    rest = _FIELD.sub("", text)
    if not text or _FORBIDDEN.search(rest):
        problem = "expected letters, digits, '.', '_', '-' and fields such as {subject}"
        raise InvalidSetting(option, f"'{printable(text)}' is no template: {problem}")
    if unknown := [name for name in template.fields if name not in known]:
        names = ", ".join(sorted(known)) or "none here"
        raise InvalidSetting(option, f"there is no field {{{printable(unknown[0])}}} (fields: {names})")
    return template
