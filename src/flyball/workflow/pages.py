"""The pages of a run: the one-page Reliability Brief, the report with learning curves and the hacking audit.

They lie beside its files and are made from the store alone, so `flyball report RUN` can write them again at any time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from flyball.config import EconomicsSettings
from flyball.errors import StoreError
from flyball.evals.reward_accuracy import refreshed_after
from flyball.evals.summary import summarise
from flyball.metrics import check, part
from flyball.release.hacking import HACKING_GATE
from flyball.release.verdict import is_ready
from flyball.reports.audit_page import AuditPage, audit_page_html, caught_examples, sections_of
from flyball.reports.brief import Cost, Guardrail, brief_html, brief_markdown, make_brief
from flyball.reports.budget import empty_lines
from flyball.reports.chart import Chart, Curve, curve
from flyball.reports.release_brief import refreshed
from flyball.reports.run_page import Example, Highlight, RunPage, failed_examples, run_page_html
from flyball.reports.tables import Grid, Summaries, group_grid, metric_grid, suite_grid
from flyball.reports.words import LOCALES, Text, message, words_of
from flyball.rollout.prices import Prices
from flyball.types import Estimate
from flyball.workflow.audits import audit_run
from flyball.workflow.evaluation import ORDER, PHASE
from flyball.workflow.record import BASELINE, CANDIDATE, Record

CHARTS = (
    ("Success while learning", "share", {"success_rate": "training attempts", "validation_success": "validation"}),
    ("Reward", "number", {"reward_mean": "training attempts", "validation_reward": "validation"}),
    ("KL to the reference", "number", {"kl": "KL"}),
    ("Loss of the cold start", "number", {"sft_loss/sft": "training", "sft_validation_loss/sft": "validation"}),
    ("Success while imitating", "share", {"validation_success/sft": "validation"}),
    ("Reward model", "share", {"reward_accuracy/reward_model": "right on tasks held out"}),
    ("Reward model on the policy it trains", "share", {"reward_model_accuracy/rl": "successes above failures"}),
    ("Held-out pairs", "share", {"preference_accuracy/preference": "chosen answer scores higher"}),
    (
        "Scores of pairs",
        "number",
        {"chosen_score/preference": "chosen answers", "rejected_score/preference": "rejected answers"},
    ),
    ("Gradient norm", "number", {"grad_norm": "gradient norm"}),
    ("Agreement of the halves of a batch", "number", {"gradient_cosine": "cosine of their gradients"}),
    ("History not as sampled", "share", {"forked_share": "forked calls", "realigned_share": "realigned calls"}),
    ("Entropy", "number", {"entropy": "entropy"}),
    ("Idle in a step", "share", {"trainer_idle_share": "trainer", "engine_idle_share": "engine"}),
    ("Age of the trained tokens", "number", {"staleness": "mean", "staleness/max": "oldest"}),
)
"""Title, scale, and the metrics with their labels; a chart without points is left out."""


METHODS = ("sft", "rejection_sft", "reward_model", "preference", "rl")
"""Stages of training that the catalogue has words for."""
AUDIT_FILE = "audit.html"


@dataclass(frozen=True)
class Pages:
    """Where the pages lie; `brief` is None for a run whose gates were not asked, `audit` for one without attempts."""

    report: Path
    brief: Path | None
    audit: Path | None


def write_pages(record: Record, locale: str | None = None) -> Pages:
    """Write the pages of a run into its folder and return their paths. Raises StoreError when the disk refuses.

    `locale` of the brief: one of `reports.words.LOCALES`; None = what the workflow file says.
    """
    folder = record.store.root / "runs" / record.run.run_id
    try:
        folder.mkdir(parents=True, exist_ok=True)
        brief = _write_brief(record, folder, locale or _locale(record)) if record.release else None
        audited = _audit_page(record)
        audit = folder / AUDIT_FILE if audited else None
        if audit is not None and audited is not None:
            audit.write_text(audit_page_html(audited), encoding="utf-8")
        report = folder / "report.html"
        report.write_text(run_page_html(_run_page(record, brief, audited)), encoding="utf-8")
    except OSError as exc:
        raise StoreError(
            f"{folder}: the pages cannot be written: {exc.strerror}; free the disk and run `report`"
        ) from exc
    return Pages(report, brief, audit)


def summaries_of(record: Record) -> Summaries:
    """Return the numbers of every arm on every suite."""
    latency = record.token_speed.seconds if record.token_speed else None
    return {
        arm: {suite: summarise(run, latency=latency) for suite, run in runs.items()}
        for arm, runs in record.evals.items()
    }


# --- the brief -------------------------------------------------------------------------------------------------------


def _locale(record: Record) -> str:
    """As the workflow file says; a run from before the setting existed has the default."""
    written: str = record.run.config["settings"].get("brief", {}).get("locale", LOCALES[0])
    return written


def _write_brief(record: Record, folder: Path, locale: str) -> Path:
    assert record.release is not None
    brief = make_brief(
        title=record.run.name,
        date=_today(record),
        run_id=record.run.run_id,
        baseline=record.arms[BASELINE],
        candidate=record.arms[CANDIDATE],
        release=record.release,
        evidence=record.evidence,
        summary=_summary(record),
        guardrails=_guardrails(record),
        limits=_limits(record),
        cost=_cost(record),
        unbudgeted=empty_lines(_budget(record)),
        verify=f"flyball show {record.run.run_id}",
    )
    (folder / "brief.html").write_text(brief_html(brief, locale), encoding="utf-8")
    (folder / "brief.md").write_text(brief_markdown(brief, locale), encoding="utf-8")
    return folder / "brief.html"


def _summary(record: Record) -> Text:
    how: list[Text] = [message(f"method.{stage}") for stage in record.results if stage in METHODS]
    if steps := refreshed_after(record.store, record.run.run_id):
        how.append(refreshed(steps))
    target = record.run.config["settings"]["workflow"]["target"]
    trained = message("summary.trained", policy=record.run.config["policy"], how=how)
    return message("summary.for", trained=trained, target=target) if target else trained


def _guardrails(record: Record) -> list[Guardrail]:
    settings = record.run.config["settings"]
    limits = [message("rail.limit", name=k, value=v) for k, v in settings["limits"].items() if v is not None]
    return [
        Guardrail(
            message("rail.limits"),
            True,
            message("rail.limits.of", limits=limits) if limits else message("rail.limits.task"),
        ),
        Guardrail(message("rail.tools"), True, message("rail.tools.of", n=len(record.arms[CANDIDATE].tools))),
        Guardrail(message("rail.back"), True, message("rail.back.of")),
        Guardrail(
            message("rail.canary"),
            False,
            message("rail.canary.of", share=settings["release"]["canary_traffic_percent"] / 100),
        ),
    ]


def _limits(record: Record) -> list[Text]:
    settings = record.run.config["settings"]["evaluation"]
    spoke = Counter(alarm.guard for alarm in record.alarms)
    guards = [message("limits.guard", name=name, n=times) for name, times in spoke.items()]
    said = [message("limits.guards", guards=guards, reason=record.alarms[-1].reason)] if guards else []
    return [
        *said,
        message("limits.uses", uses=[message("limits.use", suite=s, count=n) for s, n in record.suite_uses.items()]),
        message("limits.trials", n=settings["num_trials"], temperature=settings["temperature"]),
        _order(record),
        *_best_of(settings),
        message("limits.scripted"),
        message("limits.seed"),
    ]


def _best_of(evaluation: Mapping[str, Mapping[str, int | str]]) -> list[Text]:
    """How answers were picked, where more than one was drawn for a turn."""
    chosen = evaluation.get("best_of")
    return [message("limits.best_of", n=chosen["n"], model=chosen["reward_model"])] if chosen else []


def _order(record: Record) -> Text:
    """How baseline and candidate shared the time that the evaluation took."""
    both = [record.arms[BASELINE].version_id, record.arms[CANDIDATE].version_id]
    orders = record.store.events(record.run.run_id, ORDER)
    if any(set(both) <= {*event.payload["versions"]} for event in orders):
        return message("limits.in_turn")
    return message("limits.one_after_other")


def _cost(record: Record) -> Cost | None:
    before, after = (_overall(record, arm).get("cost_per_success_usd") for arm in (BASELINE, CANDIDATE))
    if before is None or after is None:
        return None
    written = {k: v for k, v in record.run.config["settings"]["prices"].items() if v is not None}
    prices = {**vars(Prices()), **written}
    said = [message("price", name=name.removeprefix("usd_per_"), usd=value) for name, value in prices.items()]
    return Cost(before, after, message("prices", prices=said))


def _budget(record: Record) -> EconomicsSettings:
    """As the workflow file says; a run from before there was a budget has an empty one."""
    return EconomicsSettings.model_validate(record.run.config["settings"].get("economics", {}))


# --- the report ------------------------------------------------------------------------------------------------------


def _audit_page(record: Record) -> AuditPage | None:
    """What is known of reward hacking in the run's attempts; None when it has none."""
    store, run_id = record.store, record.run.run_id
    if not store.count_attempts(run_id):
        return None
    gates = record.release.gates if record.release else ()
    return AuditPage(
        title=record.run.name,
        run_id=run_id,
        date=_today(record),
        num_attempts=store.count_attempts(run_id),
        sections=sections_of(audit_run(store, run_id)),
        gate=next((gate for gate in gates if gate.name == HACKING_GATE), None),
        examples=caught_examples(list(store.attempts(run_id, PHASE))),
    )


