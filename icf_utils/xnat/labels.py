"""Labels of subjects and sessions in XNAT: what they may contain, and how names and templates become labels. Pure.

A label consists of the letters A to Z in either case, digits, ``_`` and ``-``. XNAT replaces each other character by
``_`` (Labels.toLabelChars); this is done here first, since the label must be known to find the session again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from icf_utils.errors import InvalidSetting, printable
from icf_utils.templates import EmptyField, NameRule, parse_template

#: The most characters that XNAT is given; its columns hold 255.
_LONGEST = 200

_CHARACTERS = "A-Za-z0-9_-"

#: The characters of labels, for templates.
LABEL = NameRule(_CHARACTERS, "letters A to Z, digits, '_', '-'")


class NameWithoutLabel(InvalidSetting):
    """A name of which a label can keep no character: many such names would become the same label.

    ``reason`` says so without the name.
    """

    def __init__(self, option: str, field: str, name: str) -> None:
        self.reason = (
            f"an XNAT label can keep no character of its {field} (allowed: letters A to Z, digits, '_' and '-'); "
            f"rename it, or give another {option}"
        )
        super().__init__(option, f"'{printable(name)}': {self.reason}")


def to_label(text: str) -> str:
    """``text`` with each character that labels cannot have replaced by ``_``.

    >>> to_label("Mueller^Eva 1.2")
    'Mueller_Eva_1_2'
    """
    return re.sub(f"[^{_CHARACTERS}]", "_", text)


def check_label(what: str, value: str) -> str:
    """Return ``value`` if XNAT accepts it as a label of a project, subject or session (Labels.isValidLabel).

    Raises :class:`~icf_utils.errors.InvalidSetting`, in which ``what`` names the option.
    """
    if not value or not LABEL.allows(value) or len(value) > _LONGEST:
        rule = f"expected letters, digits, '_' and '-', at most {_LONGEST} characters"
        raise InvalidSetting(what, f"'{printable(value[:120])}' is not a label for XNAT: {rule}")
    return value


def fill_label(template: str, values: Mapping[str, str], option: str) -> str:
    """The label that a template such as ``{subject}_{session}`` makes of ``values``; ``option`` names it in errors.

    Raises :class:`NameWithoutLabel` where a label can keep no character of a field's value, and
    :class:`~icf_utils.errors.InvalidSetting` for what is not a template or makes an empty label.

    >>> fill_label("{subject}_{session}", {"subject": "s1", "session": "mr"}, "--session")
    's1_mr'
    """
    try:
        label = parse_template(option, template, values, LABEL).fill(values, LABEL)
    except EmptyField as error:
        raise NameWithoutLabel(option, error.field, values[error.field]) from error
    if not label.strip("_-"):
        raise InvalidSetting(option, f"'{printable(template)}' makes an empty label")
    return label
