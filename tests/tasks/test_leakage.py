"""Leaks between splits."""

import random

from flyball.tasks.leakage import jaccard, leakage, shingles
from flyball.types import Task


def task(task_id: str, text: str, split: str = "test", **public: object) -> Task:
    return Task(task_id, {"ticket": text, **public}, split=split)


TRAIN = [
    task("t1", "Please tell me where my order A17 is right now, I ordered it last week", "train"),
    task("t2", "Cancel order B22, I found it cheaper", "train"),
]


def test_the_same_id_the_same_text_and_nearly_the_same_text() -> None:
    others = [
        task("t1", "Something else entirely"),
        task("n1", "Cancel order B22, I found it cheaper"),
        task("n2", "PLEASE tell me where my order A17 is right now; I ordered it last week!", "ood"),
        task("n3", "Please give me my money back for order A17"),
    ]
    leaks = leakage(TRAIN, others)
    assert [(leak.kind, leak.train_id, leak.other_id, leak.other_split) for leak in leaks] == [
        ("same_id", "t1", "t1", "test"),
        ("same_task", "t2", "n1", "test"),
        ("near_duplicate", "t1", "n2", "ood"),
    ]
    assert leaks[2].similarity == 1.0


def test_similarity_by_hand() -> None:
    # a b c d -> {abc, bcd}; a b c e -> {abc, bce}; one of three is shared
    one, two = shingles(task("x", "a b c d")), shingles(task("y", "A, b; c e"))
    assert len(one) == 2 and jaccard(one, two) == 1 / 3
    assert jaccard(frozenset(), frozenset()) == 0.0


def test_fields_that_are_not_compared_do_not_count() -> None:
    train = [task("a", "where is my order", "train", snapshot="s1")]
    other = [task("b", "where is my order", snapshot="s2")]
    assert [leak.kind for leak in leakage(train, other, compare=["ticket"])] == ["same_task"]
    assert leakage(train, other) == []


def test_the_index_finds_what_comparing_all_pairs_finds() -> None:
    rng = random.Random(5)
    words = ["red", "blue", "order", "late", "parcel", "refund", "please", "now", "where"]

    def some(prefix: str, n: int) -> list[Task]:
        return [task(f"{prefix}{i}", " ".join(rng.choices(words, k=rng.randint(4, 9)))) for i in range(n)]

    train, others = some("t", 60), some("o", 60)
    others += [task(f"m{i}", t.public["ticket"] + " thanks") for i, t in enumerate(train[:20])]
    for threshold in (0.3, 0.6, 0.8):
        by_hand = {
            other.task_id for other in others if any(jaccard(shingles(other), shingles(t)) >= threshold for t in train)
        }
        assert {leak.other_id for leak in leakage(train, others, threshold=threshold)} == by_hand
        assert by_hand
