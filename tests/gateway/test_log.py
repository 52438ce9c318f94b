"""The log of a worker: JSON lines, kinds of errors and never their text, and nobody waits for its reader."""

from __future__ import annotations

import contextlib
import io
import logging
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from flyball.gateway import log
from tests.gateway.servers import KEYS, Mock, go, json_answer, running, text_answer
from tests.gateway.test_failures import nobody


@contextlib.contextmanager
def logged(detail: str) -> Iterator[list[dict[str, Any]]]:
    """What is logged inside the block, once it has ended."""
    stream, loggers = io.StringIO(), (log.LOG, logging.getLogger("uvicorn"), logging.getLogger("uvicorn.error"))
    before = [(each, each.handlers, each.propagate, each.level) for each in loggers]
    loggers[-1].setLevel(logging.NOTSET)  # servers of other tests set it for the whole process
    lines: list[dict[str, Any]] = []
    listener = log.start_log(detail, stream)
    try:
        yield lines
    finally:
        listener.stop()
        for each, handlers, propagate, level in before:
            each.handlers, each.propagate = handlers, propagate
            each.setLevel(level)
        lines += map(orjson.loads, stream.getvalue().splitlines())


def test_a_call_is_one_line_with_what_an_operator_looks_for_and_nothing_secret(tmp_path: Path) -> None:
    async def test() -> None:
        mock = Mock(lambda asked: json_answer(text_answer("the answer")))
        async with running(tmp_path, {"a": mock}, upstream={"version": "v1"}) as gateway:
            await gateway.chat("the question", path="/s/s1/v1/chat/completions", user="ana@example.com")
            await gateway.chat("x", headers={"Authorization": "Bearer not-a-key"})

    with logged("calls") as lines:
        go(test)
    text = orjson.dumps(lines).decode()
    assert [line["event"] for line in lines] == ["started", "call", "refused", "stopped"]
    call, refused = lines[1], lines[2]
    assert call | {"arm": "stable", "version": "v1", "session": "s1", "status": 200, "error": None} == call
    assert call["seconds"] >= call["upstream_seconds"] > 0 and len(call["request_id"]) > 16
    assert (refused["status"], refused["error"], refused["level"]) == (401, "invalid_api_key", "warning")
    for secret in (*KEYS.values(), "not-a-key", "the question", "the answer", "ana@example.com", "Bearer"):
        assert secret not in text


def test_only_problems_are_told_where_the_file_says_so(tmp_path: Path) -> None:
    async def test() -> None:
        mock = Mock(lambda asked: json_answer(text_answer("ok")))
        async with running(tmp_path, {"gone": nobody(), "b": mock}, fallback="b") as gateway:
            await gateway.chat("hi")
            gateway.app.router.killed_by_signal = True
            await gateway.app.router.look()

    with logged("problems") as lines:
        go(test)
    assert [line["event"] for line in lines] == ["call", "kill_switch"]
    assert (lines[0]["fallback"], lines[0]["upstream"], lines[1]["state"]) == ("upstream_unreachable", "b", "on")
    with logged("nothing") as lines:
        go(test)
    assert lines == []


def test_an_error_is_told_by_its_kind_and_place_not_by_its_text() -> None:
    with logged("problems") as lines:
        try:
            raise ValueError("secret prompt")
        except ValueError:
            logging.getLogger("uvicorn.error").exception("Exception in ASGI application")
        logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    assert lines[0]["error"] == "ValueError" and "test_log.py" in lines[0]["where"]
    assert lines[1]["message"] == "Invalid HTTP request received."
    assert "secret prompt" not in orjson.dumps(lines).decode()


def test_a_log_that_nobody_reads_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: queue.Queue[logging.LogRecord] = queue.Queue(2)
    handler = log.Queued(taken)
    monkeypatch.setattr(log.LOG, "handlers", [handler])
    monkeypatch.setattr(log.LOG, "propagate", False)
    done = threading.Thread(target=lambda: [log.note("x") for _ in range(5)])
    done.start()
    done.join(10)
    assert not done.is_alive() and handler.dropped == 3
    taken.get()
    log.note("x")
    taken.get()
    assert vars(taken.get())["fields"] == {"dropped_before": 3}
