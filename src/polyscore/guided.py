"""Guidance of a denoiser by a log density ratio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from polyscore.conditions import by_modality
from polyscore.denoisers import AnyPrediction, Denoiser, State, Times, current_run, inside
from polyscore.errors import PolyscoreError
from polyscore.paths import expand
from polyscore.predictions import Prediction
from polyscore.ratios.base import Ratio
from polyscore.ratios.discriminator import ConditionGuidedRatio
from polyscore.spec import register

__all__ = ["Guided"]


@register
class Guided(Denoiser):
    """Density: p(z) exp(scale * r(z)): the denoiser's law times a density ratio, at every noise level.

    For each modality m: eps_m - S_m s_m grad_m r, that is score_m + s_m grad_m r (MMDisCo, Alg. 2; Score-Based
    Multimodal Autoencoder, Eq. 8 with r = -E). One backward pass through the ratio serves all modalities; the denoiser is never
    differentiated. A scale of 0 is bit-identical to the denoiser and does not call the ratio. With a scale other than 1 the noised law
    is not p_t exp(s r_t) exactly (biased; `polyscore.sampling.particles` weighs it right, if r_t is the exact ratio at every level).

    Args:
        denoiser: the base law.
        ratio: log density ratio (z, t, condition) -> (B,).
        scale: one number, or one a modality (absent ones: 0).
        window: the times [low, high] in which the guidance acts; outside it costs nothing.
        every: the ratio is asked every so many steps of a run; between them the last gradient is kept.
        condition: a condition for the ratio; by default the denoiser's (by modality, if it is a mapping). {} tells it nothing.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        ratio: Ratio,
        scale: float | Mapping[str, float] = 1.0,
        window: tuple[float, float] = (0.0, 1.0),
        every: int = 1,
        condition: Any = None,
    ) -> None:
        super().__init__()
        self.denoiser, self.ratio = denoiser, ratio
        self.paths, self.shapes, self.spaces, self.classes = denoiser.paths, denoiser.shapes, denoiser.spaces, denoiser.classes
        scales = dict(scale) if isinstance(scale, Mapping) else dict.fromkeys(denoiser.paths, float(scale))
        unknown = sorted(set(scales) - set(denoiser.paths))
        if unknown:
            raise PolyscoreError(f"Guided: scale for modality {unknown[0]!r}, expected one of {sorted(denoiser.paths)}")
        if every < 1:
            raise PolyscoreError(f"Guided: every is {every}, expected at least 1")
        self.scale, self.window, self.every, self.condition = scales, (window[0], window[1]), every, condition
        ratio.check(denoiser.paths)

    def forward(self, z: State, t: Times, condition: Any = None) -> dict[str, AnyPrediction]:
        """The denoiser's predictions with s_m grad_m r added to each score."""
        found: dict[str, AnyPrediction] = dict(self.denoiser(z, t, condition))
        active = [name for name, s in self.scale.items() if s != 0 and name in z and _moving(t[name])]
        acts = bool(active) and inside(self.window, [t[name] for name in active])
        if acts is False or (isinstance(acts, Tensor) and not acts.any()):
            return found
        gradient = self._gradient(z, t, by_modality(self.denoiser, condition if self.condition is None else self.condition), active)
        for name in active:
            base = found[name]
            if isinstance(base, Prediction) and name in gradient:
                pull = gradient[name] * expand(acts, gradient[name]) if isinstance(acts, Tensor) else gradient[name]
                found[name] = _guide(base, pull, self.scale[name])
        return found

    def changed(
        self,
        scale: float | Mapping[str, float] | None = None,
        window: tuple[float, float] | None = None,
        every: int | None = None,
        correction: float | None = None,
    ) -> Guided:
        """The same denoiser and ratio with another scale (of the modalities that are named, or of all), window or period.

        Args:
            correction: strength of the ratio's own guidance by its label or prompt (`ConditionGuidedRatio`, whose null is -1).
        """
        scales = self.scale | dict(scale) if isinstance(scale, Mapping) else self.scale if scale is None else scale
        inner = self.ratio.ratio if isinstance(self.ratio, ConditionGuidedRatio) else self.ratio
        ratio = self.ratio if correction is None else ConditionGuidedRatio(inner, correction, -1)
        return type(self)(self.denoiser, ratio, scales, window or self.window, every or self.every, self.condition)

    @property
    def approximations(self) -> list[str]:
        """Why there is no one density whose noised levels particles could weigh: a window, old gradients, unequal scales."""
        found = [f"the guidance acts in the window {list(self.window)} only"] if self.window != (0.0, 1.0) else []
        found += [f"the guidance is renewed every {self.every} steps"] if self.every > 1 else []
        return found + (["the guidance has unequal scales"] if len({self.scale.get(name, 0.0) for name in self.paths}) > 1 else [])

    def _gradient(self, z: State, t: Times, condition: Any, active: list[str]) -> dict[str, Tensor]:
        run = current_run.get()
        key = (id(self), "gradient")
        if run is not None and self.every > 1 and run.step % self.every and key in run.memo:
            kept: dict[str, Tensor] = run.memo[key]
            return kept
        gradient = self.ratio.gradient(z, t, condition, active)
        if run is not None and self.every > 1:
            run.memo[key] = gradient
        return gradient


def _guide(base: Prediction, gradient: Tensor, scale: float) -> Prediction:
    """base + scale * gradient: (1 - scale) base + scale joint, joint = base + gradient. At scale 1 there is nothing left out."""
    found = base.shifted(scale * gradient)
    if scale != 1:
        found.parts = lambda: (("base", 1 - scale, base), ("joint", scale, base.shifted(gradient)))
        found._centre = None
    return found


def _moving(t: Any) -> bool:
    return bool((t > 0).any()) if isinstance(t, Tensor) else t > 0
