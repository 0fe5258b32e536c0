"""What can be seen of a receiver's settings on this machine before anything is received.

Reads certificates, and takes the address for a moment.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl

from icf_utils.errors import InvalidSetting, shown
from icf_utils.intake.settings import Listen, ReceiverSettings


def check_machine(settings: ReceiverSettings) -> None:
    """Refuse TLS files that cannot be used, and an address that nobody could listen at.

    An address that is in use is none of the settings' faults: a receiver may run by them. Raises
    :class:`~icf_utils.errors.InvalidSetting`.
    """
    tls_context(settings.listen, settings.source)
    listen = settings.listen
    try:
        family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((listen.host, listen.port))
    except (OSError, UnicodeError) as error:  # of a name that is no host's, too
        if getattr(error, "errno", None) != errno.EADDRINUSE:
            raise cannot_listen(settings, error) from error


def cannot_listen(settings: ReceiverSettings, error: Exception) -> InvalidSetting:
    """Why there is no listening at the settings' address."""
    listen, reason = settings.listen, getattr(error, "strerror", None) or error
    return InvalidSetting(
        settings.source, f"[listen] host, port: cannot listen at {shown(listen.host)}:{listen.port} ({reason})"
    )


def tls_context(listen: Listen, source: str) -> ssl.SSLContext | None:
    """TLS 1.2 and later, as the BCP 195 profiles of PS3.15 section B.9 ask for; ``None`` without a certificate."""
    if not listen.certificate:
        return None
    for name in ("certificate", "key", "client_ca"):
        _check_readable(name, getattr(listen, name), source)
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(listen.certificate, listen.key, password=_no_password)
        if listen.client_ca:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(listen.client_ca)
    except (OSError, ValueError) as error:  # an SSLError is the former
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        problem = f"[listen] certificate, key or client_ca cannot be used ({reason})"
        raise InvalidSetting(source, problem) from error
    return context


def _check_readable(name: str, path: str, source: str) -> None:
    if not path:
        return
    try:
        with open(path, "rb") as file:
            os.fstat(file.fileno())
    except OSError as error:
        problem = f"[listen] {name}: cannot read '{shown(path)}' ({error.strerror})"
        raise InvalidSetting(source, problem) from error


def _no_password() -> str:
    """Nobody is there to type one when the receiver is started, and OpenSSL would ask on the terminal."""
    raise ValueError("the key has a password")
