"""Addresses of archives as the ``uncurl`` remote rewrites them, in git's configuration. Asks git for settings.

``uncurl`` (of datalad-next) can be configured with a template for addresses and with regular expressions, whose named
groups take parts from the recorded addresses. Then the template gives the one address of a key. The settings are
``remote.<name>.uncurl-url`` and any number of ``remote.<name>.uncurl-match`` of git's configuration, and ``url=`` and
``match=`` of ``git annex enableremote``. Source: the documentation of ``datalad_next.annexremotes.uncurl``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from icf_utils.dataset.annex_keys import lower_folder, mixed_folder
from icf_utils.dataset.special_remote.clone import Clone
from icf_utils.errors import InvalidSetting, printable

#: The remote's name in datasets of icf-utils, and the name of its program.
UNCURL = "uncurl"

URL_SETTING, MATCH_SETTING = "uncurl-url", "uncurl-match"

#: What is not a placeholder of a template: ``{{`` and ``}}``, and placeholders with formats.
_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True)
class Rewriting:
    """How addresses are rewritten; without a ``template``, they are not."""

    template: str = ""
    matches: tuple[re.Pattern[str], ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)

    def rewrite(self, key: str, urls: Sequence[str]) -> list[str]:
        """The addresses to ask for ``key`` instead of the recorded ``urls``.

        Raises :class:`~icf_utils.errors.InvalidSetting` for a template with a name that nothing gives a value for.

        >>> match = re.compile(r".*/(?P<study>[^/]+)/(?P<file>[^/]+)$")
        >>> Rewriting("https://new.org/{study}/{file}", (match,)).rewrite("K", ["http://old.org/x/s/v_dicom.tar"])
        ['https://new.org/s/v_dicom.tar']
        """
        if not self.template or not urls:
            return list(urls)
        found = {
            **self.properties,
            "annex_key": key,
            "annex_dirhash": mixed_folder(key.encode()).decode() + "/",
            "annex_dirhash_lower": lower_folder(key.encode()).decode() + "/",
        }
        for url in urls:
            for pattern in self.matches:
                if match := pattern.match(url):
                    found.update({name: value or "" for name, value in match.groupdict().items()})
        return [_PLACEHOLDER.sub(lambda one: self._value(one, found), self.template)]

    def _value(self, placeholder: re.Match[str], found: Mapping[str, str]) -> str:
        name = placeholder[1]
        if not name:
            return placeholder[0][0]
        if name not in found:
            raise InvalidSetting(
                f"remote.*.{URL_SETTING}",
                f"'{{{name}}}' has no value: no expression of {MATCH_SETTING} with this name matches the address",
            )
        return found[name]


def uncurl_remote(clone: Clone) -> str:
    """The name of the clone's ``uncurl`` remote, which settings can be given for before it is enabled."""
    return next((name for name, kind in clone.remotes_with("annex-externaltype") if kind == UNCURL), UNCURL)


def read_rewriting(clone: Clone) -> Rewriting:
    """What is configured in a clone for its ``uncurl`` remote. Raises :class:`~icf_utils.errors.InvalidSetting`."""
    name = uncurl_remote(clone)
    uuid = dict(clone.remotes_with("annex-uuid")).get(name, "")
    logged = clone.remote_log()
    committed = logged.get(uuid) or next((one for one in logged.values() if one.get("externaltype") == UNCURL), {})
    template = clone.setting(f"remote.{name}.{URL_SETTING}") or committed.get("url", "")
    if not template:
        return Rewriting()
    expressions = [*committed.get("match", "").split(), *clone.settings(f"remote.{name}.{MATCH_SETTING}")]
    properties = {
        "datalad_dsid": clone.setting("datalad.dataset.id") or "",
        "git_remotename": name,
        "annex_remoteuuid": uuid,
    }
    return Rewriting(template, tuple(map(_compile, expressions)), properties)


def _compile(expression: str) -> re.Pattern[str]:
    try:
        return re.compile(expression)
    except re.error as error:
        problem = f"'{printable(expression)}' is not a regular expression: {error}"
        raise InvalidSetting(f"remote.*.{MATCH_SETTING}", problem) from error
