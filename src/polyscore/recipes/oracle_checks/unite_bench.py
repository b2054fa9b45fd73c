"""Unite and Conquer's product on Gaussians: what samplers of a sum of scores end at, by recursion and by sampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polyscore.metrics import toy as metrics
from polyscore.oracles import ConditionalDenoiser, GaussianDenoiser, MixtureDenoiser, gaussian_product
from polyscore.paths import Linear
from polyscore.predictions import Prediction
from polyscore.product import Product, Term
from polyscore.recipes import toy
from polyscore.recipes.oracle_checks.measure import Measure, between, near
from polyscore.sampling import DDIM, Langevin, Walk, sample

__all__ = ["BENCH", "bench_by_recursion", "bench_by_sampling", "factorised", "gaussians", "recursion"]

Moments = tuple[float, float]
BENCH: dict[str, dict[str, Any]] = {
    "1 of .25": {
        "means": [1.0], "variances": [0.25], "strengths": [1.0], "exact": (1.0, 0.25),
        "ddpm": (1.0, 0.2461), "ddim": (0.9968, 0.2485),
    },
    "1, -.5 of .25, .5": {
        "means": [1.0, -0.5], "variances": [0.25, 0.5], "strengths": [1.0, 1.0], "exact": (0.6, 0.2),
        "ddpm": (0.5368, 0.1642), "ddim": (0.5167, 0.1240), "ddpm+2": (0.5898, 0.1971), "ddim+10": (0.5975, 0.1998),
    },
    "1, -.5 of .25, .25": {
        "means": [1.0, -0.5], "variances": [0.25, 0.25], "strengths": [1.0, 1.0], "exact": (0.2857, 0.1429),
        "ddpm": (0.3126, 0.1066), "ddim": (0.3442, 0.0618), "ddpm+2": (0.2878, 0.1391), "ddim+10": (0.2862, 0.1423),
        "ddim, 100": (0.3435, 0.0565), "ddim+10, 100": (0.2879, 0.1384),
    },
    "1.5, -1.5 of .05, .05": {
        "means": [1.5, -1.5], "variances": [0.05, 0.05], "strengths": [1.0, 1.0], "exact": (0.0, 0.0256),
        "ddpm": (0.0, 0.0164), "ddim": (0.0, 0.0024), "ddpm+2": (0.0, 0.0239), "ddim+10": (0.0, 0.0253),
    },
    ".8, .2, -.1 of .3, .4, .5": {
        "means": [0.8, 0.2, -0.1], "variances": [0.3, 0.4, 0.5], "strengths": [1.0, 1.0, 1.0], "exact": (0.5086, 0.1714),
        "ddpm": (0.5384, 0.1219), "ddim": (0.5912, 0.0594),
    },
    "1, -.5 of .25, .5, strengths 3": {
        "means": [1.0, -0.5], "variances": [0.25, 0.5], "strengths": [3.0, 3.0], "exact": (0.6923, 0.0769),
        "ddpm": (0.6808, 0.0444), "ddim": (0.7047, 0.0019),
    },
}  # fmt: skip
"""Experts N(m_i, v_i) with the prior N(0, 1), betas linear over 1000 steps: exact moments, and those that samplers of the score
sum end at (mean, variance); "+2", "+10": Langevin steps of .25 and .5 after each step; "100": 100 steps."""


def gaussians(means: Sequence[float], variances: Sequence[float], strengths: Sequence[float], **weights: Any) -> Product:
    """The product of N(m_i, v_i)^w_i over the common prior N(0, 1) on DDPM's linear schedule."""
    paths = {"x": Linear()}
    prior = GaussianDenoiser([0.0], 1.0, paths)
    first, none = torch.tensor([0]), torch.tensor([-1])
    laws = [ConditionalDenoiser([GaussianDenoiser([m], v, paths)], prior) for m, v in zip(means, variances, strict=True)]
    return Product([Term(law, first, w, null=none) for law, w in zip(laws, strengths, strict=True)], **weights)


class _Probe:
    """Noise for three rows: 0, 0 and 1."""

    def normal(self, name: str, shape: Any) -> Tensor:
        return torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64)

    def uniform(self, name: str, shape: Any) -> Tensor:
        return self.normal(name, shape)


def _grid(steps: int) -> list[float]:
    """Training steps 999 .. 0 (a rounded linspace), then the clean end; step i sits at t = (i + 1) / 1000."""
    return [(i + 1) / 1000 for i in torch.linspace(999, 0, steps, dtype=torch.float64).round().tolist()] + [0.0]


def _affine(product: Product, grid: list[float]) -> tuple[Tensor, Tensor]:
    """Slope and intercept in z of the product's eps at every level: for Gaussians it is affine."""
    t = torch.tensor(grid[:-1], dtype=torch.float64)
    eps = [product({"x": torch.full((len(t), 1), v, dtype=torch.float64)}, {"x": t})["x"].eps[:, 0] for v in (0.0, 1.0)]  # type: ignore[union-attr]
    return eps[1] - eps[0], eps[0]


