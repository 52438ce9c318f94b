"""What a worker tells Prometheus, and only where the file says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError

from tests.gateway.servers import Mock, go, json_answer, running, settings, text_answer


def test_metrics_count_answers_refusals_and_what_was_spooled(tmp_path: Path) -> None:
    async def test() -> None:
        mock = Mock(lambda asked: json_answer(text_answer("ok"), 429 if asked["model"] == "busy" else 200))
        async with running(tmp_path, {"a": mock}, metrics=True) as gateway:
            for _ in range(3):
                await gateway.chat("hi")
            await gateway.http.post("/v1/chat/completions", json={"model": "busy", "messages": [{"role": "user"}]})
            await gateway.http.post("/v1/chat/completions", json={"model": "x"})
            await gateway.frames("call", 4)
            told = await gateway.http.get("/metrics", headers={"Authorization": ""})
            assert told.headers["content-type"].startswith("text/plain")
            families = text_string_to_metric_families(told.text)
            found = {(s.name, *sorted(s.labels.values())): s.value for family in families for s in family.samples}
            assert found["flyball_gateway_answers_total", "200", "stable"] == 3
            assert found["flyball_gateway_answers_total", "429", "stable"] == 1
            assert found["flyball_gateway_seconds_count", "stable"] == 4
            assert found["flyball_gateway_first_byte_seconds_bucket", "+Inf", "stable"] == 4
            assert found["flyball_spool_accepted_total", "call", "stable"] == 4
            (refused,) = [value for name, value in found.items() if name[0] == "flyball_gateway_refused_total"]
            assert refused == 1

    go(test)


def test_without_the_setting_there_is_no_such_page(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path, {"a": Mock(lambda asked: json_answer(text_answer("ok")))}) as gateway:
            assert (await gateway.http.get("/metrics")).status_code == 404

    go(test)


def test_several_workers_need_a_port_each(tmp_path: Path) -> None:
    upstreams = {"a": {"url": "https://a.example/v1"}}
    with pytest.raises(ValidationError, match="worker_port"):
        settings(tmp_path, upstreams, metrics=True, workers=2)
    assert settings(tmp_path, upstreams, metrics=True, workers=2, worker_port=9464).metrics
