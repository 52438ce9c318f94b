"""The commands as people type them: what they print, and their exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flyball.cli.main import COMMANDS
from flyball.cli.main import flyball as group
from flyball.errors import TrainError
from flyball.store.store import Store
from flyball.workflow.fake import FakeTrainer, write_policy
from flyball.workflow.scaffold import examples
from flyball.workflow.stop import Stopped

from .conftest import Result

Run = Callable[..., Result]
FILE = "stock/workflow.py"


def run_id() -> str:
    with Store(Path(".flyball")) as store:
        return store.runs()[0].run_id


# --- help and errors -------------------------------------------------------------------------------------------------


def test_help_lists_every_command_with_its_own_words(flyball: Run) -> None:
    help_text = flyball("--help")
    assert help_text.code == 0
    for name, (_, summary) in COMMANDS.items():
        command = group.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        assert (command.help or "").split("\n")[0] == summary
        assert summary.split()[0] in help_text.out


def test_help_is_fast_because_it_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom flyball.cli.main import invoke\ninvoke(['--help'])\n"
        "print([m for m in ('torch', 'transformers', 'scipy', 'numpy', 'pydantic', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_python_m_flyball_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "flyball", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("flyball, version ")


def test_no_command_imports_torch_before_it_needs_a_model() -> None:
    code = (
        "import sys\nfrom flyball.cli.main import COMMANDS, invoke\n"
        "for name in COMMANDS:\n    invoke([name, '--help'])\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("Usage: flyball") == len(COMMANDS)
    assert done.stdout.splitlines()[-1] == "False"


def test_an_error_is_one_line_with_its_boundary_and_fault(flyball: Run) -> None:
    done = flyball("run", "nothing.py")
    assert done.code == 4
    assert done.err.startswith("error: [config] ")
    assert done.err.splitlines()[-1] == "fault: what was given"
    assert "Traceback" not in done.err


def test_debug_shows_the_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flyball.cli.main", "--debug", "run", "nothing.py"], capture_output=True, text=True
    )
    assert "Traceback" in done.stderr
    assert "ConfigError" in done.stderr


def test_wrong_usage_exits_2(flyball: Run) -> None:
    assert flyball("run").code == 2
    assert flyball("nonsense").code == 2
    assert "no store in" in flyball("runs").err


def test_an_unknown_command_is_answered_by_the_nearest_one(flyball: Run) -> None:
    for line, answer in (
        (["rnu"], "no command 'rnu'; did you mean 'run'?"),
        (["release", "aprove"], "no command 'aprove'; did you mean 'approve'?"),
        (["doctor", "grder", "workflow.py"], "no command 'grder'; did you mean 'grader'?"),
    ):
        done = flyball(*line)
        assert (done.code, answer in done.err) == (2, True), done.err
    assert "nothing.yaml: no such file" in flyball("doctor", "nothing.yaml").err


def test_a_number_that_is_none_is_refused_before_a_store_is_opened(flyball: Run) -> None:
    opened = ("incidents", "open", "i1", "--reason", "r", "--by", "me", "--home", "stock")
    for number in ("nan", "inf", "1e999"):
        for line in ((*opened, "--now", number), (*opened, "--began", number), ("release", "status", "--now", number)):
            done = flyball(*line)
            assert (done.code, f"'{number}' is not a finite number" in done.err) == (2, True), done.err


def test_the_list_of_commands_cuts_no_sentence(flyball: Run) -> None:
    for name in ("doctor", "release", "log", "incidents"):
        commands = flyball(name, "--help").out.partition("Commands:")[2]
        assert "..." not in commands and commands.rstrip().endswith(".")


# --- config and init -------------------------------------------------------------------------------------------------

NAPKIN = """\
workflow: {target: "one high-volume, multi-step support or ops task", baseline: "sft_checkpoint_v1", reward_model: "rm_v1", policy_training: "ppo_kl"}
release:
  canary_traffic_percent: 5
  gates: [no_safety_regression, latency_delta_lt_15_percent, cost_per_success_not_worse, rollback_under_5_minutes]