def recursion(product: Product, eta: float, moves: int = 0, size: float = 0.0, steps: int = 1000) -> Moments:
    """Mean and variance at the end of a run from N(0, 1): every step maps z to b + a z + g n, whatever the solver."""
    grid = _grid(steps)
    walk = Walk(product.paths, product.shapes, grid, _Probe())
    slope, intercept = _affine(product, grid)

    def predict(z: dict[str, Tensor], i: int) -> dict[str, Prediction]:
        return {"x": Prediction.from_eps(slope[i] * z["x"] + intercept[i], z["x"], *walk.at("x", i))}

    solver, corrector = DDIM(eta), Langevin(1, size)
    probe = {"x": torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)}
    mean, variance = 0.0, 1.0
    for i in range(steps):
        ends = [solver.update(walk, "x", probe["x"], predict(probe, i)["x"], i)]
        if moves and i + 1 < steps:
            ends += [corrector(walk, probe, i + 1, predict)["x"]] * moves
        for end in ends:
            b, a, g = float(end[0]), float(end[1] - end[0]), float(end[2] - end[0])
            mean, variance = b + a * mean, a * a * variance + g * g
    return mean, variance


_SAMPLERS: dict[str, tuple[float, int, float, int]] = {
    "ddpm": (1.0, 0, 0.0, 1000),
    "ddim": (0.0, 0, 0.0, 1000),
    "ddpm+2": (1.0, 2, 0.25, 1000),
    "ddim+10": (0.0, 10, 0.5, 1000),
    "ddim, 100": (0.0, 0, 0.0, 100),
    "ddim+10, 100": (0.0, 10, 0.5, 100),
}


def bench_by_recursion() -> list[Measure]:
    """Unite 13: the Gaussian bench to 1e-3, and DDIM with 10 Langevin steps within 2 % of the exact variance."""
    rows = []
    for case, values in BENCH.items():
        product = gaussians(values["means"], values["variances"], values["strengths"])
        exact = _exact(values)
        rows += _pair(f"experts {case}: exact", values["exact"], exact, 1e-4)
        for sampler in [s for s in _SAMPLERS if s in values]:
            found = recursion(product, *_SAMPLERS[sampler])
            rows += _pair(f"experts {case}: {sampler}", values[sampler], found, 1e-3)
            if sampler == "ddim+10":
                rows.append(near("unite 13", f"experts {case}: {sampler}, variance / exact", 1, found[1] / exact[1], 0.02))
    return rows


def _exact(values: dict[str, Any]) -> Moments:
    w = values["strengths"]
    means, covs = ([torch.tensor([v]) for v in [*values["means"], 0.0]], [torch.tensor([[v]]) for v in [*values["variances"], 1.0]])
    mean, cov = gaussian_product(means, covs, [*w, 1 - sum(w)])
    return float(mean), float(cov)


def _pair(what: str, expected: Moments, found: Moments, slack: float) -> list[Measure]:
    return [near("unite 13", f"{what}, {k}", e, f, slack) for k, e, f in zip(("mean", "variance"), expected, found, strict=True)]


def bench_by_sampling(n: int = 4000, cases: Sequence[str] = tuple(BENCH), seed: int = 0) -> list[Measure]:
    """Unite 13: the same by drawing n samples, within 3 standard errors."""
    rows = []
    for case in cases:
        values = BENCH[case]
        product = gaussians(values["means"], values["variances"], values["strengths"])
        for solver in ("ddpm", "ddim"):
            found = sample(product, n, solver=solver, grid=_grid(1000), seed=seed, dtype=torch.float64)["x"]
            mean, variance = values[solver]
            what = f"experts {case}: {solver}, n = {n}"
            rows += [
                near("unite 13", f"{what}, mean", mean, found.mean(), 3 * math.sqrt(variance / n)),
                near("unite 13", f"{what}, variance", variance, found.var(), 3 * variance * math.sqrt(2 / n) + 1e-4),
            ]
    return rows


def factorised(n: int = 4000, seed: int = 0) -> list[Measure]:
    """Unite 13: a prior of 5 x 5 modes, one expert for a row and one for a column: exact at all times, every sample in the one mode."""
    path, row, column = {"x": Linear(steps=500)}, -1.5, 3.0
    prior = MixtureDenoiser([[x, y] for x in toy.BASE for y in toy.BASE], toy.VARIANCE, path)
    laws = [
        MixtureDenoiser([[x, row] for x in toy.BASE], toy.VARIANCE, path),
        MixtureDenoiser([[column, y] for y in toy.BASE], toy.VARIANCE, path),
    ]
    first, none = torch.tensor([0]), torch.tensor([-1])
    product = Product([Term(ConditionalDenoiser([law], prior), first, null=none) for law in laws])
    found = sample(product, n, steps=500, solver="ddpm", seed=seed, dtype=torch.float64)["x"]
    wanted = torch.tensor([[column, row]], dtype=torch.float64)
    inside = found[torch.cdist(found, wanted)[:, 0] < 0.5]
    rows = [between("unite 13", "row and column expert: share in the one mode", 1.0, metrics.in_mode_share(found, wanted), 1.0, 1.0)]
    for d, name in enumerate("xy"):
        rows += [
            near("unite 13", f"row and column expert: mean of {name}", float(wanted[0, d]), inside[:, d].mean(), 0.01),
            near("unite 13", f"row and column expert: variance of {name}", 0.0092, inside[:, d].var(), 3 * 0.0092 * math.sqrt(2 / n)),
        ]
    return rows
