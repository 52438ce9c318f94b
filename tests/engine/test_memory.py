"""An engine without memory left: told to everyone in flight with what it was for, and it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from flyball.engine import local
from flyball.engine.local import LocalEngine
from flyball.errors import EngineError, EngineMemoryError, no_memory
from flyball.types import WeightsRef
from tests.engine.test_local import ROOT, assert_plain, llama, other_activation, request


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def too_much() -> torch.Tensor:
    """Ask the processor's allocator for more than there is."""
    return torch.empty(2**50)


@contextmanager
def failing(model: Any, error: Exception | None = None) -> Iterator[None]:
    """The model's last norm asks for too much memory, or raises `error`."""

    def ask(*_: Any) -> None:
        if error is not None:
            raise error
        too_much()

    handle = model.model.norm.register_forward_pre_hook(ask)
    try:
        yield
    finally:
        handle.remove()


def test_everyone_in_flight_is_told_and_the_engine_goes_on() -> None:
    model = other_activation()  # it goes through the modules, where a hook can act
    engine = LocalEngine(model, num_slots=4)

    async def main() -> Any:
        with failing(model):
            told = await asyncio.gather(*(engine.generate(request(ROOT, i)) for i in range(3)), return_exceptions=True)
        return told, await engine.generate(request(ROOT, 1))

    told, after = asyncio.run(main())
    for error in told:
        assert isinstance(error, EngineMemoryError) and isinstance(error, EngineError)
        assert "DefaultCPUAllocator: can't allocate memory" in str(error) and "lower `concurrency`" in str(error)
    assert_plain(model, ROOT, after)


def test_an_error_of_another_kind_keeps_its_name() -> None:
    model = other_activation()
    engine = LocalEngine(model)
    with failing(model, ValueError("out of memory of another kind")), pytest.raises(EngineError) as caught:
        asyncio.run(engine.generate(request(ROOT)))
    assert type(caught.value) is EngineError and "ValueError" in str(caught.value)


def test_weights_that_cannot_be_read_for_want_of_memory_leave_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = llama()
    engine = LocalEngine(model)
    monkeypatch.setattr(local, "_read_safetensors", lambda folder: {"all": too_much()})
    with pytest.raises(EngineMemoryError, match="the old ones stay"):
        asyncio.run(engine.load_weights(WeightsRef(3, str(tmp_path), "")))
    assert engine.version == 0
    assert_plain(model, ROOT, asyncio.run(engine.generate(request(ROOT))))


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_allocators_say(error: Exception, is_it: bool) -> None:
    assert bool(no_memory(error)) is is_it
