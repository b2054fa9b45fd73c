"""Scalars of a step as (sum, count), so that means are exact over uneven processes, bins and logging windows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from polyscore.errors import PolyscoreError

__all__ = ["by_level"]


def by_level(losses: Tensor, t: Tensor, levels: int = 4, name: str = "loss") -> dict[str, Tensor]:
    """Losses per noise level, for the log: `losses` (B,) and `t` (B,) in [0, 1] give {"loss[0.00,0.25)": (sum, count), ...}."""
    level = (t.detach() * levels).long().clamp(0, levels - 1)
    each = torch.stack([losses.detach(), torch.ones_like(losses)], 1)
    bins = each.new_zeros(levels, 2).index_add_(0, level, each)
    return {f"{name}[{i / levels:.2f},{(i + 1) / levels:.2f})": pair for i, pair in enumerate(bins.unbind(0))}


def as_sums(found: Tensor | Mapping[str, Tensor], count: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss to differentiate, and every scalar as a detached float32 tensor (sum, count)."""
    parts = found if isinstance(found, Mapping) else {"loss": found}
    if "loss" not in parts:
        raise PolyscoreError(f"objective: expected a dictionary with 'loss', found {sorted(parts)}")
    return parts["loss"], {name: _pair(name, torch.as_tensor(value), count) for name, value in parts.items()}


def _pair(name: str, value: Tensor, count: int) -> Tensor:
    value = value.detach().float()
    if value.shape == (2,) and name != "loss":
        return value
    if value.ndim:
        kinds = "a scalar" if name == "loss" else "a scalar or (sum, count)"
        raise PolyscoreError(f"objective: {name!r}: expected {kinds}, found shape {tuple(value.shape)}")
    return torch.stack([value * count, torch.full_like(value, count)])


class Window:
    """Sums since the last log line: `{name: [sum, count]}`, stored in checkpoints."""

    def __init__(self) -> None:
        self.sums: dict[str, list[float]] = {}

    def add(self, values: Mapping[str, tuple[float, float]]) -> None:
        """Add {name: (sum, count)} to the running sums."""
        for name, (total, count) in values.items():
            entry = self.sums.setdefault(name, [0.0, 0.0])
            entry[0] += total
            entry[1] += count

    def means(self) -> dict[str, float]:
        """Mean of every scalar that was seen; those with no sample are left out."""
        return {name: total / count for name, (total, count) in self.sums.items() if count}
