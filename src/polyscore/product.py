"""Product of experts on one set of modalities, with strengths and reliabilities (Unite and Conquer)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from polyscore.conditions import own_rows, together
from polyscore.denoisers import AnyPrediction, Denoiser, OnPath, State, Times
from polyscore.errors import PolyscoreError
from polyscore.predictions import Prediction, TokenPrediction
from polyscore.reliability import own_priors, resolve, safe_intervals, warning

__all__ = ["Product", "Term"]


@dataclass(eq=False)
class Term:
    """One factor (p_i(z | c_i) / base)^w_i of a product.

    Args:
        expert: the denoiser p_i.
        condition: its condition c_i: a tensor (B, ...), one row for all, or None.
        strength: w_i: a number (negative: away from the condition), a tensor (B,) one a sample, or a mask that broadcasts to (B, *shape).
        window: the times [low, high] in which the term acts.
        name: how diagnostics and `reliability` call the expert; by default expert0, expert1, ...
        null: the condition that means "none" for this expert.
        has_null: False for an expert that was never trained without a condition; it then cannot lend its prior to the base.
    """

    expert: Denoiser
    condition: Any = None
    strength: float | Tensor = 1.0
    window: tuple[float, float] = (0.0, 1.0)
    name: str | None = None
    null: Any = None
    has_null: bool = True


@dataclass(eq=False)
class _Group:
    """Terms of one expert: they share one null prediction."""

    name: str
    expert: Denoiser
    terms: list[int] = field(default_factory=list)
    null: Any = None
    has_null: bool = True


class Product(Denoiser):
    """Density: base(z) prod_i [p_i(z | c_i) / base(z)]^w_i with base = prod_j p_j(z)^a_j and sum_j a_j = 1.

    eps = u + sum_i w_i (c_i - u), u = sum_j a_j u_j, where c_i and u_j are the conditional and null predictions
    (Unite and Conquer, Eq. 10); tokens use log-probabilities and are normalised again. With one expert this is
    classifier-free guidance, with one expert and several conditions composable diffusion. Experts with other paths are
    asked at equal SNR on the paths of the first one.

    The result is exact at t = 0 only: the sum of scores is not the score of the noised product (biased; see
    `polyscore.sampling.correctors` and `polyscore.sampling.particles` for the unbiased forms).

    Args:
        terms: the factors; all on the same modalities and shapes (and latent spaces, where named).
        reliability: a_j by expert name. Default: a_j = W_j / W, each expert's share of the strengths, so that every
            expert keeps its own prior (r_j = a_j below).
        prior: instead of `reliability`, the net weights of the experts' own priors, r_j = W_j - (W - 1) a_j, which also sum to 1.
        base: one denoiser to serve as the base, in place of the experts' nulls.
    """

    def __init__(
        self,
        terms: Sequence[Term],
        reliability: Mapping[str, float] | None = None,
        prior: Mapping[str, float] | None = None,
        base: Denoiser | None = None,
    ) -> None:
        super().__init__()
        if not terms:
            raise PolyscoreError("Product: expected at least one term, found none")
        self.terms = list(terms)
        first = terms[0].expert
        self.paths, self.shapes, self.spaces = dict(first.paths), dict(first.shapes), dict(first.spaces)
        self.base = None if base is None else self._adapt("base", base)
        self.groups = self._group()
        self.experts = nn.ModuleList([g.expert for g in self.groups])
        able = {g.name: g.has_null for g in self.groups}
        self.reliability = {} if base is not None else resolve(self.strengths, able, reliability, prior)
        for line in warning(self.strengths, self.reliability) if base is None and len(self.groups) > 1 else []:
            warnings.warn(line, stacklevel=3)

    def _adapt(self, name: str, expert: Denoiser) -> Denoiser:
        for modality, shape in self.shapes.items():
            found = tuple(expert.shapes.get(modality, ()))
            if set(expert.paths) != set(self.paths) or found != tuple(shape):
                raise PolyscoreError(
                    f"Product: {name} has states {dict(expert.shapes)}, expected {dict(self.shapes)} (experts multiply in one space)"
                )
            own, other = self.spaces.get(modality), expert.spaces.get(modality)
            if own is not None and other is not None and own != other:
                raise PolyscoreError(
                    f"Product: {name} lives in latent space {other!r} of {modality!r}, expected {own!r}; their states cannot be added"
                )
        same = all(expert.paths[m] == path for m, path in self.paths.items())
        return expert if same else OnPath(expert, self.paths)

    def _group(self) -> list[_Group]:
        groups: dict[int, _Group] = {}
        for index, term in enumerate(self.terms):
            key = id(term.expert)
            if key not in groups:
                name = term.name or f"expert{len(groups)}"
                groups[key] = _Group(name, self._adapt(name, term.expert), null=term.null, has_null=term.has_null)
            groups[key].terms.append(index)
        names = [g.name for g in groups.values()]
        if len(set(names)) < len(names):
            raise PolyscoreError(f"Product: expected one name an expert, found {names}")
        return list(groups.values())

    @property
    def strengths(self) -> dict[str, float]:
        """W_j: the strengths of each expert's terms, summed (means of those given one a sample or pixel)."""
        return {g.name: sum(_number(self.terms[i].strength) for i in g.terms) for g in self.groups}

    @property
    def prior(self) -> dict[str, float]:
        """r_j = W_j - (W - 1) a_j: net weight of each expert's own prior. Sums to 1."""
        return own_priors(self.strengths, self.reliability)

    @property
    def safe_interval(self) -> dict[str, tuple[float, float]]:
        """For each expert the reliabilities for which its own prior weight r_j stays in [0, 1]."""
        return safe_intervals(self.strengths)

    @property
    def approximations(self) -> list[str]:
        """Why there is no one density whose noised levels particles could weigh: time windows, masks."""
        found = [f"{self._name(i)} acts in the window {list(term.window)} only" for i, term in enumerate(self.terms) if _partial(term)]
        return found + [f"{self._name(i)} has a mask" for i, term in enumerate(self.terms) if _masked(term.strength)]

    def _name(self, index: int) -> str:
        return next(f"{g.name}[{index}]" for g in self.groups if index in g.terms)

    def coefficients_at(self, t: Times, rows: int | None = None) -> tuple[list[Any], list[Any]]:
        """Coefficients of the conditional predictions (one a term) and of the nulls (one an expert, or the base); they sum to 1.

        `rows` is the size of the batch, to which strengths given one a sample are cut.
        """
        ndim = 1 + max(len(shape) for shape in self.shapes.values())
        strengths = [_strength(term, rows, ndim, self._name(i)) for i, term in enumerate(self.terms)]
        weights = [_windowed(term, w, t) for term, w in zip(self.terms, strengths, strict=True)]
        excess = sum(weights) - 1
        shares = [1.0] if self.base is not None else [self.reliability[g.name] for g in self.groups]
        return weights, [0.0 if share == 0 else -share * excess for share in shares]

    def parts(self, z: State, t: Times) -> list[tuple[str, Any, dict[str, AnyPrediction]]]:
        """(name, coefficient, predictions) of every factor whose coefficient is not zero: one network call an expert."""
        rows = len(next(iter(z.values())))
        weights, nulls = self.coefficients_at(t, rows)
        found: list[tuple[str, Any, dict[str, AnyPrediction]]] = []
        for index, group in enumerate(self.groups):
            used = [i for i in group.terms if not _zero(weights[i])]
            asked = [(own_rows(self.terms[i].condition, rows, f"condition of {self._name(i)}"), weights[i], self._name(i)) for i in used]
            if self.base is None and not _zero(nulls[index]):
                asked.append((group.null, nulls[index], f"{group.name}[null]"))
            predictions = together(group.expert, z, t, [c for c, _, _ in asked])
            found += [(name, weight, p) for (_, weight, name), p in zip(asked, predictions, strict=True)]
        if self.base is not None and not _zero(nulls[0]):
            found.append(("base", nulls[0], self.base(z, t)))
        return found

    def forward(self, z: State, t: Times, condition: Any = None) -> dict[str, AnyPrediction]:
        """The combined predictions; `condition` is not used (each term has its own)."""
        parts = self.parts(z, t)
        return {name: self._combine(name, parts, z, t) for name in self.paths}

    def _combine(self, name: str, parts: list[tuple[str, Any, dict[str, AnyPrediction]]], z: State, t: Times) -> AnyPrediction:
        own: list[Any] = [(label, weight, found[name]) for label, weight, found in parts]
        if isinstance(own[0][2], TokenPrediction):
            return TokenPrediction.mix(own)
        return Prediction.mix(own, z[name], *self.coefficients(name, t))


