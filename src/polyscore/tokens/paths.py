"""Token paths: mask-and-replace with any cumulative schedule.

From time s to t > s a token is kept with probability alpha + beta, becomes each other token with beta and the mask with gamma;
the mask stays. The composition of two such steps is one, so a path is its cumulative (alpha_bar, gamma_bar):

    alpha = alpha_bar_t / alpha_bar_s,   gamma = 1 - (1 - gamma_bar_t) / (1 - gamma_bar_s),   beta = (1 - alpha - gamma) / K.

A discrete schedule of T steps has its index i at t = (i + 1) / T and the clean state at t = 0.
Sources: Austin et al. 2021 (D3PM), Gu et al. 2022 (VQ-Diffusion).
"""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from polyscore.errors import PolyscoreError
from polyscore.named import Named, make_named
from polyscore.paths import Noise, Path, Time, expand
from polyscore.spec import register

__all__ = ["Absorbing", "MaskReplace", "TabulatedTokens", "TokenPath", "UniformReplace", "VQDiffusion", "make_token_path"]

Level = tuple[Tensor, Tensor, Tensor]
_TINY = 1e-300
_NO_REPLACE = 1e-4
"""A replace share below this at the start of sampling counts as none: generation starts from all-mask."""


class TokenPath(Path):
    """Mask-and-replace over `vocabulary` tokens. Subclasses give the cumulative schedule.

    Noise for `corrupt` is uniform, of shape (*z0.shape, 2): the first number decides between keep, mask and replace, the second
    picks the replacement.
    """

    def __init__(self, vocabulary: int) -> None:
        if vocabulary < 2:
            raise PolyscoreError(f"vocabulary: expected at least 2 tokens, found {vocabulary}")
        self.vocabulary = vocabulary

    @property
    def mask(self) -> int:
        """The index of the mask token: K."""
        return self.vocabulary

    @abc.abstractmethod
    def _cumulative(self, t: Tensor) -> Level:
        """(alpha_bar, K beta_bar, gamma_bar) at float64 times; they sum to 1."""

    @functools.cached_property
    def replaces(self) -> bool:
        """Whether tokens are ever replaced by others (False: the path is absorbing)."""
        return bool((self._cumulative(torch.linspace(0, 1, 101, dtype=torch.float64))[1] > 0).any())

    @functools.cached_property
    def masks(self) -> bool:
        """Whether tokens are ever masked."""
        return float(self._cumulative(torch.tensor(1.0, dtype=torch.float64))[2]) > 0

    def cumulative(self, t: Time) -> Level:
        """(alpha_bar, beta_bar, gamma_bar) at time t, float64, of shape () or (B,)."""
        alpha, replace, gamma = self._cumulative(_double(t))
        return alpha, replace / self.vocabulary, gamma

    def transition(self, s: Time, t: Time) -> Level:
        """(alpha, beta, gamma) of the step from s to t >= s, float64, of shape () or (B,)."""
        (a, r, _), (A, R, _) = self._cumulative(_double(s)), self._cumulative(_double(t))
        content, keep = (a + r).clamp(min=_TINY), a.clamp(min=_TINY)
        # K beta = 1 - alpha - gamma without cancellation: 0 exactly on an absorbing path.
        beta = (R * a - A * r).clamp(min=0) / (content * keep) / self.vocabulary
        return A / keep, beta, ((a + r - A - R) / content).clamp(min=0)

    def corrupt(self, z0: Tensor, t: Time, noise: Tensor) -> Tensor:
        """A draw of z_t given tokens z0 (B, L) and uniform noise (B, L, 2)."""
        alpha, replace, _ = self._cumulative(_double(t))
        return self._draw(z0, alpha, replace, noise)

    def advance(self, z: Tensor, s: Time, t: Time, noise: Tensor) -> Tensor:
        """A draw of z_t given z_s for t >= s, with uniform noise (B, L, 2)."""
        alpha, beta, _ = self.transition(s, t)
        return torch.where(z == self.mask, z, self._draw(z, alpha, beta * self.vocabulary, noise))

    def _draw(self, z: Tensor, keep: Tensor, replace: Tensor, noise: Tensor) -> Tensor:
        choice, which = noise[..., 0].double(), noise[..., 1]
        kept = _rows(keep, choice)
        other = (which.double() * self.vocabulary).long().clamp(max=self.vocabulary - 1)
        drawn = torch.where(choice < kept + _rows(replace, choice), other, torch.full_like(z, self.mask))
        return torch.where(choice < kept, z, drawn)

    def start(self, t: float, name: str, shape: Sequence[int], noise: Noise) -> Tensor:
        """All-mask; on a path that replaces visibly, each position is a uniform token with probability K beta_bar / (1 - alpha_bar)."""
        _, replace, gamma = self._cumulative(_double(t))
        share = float(replace) / max(float(replace + gamma), _TINY)
        uniform = self.noise(name, shape, noise)
        blank = torch.zeros(uniform.shape[:-1], dtype=torch.int64, device=uniform.device)
        share = 0.0 if share < _NO_REPLACE else share
        return self._draw(blank, torch.tensor(0.0), torch.tensor(share, dtype=torch.float64), uniform)

    def noise(self, name: str, shape: Sequence[int], noise: Noise) -> Tensor:
        """What `corrupt` wants, from the streams: uniform numbers (B, *shape, 2)."""
        return noise.uniform(name, (*shape, 2))

    def absent(self, like: Tensor) -> Tensor:
        """A state that tells nothing, for a modality at t = 1: all-mask (where the path masks; token 0 otherwise)."""
        return torch.full_like(like, self.mask if self.masks else 0)

    def check(self, name: str, value: Tensor, shape: Sequence[int]) -> None:
        """Refuse what is not a clean sequence of tokens.

        Raises:
            PolyscoreError: a wrong dtype or shape, or a token outside 0..K-1 (the mask included).
        """
        if value.is_floating_point() or value.dtype == torch.bool:
            raise PolyscoreError(f"modality {name!r}: expected integer tokens, found {value.dtype}")
        if tuple(value.shape[1:]) != tuple(shape):
            raise PolyscoreError(f"modality {name!r}: expected tokens of shape {('n', *shape)}, found {tuple(value.shape)}")
        low, high = (int(value.min()), int(value.max())) if value.numel() else (0, 0)
        if low < 0 or high >= self.vocabulary:
            raise PolyscoreError(f"modality {name!r}: expected tokens from 0 to {self.vocabulary - 1}, found {low if low < 0 else high}")


