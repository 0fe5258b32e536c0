"""Build the root of an image from a recipe as Apptainer would, without Apptainer: debootstrap, ``%files``, ``%post``.

Needs root, Debian's debootstrap and a mount namespace of its own, with which everything mounted here disappears.
``%post`` uses the network settings of this machine, its apt mirror, and pip's indexes and certificates, by mounts
below ``/mnt`` that are not part of the image. Writes only below the given folder.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from singularity.recipe import Recipe

#: A mount point of Debian images that nothing uses.
LENT = "mnt"

#: The folder of an image in which Apptainer keeps its metadata.
META = ".singularity.d"

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CERTIFICATES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


class CheckFailed(Exception):
    """A promise of the recipe that does not hold."""


def run(*command: str | os.PathLike[str], env: Mapping[str, str] | None = None) -> str:
    """Run a program and return its output. Raises :class:`CheckFailed` if it fails."""
    done = subprocess.run(  # noqa: S603 - no shell
        command, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False, text=True, errors="replace"
    )
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-40:])
        raise CheckFailed(f"{shlex.join(map(str, command))} ended with {done.returncode}:\n{tail}")
    return done.stdout


def mount(*arguments: str | os.PathLike[str]) -> None:
    run("mount", *arguments)


def debian_mirror(release: str) -> str:
    """The mirror from which this machine's apt installs that release of Debian."""
    listed = run("apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(SITE)", "Created-By: Packages")
    for line in listed.splitlines():
        name, component, site = line.split()
        if (name, component) == (release, "main"):
            return site
    raise CheckFailed(f"the apt sources of this machine do not have Debian '{release}', from which the recipe starts")


def base_release(recipe: Recipe) -> str:
    """The release of Debian that the recipe starts from: ``bookworm`` of ``From: debian:bookworm-slim``."""
    image, _, tag = recipe.header.get("from", "").partition(":")
    if recipe.header["bootstrap"] != "docker" or image != "debian" or not tag.endswith("-slim"):
        raise CheckFailed("only recipes that start from Debian's own slim image can be built here")
    return tag.removesuffix("-slim")


def build(recipe: Recipe, root: Path, project: Path, constraints: Path | None = None) -> None:
    """Build the tree of the image below ``root``.

    ``constraints`` replaces the project's ``constraints.txt``, as users do to fix versions.
    """
    unknown = {section.name for section in recipe.sections} & {"setup", "pre", "arguments", "startscript"}
    if unknown:
        raise CheckFailed(f"sections that cannot be built here: {sorted(unknown)}")
    release = base_release(recipe)
    run("debootstrap", "--variant=minbase", release, root, debian_mirror(release), env=_environment())
    copy_files(recipe, root, project)
    if constraints is not None:
        shutil.copyfile(constraints, root / "usr/src/icf-utils/constraints.txt")
    write_meta(recipe, root)
    _post(recipe, root)


def copy_files(recipe: Recipe, root: Path, project: Path) -> None:
    """Copy ``%files`` with the program and the options that Apptainer uses."""
    for copy in recipe.files():
        source, target = project / copy.source, root / copy.target.lstrip("/")
        if not source.exists():
            raise CheckFailed(f"%files: '{copy.source}' does not exist in the project")
        target.parent.mkdir(parents=True, exist_ok=True)
        run("cp", "-fLr", "--", source, target)


def write_meta(recipe: Recipe, root: Path) -> None:
    """Write the sections into the image as Apptainer does."""
    meta = root / META
    (meta / "env").mkdir(parents=True)
    (meta / "env/90-environment.sh").write_text(recipe.script("environment"), encoding="utf-8")
    (meta / "runscript.help").write_text(recipe.script("help"), encoding="utf-8")
    for name in ("runscript", "test"):
        script = meta / name
        script.write_text(f"#!{shlex.join(recipe.shell(name))}\n{recipe.script(name)}", encoding="utf-8")
        script.chmod(0o755)


