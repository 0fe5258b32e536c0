"""Run programs in tests; a failure shows their output."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path


def run(*command: str | bytes, cwd: Path, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> bytes:
    """The standard output of a program that must succeed."""
    done = attempt(*command, cwd=cwd, stdin=stdin, env=env)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]!r} {done.stderr[-2000:]!r}"
    return done.stdout


def attempt(
    *command: str | bytes, cwd: Path, stdin: bytes = b"", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, cwd=cwd, input=stdin, env=env, capture_output=True, check=False, timeout=300)


def branch_files(repository: Path, branch: str) -> dict[bytes, tuple[int, bytes]]:
    """Mode and content of every file of a branch, by path."""
    listing = run("git", "ls-tree", "-r", "-z", branch, cwd=repository).split(b"\0")[:-1]
    entries = [(*line.partition(b"\t")[0].split(), line.partition(b"\t")[2]) for line in listing]
    wanted = b"".join(oid + b"\n" for _, _, oid, _ in entries)
    blobs = run("git", "cat-file", "--batch=%(objectsize)", "--buffer", cwd=repository, stdin=wanted)
    found, at = {}, 0
    for mode, _, _, path in entries:
        end = blobs.index(b"\n", at)
        size = int(blobs[at:end])
        found[path] = (int(mode, 8), blobs[end + 1 : end + 1 + size])
        at = end + size + 2
    return found
