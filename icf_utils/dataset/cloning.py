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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from icf_utils.child_environment import user_environment
from icf_utils.credentials import Credential, Login, Secret, bind_credential, origin_of
from icf_utils.dataset.annex_url import mounted_annex_address
from icf_utils.dataset.origin import clone_url, study_clone_url
from icf_utils.dataset.special_remote.clone import Clone
from icf_utils.dataset.special_remote.configure import configure_clone
from icf_utils.errors import DepositMissing, InvalidSetting, MissingRequirement, RemoteFailure, printable
from icf_utils.fetch.authentication import Authenticator
from icf_utils.fetch.files import path_of
from icf_utils.fetch.http import HttpClient
from icf_utils.fetch.tls import TlsFiles
from icf_utils.store.layout import STUDY_REFS_NAME, Visit, check_identifier

#: DataLad's setting of an address of subdatasets, a format of Python; tried before the one that a dataset names.
_VISIT_SOURCE = "datalad.get.subdataset-source-candidate-100icf"

_EXISTS = "it exists already: name another folder, or remove it if an interrupted clone left it"
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
        raise InvalidSetting(os.fspath(target), _EXISTS)
    has_datalad = shutil.which("datalad") is not None and shutil.which("git-remote-datalad-annex") is not None
    if has_datalad:
        visit = Visit(Path(), place.study, place.visit) if place.visit else None
        url = clone_url(place.store, visit) if visit else study_clone_url(place.store, place.study)
        program, options, more = "datalad", [], _for_datalad(place)
    elif has_annex and shutil.which("git-remote-annex") is not None:
        url = _annex_address(place)
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
    more_commands = [_configure(target, place.store, Visit(Path(), place.study, place.visit), tls)] if by_ranges else []
    if not place.visit:
        more_commands += _take_visits_from(target, place)
    for text in more_commands:
        say(text)
        commands.append(text)
    return CloneResult(
        os.fspath(target),
        place.store,
        place.study,
        place.visit,
        "DataLad" if has_datalad else "git-annex",
        tuple(commands),
        by_ranges,
    )


def _annex_address(place: _Place) -> str:
    """The address of a visit for git-annex alone, which reads small files with an address from web servers only."""
    if place.store.startswith("file:"):
        return mounted_annex_address(Visit(path_of(place.store), place.study, place.visit))
    return f"annex::{place.store}/{place.study}/{place.visit}.annex"


def _configure(folder: Path, store: str, visit: Visit, tls: TlsFiles | None = None) -> str:
    """Let a visit's clone transfer images by byte ranges; from a store on this machine, if that has the archive.

    Returns the command that does the same. Raises as :func:`configure_clone` does.
    """
    folders = [path_of(store)] if store.startswith("file:") else []
    store_url = store if any((root / visit.storepath).is_file() for root in folders) else ""
    configure_clone(folder, local_stores=tuple(folders), ca=tls.authority if tls else None, store_url=store_url)
    options = [f"--local-store={root}" for root in folders] + [f"--store-url={store_url}"] * bool(store_url)
    return shlex.join(["icf-utils", "configure-clone", *options, os.fspath(folder)])


def _take_visits_from(top: Path, place: _Place) -> Iterator[str]:
    """Let DataLad install the visits of a study from the store that its clone came from, if they name another one.

    A store can be mounted here, or have moved. Yields the command that does the same.
    """
    modules, address = top / ".gitmodules", study_clone_url(place.store, place.study).removesuffix("{{annex_key}}")
    if not modules.exists() or f'"{address}' not in modules.read_text("utf-8", "surrogateescape"):
        template = address.replace("{", "{{").replace("}", "}}") + "{path}_{{{{annex_key}}}}"
        Clone.at(top).change_setting(_VISIT_SOURCE, template)
        yield shlex.join(["git", "-C", os.fspath(top), "config", _VISIT_SOURCE, template])


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
_STUDY_REMOTE = re.compile(r"datalad-annex::.*[?&]url=((?:https?|file)://.+)/([^/]+)/\{\{annex_key\}\}")


def _store_of(study: Path) -> tuple[str, str]:
    """The address of the store that a study's clone is from, and the study; empty where it is not known."""
    addresses = (_STUDY_REMOTE.fullmatch(unquote(url)) for _, url in Clone.at(study).remotes_with("url"))
    found = next(filter(None, addresses), None)
    return (found[1], found[2]) if found else ("", "")


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
    store, study = _store_of(top)
    if not store.startswith("http"):
        return {}
    refs = f"{store}/{study}/{STUDY_REFS_NAME}"
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
        store, study = _store_of(top)
        for name in names:
            if not (top / name / ".git").exists():
                continue
            if not _is_recorded_subdataset(top, name):
                shutil.rmtree(top / name)
                (top / name).mkdir()
            elif shutil.which("git-annex-remote-icf") is not None:
                with suppress(InvalidSetting):
                    _configure(top / name, store, Visit(Path(), study, name))


def _is_recorded_subdataset(top: Path, name: str) -> bool:
    """Whether a subdataset that has just been installed is the one that the dataset at ``top`` records.

    Where DataLad cannot clone a subdataset, it clones the superdataset in its place, and leaves it there.
    """
    recorded = Clone.at(top).git("rev-parse", f":{name}").stdout.decode().strip()
    return Clone.at(top / name).git("cat-file", "-e", f"{recorded}^{{commit}}").returncode == 0


def short_address_settings(store: str, *, has_datalad: bool = True) -> tuple[tuple[str, str], ...]:
    """Settings of git by which ``icf:STUDY/VISIT`` and ``icf:STUDY`` can be cloned, each a name and a value.

    Without DataLad, the address of a visit is ``icf:STUDY/VISIT.annex``.
    """
    if not has_datalad:
        return ((f"url.annex::{store}/.insteadOf", "icf:"),)
    visit = clone_url(store, Visit(Path(), "STUDY", "VISIT")).replace("STUDY/VISIT_", r"\1/\2_")
    study = study_clone_url(store, "STUDY").replace("STUDY/", r"\1/")
    name = "datalad.clone.url-substitute.icf"
    return (name, f",^icf:([^/]+)/([^/]+)$,{visit}"), (name, f",^icf:([^/]+)$,{study}")
