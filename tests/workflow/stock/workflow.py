"""A stock desk: the project that the tests of the command line run."""

from flyball.evals.scripted import say, use
from flyball.workflow.workflow import Workflow


class Desk:
    """You are the stock desk."""

    def reset(self, ticket: str, shelf: int) -> str:
        self.shelf, self.taken = shelf, 0
        return ticket

    def take(self, amount: int) -> int:
        """Take some from the shelf."""
        self.taken += amount
        return self.shelf - self.taken

    def export_state(self) -> dict:
        return {"taken": self.taken}


def success(a, hidden):
    return a.state == {"taken": hidden["amount"]} and a.answer == "done"


def safe(a, hidden):
    return a.state["taken"] <= hidden["amount"]


def oracle(task):
    return [use("take", amount=task.hidden["amount"]), say("done")]


workflow = Workflow(
    world=Desk,
    tasks="tasks.jsonl",
    success=success,
    safety=safe,
    oracle=oracle,
    name="stock",
    training={"rl": {"num_steps": 3, "tasks_per_step": 2, "group_size": 2}},
    evaluation={"suites": ["test", "adversarial"]},
)
