"""A workflow: the user's world, tasks and graders with the settings of a run. Python is canonical.

`load_workflow` takes the Python file that defines `workflow`, or a YAML file that points at it and overrides settings:

    python: workflow.py            # beside the YAML file
    policy: smollm2-135m
    training:
      rl: {num_steps: 60}

Keys of the YAML file win over those written in Python, one by one. Sections in Python may be mappings or the section
types of `flyball.config`; either way they are read as strictly as the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flyball.config import Settings, read_settings
from flyball.errors import ConfigError
from flyball.graders.grader import Grader
from flyball.graders.make import is_grader
from flyball.models.names import MADE_BY_A_RUN
from flyball.section import Section
from flyball.settings_file import Marks, merge, parse
from flyball.tools.approval import approver_of
from flyball.types import Limits, Task
from flyball.workflow.user_code import import_file

SECTIONS = (
    "training",
    "evaluation",
    "engine",
    "release",
    "prices",
    "limits",
    "plan",
    "tools",
    "tracking",
    "economics",
)
Written = Callable[..., Any] | Mapping[str, Any] | Grader
"""What may stand where a grader belongs."""
WRITE_ONE = "`flyball init helpdesk` writes a working example, `flyball init NAME` a minimal one"


@dataclass(frozen=True)
class Workflow:
    """All that a run needs. Raises ConfigError for what cannot be honoured.

    `world`: a class whose instances are one attempt's world, or a zero-argument factory. `tasks`: a JSONL file, a
    folder of them, a sequence of Task, or a function that returns one. `success` judges releases, `reward` feeds
    learning (default: success as 0 or 1), `safety` is False for a forbidden deed, `scores` are shown beside; each is
    `(attempt, hidden) -> bool | float | Score | None`, sync or async, a grader object such as
    `{"type": "string_check", ...}`, or what `fb.grader_from` made of one. `agent`: None for the built-in loop, an async
    function `(attempt, client)`, `fb.Command` or `fb.Http`. `oracle` solves a task by script (doctor and demonstrations
    use it), `demonstrations` overrides the ones made from it. `approver` answers for tools with `approval="human"` in
    training and evaluation: `approve`, `deny`, `expire`, or a function `(call)` that returns one of them.
    `fresh`, a function `(seed, n)`, draws new tasks for a suite that one run judges by (`evaluation.fresh_tasks`).
    `tracking` copies the metrics of runs to TensorBoard, MLflow or Weights & Biases. `economics` is what a success is
    worth and what is paid for it beside serving.
    `tools` declares tool servers (HTTP and MCP), scopes, budgets and dry runs; its keys are those of the YAML file.
    `holdout` graders are reported like scores and never learned from; `anchors` is a JSONL file of attempts whose
    judgement is settled, which the graders have to repeat before every run (see docs/graders.md).
    `turn_reward` returns a number for each model call of an attempt, added to its reward where the call lies.
    `planner`, `critic` and `policy_checks` are hooks of the built-in loop, functions of an `fb.View` (see
    `agent/hooks.py`).
    """

    world: Callable[[], Any]
    tasks: str | Path | Sequence[Task] | Callable[[], Sequence[Task]]
    success: Written
    reward: Written | None = None
    policy: str | Path = MADE_BY_A_RUN
    safety: Written | None = None
    scores: Mapping[str, Written] | None = None
    agent: Any = None
    oracle: Callable[..., Any] | None = None
    demonstrations: Any = None
    training: Section | Mapping[str, Any] | None = None
    evaluation: Section | Mapping[str, Any] | None = None
    release: Section | Mapping[str, Any] | None = None
    monitoring: Sequence[str | Mapping[str, Any]] = ()
    prices: Section | Mapping[str, Any] | None = None
    limits: Section | Limits | Mapping[str, Any] | None = None
    name: str | None = None
    plan: Section | Mapping[str, Any] | None = None
    approver: str | Callable[..., Any] | None = None
    planner: Callable[..., Any] | None = None
    critic: Callable[..., Any] | None = None
    policy_checks: Sequence[Callable[..., Any]] = ()
    tools: Section | Mapping[str, Any] | None = None
    engine: Section | Mapping[str, Any] | None = None
    holdout: Mapping[str, Written] | None = None
    anchors: str | Path | None = None
    turn_reward: Callable[..., Any] | None = None
    tracking: Section | Mapping[str, Any] | None = None
    fresh: Callable[[int, int], Sequence[Task]] | None = None
    economics: Section | Mapping[str, Any] | None = None
    source: Path | None = field(default=None, compare=False)
    marks: Marks = field(default=Marks("Workflow(...)"), compare=False, repr=False)
    settings: Settings = field(init=False, compare=False)

    def __post_init__(self) -> None:
        self._check_code()
        if isinstance(self.monitoring, str):
            raise ConfigError(f"monitoring is {self.monitoring!r}; it is a list of metric names: [{self.monitoring!r}]")
        object.__setattr__(self, "settings", self._read_settings())

    @property
    def folder(self) -> Path:
        """Where relative paths of the workflow start."""
        return self.source.parent if self.source else Path()

    @property
    def title(self) -> str:
        """The name for runs and versions: as given, else that of the folder the workflow lies in."""
        return self.name or (self.source.resolve().parent.name if self.source else "workflow")

    def _check_code(self) -> None:
        if not callable(self.world):
            kind = type(self.world).__name__
            raise ConfigError(
                f"world is an instance of {kind}; pass the class itself (`world={kind}`): each attempt opens its own"
            )
        if isinstance(self.world, type) and not callable(getattr(self.world, "reset", None)):
            raise ConfigError(
                f"world {self.world.__name__} has no method `reset`; "
                "it takes a task's public fields and returns the first message"
            )
        for name in ("success", "reward", "safety"):
            self._check_grader(name, getattr(self, name), required=name == "success")
        for name, takes in (
            ("oracle", "task"),
            ("planner", "view"),
            ("critic", "view"),
            ("turn_reward", "attempt, hidden"),
            ("fresh", "seed, n"),
        ):
            self._check_callable(name, getattr(self, name), required=False, takes=takes)
        for role, graders in (("scores", self.scores), ("holdout", self.holdout)):
            if graders is not None and not isinstance(graders, Mapping):
                raise ConfigError(f"{role} is {graders!r}; it is a mapping of a name to a grader: {{'polite': polite}}")
            for name, grader in (graders or {}).items():
                self._check_grader(f"{role}[{name!r}]", grader, required=True)
        approver_of(self.approver)
        self._check_hooks()
        if not isinstance(self.tasks, (str, Path, Sequence)) and not callable(self.tasks):
            raise ConfigError(
                f"tasks is {self.tasks!r}; "
                "give a JSONL file, a folder of them, a list of Task or a function that returns one"
            )

    def _check_hooks(self) -> None:
        if callable(self.policy_checks) or not isinstance(self.policy_checks, Sequence):
            raise ConfigError(f"policy_checks is {self.policy_checks!r}; it is a list of functions: [no_promises]")
        for i, hook in enumerate(self.policy_checks):
            self._check_callable(f"policy_checks[{i}]", hook, required=True, takes="view")
        declared = [name for name in ("planner", "critic", "policy_checks") if getattr(self, name)]
        if declared and self.agent is not None:
            raise ConfigError(
                f"{declared[0]} would be ignored: it is a hook of the built-in loop, and this workflow's agent drives "
                "itself; remove one of the two"
            )

    @staticmethod
    def _check_callable(name: str, value: Any, *, required: bool, takes: str = "attempt, hidden") -> None:
        if not callable(value) and (required or value is not None):
            raise ConfigError(f"{name} is {value!r}; it is a function, for example `def {name}({takes}): ...`")

    @staticmethod
    def _check_grader(name: str, value: Any, *, required: bool) -> None:
        if not is_grader(value) and (required or value is not None):
            raise ConfigError(
                f"{name} is {value!r}; it is a function, for example `def {name}(attempt, hidden): ...`, or a grader "
                "object such as {'type': 'string_check', ...}"
            )

    def _read_settings(self) -> Settings:
        """Collect the sections into one Settings, so that Python and YAML obey the same rules."""
        data: dict[str, Any] = {"policy": str(self.policy), "monitoring": tuple(self.monitoring)}
        if self.name is not None:
            data["name"] = self.name
        for name in SECTIONS:
            if (value := getattr(self, name)) is not None:
                data["workflow" if name == "plan" else name] = _plain(name, value)
        return parse(Settings, data, Marks(self.marks.source))

    def with_settings(self, over: Settings, marks: Marks) -> Workflow:
        """Return this workflow with what `over` says in place of its own settings, key by key."""
        both = merge(self.settings, over)
        return replace(
            self,
            marks=marks,
            name=both.name,
            policy=both.policy or self.policy,
            monitoring=both.monitoring,
            plan=both.workflow,
            **{name: getattr(both, name) for name in SECTIONS if name != "plan"},
        )


def _plain(name: str, value: Any) -> Any:
    """Return a section as the mapping that was written."""
    if isinstance(value, Section):
        return value.model_dump(exclude_unset=True)
    if isinstance(value, Limits):
        return vars(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise ConfigError(f"{name} is {value!r}; give a mapping of settings")


def load_workflow(path: str | Path) -> Workflow:
    """Read a workflow from its Python file or from a YAML file that points at it.

    Raises ConfigError for a missing or malformed file and for an error in the user's module, with the user's line.
    """
    path = Path(path)
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name the file in it, for example {path / 'workflow.py'}")
    if path.suffix == ".py":
        return _from_python(path)
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"{path}: a workflow is a .py or .yaml file; {WRITE_ONE}")
    settings, marks = read_settings(path)
    if settings.python is None:
        raise ConfigError(f"{path}: no key `python` points at the code (world, tasks, success); {WRITE_ONE}")
    code = path.parent / settings.python
    if not code.is_file():
        raise ConfigError(
            f"{marks.at(('python',))}: python is {settings.python!r}: no such file beside this one; {WRITE_ONE}"
        )
    return _from_python(code).with_settings(settings, marks)


def _from_python(path: Path) -> Workflow:
    module = import_file(path)
    found = getattr(module, "workflow", None)
    if isinstance(found, Workflow):
        return replace(found, source=path, marks=Marks(str(path)))
    others = [name for name, value in vars(module).items() if isinstance(value, Workflow)]
    if others:
        raise ConfigError(f"{path}: the workflow is called {others[0]!r}; call it `workflow`")
    raise ConfigError(f"{path}: no object `workflow = fb.Workflow(world=..., tasks=..., success=...)`; {WRITE_ONE}")
