"""Which units were drawn together: the one place where strata and clusters turn into a variance.

A stratum (task family) is fixed: its share of the suite is chosen, so differences between families are no noise. A
cluster (template x snapshot) is what was sampled: units of one cluster are not independent. The variance of a total is
Taylor-linearised, C_h / (C_h - 1) times the squared cluster totals inside each stratum h, and its degrees of freedom
are Satterthwaite's (few clusters, or strata of very unequal spread, give few).

Two decisions keep the variance honest where the design cannot give one. Strata that share a cluster are merged, since
they were not drawn independently. A stratum with a lone cluster shows no spread, so lone strata are pooled (a single
one joins the largest), which can only widen the interval.

Source: Miller 2411.00640 (clustered errors); Cochran, Sampling Techniques, 5A.12 (collapsed strata).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from flyball.errors import EvalError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Labels = Sequence[Any] | npt.NDArray[Any] | None


def as_values(values: Sequence[float] | npt.NDArray[Any], name: str = "values") -> Floats:
    """Return a [n] float array. Raises EvalError when it is empty, not flat or holds NaN or infinity."""
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or array.size == 0:
        raise EvalError(f"{name} has shape {array.shape}; a number needs at least one observation in a flat list")
    if not np.isfinite(array).all():
        where = int(np.flatnonzero(~np.isfinite(array))[0])
        raise EvalError(
            f"{name}[{where}] is {array[where]}; decide what a missing value counts as before estimating (invariant 2)"
        )
    return array


def check_level(level: float) -> float:
    """Return `level`. Raises EvalError unless it is strictly between 0 and 1."""
    if not 0.0 < level < 1.0:
        raise EvalError(f"level {level} is outside 0 to 1; write 0.95 for a 95 % interval")
    return level


@dataclass(frozen=True)
class Spread:
    """Variance of a total and the degrees of freedom it was estimated with; both 0 when only one cluster was seen."""

    variance: float
    df: float


@dataclass(frozen=True)
class Design:
    """The sampling design of n units: `cluster` [n], `stratum` [n] and `stratum_of_cluster` [C], as small integers."""

    cluster: Ints
    stratum: Ints
    stratum_of_cluster: Ints

    @classmethod
    def of(cls, n: int, clusters: Labels = None, strata: Labels = None) -> Design:
        """Read labels, one per unit; no clusters = every unit on its own, no strata = one."""
        cluster = np.arange(n) if clusters is None else _codes(clusters, n, "clusters")
        stratum = np.zeros(n, np.int64) if strata is None else _codes(strata, n, "strata")
        of_cluster = _pool_lone(_merge_shared(cluster, stratum))
        return cls(cluster, of_cluster[cluster], of_cluster)

    @property
    def n(self) -> int:
        return len(self.cluster)

    @property
    def clusters(self) -> int:
        return len(self.stratum_of_cluster)

    @property
    def degrees(self) -> int:
        """Clusters less strata: the most degrees of freedom a variance can have here."""
        return self.clusters - int(self.stratum_of_cluster.max()) - 1

    def residuals(self, numerators: Floats, denominators: Floats | None = None) -> Floats:
        """What is left of each unit, [n], after its stratum's own ratio (its mean, without denominators)."""
        weights = np.ones(self.n) if denominators is None else denominators
        above, below = np.bincount(self.stratum, numerators), np.bincount(self.stratum, weights)
        ratio = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
        return numerators - ratio[self.stratum] * weights

    def spread(self, contributions: Floats) -> Spread:
        """Variance of the sum of `contributions` [n] over repeated draws of clusters."""
        if self.clusters == 1:
            return Spread(0.0, 0.0)
        totals = np.bincount(self.cluster, contributions)
        size = np.bincount(self.stratum_of_cluster).astype(np.float64)
        means = np.bincount(self.stratum_of_cluster, totals) / size
        squares = np.bincount(self.stratum_of_cluster, (totals - means[self.stratum_of_cluster]) ** 2)
        parts = squares * size / (size - 1.0)
        variance = float(parts.sum())
        if variance <= 1e-24:  # rounding of identical values, not spread
            return Spread(0.0, float(self.degrees))
        return Spread(variance, float(variance**2 / np.sum(parts**2 / (size - 1.0))))


def _codes(labels: Sequence[Any] | npt.NDArray[Any], n: int, name: str) -> Ints:
    if len(labels) != n:
        raise EvalError(f"{name} has {len(labels)} labels for {n} values; give one per value")
    numbers: dict[Any, int] = {}
    return np.asarray([numbers.setdefault(label, len(numbers)) for label in labels], np.int64)


def _merge_shared(cluster: Ints, stratum: Ints) -> Ints:
    """Stratum of each cluster, [C], after merging strata that a cluster ties together."""
    clusters, strata = int(cluster.max()) + 1, int(stratum.max()) + 1
    links = coo_matrix((np.ones(len(cluster)), (cluster, clusters + stratum)), shape=(clusters + strata,) * 2)
    _, component = connected_components(links, directed=False)
    return np.asarray(component[:clusters], np.int64)


def _pool_lone(stratum_of_cluster: Ints) -> Ints:
    sizes = np.bincount(stratum_of_cluster)
    lone = np.flatnonzero(sizes == 1)
    pooled = stratum_of_cluster.copy()
    if len(lone) > 1:
        pooled[np.isin(pooled, lone)] = lone[0]
    elif len(lone) == 1:
        pooled[pooled == lone[0]] = int(np.argmax(sizes))
    _, codes = np.unique(pooled, return_inverse=True)
    return codes.astype(np.int64)
