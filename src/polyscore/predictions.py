"""Predictions: what a denoiser says about one modality, in any of the field's five forms.

For z = A x0 + S eps the forms are
    eps,   x0,   v = A eps - S x0,   score = -eps / S,   flow = eps - x0,
and each determines the others wherever A and S are not zero. Where one is (the two ends of time) the conversions stay
finite: E[eps | z] = 0 at S = 0, and an x0 that cannot be known at A = 0 is 0. The forms v and flow are safe at both ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from polyscore.paths import Time, expand

__all__ = ["KINDS", "Kind", "Prediction", "TokenPrediction"]

Kind = Literal["eps", "x0", "v", "score", "flow"]
KINDS: tuple[Kind, ...] = ("eps", "x0", "v", "score", "flow")
Parts = tuple[tuple[str, Any, "Prediction"], ...]
_TINY = 1e-8
_LOG_FLOOR = -1e4


class Prediction:
    """What a denoiser says about a Gaussian modality at state z (B, ...) with coefficients A and S (floats or (B,))."""

    __slots__ = ("A", "S", "_centre", "_known", "_parts", "z")

    def __init__(self, known: dict[Kind, Tensor], z: Tensor, A: Time, S: Time) -> None:
        self._known, self.z, self.A, self.S = known, z, expand(A, z), expand(S, z)
        self._parts: Parts | Callable[[], Parts] = ()
        self._centre: Prediction | None = None

    @property
    def parts(self) -> Parts:
        """What it was mixed of: (name, weight, prediction). May be set to a function that makes them when they are asked for."""
        if callable(self._parts):
            self._parts = self._parts()
        return self._parts

    @parts.setter
    def parts(self, value: Parts | Callable[[], Parts]) -> None:
        self._parts = value

    @classmethod
    def mix(cls, parts: Sequence[tuple[str, Any, Prediction]], z: Tensor, A: Time, S: Time) -> Prediction:
        """sum_i c_i p_i for parts (name, c_i, p_i) about one state, sum c_i = 1; c_i a number, (B,) or a mask. Keeps the parts."""
        wide = torch.promote_types(z.dtype, torch.float32)
        known: dict[Kind, Tensor] = {kind: _sum([(_fit(c, z), getattr(p, kind).to(wide)) for _, c, p in parts]) for kind in ("eps", "x0")}
        found = cls(known, z, A, S)
        found.parts = tuple(parts)
        return found

    @property
    def disagreement(self) -> Tensor:
        """V S^2 = sum_i c_i |eps_i - eps|^2 over the parts, and theirs in turn, shape (B,): what a sum of scores leaves out.

        0 for one expert, and where all agree. V = sum_i c_i |s_i|^2 - |sum_i c_i s_i|^2 is what particle weights are made of.
        """
        total = self.z.new_zeros(len(self.z))
        for _, c, part in self.parts:
            gap = (part.eps - (self._centre or self).eps).square()
            total = total + (_fit(c, gap) * gap).flatten(1).sum(1) + _mean(c) * part.disagreement
        return total

    def like(self, other: Prediction) -> Prediction:
        """This prediction, with the parts (and so the disagreement) of `other`, which differs from it by a common shift."""
        if other.parts:
            self.parts, self._centre = other.parts, other._centre or other
        return self

    @classmethod
    def of(cls, kind: Kind, value: Tensor, z: Tensor, A: Time, S: Time) -> Prediction:
        """A prediction of the named form."""
        return cls({kind: value}, z, A, S)

    @classmethod
    def from_eps(cls, value: Tensor, z: Tensor, A: Time, S: Time) -> Prediction:
        """From the predicted noise."""
        return cls({"eps": value}, z, A, S)

    @classmethod
    def from_x0(cls, value: Tensor, z: Tensor, A: Time, S: Time) -> Prediction:
        """From the predicted clean state E[z_0 | z_t]."""
        return cls({"x0": value}, z, A, S)

    @classmethod
    def from_v(cls, value: Tensor, z: Tensor, A: Time, S: Time) -> Prediction:
        """From v = A eps - S x0 (Salimans and Ho 2022)."""
        return cls({"v": value}, z, A, S)

    @classmethod
    def from_score(cls, value: Tensor, z: Tensor, A: Time, S: Time) -> Prediction:
        """From the score, the gradient of log q_t(z)."""
        return cls({"score": value}, z, A, S)

    @classmethod
    def from_flow(cls, value: Tensor, z: Tensor, A: Time, S: Time) -> Prediction:
        """From the flow-matching velocity eps - x0 of the straight path."""
        return cls({"flow": value}, z, A, S)

    @property
    def x0(self) -> Tensor:
        """E[z_0 | z_t]."""
        known, z, A, S = self._known, self.z, self.A, self.S
        if "x0" not in known:
            if "v" in known:
                known["x0"] = _blend(A, z, -S, known["v"], A * A + S * S)
            elif "flow" in known:
                known["x0"] = (z - S * known["flow"]) / (A + S)
            else:
                known["x0"] = _divide(z - S * self.eps, A)
        return known["x0"]

    @property
    def eps(self) -> Tensor:
        """E[eps | z_t]."""
        known, z, A, S = self._known, self.z, self.A, self.S
        if "eps" not in known:
            if "v" in known:
                known["eps"] = _blend(S, z, A, known["v"], A * A + S * S)
            elif "flow" in known:
                known["eps"] = (z + A * known["flow"]) / (A + S)
            elif "score" in known:
                known["eps"] = -S * known["score"]
            else:
                known["eps"] = _divide(z - A * known["x0"], S)
        return known["eps"]

    @property
    def v(self) -> Tensor:
        """A eps - S x0."""
        return self._known["v"] if "v" in self._known else self.A * self.eps - self.S * self.x0

    @property
    def score(self) -> Tensor:
        """-eps / S (0 where S = 0)."""
        return self._known["score"] if "score" in self._known else _divide(-self.eps, self.S)

    @property
    def flow(self) -> Tensor:
        """eps - x0."""
        return self._known["flow"] if "flow" in self._known else self.eps - self.x0

    def shifted(self, gradient: Tensor) -> Prediction:
        """The prediction after `gradient` is added to the score: eps - S g, x0 + (S^2 / A) g (x0 itself where A = 0)."""
        push = self.S * gradient
        return Prediction({"eps": self.eps - push, "x0": self.x0 + _divide(self.S * push, self.A)}, self.z, self.A, self.S).like(self)

    def moved(self, z: Tensor, A: Time, S: Time) -> Prediction:
        """The same statement about a state z at another scale but equal SNR: eps, x0 and flow do not change."""
        known: dict[Kind, Tensor] = {k: v for k, v in self._known.items() if k in ("eps", "x0", "flow")}
        if not known:
            known = {"x0": self.x0, "eps": self.eps}
        return Prediction(known, z, A, S).like(self)

    def rows(self, index: Tensor | slice, z: Tensor) -> Prediction:
        """The rows `index` of the batch, as a statement about the state z; parts and all."""
        A, S = (c[index] if isinstance(c, Tensor) and c.ndim and len(c) > 1 else c for c in (self.A, self.S))
        found = Prediction({k: v[index] for k, v in self._known.items()}, z, A, S)
        found.parts = tuple((name, _cut(c, index, len(self.z)), p.rows(index, z)) for name, c, p in self.parts)
        if self._centre is not None:
            found._centre = self._centre.rows(index, z)
        return found


class TokenPrediction:
    """What a denoiser says about a token modality: log p(z_0 = k | z_t), shape (B, L, K), rows normalised.

    `log_normaliser` (B, L), for products: log sum_k prod_i p_i(k)^c_i, by which the rows were divided; None for one expert.
    """

    __slots__ = ("log_normaliser", "log_probs", "parts")

    def __init__(self, log_probs: Tensor, log_normaliser: Tensor | None = None) -> None:
        self.log_probs, self.log_normaliser = log_probs, log_normaliser
        self.parts: tuple[tuple[str, Any, TokenPrediction], ...] = ()

    @classmethod
    def mix(cls, parts: Sequence[tuple[str, Any, TokenPrediction]]) -> TokenPrediction:
        """prod_i p_i^c_i / Z for parts (name, c_i, p_i); keeps log Z, with what the parts were divided by in turn. 0 * -inf is 0."""
        logits = _sum([(_fit(c, p.log_probs), _wide(p.log_probs).clamp(min=_LOG_FLOOR)) for _, c, p in parts])
        log_normaliser = torch.logsumexp(logits, -1)
        inner = [_fit(c, p.log_normaliser) * p.log_normaliser for _, c, p in parts if p.log_normaliser is not None]
        found = cls(logits - log_normaliser[..., None], sum(inner, log_normaliser))
        found.parts = tuple(parts)
        return found

    def rows(self, index: Tensor | slice) -> TokenPrediction:
        """The rows `index` of the batch."""
        found = TokenPrediction(self.log_probs[index], None if self.log_normaliser is None else self.log_normaliser[index])
        found.parts = tuple((name, _cut(c, index, len(self.log_probs)), p.rows(index)) for name, c, p in self.parts)
        return found

    @classmethod
    def from_logits(cls, logits: Tensor) -> TokenPrediction:
        """Normalise raw network outputs (B, L, K) in float32 or better."""
        return cls(torch.log_softmax(_wide(logits), dim=-1))


def _blend(a: Time, x: Tensor, b: Time, y: Tensor, by: Time) -> Tensor:
    """(a x + b y) / by; two operations where the coefficients are numbers."""
    if isinstance(a, Tensor) or isinstance(b, Tensor) or isinstance(by, Tensor):
        return (a * x + b * y) / by
    return torch.add(x * (a / by), y, alpha=b / by)


def _divide(value: Tensor, by: Time) -> Tensor:
    """value / by, and 0 where `by` vanishes."""
    if not isinstance(by, Tensor):
        return value / by if abs(by) > _TINY else torch.zeros_like(value)
    small = by.abs() <= _TINY
    return torch.where(small, torch.zeros_like(value), value / torch.where(small, torch.ones_like(by), by))


def _wide(value: Tensor) -> Tensor:
    return value if value.dtype == torch.float64 else value.float()


def _sum(terms: Sequence[tuple[Any, Tensor]]) -> Tensor:
    total = terms[0][0] * terms[0][1]
    for weight, value in terms[1:]:
        total = total + weight * value
    return total


def _fit(weight: Any, like: Tensor) -> Any:
    """A coefficient as a factor of `like` (B, ...): numbers as they are, (B,) as a column, masks as they broadcast."""
    if not isinstance(weight, Tensor):
        return weight
    weight = weight.to(like)
    return weight.reshape(-1, *[1] * (like.ndim - 1)) if weight.ndim == 1 else weight


def _mean(weight: Any) -> Any:
    """One coefficient a sample: a number, or (B,)."""
    return weight.flatten(1).mean(1) if isinstance(weight, Tensor) and weight.ndim > 1 else weight


def _cut(weight: Any, index: Tensor | slice, rows: int) -> Any:
    return weight[index] if isinstance(weight, Tensor) and weight.ndim and len(weight) == rows > 1 else weight
