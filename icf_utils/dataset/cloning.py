"""Clones a study or visit with the programs that are installed. Uses the network; runs DataLad or git.

With DataLad (and datalad-next), a study or visit is cloned by the ``datalad-annex::`` address of its deposit; with
git-annex alone, a visit by its ``annex::`` address, if it was deposited with one. A user who has given user and
password is not asked again: the program that clones gets them in its environment, for this server only.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from icf_utils.child_environment import user_environment
from icf_utils.credentials import Credential, Login, Secret, bind_credential, origin_of
from icf_utils.dataset.origin import clone_url, study_clone_url
from icf_utils.dataset.special_remote.clone import Clone
from icf_utils.dataset.special_remote.configure import configure_clone
from icf_utils.errors import DepositMissing, InvalidSetting, MissingRequirement, RemoteFailure, printable
from icf_utils.fetch.authentication import Authenticator
from icf_utils.fetch.http import HttpClient
from icf_utils.fetch.tls import TlsFiles
from icf_utils.store.layout import STUDY_REFS_NAME, Visit, check_identifier

_INSTALL = "install DataLad: pip install datalad datalad-next git-annex"


@dataclass(frozen=True)
class CloneResult:
    """A clone in ``folder`` of a study, or of a visit; ``commands`` are those that were run."""

    folder: str
    store: str
    study: str
    visit: str
    tool: str
    commands: tuple[str, ...]
    by_ranges: bool


@dataclass(frozen=True)
class _Place:
    """What an address names: ``visit`` is empty for a study. ``login``: credential and realm, if the server has one."""

    store: str
    study: str
    visit: str
    login: tuple[Credential, str] | None


def clone_dataset(
    address: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    auth: Login | Secret | None = None,
    tls: TlsFiles | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> CloneResult:
    """Clone the study or visit at ``address`` (``STORE/STUDY`` or ``STORE/STUDY/VISIT``) into ``folder``.

    The folder is by default named after the visit or study. ``auth`` is sent to the server of the address only;
    without it, a credential is looked for, or asked for, where the server requires one. ``say`` gets each command that
    is run. A visit's clone transfers images by byte ranges, where git finds ``git-annex-remote-icf``.

    Raises :class:`~icf_utils.errors.MissingRequirement`, which says what to install,
    :class:`~icf_utils.errors.DepositMissing` for an address without a dataset,
    :class:`~icf_utils.errors.InvalidSetting` for other addresses and a folder that is not empty, and
    :class:`~icf_utils.errors.RemoteFailure` where the program that clones fails.
    """
    if shutil.which("git") is None or shutil.which("git-annex") is None:
        raise MissingRequirement("git and git-annex", _INSTALL)
    with HttpClient(1, tls=tls) as client:
        place, has_annex = _find(address, auth, client)
    target = Path(folder or place.visit or place.study)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InvalidSetting(os.fspath(target), "it exists already: name another folder")
    has_datalad = shutil.which("datalad") is not None and shutil.which("git-remote-datalad-annex") is not None
    if has_datalad:
        visit = Visit(Path(), place.study, place.visit) if place.visit else None
        url = clone_url(place.store, visit) if visit else study_clone_url(place.store, place.study)
        program, options, more = "datalad", [], _for_datalad(place)
    elif has_annex and shutil.which("git-remote-annex") is not None:
        url = f"annex::{place.store}/{place.study}/{place.visit}.annex"
        program, options, more = "git", _helper(place), _for_git(place)
    else:
        why = "this visit has no deposit for git-annex alone" if place.visit else "a study is cloned by DataLad"
        raise MissingRequirement("DataLad with datalad-next", f"{_INSTALL} ({why})")
    arguments = ["clone", url, os.fspath(target)]
    shown = shlex.join([program, *arguments])
    say(shown)
    command = [program, *options, *arguments]
    # standard output is for the result
    done = subprocess.run(command, env={**user_environment(), **more}, stdout=2, check=False)  # noqa: S603 - no shell
    if done.returncode:
        problem = f"'{program} clone' has ended with exit code {done.returncode}; see its messages above"
        raise RemoteFailure(f"{place.store}/{place.study}", problem, "check the credentials, and the address")
    commands = [shown]
    by_ranges = bool(place.visit) and shutil.which("git-annex-remote-icf") is not None
    if by_ranges:
        configure_clone(target, ca=tls.authority if tls else None)
        commands.append(shlex.join(["icf-utils", "configure-clone", os.fspath(target)]))
        say(commands[-1])
    return CloneResult(
        os.fspath(target),
        place.store,
        place.study,
        place.visit,
        "DataLad" if has_datalad else "git-annex",
        tuple(commands),
        by_ranges,
    )


def _find(address: str, auth: Login | Secret | None, client: HttpClient) -> tuple[_Place, bool]:
    """What the address names, by what the server has there, and whether a visit has an ``annex::`` deposit."""
    address = address.rstrip("/") if "://" in address else Path(address).absolute().as_uri()
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https", "file") or parts.path.count("/") < 1:
        raise InvalidSetting("URL", "expected https://HOST/.../STUDY or https://HOST/.../STUDY/VISIT")
    credential = bind_credential(address, auth) if parts.scheme != "file" else None
    authenticator = Authenticator("give --user NAME")
    authenticator.give(credential)

    def exists(url: str) -> bool:
        return authenticator.source(url, client).exists()

    above, _, name = address.rpartition("/")
    check_identifier("study or visit", name)
    if exists(refs := f"{address}/{STUDY_REFS_NAME}"):
        return _Place(above, name, "", authenticator.login_for(refs, client)), False
    store, _, study = above.rpartition("/")
    if study and exists(refs := f"{address}_XDLRA--refs"):
        return _Place(store, study, name, authenticator.login_for(refs, client)), exists(f"{address}.annex")
    raise DepositMissing(
        printable(address), "no dataset of a study or visit was found at this address: check it, or use 'retrieve'"
    )


def _for_datalad(place: _Place) -> dict[str, str]:
    """Variables with the credential under the server's realm (DataLad's configuration by the environment)."""
    if place.login is None:
        return {}
    (credential, realm), names = place.login, {}
    if isinstance(credential.secret, Login):
        names = {"TYPE": "user_password", "USER": credential.secret.user, "SECRET": credential.secret.password.value}
    elif isinstance(credential.secret, Secret):
        names = {"TYPE": "token", "SECRET": credential.secret.value}
    return {f"DATALAD_CREDENTIAL_ICFCLONE_{name}": text for name, text in {"REALM": realm, **names}.items()}


def _helper(place: _Place) -> list[str]:
    """The options by which git asks the environment for the password of this server, and of no other one."""
    if place.login is None or not _for_git(place):
        return []
    answer = 'test "$1" = get && printf "username=%s\\npassword=%s\\n" "$ICF_CLONE_USER" "$ICF_CLONE_PASSWORD"'
    return ["-c", f"credential.{place.login[0].origin}.helper=!f() {{ {answer}; }}; f"]


def _for_git(place: _Place) -> dict[str, str]:
    found = place.login[0].secret if place.login else None
    if not isinstance(found, Login):
        return {}
    return {"ICF_CLONE_USER": found.user, "ICF_CLONE_PASSWORD": found.password.value}


#: The address of a study's clone: its store's web address, and the study.
_STUDY_REMOTE = re.compile(r"datalad-annex::.*[?&]url=(https?://.+/[^/]+)/\{\{annex_key\}\}")


def study_environment(
    top: Path,
    authenticator: Authenticator,
    auth: Callable[[str], Login | Secret | None],
    tls: TlsFiles | None,
) -> dict[str, str]:
    """Variables with the credential for the server that a study's clone at ``top`` is from, for what installs visits.

    ``auth`` gives the secret that the user has named for an origin; ``authenticator`` finds others. Empty where no
    credential is needed or known; what installs visits then says what it lacks.
    """
    addresses = (_STUDY_REMOTE.fullmatch(unquote(url)) for _, url in Clone.at(top).remotes_with("url"))
    address = next((match[1] for match in addresses if match), "")
    if not address:
        return {}
    store, _, study = address.rpartition("/")
    refs = f"{address}/{STUDY_REFS_NAME}"
    with HttpClient(1, tls=tls) as client:
        authenticator.give(bind_credential(store, auth(str(origin_of(store)))))
        return _for_datalad(_Place(store, study, "", authenticator.login_for(refs, client)))


class SubdatasetInstaller:
    """Installs visits of a study's clone with the programs that are installed, without their images.

    ``environment`` gives more variables for the program, by the folder of the study's clone; ``say`` gets each command
    that is run.
    """

    def __init__(
        self,
        say: Callable[[str], None] = lambda _: None,
        environment: Callable[[Path], Mapping[str, str]] = lambda _: {},
    ) -> None:
        self._say, self._environment = say, environment

    def install(self, top: Path, names: Sequence[str]) -> None:
        """Install the subdatasets at ``names`` below ``top``; which of them failed can be seen there.

        New ones transfer images by byte ranges, where git finds ``git-annex-remote-icf``.
        """
        command = ["datalad", "get", "-n", "--", *names]
        if shutil.which("datalad") is None:
            allowed = ("-c", "protocol.annex.allow=always", "-c", "protocol.datalad-annex.allow=always")
            command = ["git", *allowed, "submodule", "update", "--init", "--", *names]
        more = f" ... ({len(names)} in total)" if len(names) > 1 else ""
        self._say(f"{shlex.join(command[: len(command) - len(names) + 1])}{more}")
        environment = {**user_environment(), **self._environment(top)}
        # standard output is for the result
        subprocess.run(command, cwd=top, env=environment, stdout=2, check=False)  # noqa: S603 - no shell
        for name in names:
            if (top / name / ".git").exists() and shutil.which("git-annex-remote-icf") is not None:
                with suppress(InvalidSetting):
                    configure_clone(top / name)


def short_address_settings(store: str) -> tuple[str, str]:
    """Values of ``datalad.clone.url-substitute.icf`` by which ``icf:STUDY/VISIT`` and ``icf:STUDY`` can be cloned."""
    visit = clone_url(store, Visit(Path(), "STUDY", "VISIT")).replace("STUDY/VISIT_", r"\1/\2_")
    study = study_clone_url(store, "STUDY").replace("STUDY/", r"\1/")
    return f",^icf:([^/]+)/([^/]+)$,{visit}", f",^icf:([^/]+)$,{study}"
