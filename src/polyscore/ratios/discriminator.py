"""A discriminator between real tuples and the experts' own samples, as a log density ratio (MMDisCo, Sec. 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from polyscore.denoisers import State, Times, inside
from polyscore.errors import PolyscoreError
from polyscore.paths import Path
from polyscore.ratios.base import Ratio
from polyscore.spec import register

__all__ = ["ConditionGuidedRatio", "Discriminator"]


@register
class Discriminator(Ratio):
    """r = h(z, t, condition), the raw logit: at its optimum log q_t(z_1..z_M) - sum_m log p_m,t(z_m).

    q is the law of real tuples and p_m that of what the frozen experts generate (MMDisCo, Eq. 9, with the loss corrected to a binary
    cross-entropy). The logit never saturates; the authors' code uses log(D + 1e-5) - log(1 - D + 1e-5) of D = sigmoid(h), which goes
    flat where D is certain: `smoothing=1e-5` is that form, for their checkpoints (biased).

    Args:
        network: network(z, t, condition) -> (B,) logits; t holds a (B,) tensor for each modality.
        paths: path of each modality in training: the pairing of noise levels. Another pairing is refused (`check`).
        smoothing: None for the raw logit.
        apart: trained with observed modalities at t = 0 as well; otherwise all modalities must share one time.
        times: [low, high] of training; None: all. Outside (by the latest of the modalities' times) r and its gradient are 0.

    Raises:
        PolyscoreError: times that are no range in [0, 1].
    """

    def __init__(
        self,
        network: nn.Module,
        paths: Mapping[str, Path],
        smoothing: float | None = None,
        apart: bool = False,
        times: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.paths, self.smoothing, self.apart = network, dict(paths), smoothing, apart
        self.low, self.high = times if times is not None else (0.0, 1.0)
        if not 0 <= self.low < self.high <= 1:
            raise PolyscoreError(f"ratio: trained for times {self.low:g} to {self.high:g}, expected a range in [0, 1]")

    @property
    def approximations(self) -> list[str]:
        """Why particles cannot weigh its noised levels: it knows a part of them only."""
        known = (self.low, self.high) == (0.0, 1.0)
        return [] if known else [f"the ratio was trained at times {self.low:g} to {self.high:g} only"]

    def forward(self, z: State, t: Times, condition: Any = None) -> Tensor:
        """r of every sample, (B,), in float32 under autocast too.

        Raises:
            PolyscoreError: times of modalities that the discriminator was not trained for.
        """
        first = z[next(iter(cast(Mapping[str, Path], self.paths)))]
        trained = inside((self.low, self.high), [t[name] for name in cast(Mapping[str, Path], self.paths)])
        if trained is False:
            return first.new_zeros(len(first))
        logit = self.logit(z, t, condition)
        if self.smoothing is not None:
            share = torch.sigmoid(logit)
            logit = (share + self.smoothing).log() - (1 - share + self.smoothing).log()
        return logit * trained.to(logit) if isinstance(trained, Tensor) else logit

    def logit(self, z: State, t: Times, condition: Any = None) -> Tensor:
        """h of every sample, (B,), at any time."""
        names = list(cast(Mapping[str, Path], self.paths))
        like = z[names[0]]
        times = {name: _rows(t[name], like) for name in names}
        if not self.apart:
            for name in names[1:]:
                self._same(names[0], t[names[0]], name, t[name])
        with torch.autocast(like.device.type, enabled=False):
            return cast(Tensor, self.network({name: z[name] for name in names}, times, condition))

    def _same(self, first: str, a: Any, second: str, b: Any) -> None:
        if a is b or (torch.as_tensor(a, dtype=torch.float64) - torch.as_tensor(b, dtype=torch.float64)).abs().max() < 1e-6:
            return
        raise PolyscoreError(
            f"ratio: trained with one time for all modalities, found other times for {first!r} and {second!r}; "
            "sample with conditioning='noised', or train it with observed modalities"
        )


@register
class ConditionGuidedRatio(Ratio):
    """r = r(z | null) + w (r(z | c) - r(z | null)), w one number or one a modality: the reference code's guidance of the correction.

    With a weight per modality only the gradient is defined (the sum of two fields need not be one): `forward` then takes their mean.
    A named option: the law it samples is another one than at w = 1 (biased, like classifier-free guidance).

    Args:
        ratio: a conditional ratio. strength: w. null: the null condition.
    """

    def __init__(self, ratio: Ratio, strength: float | Mapping[str, float] = 1.0, null: Any = None) -> None:
        super().__init__()
        self.ratio, self.strength, self.null = ratio, strength, null
        self.paths = ratio.paths

    def forward(self, z: State, t: Times, condition: Any = None) -> Tensor:
        """The guided log ratio, (B,)."""
        without = self.ratio(z, t, self.null)
        w = self.strength if not isinstance(self.strength, Mapping) else sum(self.strength.values()) / len(self.strength)
        return without + w * (self.ratio(z, t, condition) - without)

    def gradient(
        self, z: State, t: Times, condition: Any = None, names: Sequence[str] | None = None, keep: bool = False
    ) -> dict[str, Tensor]:
        """Each modality's gradient with its own w."""
        without = self.ratio.gradient(z, t, self.null, names, keep)
        within = self.ratio.gradient(z, t, condition, names, keep)
        return {name: without[name] + self._weight(name) * (within[name] - without[name]) for name in without}

    def _weight(self, name: str) -> float:
        return float(self.strength.get(name, 1.0)) if isinstance(self.strength, Mapping) else float(self.strength)


def _rows(t: Any, like: Tensor) -> Tensor:
    if isinstance(t, Tensor):
        return t.to(like).expand(len(like))
    return torch.full((len(like),), float(t), device=like.device, dtype=like.dtype)
