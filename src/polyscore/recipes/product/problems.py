"""Compositions whose law is known: Gaussian and mixture experts of 1 to 32 dimensions, guidance, ratios and token tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polyscore.denoisers import Denoiser, Expert, Independent, State
from polyscore.guided import Guided
from polyscore.oracles import ExactRatio, GaussianDenoiser, MixtureDenoiser
from polyscore.paths import VE, VPSDE, Cosine, GaussianPath, Linear, RectifiedFlow
from polyscore.product import Product, Term
from polyscore.ratios.subset import SubsetGuided
from polyscore.recipes.product.truths import Curve, Table, Truth, mixture_product
from polyscore.token_oracles import TokenTableDenoiser
from polyscore.tokens.paths import Absorbing

__all__ = ["Problem", "problems"]

PATHS: tuple[Callable[[], GaussianPath], ...] = (VPSDE, Cosine, RectifiedFlow, lambda: VE(0.01, 50.0), Linear)
KINDS = ("eps", "x0", "v", "score", "flow")


@dataclass(frozen=True)
class Problem:
    """A composition and the law it should sample; samples of all modalities are joined to (n, D)."""

    name: str
    family: str
    denoiser: Denoiser
    truth: Truth
    log_normaliser: float


class Raw(nn.Module):
    """A closed-form law as a network with one kind of raw output."""

    def __init__(self, law: MixtureDenoiser, kind: str) -> None:
        super().__init__()
        self.law, self.kind = [law], kind

    def forward(self, z: State, t: Any, condition: Any = None) -> State:
        """{"x": the law's prediction of the kind}."""
        return {"x": getattr(self.law[0](z, t)["x"], self.kind)}


def as_expert(law: MixtureDenoiser, kind: str) -> Expert:
    """The law behind an `Expert` that predicts `kind`."""
    return Expert(Raw(law, kind), law.paths, law.shapes, kind)


def problems(seed: int = 0) -> Iterator[Problem]:
    """At least 60 of them; the same ones for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    for dims, most in ((1, 8), (2, 8), (4, 8), (8, 8), (16, 4), (32, 3)):
        for experts in (e for e in (2, 3, 4, 6, 8) if e <= most):
            yield _gaussians(dims, experts, generator)
    for dims in (1, 2, 4, 8, 16, 32):
        for experts in (2, 3):
            yield _mixtures(dims, experts, generator)
    for number in range(12):
        yield _line(number, generator)
    for strength in (0.5, 1.0, 2.0, 3.0):
        yield _joint("subset guidance", strength)
        yield _joint("ratio", strength)
    for size, length, experts in ((2, 4, 2), (3, 4, 2), (4, 4, 3), (2, 8, 3), (3, 6, 2), (5, 4, 4), (3, 5, 3), (2, 6, 4)):
        yield _tokens(size, length, experts, generator)


def _uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)


def _path(generator: torch.Generator) -> GaussianPath:
    return PATHS[int(torch.randint(len(PATHS), (), generator=generator))]()


def _kind(generator: torch.Generator) -> str:
    return KINDS[int(torch.randint(len(KINDS), (), generator=generator))]


def exists(covs: Sequence[Tensor], coefficients: Sequence[float], least: float = 0.3) -> bool:
    """Whether sum_i c_i (A^2 C_i + S^2)^-1 stays above `least` at every noise level of a variance-preserving path."""
    eye = torch.eye(covs[0].shape[0], dtype=torch.float64)
    for A2 in torch.linspace(0.02, 1, 25, dtype=torch.float64):
        precision = torch.stack([c * torch.linalg.inv(A2 * C + (1 - A2) * eye) for c, C in zip(coefficients, covs, strict=True)]).sum(0)
        if float(torch.linalg.eigvalsh(precision).min()) < least:
            return False
    return True


def _gaussians(dims: int, experts: int, generator: torch.Generator) -> Problem:
    """Gaussian experts with strengths in [-1, 3] over a broad Gaussian base."""
    scale = dims**-0.25
    while True:
        strengths = [*_uniform(generator, -1, 3, experts).tolist()]
        covs = [_covariance(dims, generator) for _ in range(experts)]
        means = [torch.randn(dims, generator=generator, dtype=torch.float64) * scale for _ in range(experts)]
        coefficients = [*strengths, 1 - sum(strengths)]
        base_cov = torch.eye(dims, dtype=torch.float64) * float(_uniform(generator, 1.5, 3.0))
        if exists([*covs, base_cov], coefficients):
            break
    laws: list[MixtureDenoiser] = [GaussianDenoiser(m, C, {"x": _path(generator)}) for m, C in zip(means, covs, strict=True)]
    base = GaussianDenoiser(torch.zeros(dims, dtype=torch.float64), base_cov, {"x": _path(generator)})
    return _product(f"gaussian {dims}d {experts} experts", "gaussian", laws, strengths, base, generator)


def _covariance(dims: int, generator: torch.Generator) -> Tensor:
    """Eigenvalues from .3 to 1.5 in random directions."""
    turn = torch.linalg.qr(torch.randn(dims, dims, generator=generator, dtype=torch.float64))[0]
    return turn @ torch.diag((_uniform(generator, math.log(0.3), math.log(1.5), dims)).exp()) @ turn.T


def _mixtures(dims: int, experts: int, generator: torch.Generator) -> Problem:
    """Experts of two or three components each, all of strength 1, over a broad Gaussian base."""
    laws = []
    for _ in range(experts):
        parts = 2 + int(torch.randint(2, (), generator=generator))
        means = torch.randn(parts, dims, generator=generator, dtype=torch.float64) * 1.2 * dims**-0.25
        variances = _uniform(generator, 0.2, 0.8, parts, dims)
        laws.append(MixtureDenoiser(means, variances, {"x": _path(generator)}, _uniform(generator, 0.5, 1.5, parts)))
    base = GaussianDenoiser(torch.zeros(dims, dtype=torch.float64), 2.5, {"x": _path(generator)})
    return _product(f"mixture {dims}d {experts} experts", "mixture", laws, [1.0] * experts, base, generator)


def _product(
    name: str,
    family: str,
    laws: Sequence[MixtureDenoiser],
    strengths: Sequence[float],
    base: MixtureDenoiser,
    generator: torch.Generator,
) -> Problem:
    terms = [Term(as_expert(law, _kind(generator)), strength=w, has_null=False) for law, w in zip(laws, strengths, strict=True)]
    truth, total = mixture_product([*laws, base], [*strengths, 1 - sum(strengths)])
    return Problem(name, family, Product(terms, base=as_expert(base, _kind(generator))), truth, total)


def _line(number: int, generator: torch.Generator) -> Problem:
    """Mixtures on a line with any strengths: one expert is classifier-free guidance, two are composable generation over a mixture base."""
    x = torch.linspace(-12, 12, 40001, dtype=torch.float64)
    experts = 1 + number % 2
    while True:
        strengths = _uniform(generator, 1.2, 3.0, experts).tolist() if experts == 1 else _uniform(generator, -1, 3, experts).tolist()
        path = _path(generator)
        laws = [_on_line(path, 0.15, 0.4, generator) for _ in range(experts)]
        base = _on_line(path, 0.6, 1.0, generator)
        covs = [torch.full((1, 1), 0.4, dtype=torch.float64) if w > 0 else torch.full((1, 1), 0.15, dtype=torch.float64) for w in strengths]
        if exists([*covs, torch.full((1, 1), 0.6, dtype=torch.float64)], [*strengths, 1 - sum(strengths)], 0.4):
            break
    log = sum(c * law.log_density({"x": x[:, None]}) for c, law in zip([*strengths, 1 - sum(strengths)], [*laws, base], strict=True))
    assert isinstance(log, Tensor)
    truth = Curve(x, log)
    terms = [Term(as_expert(law, _kind(generator)), strength=w, has_null=False) for law, w in zip(laws, strengths, strict=True)]
    name = "guidance" if experts == 1 else "two conditions"
    return Problem(
        f"{name} on a line {number}", "line", Product(terms, base=as_expert(base, _kind(generator))), truth, truth.log_normaliser
    )


def _on_line(path: GaussianPath, low: float, high: float, generator: torch.Generator) -> MixtureDenoiser:
    return MixtureDenoiser(
        torch.randn(3, 1, generator=generator, dtype=torch.float64) * 1.2,
        _uniform(generator, low, high, 3, 1),
        {"x": path},
        _uniform(generator, 0.5, 1.5, 3),
    )


def _joint(kind: str, strength: float) -> Problem:
    """p(x, y)^(1 + w) / (p(x) p(y))^w of a correlated Gaussian, by subset guidance or by the exact ratio at scale 1 + w."""
    cov = torch.tensor([[1.0, 0.24], [0.24, 0.8]], dtype=torch.float64)
    law = GaussianDenoiser([0.6, -0.4], cov, {"x": VPSDE(), "y": RectifiedFlow()})
    parts = Independent(law.marginal(["x"]), law.marginal(["y"]))
    denoiser: Denoiser = SubsetGuided(law, strength) if kind != "ratio" else Guided(parts, ExactRatio.information(law), 1 + strength)
    apart = GaussianDenoiser(law.mean[0], torch.diag(cov.diagonal()), law.paths)
    truth, total = mixture_product([law, apart], [1 + strength, -strength])
    return Problem(f"{kind} {strength:g}", "joint", denoiser, truth, total)


def _tokens(size: int, length: int, experts: int, generator: torch.Generator) -> Problem:
    """Joint tables over `length` tokens of `size` kinds, with strengths in [-1, 3] over a base table of their own."""
    path = {"x": Absorbing(size)}
    tables = [_energies(size, length, generator).softmax(0) for _ in range(experts + 1)]
    strengths = _uniform(generator, -1, 3, experts).tolist()
    shape = (size,) * length
    laws = [TokenTableDenoiser.dense(table.reshape(shape), path, {"x": length}) for table in tables]
    log = torch.stack([c * table.log() for c, table in zip([*strengths, 1 - sum(strengths)], tables, strict=True)]).sum(0)
    terms = [Term(law, strength=w, has_null=False) for law, w in zip(laws[:-1], strengths, strict=True)]
    total = float(torch.logsumexp(log, 0))
    name = f"tokens {size}^{length} {experts} experts"
    return Problem(name, "tokens", Product(terms, base=laws[-1]), Table((log - total).exp().reshape(shape)), total)


def _energies(size: int, length: int, generator: torch.Generator) -> Tensor:
    """Log-weights (size^length,) of single positions and of pairs of neighbours."""
    total = torch.zeros((size,) * length, dtype=torch.float64)
    for k in range(length):
        total = total + (0.5 * torch.randn(size, generator=generator, dtype=torch.float64)).reshape(
            [size if a == k else 1 for a in range(length)]
        )
    for k in range(length - 1):
        pair = 0.7 * torch.randn(size, size, generator=generator, dtype=torch.float64)
        total = total + pair.reshape([size if a in (k, k + 1) else 1 for a in range(length)])
    return total.flatten()
