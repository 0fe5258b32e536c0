"""The DICOM node to send to: address, AE titles and TLS files. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from icf_utils.dicom.ae_titles import parse_ae_title
from icf_utils.errors import InvalidSetting, printable
from icf_utils.fetch.tls import TlsFiles

#: The calling AE title where no other is given.
DEFAULT_CALLING_TITLE = "ICF-UTILS"

#: The maximum length of a PDU that the sender receives, in bytes (PS3.8 section D.1); pynetdicom's default.
MAX_PDU = 16382


@dataclass(frozen=True)
class Peer:
    """A receiving DICOM node. ``timeout``, in seconds, applies to the connection, the negotiation and each response.

    Raises :class:`~icf_utils.errors.InvalidSetting` for an invalid AE title, host, port or timeout.
    """

    host: str
    port: int
    called_title: str
    calling_title: str = DEFAULT_CALLING_TITLE
    tls: TlsFiles | None = None
    timeout: float = 30.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "called_title", parse_ae_title("called AE title", self.called_title))
        object.__setattr__(self, "calling_title", parse_ae_title("calling AE title", self.calling_title))
        if not self.host or not self.host.isprintable() or "/" in self.host:
            raise InvalidSetting("host", f"'{printable(self.host)}' is not a host name or address")
        if not 0 < self.port < 65536:
            raise InvalidSetting("port", f"{self.port} is not between 1 and 65535")
        if self.timeout <= 0:
            raise InvalidSetting("timeout", f"{self.timeout} must be more than 0 seconds")

    @property
    def name(self) -> str:
        """The peer in messages: ``TITLE@host:port``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.called_title}@{host}:{self.port}"
