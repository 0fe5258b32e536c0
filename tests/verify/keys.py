"""Keys of signers, made by ``ssh-keygen``."""

from __future__ import annotations

import subprocess
from pathlib import Path


def make_key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)], check=True)
    return path


def signers(path: Path, *lines: tuple[str, str, Path]) -> Path:
    """A signers file: name, options, and private key of each line."""
    texts = []
    for name, options, key in lines:
        more = "".join(f",{option}" for option in options.split(",") if option)
        texts.append(f'{name} namespaces="icf-utils"{more} {key.with_suffix(".pub").read_text()}')
    path.write_text("".join(texts))
    return path
