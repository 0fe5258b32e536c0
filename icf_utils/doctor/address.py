"""Checks of a store's address: whether its web server answers as readers need it. Uses the network; reads the store.

One archive of the store serves as a sample: its first bytes are requested as a byte range and compared with the file,
so that a server of another folder is noticed. Credentials come from netrc only, and go to the address's origin only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import quote, urlsplit

from icf_utils.credentials import Credential, bind_credential, find_login
from icf_utils.doctor.folder import clock_check
from icf_utils.doctor.model import Check
from icf_utils.errors import IcfError, printable
from icf_utils.fetch.errors import FetchFailure
from icf_utils.fetch.files import path_of
from icf_utils.fetch.http import HttpClient, Response, RetryPolicy
from icf_utils.fetch.tls import TlsFiles
from icf_utils.settings import SETTINGS_NAME
from icf_utils.store.layout import Visit, list_studies

_SAMPLE = 512
_RETRY = RetryPolicy(attempts=1, connect=10.0, read=20.0)
_LOCAL = ("localhost", "127.0.0.1", "::1")

_RANGES_REMEDY = "without byte ranges, readers must transfer whole archives; see the administrator's guide"


@dataclass(frozen=True)
class _Sample:
    """The beginning of an archive: its path below the store's address, its size and its first bytes."""

    path: str
    size: int
    first: bytes


def check_address(store: Path, url: str, ca: Path | None = None) -> Iterator[Check]:
    """Check the address of the store at ``store``; ``ca`` is a file of trusted CA certificates."""
    if not url:
        remedy = "set it with 'icf-utils init STORE --url URL'"
        yield Check("address", "warning", "not set; datasets and catalogs cannot be made", remedy)
    elif url.startswith("file:"):
        yield _check_file_address(store, url)
    elif url.startswith(("http://", "https://")):
        yield from _check_web_address(store, url.rstrip("/"), ca)
    else:
        yield Check("address", "skipped", f"{printable(url)} is not a web address")


def _check_file_address(store: Path, url: str) -> Check:
    try:
        folder = path_of(url)
        if folder.exists() and folder.samefile(store):
            return Check("address", "ok", printable(url))
    except (IcfError, OSError) as error:
        return Check("address", "failed", f"{printable(url)}: {printable(str(error))}")
    return Check("address", "failed", f"{printable(url)} is not this store", f"correct 'url' in {SETTINGS_NAME}")


class _Reader:
    """Requests as a reader of the store makes them: with the login from netrc, once a server has required one."""

    def __init__(self, client: HttpClient, url: str) -> None:
        self._client, self.url = client, url
        self.credential: Credential | None = None

    def get(self, path: str) -> Response:
        """Request the beginning of a file below the store's address."""
        headers = {"Range": f"bytes=0-{_SAMPLE - 1}"}
        return self._client.request_once("GET", f"{self.url}/{path}", credential=self.credential, headers=headers)


def _check_web_address(store: Path, url: str, ca: Path | None) -> Iterator[Check]:
    if url.startswith("http:") and urlsplit(url).hostname not in _LOCAL:
        yield Check("encryption", "warning", "the address is http://: passwords and images can be read on the way")
    sample = _find_sample(store)
    try:
        with HttpClient(1, _RETRY, tls=TlsFiles(ca) if ca else None) as client:
            reader = _Reader(client, url)
            with reader.get(sample.path if sample else "") as response:
                yield Check("address", "ok", f"{printable(url)} answers (status {response.status})")
                yield from _check_server_clock(response)
            if sample is None:
                yield Check("byte ranges", "skipped", "the store has no archive to request")
            else:
                yield from _check_sample(reader, sample)
            yield _check_hidden(reader, store)
    except IcfError as error:
        yield Check("address", "failed", printable(str(error)))


def _find_sample(store: Path) -> _Sample | None:
    for study in list_studies(store):
        for name in study.visits():
            visit = Visit(store, study.study, name)
            try:
                with visit.archive.open("rb") as file:
                    return _Sample(quote(visit.storepath), visit.archive.stat().st_size, file.read(_SAMPLE))
            except OSError:
                continue
    return None


def _check_server_clock(response: Response) -> Iterator[Check]:
    try:
        stated = parsedate_to_datetime(response.headers.get("Date", "")).timestamp()
    except ValueError:
        return
    yield clock_check("clock (server)", abs(stated - time.time()))


def _check_sample(reader: _Reader, sample: _Sample) -> Iterator[Check]:
    with reader.get(sample.path) as response:
        if response.status != 401:
            yield Check("authentication", "ok", "not required")
            yield _check_ranges(response, sample)
            return
        realm = printable(response.headers.get("WWW-Authenticate", "")[:100])
    reader.credential = bind_credential(reader.url, find_login(reader.url, "", ""))
    if reader.credential is None:
        yield Check("authentication", "ok", f"required ({realm})")
        remedy = "add one, and repeat the command"
        yield Check("byte ranges", "skipped", "~/.netrc has no login for this server", remedy)
        return
    with reader.get(sample.path) as response:
        if response.status == 401:
            yield Check("authentication", "failed", "the server does not accept the login from ~/.netrc")
            return
        yield Check("authentication", "ok", f"required ({realm}); the login from ~/.netrc is accepted")
        yield _check_ranges(response, sample)


def _check_ranges(response: Response, sample: _Sample) -> Check:
    """Whether the answer is the requested part of the sample."""
    if response.status == 200 and response.headers.get("Content-Encoding", "identity") == "identity":
        return Check("byte ranges", "warning", "the server ignores byte ranges and sends whole files", _RANGES_REMEDY)
    problem, remedy = _problem_of(response, sample)
    if problem:
        return Check("byte ranges", "failed", problem, remedy)
    return Check("byte ranges", "ok", f"'{sample.path}' is the same as in the store")


def _problem_of(response: Response, sample: _Sample) -> tuple[str, str]:
    """What is wrong with the answer, and what to do; empty if nothing is."""
    status, name = response.status, sample.path
    if response.headers.get("Content-Encoding", "identity") != "identity":
        return f"'{name}' is sent compressed", "switch compression off for the store"
    if status != 206:
        return f"'{name}' is not served (status {status})", "check the root folder and the rights of the server"
    expected = f"bytes 0-{len(sample.first) - 1}/{sample.size}"
    found = response.headers.get("Content-Range", "")
    if found != expected:
        return f"expected '{expected}' of '{name}', found '{printable(found[:60])}'", "is it the same store?"
    if response.read(_SAMPLE) != sample.first:
        return f"the server's '{name}' is not the one in this store", "check the address"
    return "", ""


def _check_hidden(reader: _Reader, store: Path) -> Check:
    """The administrator's guide wants settings and work folders to be hidden, also from readers with a login."""
    names = [SETTINGS_NAME, *(f"{study.study}/.icf/" for study in list_studies(store)[:1])]
    statuses = {name: _status(reader, name) for name in names if (store / name).exists()}
    served = [f"'{name}'" for name, status in statuses.items() if status in (200, 206, 416)]
    if served:
        remedy = "see 'Serve it' in the administrator's guide"
        return Check("hidden files", "warning", f"readers can open {', '.join(served)}", remedy)
    if 401 in statuses.values():
        return Check("hidden files", "skipped", "without a login, nothing is known about them")
    return Check("hidden files", "ok", "settings and work folders are not served")


def _status(reader: _Reader, path: str) -> int:
    """The status of the response, 0 if there is none."""
    try:
        with reader.get(path) as response:
            return response.status
    except FetchFailure:
        return 0
