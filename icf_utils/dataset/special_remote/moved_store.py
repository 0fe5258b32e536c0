"""Points a clone at the new address of a store that has moved, and back. Runs git to change its settings."""

from __future__ import annotations

import re

from icf_utils.dataset.special_remote.clone import Clone
from icf_utils.dataset.special_remote.rewriting import MATCH_SETTING, URL_SETTING, uncurl_remote
from icf_utils.errors import InvalidSetting
from icf_utils.store.address import check_store_url

#: The address of a remote before.
_URL_BEFORE = "icf-url-before"

#: Settings by which the addresses of a store's archives become those at another address of the store.
_MOVED_MATCH = r".*/(?P<icf_study>[^/]+)/(?P<icf_file>[^/]+_dicom(\.v[0-9]+)?\.tar)$"
_MOVED_FILE = "{icf_study}/{icf_file}"


def _moved_template(store_url: str) -> str:
    """The template for archives of a store that is at ``store_url`` now.

    >>> _moved_template("https://new.example.org/store")
    'https://new.example.org/store/{icf_study}/{icf_file}'
    """
    return f"{store_url.replace('{', '{{').replace('}', '}}')}/{_MOVED_FILE}"


def _is_moved_template(template: str) -> bool:
    """Whether :func:`_moved_template` made it."""
    return template.endswith(f"/{_MOVED_FILE}")


#: The addresses that clones of icf-utils' datasets have as remotes: before, the store, and after it.
_CLONED = re.compile(r"(datalad-annex::.*[?&]url=|annex::)(.+)((?:/[^/]+)/[^/]*(?:\{\{annex_key\}\}|\.annex))")


def _moved_remote(url: str, store_url: str) -> str:
    """The address of a remote, of a dataset in a store that is at ``store_url`` now; empty for other addresses.

    >>> _moved_remote("datalad-annex::?type=external&externaltype=uncurl&url=https://a.org/s/v_{{annex_key}}", "https://b")
    'datalad-annex::?type=external&externaltype=uncurl&url=https://b/s/v_{{annex_key}}'
    >>> _moved_remote("annex::https://a.org/x/s/v.annex", "https://b"), _moved_remote("https://a.org/x.git", "https://b")
    ('annex::https://b/s/v.annex', '')
    """
    match = _CLONED.fullmatch(url)
    if not match:
        return ""
    store = store_url.replace("%", "%25") if match[1] != "annex::" else store_url
    return f"{match[1]}{store}{match[3]}"


def follow_store(clone: Clone, folder: str, store_url: str) -> None:
    """Point a clone at the new address of its store.

    Its remotes are changed, and ``uncurl``'s settings, which archivist follows, since it gets archives by ``uncurl``.
    Raises :class:`~icf_utils.errors.InvalidSetting` for an address that is not allowed, and where ``uncurl`` has
    other settings.
    """
    store_url = check_store_url(store_url)
    name = uncurl_remote(clone)
    known = clone.setting(f"remote.{name}.{URL_SETTING}") or ""
    if known and not _is_moved_template(known):
        raise InvalidSetting(
            folder, f"remote.{name}.{URL_SETTING} is set already: change or unset it with 'git config'"
        )
    clone.change_setting(f"remote.{name}.{URL_SETTING}", _moved_template(store_url))
    if _MOVED_MATCH not in clone.settings(f"remote.{name}.{MATCH_SETTING}"):
        clone.change_setting("--add", f"remote.{name}.{MATCH_SETTING}", _MOVED_MATCH)
    for remote, url in clone.remotes_with("url"):
        moved = _moved_remote(url, store_url)
        if moved and moved != url:
            if not clone.setting(f"remote.{remote}.{_URL_BEFORE}"):
                clone.change_setting(f"remote.{remote}.{_URL_BEFORE}", url)
            clone.change_setting(f"remote.{remote}.url", moved)


def unfollow_store(clone: Clone) -> None:
    """Take :func:`follow_store` back."""
    name = uncurl_remote(clone)
    if _is_moved_template(clone.setting(f"remote.{name}.{URL_SETTING}") or ""):
        clone.change_setting("--unset-all", f"remote.{name}.{URL_SETTING}")
        clone.change_setting("--unset-all", f"remote.{name}.{MATCH_SETTING}", f"^{re.escape(_MOVED_MATCH)}$")
    for remote, url in clone.remotes_with(_URL_BEFORE):
        clone.change_setting(f"remote.{remote}.url", url)
        clone.change_setting("--unset-all", f"remote.{remote}.{_URL_BEFORE}")
