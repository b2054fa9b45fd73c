"""The two readings of the reliability of experts in a product, and the interval in which it is safe.

With strengths W_j (summed over an expert's terms), W = sum_j W_j: the paper's reliability a_j, sum a_j = 1, makes the base
prod_j p_j^a_j. Written with each expert's own prior, eps = sum_j r_j u_j + sum_i w_i (c_i - u_i), r_j = W_j - (W - 1) a_j, sum r_j = 1
(Unite and Conquer, Eq. 10, rearranged). Where r_j < 0 the product moves away from expert j's prior.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from polyscore.errors import PolyscoreError

__all__ = ["own_priors", "resolve", "safe_intervals", "warning"]

Weights = dict[str, float]


def own_priors(strengths: Mapping[str, float], reliability: Mapping[str, float]) -> Weights:
    """r_j = W_j - (W - 1) a_j."""
    excess = sum(strengths.values()) - 1
    return {name: w - excess * reliability.get(name, 0.0) for name, w in strengths.items()}


def safe_intervals(strengths: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """For each expert the reliabilities for which r_j stays in [0, 1]: (W_j - 1) / (W - 1) to W_j / (W - 1)."""
    excess = sum(strengths.values()) - 1
    if excess <= 0:
        return dict.fromkeys(strengths, (-math.inf, math.inf))
    return {name: ((w - 1) / excess, w / excess) for name, w in strengths.items()}


def warning(strengths: Mapping[str, float], reliability: Mapping[str, float]) -> list[str]:
    """One line for every expert whose own prior has a negative weight."""
    safe, priors = safe_intervals(strengths), own_priors(strengths, reliability)
    return [
        f"Product: the prior of {name} has net weight r = {r:.3g} < 0 (it is extrapolated away from);"
        f" reliability a = {reliability.get(name, 0.0):.3g}, safe between {safe[name][0]:.3g} and {safe[name][1]:.3g}"
        for name, r in priors.items()
        if r < -1e-6
    ]


def resolve(
    strengths: Mapping[str, float],
    has_null: Mapping[str, bool],
    reliability: Mapping[str, float] | None,
    prior: Mapping[str, float] | None,
) -> Weights:
    """The reliabilities a_j from either form, or the default a_j = W_j / W (each expert keeps its own prior, r_j = a_j).

    Raises:
        PolyscoreError: both forms, other names than the experts', weights that do not sum to 1, or an expert without a null condition
            that would have to lend its prior.
    """
    total, names = sum(strengths.values()), list(strengths)
    if reliability is not None and prior is not None:
        raise PolyscoreError("Product: give `reliability` or `prior`, not both")
    chosen = reliability if reliability is not None else prior
    if chosen is not None and set(chosen) != set(names):
        raise PolyscoreError(f"Product: weights for {sorted(chosen)}, expected exactly {names}")
    if chosen is not None and not math.isclose(sum(chosen.values()), 1.0, abs_tol=1e-6):
        raise PolyscoreError(f"Product: weights {dict(chosen)} sum to {sum(chosen.values()):g}, expected 1")
    if reliability is not None:
        weights = dict(reliability)
    elif prior is not None and math.isclose(total, 1.0):
        weights = {name: 1 / len(names) for name in names}
    elif prior is not None:
        weights = {name: (w - prior[name]) / (total - 1) for name, w in strengths.items()}
    else:
        weights = _default(strengths, has_null, total)
    for name, able in has_null.items():
        if not able and abs(weights[name]) > 1e-9 and not math.isclose(total, 1.0):
            raise PolyscoreError(f"Product: {name} has no null condition, so its reliability must be 0, found {weights[name]:g}")
    return weights


def _default(strengths: Mapping[str, float], has_null: Mapping[str, bool], total: float) -> Weights:
    if not any(has_null.values()) and not math.isclose(total, 1.0):
        raise PolyscoreError("Product: no expert has a null condition, so strengths must sum to 1 (or give `base`)")
    shares: Sequence[float] = [max(w, 0.0) if has_null[name] else 0.0 for name, w in strengths.items()]
    if sum(shares) <= 0:
        shares = [float(able) for able in has_null.values()] if any(has_null.values()) else [1.0] * len(strengths)
    return {name: share / sum(shares) for name, share in zip(strengths, shares, strict=True)}
