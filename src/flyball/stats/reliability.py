"""The reliability score: the share of sessions that succeed, times those nobody overrode, times tools that worked.

    R = s (1 - o) (1 - e)

    s = successes / sessions with a label
    o = overridden sessions / sessions
    e = tool errors / tool calls; 0 where no tool was called

The three are measured on the same sessions, so their errors go together; R is linearised in all three at once (delta
method), and unit j contributes

    z_j = (1 - o)(1 - e) (y_j - s l_j) / sum l  -  s (1 - e) (o_j - o) / n  -  s (1 - o) (e_j - e t_j) / sum t

to its variance. The interval is Wilson's at the effective size of that variance (`intervals.share_interval`).
"""

from __future__ import annotations

import numpy as np

from flyball.errors import EvalError
from flyball.stats.design import Design, Labels, as_values
from flyball.stats.intervals import Values, share_interval
from flyball.types import Estimate


def reliability_interval(
    success: Values,
    overridden: Values,
    errors: Values,
    calls: Values,
    *,
    labelled: Values | None = None,
    clusters: Labels = None,
    strata: Labels = None,
    level: float = 0.95,
) -> Estimate:
    """R with its interval, from one value per session in each list; `n` is the number of sessions with a label.

    `labelled`: 1 where the outcome is known, else 0 (and `success` 0); None = everywhere. Raises EvalError where no
    session has a label, lists differ in length, or a session has more errors than calls.
    """
    y, o, e, t = as_values(success), as_values(overridden), as_values(errors), as_values(calls)
    known = np.ones(len(y)) if labelled is None else as_values(labelled)
    if len({len(y), len(o), len(e), len(t), len(known)}) > 1 or (e > t).any() or (y > known).any():
        raise EvalError("reliability needs one value of each kind per session, errors <= calls, success <= labelled")
    if not known.any():
        raise EvalError("no session has a label, so nothing says which succeeded; wait for outcomes or grade a sample")
    design = Design.of(len(y), clusters, strata)
    s, override = float(y.sum() / known.sum()), float(o.mean())
    error = float(e.sum() / t.sum()) if t.any() else 0.0
    z = (1 - override) * (1 - error) * design.residuals(y, known) / known.sum()
    z -= s * (1 - error) * design.residuals(o) / design.n
    if t.any():
        z -= s * (1 - override) * design.residuals(e, t) / t.sum()
    value = s * (1 - override) * (1 - error)
    return share_interval(value, design.spread(z), design, cap=float(known.sum()), level=level)
