"""Receipts: what an agent gets with every answer, and shows again when it reports how the matter ended.

    v1~PROJECT~SESSION~CALL~HMAC-SHA256(key, "v1~PROJECT~SESSION~CALL")

A receipt proves that this gateway served the call; its project must be that of whoever reports.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass

from flyball.capture.openai_form import BadRequest

VERSION = "v1"


@dataclass(frozen=True)
class Receipt:
    """Which call of which session."""

    project: str
    session: str
    call_id: str


class Receipts:
    """Signs and checks with one secret, which all workers share."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def sign(self, receipt: Receipt) -> str:
        """The receipt as one word."""
        named = "~".join((VERSION, receipt.project, receipt.session, receipt.call_id))
        return f"{named}~{self._mac(named)}"

    def read(self, word: str) -> Receipt:
        """Raises BadRequest, 403, for a receipt that this gateway did not sign."""
        named, _, mac = word.rpartition("~")
        parts = named.split("~")
        if len(parts) != 4 or parts[0] != VERSION or not hmac.compare_digest(self._mac(named), mac):
            raise BadRequest("the receipt was not signed by this gateway", "receipt", "forged_receipt", 403)
        return Receipt(*parts[1:])

    def _mac(self, named: str) -> str:
        found = hmac.digest(self._key, named.encode("utf-8", "surrogatepass"), hashlib.sha256)
        return base64.urlsafe_b64encode(found).rstrip(b"=").decode()

    def pseudonym(self, name: str) -> str:
        """A name that stands for a person's in what is stored: the same for the same, and not to be undone."""
        return hmac.digest(self._key, b"pseudonym\n" + name.encode("utf-8", "surrogatepass"), hashlib.sha256)[:12].hex()