monitoring: [human_override_rate, tool_error_rate, policy_kl_drift, task_completion_quality]
"""  # noqa: E501


def test_the_napkin_file_is_accepted_and_refused_by_run(flyball: Run) -> None:
    Path("stock/napkin.yaml").write_text(NAPKIN)
    alone = flyball("config", "show", "stock/napkin.yaml")
    assert alone.code == 0
    assert alone.out.count("ready ") == 10
    assert alone.out.count("missing  ") == 4
    Path("stock/napkin.yaml").write_text("python: workflow.py\n" + NAPKIN)
    shown = flyball("config", "show", "stock/napkin.yaml")
    assert "built by this run workflow.baseline: sft_checkpoint_v1" in shown.out
    assert "14 entries, 1 missing" in shown.out
    refused = flyball("run", "stock/napkin.yaml")
    assert refused.code == 4
    assert "stock/napkin.yaml:2: workflow.reward_model 'rm_v1' is missing: no version of this name" in refused.err


def test_config_keys_lists_every_setting(flyball: Run) -> None:
    keys = flyball("config", "keys").out
    assert "training.rl.group_size" in keys
    assert "at least 2" in keys


def test_init_refuses_to_overwrite_and_names_examples(flyball: Run) -> None:
    assert flyball("init", "mine").code == 0
    again = flyball("init", "mine")
    assert again.code == 4
    assert "mine already exists" in again.err
    assert "neither an example nor a name" in flyball("init", "no good").err


def test_the_plan_of_90_days_names_commands_that_there_are(flyball: Run) -> None:
    flyball("init", "mine")
    named = re.findall(r"`flyball ([^`]+)`", Path("mine/plan-30-60-90.md").read_text(encoding="utf-8"))
    assert len(named) > 10
    for command in named:
        words = [word for word in command.split() if word.isalpha()][:2]
        assert flyball(*words, "--help").code == 0, command


def test_init_says_whether_it_wrote_an_example_or_a_skeleton(flyball: Run) -> None:
    assert "next: read release/README.md" in flyball("init", "release").out
    assert Path("release/traffic.py").is_file() and not Path("release/workflow.py").exists()
    mistyped = flyball("init", "helpdsk").out
    assert "wrote helpdsk/: a skeleton to start from (examples: agents, api_agent," in mistyped
    listed = flyball("init", "--help").out
    assert all(name in listed for name in examples())


def test_the_skeleton_passes_doctor(flyball: Run) -> None:
    flyball("init", "mine")
    done = flyball("doctor", "mine/workflow.py")
    assert done.code == 0, done.out
    assert "verdict: go" in done.out


def test_doctor_reads_a_chat_template_without_weights(flyball: Run, tmp_path: Path) -> None:
    from flyball.models.tiny import CHAT_TEMPLATE, train_tokenizer

    tokenizer = train_tokenizer(["hello"] * 3, 300)
    tokenizer.save_pretrained(tmp_path / "kept")
    forgetful = "{{ m.content or '' if loop.last else '' }}"
    tokenizer.chat_template = CHAT_TEMPLATE.replace("{{ m.content or '' }}", forgetful)
    tokenizer.save_pretrained(tmp_path / "forgetful")
    kept = flyball("doctor", "template", str(tmp_path / "kept"))
    assert kept.code == 0 and "tool calls: hermes, written by the template" in kept.out
    assert "verdict: prefix-stable" in kept.out
    lost = flyball("doctor", "template", str(tmp_path / "forgetful"))
    assert lost.code == 1 and "verdict: not prefix-stable" in lost.out
    assert "turn 2: the text of message 2 is left out once more is said" in lost.out
    assert "attempts go on as a new branch there" in lost.out
    assert f"{tmp_path} has no tokenizer (tokenizer.json" in flyball("doctor", "template", str(tmp_path)).err
    assert (
        "did you mean 'hermes'" in flyball("doctor", "template", str(tmp_path / "kept"), "--tool-format", "herme").err
    )


# --- runs ------------------------------------------------------------------------------------------------------------


def test_run_prints_the_proof_and_exits_0_whatever_the_gates_say(flyball: Run) -> None:
    done = flyball("run", FILE)
    assert done.code == 0
    assert "1. prepare data" in done.err, "the plan is printed before starting"
    for word in ("baseline", "candidate", "accept", "no_safety_regression", "verdict: not ready", "brief:", "report:"):
        assert word in done.out
    assert flyball("run", FILE, "--require-pass").code == 3

    listed = flyball("runs").out
    assert listed.count("finished") == 2
    shown = flyball("show", run_id(), "--failed")
    assert shown.code == 0
    assert "rehearse" not in shown.out and "drill" in shown.out
    assert "failure" in shown.out
    Path(f".flyball/runs/{run_id()}/report.html").unlink()
    assert flyball("report", run_id()).code == 0
    assert Path(f".flyball/runs/{run_id()}/report.html").is_file()


def test_ctrl_c_exits_130_and_says_how_to_go_on(flyball: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def pressed(self: object, job: object, watch: object) -> None:
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(FakeTrainer, "rl", pressed)
        done = flyball("train", FILE)
    assert done.code == 130
    assert f"flyball train --resume {run_id()}" in done.err
    resumed = flyball("train", "--resume", run_id())
    assert resumed.code == 0
    assert "SFT cold start  (done)" in resumed.err
    assert "stock-rl" in resumed.out
    assert flyball("train", FILE, "--resume", run_id()).code == 2


def test_a_training_error_is_one_line_and_kept(flyball: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(self: object, job: object, watch: object) -> None:
        raise TrainError("the loss is NaN; lower the learning rate")

    monkeypatch.setattr(FakeTrainer, "rl", broken)
    done = flyball("run", FILE)
    assert (done.code, "error: [train] the loss is NaN" in done.err) == (4, True)
    assert "failed" in flyball("runs").out


# --- eval ------------------------------------------------------------------------------------------------------------


def test_eval_against_a_baseline_exits_by_the_verdict(flyball: Run, tmp_path: Path) -> None:
    low, high = str(write_policy(tmp_path / "low", 0.1)), str(write_policy(tmp_path / "high", 1.0))
    accepted = flyball("eval", FILE, "--policy", high, "--against", low)
    assert (accepted.code, "accept" in accepted.out) == (0, True)
    rejected = flyball("eval", FILE, "--policy", low, "--against", high)
    assert (rejected.code, "reject" in rejected.out) == (1, True)
    undecided = flyball("eval", FILE, "--policy", low, "--against", str(write_policy(tmp_path / "same", 0.12)))
    assert undecided.code == 3
    assert "versions judged by these frozen suites so far: test 3" in undecided.out and "judged by" not in accepted.out
    broken = flyball("eval", FILE, "--policy", low, "--against", "nowhere")
    assert (broken.code, "error: [model]" in broken.err) == (4, True)  # no verdict, and told apart from a rejection


def test_versions_are_attempted_in_turn_and_the_order_is_kept(flyball: Run, tmp_path: Path) -> None:
    low, high = str(write_policy(tmp_path / "low", 0.1)), str(write_policy(tmp_path / "high", 1.0))
    flyball("eval", FILE, "--policy", high, "--against", low)
    with Store(Path(".flyball")) as store:
        orders = [event.payload for event in store.events(run_id(), "order")]
        runs = store.evals(run_id=run_id())
    assert [order["suite"] for order in orders] == ["test", "adversarial"]
    turns = orders[0]["turns"]
    pairs = list(zip(turns[::2], turns[1::2], strict=True))
    assert all(one[1:] == two[1:] and {one[0], two[0]} == {0, 1} for one, two in pairs)
    assert len({one[0] for one, _ in pairs}) == 2, "who comes first is drawn"
    assert {tuple(run.conditions) for run in runs} == {("agent", "world", "sampling", "best_of", "seed", "prices")}


def test_a_protected_slice_of_the_workflow_decides_with_its_suite(flyball: Run, tmp_path: Path) -> None:
    low, high = str(write_policy(tmp_path / "low", 0.1)), str(write_policy(tmp_path / "high", 1.0))
    written = "python: workflow.py\nevaluation:\n  slices:\n    odd ones: {where: {family: odd}, margin: 0.05}\n"
    Path("stock/slices.yaml").write_text(written)
    done = flyball("eval", "stock/slices.yaml", "--policy", high, "--against", low)
    assert "test/odd ones: +" in done.out and "test and its protected slices (1)" in done.out
    assert "verdict on test and every protected slice: " in done.out
    assert flyball("show", run_id()).out.count("odd ones") >= 1
    Path("stock/slices.yaml").write_text(written.replace("family: odd", "family: [oddd, odder]"))
    wrong = flyball("eval", "stock/slices.yaml", "--policy", high, "--against", low)
    assert (wrong.code, "no task has family oddd or odder; did you mean 'odd'" in wrong.err) == (4, True)


def test_fresh_tasks_are_drawn_for_one_run_and_judge_it(flyball: Run, tmp_path: Path) -> None:
    code = Path(FILE).read_text().replace('    name="stock"', '    fresh=fresh,\n    name="stock"')
    made = """def fresh(seed, n):
    from flyball.types import Task
    return [Task(str(i), {"ticket": f"customer {seed} wants {i}", "shelf": 9}, {"amount": i}) for i in range(n)]


