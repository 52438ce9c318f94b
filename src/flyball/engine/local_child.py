"""The process of `ProcessEngine`: a LocalEngine that answers its parent over two inherited sockets, and ends with it.

python -m flyball.engine.local_child FD CONTROL_FD FOLDER SPEC
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from flyball.engine.local import LocalEngine
from flyball.engine.local_frames import read_frame, write_frame
from flyball.engine.local_process import ProcessSpec
from flyball.errors import EngineError, FlyballError
from flyball.models.hf_chat import load_chat
from flyball.models.load import load_model, pays_bfloat16

METHODS = frozenset({"generate", "abort", "end_session"})


def make_engine(spec: ProcessSpec) -> LocalEngine:
    """The engine of the spec. Raises ModelError for a folder that holds no policy."""
    model, chat = load_model(Path(spec.folder)), load_chat(Path(spec.folder), spec.tool_format)
    return LocalEngine(
        model.bfloat16() if pays_bfloat16(model) else model,
        num_slots=spec.num_slots,
        tokenizer=chat.tokenizer,
        on_new_weights=spec.on_new_weights,
        deterministic=spec.deterministic,
    )


async def serve(engine: LocalEngine, stream: socket.socket) -> None:
    """Answer requests until the parent has gone."""
    reader, writer = await asyncio.open_unix_connection(sock=stream)
    under_way: dict[int, asyncio.Task[None]] = {}

    async def answer(number: int, method: str, arguments: tuple[Any, ...]) -> None:
        try:
            value = await getattr(engine, method)(*arguments)
        except Exception as error:
            write_frame(writer, (number, None, _typed(error)))
        else:
            write_frame(writer, (number, value, None))
        finally:
            del under_way[number]

    while True:
        try:
            number, method, arguments = await read_frame(reader)
        except EOFError:
            return
        if method == "cancel":
            if number in under_way:
                under_way[number].cancel()
        elif method in METHODS:
            under_way[number] = asyncio.create_task(answer(number, method, arguments))


def follow(engine: LocalEngine, control: Connection[Any, Any], folder: Path) -> None:
    """Take weights and adapters, in a thread of its own; the whole process ends when the parent has gone."""
    while True:
        try:
            method, arguments = control.recv()
        except (EOFError, OSError):
            shutil.rmtree(folder, ignore_errors=True)
            os._exit(0)
        try:
            if method == "load_weights":
                asyncio.run(engine.load_weights(*arguments))
            else:
                engine.add_adapter(*arguments)
        except Exception as error:
            control.send((None, _typed(error)))
        else:
            control.send((None, None))


def _typed(error: Exception) -> FlyballError:
    return error if isinstance(error, FlyballError) else EngineError(f"{type(error).__name__}: {error}")


def main() -> None:
    """See the module."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends a step before it stops
    fd, control_fd, folder, spec = sys.argv[1:]
    control: Connection[Any, Any] = Connection(int(control_fd))
    try:
        engine = make_engine(ProcessSpec(**json.loads(spec)))
    except Exception as error:
        control.send((None, _typed(error)))
        return
    control.send((engine.max_context, None))
    threading.Thread(target=follow, args=(engine, control, Path(folder)), daemon=True).start()
    asyncio.run(serve(engine, socket.socket(fileno=int(fd))))


if __name__ == "__main__":
    main()
