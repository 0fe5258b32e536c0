"""Who logs in to an XNAT: a user with a password, or the alias and secret of a token. Reads what it is pointed at."""

from __future__ import annotations

import os
from pathlib import Path

from icf_utils.credentials import Login, Secret, find_login, find_secret
from icf_utils.errors import InvalidSetting, printable

#: Environment variables, by the names that other clients of XNAT use for user and password.
USER, PASSWORD, TOKEN = "XNAT_USER", "XNAT_PASS", "XNAT_TOKEN"


def find_xnat_login(
    url: str, user: str = "", password_file: Path | None = None, token_file: Path | None = None
) -> Login:
    """The login for an XNAT: a token (``alias:secret``), else a password, else what netrc says, else a question.

    Raises :class:`~icf_utils.errors.InvalidSetting` where there is none.
    """
    if token_file is not None or (os.environ.get(TOKEN) and not user and password_file is None):
        return _token(find_secret(TOKEN, token_file), str(token_file or TOKEN))
    login = find_login(url, user or os.environ.get(USER, ""), PASSWORD, password_file)
    if login is None:
        raise InvalidSetting(
            "credentials",
            f"there are none for {printable(url)}: give --user and a password by {PASSWORD}, "
            "--password-file, ~/.netrc or "
            f"the question on a terminal, or a token by --token-file or {TOKEN}",
        )
    return login


def _token(secret: Secret | None, source: str) -> Login:
    alias, _, rest = secret.value.partition(":") if secret else ("", "", "")
    if not alias or not rest:
        raise InvalidSetting(source, "a token is written as alias:secret")
    return Login(alias, Secret(rest))
