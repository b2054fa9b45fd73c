"""Predictions: what a denoiser says about one modality, in any of the field's five forms.

For z = A x0 + S eps the forms are
    eps,   x0,   v = A eps - S x0,   score = -eps / S,   flow = eps - x0,
and each determines the others wherever A and S are not zero. Where one is (the two ends of time) the conversions stay
finite: E[eps | z] = 0 at S = 0, and an x0 that cannot be known at A = 0 is 0. The forms v and flow are safe at both ends.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from polyscore.paths import Time, expand

__all__ = ["KINDS", "Kind", "Prediction", "TokenPrediction"]

Kind = Literal["eps", "x0", "v", "score", "flow"]
KINDS: tuple[Kind, ...] = ("eps", "x0", "v", "score", "flow")
_TINY = 1e-8


class Prediction:
    """What a denoiser says about a Gaussian modality at state z (B, ...) with coefficients A and S (floats or (B,))."""

    __slots__ = ("A", "S", "_known", "z")

    def __init__(self, known: dict[Kind, Tensor], z: Tensor, A: Time, S: Time) -> None:
        self._known, self.z, self.A, self.S = known, z, expand(A, z), expand(S, z)

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
                known["x0"] = (A * z - S * known["v"]) / (A * A + S * S)
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
                known["eps"] = (S * z + A * known["v"]) / (A * A + S * S)
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
        return Prediction({"eps": self.eps - push, "x0": self.x0 + _divide(self.S * push, self.A)}, self.z, self.A, self.S)

    def moved(self, z: Tensor, A: Time, S: Time) -> Prediction:
        """The same statement about a state z at another scale but equal SNR: eps, x0 and flow do not change."""
        known: dict[Kind, Tensor] = {k: v for k, v in self._known.items() if k in ("eps", "x0", "flow")}
        if not known:
            known = {"x0": self.x0, "eps": self.eps}
        return Prediction(known, z, A, S)


class TokenPrediction:
    """What a denoiser says about a token modality: log p(z_0 = k | z_t), shape (B, L, K), rows normalised."""

    __slots__ = ("log_probs",)

    def __init__(self, log_probs: Tensor) -> None:
        self.log_probs = log_probs

    @classmethod
    def from_logits(cls, logits: Tensor) -> TokenPrediction:
        """Normalise raw network outputs (B, L, K) in float32 or better."""
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return cls(torch.log_softmax(wide, dim=-1))


def _divide(value: Tensor, by: Time) -> Tensor:
    """value / by, and 0 where `by` vanishes."""
    if not isinstance(by, Tensor):
        return value / by if abs(by) > _TINY else torch.zeros_like(value)
    small = by.abs() <= _TINY
    return torch.where(small, torch.zeros_like(value), value / torch.where(small, torch.ones_like(by), by))
