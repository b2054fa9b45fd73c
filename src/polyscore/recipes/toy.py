"""The toy of MMDisCo (Sec. 4.1, Table 5): two scalars, a base model that knows only their marginals, a joint target of five modes.

Here every part is the exact one, in closed form, so sampling shows what a perfect discriminator would reach.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from polyscore.denoisers import Independent, State, Times
from polyscore.errors import PolyscoreError
from polyscore.guided import Guided
from polyscore.metrics import toy as metrics
from polyscore.oracles import ExactRatio, MixtureDenoiser
from polyscore.paths import Linear, Path
from polyscore.ratios.base import FunctionRatio, Ratio
from polyscore.sampling import sample

__all__ = ["BASE", "TARGETS", "VARIANCE", "base", "exact_ratio", "measure", "paths", "points", "run", "smoothed", "target"]

VARIANCE = 0.01
BASE = (-3.0, -1.5, 0.0, 1.5, 3.0)
TARGETS: dict[str, tuple[tuple[float, float], ...]] = {
    "IND": ((-3.0, 1.5), (-1.5, -3.0), (0.0, 3.0), (1.5, 0.0), (3.0, -1.5)),
    "OOD": ((-2.25, -2.25), (2.25, 2.25), (-2.25, 2.25), (2.25, -2.25), (0.0, 0.0)),
}
"""In-domain: the target's marginals are the base's. Out-of-domain: only the mode (0, 0) is one of the base's 25."""


def paths() -> dict[str, Path]:
    """500 steps, betas linear from 1e-4 to 0.02, not rescaled: alpha_bar ends at 0.0064, as in the paper."""
    return {"x": Linear(steps=500), "y": Linear(steps=500)}


def target(setting: str, on: Mapping[str, Path] | None = None) -> MixtureDenoiser:
    """The joint law of "IND" or "OOD" on paths of x and y.

    Raises:
        PolyscoreError: an unknown setting.
    """
    if setting not in TARGETS:
        raise PolyscoreError(f"toy setting {setting!r}: expected one of {', '.join(TARGETS)}")
    return MixtureDenoiser(TARGETS[setting], VARIANCE, on or paths())


def base(on: Mapping[str, Path] | None = None) -> Independent:
    """The perfect base model: x and y apart, five modes each."""
    return Independent(*(MixtureDenoiser([[m] for m in BASE], VARIANCE, {name: path}) for name, path in (on or paths()).items()))


def exact_ratio(setting: str, on: Mapping[str, Path] | None = None) -> ExactRatio:
    """What a perfect discriminator's logit is: log q_t(x, y) - log p_t(x) - log p_t(y)."""
    return ExactRatio(target(setting, on), list(base(on).parts))  # type: ignore[arg-type]


def smoothed(ratio: Ratio, eps: float = 1e-5) -> FunctionRatio:
    """log(D + eps) - log(1 - D + eps) with D = sigmoid(r): the authors' code. It goes flat where D is most certain (biased)."""

    def value(z: State, t: Times, condition: Any) -> Tensor:
        share = torch.sigmoid(ratio(z, t, condition))
        return (share + eps).log() - (1 - share + eps).log()

    return FunctionRatio(value, ratio.paths)


def run(
    setting: str, n: int = 4000, scale: float = 1.0, smooth: bool = False, on: Mapping[str, Path] | None = None, **options: Any
) -> Tensor:
    """n points (n, 2) of the base guided by the exact ratio; scale 0 is the base alone. By default DDPM over 500 steps."""
    ratio: Ratio = exact_ratio(setting, on)
    guided = Guided(base(on), smoothed(ratio) if smooth else ratio, scale)
    return points(sample(guided, n, **{"steps": 500, "solver": "ddpm", **options}))


def points(samples: Mapping[str, Tensor]) -> Tensor:
    """{"x": (n, 1), "y": (n, 1)} as (n, 2)."""
    return torch.cat([samples["x"], samples["y"]], 1)


def measure(found: Tensor, setting: str, reference: Tensor | None = None) -> dict[str, Any]:
    """All metrics of `polyscore.metrics.toy` for points (n, 2) against a setting's target; `reference` adds the energy distance."""
    means = torch.tensor(TARGETS[setting], dtype=torch.float64)
    numbers: dict[str, Any] = {
        "n": len(found),
        "nll_exact": metrics.nll_exact(found, means, VARIANCE),
        "nll_paper": metrics.nll_paper(found, means, VARIANCE),
        "in_mode_share": metrics.in_mode_share(found, means),
        "mode_weights": metrics.mode_weights(found, means).tolist(),
        "variance_ratio": metrics.variance_ratio(found, means, VARIANCE),
    }
    if reference is not None:
        numbers["energy_distance"] = metrics.energy_distance(found, reference)
    return numbers
