"""Whom to send to: address, titles and certificates, checked before anything is opened. Reads certificate files."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from icf_utils.dicom.ae_titles import parse_ae_title
from icf_utils.errors import InvalidSetting, shown, storage_errors

#: How we call ourselves where nothing else is said.
OWN_TITLE = "ICF-UTILS"

#: The largest length of a PDU that we receive, in bytes (PS3.8 section D.1); pynetdicom's own default.
LARGEST_PDU = 16382


@dataclass(frozen=True)
class Tls:
    """TLS towards a peer (PS3.15 section B.1): whom to believe, and what to show of ourselves.

    ``authority`` holds PEM certificates that the peer's must be signed by (default: the system's), ``certificate`` and
    ``key`` our own in PEM. The peer's certificate must be for the host that was asked for.
    """

    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True)
class Peer:
    """A DICOM node that receives. ``timeout`` in seconds holds for connecting, associating and each answer.

    Raises :class:`~icf_utils.errors.InvalidSetting` on creation for what cannot be a title or a port.
    """

    host: str
    port: int
    called_title: str
    calling_title: str = OWN_TITLE
    tls: Tls | None = None
    timeout: float = 30.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "called_title", parse_ae_title("called AE title", self.called_title))
        object.__setattr__(self, "calling_title", parse_ae_title("calling AE title", self.calling_title))
        if not self.host or not self.host.isprintable() or "/" in self.host:
            raise InvalidSetting("host", f"'{shown(self.host)}' is no host name or address")
        if not 0 < self.port < 65536:
            raise InvalidSetting("port", f"{self.port} is not between 1 and 65535")
        if self.timeout <= 0:
            raise InvalidSetting("timeout", f"{self.timeout} is not more than 0 seconds")

    @property
    def name(self) -> str:
        """The peer in messages: ``TITLE@host:port``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.called_title}@{host}:{self.port}"


def tls_context(tls: Tls) -> ssl.SSLContext:
    """What Python's ssl needs. Raises :class:`~icf_utils.errors.InvalidSetting` for files that do not fit together."""
    if tls.key and not tls.certificate:
        raise InvalidSetting("--key", "there is a key without its certificate: name that with --cert")
    for path in filter(None, (tls.authority, tls.certificate, tls.key)):
        with storage_errors(path, "read"):
            path.open("rb").close()
    try:
        context = ssl.create_default_context(cafile=str(tls.authority) if tls.authority else None)
    except ssl.SSLError as error:
        raise InvalidSetting(str(tls.authority), "expected certificates in PEM, found none") from error
    if tls.certificate:
        try:
            context.load_cert_chain(tls.certificate, tls.key, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            problem = "expected a certificate and its own key in PEM, not encrypted; these are not a pair of them"
            raise InvalidSetting(str(tls.certificate), problem) from error
    return context


def _no_password() -> str:
    """Instead of the question on the terminal that OpenSSL would ask."""
    return ""
