"""MMDisCo on closed forms: guidance by the exact ratio in every parametrisation, and the toy of the paper's Table 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from polyscore.metrics import toy as metrics
from polyscore.oracles import ExactRatio, GaussianDenoiser
from polyscore.paths import VE, VPSDE, GaussianPath, RectifiedFlow, ScaledLinear
from polyscore.predictions import KINDS, Prediction
from polyscore.recipes import toy
from polyscore.recipes.oracle_checks.measure import Measure, between, near

__all__ = ["conversions", "gradients", "ground_truth", "no_joint", "schedules", "sign", "smoothing", "toy_targets"]

_LATENT = {"x": ScaledLinear(0.0015, 0.0195), "y": ScaledLinear(0.00085, 0.012)}


def conversions() -> list[Measure]:
    """MMDisCo 1: guided eps, x0, v, score and flow forms give one x0."""
    rows = []
    for path in (VPSDE(), RectifiedFlow(), VE(0.01, 20.0)):
        worst = max(_form_gap(path, t) for t in (0.05, 0.5, 0.9))
        rows.append(near("mmdisco 1", f"guided forms of one Gaussian, x0 gap, {type(path).__name__}", 0, worst, 1e-6))
    return rows


def _form_gap(path: GaussianPath, t: float) -> float:
    law = GaussianDenoiser([0.4], 0.7, {"x": path})
    z, g = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None], torch.linspace(1, -1, 9, dtype=torch.float64)[:, None]
    A, S = path.coefficients(t)
    found = law({"x": z}, {"x": t})["x"]
    forms = {kind: Prediction.of(kind, getattr(found, kind), z, A, S).shifted(g).x0 for kind in KINDS}
    wanted = found.x0 + S * S / A * g
    return max(float((value - wanted).abs().max()) for value in forms.values())


def gradients() -> list[Measure]:
    """MMDisCo 2: one backward gives the gradient for both modalities (float64 finite differences), and it can be differentiated again."""
    ratio = toy.exact_ratio("IND")
    generator = torch.Generator().manual_seed(0)
    z = {name: torch.randn(16, 1, dtype=torch.float64, generator=generator) for name in ("x", "y")}
    t = {"x": 0.3, "y": 0.3}
    found = ratio.gradient(z, t)
    rows = []
    for name in z:
        step = {name: z[name] + 1e-5}, {name: z[name] - 1e-5}
        finite = (ratio(z | step[0], t) - ratio(z | step[1], t)) / 2e-5
        gap = float((found[name][:, 0] - finite).abs().max() / finite.abs().max())
        rows.append(near("mmdisco 2", f"gradient by {name} against finite differences, relative", 0, gap, 1e-6))
    return [*rows, near("mmdisco 2", "second-order gradient against finite differences, relative", 0, _second(ratio, z, t), 1e-5)]


def _second(ratio: ExactRatio, z: dict[str, Tensor], t: dict[str, float]) -> float:
    """The training loss differentiates a gradient by the ratio's parameters; here by a scale inside it."""

    def slope(scale: Tensor, keep: bool) -> Tensor:
        class Scaled(ExactRatio):
            def forward(self, z: dict[str, Tensor], t: object, condition: object = None) -> Tensor:
                return super().forward({k: v * scale for k, v in z.items()}, t)  # type: ignore[arg-type]

        return Scaled(ratio.joint, list(ratio.bases)).gradient(z, t, keep=keep)["x"].pow(2).sum()  # type: ignore[arg-type]

    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad(slope(scale, True), scale)
    finite = (slope(scale.detach() + 1e-5, False) - slope(scale.detach() - 1e-5, False)) / 2e-5
    return float(((exact - finite) / finite).abs())


def toy_targets(n: int = 4000, seed: int = 0) -> list[Measure]:
    """MMDisCo 3: the exact ratio in the discriminator's place samples the target (DDPM, 500 steps)."""
    rows = []
    for setting, expected in (("IND", -0.225), ("OOD", -0.286)):
        found = toy.measure(toy.run(setting, n, seed=seed), setting)
        slack = 3 * 0.016 * math.sqrt(4000 / n)
        rows += [
            between("mmdisco 3", f"{setting} nll_exact", expected, found["nll_exact"], min(-0.30, expected - slack), -0.15),
            *_quality("mmdisco 3", setting, found),
        ]
    return rows


