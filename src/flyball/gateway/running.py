"""A gateway that is running, as a release sees it (`release.serving.Gateway`): each worker asked over HTTP.

A probe is a chat completion on the whole path that users take, with the header `x-flyball-probe`: the version that
answered is told by the worker that passed the answer on. It costs one short answer of a model for each worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import httpx

from flyball.errors import ConfigError, ReleaseError
from flyball.gateway.settings import GatewaySettings, secret
from flyball.release.serving import Answer, Observed

_QUESTION = [{"role": "user", "content": "Answer with the word: ready"}]


class RunningGateway:
    """Asks the workers at `addresses` (one each) with an operator's key. To be closed, or used in `with`.

    `model`: what a probe asks for, unless the upstream has a `model` of its own. `seconds` bounds one answer. A worker
    that cannot be reached answers by table 0, so nothing is verified as long as it may serve somebody.
    """

    def __init__(self, addresses: Sequence[str], key: str, *, model: str = "probe", seconds: float = 60.0) -> None:
        if not addresses:
            raise ConfigError("a running gateway has at least one worker; give the address of each")
        self._addresses, self._model = tuple(addresses), model
        # Workers are reached at their own addresses, never through a proxy that the environment names.
        self._http = httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=seconds, trust_env=False)
        self._threads = ThreadPoolExecutor(len(self._addresses))

    @classmethod
    def of(cls, settings: GatewaySettings) -> RunningGateway:
        """The gateway of a file. Raises ConfigError where its workers have no address, or nobody is an operator."""
        operator = next((key for key in settings.keys if key.role == "operator"), None)
        if operator is None:
            raise ConfigError("probes need a key with `role: operator` in the gateway's file; add one")
        return cls(settings.worker_addresses, secret(operator.key_env, "keys"))

    def __enter__(self) -> RunningGateway:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._threads.shutdown()
        self._http.close()

    def probe(self, key: str) -> list[Answer]:
        """One answer of every worker to a request with this key. Raises ReleaseError where the key is no operator's."""
        return list(self._threads.map(lambda address: self._probe(address, key), self._addresses))

    def check_answers(self) -> None:
        """Raise ReleaseError where a worker answers no probe: then there is nothing to rehearse on."""
        if silent := [answer.worker for answer in self.probe("") if not answer.version]:
            raise ReleaseError(
                f"{', '.join(silent)} gave no answer to a probe: start the gateway of this file (`flyball gateway`) "
                "and see that its model answers"
            )

    def observed(self, candidate: str, since: float) -> Observed:
        """Who answered users from `since` (seconds since 1970, at most a minute ago) until now.

        Raises ReleaseError where a worker does not tell, for what it does not tell may be the candidate's.
        """
        told = list(self._threads.map(lambda address: self._answered(address, since), self._addresses))
        return Observed(sum(sum(one.values()) for one in told), sum(one.get(candidate, 0) for one in told))

    def _probe(self, address: str, key: str) -> Answer:
        body = {"model": self._model, "messages": _QUESTION}
        try:
            found = self._http.post(f"{address}/v1/chat/completions", json=body, headers={"x-flyball-probe": key})
        except httpx.TransportError:
            return Answer(address, 0, "")
        _check_allowed(address, found)
        if found.status_code != 200:
            return Answer(address, 0, "")
        return Answer(address, int(found.headers["x-flyball-table"]), found.headers["x-flyball-version"])

    def _answered(self, address: str, since: float) -> dict[str, int]:
        try:
            found = self._http.get(f"{address}/v1/flyball/answered", params={"since": since})
        except httpx.TransportError as error:
            raise ReleaseError(f"worker {address} does not tell whom it served: {error}") from error
        _check_allowed(address, found)
        if found.status_code != 200:
            raise ReleaseError(f"worker {address} does not tell whom it served: {found.text[:200]}")
        return dict(found.json()["versions"])


def _check_allowed(address: str, found: httpx.Response) -> None:
    if found.status_code in (401, 403):
        raise ReleaseError(f"worker {address} refuses this key: {found.text[:200]}; probes need an operator's")