workflow = Workflow("""
    Path(FILE).write_text(code.replace("workflow = Workflow(", made))
    Path("stock/fresh.yaml").write_text("python: workflow.py\nevaluation: {fresh_tasks: 7}\n")
    pair = ("--policy", str(write_policy(tmp_path / "p", 1.0)), "--against", str(write_policy(tmp_path / "q", 0.5)))
    done = flyball("eval", "stock/fresh.yaml", *pair)
    assert "fresh, trials with an outcome: baseline 100.0 %" in done.out and "n=7" in done.out
    flyball("eval", "stock/fresh.yaml", *pair)
    with Store(Path(".flyball")) as store:
        digests = {run.suite_digest for run in store.evals(suite="fresh")}
    assert len(digests) == 2, "another run, another suite"
    Path(FILE).write_text(code.replace("    fresh=fresh,\n", ""))
    assert "fresh_tasks needs the workflow's `fresh`" in flyball("eval", "stock/fresh.yaml", *pair).err


def test_the_trend_of_a_suite_breaks_where_its_tasks_change(flyball: Run, tmp_path: Path) -> None:
    for share in (0.2, 0.9):
        flyball("eval", FILE, "--policy", str(write_policy(tmp_path / f"p{share}", share)))
    done = flyball("trend", "test")
    assert done.code == 0 and done.out.count("judged by") == 1
    assert [line.split()[1] for line in done.out.splitlines() if "-eval-" in line] == ["p0.2", "p0.9"]
    rows = Path("stock/tasks.jsonl").read_text().splitlines()
    changed = [row for row in rows if '"test"' not in row] + [row for row in rows if '"test"' in row][1:]
    Path("stock/tasks.jsonl").write_text("\n".join(changed))
    flyball("eval", FILE, "--policy", str(tmp_path / "p0.9"))
    assert flyball("trend", "test").out.count("judged by") == 2
    assert "did you mean 'test'" in flyball("trend", "tset").err
    assert "did you mean 'success'" in flyball("trend", "test", "--metric", "sucess").err


def test_best_of_n_is_refused_where_it_could_not_choose(flyball: Run) -> None:
    written = "python: workflow.py\nevaluation: {best_of: {n: 2, reward_model: judge}%s}\n"
    Path("stock/best.yaml").write_text(written % "")
    greedy = flyball("eval", "stock/best.yaml", "--policy", "p")
    assert (greedy.code, "best.yaml:2: at temperature 0 the best of 2" in greedy.err) == (4, True)
    Path("stock/best.yaml").write_text(written % ", temperature: 1.0")
    assert "stock/judge holds no reward model" in flyball("eval", "stock/best.yaml", "--policy", "p").err


def test_the_plan_says_what_suites_can_show_and_runs_nothing(flyball: Run, tmp_path: Path) -> None:
    planned = flyball("eval", FILE, "--plan", "--effect", "0.2")
    assert planned.code == 0 and "for 20 points" in planned.out and "worst case" in planned.out
    assert "no task of these suites repeats a training task" in planned.out and not Path(".flyball").exists()
    flyball(
        "eval",
        FILE,
        "--policy",
        str(write_policy(tmp_path / "p", 0.4)),
        "--against",
        str(write_policy(tmp_path / "q", 0.6)),
    )
    assert "as the last two versions differed" in flyball("eval", FILE, "--plan").out
    rows = Path("stock/tasks.jsonl").read_text()
    copied = json.loads(rows.splitlines()[0]) | {"id": "seen", "split": "test"}
    Path("stock/tasks.jsonl").write_text(rows + json.dumps(copied) + "\n")
    assert "1 of " in (seen := flyball("eval", FILE, "--plan").out) and "'seen' and 'train-0'" in seen
    assert flyball("eval", FILE, "--effect", "0.1").code == 2
    assert flyball("eval", FILE, "--plan", "--policy", "p").code == 2


def test_doctor_tools_tells_what_a_tool_is_worth(flyball: Run, tmp_path: Path) -> None:
    policy = str(write_policy(tmp_path / "high", 1.0))
    found = flyball("doctor", "tools", FILE, "--ablate", "--policy", policy)
    assert found.code == 0 and "success without it" in found.out
    (row,) = [line for line in found.out.splitlines() if line.startswith("take ")]
    assert "−100.0 points [" in row and "n=" in row
    called = flyball("doctor", "tools", FILE)
    assert called.code == 0 and "Python tools, not called: " in called.out
    assert flyball("doctor", "tools", FILE, "--limit", "1").code == 2
    made_later = flyball("doctor", "tools", FILE, "--ablate")
    assert made_later.code == 4 and "policy 'tiny' is made by a run" in made_later.err


def test_eval_alone_takes_the_newest_version(flyball: Run) -> None:
    missing = flyball("eval", FILE)
    assert missing.code == 4
    assert "no version of 'stock' was trained yet" in missing.err
    flyball("train", FILE)
    done = flyball("eval", FILE)
    assert done.code == 0
    assert "test" in done.out and "adversarial" in done.out


def test_eval_of_a_folder_that_holds_no_policy(flyball: Run) -> None:
    done = flyball("eval", FILE, "--policy", "stock")
    assert (done.code, "error: [model]" in done.err) == (4, True)


# --- grade -----------------------------------------------------------------------------------------------------------


def test_grade_prints_what_changed_and_keeps_both_judgements(flyball: Run) -> None:
    flyball("train", FILE)
    same = flyball("grade", run_id())
    assert same.code == 0
    assert "12 attempts judged by" in same.out
    assert "(the same graders): 0 changed" in same.out
    code = Path(FILE).read_text()
    Path(FILE).write_text(code.replace('return a.state == {"taken": hidden["amount"]} and', "return False and"))
    changed = flyball("grade", run_id(), "--phase", "rl")
    assert "graders changed" in changed.out
    assert "yes -> no" in changed.out
    with Store(Path(".flyball")) as store:
        attempt = next(iter(store.attempts(run_id(), "rl")))
        assert len(store.judgements(run_id(), attempt.attempt.attempt_id)) == 2


def test_show_one_attempt(flyball: Run) -> None:
    flyball("train", FILE)
    with Store(Path(".flyball")) as store:
        attempt = next(iter(store.attempts(run_id())))
    shown = flyball("show", run_id(), attempt.attempt.attempt_id)
    assert attempt.attempt.task.public["ticket"] in shown.out
    assert "state: " in shown.out
    assert flyball("show", run_id(), "nothing").code == 4


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("", "[dataset] "),
        ('{"id": "a"\n', "tasks.jsonl:1: not JSON"),
        ('{"id": "a", "ticket": "x", "shelf": 1}\n{"id": "a"}\n', "already used on line 1"),
        ('{"id": "a", "shelf": 1, "split": "test"}\n', "needs the field 'ticket'"),
    ],
)
def test_bad_task_files_are_named(flyball: Run, rows: str, words: str) -> None:
    Path("stock/tasks.jsonl").write_text(rows)
    Path("stock/w.yaml").write_text("python: workflow.py\nevaluation: {suites: [test]}\n")
    done = flyball("run", "stock/w.yaml")
    assert done.code == 4
    assert words in done.err
    assert not Path(".flyball/runs").exists()


def test_a_suite_without_tasks_is_named_where_it_was_written(flyball: Run) -> None:
    Path("stock/w.yaml").write_text("python: workflow.py\nevaluation:\n  suites: [test, odd]\n")
    done = flyball("run", "stock/w.yaml")
    assert "stock/w.yaml:3: unknown split 'odd' in evaluation.suites" in done.err


def test_a_world_that_raises_in_reset_is_missing_not_zero(flyball: Run, tmp_path: Path) -> None:
    code = Path(FILE).read_text().replace("self.shelf, self.taken = shelf, 0", "self.shelf, self.taken = 1 / 0, 0")
    Path(FILE).write_text(code)
    done = flyball("eval", FILE, "--policy", str(write_policy(tmp_path / "p", 1.0)))
    assert done.code == 0 and "none of the 24 attempts at the suite 'test' has an outcome; 24 times: " in done.err
    shown = flyball("show", run_id(), "--failed")
    assert "missing (infrastructure)" in shown.out
    assert "ZeroDivisionError" in shown.out


def test_a_grader_that_raises_is_the_graders_fault(flyball: Run, tmp_path: Path) -> None:
    Path(FILE).write_text(Path(FILE).read_text().replace('hidden["amount"]} and', 'hidden["amuont"]} and'))
    done = flyball("eval", FILE, "--policy", str(write_policy(tmp_path / "p", 1.0)))
    assert done.code == 0
    assert "missing (grader)" in flyball("show", run_id(), "--failed").out


def test_a_demonstration_file_that_is_malformed(flyball: Run) -> None:
    code = Path(FILE).read_text().replace("oracle=oracle", 'demonstrations="demos.jsonl"')
    Path(FILE).write_text(code)
    assert "demos.jsonl: cannot be read" in flyball("run", FILE).err
    Path("stock/demos.jsonl").write_text(json.dumps({"id": "train-0"}) + "\n")
    assert 'demos.jsonl:1: a row is {"id": task id' in flyball("run", FILE).err


def test_a_store_that_cannot_be_opened(flyball: Run) -> None:
    Path("home").write_text("a file")
    done = flyball("run", FILE, "--home", "home")
    assert done.code in (1, 2)
    assert "home" in done.err
    assert "Traceback" not in done.err
