"""The administrator's guide is true: its commands print what it says, and its servers' settings do what it promises."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pytest
import requests

from icf_utils import deposit_visit_dataset, deposit_visit_metadata, make_studyvisit_archive
from icf_utils.catalog.index_page import build_index
from icf_utils.catalog.stage import catalogify_studyvisit_from_meta
from icf_utils.store.layout import Visit
from tests.pages import DOCS, Shell, blocks, free_port, reader_environment, steps, wait_for_port, write_example

SERVERS = {"nginx.conf": "nginx", "apache.conf": "apache2"}
OPEN_SERVERS = {"nginx-open-catalog.conf": "nginx", "apache-open-catalog.conf": "apache2"}
ALL_SERVERS = {**SERVERS, **OPEN_SERVERS}
HOST = "127.0.0.1"
USER, PASSWORD = "alice", "correct-horse"

_NGINX = """daemon off;
user root;
pid {scratch}/pid;
error_log {scratch}/error.log;
events {{}}
http {{
    include /etc/nginx/mime.types;
    access_log off;
    client_body_temp_path {scratch}/t1;
    proxy_temp_path {scratch}/t2;
    fastcgi_temp_path {scratch}/t3;
    uwsgi_temp_path {scratch}/t4;
    scgi_temp_path {scratch}/t5;
{site}
}}
"""
_MODULES = (
    *("mpm_event", "authn_core", "authn_file", "authz_core", "authz_user", "auth_basic", "alias", "env", "headers"),
    *("macro", "ssl", "mime", "dir", "setenvif", "filter", "deflate"),
)
_APACHE = """ServerRoot {scratch}
ServerName localhost
PidFile {scratch}/pid
ErrorLog {scratch}/error.log
Mutex file:{scratch}
TypesConfig /etc/mime.types
Listen 127.0.0.1:{port}
{modules}
{site}
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    return reader_environment(tmp_path_factory.mktemp("administrator"))


@pytest.fixture
def served_store(tmp_path: Path) -> Path:
    """A store with two studies of the tutorial's visit, and what must not be seen."""
    write_example(tmp_path)
    store = tmp_path / "store"
    for study in ("study-a", "study-b"):
        make_studyvisit_archive(tmp_path / "export", store, study, "visit-01")
        (store / study / "listed.html").write_text("<p>a page</p>")
    (store / "icf.toml").write_text('[store]\nid = "x"\n')
    (store / "study-a" / ".icf").mkdir(exist_ok=True)
    (store / "study-a" / ".icf" / "journal").write_text("x")
    return store


@contextmanager
def serving(example: str, store: Path, scratch: Path) -> Iterator[str]:
    """Run the page's server with its own settings, on loopback and with files of this test; gives its address."""
    port = free_port()
    scratch.mkdir()
    certificate(scratch)
    for study in ("study-a", "study-b"):
        user = USER if study == "study-a" else "bob"
        subprocess.run(["htpasswd", "-b", "-B", "-c", scratch / study, user, PASSWORD], check=True, capture_output=True)
    site = (DOCS / "examples" / example).read_text(encoding="utf-8")
    for there, here in {
        "listen 443 ssl": f"listen {HOST}:{port} ssl",
        "*:443": f"{HOST}:{port}",
        "/etc/ssl/certs/data.example.org.pem": f"{scratch}/cert.pem",
        "/etc/ssl/private/data.example.org.key": f"{scratch}/key.pem",
        "/srv/icf": str(store),
        "/etc/icf/htpasswd": str(scratch),
    }.items():
        site = site.replace(there, here)
    modules = "\n".join(f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in _MODULES)
    program = ALL_SERVERS[example]
    whole = _NGINX if program == "nginx" else _APACHE
    path = scratch / example
    path.write_text(whole.format(scratch=scratch, site=site, port=port, modules=modules), encoding="utf-8")
    commands: dict[str, list[str | Path]] = {
        "nginx": ["nginx", "-p", scratch, "-c", path, "-e", scratch / "start.log"],
        "apache2": ["apache2", "-f", path, "-DFOREGROUND"],
    }
    server = subprocess.Popen(commands[program], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port)
        yield f"https://{HOST}:{port}"
    finally:
        server.terminate()
        server.wait(timeout=20)


