"""Signed requests, by the Standard Webhooks scheme, so that a tool server knows who calls it.

    webhook-id          the call's id; the same on every retry, so that a server can tell a repetition
    webhook-timestamp   seconds since 1970
    webhook-signature   v1,base64(HMAC-SHA256(secret, "{id}.{timestamp}.{body}"))

A secret that starts with `whsec_` is base64 after that prefix, any other is its own bytes. Libraries that verify it
exist for most languages; `openai.webhooks.verify_signature` is one. Source: standardwebhooks.com, specification 1.0.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

from flyball.errors import ConfigError

PREFIX = "whsec_"


def signing_key(secret: str) -> bytes:
    """Return the bytes of a secret. Raises ConfigError for a `whsec_` that is not base64."""
    if not secret.startswith(PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        raise ConfigError(f"signing_secret starts with {PREFIX!r} and what follows is not base64") from None


def signature_headers(key: bytes, request_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the three headers for one request."""
    signed = hmac.digest(key, f"{request_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return {
        "webhook-id": request_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
    }
