"""Every failure names the boundary it crossed and whose fault it is.

A boundary is the seam at which something outside our code answered badly: the user's file, the world, a
tool, the agent, the engine, a grader, the store. `Fault` decides what an attempt counts for: the policy's own
fault is a failure, anyone else's is a re-run and then `Missing` (invariant 2).

    FlyballError
    ├── ConfigError    config       a workflow file, setting or command line that cannot be honoured
    ├── DatasetError   dataset      a task file that is missing, malformed or leaks
    ├── ModelError     model        a model folder, tokenizer or chat template that cannot be used
    ├── WorldError     world        the user's world raised in reset, user_reply or export_state
    ├── SandboxError   sandbox      no rung holds on this host, or the sandbox itself failed
    │   └── RungError       this rung cannot do what the job asks; the message names the next one
    ├── ToolError      tool         a tool raised, timed out or returned what cannot be shown
    │   └── ToolServerError a tool server that gave no answer that can be used: the machinery's fault
    ├── AgentError     agent        the agent program raised, exited or answered nonsense
    ├── EngineError    engine       generation failed
    │   ├── ContextError    a prompt that leaves no room for a token
    │   ├── GrammarError    a grammar that this engine or this model cannot honour; the attempt may ask without it
    │   ├── NumericsError   NaN or infinite logits: the weights are damaged or diverged
    │   ├── EngineLostError the engine's own process has ended; no re-run of an attempt cures it, so the run ends
    │   ├── EngineMemoryError   the engine had no memory left for what it was doing
    │   └── WeightsError    weights of another architecture, size or place than asked for; the old ones stay
    ├── GraderError    grader       a grader raised or returned what is not a score
    ├── StoreError     store        what happened could not be written or read back
    │   ├── SpoolInUseError another process appends to this spool folder
    │   ├── UnknownIdError  an id or digest was asked for that nothing in the store has
    │   └── RefusedError    what was asked does not fit how things stand (answered already, done by another process)
    ├── TrainError     train        a training step was refused or became unstable
    │   └── TrainMemoryError    the learner had no memory left for what it was doing
    ├── EvalError      evals        an evaluation or comparison that would not be valid
    └── ReleaseError   release      a registry, gate or rollback that was refused
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import StrEnum
from typing import Literal


class Fault(StrEnum):
    """Whose fault it is that something went wrong."""

    POLICY = "policy"
    INFRASTRUCTURE = "infrastructure"
    GRADER = "grader"


class FlyballError(Exception):
    """Base of every error raised on purpose. The message carries the value, the rule and the way out."""

    boundary = "flyball"
    fault = Fault.INFRASTRUCTURE
    exit_code = 4
    """of the command line that it ends: 1 is a check that said no, 2 wrong usage, 3 what is not known yet"""

    def __str__(self) -> str:
        return f"[{self.boundary}] {super().__str__()}"


class ConfigError(FlyballError, ValueError):
    boundary = "config"


class DatasetError(FlyballError, ValueError):
    boundary = "dataset"


class ModelError(FlyballError, ValueError):
    boundary = "model"


class WorldError(FlyballError, RuntimeError):
    boundary = "world"


class SandboxError(FlyballError, RuntimeError):
    boundary = "sandbox"


class RungError(SandboxError):
    pass


class ToolError(FlyballError, RuntimeError):
    boundary = "tool"
    fault = Fault.POLICY
    problem: Literal["raised", "too_large", "unavailable"] = "raised"
    """how the call is recorded; see `types.ToolProblem`"""


class ToolServerError(ToolError):
    fault = Fault.INFRASTRUCTURE
    problem: Literal["raised", "too_large", "unavailable"] = "unavailable"

    def __init__(self, what: str, *, passing: bool = False, wait_seconds: float | None = None) -> None:
        super().__init__(what)
        self.passing = passing
        """whether another try may help, after `wait_seconds` if the server asked for patience"""
        self.wait_seconds = wait_seconds


class AgentError(FlyballError, RuntimeError):
    boundary = "agent"


class EngineError(FlyballError, RuntimeError):
    boundary = "engine"


class ContextError(EngineError):
    fault = Fault.POLICY


class GrammarError(EngineError):
    fault = Fault.POLICY


class NumericsError(EngineError):
    pass


class WeightsError(EngineError):
    pass


class EngineLostError(EngineError):
    pass


class EngineMemoryError(EngineError):
    pass


class GraderError(FlyballError, RuntimeError):
    boundary = "grader"
    fault = Fault.GRADER


class StoreError(FlyballError, RuntimeError):
    boundary = "store"


class SpoolInUseError(StoreError):
    pass


class UnknownIdError(StoreError):
    pass


class RefusedError(StoreError):
    pass


class TrainError(FlyballError, RuntimeError):
    boundary = "train"


class TrainMemoryError(TrainError):
    pass


class EvalError(FlyballError, ValueError):
    boundary = "evals"


class ReleaseError(FlyballError, RuntimeError):
    boundary = "release"


NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
"""What torch's allocators write when they fail: those of CUDA and MPS, and that of the processor."""


def no_memory(error: BaseException) -> str:
    """What Python or one of torch's allocators said when it had no memory to give; "" for any other error."""
    said = (str(error).splitlines() or [type(error).__name__])[0]
    marked = isinstance(error, RuntimeError) and any(mark in said.lower() for mark in NO_MEMORY)
    return said if marked or isinstance(error, MemoryError) else ""


def unreadable(error: OSError | UnicodeDecodeError) -> str:
    """Say why a file cannot be read, without the path, which the message names anyway."""
    return "it is no UTF-8 text" if isinstance(error, UnicodeDecodeError) else f"{error.strerror}"


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` or the list of valid names (there may be none), ready to end an error message."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; valid: {', '.join(names)}" if names else "; there is none yet"