def _post(recipe: Recipe, root: Path) -> None:
    """Run ``%post`` as Apptainer does (by the shell with ``-ex``), then remove what was mounted for it."""
    script = root / META / "post"
    script.write_text(recipe.script("post"), encoding="utf-8")
    mount("-t", "proc", "proc", root / "proc")
    mount("--rbind", "/dev", root / "dev")
    mount("-t", "tmpfs", "tmpfs", root / LENT)
    lent = lend_network(root)
    labels = f"/{META}/labels"
    env = {**_environment(), **lent, "APPTAINER_LABELS": labels, "HOME": "/root"}
    run("chroot", root, *recipe.shell("post"), "-ex", f"/{META}/post", env=env)
    run("umount", "--recursive", root / LENT)
    for leftover in (script, root / "etc/resolv.conf", root / "etc/hostname"):
        leftover.unlink(missing_ok=True)


def _environment() -> dict[str, str]:
    passed = {name: os.environ[name] for name in _PROXIES if name in os.environ}
    return {"PATH": _SYSTEM_PATH, "LC_ALL": "C.UTF-8", **passed}


def lend_network(root: Path) -> dict[str, str]:
    """Put this machine's pip settings, local indexes and certificates below ``/mnt``.

    Returns the environment variables that refer to them.
    """
    if Path("/etc/resolv.conf").exists():
        shutil.copyfile("/etc/resolv.conf", root / "etc/resolv.conf")
    env = {}
    settings = pip_settings()
    certificates = settings.pop("cert", None) or next(filter(None, map(os.environ.get, _CERTIFICATES)), None)
    if certificates and Path(certificates).is_file():
        shutil.copyfile(certificates, root / LENT / "certificates.pem")
        env.update(dict.fromkeys(_CERTIFICATES, f"/{LENT}/certificates.pem"))
    lines = [f"{key} = {_lend_folders(value, root)}\n" for key, value in settings.items()]
    (root / LENT / "pip.conf").write_text("[global]\n" + "".join(lines), encoding="utf-8")
    return {**env, "PIP_CONFIG_FILE": f"/{LENT}/pip.conf"}


def pip_settings() -> dict[str, str]:
    """Where this machine's pip finds packages, from its configuration files and its environment; the environment
    wins.
    """
    found: dict[str, str] = {}
    listed = run(sys.executable, "-m", "pip", "config", "list", env=dict(os.environ)).splitlines()
    for line in sorted(listed, key=lambda line: line.startswith(":env:")):
        key, _, value = line.partition("=")
        found[key.rpartition(".")[2]] = shlex.split(value)[0] if value else ""
    wanted = ("cert", "index-url", "extra-index-url", "find-links", "trusted-host", "proxy", "timeout")
    return {key: value for key, value in found.items() if key in wanted}


def _lend_folders(value: str, root: Path) -> str:
    """Replace folders of this machine in a setting by their mount points for ``%post``."""
    return " ".join(_lend_folder(word, root) for word in value.split())


def _lend_folder(word: str, root: Path) -> str:
    prefix = "file://" if word.startswith("file:///") else ""
    path = Path(word.removeprefix(prefix))
    if not path.is_absolute() or not path.is_dir():
        return word
    # an index refers to files next to it ("../../files/..."), so its parent is mounted
    shared = path.parent if prefix else path
    name = f"{LENT}/{len(list((root / LENT).iterdir()))}"
    (root / name).mkdir()
    mount("--bind", "-o", "ro", shared, root / name)
    return f"{prefix}/{name}/{path.relative_to(shared)}"


def chroot_as(root: Path, user: int, env: Mapping[str, str], folder: str, command: Sequence[str]) -> list[str]:
    """The command line that runs ``command`` in the image as ``apptainer run`` does, as a user without a name."""
    given = [f"{key}={value}" for key, value in env.items()]
    start = 'cd "$1"; shift; for script in /.singularity.d/env/*.sh; do . "$script"; done; exec "$@"'
    inside = ["/usr/bin/env", "-i", *given, "/bin/sh", "-c", start, "sh", folder, *command]
    return ["chroot", f"--userspec={user}:{user}", "--groups=", str(root), *inside]
