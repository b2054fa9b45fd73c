"""The step of the variational bound in closed form: no (B, L, K + 1) posterior is ever built.

With the levels of `posterior` and m_k = a p_k + b (p the model's p(z_0 | z_t)), the divergence KL(q(z_s | z_t, z_0 = j) || p(z_s | z_t)) is

    z_t = mask:     gamma / G [a log((a + b) / m_j) + b (log(1 + a / b) - sum_k log(1 + a p_k / b))],

and for z_t = x it differs in the rows x and j only. So one sum over the vocabulary serves any number of z_0: the positive's and
every negative's. Without replacement (b = 0) it is the reveal rate times -log p_j; at s = 0 it is -log p(z_0 = j | z_t).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from polyscore.paths import Time
from polyscore.tokens.draws import FLOOR
from polyscore.tokens.paths import TokenPath
from polyscore.tokens.posterior import divide, rows

__all__ = ["Bound"]

_TINY = 1e-30


class _Background(torch.autograd.Function):
    """sum_k log(1 + a p_k / b) for log_probs (B, L, K) and b (B, L); keeps no tensor of size K for the backward pass but log_probs."""

    @staticmethod
    def forward(ctx: Any, log_probs: Tensor, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(log_probs, a, b)
        return log_probs.exp().mul_((a / b).unsqueeze(-1)).log1p_().sum(-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, Tensor]:
        log_probs, a, b = ctx.saved_tensors
        share = log_probs.exp().mul_((a / b).unsqueeze(-1))
        share.div_(share + 1)
        by_b = -grads[0] * share.sum(-1) / b
        return share.mul_(grads[0].unsqueeze(-1)), None, by_b


class Bound:
    """Terms of the loss at one state z_t, for any candidate z_0 (B, L) or several of them (B, N, L).

    On an absorbing path an unmasked position contributes 0: there is nothing left to decide.

    Args:
        path: of the tokens. log_probs: log p(z_0 | z_t), (B, L, K). z: the state at t, (B, L). s, t: times, floats or (B,), s < t.
    """

    def __init__(self, path: TokenPath, log_probs: Tensor, z: Tensor, s: Time, t: Time) -> None:
        self.path, self.z = path, z
        self.log_probs = log_probs
        line = log_probs[..., 0]
        device = log_probs.device
        self._s = [rows(v.to(device), line) for v in path.cumulative(s)]
        self._t = [rows(v.to(device), line) for v in path.cumulative(t)]
        self._step = [rows(v.to(device), line) for v in path.transition(s, t)]
        self._masked = z == path.mask
        self._here = z.clamp(max=path.vocabulary - 1)
        self._log_px = self._at(self._here)
        self._background()

    def _background(self) -> None:
        (a, b, _), (A, B, _) = self._s, self._t
        px = self._log_px.exp()
        self._evidence = (-torch.expm1(self._log_px.clamp(max=0)) + px * divide(B, A + B)).clamp(min=_TINY)
        self._floor = torch.where(self._masked, b.expand_as(px), b * self._evidence).clamp(min=_TINY)
        self._sum: Any = 0.0
        if self.path.replaces:
            self._sum = _Background.apply(self.log_probs, a.expand_as(px).contiguous(), self._floor)  # type: ignore[no-untyped-call]

    def _at(self, z0: Tensor) -> Tensor:
        """log p(z_0 = z0), floored, in the shape of z0: (B, L) or (B, N, L)."""
        if z0.ndim == 2:
            return self.log_probs.gather(-1, z0.unsqueeze(-1)).squeeze(-1).clamp(min=FLOOR)
        return self.log_probs.gather(-1, z0.transpose(1, 2)).transpose(1, 2).clamp(min=FLOOR)

    def nll(self, z0: Tensor) -> Tensor:
        """-log p(z_0 | z_t) summed over positions, (B,) or (B, N)."""
        return -self._at(z0).sum(-1)

    def divergence(self, z0: Tensor) -> Tensor:
        """KL(q(z_s | z_t, z_0) || p(z_s | z_t)) in nats summed over positions, (B,) or (B, N)."""
        return self.positions(z0).sum(-1)

    def positions(self, z0: Tensor) -> Tensor:
        """The divergence of every position, in the shape of z0."""
        log_pj = self._at(z0)
        a, b, _ = (self._fit(v, z0) for v in self._s)
        scale = self._fit(divide(self._step[2], self._t[2]), z0)
        if not self.path.replaces:
            return torch.where(self._fit(self._masked, z0), -scale * a * log_pj, torch.zeros_like(log_pj))
        total = self._fit(self._sum, z0)
        log_m = torch.logaddexp(a.clamp(min=_TINY).log() + log_pj, b.clamp(min=_TINY).log())
        small = b.clamp(min=_TINY)
        masked = scale * (a * ((a + b).log() - log_m) + b * (torch.log1p(a / small) - total))
        return torch.where(self._fit(self._masked, z0), masked, self._unmasked(z0, log_pj, total))

    def _unmasked(self, z0: Tensor, log_pj: Tensor, total: Tensor) -> Tensor:
        """The divergence where z_t = x is a token."""
        a, b, _ = (self._fit(v, z0) for v in self._s)
        A, B, _ = (self._fit(v, z0) for v in self._t)
        alpha, beta, _ = (self._fit(v, z0) for v in self._step)
        V, floor, log_px = (self._fit(v, z0) for v in (self._evidence, self._floor, self._log_px))
        K, log_V, small_b = self.path.vocabulary, V.log(), b.clamp(min=_TINY)
        # Model rows: (alpha + beta) h at x, beta / B (a p_k + b V) elsewhere.
        log_h = (a * log_px.exp() / (A + B) + divide(b, B) * V).clamp(min=_TINY).log()
        up_x, up_j = torch.log1p(a * log_px.exp() / floor), torch.log1p(a * log_pj.exp() / floor)
        log_gj = torch.logaddexp(a.clamp(min=_TINY).log() + log_pj, floor.log())
        D = A + B
        q_x = (alpha + beta) * (a + b) / D
        log_ratio = torch.where(B > 0, B.clamp(min=_TINY) / D, torch.ones_like(B)).log()
        same = q_x * (((a + b) / D).clamp(min=_TINY).log() - log_h)
        same = same + beta * b / D * ((K - 1) * (log_ratio - log_V) - total + up_x)
        pull = divide(beta, B)
        other = (alpha + beta) * divide(b, B) * (divide(small_b, B).clamp(min=_TINY).log() - log_h)
        other = other + pull * (a + b) * ((a + b).log() - log_gj)
        other = other + pull * b * (-(K - 2) * log_V - total + up_x + up_j)
        found = torch.where(self._fit(self.z, z0) == z0, same, other)
        return torch.where(B > 0, found, torch.zeros_like(found))

    @staticmethod
    def _fit(value: Any, z0: Tensor) -> Any:
        """(B, 1) or (B, L) values beside z0 (B, N, L)."""
        return value.unsqueeze(1) if isinstance(value, Tensor) and value.ndim == 2 and z0.ndim == 3 else value
