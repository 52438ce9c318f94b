"""Judges: models behind any OpenAI-compatible server, asked concurrently, cached by content, counted and budgeted."""

from __future__ import annotations

import asyncio
import hashlib
import os
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import httpx
import orjson

from flyball.errors import ConfigError, Fault
from flyball.graders.flags import NotGraded
from flyball.tools.post import Poster, PostFailed

T = TypeVar("T")
OPENAI_URL = "https://api.openai.com/v1"
CACHED_ANSWERS = 20_000
"""How many answers stay in memory."""
WAIT_SECONDS = 0.01
"""Between two looks at a budget that does not bear another question yet."""


@dataclass
class JudgeUsage:
    """What one model was asked. `cached` answers cost nothing; `cost_usd` counts only models that have a price."""

    calls: int = 0
    cached: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0


class Judge:
    """One server of models that judge.

    `concurrency` bounds requests in flight. `prices`: model -> US dollars per million tokens (in, out). With
    `budget_usd` nothing more is asked once it is spent; graders then answer Missing. Money is put aside before a
    question is asked, as much as the dearest took so far: near the end of the budget questions wait for others to be
    answered, and the last one may exceed it, by its own price. `cache`: a folder that keeps answers between runs;
    without it they are kept in memory. The same question is asked once, also when it is asked twice at the same time.
    `embedding_model` is needed by `cosine` only.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        concurrency: int = 64,
        timeout_seconds: float = 120.0,
        max_retries: int = 3,
        backoff_seconds: float = 0.5,
        prices: Mapping[str, tuple[float, float]] | None = None,
        budget_usd: float | None = None,
        cache: str | Path | None = None,
        embedding_model: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise ConfigError(f"the judge's base_url {base_url!r} must start with http:// or https://")
        if concurrency < 1:
            raise ConfigError(f"concurrency is {concurrency}; a judge needs at least 1")
        self.base_url = base_url.rstrip("/")
        self.embedding_model = embedding_model
        self.usage: dict[str, JudgeUsage] = {}
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._prices = dict(prices or {})
        self._budget_usd = budget_usd
        self._in_flight = 0
        self._dearest_usd = 0.0
        self._answers = _Answers(Path(cache) if cache is not None else None)
        self._asking: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Task[Any]]] = (
            weakref.WeakKeyDictionary()
        )
        self._poster = Poster(
            concurrency=concurrency,
            timeout_seconds=timeout_seconds,
            max_retries=max_retries,
            backoff_seconds=backoff_seconds,
            transport=transport,
        )

    @property
    def cost_usd(self) -> float:
        """What was spent so far."""
        return sum(usage.cost_usd for usage in self.usage.values())

    @property
    def retries(self) -> int:
        """How often a request was sent again."""
        return self._poster.retries

    def check(self, model: str) -> None:
        """Raise ConfigError when a budget could not be kept with this model."""
        if self._budget_usd is not None and model not in self._prices:
            raise ConfigError(
                f"judge {model!r} has no price and the judge has a budget; pass prices={{{model!r}: (in, out)}}, "
                "US dollars per million tokens"
            )

    async def complete(self, body: dict[str, Any], read: Callable[[str], T]) -> T:
        """Ask a chat completion and return what `read` makes of its text; only answers that read well are kept.

        Raises NotGraded: no answer after retries, a refusal, an answer that `read` refuses by ValueError, the budget.
        """
        return await self._ask("/chat/completions", body, lambda answer: _read_choice(answer, read))

    async def embed(self, model: str, texts: Sequence[str]) -> list[list[float]]:
        """Return one embedding per text. Raises NotGraded."""
        body = {"model": model, "input": list(texts)}
        return await self._ask("/embeddings", body, lambda answer: _read_embeddings(answer, len(texts)))

    async def aclose(self) -> None:
        """Close the connections of this event loop."""
        await self._poster.aclose()

    async def _ask(self, path: str, body: dict[str, Any], read: Callable[[Any], T]) -> T:
        usage = self.usage.setdefault(body["model"], JudgeUsage())
        text = orjson.dumps([self.base_url, path, body], option=orjson.OPT_SORT_KEYS)
        key = hashlib.sha256(text).hexdigest()
        if (answer := self._answers.get(key)) is not None:
            usage.cached += 1
            return read(answer)
        asking = self._asking.setdefault(asyncio.get_running_loop(), {})
        if key in asking:
            usage.cached += 1
        else:
            task = asking[key] = asyncio.ensure_future(self._fetch(path, body, usage))
            task.add_done_callback(lambda done: _settle(done, asking, key))
        answer = await asyncio.shield(asking[key])  # one caller that gives up does not take the answer from the others
        found = read(answer)
        self._answers.put(key, answer)
        return found

    async def _fetch(self, path: str, body: dict[str, Any], usage: JudgeUsage) -> Any:
        await self._afford()
        usage.calls += 1
        self._in_flight += 1
        try:
            answer = await self._poster.post(f"{self.base_url}{path}", body, self._headers)
        except PostFailed as failed:
            usage.failed += 1
            cause = f"judge {body['model']!r} at {self.base_url} {failed}"
            raise NotGraded("model_grader_server_error", cause, Fault.INFRASTRUCTURE) from None
        else:
            self._count(answer, body["model"], usage)
        finally:
            self._in_flight -= 1
        return answer

    async def _afford(self) -> None:
        """Wait until the budget bears one more question beside those in flight. Raises NotGraded when it is spent."""
        if self._budget_usd is None:
            return
        while self.cost_usd < self._budget_usd:
            if not self._in_flight:
                return  # alone, it may take all that is left; before a first answer nobody knows what one takes
            if self._dearest_usd and self.cost_usd + (self._in_flight + 1) * self._dearest_usd <= self._budget_usd:
                return
            await asyncio.sleep(WAIT_SECONDS)  # those in flight may belong to another event loop, so nobody wakes us
        raise NotGraded(
            "other_error",
            f"the judge's budget of {self._budget_usd:g} US dollars is spent ({self.cost_usd:.4g} so far); "
            "raise budget_usd and grade again with `flyball grade`",
            Fault.INFRASTRUCTURE,
        )

    def _count(self, answer: Any, model: str, usage: JudgeUsage) -> None:
        told = answer.get("usage") if isinstance(answer, dict) else None
        numbers = [told.get(key, 0) for key in ("prompt_tokens", "completion_tokens")] if isinstance(told, dict) else []
        if not numbers or not all(isinstance(n, int) and n >= 0 for n in numbers):
            if self._budget_usd is not None:
                raise NotGraded(
                    "other_error", f"judge {model!r} reports no token usage, so its budget cannot be kept; remove it"
                )
            return
        tokens_in, tokens_out = numbers
        usage.prompt_tokens += tokens_in
        usage.completion_tokens += tokens_out
        price_in, price_out = self._prices.get(model, (0.0, 0.0))
        cost = (tokens_in * price_in + tokens_out * price_out) / 1e6
        usage.cost_usd += cost
        self._dearest_usd = max(self._dearest_usd, cost)


@cache
def _shared(base_url: str, api_key: str | None) -> Judge:
    return Judge(base_url, api_key=api_key)


def judge_from_environment(who: str) -> Judge:
    """Return the one judge of OPENAI_BASE_URL and OPENAI_API_KEY, as OpenAI's own client reads them.

    Raises ConfigError, in the name of the grader `who`, when neither is set.
    """
    base_url, api_key = os.environ.get("OPENAI_BASE_URL"), os.environ.get("OPENAI_API_KEY")
    if not base_url and not api_key:
        raise ConfigError(
            f"{who} asks a model and no server is known; set OPENAI_BASE_URL (any OpenAI-compatible server) and "
            "OPENAI_API_KEY, or pass judge=fb.Judge('http://...')"
        )
    return _shared(base_url or OPENAI_URL, api_key)


def _settle(done: asyncio.Task[Any], asking: dict[str, asyncio.Task[Any]], key: str) -> None:
    asking.pop(key, None)
    if not done.cancelled():
        done.exception()  # seen here, because every caller may have given up


class _Answers:
    """Answers by the digest of their question, in memory or, one file each, in a folder."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._recent: OrderedDict[str, Any] = OrderedDict()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> Any:
        if key in self._recent:
            self._recent.move_to_end(key)
            return self._recent[key]
        path = self._folder / f"{key}.json" if self._folder is not None else None
        if path is None or not path.exists():
            return None
        try:
            return orjson.loads(path.read_bytes())
        except orjson.JSONDecodeError:
            return None  # torn by a power cut; it is asked again and written anew

    def put(self, key: str, answer: Any) -> None:
        self._recent[key] = answer
        if len(self._recent) > CACHED_ANSWERS:
            self._recent.popitem(last=False)
        if self._folder is not None:
            partial = self._folder / f"{key}.{os.getpid()}.partial"
            partial.write_bytes(orjson.dumps(answer))
            partial.replace(self._folder / f"{key}.json")