def _run_page(record: Record, brief: Path | None, audited: AuditPage | None) -> RunPage:
    release, compared = record.release, bool(record.evals.get(CANDIDATE))
    return RunPage(
        title=record.run.name,
        run_id=record.run.run_id,
        date=_today(record),
        verdict=release.verdict if release else record.run.status,
        ready=release is not None and is_ready(release.verdict),
        summary=words_of(LOCALES[0]).text(_summary(record)),
        highlights=_highlights(record) if compared else (),
        charts=charts_of(record.store.metrics(record.run.run_id)),
        grids=_grids(record) if compared else (),
        gates=release.gates if release else (),
        examples=_examples(record) if compared else (),
        alarms=record.alarms,
        facts=_facts(record),
        brief_file=brief.name if brief else "",
        audit_file=AUDIT_FILE if audited else "",
        audit=audited.summary if audited else "",
    )


def _highlights(record: Record) -> tuple[Highlight, ...]:
    first = record.comparisons[0]
    shown = [
        Highlight(f"success on {first.suite}", first.candidate_estimate, "candidate"),
        Highlight(f"change on {first.suite}", first.difference, "against the baseline, paired by task", signed=True),
    ]
    numbers = _overall(record, CANDIDATE)
    for name, label in (("safe", "safe"), ("reliability", "reliability")):
        if name in numbers:
            shown.append(Highlight(label, numbers[name], f"candidate, {first.suite}"))
    return tuple(shown)


