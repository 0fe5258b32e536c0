"""What a failed TLS handshake means, in words for users."""

from __future__ import annotations

import ssl

import pytest

from icf_utils.fetch.tls import explain_tls_failure


@pytest.mark.parametrize(("code", "words"), [(10, "has expired"), (9, "not valid yet"), (64, "for another host")])
def test_what_openssl_says(code: int, words: str) -> None:
    inner = ssl.SSLCertVerificationError(1, "no")
    inner.verify_code, inner.verify_message = code, "no"
    outer = OSError("a wrapper")
    outer.__cause__ = inner
    assert words in explain_tls_failure(outer)[0]
