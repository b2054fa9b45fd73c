"""Weights over time, and importance sampling of the time index."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polyscore.errors import PolyscoreError

__all__ = ["ImportanceTimes", "falling", "rising"]


def falling(index: Tensor, steps: int) -> Tensor:
    """w(t) = 2 - t/T: weighs late denoising steps (small t) more; what the CDCD paper says of the auxiliary loss."""
    return 2 - index / steps


def rising(index: Tensor, steps: int) -> Tensor:
    """w(t) = 1 + t/T: the weight of the contrastive term, and of the auxiliary loss in CDCD's dance code."""
    return 1 + index / steps


class ImportanceTimes(nn.Module):
    """Draws time indices 0..T-1 with p_t in proportion to sqrt(E[loss_t^2]), so that loss / p_t has less variance and the same mean.

    Uniform until every index was seen `warm` times. E is a moving average (0.9); index 0 takes index 1's value, as VQ-Diffusion has
    it; p_t is at least `floor` / T, so that no weight exceeds T / floor. State lives in buffers, so training resumes with it. Source:
    Nichol and Dhariwal 2021.
    """

    def __init__(self, steps: int, warm: int = 10, floor: float = 0.1) -> None:
        super().__init__()
        if steps < 2 or not 0 <= floor <= 1:
            raise PolyscoreError(f"importance sampling of t: expected 2 steps or more and a floor in [0, 1], found {steps} and {floor}")
        self.steps, self.warm, self.floor = steps, warm, floor
        self.register_buffer("square", torch.zeros(steps))
        self.register_buffer("count", torch.zeros(steps))
        self.square: Tensor
        self.count: Tensor

    def probabilities(self) -> Tensor:
        """p_t, (T,), summing to 1."""
        if bool((self.count <= self.warm).any()):
            return torch.full_like(self.square, 1 / self.steps)
        size = (self.square + 1e-10).sqrt() + 1e-4
        size = torch.cat([size[1:2], size[1:]])
        return (1 - self.floor) * size / size.sum() + self.floor / self.steps

    def draw(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Indices and p_t of each, from uniform numbers (B,)."""
        p = self.probabilities()
        index = torch.searchsorted(p.cumsum(0), uniform.contiguous(), right=True).clamp(max=self.steps - 1)
        return index, p[index]

    @torch.no_grad()
    def update(self, index: Tensor, losses: Tensor) -> None:
        """Learn from the losses (B,) at indices (B,); several at one index are averaged."""
        seen = torch.zeros_like(self.count).index_add_(0, index, torch.ones_like(losses, dtype=self.count.dtype))
        total = torch.zeros_like(self.square).index_add_(0, index, losses.detach().square().to(self.square.dtype))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(seen)
            torch.distributed.all_reduce(total)
        mean = total / seen.clamp(min=1)
        fresh = torch.where(self.count > 0, 0.9 * self.square + 0.1 * mean, mean)
        self.square.copy_(torch.where(seen > 0, fresh, self.square))
        self.count.add_(seen)
