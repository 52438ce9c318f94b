"""Stop strings over tokens: a completion ends with the token that completes one of them."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Watches the bytes of one completion.

    Any occurrence ends inside the newest token, so it lies in that token's bytes and as many before them as the longest
    string is short of one. Looking there finds strings that span tokens, repeat in themselves or end inside a token;
    bytes, because a token may hold half a character.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._wanted = [string.encode() for string in strings]
        self._reach = max(map(len, self._wanted)) - 1
        self._tail = b""

    def ends(self, piece: bytes) -> bool:
        """Take the bytes of the next token; whether a stop string is now complete."""
        window = self._tail + piece
        self._tail = window[max(len(window) - self._reach, 0) :]
        return any(wanted in window for wanted in self._wanted)
