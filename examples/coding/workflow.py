"""A coding agent as a Flyball workflow: a sandboxed repository per attempt, judged by hidden tests and measured speed.

flyball doctor workflow.yaml       the oracle solves every task, an agent that does nothing none
"""

from __future__ import annotations

from judging import score, success
from repository import Repository
from solutions import oracle_turns, tasks

import flyball as fb

workflow = fb.Workflow(world=Repository, tasks=tasks, success=success, scores={"progress": score}, oracle=oracle_turns)
