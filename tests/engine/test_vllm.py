"""The vllm engine against a server that imitates vLLM's routes over the local engine. A real one is unmeasured."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flyball.engine.local import LocalEngine
from flyball.engine.protocol import Completion, Request, SamplingParams
from flyball.engine.vllm import IMPOSSIBLE, VllmEngine
from flyball.errors import ContextError, EngineError, GrammarError, NumericsError, WeightsError
from flyball.rl.support import kept_mask
from flyball.types import UNKNOWN, WeightsRef
from tests.engine.serving import serving
from tests.engine.test_local import CONTEXT, ROOT, VOCAB, llama, plain_logprobs

SAMPLING = SamplingParams(0.8, 6, seed=3)


@dataclass
class Server:
    """Draws with a local engine, answers in vLLM's form. `spoil` edits an answer; `fail`: statuses to give first."""

    engine: LocalEngine
    processed: bool = True
    context: int = CONTEXT
    spoil: Callable[[dict[str, Any]], Any] = lambda answer: answer
    fail: list[int] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    hold: asyncio.Event | None = None

    @property
    def app(self) -> Starlette:
        routes = [
            Route("/v1/models", self.models),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/collective_rpc", self.rpc, methods=["POST"]),
            Route("/reset_prefix_cache", self.reset, methods=["POST"]),
        ]
        return Starlette(routes=routes)

    async def models(self, _: HttpRequest) -> Response:
        return JSONResponse({"data": [{"id": "policy", "max_model_len": self.context}]})

    async def completions(self, http: HttpRequest) -> Response:
        if self.fail:
            return JSONResponse({"error": {"message": "busy"}}, self.fail.pop(0))
        body = await http.json()
        self.bodies.append(body)
        if len(body["stop"]) > 4:
            return JSONResponse({"error": {"message": "List should have at most 4 items"}}, 400)
        if self.hold is not None and len(self.bodies) > 1:  # not the probe
            await self.hold.wait()
        sampling = SamplingParams(
            body["temperature"],
            body["max_tokens"],
            body["seed"],
            top_p=body["top_p"],
            top_k=max(body["top_k"], 0),
            min_p=body["min_p"],
            stop=tuple(body["stop"]),
        )
        prompt = tuple(body["prompt"])
        done = await self.engine.generate(Request(prompt, sampling, tuple(body["stop_token_ids"])))
        logprobs = done.logprobs if self.processed else plain_logprobs(self.engine._model, prompt, done, 1.0).tolist()
        rows = []
        for i in range(len(done.token_ids) if body["logprobs"] else 0):
            kept = kept_mask([(done.support, np.array([i]))], VOCAB)[0]
            likeliest = [t for t in range(VOCAB) if kept[t]] + [t for t in range(VOCAB) if not kept[t]]
            rows.append({f"token_id:{t}": -1.0 if kept[t] else IMPOSSIBLE for t in likeliest[: body["logprobs"]]})
        choice = {
            "token_ids": list(done.token_ids),
            "prompt_token_ids": list(prompt),
            "logprobs": {"token_logprobs": list(logprobs), "top_logprobs": rows},
            "finish_reason": done.finish_reason,
        }
        usage = {"prompt_tokens_details": {"cached_tokens": 2}}
        return JSONResponse(self.spoil({"choices": [choice], "usage": usage}))

    async def rpc(self, http: HttpRequest) -> Response:
        body = await http.json()
        assert body["method"] == "reload_weights"
        try:
            await self.engine.load_weights(WeightsRef(self.engine.version + 1, body["kwargs"]["weights_path"], ""))
        except WeightsError as error:
            return JSONResponse({"error": str(error)}, 500)
        return JSONResponse({"results": [None]})

    async def reset(self, _: HttpRequest) -> Response:
        return Response()


def run(server: Server, work: Callable[[VllmEngine], Awaitable[Any]], **settings: Any) -> Any:
    torch.set_num_threads(1)

    async def main() -> Any:
        async with serving(server.app) as url:
            engine = await VllmEngine.connect(url, "policy", retry_seconds=0.01, **settings)
            try:
                return await work(engine)
            finally:
                await engine.close()

    return asyncio.run(main())