def charts_of(curves: Mapping[str, Sequence[tuple[int, float]]]) -> tuple[Chart, ...]:
    """Return the learning curves of a run from its metrics by name, each with its n and the band of its interval."""
    charts = []
    for title, scale, names in CHARTS:
        drawn: list[Curve] = [_curve(label, name, curves) for name, label in names.items() if curves.get(name)]
        if drawn:
            unit = check(next(iter(names))).unit
            if len(drawn) == 1:  # a chart of one curve has no legend
                unit = ", ".join([unit, *drawn[0].label.split(", ")[1:]])
            charts.append(Chart(title, "step", unit, tuple(drawn), "share" if scale == "share" else "number"))
    return tuple(charts)


def _curve(label: str, name: str, curves: Mapping[str, Sequence[tuple[int, float]]]) -> Curve:
    """The points of a metric, with the band of its intervals where every point has one."""
    line = curve(label, curves[name])
    low, high, n = (dict(curves.get(part(name, of), ())) for of in ("low", "high", "n"))
    if n:
        fewest, most = min(n.values()), max(n.values())
        label = f"{label}, n={fewest:.0f}" + (f" to {most:.0f}" if most > fewest else "")
    if not low.keys() == high.keys() == set(line.x):
        return replace(line, label=label)
    return replace(line, label=label, low=tuple(low[int(x)] for x in line.x), high=tuple(high[int(x)] for x in line.x))


def _grids(record: Record) -> tuple[Grid, ...]:
    summaries, primary = summaries_of(record), record.comparisons[0].suite
    return (
        suite_grid(summaries),
        group_grid(summaries, primary, "family"),
        group_grid(summaries, primary, "stage"),
        metric_grid(summaries, primary),
    )


def _examples(record: Record) -> tuple[Example, ...]:
    candidate = record.arms[CANDIDATE].version_id
    attempts = record.store.attempts(record.run.run_id, "eval")
    return failed_examples(one for one in attempts if one.attempt.versions.get("policy") == candidate)


def _facts(record: Record) -> dict[str, str]:
    config = record.run.config
    facts = {"file": str(config["file"]), "policy": str(config["policy"])}
    facts |= {f"digest of {what}": digest[:12] for what, digest in config["fingerprint"].items() if what != "agent"}
    for stage, left in record.results.items():
        if found := left.get("confirmed"):
            interval = f"[{found['low']:.1%}, {found['high']:.1%}], n {found['n']}"
            facts[f"validation success after {stage}"] = f"{found['value']:.1%} {interval}"
    facts |= {arm: f"{version.name} {version.version_id[:12]}" for arm, version in record.arms.items()}
    return facts


def _overall(record: Record, arm: str) -> Mapping[str, Estimate]:
    """The numbers of an arm on the first suite, over all its results."""
    latency = record.token_speed.seconds if record.token_speed else None
    return summarise(next(iter(record.evals[arm].values())), latency=latency)[0].numbers


def _today(record: Record) -> str:
    """The day the run began: the same page each time it is written."""
    return datetime.fromisoformat(record.run.created_at).astimezone(UTC).date().isoformat()
