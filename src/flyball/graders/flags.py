"""Why a sample got no grade: OpenAI's error flags, and what each means for a score (openai-rft 3.9, invariant 2).

OpenAI answers every sample-level failure with reward 0 and a flag. Here the flag says whose fault it was, and only the
policy's own fault is a zero:

    flag                          raised when                                              fault            score
    sample_parse_error            the output is not the JSON or the shape a template needs  policy           bottom
    truncated_observation_error   the sample was cut by length                              (policy)         as graded
    invalid_variable_error        a template names what the row does not have               grader           Missing
    formula_parse_error           the formula of a multi does not evaluate                  grader           Missing
    model_grader_server_error     the judge did not answer, after retries                   infrastructure   Missing
    model_grader_refusal_error    the judge refused                                         grader           Missing
    model_grader_parse_error      the judge's answer is no grade                            grader           Missing
    unresponsive_reward_error     an endpoint gave no reward                                either           Missing
    python_grader_server_error    the sandbox itself failed                                 infrastructure   Missing
    python_grader_runtime_error   the code raised, hung or returned no number               grader           Missing
    other_error                   anything else                                             as told          Missing

A flag that is up is a part of the score with the value 1.
"""

from __future__ import annotations

from flyball.errors import Fault, GraderError
from flyball.types import Missing, Score

ERROR_FLAGS = (
    "formula_parse_error",
    "sample_parse_error",
    "truncated_observation_error",
    "unresponsive_reward_error",
    "invalid_variable_error",
    "other_error",
    "python_grader_server_error",
    "python_grader_runtime_error",
    "model_grader_server_error",
    "model_grader_refusal_error",
    "model_grader_parse_error",
)
PASSED = "passed"
"""Part of a score whose grader has a `pass_threshold`: 1 when it was reached."""


class NotGraded(GraderError):
    """A grader has no number for this sample. `flag` is one of ERROR_FLAGS, `fault` says who is to blame."""

    def __init__(self, flag: str, cause: str, fault: Fault = Fault.GRADER) -> None:
        super().__init__(cause)
        self.flag = flag
        self.cause = cause
        self.fault = fault

    def score(self, raw_range: tuple[float, float]) -> Score:
        """The policy's fault is the bottom of the range, anyone else's is Missing."""
        parts = {self.flag: 1.0}
        if self.fault is Fault.POLICY:
            return Score(0.0, raw_range[0], raw_range, parts, self.cause)
        return Score(Missing(self.cause, self.fault), raw_range=raw_range, parts=parts)


def error_flags(score: Score) -> dict[str, bool]:
    """Return every flag of OpenAI's with whether it is up, those of a multi's parts included."""
    up = {name.rsplit("/", 1)[-1] for name, value in score.parts.items() if value}
    return {flag: flag in up for flag in ERROR_FLAGS}
