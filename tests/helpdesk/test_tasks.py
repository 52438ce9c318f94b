"""The generator: splits apart, families in their shares, the same bytes for the same seed."""

import json
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import phrases
import pytest
import stock
import surfaces
import tasks
import tickets
from desk import Desk
from desk_attempts import task_of
from nearness import Nearness

from flyball.tasks.dataset import load_tasks
from flyball.tasks.leakage import leakage
from flyball.tasks.world import WorldSpec

EXAMPLE = Path(tasks.__file__)


@pytest.fixture(scope="module")
def rows():
    return tasks.generate(seed=3, train=900)


def by_split(rows):
    splits = defaultdict(list)
    for row in rows:
        splits[row["split"]].append(row)
    return splits


def test_splits_share_no_task_no_snapshot_and_no_near_duplicate(rows):
    assert len({row["snapshot"] for row in rows}) == len(rows) == len({row["id"] for row in rows})
    splits = {name: [task_of(row) for row in group] for name, group in by_split(rows).items()}
    assert set(splits) == {"train", "validation", "test", "ood", "tools", "adversarial"}
    names = sorted(splits)
    for i, name in enumerate(names):
        others = [task for other in names[i + 1 :] for task in splits[other]]
        assert leakage(splits[name], others, threshold=tasks.THRESHOLD, compare=["ticket"]) == []


def test_a_near_duplicate_is_found_and_a_text_of_the_same_split_is_not():
    index = Nearness(0.8)
    index.add("Please cancel my order A100 for the lamp today, I found it cheaper somewhere else", "test")
    again = "please cancel my order A100 for the lamp today; I found it cheaper somewhere"
    assert index.near(again, "train") and not index.near(again, "test")
    assert not index.near("Please refund my order A100 for the lamp today, I found it broken in the box", "train")


def test_families_come_in_their_shares(rows):
    for split, group in by_split(rows).items():
        shares = tasks.ADVERSARIAL_SHARES if split == "adversarial" else tasks.SHARES
        assert sum(shares.values()) == 100
        counts = Counter(row["family"] for row in group)
        for family, share in shares.items():
            assert abs(counts[family] - len(group) * share / 100) < 1


def test_every_family_is_written_in_at_least_twelve_ways(rows):
    templates = defaultdict(set)
    splits = by_split(rows)
    for row in splits["train"] + splits["validation"] + splits["test"] + splits["tools"]:
        templates[row["family"]].add(row["cluster"].rsplit(":")[0])
    assert {family: len(found) for family, found in templates.items() if len(found) < 12} == {}


def test_stages_follow_the_calls_needed(rows):
    for row in rows:
        calls = row["hidden"]["calls"]
        assert row["stage"] == ("single_tool" if calls == 1 else "long" if calls > 5 else "two_to_five")
    assert {row["stage"] for row in by_split(rows)["test"]} == {"single_tool", "two_to_five", "long"}


def test_tickets_are_short_and_the_policy_is_too(rows):
    assert max(len(row["ticket"].split()) for row in rows) <= tickets.MAX_WORDS
    assert len((Desk.__doc__ or "").split()) <= 120


def test_ood_has_unseen_products_phrasings_and_combinations(rows):
    assert not set(stock.ITEMS) & set(stock.UNSEEN_ITEMS)
    assert not {frozenset(pair) for pair in tickets.PAIRS} & {frozenset(pair) for pair in tickets.UNSEEN_PAIRS}
    assert not {frozenset(three) for three in tickets.TRIPLES} & {frozenset(three) for three in tickets.UNSEEN_TRIPLES}
    for seen, unseen in (
        (phrases.SEEN, phrases.UNSEEN),
        (phrases.WITHOUT_NUMBER, phrases.UNSEEN_WITHOUT_NUMBER),
        (phrases.CLAUSES, phrases.UNSEEN_CLAUSES),
    ):
        assert all(not set(seen[kind]) & set(unseen[kind]) for kind in seen)
    splits = by_split(rows)
    assert {row["snapshot"][0] for row in splits["ood"]} == {"u"}
    assert not any(row["snapshot"][0] in "um" for row in splits["train"])


def test_surface_pools_share_no_name_and_every_surface_fits_the_desk(rows):
    def names(pool):
        tools = {f"{v} {n}" for tool in pool.verbs for v in pool.verbs[tool] for n in pool.nouns[tool]}
        parameters = {name for names in pool.parameters.values() for name in names} | set(pool.codewords)
        texts = {text for group in pool.descriptions.values() for text in group}
        optional = {name for name, _ in pool.optional}
        return tools | parameters | texts | optional | {name for name, _, _ in pool.distractors}

    assert not names(surfaces.TRAIN) & names(surfaces.UNSEEN)
    world = WorldSpec(Desk)
    for row in rows:
        world.check(task_of(row))
    splits = by_split(rows)
    assert all(row["surface"]["rename"] for row in splits["tools"])
    share = sum(bool(row["surface"]) for row in splits["train"]) / len(splits["train"])
    assert abs(share - tasks.TRAIN_SURFACES) < 0.04
    shown = {new.get("name") for row in splits["train"] for new in row["surface"].get("rename", {}).values()}
    unseen = {new["name"] for row in splits["tools"] for new in row["surface"]["rename"].values()}
    assert not shown & unseen


def test_evaluation_rows_do_not_depend_on_how_much_is_trained_on(rows):
    few = tasks.generate(seed=3, train=10)
    assert [row for row in few if row["split"] != "train"] == [row for row in rows if row["split"] != "train"]


def test_another_seed_writes_other_tickets(rows):
    sizes = {"test": 60}
    here, there = ({row["ticket"] for row in tasks.generate(seed, 0, sizes)} for seed in (3, 4))
    assert len(here & there) <= 3


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    for name, seed in (("a", "5"), ("b", "5")):
        command = [sys.executable, str(EXAMPLE), "--out", str(tmp_path / name), "--seed", seed, "--train", "40"]
        subprocess.run(command, check=True)
    for name in ("tasks.jsonl", "demos.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    loaded = load_tasks(tmp_path / "a" / "tasks.jsonl")
    assert Counter(task.split for task in loaded) == {**tasks.EVALUATION, "train": 40}
    assert set(loaded[0].public) == {"ticket", "snapshot"}
    demos = [json.loads(line) for line in (tmp_path / "a" / "demos.jsonl").read_text().splitlines()]
    assert {demo["id"] for demo in demos} == {task.task_id for task in loaded if task.split == "train"}


def test_doing_nothing_never_succeeds(rows):
    assert tasks.null_rate(rows) == dict.fromkeys(by_split(rows), 0.0)
