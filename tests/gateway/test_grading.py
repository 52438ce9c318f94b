"""Captured sessions become attempts that the graders of training read; a sample of them is graded once."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from flyball.cli.main import invoke
from flyball.errors import ConfigError
from flyball.gateway.captured import attempt_of, captured_sessions
from flyball.gateway.grading import draw, grade_live
from flyball.graders.grade import GraderSet
from flyball.graders.make import as_grader
from tests.gateway.servers import Mock, go, ingested, json_answer, running, text_answer, tool_call

LOOK = tool_call("look", '{"n": 1}')


def answer(asked: dict[str, Any]) -> Any:
    last = asked["messages"][-1]
    return json_answer(text_answer("seen 5") if last["role"] == "tool" else text_answer("", tool_calls=[LOOK]))


async def one_session(tmp_path: Path) -> None:
    async with running(tmp_path, {"a": Mock(answer)}) as gateway:
        at: dict[str, Any] = {"path": "/s/s1/v1/chat/completions"}
        asked = [{"role": "system", "content": "Look."}, {"role": "user", "content": "hi"}]
        said = (await gateway.chat(*asked, **at)).json()["choices"][0]["message"]
        await gateway.chat(*asked, said, {"role": "tool", "tool_call_id": "c1", "content": "5"}, **at)
        await gateway.chat("summarise", headers={"x-flyball-agent": "summary"}, **at)
        await gateway.frames("call", 3)


def test_a_captured_session_is_an_attempt(tmp_path: Path) -> None:
    go(lambda: one_session(tmp_path))
    with ingested(tmp_path) as store:
        ((key, calls),) = captured_sessions(store).items()
        (record,) = store.served_sessions()
    assert key == ("shop", "s1") and record.tool_calls_count == 2
    attempt = attempt_of(calls)
    assert [m["role"] for m in attempt.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert attempt.answer == "seen 5" and attempt.task.hidden == {}
    (result,) = attempt.tool_results
    assert (result.name, result.content) == ("look", "5")
    assert [len(branch.calls) for branch in attempt.trajectory.branches()] == [2, 1]
    assert (attempt.usage.tokens_in, attempt.usage.tokens_out) == (21, 9)


def test_sessions_are_graded_once_and_a_failed_grader_writes_nothing(tmp_path: Path) -> None:
    go(lambda: one_session(tmp_path))

    def says_five(attempt: Any, hidden: Any) -> bool:
        return "5" in attempt.answer

    def broken(attempt: Any, hidden: Any) -> bool:
        raise RuntimeError("boom")

    with ingested(tmp_path) as store:

        def grade(judge: Any) -> Any:
            graders = GraderSet(as_grader(judge, "success", decides=True))
            return asyncio.run(grade_live(store, graders, shares={"stable": 1.0}))

        assert (grade(says_five).graded, grade(says_five).graded) == (1, 0)
        failed = grade(broken)
        assert failed.graded == 0 and "boom" in failed.missing["shop", "s1"]
        (told,) = store.feedback()
        assert (told.outcome, told.session, told.score) == (True, "s1", 1.0)
        assert store.served_sessions()[0].outcome is True


def test_the_sample_is_stratified_by_arm_and_the_same_again() -> None:
    names = ("stable", "canary", "holdback")
    arms = {("p", f"s{i}"): names[i % 3] for i in range(3000)}
    shares = {"stable": 0.1, "canary": 0.5, "holdback": 0.5}
    drawn = draw(arms, arms, shares, "salt")
    counts = Counter(drawn.values())
    assert 70 < counts["stable"] < 140 and 440 < counts["canary"] < 560 and 440 < counts["holdback"] < 560
    assert draw(dict(reversed(arms.items())), arms, shares, "salt") == drawn
    for wrong in ({"canary": 0.5, "holdback": 0.1}, {"stable": 1.5}):
        with pytest.raises(ConfigError):
            draw(arms, arms, wrong, "salt")


WORKFLOW = """
import flyball as fb
class World:
    def reset(self) -> str:
        return ""
def success(a, hidden):
    return "5" in a.answer
workflow = fb.Workflow(world=World, tasks=[fb.Task("t", {})], success=success)
"""


def test_the_command_reads_the_spool_and_grades_what_is_new(tmp_path: Path, capsys: Any) -> None:
    go(lambda: one_session(tmp_path))
    (tmp_path / "workflow.py").write_text(WORKFLOW)
    command = ["grade-live", str(tmp_path / "workflow.py"), "--share", "1", "--home", str(tmp_path / "store")]
    assert invoke(command) == 0 and "1 sessions in the sample, 1 graded now" in capsys.readouterr().out
    assert invoke(command) == 0 and "1 sessions in the sample, 0 graded now" in capsys.readouterr().out
