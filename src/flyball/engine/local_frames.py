"""Python objects over a stream between a process and its own child: eight bytes of length, then a pickle."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

LENGTH_BYTES = 8


def write_frame(writer: asyncio.StreamWriter, message: Any) -> None:
    """Queue a message; nobody waits for it to be read, so two processes never wait for each other."""
    payload = pickle.dumps(message)
    writer.write(len(payload).to_bytes(LENGTH_BYTES, "big") + payload)


async def read_frame(reader: asyncio.StreamReader) -> Any:
    """The next message. Raises EOFError when the other process has gone."""
    try:
        length = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big")
        return pickle.loads(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise EOFError("the other process has gone") from error
