"""Open the certificate and the key of TLS, and say what is wrong with them before a client finds out."""

import ssl
from contextlib import suppress
from pathlib import Path

from deploy.errors import ServerError
from deploy.server.options import Tls

# Of OpenSSL's x509_vfy.h.
_NOT_YET_VALID, _EXPIRED = 9, 10
_WRONG_DATES = {_NOT_YET_VALID: "is not valid yet", _EXPIRED: "has expired"}


def server_context(tls: Tls | None) -> ssl.SSLContext | None:
    """Return the TLS context of a certificate and its key, or None for neither.

    Raises ServerError for files that are not these, a key with a passphrase, and a certificate that has expired or is
    not valid yet.
    """
    if tls is None:
        return None

    def refuse_passphrase() -> str:
        # OpenSSL would ask for it at the terminal, and wait.
        raise ServerError(f"{tls.key} has a passphrase, and nobody is there to type it: openssl pkey removes it")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(tls.certificate, tls.key, refuse_passphrase)
    except ssl.SSLError as error:
        reason = (error.reason or "no PEM").replace("_", " ").lower()
        raise ServerError(f"{tls.certificate} and {tls.key} are no certificate with its key: {reason}") from None
    except OSError as error:
        # Python does not say which.
        raise ServerError(f"{tls.certificate} or {tls.key} cannot be read: {error.strerror}") from None
    _check_dates(context, tls.certificate)
    return context


def _check_dates(context: ssl.SSLContext, certificate: Path) -> None:
    """Raise ServerError where a client would find the certificate out of date."""
    # A client that trusts this very certificate, which leaves its dates as a reason to refuse it. It talks in memory.
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.load_verify_locations(certificate)
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = client.wrap_bio(to_client, to_server), context.wrap_bio(to_server, to_client, server_side=True)
    try:
        # The client's hello, the server's certificate, and what the client thinks of it.
        for end in (*ends, ends[0]):
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
    except ssl.SSLCertVerificationError as error:
        if fault := _WRONG_DATES.get(error.verify_code):
            raise ServerError(f"the certificate {certificate} {fault}: clients would refuse it") from None