@register
class Absorbing(TokenPath):
    """Masking only: gamma_bar(t) = t ("linear"), or sin(pi t / 2) ("cosine", as MaskGIT unmasks; Chang et al. 2022)."""

    def __init__(self, vocabulary: int, schedule: Literal["linear", "cosine"] = "linear") -> None:
        super().__init__(vocabulary)
        if schedule not in ("linear", "cosine"):
            raise PolyscoreError(f"Absorbing: schedule {schedule!r}, expected linear or cosine")
        self.schedule = schedule

    def _cumulative(self, t: Tensor) -> Level:
        gamma = t if self.schedule == "linear" else (t * (math.pi / 2)).sin()
        return 1 - gamma, torch.zeros_like(t), gamma


@register
class UniformReplace(TokenPath):
    """Replacing only: alpha_bar(t) = 1 - t, no masks; t = 1 is uniform."""

    def _cumulative(self, t: Tensor) -> Level:
        return 1 - t, t, torch.zeros_like(t)

    def __init__(self, vocabulary: int) -> None:
        super().__init__(vocabulary)


@register
class MaskReplace(TokenPath):
    """Linear mask-and-replace: alpha_bar = 1 - t (1 - alpha_end), gamma_bar = t gamma_end, the rest replaced.

    The default (0, 0.9) is the schedule the VQ-Diffusion paper states (K beta_bar reaches 0.1).

    Raises:
        PolyscoreError: unless alpha_end, gamma_end >= 0 and alpha_end + gamma_end <= 1.
    """

    def __init__(self, vocabulary: int, alpha_end: float = 0.0, gamma_end: float = 0.9) -> None:
        super().__init__(vocabulary)
        if min(alpha_end, gamma_end) < 0 or alpha_end + gamma_end > 1:
            raise PolyscoreError(f"MaskReplace: expected alpha_end, gamma_end >= 0 with sum <= 1, found {alpha_end} and {gamma_end}")
        self.alpha_end, self.gamma_end = alpha_end, gamma_end

    def _cumulative(self, t: Tensor) -> Level:
        return 1 - t * (1 - self.alpha_end), t * (1 - self.alpha_end - self.gamma_end), t * self.gamma_end


