"""TLS contexts of all clients and servers, and what a failed handshake means. Reads certificate files.

A client trusts the CA certificates of the file that the user names, and no others. Without one these are the
certificates of ``REQUESTS_CA_BUNDLE`` or ``CURL_CA_BUNDLE``, else of ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``, else those
of the system together with Mozilla's (package certifi). TLS 1.2 is the oldest version that is spoken, as the BCP 195
profiles of DICOM PS3.15, section B.9, require.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from icf_utils.errors import InvalidSetting, printable, storage_errors

#: Environment variables that name a file or folder of CA certificates, as requests and curl read them.
_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@dataclass(frozen=True)
class TlsFiles:
    """Files for the client's end of TLS, in PEM.

    ``authority`` holds the trusted CA certificates (default: see above), ``certificate`` and ``key`` are the client's
    own (``key`` may be in the same file). The server's certificate must be for the host that is asked.
    """

    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


def client_context(files: TlsFiles = TlsFiles(), with_certificate: bool = True) -> ssl.SSLContext:
    """The context of a client; ``with_certificate`` is false towards servers that its certificate is not meant for.

    Raises :class:`~icf_utils.errors.InvalidSetting` for files that do not fit together, and
    :class:`~icf_utils.errors.StorageFailure` for those that cannot be read.
    """
    if files.key and not files.certificate:
        raise InvalidSetting("--key", "a key without its certificate; give the certificate with --cert")
    for path in filter(None, (files.authority, files.certificate, files.key)):
        with storage_errors(path, "read"):
            path.open("rb").close()
    context = _trusting(files.authority)
    if files.certificate and with_certificate:
        try:
            context.load_cert_chain(files.certificate, files.key, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            problem = "expected a certificate and its key, in PEM and not encrypted; these two do not belong together"
            raise InvalidSetting(str(files.certificate), problem) from error
    return context


def server_context(certificate: str, key: str = "", client_authority: str = "") -> ssl.SSLContext:
    """The context of a server; with ``client_authority``, clients need a certificate that it has signed.

    Raises ``OSError`` (of which ``ssl.SSLError`` is one) or ``ValueError`` for files that cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key or None, password=_no_password)
    if client_authority:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_authority)
    return context


def _trusting(authority: Path | None) -> ssl.SSLContext:
    if authority:
        return _trusting_file(str(authority), str(authority))
    for variable in _BUNDLES:
        if bundle := os.environ.get(variable):
            return _trusting_file(bundle, variable)
    context = ssl.create_default_context()
    if not (os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")):
        import certifi

        context.load_verify_locations(certifi.where())
    return context


def _trusting_file(path: str, source: str) -> ssl.SSLContext:
    try:
        if os.path.isdir(path):
            return ssl.create_default_context(capath=path)
        return ssl.create_default_context(cafile=path)
    except ssl.SSLError as error:
        raise InvalidSetting(source, "expected certificates in PEM, found none") from error
    except OSError as error:
        raise InvalidSetting(source, f"'{printable(path)}' cannot be read ({error.strerror})") from error


def _no_password() -> str:
    """Instead of the question on the terminal that OpenSSL would ask."""
    raise ValueError("the key has a password")


#: OpenSSL's numbers of what may be wrong with a certificate (X509_V_ERR_...) other than an unknown issuer.
_NOT_YET, _EXPIRED, _OTHER_NAME, _OTHER_ADDRESS = 9, 10, 62, 64


def explain_tls_failure(error: BaseException) -> tuple[str, str]:
    """Why there is no TLS connection, and what to do; the reason is the innermost error of those that wrap it."""
    found: BaseException | None = error
    while found and not (isinstance(found, ssl.SSLError) or type(found).__name__ == "CertificateError"):
        found = found.__cause__ or found.__context__
    code = getattr(found, "verify_code", _OTHER_NAME if found and not isinstance(found, ssl.SSLError) else 0)
    if code in (_OTHER_NAME, _OTHER_ADDRESS):
        remedy = "write the address with the name that the certificate is for, and check that this is the right server"
        return "its TLS certificate is for another host", remedy
    if code in (_NOT_YET, _EXPIRED):
        problem = "has expired" if code == _EXPIRED else "is not valid yet"
        return f"its TLS certificate {problem}", "ask the server's administrator, and check this computer's clock"
    if isinstance(found, ssl.SSLCertVerificationError):
        why = printable(found.verify_message)
        return f"its TLS certificate is not trusted ({why})", "give the CA's certificate with --ca"
    return "a TLS connection cannot be established", "check whether it speaks TLS at this port (https: or http:)"
