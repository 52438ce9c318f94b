"""Loads a source once and calls its function many times, each call in a fork that leaves nothing behind.

    python -I -S forkserver.py SPEC

SPEC is JSON: `function` (its name), `number` (whether it returns one, or any JSON value), `packages` (folders to
import from) and `outside` (the number of a process outside, to be out of reach: then whatever a call leaves running is
killed; null where nothing holds it in). The source lies in `source.py` beside this file. Requests come on standard
input and answers go to standard output, both as four bytes of length and JSON. `cpu` is the kernel's count of
processor seconds of the call, which the call cannot reach.

    request   {"seconds": wall clock, "arguments": [...]}
    answer    {"value": ..., "cpu": seconds}
              {"error": text, "kind": "raised" | "returned" | "timed_out" | "absent" | "ended", "type": exception}

The first answer is to no request: {"value": 1}, or what went wrong while the source was loaded.

A grader that is asked once pays for its start, so what is rarely needed is imported where it is.
"""

from __future__ import annotations

import gc
import json
import math
import os
import select
import signal
import struct
import sys
import time
from numbers import Real

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import confine  # it lies beside this file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HERE = sys.path[0]
MOST_ANSWER = 1 << 20
SOURCE = "grader.py"

Answer = dict[str, "Any"]


def load(spec: dict[str, Any]) -> Any:
    """Run the source and return its function."""
    with open(os.path.join(HERE, "source.py"), encoding="utf-8") as file:
        source = file.read()
    namespace: Answer = {"__name__": "grader"}
    exec(compile(source, SOURCE, "exec"), namespace)
    return namespace[spec["function"]]


def call(function: Any, arguments: list[Any], number: bool) -> Answer:
    """Return what the function says, or why that is no finite number or JSON value."""
    try:
        said = function(*arguments)
        answer = _number(said) if number else _json(said)
    except KeyError as error:
        missing = error.args[0] if error.args else None
        absent = number and missing in ("output_json", "output_tools") and missing not in arguments[0]
        return {"kind": "absent" if absent else "raised", "type": "KeyError", "error": explained(error)}
    except BaseException as error:  # SystemExit too
        return {"kind": "raised", "type": type(error).__name__, "error": explained(error)}
    return answer


def _number(said: Any) -> Answer:
    if not isinstance(said, Real):
        return {"kind": "returned", "error": f"returned {type(said).__name__} {repr(said)[:80]}; return a number"}
    if not math.isfinite(value := float(said)):
        return {"kind": "returned", "error": f"returned {value}; a score is a finite number"}
    return {"value": value}


def _json(said: Any) -> Answer:
    """What is not JSON has not been raised by the function: tests that expect an exception must not find one here."""
    try:
        return {"value": json.loads(json.dumps(said, allow_nan=False))}
    except (TypeError, ValueError, RecursionError) as error:
        return {"kind": "returned", "error": f"returned what is not JSON: {error}"}


def explained(error: BaseException) -> str:
    """Return `ValueError: what (line 3)`."""
    import traceback

    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == SOURCE]
    where = f" (line {lines[-1]})" if lines else ""
    return f"raised {type(error).__name__}: {str(error)[:500]}{where}"


def serve(spec: dict[str, Any]) -> None:
    """Answer requests until standard input ends."""
    requests, answers = os.dup(0), os.dup(1)
    _silence()
    confine.not_to_be_traced()
    function: Any = None
    first: Answer = {"value": 1.0}
    try:
        function = load(spec)
    except BaseException as error:
        first = {"kind": "raised", "error": explained(error)}
    gc.freeze()
    _send(answers, first)
    while function is not None and (request := _receive(requests)) is not None:
        answer = _in_fork(function, request, spec, requests, answers)
        if answer is None:
            return
        _clean(spec)
        _send(answers, answer)


def _in_fork(function: Any, request: dict[str, Any], spec: dict[str, Any], *ours: int) -> Answer | None:
    """Call the function in a child; None when the caller went away meanwhile."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        for descriptor in (*ours, reading):
            os.close(descriptor)
        os.setpgid(0, 0)
        if confine.landlock_abi() >= confine.NEEDED_ABI:
            confine.scope_signals()  # the call cannot end its server
        answer = json.dumps(call(function, request["arguments"], spec["number"])).encode()
        while answer:
            answer = answer[os.write(writing, answer) :]
        os._exit(0)
    os.close(writing)
    ended = os.pidfd_open(child)
    waiting = select.poll()
    waiting.register(ended, select.POLLIN)
    waiting.register(reading, select.POLLIN)
    waiting.register(ours[0], 0)
    deadline = time.monotonic() + request["seconds"]
    said, events = b"", {}
    while ended not in events and ours[0] not in events and (left := deadline - time.monotonic()) > 0:
        events = dict(waiting.poll(left * 1000))
        if reading in events:
            part = os.read(reading, MOST_ANSWER)
            said += part
            if not part or len(said) > MOST_ANSWER:
                waiting.unregister(reading)
    os.close(ended)
    cpu = _kill(child, spec["outside"])
    if ended in events:
        os.set_blocking(reading, False)
        said += _rest(reading)
    os.close(reading)
    if ours[0] in events:
        return None
    if ended not in events:
        return {"kind": "timed_out", "error": f"did not return within {request['seconds']:g} s"}
    try:
        return {**json.loads(said), "cpu": cpu}
    except (ValueError, TypeError):
        what = "ended its process before it returned" if len(said) <= MOST_ANSWER else "returned more than can be sent"
        return {"kind": "ended", "error": what}


def _rest(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, MOST_ANSWER)
    except BlockingIOError:
        return b""


def _kill(child: int, outside: int | None) -> float:
    """End a call and all that it left; returns the processor seconds of it and of the children it waited for."""
    try:
        os.killpg(child, signal.SIGKILL)
    except OSError:
        pass  # it is gone, and it had no children
    try:
        os.kill(child, signal.SIGKILL)
    except OSError:
        pass
    used = os.wait4(child, 0)[2]
    if outside is not None:
        confine.kill_all(outside)
    return float(used.ru_utime + used.ru_stime)


def _clean(spec: dict[str, Any]) -> None:
    """Empty every folder that a call could write."""
    places = [os.environ["HOME"], os.environ["TMPDIR"]]
    if spec["outside"] is not None:
        places.append("/dev/shm")
    for place in places:
        try:
            entries = list(os.scandir(place))
        except OSError:
            continue  # this rung shows no such folder
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                import shutil

                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)


def _silence() -> None:
    """Standard input is at its end, and what is printed goes nowhere, for the source and its calls alike."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _receive(descriptor: int) -> dict[str, Any] | None:
    head = _exactly(descriptor, 4)
    if head is None:
        return None
    body = _exactly(descriptor, struct.unpack("=I", head)[0])
    return None if body is None else dict(json.loads(body))


def _exactly(descriptor: int, number: int) -> bytes | None:
    parts = b""
    while len(parts) < number:
        part = os.read(descriptor, number - len(parts))
        if not part:
            return None
        parts += part
    return parts


def _send(descriptor: int, answer: Answer) -> None:
    body = json.dumps(answer).encode()
    left = struct.pack("=I", len(body)) + body
    while left:
        left = left[os.write(descriptor, left) :]


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    sys.path += told["packages"]
    serve(told)
