"""What a log density ratio is to the operators."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polyscore.denoisers import State, Times
from polyscore.errors import PolyscoreError
from polyscore.paths import Path
from polyscore.spec import register

__all__ = ["FunctionRatio", "Ratio", "SumRatio"]


class Ratio(nn.Module, abc.ABC):
    """A log density ratio r(z, t, condition) -> (B,) at noise level t, in nats.

    A learned ratio holds only for the pairing of noise levels that it was trained with: `paths` are those paths (None: any),
    and `check` compares them with the paths it is used on.
    """

    paths: Mapping[str, Path] | None = None

    @abc.abstractmethod
    def forward(self, z: State, t: Times, condition: Any = None) -> Tensor:
        """r of every sample, shape (B,)."""

    def check(self, paths: Mapping[str, Path]) -> None:
        """Refuse paths other than those the ratio was trained with.

        Raises:
            PolyscoreError: naming the modality and both paths.
        """
        for name, trained in (self.paths or {}).items():
            if name not in paths:
                raise PolyscoreError(f"ratio: trained on modality {name!r}, expected it among {sorted(paths)}")
            if paths[name] != trained:
                raise PolyscoreError(
                    f"ratio: modality {name!r} was trained on {trained}, found {paths[name]}; noise levels must be paired as in training"
                )

    def gradient(
        self, z: State, t: Times, condition: Any = None, names: Sequence[str] | None = None, keep: bool = False
    ) -> dict[str, Tensor]:
        """Gradient of r with respect to the named Gaussian states: one backward pass for all. `keep` leaves a graph for training.

        Autocast is off: gradients of a ratio underflow in half precision.
        """
        wanted = [n for n in (names or z) if z[n].is_floating_point()]
        leaves = {n: z[n].detach().clone().requires_grad_(True) for n in wanted}
        device = next(iter(z.values())).device.type
        with torch.enable_grad(), torch.autocast(device, enabled=False):
            total = self(z | leaves, t, condition).sum()
            if not total.requires_grad:
                return {n: torch.zeros_like(leaf) for n, leaf in leaves.items()}
            found = torch.autograd.grad(total, list(leaves.values()), create_graph=keep, allow_unused=True)
        return {n: torch.zeros_like(leaf) if g is None else g for (n, leaf), g in zip(leaves.items(), found, strict=True)}


class FunctionRatio(Ratio):
    """Any function (z, t, condition) -> (B,) as a ratio."""

    def __init__(self, function: Callable[[State, Times, Any], Tensor], paths: Mapping[str, Path] | None = None) -> None:
        super().__init__()
        self.function, self.paths = function, paths

    def forward(self, z: State, t: Times, condition: Any = None) -> Tensor:
        """The function's value."""
        return self.function(z, t, condition)


@register
class SumRatio(Ratio):
    """r = sum_i weight_i r_i: for example pairwise ratios added up (exact only where no dependence is of higher order)."""

    def __init__(self, ratios: Sequence[Ratio], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.ratios = nn.ModuleList(ratios)
        self.weights = list(weights) if weights is not None else [1.0] * len(self.ratios)

    def check(self, paths: Mapping[str, Path]) -> None:
        """Every part must fit."""
        for ratio in self.ratios:
            ratio.check(paths)  # type: ignore[operator]

    def forward(self, z: State, t: Times, condition: Any = None) -> Tensor:
        """The weighted sum."""
        values = [w * ratio(z, t, condition) for w, ratio in zip(self.weights, self.ratios, strict=True)]
        return torch.stack(values).sum(0)