def one(engine: VllmEngine, **rules: Any) -> Awaitable[Completion]:
    return engine.generate(Request(ROOT, replace(SAMPLING, **rules), (5,)))


def test_token_ids_and_logprobs_are_the_servers() -> None:
    server = Server(LocalEngine(llama()))
    done = run(server, one)
    (expected,) = [asyncio.run(LocalEngine(llama()).generate(Request(ROOT, SAMPLING, (5,))))]
    assert done.token_ids == expected.token_ids and done.policy_versions == (0,) * len(done.token_ids)
    assert done.logprobs == pytest.approx(expected.logprobs, abs=1e-6) and done.support is None
    assert done.finish_reason == expected.finish_reason and done.prefilled == len(ROOT) - 2
    asked = server.bodies[-1]
    assert asked["ignore_eos"] and asked["stop_token_ids"] == [5] and asked["top_k"] == -1
    assert (asked["repetition_penalty"], asked["skip_special_tokens"]) == (1.0, False)


@pytest.mark.parametrize("num_logprobs", [20, 4])
def test_supports_are_known_as_far_as_logprobs_reach(num_logprobs: int) -> None:
    done = run(Server(LocalEngine(llama())), lambda e: one(e, top_k=3, max_new_tokens=9), num_logprobs=num_logprobs)
    expected = asyncio.run(
        LocalEngine(llama()).generate(Request(ROOT, replace(SAMPLING, top_k=3, max_new_tokens=9), (5,)))
    )
    assert done.support == expected.support and len(done.support.ids) > 0


def test_a_support_that_may_be_larger_is_unknown() -> None:
    done = run(Server(LocalEngine(llama())), lambda e: one(e, top_k=4), num_logprobs=4)
    assert (done.support.index == UNKNOWN).all()


def test_a_server_that_reports_the_models_own_logprobs_is_refused() -> None:
    with pytest.raises(EngineError, match="--logprobs-mode processed_logprobs"):
        run(Server(LocalEngine(llama()), processed=False), one)


def drop(*names: str) -> Callable[[dict[str, Any]], Any]:
    def spoil(answer: dict[str, Any]) -> Any:
        for name in names:
            answer["choices"][0][name] = None
        return answer

    return spoil


def no_logprob(answer: dict[str, Any]) -> Any:
    answer["choices"][0]["logprobs"]["token_logprobs"][0] = IMPOSSIBLE
    return answer