def _quality(check: str, setting: str, found: dict[str, object]) -> list[Measure]:
    n: int = found["n"]  # type: ignore[assignment]
    weights: list[float] = found["mode_weights"]  # type: ignore[assignment]
    worst = max(weights, key=lambda w: abs(w - 0.2))
    return [
        between(check, f"{setting} in-mode share", 1.0, found["in_mode_share"], 0.995),  # type: ignore[arg-type]
        near(check, f"{setting} mode weight furthest from .2", 0.2, worst, 0.025 * math.sqrt(max(1.0, 4000 / n))),
    ]


def no_joint(n: int = 4000, seed: int = 0) -> list[Measure]:
    """MMDisCo 4: the analytic base alone reproduces the paper's "no joint" row."""
    found = toy.run("IND", n, scale=0.0, seed=seed)
    wider = math.sqrt(max(1.0, 4000 / n))
    scores = {setting: toy.measure(found, setting)["nll_paper"] for setting in toy.TARGETS}
    return [
        near("mmdisco 4", "IND nll_paper without a joint (paper 18.80)", 18.7, scores["IND"], 0.4 * wider),
        near("mmdisco 4", "OOD nll_paper without a joint (paper 22.10)", 22.1, scores["OOD"], 0.25 * wider),
    ]


def ground_truth(n: int = 4000, seed: int = 0) -> list[Measure]:
    """MMDisCo 5: exact samples of the target; the two likelihoods differ by log(2 pi) away from the floor."""
    rows = []
    for setting in toy.TARGETS:
        drawn = toy.points(toy.target(setting).draw(n, torch.Generator().manual_seed(seed)))
        found = toy.measure(drawn, setting)
        rows += [
            near("mmdisco 5", f"{setting} ground truth nll_exact", -0.158, found["nll_exact"], 0.05),
            near("mmdisco 5", f"{setting} ground truth nll_paper (paper 1.67)", 1.680, found["nll_paper"], 0.05),
        ]
    centre = torch.tensor(toy.TARGETS["IND"], dtype=torch.float64)
    offset = metrics.nll_paper(centre, centre) - metrics.nll_exact(centre, centre)
    return [*rows, near("mmdisco 5", "nll_paper - nll_exact at the modes", math.log(2 * math.pi), offset, 1e-6)]


def sign(n: int = 1000, seed: int = 0) -> list[Measure]:
    """MMDisCo 6: guidance with its sign flipped leaves the modes."""
    found = toy.measure(toy.run("IND", n, scale=-1.0, seed=seed), "IND")
    return [between("mmdisco 6", "IND in-mode share, guidance sign flipped", 0.008, found["in_mode_share"], 0.0, 0.05)]


def smoothing(n: int = 1000, seed: int = 0) -> list[Measure]:
    """MMDisCo 7: the authors' smoothed log ratio (1e-5) stops short of the modes out of domain; the raw logit does not (check 3)."""
    found = toy.measure(toy.run("OOD", n, smooth=True, seed=seed), "OOD")
    return [between("mmdisco 7", "OOD nll_exact, smoothed log ratio", 6.91, found["nll_exact"], 4.0)]


def schedules(n: int = 1000, seed: int = 0, steps: int = 1000) -> list[Measure]:
    """MMDisCo 8: x and y on different schedules paired by the shared time: same quality as 3."""
    rows = []
    for setting, expected in (("IND", -0.36), ("OOD", -0.34)):
        found = toy.measure(toy.run(setting, n, on=dict(_LATENT), steps=steps, seed=seed), setting)
        slack = max(0.05, 3 * 0.016 * math.sqrt(4000 / n))
        rows += [
            near("mmdisco 8", f"{setting} nll_exact, two schedules", expected, found["nll_exact"], slack),
            *_quality("mmdisco 8", f"{setting} two schedules:", found),
        ]
    return rows