def certificate(folder: Path) -> None:
    """A certificate for the loopback address that signs itself."""
    names = ["-subj", "/CN=test", "-addext", f"subjectAltName=IP:{HOST}"]
    files = ["-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, *files]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.parametrize("example", list(SERVERS))
def test_the_servers_do_what_the_guide_promises(example: str, served_store: Path, tmp_path: Path) -> None:
    for program in (SERVERS[example], "htpasswd", "openssl"):
        if not shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin"):
            pytest.skip(f"{program} is not installed")
    with serving(example, served_store, tmp_path / "server") as url, requests.Session() as session:
        session.verify, session.trust_env = str(tmp_path / "server" / "cert.pem"), False
        tar, mine = f"{url}/study-a/visit-01_dicom.tar", (USER, PASSWORD)
        asked = session.get(tar)
        assert asked.status_code == 401
        assert asked.headers["WWW-Authenticate"].startswith('Basic realm="icf study-a"')
        assert session.get(tar, auth=(USER, "wrong")).status_code == 401
        # one study's password opens no other study
        assert session.get(tar.replace("study-a", "study-b"), auth=mine).status_code == 401
        part = session.get(tar, auth=mine, headers={"Range": "bytes=512-521"})
        whole = (served_store / "study-a" / "visit-01_dicom.tar").read_bytes()
        assert (part.status_code, part.content) == (206, whole[512:522])
        assert part.headers["Content-Range"] == f"bytes 512-521/{len(whole)}"
        page = session.get(f"{url}/study-a/listed.html", auth=mine, headers={"Accept-Encoding": "gzip"})
        assert "Content-Encoding" not in page.headers
        assert (page.headers["Cache-Control"], page.headers["X-Content-Type-Options"]) == ("no-cache", "nosniff")
        for hidden in ("icf.toml", "study-a/.icf/journal", "study-a/.icf/"):
            assert session.get(f"{url}/{hidden}", auth=mine).status_code == 404, hidden
        for nothing in ("study-a/", "", "study-c/visit-01_dicom.tar"):
            assert session.get(f"{url}/{nothing}", auth=mine).status_code in {401, 403, 404}, nothing
        assert session.put(tar, auth=mine, data=b"x").status_code in {401, 403, 405}
        assert (served_store / "study-a" / "visit-01_dicom.tar").read_bytes() == whole


@pytest.mark.parametrize("example", list(ALL_SERVERS))
def test_the_servers_show_catalogs(example: str, served_store: Path, tmp_path: Path) -> None:
    """The page of all studies for everybody; catalogs for readers of their study, or for everybody; data never."""
    for program in (ALL_SERVERS[example], "htpasswd", "openssl"):
        if not shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin"):
            pytest.skip(f"{program} is not installed")
    deposit_visit_metadata(served_store, "study-a", "visit-01")
    catalogify_studyvisit_from_meta(served_store, "study-a", "visit-01", store_url="https://data.example.org")
    build_index(served_store)
    mine = (USER, PASSWORD)
    with serving(example, served_store, tmp_path / "server") as url, requests.Session() as session:
        session.verify, session.trust_env = str(tmp_path / "server" / "cert.pem"), False
        for name in ("", "index.html", "index.css", "index.js", "index-icon.svg"):
            page = session.get(f"{url}/{name}")
            assert (page.status_code, page.headers["Content-Security-Policy"]) == (200, "default-src 'self'"), name
        assert session.post(f"{url}/index.html").status_code in {401, 403, 405}
        records = f"{url}/study-a/catalog/data/study.json"
        for address in (f"{url}/study-a/catalog/", records):
            assert session.get(address).status_code == (200 if example in OPEN_SERVERS else 401), address
        assert session.post(records, auth=mine).status_code in {401, 403, 405}
        mine_for_catalog = None if example in OPEN_SERVERS else mine
        found = session.get(records, auth=mine_for_catalog)
        assert found.headers["Content-Encoding"] == "gzip"
        assert found.json()["study"] == "study-a"
        again = {"If-None-Match": found.headers["ETag"], "If-Modified-Since": found.headers["Last-Modified"]}
        assert session.get(records, auth=mine_for_catalog, headers=again).status_code == 304
        style = session.get(f"{url}/study-a/catalog/assets/icf.css", auth=mine_for_catalog)
        assert (style.headers["Content-Encoding"], style.headers["Cache-Control"]) == ("gzip", "no-cache")
        first = session.get(f"{url}/study-a/catalog/", auth=mine_for_catalog)
        assert "Content-Encoding" not in first.headers
        for data in ("visit-01_dicom.tar", "visit-01_metadata_dicoms.json", "visits.json"):
            assert session.get(f"{url}/study-a/{data}").status_code == 401, data
        tar = session.get(f"{url}/study-a/visit-01_dicom.tar", auth=mine)
        assert "Content-Encoding" not in tar.headers
        assert tar.content == (served_store / "study-a" / "visit-01_dicom.tar").read_bytes()
        (served_store / "study-a" / "icf.toml").write_text("[study]\n")
        for hidden in ("study-a/catalog/.icf-catalog", "study-a/icf.toml"):
            assert session.get(f"{url}/{hidden}", auth=mine).status_code == 404, hidden


@pytest.mark.parametrize("example", list(SERVERS))
def test_the_shell_blocks_of_the_guide_run(example: str, served_store: Path, tmp_path: Path) -> None:
    """Users are made, and answers looked at, by the lines of the page; passwords are typed at their prompts."""
    for program in (SERVERS[example], "htpasswd", "openssl", "curl"):
        if not shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin"):
            pytest.skip(f"{program} is not installed")
    users, doctor, requests_, weekly = blocks("administer.md", "sh")
    with serving(example, served_store, tmp_path / "server") as url:
        (tmp_path / "server" / "study-a").unlink()
        in_terminal(users.replace("/etc/icf/htpasswd", str(tmp_path / "server")), {})
        trusted = {"CURL_CA_BUNDLE": str(tmp_path / "server" / "cert.pem")}
        printed = in_terminal(requests_.replace("https://data.example.org", url), trusted)
        (served_store / "icf.toml").write_text(f'[store]\nurl = "{url}"\n', encoding="utf-8")
        (tmp_path / "netrc").write_text(f"machine {HOST} login {USER} password {PASSWORD}\n", encoding="utf-8")
        (tmp_path / "netrc").chmod(0o600)
        here = doctor.replace("/srv/icf", f"{served_store} --ca {trusted['CURL_CA_BUNDLE']}")
        checked = in_terminal(here, {"NETRC": f"{tmp_path}/netrc"})
    states = {line[9:].partition(":")[0]: line.split()[0] for line in checked}
    for subject in ("address", "authentication", "byte ranges", "hidden files", "clock (server)"):
        assert states[subject] == "ok", checked
    assert [line for line in printed if line[0].isdigit()] == ["206 10", "404", "401"]
    (served_store / "study-a" / ".icf" / "journal").unlink()
    assert in_terminal(weekly.replace("/srv/icf", str(served_store)), {}) == []


def in_terminal(script: str, environment: Mapping[str, str]) -> list[str]:
    """Run a script where somebody types the password whenever it is asked for; gives the lines that it prints."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    child = pexpect.spawn(
        "sh", ["-ec", script], env={**os.environ, **environment, "PATH": path}, encoding="utf-8", timeout=60
    )
    printed = ""
    while child.expect(["(?i)password[^\r\n]*: ?", pexpect.EOF]) == 0:
        printed += child.before or ""
        child.sendline(PASSWORD)
    printed += child.before or ""
    child.close()
    assert child.exitstatus == 0, printed
    return [line for line in printed.splitlines() if line.strip()]


def legacy_store(folder: Path) -> None:
    """A store as the earlier tools left it: records without places, an LZMA export, a catalog of another making."""
    make_studyvisit_archive(folder / "export", folder / "legacy", "study-a", "visit-01")
    deposit_visit_metadata(folder / "legacy", "study-a", "visit-01")
    deposit_visit_dataset(folder / "legacy", "study-a", "visit-01", store_url="https://data.example.org")
    place = Visit(folder / "legacy", "study-a", "visit-01")
    shutil.rmtree(place.archive.parent / ".icf", ignore_errors=True)
    place.sums.unlink()
    records = json.loads(place.dicoms_json.read_text())
    added = {"offset", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"}
    old = [{key: value for key, value in record.items() if key not in added} for record in records]
    place.dicoms_json.write_text(json.dumps(old))
    export = next(place.archive.parent.glob("*repo-export"))
    with zipfile.ZipFile(export) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(export, "w", zipfile.ZIP_LZMA) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    (place.archive.parent / "catalog").mkdir()
    (place.archive.parent / "catalog" / "index.html").write_text("<p>of the earlier tools</p>")


def test_the_administrators_guide_prints_what_it_says(tmp_path: Path, environment: Mapping[str, str]) -> None:
    write_example(tmp_path)
    legacy_store(tmp_path)
    (tmp_path / "compare.py").write_text(blocks("administer.md", "python")[0], encoding="utf-8")
    shell = Shell(tmp_path, environment)
    for step in steps("tutorial.md"):  # the guide goes on from the tutorial's store
        if step.command.startswith(("mkdir", "printf", "icf-utils")):
            shell.run(step)
        if step.command.startswith("icf-utils catalogify"):
            break
    for step in steps("administer.md"):
        shell.run(step)
