"""Ed25519 keys, and the signed notes by which a log says "these were all my entries at this time".

A checkpoint is a note of text and a signature under it (C2SP signed-note and tlog-checkpoint), so tools that others
wrote can read and witness it:

    flyball/0b7c...                         origin: whose log this is
    12                                      number of entries
    dGhpcyBpcyBub3Q...                      root of the Merkle tree, base64
    1764176767.25                           seconds since 1970

    — flyball/0b7c... AAAAAbbbb...          key id and Ed25519 signature of the text, base64
"""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from flyball.errors import RefusedError, unreadable

ED25519 = b"\x01"
"""The signature type of a note's key id."""


@dataclass(frozen=True)
class SigningKey:
    """A private key. `public` is its public half, 64 characters of hex, by which others know it."""

    private: Ed25519PrivateKey

    @classmethod
    def create(cls, path: Path) -> SigningKey:
        """Make a key and write it to a new file that only its owner can read. Raises RefusedError if it exists."""
        private = Ed25519PrivateKey.generate()
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(pem)
        except OSError as error:
            why = "it is there already, and a key is never overwritten; name another file"
            said = why if isinstance(error, FileExistsError) else unreadable(error)
            raise RefusedError(f"no key was written to {path}: {said}") from error
        return cls(private)

    @classmethod
    def read(cls, path: Path) -> SigningKey:
        """Read a key from its PEM file. Raises RefusedError for anything else."""
        try:
            private = load_pem_private_key(path.read_bytes(), password=None)
        except OSError as error:
            raise RefusedError(f"{path} cannot be read: {unreadable(error)}; `flyball log key` makes keys") from error
        except (ValueError, TypeError) as error:
            raise RefusedError(f"{path} holds no private key that can be read: {error}") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise RefusedError(f"{path} holds a key of another kind; approvals and checkpoints are signed by Ed25519")
        return cls(private)

    @property
    def public(self) -> str:
        return self.private.public_key().public_bytes_raw().hex()

    def sign(self, message: bytes) -> str:
        """The signature in base64."""
        return base64.b64encode(self.private.sign(message)).decode()


def is_signed(public: str, message: bytes, signature: str) -> bool:
    """Whether `signature` (base64) is one of `message` by the key whose public half is `public` (hex)."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(base64.b64decode(signature), message)
    except (InvalidSignature, ValueError):
        return False
    return True


def checkpoint_note(key: SigningKey, origin: str, size: int, root: bytes, at: float) -> str:
    """The signed note of a log of `size` entries with this Merkle root, at `at` seconds since 1970."""
    text = f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n{at}\n"
    key_id = hashlib.sha256(origin.encode() + b"\n" + ED25519 + bytes.fromhex(key.public)).digest()[:4]
    signed = base64.b64encode(key_id + key.private.sign(text.encode())).decode()
    return f"{text}\n— {origin} {signed}\n"
