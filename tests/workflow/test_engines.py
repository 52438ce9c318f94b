"""The `engine` section of a workflow file: what it chooses, what it refuses with its line, what it may train."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flyball.cli.options import make_trainer
from flyball.config import EngineSettings
from flyball.engine.http import HttpEngine
from flyball.engine.local import LocalEngine
from flyball.errors import ConfigError, ModelError, TrainError
from flyball.models.load import new_tiny_model, save_model
from flyball.models.tiny import TinyConfig, train_tokenizer
from flyball.store.store import Store
from flyball.workflow.fake import FakeTrainer
from flyball.workflow.inputs import Inputs
from flyball.workflow.local_trainer import LocalTrainer
from flyball.workflow.napkin import judge_file
from flyball.workflow.progress import Silent
from flyball.workflow.remote_engines import EndpointTrainer, open_vllm
from flyball.workflow.run import start
from flyball.workflow.trial import evaluate_policy
from flyball.workflow.workflow import Workflow, load_workflow
from tests.cli.conftest import PROJECT, answers

HTTP = {"kind": "http", "url": "http://127.0.0.1:9/v1"}


def written(folder: Path, text: str) -> Workflow:
    """The stockroom with a YAML file over it."""
    file = folder / "over.yaml"
    file.write_text(f"python: {PROJECT / 'workflow.py'}\n{text}")
    return load_workflow(file)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        Inputs(written(folder, text)).check()
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("engine: {kind: locl}", "over.yaml:2: engine.kind is 'locl'"),
        ("engine: http", "over.yaml:2: engine is 'http'"),
        ("engine:\n  kind: http", "over.yaml:2: engine.url is missing: the address of an OpenAI-compatible endpoint"),
        ("engine:\n  kind: vllm\n  url: http://a", "over.yaml:2: engine.model is missing: the name under which"),
        (
            "engine:\n  url: http://a",
            "over.yaml:3: engine.url would be ignored by the local engine; it reads adapters,",
        ),
        (
            "engine:\n  kind: http\n  url: http://a/v1\n  deterministic: true",
            "over.yaml:5: engine.deterministic would be ignored by the http engine",
        ),
        ("engine: {kind: http, url: ftp://a}", "over.yaml:2: engine.url is 'ftp://a'"),
        ("engine: {tool_format: hermess}", "unknown tool_format 'hermess'; did you mean 'hermes'?"),
        ("engine: {tol_format: hermes}", "unknown key 'tol_format' in 'engine'; did you mean 'tool_format'?"),
        (
            "engine: {kind: vllm, url: http://a, model: m}\nevaluation: {interleave: true}",
            "over.yaml:3: evaluation.interleave cannot be honoured",
        ),
        (
            "engine: {kind: http, url: http://a/v1}\nevaluation: {temperature: 1.0, top_k: 3}",
            "over.yaml:3: evaluation.top_k would be ignored: OpenAI's interface",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(tmp_path, text)


def test_the_section_is_read_from_python_and_overridden_key_by_key(tmp_path: Path) -> None:
    flow = load_workflow(PROJECT / "workflow.py")
    assert flow.settings.engine == EngineSettings()
    own = Workflow(flow.world, flow.tasks, flow.success, engine={"tool_format": "hermes", "deterministic": True})
    assert own.settings.engine.deterministic is True
    assert written(tmp_path, "engine: {deterministic: true}").settings.engine.deterministic is True


def test_training_with_an_engine_that_only_evaluates_is_refused_before_any_work(tmp_path: Path) -> None:
    flow = written(tmp_path, "engine: {kind: http, url: http://a/v1}")
    with Store(tmp_path / "home") as store, pytest.raises(ConfigError, match=r"over\.yaml:2: engine\.kind") as caught:
        start(flow, store, FakeTrainer(answers()), Silent())
    assert "neither the tokens it sampled nor their logprobs; use `flyball eval`" in str(caught.value)


def test_the_file_says_before_a_run_what_the_engine_cannot_do(tmp_path: Path) -> None:
    written(tmp_path, f"engine: {{kind: http, url: '{HTTP['url']}'}}")
    notes = {row.key: row.note for row in judge_file(tmp_path / "over.yaml", set())}
    assert notes["engine.kind"].startswith("evaluates only, and `flyball run` refuses it: an endpoint that answers")


def test_the_local_engine_takes_its_settings(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    tokenizer = train_tokenizer(["hello"] * 3, 300)
    shape = TinyConfig(300, 64, 64, num_layers=2, head_dim=24)
    save_model(new_tiny_model(shape, tokenizer, 0), tokenizer, tmp_path)

    async def go(**settings: Any) -> tuple[Any, Any]:
        engine, chat = await LocalTrainer().open_engine(tmp_path, EngineSettings(**settings), concurrency=2, seed=0)
        await engine.close()
        return engine, chat

    plain, _ = asyncio.run(go())
    careful, chat = asyncio.run(go(deterministic=True, tool_format="llama_json"))
    assert isinstance(plain, LocalEngine) and isinstance(careful, LocalEngine)
    assert (plain._deterministic, careful._deterministic, chat.tool_format) == (False, True, "llama_json")


class Endpoint:
    """A model that takes what the stockroom's tickets ask for, served in a thread of its own."""

    def __init__(self, url: str) -> None:
        self.url, self.headers, self.models = url, list[dict[str, str]](), set[str]()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    skilled = answers()

    async def answer(http: HttpRequest) -> Response:
        body = await http.json()
        served.headers.append(dict(http.headers))
        served.models.add(body["model"])
        asked = next(m["content"] for m in body["messages"] if m["role"] == "user")
        turn = sum(m["role"] == "assistant" for m in body["messages"])
        said = (skilled.get(asked) or ["done"])[min(turn, 1) if asked in skilled else 0]
        message: dict[str, Any] = {"role": "assistant", "content": said}
        if said.startswith("<tool_call>"):
            call = json.loads(said.removeprefix("<tool_call>").removesuffix("</tool_call>"))
            function = {"name": call["name"], "arguments": json.dumps(call["arguments"])}
            message = {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": function}]}
        usage = {"prompt_tokens": 9, "completion_tokens": 3}
        choice = {"message": message, "finish_reason": "tool_calls" if message.get("tool_calls") else "stop"}
        return JSONResponse({"choices": [choice], "usage": usage})

    with socket.create_server(("127.0.0.1", 0)) as listening:
        served = Endpoint(f"http://127.0.0.1:{listening.getsockname()[1]}/v1")
        app = Starlette(routes=[Route("/v1/chat/completions", answer, methods=["POST"])])
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield served
        server.should_exit = True
        thread.join()


def test_a_hosted_model_is_evaluated_with_the_key_of_the_environment(
    tmp_path: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = written(tmp_path, f"policy: big-model\nengine: {{kind: http, url: '{endpoint.url}', key_env: SOME_KEY}}")
    trainer = make_trainer(flow)
    assert isinstance(trainer, EndpointTrainer)
    with Store(tmp_path / "home") as store:
        with pytest.raises(ConfigError, match=r"engine\.key_env names SOME_KEY, which is not set"):
            evaluate_policy(flow, store, trainer, Silent())
        monkeypatch.setenv("SOME_KEY", "secret-7")
        record = evaluate_policy(flow, store, trainer, Silent())
        assert record is not None
        results = [result for suite in record.evals["candidate"].values() for result in suite.results]
        assert results and all(result.success is True for result in results)
        (version,) = store.versions("big-model")
        kept = Path(version.path)
        assert json.loads((kept / "endpoint.json").read_text()) == {"model": "big-model", "url": endpoint.url}
        for file in (tmp_path / "home").rglob("*"):
            assert not file.is_file() or b"secret-7" not in file.read_bytes(), file
    assert endpoint.models == {"big-model"}
    assert {headers["authorization"] for headers in endpoint.headers} == {"Bearer secret-7"}


def test_what_an_endpoint_cannot_be_is_refused(tmp_path: Path) -> None:
    trainer = EndpointTrainer(EngineSettings(**HTTP))
    with pytest.raises(ConfigError, match="name a model of the endpoint"):
        trainer.find_policy("tiny")
    with pytest.raises(ModelError, match="names no model at an endpoint"):
        asyncio.run(trainer.open_engine(tmp_path, EngineSettings(**HTTP), concurrency=1, seed=0))
    with pytest.raises(TrainError, match="cannot be trained"):
        asyncio.run(trainer.rl(None, None))  # type: ignore[arg-type]
    engine, chat = asyncio.run(
        trainer.open_engine(
            trainer.find_policy("org/m"),
            EngineSettings(**HTTP, max_context=99, max_tokens_field="max_completion_tokens"),
            concurrency=1,
            seed=0,
        )
    )
    assert isinstance(engine, HttpEngine) and engine.max_context == 99 and chat is engine.chat


def test_a_vllm_server_is_given_the_weights_of_the_version(tmp_path: Path) -> None:
    from tests.engine.serving import serving
    from tests.engine.test_local import llama
    from tests.engine.test_vllm import Server

    torch.set_num_threads(1)
    served, other = Server(LocalEngine(llama())), llama(seed=1)
    other.save_pretrained(tmp_path)

    async def go() -> None:
        async with serving(served.app) as url:
            engine = await open_vllm(tmp_path, EngineSettings(kind="vllm", url=url, model="policy", num_logprobs=64))
            assert engine._num_logprobs == 64
            await engine.close()

    asyncio.run(go())
    loaded = served.engine._model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in other.state_dict().items())
