"""Unite and Conquer on closed forms: the algebra of the product, equal SNR, independence and seeds."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polyscore.denoisers import Denoiser, Expert, OnPath, count_evaluations
from polyscore.guided import Guided
from polyscore.oracles import MixtureDenoiser
from polyscore.paths import VE, VPSDE, Cosine, GaussianPath, Linear, RectifiedFlow
from polyscore.product import Product, Term
from polyscore.ratios.base import FunctionRatio
from polyscore.recipes.oracle_checks.measure import Measure, between, near
from polyscore.sampling import Streams, sample

__all__ = ["algebra", "equal_snr", "independence", "seeds"]


class _Table(nn.Module):
    """A network whose answer is its condition: one number a row and modality x."""

    def forward(self, z: dict[str, Tensor], t: Any, condition: Any = None) -> dict[str, Tensor]:
        return {"x": torch.as_tensor(condition).expand(len(z["x"]))[:, None].to(z["x"])}


def _expert() -> Expert:
    return Expert(_Table(), {"x": VPSDE()}, {"x": (1,)}, "eps")


def _term(expert: Expert, value: float, null: float, strength: float, name: str | None = None) -> Term:
    return Term(expert, torch.tensor([value], dtype=torch.float64), strength, null=torch.tensor([null], dtype=torch.float64), name=name)


_Z, _T = {"x": torch.zeros(3, 1, dtype=torch.float64)}, {"x": 0.5}


def _eps(product: Product) -> float:
    return float(product(_Z, _T)["x"].eps[0, 0])  # type: ignore[union-attr]


def algebra(trials: int = 50, seed: int = 0) -> list[Measure]:
    """Unite 12: the coefficients and the special cases, on random strengths, reliabilities and predictions."""
    generator = torch.Generator().manual_seed(seed)
    gaps: dict[str, float] = {}
    for _ in range(trials):
        c, u, w, a = torch.randn(4, 3, dtype=torch.float64, generator=generator).tolist()
        w = [abs(v) + 0.5 for v in w]
        a = [a[0], a[1], 1 - a[0] - a[1]]
        for what, gap in _gaps(c, u, w, a).items():
            gaps[what] = max(gaps.get(what, 0.0), abs(gap))
    return [near("unite 12", what, 0, gap, 1e-9) for what, gap in gaps.items()] + _calls()


def _gaps(c: list[float], u: list[float], w: list[float], a: list[float]) -> dict[str, float]:
    W, mean = sum(w), sum(x * y for x, y in zip(a, u, strict=True))
    experts = [_expert() for _ in c]

    def product(order: Sequence[int] = (0, 1, 2), nulls: Sequence[float] = u, **weights: Any) -> Product:
        terms = [_term(experts[i], c[i], nulls[i], w[i], f"e{i}") for i in order]
        return _quiet(lambda: Product(terms, **weights))

    reliability = {f"e{i}": v for i, v in enumerate(a)}
    full = product(reliability=reliability)
    weights, nulls = full.coefficients_at(_T)
    own = {f"e{i}": v / W for i, v in enumerate(w)}
    same = [product(nulls=[u[0]] * 3, reliability=r) for r in (reliability, own)]
    one = Product([_term(experts[0], v, u[0], s) for v, s in zip(c, w, strict=True)])
    own_form = sum(w[i] / W * u[i] + w[i] * (c[i] - u[i]) for i in range(3))
    return {
        "sum of coefficients - 1": sum(weights) + sum(nulls) - 1,
        "against u + sum w (c - u)": _eps(full) - (mean + sum(w[i] * (c[i] - mean) for i in range(3))),
        "one expert against classifier-free guidance": _eps(Product([_term(experts[0], c[0], u[0], w[0])])) - (u[0] + w[0] * (c[0] - u[0])),
        "one null against composable diffusion": _eps(one) - (u[0] + sum(w[i] * (c[i] - u[0]) for i in range(3))),
        "reliability when the nulls coincide": _eps(same[0]) - _eps(same[1]),
        "own-null form against the paper's at a = w / W": _eps(product(reliability=own)) - own_form,
        "default against a = w / W": _eps(product()) - own_form,
        "prior weights against reliabilities": _eps(product(prior=full.prior)) - _eps(full),
        "order of the experts": _eps(product((2, 0, 1), reliability=reliability)) - _eps(full),
    }


def _quiet(make: Callable[[], Product]) -> Product:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def _calls() -> list[Measure]:
    """Three terms on one expert, two of them alike: two conditions and one null; a second expert: one condition and its null."""
    first, second = _expert(), _expert()
    product = Product([_term(first, v, 0.0, 1.0) for v in (1.0, 2.0, 1.0)] + [_term(second, 1.0, 0.0, 2.0)])
    with count_evaluations(product) as found:
        product(_Z, _T)
    return [
        near("unite 12", "network calls of two experts", 2, found.calls, 0),
        near("unite 12", "distinct (expert, condition) pairs evaluated", 5, found.rows / len(_Z["x"]), 0),
    ]


def equal_snr() -> list[Measure]:
    """Unite 14: an expert shown on another path says the same eps as the exact law there, to 1e-5."""
    rows = []
    pairs: list[tuple[GaussianPath, GaussianPath]] = [(Linear(), Cosine()), (VPSDE(), Linear()), (VPSDE(), VE(0.002, 80.0))]
    pairs += [(VE(0.002, 80.0), RectifiedFlow()), (RectifiedFlow(), Linear())]
    for own, new in pairs:
        shown, exact = OnPath(_mixture(own), {"x": new}), _mixture(new)
        worst = 0.0
        for level in torch.linspace(-8, 8, 9).tolist():
            t = {"x": new.time_of(max(level, own.log_snr(1.0)))}
            A, S = new.coefficients(t["x"])
            z = {"x": math.hypot(A, S) * Streams(0, range(16), dtype=torch.float64).normal("x", (2,))}
            worst = max(worst, float((shown(z, t)["x"].eps - exact(z, t)["x"].eps).abs().max()))
        rows.append(near("unite 14", f"{type(own).__name__} expert on {type(new).__name__}, eps gap", 0, worst, 1e-5))
    return rows


def _mixture(path: GaussianPath) -> MixtureDenoiser:
    return MixtureDenoiser([[0.5, -1.0], [-1.5, 0.25]], 0.3, {"x": path}, weights=[0.3, 0.7])


def _composition(scale: float = 1.0, asked: list[int] | None = None) -> Denoiser:
    """Two mixtures multiplied, pulled to the origin by a ratio."""

    def pull(z: dict[str, Tensor], t: Any, condition: Any) -> Tensor:
        if asked is not None:
            asked.append(1)
        return -z["x"].square().sum(1)

    experts = [_mixture(VPSDE()), OnPath(MixtureDenoiser([[0.0, 1.0]], 0.5, {"x": VE()}), {"x": VPSDE()})]
    return Guided(Product([Term(e, strength=0.5) for e in experts]), FunctionRatio(pull), scale)


def independence() -> list[Measure]:
    """Unite 15: permuting or adding batch rows changes nothing beyond rounding."""
    law, z, t = _composition(), Streams(0, range(12), dtype=torch.float64).normal("x", (2,)), {"x": 0.4}
    found, order = law({"x": z}, t)["x"].eps, torch.randperm(12, generator=torch.Generator().manual_seed(0))
    drawn = sample(law, 12, steps=5, solver="ddpm", seed=1, dtype=torch.float64)["x"]
    cut = sample(law, 12, steps=5, solver="ddpm", seed=1, dtype=torch.float64, batch_size=5)["x"]
    return [
        near("unite 15", "rows permuted, eps gap", 0, (law({"x": z[order]}, t)["x"].eps - found[order]).abs().max(), 1e-12),
        near("unite 15", "rows alone, eps gap", 0, (law({"x": z[3:4]}, t)["x"].eps - found[3:4]).abs().max(), 1e-12),
        near("unite 15", "samples in batches of 5 and of 12, gap", 0, (cut - drawn).abs().max(), 1e-12),
    ]


def seeds() -> list[Measure]:
    """Unite 16: the same seed gives the same samples; a scale of 0 gives the base's, bit for bit, without asking the ratio."""
    asked: list[int] = []
    off = _composition(0.0, asked)
    options: dict[str, Any] = {"steps": 6, "solver": "ddpm"}
    first, again, other = (sample(off, 8, seed=s, **options)["x"] for s in (3, 3, 4))
    base = sample(off.denoiser, 8, seed=3, **options)["x"]  # type: ignore[arg-type]
    return [
        near("unite 16", "same seed, gap", 0, (first - again).abs().max(), 0),
        between("unite 16", "another seed, gap", 1.0, (first - other).abs().max(), 0.1),
        near("unite 16", "scale 0 against the base, gap", 0, (first - base).abs().max(), 0),
        near("unite 16", "calls of a ratio of scale 0", 0, len(asked), 0),
    ]
