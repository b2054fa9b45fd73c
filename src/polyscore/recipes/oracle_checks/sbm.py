"""Score-Based Multimodal Autoencoder on closed forms: its path, its corrector, its conditioning modes, its energy guidance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from polyscore.denoisers import State
from polyscore.guided import Guided
from polyscore.oracles import GaussianDenoiser
from polyscore.paths import VPSDE
from polyscore.predictions import Prediction
from polyscore.ratios.base import FunctionRatio
from polyscore.recipes.oracle_checks.measure import Measure, between, near
from polyscore.sampling import SNRLangevin, Streams, Walk, sample

__all__ = ["MODES", "conditional", "conditioning", "corrector", "default_mode", "energy", "path_table", "unconditional"]

CORRELATION, GIVEN = 0.9, 1.5
TRUTH = (CORRELATION * GIVEN, 1 - CORRELATION**2)
MODES: dict[tuple[float, float, int], dict[str, tuple[tuple[float, float], tuple[float, float] | None]]] = {
    (0.1, 5.0, 100): {
        "clean": ((1.261, 0.212), (1.086, 0.312)),
        "scaled": ((1.489, 0.214), (1.386, 0.310)),
        "noised": ((1.172, 0.224), (0.943, 0.310)),
        "resample": ((1.336, 0.178), None),
        "time": ((1.349, 0.178), (1.331, 0.193)),
    },
    (0.1, 20.0, 100): {
        "clean": ((1.199, 0.248), (1.096, 0.315)),
        "scaled": ((1.463, 0.244), (1.404, 0.314)),
        "noised": ((1.080, 0.255), (0.954, 0.313)),
        "time": ((1.349, 0.179), (1.356, 0.192)),
    },
    (0.1, 20.0, 1000): {
        "clean": ((1.344, 0.182), (1.092, 0.311)),
        "scaled": ((1.439, 0.181), (1.400, 0.309)),
        "noised": ((1.337, 0.179), (0.940, 0.309)),
        "time": ((1.348, 0.177), (1.352, 0.191)),
    },
}
"""(beta_min, beta_max, N): mode: (mean, variance) of the free modality, with the corrector and with the predictor alone.
Two scalars of unit variance and correlation 0.9, the other one observed at 1.5; the truth is 1.35 and 0.19."""


def _law(beta_min: float, beta_max: float) -> GaussianDenoiser:
    path = VPSDE(beta_min, beta_max)
    return GaussianDenoiser([0.0, 0.0], [[1.0, CORRELATION], [CORRELATION, 1.0]], {"x": path, "y": path})


def path_table() -> list[Measure]:
    """SBM 1: a and sigma at t = 1 for the three settings of the papers, to 1e-5, and a^2 + sigma^2 = 1."""
    rows = []
    for beta, a, s in (((0.1, 5.0), 0.27943, 0.96017), ((1.0, 5.0), 0.22313, 0.97479), ((0.1, 20.0), 0.00657, 0.99998)):
        A, S = VPSDE(*beta).coefficients(torch.linspace(0, 1, 101, dtype=torch.float64))
        rows += [
            near("sbm 1", f"a at t = 1, beta {beta}", a, A[-1], 1e-5),
            near("sbm 1", f"sigma at t = 1, beta {beta}", s, S[-1], 1e-5),
            near("sbm 1", f"a^2 + sigma^2 - 1, beta {beta}", 0, (A * A + S * S - 1).abs().max(), 1e-12),
        ]
    return rows


def conditional(
    beta_min: float, beta_max: float, steps: int, mode: str, corrected: bool = True, n: int = 40000, seed: int = 0
) -> tuple[float, float]:
    """Mean and variance of x given y = 1.5, sampled as the authors do: Euler-Maruyama on N points from 1 to 1e-3 with steps of
    1/N, and their corrector after it at the same time, its norms over both modalities and means over the batch."""
    found = sample(
        _law(beta_min, beta_max),
        n,
        given={"y": torch.full((1, 1), GIVEN)},
        steps=steps,
        solver="euler_maruyama_even",
        corrector=SNRLangevin(observed=mode != "time", norm="batch") if corrected else None,
        grid="score_sde",
        conditioning=mode,  # type: ignore[arg-type]
        seed=seed,
        dtype=torch.float64,
    )["x"]
    return float(found.mean()), float(found.var())


def _wider(n: int) -> float:
    """Three standard errors of n chains beyond those of 40 000."""
    return 3 * math.sqrt(0.3) * (n**-0.5 - 40000**-0.5) if n < 40000 else 0.0


def conditioning(n: int = 40000, settings: int = 3, seed: int = 0) -> list[Measure]:
    """SBM 2: every mode's bias as tabulated, to 0.01 and the table's own Monte-Carlo error, 0.003, at 40 000 chains."""
    rows = []
    slack = 0.013 + _wider(n)
    for beta_min, beta_max, steps in list(MODES)[:settings]:
        for mode, (corrected, alone) in MODES[beta_min, beta_max, steps].items():
            for expected, how in ((corrected, "with corrector"), (alone, "predictor only")):
                if expected is None:
                    continue
                found = conditional(beta_min, beta_max, steps, mode, how == "with corrector", n, seed)
                what = f"beta ({beta_min:g}, {beta_max:g}), N = {steps}, {mode}, {how}"
                rows += [near("sbm 2", f"{what}: {k}", e, f, slack) for k, e, f in zip(("mean", "variance"), expected, found, strict=True)]
    return rows


def default_mode(n: int = 40000, seed: int = 0) -> list[Measure]:
    """SBM 2: the default, one time per modality, comes within 0.02 of the truth with N = 100 steps."""
    rows = []
    for solver in ("dpmpp", "heun", "euler_maruyama"):
        law = _law(0.1, 20.0)
        found = sample(law, n, given={"y": torch.full((1, 1), GIVEN)}, steps=100, solver=solver, seed=seed, dtype=torch.float64)["x"]
        rows += [
            near("sbm 2", f"default mode, {solver}, 100 steps: mean", TRUTH[0], found.mean(), 0.02 + _wider(n)),
            near("sbm 2", f"default mode, {solver}, 100 steps: variance", TRUTH[1], found.var(), 0.02 + _wider(n)),
        ]
    return rows


def unconditional(n: int = 40000, seed: int = 0) -> list[Measure]:
    """SBM 2: both modalities free: variance and correlation in the authors' order and in the standard one."""
    rows = []
    for when, variance, correlation in (("same", 0.9805, 0.914), ("before", 1.0175, 0.898)):
        found = sample(
            _law(0.1, 5.0),
            n,
            steps=100,
            solver="euler_maruyama_even",
            corrector=SNRLangevin(when=when, norm="batch"),  # type: ignore[arg-type]
            grid="score_sde",
            seed=seed,
            dtype=torch.float64,
        )
        both = torch.cat([found["x"], found["y"]], 1)
        rows += [
            near("sbm 2", f"both free, corrector {when}: variance", variance, both.var(0).mean(), 0.02 + _wider(n)),
            near("sbm 2", f"both free, corrector {when}: correlation", correlation, torch.corrcoef(both.T)[0, 1], 0.01 + _wider(n)),
        ]
    return rows


