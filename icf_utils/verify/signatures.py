"""Signatures of a visit's SHA-256 sums: made and checked by OpenSSH's ``ssh-keygen -Y``. Runs it, and writes
nothing.

``<visit>_SHA256SUMS.sig`` is an SSH signature (PROTOCOL.sshsig of OpenSSH) of the bytes of ``<visit>_SHA256SUMS``, in
the namespace ``icf-utils``, and below it a line ``Date: YYYY-MM-DD``, which ``ssh-keygen`` ignores. A signers file
(ssh-keygen(1), ALLOWED SIGNERS) says who may sign, and from when to when with which key: a key must have been valid on
the signature's date. The signer chooses this date: anyone who has the private key can write any.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date as calendar_date
from datetime import datetime, timezone
from pathlib import Path

from icf_utils.child_environment import ssh_environment
from icf_utils.errors import IcfError, InvalidSetting, MissingRequirement, printable, storage_errors
from icf_utils.store.layout import Visit, find_deposit
from icf_utils.verify.checks import Finding, finding_from_error

#: What a signature is for: one that was made for something else is not accepted.
NAMESPACE = "icf-utils"

_REMEDY = "install OpenSSH 8.9 or later (package openssh-client)"
_DATE = re.compile(rb"^Date: (\d{4}-\d\d-\d\d)$", re.MULTILINE)
_WITHOUT_SUMS = "cannot be checked: the visit has no SHA-256 sums"
_UNSIGNED = "is not signed"
_OTHER_CONTENT = "is not a signature of '{}' as it is now, or its key is not allowed to sign"

#: Longest signature file that is read (bytes); one by an RSA key of 16384 bits has about 6 kB.
_LONGEST = 1 << 16


def check_signature(place: Visit, sums: bytes | None, signers: Path) -> tuple[str, Finding | None]:
    """Check that somebody whom the file ``signers`` names has signed a visit's list; returns who, or what is wrong.

    ``sums`` are the bytes with which the visit's files were compared, ``None`` without a list. Raises
    :class:`~icf_utils.errors.MissingRequirement`.
    """
    try:
        signature = find_deposit(place.signature)
    except IcfError as error:
        return "", finding_from_error(place.signature, error)
    if sums is None:
        return "", Finding(place.sums, "", _WITHOUT_SUMS)
    if signature is None:
        return "", Finding(place.sums, "", _UNSIGNED)
    if len(signature) > _LONGEST:
        return "", Finding(place.signature, "", "is not a signature: it is too long")
    signer, date = find_signer(sums, signature, signers)
    if signer:
        return signer, None
    words = _OTHER_CONTENT.format(place.sums.name)
    return "", Finding(place.signature, "", f"{words} (on {date})")


def find_signer(sums: bytes, signature: bytes, signers: Path) -> tuple[str, str]:
    """Who of the file ``signers`` has signed a list, empty if nobody, and the date for which the key must be valid.

    Nobody has signed on a day that no calendar has, such as February 30.

    Raises :class:`~icf_utils.errors.MissingRequirement`.
    """
    dated = _DATE.search(signature)
    date = dated[1].decode("ascii") if dated else datetime.now(tz=timezone.utc).date().isoformat()
    try:
        calendar_date.fromisoformat(date)
    except ValueError:
        return "", date
    time = f"-Overify-time={date.replace('-', '')}120000"
    with _temporary(signature) as file:
        named = _run(["find-principals", "-s", file, "-f", str(signers), time])
        for signer in named.stdout.decode("utf-8", "replace").splitlines() if not named.returncode else ():
            arguments = ["verify", "-f", str(signers), "-I", signer, "-n", NAMESPACE, "-s", file, time]
            if not _run(arguments, sums).returncode:
                return printable(signer), date
    return "", date


def check_signers_file(path: Path) -> Path:
    """Check that a signers file can be read and names a key. Raises :class:`~icf_utils.errors.InvalidSetting`."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise InvalidSetting("--signers", f"'{printable(path)}' cannot be read: {error.strerror}") from error
    if not any(len(line.split()) >= 3 for line in lines if not line.lstrip().startswith("#")):
        form = "lines 'NAME [OPTIONS] KEYTYPE KEY', see ALLOWED SIGNERS in ssh-keygen(1)"
        raise InvalidSetting("--signers", f"'{printable(path)}' names no key; expected {form}")
    return path


def is_list_signed(place: Visit, sums: bytes) -> bool | None:
    """Whether a visit's signature, by whatever key, is of this list; ``None`` if ``ssh-keygen`` is not installed.

    A signature that is intact shows that the list is.
    """
    try:
        signature = find_deposit(place.signature)
        return bool(signature) and len(signature or b"") <= _LONGEST and is_signature_of(sums, signature or b"")
    except MissingRequirement:
        return None
    except IcfError:
        return False


def is_signature_of(sums: bytes, signature: bytes) -> bool:
    """Whether a signature, by whatever key, is of this list."""
    with _temporary(signature) as file:
        return not _run(["check-novalidate", "-n", NAMESPACE, "-s", file], sums).returncode


def make_signature(sums: bytes, key: Path, date: str) -> bytes:
    """Sign a list with a private key, or a public one whose private key an agent has.

    Raises :class:`~icf_utils.errors.InvalidSetting` if the key cannot be used.
    """
    done = _run(["sign", "-f", str(key), "-n", NAMESPACE], sums)
    if done.returncode or not done.stdout.startswith(b"-----BEGIN SSH SIGNATURE-----"):
        said = printable(done.stderr.decode("utf-8", "replace").strip().replace("\n", "; "))
        raise InvalidSetting("--key", f"'{printable(key)}' cannot sign: {said}")
    return done.stdout + f"Date: {date}\n".encode("ascii")


def _run(arguments: Sequence[str], data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise MissingRequirement("ssh-keygen", _REMEDY)
    command = [program, "-Y", *arguments]
    return subprocess.run(command, input=data, env=ssh_environment(), capture_output=True, check=False)  # noqa: S603


@contextmanager
def _temporary(data: bytes) -> Iterator[str]:
    """Make a temporary file with a signature, which ``ssh-keygen`` reads by name."""
    with (
        storage_errors(tempfile.gettempdir(), "use the temporary folder"),
        tempfile.NamedTemporaryFile(prefix="icf-utils-", suffix=".sig") as file,
    ):
        file.write(data)
        file.flush()
        yield file.name