def _number(strength: float | Tensor) -> float:
    return float(strength.mean()) if isinstance(strength, Tensor) else float(strength)


def _strength(term: Term, rows: int | None, ndim: int, name: str) -> Any:
    """The strength cut to the batch; a mask with fewer dimensions than the state gets leading ones."""
    value = term.strength
    if isinstance(value, Tensor) and 1 < value.ndim < ndim:
        value = value.reshape(*[1] * (ndim - value.ndim), *value.shape)
    return value if rows is None else own_rows(value, rows, f"strength of {name}")


def _zero(weight: Any) -> bool:
    return not isinstance(weight, Tensor) and weight == 0


def _partial(term: Term) -> bool:
    return tuple(term.window) != (0.0, 1.0)


def _masked(strength: float | Tensor) -> bool:
    return isinstance(strength, Tensor) and strength.ndim > 1


def _windowed(term: Term, strength: Any, t: Times) -> Any:
    if not _partial(term):
        return strength
    low, high = term.window
    # Observed modalities sit at t = 0; the clock of a term is that of the modalities still moving.
    clocks = list(t.values())
    now: Any = clocks[0]
    for clock in clocks[1:]:
        now = torch.maximum(torch.as_tensor(now), torch.as_tensor(clock))
    if not (isinstance(now, Tensor) and now.ndim):
        return strength if low <= float(now) <= high else 0.0
    inside = ((now >= low) & (now <= high)).to(torch.float32)
    if isinstance(strength, Tensor) and strength.ndim > 1:
        inside = inside.reshape(-1, *[1] * (strength.ndim - 1))
    return strength * inside