def _read_choice(answer: Any, read: Callable[[str], T]) -> T:
    try:
        choice = answer["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        content, refusal = message.get("content"), message.get("refusal")
    except (TypeError, KeyError, IndexError, AttributeError):
        what = f"the judge's server answered no chat completion: {str(answer)[:120]!r}"
        raise NotGraded("model_grader_server_error", what, Fault.INFRASTRUCTURE) from None
    if refusal:
        raise NotGraded("model_grader_refusal_error", f"the judge refused: {str(refusal)[:200]!r}")
    try:
        return read(content if isinstance(content, str) else "")
    except ValueError as error:
        cut = "; it was cut by its own length limit" if finish == "length" else ""
        raise NotGraded("model_grader_parse_error", f"the judge's answer is no grade: {error}{cut}") from None


def _read_embeddings(answer: Any, count: int) -> list[list[float]]:
    try:
        rows = sorted(answer["data"], key=lambda row: row["index"])
        vectors = [[float(x) for x in row["embedding"]] for row in rows]
    except (TypeError, KeyError, ValueError):
        vectors = []
    if len(vectors) != count or not all(vectors):
        what = f"the judge's server answered no {count} embeddings: {str(answer)[:120]!r}"
        raise NotGraded("model_grader_server_error", what, Fault.INFRASTRUCTURE)
    return vectors
