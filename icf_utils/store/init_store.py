"""Make a folder a store, by an ``icf.toml`` that names the store's address. Writes the folder and that file.

An ``icf.toml`` that exists is completed, never contradicted: datasets and catalogs contain the address, and the UUIDs
of datasets are computed from the identity.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from icf_utils.errors import InvalidSetting, printable, storage_errors
from icf_utils.settings import SETTINGS_NAME, StoreSettings, parse_settings, parse_toml
from icf_utils.store.address import check_store_id, check_store_url
from icf_utils.store.files import make_folders, replace_file, sync_folder

_TABLE = re.compile(r"(?m)^[ \t]*\[[ \t]*store[ \t]*\][ \t]*(?:#.*)?$")


@dataclass(frozen=True)
class InitResult:
    """What ``icf-utils init`` did: the settings file, its address and identity, and whether it was written now."""

    settings: Path
    url: str
    id: str
    state: Literal["written", "completed", "unchanged"]


def init_store(store_dir: str | os.PathLike[str], url: str, store_id: str = "") -> InitResult:
    """Make ``store_dir`` a store that readers reach at ``url``; the folder is created if it does not exist.

    ``store_id`` is an identity that outlives a change of the address. Doing it twice is doing it once. Raises
    :class:`~icf_utils.errors.InvalidSetting` for an address or identity that is not allowed, and where the store has
    another one already, and :class:`~icf_utils.errors.StorageFailure`.
    """
    root = Path(store_dir)
    path = root / SETTINGS_NAME
    wanted = StoreSettings(check_store_url(url), check_store_id(store_id))
    with storage_errors(root, "create"):
        make_folders(root, root)
    old = _read(path)
    present_url, present_id = _present(old, path)
    for name, given, found in (("url", wanted.url, present_url), ("id", wanted.id, present_id)):
        if given and found and given != found.rstrip("/"):
            problem = (
                f"the store has the {name} '{printable(found)}' already, not '{printable(given)}'; "
                f"datasets contain it. If it is to change, change {name} in the file"
            )
            raise InvalidSetting(str(path), problem)
    lines = [] if present_url else [f"url = {json.dumps(wanted.url, ensure_ascii=False)}"]
    lines += [f"id = {json.dumps(wanted.id, ensure_ascii=False)}"] if wanted.id and not present_id else []
    if lines:
        new = _with_lines(old.decode("utf-8"), lines, path)
        replace_file(path, new, root=root)
        sync_folder(root)
    state: Literal["written", "completed", "unchanged"] = "unchanged"
    if lines:
        state = "completed" if old else "written"
    return InitResult(path, present_url or wanted.url, present_id or wanted.id, state)


def _read(path: Path) -> bytes:
    with storage_errors(path, "read"):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return b""


def _present(raw: bytes, path: Path) -> tuple[str, str]:
    """Address and identity that the file itself names: an address in the environment is not the store's own."""
    settings = parse_settings(raw, str(path)).store
    own = parse_toml(raw, str(path)).get("store", {})
    return settings.url if "url" in own else "", settings.id


def _with_lines(text: str, lines: list[str], path: Path) -> bytes:
    """The settings with more keys in ``[store]``; everything else, comments included, stays as it is written."""
    found = _TABLE.search(text)
    added = "\n".join(lines)
    if found:
        new = f"{text[: found.end()]}\n{added}{text[found.end() :]}"
    else:
        new = f"[store]\n{added}\n" + (f"\n{text}" if text else "")
    try:
        parse_settings(new.encode("utf-8"), str(path))
    except InvalidSetting as error:
        raise InvalidSetting(str(path), f"add these lines to its table [store] by hand: {'; '.join(lines)}") from error
    return new.encode("utf-8")