class _Fixed:
    """Noise that is known beforehand."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        self.values = values

    def normal(self, name: str, shape: Any) -> Tensor:
        return self.values[name]

    def uniform(self, name: str, shape: Any) -> Tensor:
        return torch.zeros_like(self.values[name])


def corrector() -> list[Measure]:
    """SBM 3: the corrector's step is 2 alpha (r |n| / |g|)^2; the norm of g has a floor; both orders run."""
    law, N, r = _law(0.1, 5.0), 100, 0.16
    z = {name: torch.randn(6, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(k)) for k, name in enumerate("xy")}
    noise = {name: value.flip(0) for name, value in z.items()}
    walk = Walk(law.paths, law.shapes, torch.linspace(1, 0, N + 1, dtype=torch.float64).tolist(), _Fixed(noise))
    level = 30
    score = {name: p.score for name, p in law(z, dict.fromkeys(z, walk.times[level])).items()}
    g, e = torch.cat(list(score.values()), 1).norm(dim=1), torch.cat(list(noise.values()), 1).norm(dim=1)
    beta = 0.1 + 4.9 * math.floor(walk.times[level] * (N - 1)) / (N - 1)
    rows = []
    for norm, ratio in (("sample", e / g), ("batch", e.mean() / g.mean())):
        step = (2 * (1 - beta / N) * (r * ratio) ** 2).reshape(-1, 1)
        found = SNRLangevin(r, norm=norm, limit=math.inf)(walk, z, level, lambda z, i: law(z, dict.fromkeys(z, walk.times[i])))  # type: ignore[arg-type]
        gap = max(float((found[k] - (z[k] + step * score[k] + (2 * step).sqrt() * noise[k])).abs().max()) for k in z)
        rows.append(near("sbm 3", f"corrector's step against the formula, norms by {norm}", 0, gap, 1e-12))
    flat = SNRLangevin(r, limit=math.inf)(walk, z, level, lambda z, i: {k: _zero(v) for k, v in z.items()})
    rows.append(
        between("sbm 3", "largest state after a step along a zero score (floor)", 3e5, max(v.abs().max() for v in flat.values()), 1, 1e7)
    )
    return rows


def _zero(z: Tensor) -> Any:
    return Prediction.from_score(torch.zeros_like(z), z, 0.8, 0.6)


def energy() -> list[Measure]:
    """SBM 4: guidance by an energy is per sample: batch mates change nothing, and scale / 256 is the authors' batch of 256."""
    law, scale = _law(0.1, 5.0), 1000.0

    def value(z: State) -> Tensor:
        return (z["x"] - z["y"]).square().sum(1)

    guided = Guided(law, FunctionRatio(lambda z, t, c: -value(z)), scale / 256)
    streams = Streams(0, range(256), dtype=torch.float64)
    z, t = {name: streams.normal(name, (1,)) for name in law.paths}, {"x": 0.5, "y": 0.5}
    found = guided(z, t)["x"].score
    leaf = z["x"].clone().requires_grad_(True)
    (reference,) = torch.autograd.grad(value(z | {"x": leaf}).mean() * scale, leaf)
    gap = float((found - (law(z, t)["x"].score - reference)).abs().max())
    part = guided({k: v[5:21] for k, v in z.items()}, t)["x"].score
    return [
        near("sbm 4", "scale 1000 / 256 against 1000 times the gradient of a batch mean of 256", 0, gap, 1e-10),
        near("sbm 4", "the same rows in a batch of 16", 0, (part - found[5:21]).abs().max(), 1e-12),
    ]