def other_prompt(answer: dict[str, Any]) -> Any:
    answer["choices"][0]["prompt_token_ids"] += [1]
    return answer


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (drop("token_ids"), EngineError, "returned no token ids"),
        (drop("logprobs"), EngineError, "cannot be read"),
        (no_logprob, NumericsError, "the logprob -9999.0"),
        (other_prompt, EngineError, "other tokens than the one it was sent"),
        (lambda answer: ["odd"], EngineError, "cannot be read"),
    ],
)
def test_answers_that_cannot_be_trusted_are_refused(spoil: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        run(Server(LocalEngine(llama()), spoil=spoil), one)


def test_what_passes_is_tried_again_and_what_stays_is_told() -> None:
    assert run(Server(LocalEngine(llama()), fail=[503, 429]), one).token_ids
    with pytest.raises(EngineError, match=r"answered 503: .*busy"):
        run(Server(LocalEngine(llama()), fail=[503] * 9), one)
    with pytest.raises(EngineError, match="answered 400"):
        run(Server(LocalEngine(llama()), fail=[400]), one)
    with pytest.raises(EngineError, match="failed 2 times"):
        asyncio.run(VllmEngine.connect("http://127.0.0.1:9", "policy", num_tries=2, retry_seconds=0.01))


def test_bounds_and_what_is_not_sent() -> None:
    async def work(engine: VllmEngine) -> None:
        assert engine.max_context == CONTEXT
        with pytest.raises(ContextError, match=f"prompt of {CONTEXT} tokens"):
            await engine.generate(Request((1,) * CONTEXT, SAMPLING, ()))
        with pytest.raises(GrammarError, match="grammars are not sent to vllm"):
            await one(engine, grammar="start: /a/")

    run(Server(LocalEngine(llama())), work)


def test_closing_tells_those_who_wait() -> None:
    server = Server(LocalEngine(llama()))

    async def work(engine: VllmEngine) -> None:
        server.hold = asyncio.Event()
        task = asyncio.create_task(one(engine))
        while len(server.bodies) < 2:
            await asyncio.sleep(0.01)
        await engine.close()
        with pytest.raises(EngineError, match="was closed while this request waited"):
            await task
        server.hold.set()

    run(server, work)


def test_a_server_of_another_kind_is_refused() -> None:
    async def models(_: HttpRequest) -> Response:
        return JSONResponse({"data": [{"id": "policy"}]})

    async def main() -> None:
        async with serving(Starlette(routes=[Route("/v1/models", models)])) as url:
            with pytest.raises(EngineError, match="does not list models as vLLM does"):
                await VllmEngine.connect(url, "policy")

    asyncio.run(main())


def test_another_model_is_refused() -> None:
    async def main() -> None:
        async with serving(Server(LocalEngine(llama())).app) as url:
            with pytest.raises(EngineError, match=r"no model 'other'; it serves \['policy'\]"):
                await VllmEngine.connect(url, "other")

    asyncio.run(main())


def test_an_abort_returns_at_once_and_a_cancelled_request_does_too() -> None:
    server = Server(LocalEngine(llama()))

    async def work(engine: VllmEngine) -> Completion:
        server.hold = asyncio.Event()
        request = Request(ROOT, SAMPLING, (), "a")
        task = asyncio.create_task(engine.generate(request))
        while len(server.bodies) < 2:
            await asyncio.sleep(0.01)
        await engine.abort("b")
        await engine.abort("a")
        done = await task
        cancelled = asyncio.create_task(engine.generate(request))
        await asyncio.sleep(0.02)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        server.hold.set()
        return done

    done = run(server, work)
    assert (done.finish_reason, done.token_ids) == ("abort", ())


def test_weights_are_exchanged_between_requests(tmp_path: Path) -> None:
    """The request under way ends on the old version, the one that comes meanwhile waits for the new."""
    newer = llama(1)
    newer.save_pretrained(tmp_path)
    server = Server(LocalEngine(llama()))

    async def work(engine: VllmEngine) -> list[Completion]:
        server.hold = asyncio.Event()
        before = asyncio.create_task(one(engine))
        while len(server.bodies) < 2:
            await asyncio.sleep(0.01)
        load = asyncio.create_task(engine.load_weights(WeightsRef(7, str(tmp_path), "")))
        await asyncio.sleep(0.02)
        after = asyncio.create_task(one(engine))
        await asyncio.sleep(0.02)
        assert len(server.bodies) == 2 and not load.done()
        server.hold.set()
        await load
        assert engine.version == 7
        return [await before, await after]

    before, after = run(server, work)
    assert set(before.policy_versions) == {0} and set(after.policy_versions) == {7}
    LocalEngine(newer)
    expected = plain_logprobs(newer, ROOT, after)
    torch.testing.assert_close(torch.tensor(after.logprobs), expected, rtol=0, atol=1e-4)


def test_weights_that_the_server_does_not_take_stop_it_until_others_do(tmp_path: Path) -> None:
    good = tmp_path / "good"
    llama(1).save_pretrained(good)

    async def work(engine: VllmEngine) -> Completion:
        with pytest.raises(WeightsError, match=r"did not load .*nothing.* answered 500"):
            await engine.load_weights(WeightsRef(1, str(tmp_path / "nothing"), ""))
        assert engine.version == 0
        with pytest.raises(WeightsError, match="did not load"):
            await one(engine)
        await engine.load_weights(WeightsRef(2, str(good), ""))
        return await one(engine)

    assert set(run(Server(LocalEngine(llama())), work, num_tries=1).policy_versions) == {2}
