"""Check the container's recipe without Apptainer: run ``python -m singularity.check_recipe`` in the project's root.

Parses ``icf.def``, builds its root with debootstrap, runs ``%post`` in it, and then ``%test`` and ``%runscript`` as
a user without a name or a home, with the tree mounted read-only and without a network. The four stages inside must
give the same bytes as with the Python that runs this check, under another locale and time zone. Needs root,
debootstrap, unshare and ip. Not covered: the download of the base image, the packing into one file, and Apptainer's
own mounts.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from singularity.building import META, CheckFailed, build, chroot_as, mount, run
from singularity.containerfile import entrypoint
from singularity.recipe import Recipe, read_recipe

PROJECT = Path(__file__).resolve().parents[1]
USER = 47110
NEEDED = ("debootstrap", "unshare", "chroot", "mount", "apt-get", "ip")

#: A network of its own, which has nothing but the loopback device.
_OFFLINE = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]

_STORE_URL = "https://data.example.org"
_INSIDE = {"LC_ALL": "POSIX", "LANG": "de_DE.ISO-8859-1", "TZ": "Pacific/Auckland", "PYTHONPATH": "/nowhere"}
_OUTSIDE = {"LC_ALL": "C.UTF-8", "TZ": "America/St_Johns"}


def main(arguments: list[str]) -> int:
    """Check in a temporary folder, in a process of its own whose mounts disappear with it."""
    args = _parser().parse_args(arguments)
    missing = missing_requirements()
    if missing:
        print(f"this check requires {', '.join(missing)}", file=sys.stderr)  # noqa: T201
        return 7
    if args.inside:
        return _inside(args.recipe, Path(args.inside), args.visit)
    folder = tempfile.mkdtemp(prefix="icf-recipe-")
    alone = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
    again = [sys.executable, "-m", "singularity.check_recipe", *arguments, "--inside", folder]
    try:
        return subprocess.run([*alone, *again], cwd=PROJECT, check=False).returncode  # noqa: S603 - no shell
    finally:  # in this namespace, nothing is mounted below the folder
        shutil.rmtree(folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m singularity.check_recipe", description=__doc__)
    parser.add_argument("recipe", nargs="?", type=Path, default=PROJECT / "singularity/icf.def")
    parser.add_argument("--visit", type=Path, help="a folder of DICOM files (default: an image from pydicom)")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    return parser


def missing_requirements() -> list[str]:
    """The requirements of the check that this machine does not meet."""
    missing = [program for program in NEEDED if not shutil.which(program)]
    return missing + (["to be root"] if os.geteuid() else [])


def _inside(recipe_path: Path, folder: Path, visit: Path | None) -> int:
    try:
        for verified in check(read_recipe(recipe_path), folder, visit):
            print(f"{time.strftime('%H:%M:%S')} ok: {verified}", flush=True)  # noqa: T201
    except CheckFailed as failure:
        print(f"FAILED: {failure}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def check(recipe: Recipe, folder: Path, visit: Path | None) -> Iterator[str]:
    """Build the image and try everything; yields what was verified. Raises
    :class:`~singularity.building.CheckFailed`.
    """
    folder.chmod(0o755)
    root, data = folder / "root", folder / "data"
    constraints = folder / "constraints.txt"
    constraints.write_text(_own_versions(), encoding="utf-8")
    build(recipe, root, PROJECT, constraints)
    yield "%files and %post built the root"
    yield from _check_contents(root)
    image = Image(root, data)
    yield from image.check_surrounding()
    yield image.check_test()
    yield from image.check_runscript()
    _prepare_visit(visit, data / "visit")
    yield check_same_bytes(image, data, folder / "outside")
    yield image.check_clone()
    yield image.check_containerfile(recipe)
    yield from image.check_extras()


def _own_versions() -> str:
    """The packages of this Python: with the same versions inside, any difference comes from the container."""
    frozen = run(sys.executable, "-m", "pip", "freeze", "--exclude-editable", env=dict(os.environ)).splitlines()
    return "".join(f"{line}\n" for line in frozen if "==" in line and "icf-utils" not in line and line[0] != "#")


def _check_contents(root: Path) -> Iterator[str]:
    facts = root / "usr/share/icf-utils"
    for name in ("python-packages.txt", "debian-packages.txt", "version", "commands", "LICENSE"):
        if not (facts / name).stat().st_size:
            raise CheckFailed(f"/usr/share/icf-utils/{name} is empty")
    pinned = (facts / "python-packages.txt").read_text(encoding="utf-8").splitlines()
    loose = [line for line in pinned if "==" not in line]
    if loose or not any(line.startswith("datalad==") for line in pinned):
        raise CheckFailed(f"python-packages.txt does not pin everything: {loose}")
    yield f"{len(pinned)} Python packages are listed with their versions"
    version = (facts / "version").read_text(encoding="utf-8").split()[-1]
    if version not in (root / META / "labels").read_text(encoding="utf-8"):
        raise CheckFailed("the version is not among the labels")
    lent = [path for path in root.glob("**/pip.conf") if path.is_file()] + list((root / "mnt").iterdir())
    lent += [path for path in (root / "usr/src/icf-utils", root / "root/.cache") if path.exists()]
    if lent:
        raise CheckFailed(f"traces of the building machine in the image: {lent}")
    yield "the image has no traces of the building machine"


class Image:
    """The built tree, mounted as in a running container: read-only except for ``/tmp`` and ``/data``."""

    def __init__(self, root: Path, data: Path) -> None:
        self._root, self._data = root, data
        (data / "scratch").mkdir(parents=True)
        for path in (data, data / "scratch"):
            os.chown(path, USER, USER)
        mount("--bind", root, root)
        mount("-o", "remount,bind,ro", root)
        mount("-t", "proc", "proc", root / "proc")
        mount("--rbind", "/dev", root / "dev")
        mount("--bind", data, root / "data")

    def attempt(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run the image's runscript with arguments, without HOME."""
        return self._start([f"/{META}/runscript", *command], {**_INSIDE, **env})

    def output(self, *command: str, **env: str) -> str:
        """Run the image's runscript like :meth:`attempt`; raises :class:`CheckFailed` if the command fails."""
        done = self.attempt(*command, **env)
        if done.returncode:
            raise CheckFailed(f"{command} ended with {done.returncode} in the image:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def _start(self, command: list[str], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        # /tmp is read-only as well, so only programs that honour TMPDIR work
        given = {"TMPDIR": "/data/scratch", **env}
        return subprocess.run(  # noqa: S603 - no shell
            [*_OFFLINE, *chroot_as(self._root, USER, given, "/data", command)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            encoding="utf-8",
            errors="replace",
        )

    def check_surrounding(self) -> Iterator[str]:
        for place in ("/", "/tmp", "/usr/share/icf-utils", "/opt/icf-utils"):  # noqa: S108 - of the image
            if self.attempt("touch", f"{place}/x").returncode == 0:
                raise CheckFailed(f"{place} can be written to")
        if self.output("id", "-u").strip() != str(USER):
            raise CheckFailed("the command runs as another user")
        yield "the tree is read-only, the user has no name and no home"
        text = self.output("python", "-c", "import locale, sys; print(locale.getpreferredencoding(), 'Größe')")
        if text.split() != ["UTF-8", "Größe"]:
            raise CheckFailed(f"text is not in UTF-8: {text}")
        yield "text is in UTF-8, whatever the locale outside"

    def check_test(self) -> str:
        done = self._start([f"/{META}/test"], _INSIDE)
        if done.returncode:
            raise CheckFailed(f"%test ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        if [name for name in os.listdir(self._data / "scratch") if not name.startswith("icf-utils-home-")]:
            raise CheckFailed("%test leaves files in TMPDIR")
        return "%test: " + ", ".join(done.stdout.split("\n")[:3])

    def check_runscript(self) -> Iterator[str]:
        if not self.output().startswith("usage: icf-utils"):
            raise CheckFailed("without arguments, the runscript does not print the help")
        if not self.output("--version").startswith("icf-utils "):
            raise CheckFailed("an option is not passed to icf-utils")
        for command in (["verify", "--help"], ["make_studyvisit_archive", "--help"], ["icf-utils", "verify", "--help"]):
            if "usage: icf-utils" not in self.output(*command):
                raise CheckFailed(f"{command} does not reach icf-utils")
        if self.attempt("sh", "-c", "exit 23").returncode != 23:
            raise CheckFailed("the exit code of a program is lost")
        if self.output("printf", "%s|", "a b", "", "*") != "a b||*|":
            raise CheckFailed("arguments are changed")
        yield "the runscript passes subcommands and options to icf-utils and executes other programs"
        if "git-annex" not in self.output("datalad", "wtf"):
            raise CheckFailed("'datalad wtf' does not find git-annex")
        yield "'datalad wtf' works"

    def check_clone(self) -> str:
        """Get one image like a user who has nothing but the container."""
        user = {f"GIT_{who}_{what}": "x@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        identity = ["--id", "clone", "visit"]
        for command in _stages(identity, "store2", "visit", "file:///data/store2"):
            self.output(*command)
        url = "datalad-annex::?type=external&externaltype=uncurl&encryption=none&url=file:///data/store2/clone/visit_"
        self.output("datalad", "clone", url + "{{annex_key}}", "clone", **user)
        name = self.output("git", "-C", "clone", "ls-files", "-z", "clone_visit").split("\0")[0]
        self.output("datalad", "get", "--dataset", "clone", f"clone/{name}", **user)
        self.output("sh", "-c", 'test -s "$1"', "sh", f"clone/{name}")
        return "datalad clones a visit and gets an image"

    def check_containerfile(self, recipe: Recipe) -> str:
        """Start programs as an image of the ``Containerfile`` does, which has the same tree and no Apptainer."""
        (self._data / "entrypoint").write_text(entrypoint(recipe), encoding="utf-8")
        given = [f"{key}={value}" for key, value in {"TMPDIR": "/data/scratch", **_INSIDE}.items()]
        command = ["chroot", f"--userspec={USER}:{USER}", "--groups=", str(self._root), "/usr/bin/env", "-i", *given]
        said = run(*command, "/bin/sh", "/data/entrypoint", "verify", "-q", "-o", "/data/store")
        if said:
            raise CheckFailed(f"the entrypoint of the Containerfile does not verify the store: {said}")
        return "the entrypoint of the Containerfile starts the same programs"

    def check_extras(self) -> Iterator[str]:
        """Use what the extras bring, and the programs that the examples of the guides use."""
        self.output("icf-utils", "catalog", "build", "/data/store2/clone", "--previews")
        if not list((self._data / "store2/clone/catalog").rglob("*.png")):
            raise CheckFailed("the catalog has no previews")
        yield "previews are made"
        self.output("icf-utils", "retrieve", "-o", "/data/store2", "-d", "/data/out", "clone/visit")
        yield "a visit is retrieved as plain files"
        said = self.output("sh", "-c", _RECEIVE_AND_SEND)
        if "success" not in said:
            raise CheckFailed(f"a visit that storescu and icf-utils send does not arrive:\n{said}")
        yield "storescu and icf-utils send to a receiver, which archives the visit"
        said = self.output("sh", "-c", _PROCESS)
        if "1 visit: 1 processed" not in said or "everything is correct" not in said:
            raise CheckFailed(f"a visit is not processed:\n{said}")
        yield "process runs dcm2niix on a visit, and its output is verified"
        self.output("python", "-c", "import obstore, psycopg, numpy, pylibjpeg")
        yield "dcm2niix and the packages of all extras can be used"


#: A program of the image on a visit, with what a machine without user namespaces can isolate.
_PROCESS = """
set -eu
cat >> /data/store2/icf.toml <<TOML
[[processing]]
name = "nifti"
version = "1"
command = ["dcm2niix", "-b", "y", "-ba", "y", "-o", "{output}", "{input}"]
TOML
icf-utils process nifti -o /data/store2 clone/visit
icf-utils verify -o /data/store2
tar -tf /data/store2/clone/visit_nifti_output.tar | grep -q "[.]nii"
"""

#: A receiver, an image by dcmtk and a visit by icf-utils, and the receiver's own word about them. Loopback only.
_RECEIVE_AND_SEND = """
set -eu
mkdir /data/spool /data/received
cat > /data/receiver.toml <<TOML
store = "/data/received"
spool = "/data/spool"
[listen]
port = 11199
[[rule]]
called_ae = "TRIAL"
study = "trial"
quiet = 1
TOML
icf-utils init /data/received --url file:///data/received
icf-utils receive --check /data/receiver.toml
icf-utils receive /data/receiver.toml > /data/receive.log 2>&1 &
receiver=$!
trap 'kill $receiver' EXIT
until echoscu -aec TRIAL 127.0.0.1 11199 2> /dev/null; do kill -0 $receiver; sleep 0.2; done
storescu -aec TRIAL 127.0.0.1 11199 "$(find /data/out -type f -name '*.dcm' | head -n 1)"
icf-utils send /data/out 127.0.0.1 11199 --aec TRIAL --quiet
icf-utils sessions --settings /data/receiver.toml --wait --timeout 120
"""


def _stages(identity: list[str], store: str, visit: str, url: str) -> Iterator[list[str]]:
    """The commands of the four stages for one visit."""
    common = ["--quiet", "-o", store, *identity]
    yield ["init", "--quiet", store, "--url", url]
    yield ["make_studyvisit_archive", *common, visit]
    yield ["deposit_visit_metadata", *common]
    yield ["deposit_visit_dataset", *common]
    yield ["catalogify_studyvisit_from_meta", *common]


def _prepare_visit(visit: Path | None, target: Path) -> None:
    if visit is not None:
        shutil.copytree(visit, target)
        return
    from pydicom.data import get_testdata_file

    target.mkdir()
    shutil.copyfile(str(get_testdata_file("CT_small.dcm", read=False)), target / "Schädel.dcm")


def check_same_bytes(image: Image, data: Path, outside: Path) -> str:
    """Run the four stages in the image and with this Python; the two stores must be the same."""
    identity = ["--id", "study", "visit"]
    for command in _stages(identity, "store", "visit", _STORE_URL):
        image.output(*command)
    for command in _stages(identity, str(outside), str(data / "visit"), _STORE_URL):
        env = {**os.environ, **_OUTSIDE}
        run(sys.executable, "-m", "icf_utils.cli.main", *command, env=env)
    compared = different_files(data / "store", outside)
    if compared:
        raise CheckFailed(f"inside and outside differ: {', '.join(map(str, compared[:10]))}")
    count = sum(path.is_file() for path in outside.rglob("*"))
    return f"the four stages give the same {count} files inside and outside, under another locale and time zone"


def different_files(one: Path, other: Path) -> list[Path]:
    """Files that differ between two trees, or are only in one of them, except those below ``.icf``."""
    names = {path.relative_to(tree) for tree in (one, other) for path in tree.rglob("*") if path.is_file()}
    names = {name for name in names if ".icf" not in name.parts}
    return sorted(name for name in names if not _same(one / name, other / name))


def _same(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
