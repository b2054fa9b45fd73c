"""Product of experts on one set of modalities, with strengths and reliabilities (Unite and Conquer)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from polyscore.denoisers import AnyPrediction, Denoiser, OnPath, State, Times
from polyscore.errors import PolyscoreError
from polyscore.predictions import Prediction, TokenPrediction

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
        self.reliability = self._reliability(reliability, prior)
        self._warn()

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

    def _strengths(self) -> list[float]:
        return [sum(_number(self.terms[i].strength) for i in g.terms) for g in self.groups]

    def _reliability(self, given: Mapping[str, float] | None, prior: Mapping[str, float] | None) -> dict[str, float]:
        if self.base is not None:
            return {}
        names, strengths = [g.name for g in self.groups], self._strengths()
        total = sum(strengths)
        chosen = given if given is not None else prior
        if given is not None and prior is not None:
            raise PolyscoreError("Product: give `reliability` or `prior`, not both")
        if chosen is not None and set(chosen) != set(names):
            raise PolyscoreError(f"Product: weights for {sorted(chosen)}, expected exactly {names}")
        if chosen is not None and not math.isclose(sum(chosen.values()), 1.0, abs_tol=1e-6):
            raise PolyscoreError(f"Product: weights {dict(chosen)} sum to {sum(chosen.values()):g}, expected 1")
        if given is not None:
            weights = dict(given)
        elif prior is not None:
            if math.isclose(total, 1.0):
                weights = {n: 1 / len(names) for n in names}
            else:
                weights = {n: (w - prior[n]) / (total - 1) for n, w in zip(names, strengths, strict=True)}
        else:
            weights = self._default(strengths, total)
        for group in self.groups:
            if not group.has_null and abs(weights[group.name]) > 1e-9 and not math.isclose(total, 1.0):
                raise PolyscoreError(
                    f"Product: {group.name} has no null condition, so its reliability must be 0, found {weights[group.name]:g}"
                )
        return weights

    def _default(self, strengths: list[float], total: float) -> dict[str, float]:
        able = [g.has_null for g in self.groups]
        if not any(able) and not math.isclose(total, 1.0):
            raise PolyscoreError("Product: no expert has a null condition, so strengths must sum to 1 (or give `base`)")
        shares = [max(w, 0.0) if a else 0.0 for w, a in zip(strengths, able, strict=True)]
        if sum(shares) <= 0:
            shares = [float(a) for a in able] if any(able) else [1.0] * len(able)
        return {g.name: s / sum(shares) for g, s in zip(self.groups, shares, strict=True)}

    @property
    def prior(self) -> dict[str, float]:
        """r_j = W_j - (W - 1) a_j: net weight of each expert's own prior. Sums to 1."""
        strengths = self._strengths()
        total = sum(strengths)
        return {g.name: w - (total - 1) * self.reliability.get(g.name, 0.0) for g, w in zip(self.groups, strengths, strict=True)}

    @property
    def safe_interval(self) -> dict[str, tuple[float, float]]:
        """For each expert the reliabilities for which its own prior weight r_j stays in [0, 1]."""
        strengths = self._strengths()
        excess = sum(strengths) - 1
        if excess <= 0:
            return {g.name: (-math.inf, math.inf) for g in self.groups}
        return {g.name: ((w - 1) / excess, w / excess) for g, w in zip(self.groups, strengths, strict=True)}

    def _warn(self) -> None:
        negative = {n: r for n, r in self.prior.items() if r < -1e-6} if self.base is None and len(self.groups) > 1 else {}
        for name, weight in negative.items():
            low, high = self.safe_interval[name]
            warnings.warn(
                f"Product: the prior of {name} has net weight r = {weight:.3g} < 0 (it is extrapolated away from);"
                f" reliability a = {self.reliability[name]:.3g}, safe between {low:.3g} and {high:.3g}",
                stacklevel=4,
            )

    def coefficients_at(self, t: Times) -> tuple[list[Any], list[Any]]:
        """Coefficients of the conditional predictions (one a term) and of the nulls (one an expert, or the base); they sum to 1."""
        weights = [_windowed(term, t) for term in self.terms]
        excess = sum(weights) - 1
        shares = [1.0] if self.base is not None else [self.reliability[g.name] for g in self.groups]
        return weights, [0.0 if share == 0 else -share * excess for share in shares]

    def parts(self, z: State, t: Times) -> list[tuple[str, Any, dict[str, AnyPrediction]]]:
        """(name, coefficient, predictions) of every factor whose coefficient is not zero: one network call an expert."""
        weights, nulls = self.coefficients_at(t)
        found: list[tuple[str, Any, dict[str, AnyPrediction]]] = []
        for index, group in enumerate(self.groups):
            asked = [(self.terms[i].condition, weights[i], f"{group.name}[{i}]") for i in group.terms if not _zero(weights[i])]
            if self.base is None and not _zero(nulls[index]):
                asked.append((group.null, nulls[index], f"{group.name}[null]"))
            predictions = _together(group.expert, z, t, [c for c, _, _ in asked])
            found += [(name, weight, p) for (_, weight, name), p in zip(asked, predictions, strict=True)]
        if self.base is not None and not _zero(nulls[0]):
            found.append(("base", nulls[0], self.base(z, t)))
        return found

    def forward(self, z: State, t: Times, condition: Any = None) -> dict[str, AnyPrediction]:
        """The combined predictions; `condition` is not used (each term has its own)."""
        parts = self.parts(z, t)
        return {name: self._combine(name, parts, z, t) for name in self.paths}

    def _combine(self, name: str, parts: list[tuple[str, Any, dict[str, AnyPrediction]]], z: State, t: Times) -> AnyPrediction:
        predictions = [p[name] for _, _, p in parts]
        weights = [w for _, w, _ in parts]
        if isinstance(predictions[0], TokenPrediction):
            logits = sum(_shaped(w, p.log_probs) * p.log_probs for w, p in zip(weights, predictions, strict=True))  # type: ignore[union-attr]
            return TokenPrediction.from_logits(logits)  # type: ignore[arg-type]
        known = {
            kind: sum(
                _shaped(w, z[name]) * getattr(p, kind).to(torch.promote_types(z[name].dtype, torch.float32))
                for w, p in zip(weights, predictions, strict=True)
            )
            for kind in ("eps", "x0")
        }
        return Prediction(known, z[name], *self.coefficients(name, t))  # type: ignore[arg-type]


