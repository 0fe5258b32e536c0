"""The login for an XNAT: user and password, or a token's alias and secret. Reads files and the environment."""

from __future__ import annotations

import os
from pathlib import Path

from icf_utils.credentials import Login, Secret, find_login, find_secret
from icf_utils.errors import InvalidSetting, printable

#: Environment variables; other clients of XNAT use the same names for user and password.
USER, PASSWORD, TOKEN = "XNAT_USER", "XNAT_PASS", "XNAT_TOKEN"


def find_xnat_login(
    url: str, user: str = "", password_file: Path | None = None, token_file: Path | None = None
) -> Login:
    """The login for an XNAT: a token (``alias:secret``), else a password, else that of netrc, else asked for.

    Raises :class:`~icf_utils.errors.InvalidSetting` where none is found.
    """
    if token_file is not None or (os.environ.get(TOKEN) and not user and password_file is None):
        return _token(find_secret(TOKEN, token_file), str(token_file or TOKEN))
    login = find_login(url, user or os.environ.get(USER, ""), PASSWORD, password_file)
    if login is None:
        raise InvalidSetting(
            "credentials",
            f"none found for {printable(url)}: give --user and a password ({PASSWORD}, --password-file, ~/.netrc, or "
            f"typed at a terminal), or a token ({TOKEN} or --token-file)",
        )
    return login


def _token(secret: Secret | None, source: str) -> Login:
    alias, _, rest = secret.value.partition(":") if secret else ("", "", "")
    if not alias or not rest:
        raise InvalidSetting(source, "expected a token in the form alias:secret")
    return Login(alias, Secret(rest))
