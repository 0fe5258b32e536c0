#!/usr/bin/env python3
"""A stand-in for ``apptainer``: accepts the documented options of exec and run alone, and isolates by bubblewrap.

Options and their meaning are those of Apptainer's user guide (``apptainer exec --help``): unknown ones are refused, as
are options that do not go together. The "image" is a text file with the words of its runscript; inside of it are the
folders of this system, read-only, and nothing else of it.
"""

import argparse
import os
import sys


def main() -> None:
    parser = argparse.ArgumentParser(prog="apptainer", allow_abbrev=False)
    parser.add_argument("action", choices=["exec", "run"])
    parser.add_argument("--containall", "-C", action="store_true")
    parser.add_argument("--no-home", action="store_true")
    parser.add_argument("--net", "-n", action="store_true")
    parser.add_argument("--network", default="")
    parser.add_argument("--bind", "-B", action="append", default=[])
    parser.add_argument("--workdir", "-W", default="")
    parser.add_argument("--pwd", default="")
    parser.add_argument("image")
    parser.add_argument("words", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if given.network and not given.net:
        sys.exit("FATAL: --network requires --net")
    if not given.containall:
        sys.exit("FATAL: the stand-in isolates only with --containall")
    with open(given.image, encoding="utf-8") as image:
        runscript = image.read().split()
    words = given.words if given.action == "exec" else [*runscript, *given.words]
    if not words:
        sys.exit("FATAL: exec needs a command")
    call = ["bwrap", "--unshare-all", "--die-with-parent", "--clearenv", "--proc", "/proc", "--dev", "/dev"]
    call += [] if given.network == "none" else ["--share-net"]
    call += ["--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib"]
    call += ["--symlink", "usr/lib64", "/lib64", "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    os.makedirs(os.path.join(given.workdir, "tmp"), exist_ok=True)
    call += ["--bind", os.path.join(given.workdir, "tmp"), "/tmp", "--dir", "/root"]
    for bind in given.bind:
        source, inside, *mode = bind.split(":")
        if mode not in ([], ["ro"], ["rw"]):
            sys.exit(f"FATAL: {bind} is not src[:dest[:opts]]")
        call += ["--ro-bind" if mode == ["ro"] else "--bind", source, inside]
    variables = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/root", "LANG": "C"}
    for name, value in os.environ.items():
        if name.startswith("APPTAINERENV_"):
            if name == "APPTAINERENV_HOME":
                sys.exit("FATAL: overriding HOME with APPTAINERENV_HOME is not permitted")
            variables[name.removeprefix("APPTAINERENV_")] = value
    for name, value in variables.items():
        call += ["--setenv", name, value]
    os.execvp("bwrap", [*call, "--chdir", given.pwd or "/", "--", *words])


main()
