"""Names from values: one template language and one rule for characters that a name cannot have. Pure.

A template is text with fields in braces, such as ``mri_{subject}``. Field names are ASCII letters, digits and ``_``; a
brace that is not part of a field is an error. Templates make identifiers of studies and visits, labels in XNAT, and
paths of retrieved images; the same fields in a folder pattern (``/scanner/{study}/{visit}``) find values in names.

The rule: of a value that fills a field, white space around it is dropped, and each character that the name cannot have
becomes one ``_``. XNAT does the same in the labels that it makes itself, so that a subject has the same
label either way. Different values may give the same name: the code that makes names checks for duplicates.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from icf_utils.errors import InvalidSetting, printable

_FIELD = re.compile(r"\{([A-Za-z][A-Za-z0-9_]*)\}", re.ASCII)


class EmptyField(KeyError):
    """A field's value is missing, or no character of it can be in the name; ``field`` says which."""

    def __init__(self, field: str) -> None:
        super().__init__(field)
        self.field = field


@dataclass(frozen=True)
class NameRule:
    """Which characters a kind of name can have: ``allowed`` in values, and ``around`` them, if that differs.

    Both are what goes into the brackets of a regular expression; ``words`` describe ``around`` in errors.
    """

    allowed: str
    words: str
    around: str = ""

    def replace(self, text: str) -> str:
        """A value with what the name cannot have replaced; empty where nothing but signs is left of it."""
        fit = re.sub(f"[^{self.allowed}]", "_", text.strip())
        return fit if any(char.isalnum() for char in fit) else ""

    def allows(self, text: str) -> bool:
        """Whether a template may have this text outside of its fields."""
        return re.fullmatch(f"[{self.around or self.allowed}]*", text) is not None


#: Identifiers of studies and visits; that the first character is neither ``.`` nor ``-`` is checked with the rest.
IDENTIFIER = NameRule("A-Za-z0-9._-", "letters, digits, '.', '_', '-'")


@dataclass(frozen=True)
class Template:
    """Text with fields in braces."""

    text: str

    @property
    def fields(self) -> tuple[str, ...]:
        """The names in braces, each once, in their order."""
        return tuple(dict.fromkeys(self.all_fields))

    @property
    def all_fields(self) -> tuple[str, ...]:
        """The names in braces, as often as they occur."""
        return tuple(_FIELD.findall(self.text))

    @property
    def literals(self) -> tuple[str, ...]:
        """The text around the fields."""
        return tuple(_FIELD.split(self.text)[::2])

    def fill(self, values: Mapping[str, str], rule: NameRule = IDENTIFIER) -> str:
        """The name. Raises :class:`EmptyField` for a value that is missing or has no character that the name can have.

        >>> Template("{subject}_{session}").fill({"subject": "sub 01", "session": "A"})
        'sub_01_A'
        """
        return self.fill_as_is({name: _usable(values, name, rule) for name in self.fields}).lstrip(".-")

    def fill_as_is(self, values: Mapping[str, str]) -> str:
        """The text with values as they are. Raises ``KeyError`` for one that is missing."""
        return _FIELD.sub(lambda found: values[found[1]], self.text)

    def expression(self) -> str:
        """The regular expression of names that the template matches, with a group for each field, the shortest first.

        A field must occur once.
        """
        return "".join(self._expressions())

    def _expressions(self) -> Iterator[str]:
        for position, piece in enumerate(_FIELD.split(self.text)):
            yield f"(?P<{piece}>.+?)" if position % 2 else re.escape(piece)


def _usable(values: Mapping[str, str], name: str, rule: NameRule) -> str:
    text = rule.replace(values.get(name, ""))
    if not text:
        raise EmptyField(name)
    return text


def parse_template(option: str, text: str, known: Collection[str] | None, rule: NameRule = IDENTIFIER) -> Template:
    """A template that uses ``known`` fields only, or any where that is ``None``; ``option`` names it in errors.

    Raises :class:`~icf_utils.errors.InvalidSetting` for other fields, for other braces, and for characters that the
    name cannot have.
    """
    template = Template(text)
    if not text or not all(map(rule.allows, template.literals)):
        problem = f"expected {rule.words} and fields such as {{{next(iter(known or ()), 'subject')}}}"
        raise InvalidSetting(option, f"'{printable(text)}' is not a template: {problem}")
    if known is not None:
        for name in template.fields:
            if name not in known:
                raise InvalidSetting(option, f"unknown field {{{name}}}{_suggestion(name, known)}")
    return template


def _suggestion(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    meant = f"; did you mean {{{close[0]}}}?" if close else ""
    return f"{meant} (fields: {', '.join(sorted(known)) or 'none here'})"
