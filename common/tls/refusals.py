"""Why there is no TLS with the other end, in one line for operators."""

import ssl

from common.safe_text import log_text

# Of a peer that ended a connection after the handshake and before its first word. In TLS 1.3 the
# dialler's handshake is over before the other end looks at its certificate, and asyncio sends no
# alert (https://github.com/python/cpython/issues/98078).
ENDED_AT_ONCE = (
    "it ended the connection before its first word: it does not take our certificate (another"
    " cluster, or is a clock wrong? its log says why)"
)

# By what OpenSSL says of a certificate.
_OF_CERTIFICATES = {
    "unable to get local issuer certificate": "no member of this cluster signed its certificate",
    "certificate has expired": "its certificate has expired: is a clock wrong?",
    "certificate is not yet valid": "its certificate is not valid yet: is a clock wrong?",
    "path length constraint exceeded": "its certificate is not signed by a member's key itself",
}
# By OpenSSL's reason.
_OF_HANDSHAKES = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it showed no certificate",
    "UNSUPPORTED_PROTOCOL": "it does not speak TLS 1.3",
    "HTTP_REQUEST": "it speaks HTTP without TLS: does its cluster.yml say `tls: required`?",
    "WRONG_VERSION_NUMBER": "it does not speak TLS: does its cluster.yml say `tls: required`?",
}


def why_refused(error: OSError | TimeoutError, handshake_seconds: float) -> str:
    """What was wrong with the other end's part of a handshake that took at most so long."""
    if isinstance(error, ssl.SSLCertVerificationError):
        # `unable to get local issuer certificate`, or `Hostname mismatch, certificate is not ...`
        found = error.verify_message
        if found.startswith("Hostname mismatch"):
            return "its certificate is another member's"
        return _OF_CERTIFICATES.get(found, f"its certificate: {log_text(found)}")
    if isinstance(error, ssl.SSLError) and error.reason:
        reason = error.reason
        return _OF_HANDSHAKES.get(reason, f"TLS: {log_text(reason.lower().replace('_', ' '))}")
    if isinstance(error, TimeoutError | ConnectionAbortedError):
        return f"no whole handshake within {handshake_seconds:g} s"
    return "it ended the connection within the handshake"