def _number(strength: float | Tensor) -> float:
    return float(strength.mean()) if isinstance(strength, Tensor) else float(strength)


def _zero(weight: Any) -> bool:
    return not isinstance(weight, Tensor) and weight == 0


def _windowed(term: Term, t: Times) -> Any:
    low, high = term.window
    if (low, high) == (0.0, 1.0):
        return term.strength
    # Observed modalities sit at t = 0; the clock of a term is that of the modalities still moving.
    clocks = list(t.values())
    now: Any = clocks[0]
    for clock in clocks[1:]:
        now = torch.maximum(torch.as_tensor(now), torch.as_tensor(clock))
    if isinstance(now, Tensor) and now.ndim:
        return term.strength * ((now >= low) & (now <= high)).to(torch.float32)
    return term.strength if low <= float(now) <= high else 0.0


def _shaped(weight: Any, like: Tensor) -> Any:
    if not isinstance(weight, Tensor):
        return weight
    weight = weight.to(like)
    return weight.reshape(-1, *[1] * (like.ndim - 1)) if weight.ndim == 1 else weight


def _together(expert: Denoiser, z: State, t: Times, conditions: list[Any]) -> list[dict[str, AnyPrediction]]:
    """Predictions of one expert under several conditions, in one call where the conditions can be stacked."""
    if not conditions:
        return []
    rows = len(next(iter(z.values())))
    distinct: list[Any] = []
    where = [_place(distinct, c) for c in conditions]
    stacked = _stack(distinct, rows)
    if len(distinct) == 1 or stacked is None:
        found = [expert(z, t, c) for c in distinct]
        return [found[i] for i in where]
    many = len(distinct)
    wide_z = {k: v.repeat(many, *[1] * (v.ndim - 1)) for k, v in z.items()}
    wide_t = {k: v.repeat(many) if isinstance(v, Tensor) and v.ndim else v for k, v in t.items()}
    wide = expert(wide_z, wide_t, stacked)
    found = [{k: _rows(p, z[k], i * rows, rows) for k, p in wide.items()} for i in range(many)]
    return [found[i] for i in where]


def _place(distinct: list[Any], condition: Any) -> int:
    for index, other in enumerate(distinct):
        if other is condition or (
            isinstance(other, Tensor)
            and isinstance(condition, Tensor)
            and other.shape == condition.shape
            and bool((other == condition).all())
        ):
            return index
    distinct.append(condition)
    return len(distinct) - 1


def _stack(conditions: list[Any], rows: int) -> Tensor | None:
    if not all(isinstance(c, Tensor) for c in conditions):
        return None
    full = [c.expand(rows, *c.shape[1:]) if c.ndim else c.expand(rows) for c in conditions]
    return torch.cat(full) if len({(c.shape[1:], c.dtype) for c in full}) == 1 else None


def _rows(prediction: AnyPrediction, z: Tensor, start: int, rows: int) -> AnyPrediction:
    if isinstance(prediction, TokenPrediction):
        return TokenPrediction(prediction.log_probs[start : start + rows])
    known = {k: v[start : start + rows] for k, v in prediction._known.items()}
    A, S = (c[start : start + rows] if isinstance(c, Tensor) and len(c) > 1 else c for c in (prediction.A, prediction.S))
    return Prediction(known, z, A, S)