@register
class TabulatedTokens(TokenPath):
    """Any discrete schedule: alpha_bar and gamma_bar of index i = 0..T-1 at t = (i + 1) / T, straight lines between.

    Raises:
        PolyscoreError: a table that no chain of steps has (alpha_bar and alpha_bar / (1 - gamma_bar) must fall, gamma_bar rise).
    """

    def __init__(self, vocabulary: int, alpha_bar: Sequence[float], gamma_bar: Sequence[float]) -> None:
        super().__init__(vocabulary)
        alpha = torch.cat([torch.ones(1, dtype=torch.float64), torch.as_tensor(alpha_bar, dtype=torch.float64)])
        gamma = torch.cat([torch.zeros(1, dtype=torch.float64), torch.as_tensor(gamma_bar, dtype=torch.float64)])
        if len(alpha) != len(gamma) or len(alpha) < 2:
            raise PolyscoreError(f"TabulatedTokens: expected two lists of one length >= 1, found {len(alpha) - 1} and {len(gamma) - 1}")
        replace = 1 - alpha - gamma
        replace = torch.where(replace.abs() < 1e-12, torch.zeros_like(replace), replace)
        share = alpha / (alpha + replace).clamp(min=_TINY)
        good = (alpha.diff() <= 0).all() and (gamma.diff() >= 0).all() and (replace >= 0).all() and (alpha >= 0).all()
        if not good or bool((share[alpha + replace > 1e-12].diff() > 1e-9).any()):
            raise PolyscoreError("TabulatedTokens: expected alpha_bar falling, gamma_bar rising, and alpha_bar / (1 - gamma_bar) falling")
        self.steps = len(alpha) - 1
        self._table = torch.stack([alpha, replace, gamma])

    def _cumulative(self, t: Tensor) -> Level:
        table = self._table.to(t.device)
        place = (t * self.steps).clamp(0, self.steps)
        place = torch.where((place - place.round()).abs() < 1e-6, place.round(), place)
        left = place.floor().long().clamp(max=self.steps - 1)
        levels = torch.lerp(table[:, left], table[:, left + 1], place - left)
        return levels[0], levels[1], levels[2]


@register
class VQDiffusion(TabulatedTokens):
    """The schedule VQ-Diffusion and CDCD released: alpha_bar from 0.99999 to 9e-6 and gamma_bar from 9e-6 to 0.99999, linear in the index.

    The replace rate K beta_bar is 1e-6 throughout, so in practice it only masks.
    """

    def __init__(
        self,
        vocabulary: int,
        steps: int = 100,
        alpha: Sequence[float] = (0.99999, 0.000009),
        gamma: Sequence[float] = (0.000009, 0.99999),
    ) -> None:
        line = [i / max(steps - 1, 1) for i in range(steps)]
        kept = [alpha[0] + (alpha[1] - alpha[0]) * x for x in line]
        masked = [gamma[0] + (gamma[1] - gamma[0]) * x for x in line]
        super().__init__(vocabulary, kept, masked)


_NAMED: Named = {
    "absorbing": (Absorbing, ("schedule",)),
    "released": (VQDiffusion, ("steps",)),
    "replace": (MaskReplace, ("alpha_end", "gamma_end")),
    "uniform": (UniformReplace, ()),
}


def make_token_path(text: str, vocabulary: int) -> TokenPath:
    """ "absorbing" or "absorbing:cosine", "released" or "released:STEPS" (`VQDiffusion`), "replace" or "replace:ALPHA_END:GAMMA_END"
    (`MaskReplace`), or "uniform" (`UniformReplace`).

    Raises:
        PolyscoreError: another name, or a value that doesn't fit.
    """
    path: TokenPath = make_named(text, _NAMED, "token path", vocabulary)
    return path


def _double(t: Time) -> Tensor:
    return torch.as_tensor(t, dtype=torch.float64)


def _rows(value: Tensor, like: Tensor) -> Tensor:
    """A level of shape () or (B,) so that it goes with `like` (B, ...)."""
    return torch.as_tensor(expand(value, like)) if value.ndim else value.to(like)
