"""Paths: how a modality is corrupted. Time t is in [0, 1]: t = 0 is clean, t = 1 is noise.

A Gaussian path is z_t = A(t) z_0 + S(t) eps with eps ~ N(0, I). Its signal-to-noise ratio A^2 / S^2 falls with t.
The same law is the marginal of dz = f(t) z dt + g(t) dW with f = A'/A and g^2 = 2 S S' - 2 f S^2.

Times and coefficients are Python floats (one time for the batch; float64, cached) or tensors of shape (B,).
"""

from __future__ import annotations

import abc
import functools
import math
import reprlib
from collections.abc import Sequence
from typing import Any, Protocol, overload

import torch
from torch import Tensor

from polyscore.errors import PolyscoreError
from polyscore.spec import register

__all__ = [
    "VE",
    "VPSDE",
    "Cosine",
    "GaussianPath",
    "Linear",
    "Noise",
    "Path",
    "RectifiedFlow",
    "ScaledLinear",
    "Tabulated",
    "Time",
    "VariancePreserving",
    "expand",
]

Time = float | Tensor
"""One time for the whole batch (float), or one per sample (tensor of shape (B,))."""

_FLOOR = 1e-12
_FAR = 700.0


def _plain(value: Any) -> Any:
    """Tuples as lists, as a stored spec has them."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def expand(value: Time, like: Tensor) -> Time:
    """Shape a per-sample value (B,) so that it multiplies `like` of shape (B, ...), in its dtype. Floats pass through."""
    if not isinstance(value, Tensor):
        return value
    return value.to(like).reshape(value.shape + (1,) * (like.ndim - value.ndim))


class Noise(Protocol):
    """Where a path takes its random numbers from: one stream per sample and name."""

    def normal(self, name: str, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers, (B, *shape)."""
        ...

    def uniform(self, name: str, shape: Sequence[int]) -> Tensor:
        """Uniform numbers in [0, 1), (B, *shape)."""
        ...


class Path(abc.ABC):
    """How one modality is corrupted between t = 0 (clean) and t = 1 (noise)."""

    @abc.abstractmethod
    def corrupt(self, z0: Tensor, t: Time, noise: Tensor) -> Tensor:
        """A draw of z_t given z_0 (B, ...) and noise of the path's own kind."""

    @abc.abstractmethod
    def start(self, t: float, name: str, shape: Sequence[int], noise: Noise) -> Tensor:
        """A draw of the state from which sampling starts at time t, (B, *shape), from the streams `name` of `noise`."""

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Path) and type(self) is type(other) and self._arguments == other._arguments)

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _hash(self) -> int:
        return hash((type(self), repr(self._arguments)))

    @functools.cached_property
    def _arguments(self) -> Any:
        return _plain(getattr(self, "_spec", None))

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={reprlib.repr(v)}" for k, v in getattr(self, "_spec", {}).items())
        return f"{type(self).__name__}({arguments})"


class GaussianPath(Path):
    """z_t = A(t) z_0 + S(t) eps. Subclasses give `_coefficients`, `_derivatives` and `_time_of` on float64 tensors."""

    @abc.abstractmethod
    def _coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """A and S at float64 times."""

    @abc.abstractmethod
    def _derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """dA/dt and dS/dt at float64 times."""

    @abc.abstractmethod
    def _time_of(self, log_snr: Tensor) -> Tensor:
        """The inverse of `log_snr` at finite values, before it is clamped to [0, 1]."""

    @overload
    def coefficients(self, t: float) -> tuple[float, float]: ...
    @overload
    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]: ...
    def coefficients(self, t: Time) -> tuple[Time, Time]:
        """(A, S) at time t, in the type and dtype of t (computed in float64)."""
        if isinstance(t, Tensor):
            A, S = self._coefficients(t.double())
            return A.to(t.dtype), S.to(t.dtype)
        return _at(self, "_coefficients", float(t))

    @overload
    def derivatives(self, t: float) -> tuple[float, float]: ...
    @overload
    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]: ...
    def derivatives(self, t: Time) -> tuple[Time, Time]:
        """(dA/dt, dS/dt) at time t."""
        if isinstance(t, Tensor):
            dA, dS = self._derivatives(t.double())
            return dA.to(t.dtype), dS.to(t.dtype)
        return _at(self, "_derivatives", float(t))

    @overload
    def log_snr(self, t: float) -> float: ...
    @overload
    def log_snr(self, t: Tensor) -> Tensor: ...
    def log_snr(self, t: Time) -> Time:
        """log(A^2 / S^2); +inf at a clean end, -inf at a pure-noise end."""
        A, S = self.coefficients(t)
        if isinstance(A, Tensor) and isinstance(S, Tensor):
            return 2 * (A.log() - S.log())
        return 2 * (_log(A) - _log(S))  # type: ignore[arg-type]

    @overload
    def time_of(self, log_snr: float) -> float: ...
    @overload
    def time_of(self, log_snr: Tensor) -> Tensor: ...
    def time_of(self, log_snr: Time) -> Time:
        """The time at which the path has this log-SNR, clamped to [0, 1]."""
        if isinstance(log_snr, Tensor):
            wide = log_snr.double()
            time = torch.where(wide.isinf(), (wide < 0).double(), self._time_of(wide.clamp(-_FAR, _FAR)))
            return time.clamp(0, 1).to(log_snr.dtype)
        return float(self.time_of(torch.tensor(log_snr, dtype=torch.float64)))

    def drift(self, t: float) -> float:
        """f(t) = A'/A of the forward SDE dz = f z dt + g dW."""
        dA, _ = self.derivatives(t)
        return dA / max(self.coefficients(t)[0], _FLOOR)

    def diffusion(self, t: float) -> float:
        """g(t)^2 = 2 S S' - 2 (A'/A) S^2 of the forward SDE."""
        S = self.coefficients(t)[1]
        return 2 * S * self.derivatives(t)[1] - 2 * self.drift(t) * S * S

    def corrupt(self, z0: Tensor, t: Time, noise: Tensor) -> Tensor:
        """A(t) z0 + S(t) noise, with z0 and noise of shape (B, ...)."""
        A, S = self.coefficients(t)
        return expand(A, z0) * z0 + expand(S, z0) * noise

    def start(self, t: float, name: str, shape: Sequence[int], noise: Noise) -> Tensor:
        """sqrt(A^2 + S^2) eps: the law of z_t for data of unit variance (moment-matched)."""
        A, S = self.coefficients(t)
        return math.hypot(A, S) * noise.normal(name, shape)


@functools.lru_cache(maxsize=65536)
def _at(path: GaussianPath, method: str, t: float) -> tuple[float, float]:
    first, second = getattr(path, method)(torch.tensor(t, dtype=torch.float64))
    return float(first), float(second)


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf


class VariancePreserving(GaussianPath):
    """A^2 + S^2 = 1. Subclasses give log A, its derivative, and the time of a given log A."""

    @abc.abstractmethod
    def _log_alpha(self, t: Tensor) -> Tensor:
        """log A(t)."""

    @abc.abstractmethod
    def _log_alpha_derivative(self, t: Tensor) -> Tensor:
        """d log A / dt."""

    @abc.abstractmethod
    def _time_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        """The inverse of `_log_alpha`."""

    def _coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_alpha = self._log_alpha(t)
        return log_alpha.exp(), (-torch.expm1(2 * log_alpha)).clamp(min=0).sqrt()

    def _derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        A, S = self._coefficients(t)
        slope = self._log_alpha_derivative(t)
        return A * slope, -A * A * slope / S.clamp(min=_FLOOR)

    def _time_of(self, log_snr: Tensor) -> Tensor:
        return self._time_of_log_alpha(-0.5 * torch.nn.functional.softplus(-log_snr))

    def drift(self, t: float) -> float:
        """f(t) = d log A / dt = -beta(t) / 2."""
        return float(self._log_alpha_derivative(torch.tensor(t, dtype=torch.float64)))

    def diffusion(self, t: float) -> float:
        """g(t)^2 = -2 d log A / dt = beta(t)."""
        return -2 * self.drift(t)


@register
class VPSDE(VariancePreserving):
    """dz = -beta/2 z dt + sqrt(beta) dW, beta(t) = beta_min + t (beta_max - beta_min) (Song et al. 2021).

    log A = -t^2 (beta_max - beta_min) / 4 - t beta_min / 2. The Score-Based Multimodal Autoencoder uses (0.1, 5), (1, 5) and (0.1, 20).
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        self.beta_min, self.beta_max = beta_min, beta_max

    def _log_alpha(self, t: Tensor) -> Tensor:
        return -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def _log_alpha_derivative(self, t: Tensor) -> Tensor:
        return -0.5 * (self.beta_min + t * (self.beta_max - self.beta_min))

    def _time_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        span = self.beta_max - self.beta_min
        root = (self.beta_min**2 - 4 * span * log_alpha).sqrt()
        return -4 * log_alpha / (root + self.beta_min).clamp(min=_FLOOR)


@register
class Cosine(VariancePreserving):
    """A(t) = cos((t + s) / (1 + s) pi/2) / cos(s / (1 + s) pi/2) (Nichol and Dhariwal 2021). Pure noise at t = 1."""

    def __init__(self, s: float = 0.008) -> None:
        self.s = s

    def _angle(self, t: Tensor) -> Tensor:
        return (t + self.s) / (1 + self.s) * (math.pi / 2)

    def _log_start(self) -> float:
        return math.log(math.cos(self.s / (1 + self.s) * math.pi / 2))

    def _log_alpha(self, t: Tensor) -> Tensor:
        return torch.where(t >= 1, -math.inf, self._angle(t).cos().clamp(min=0).log()) - self._log_start()

    def _log_alpha_derivative(self, t: Tensor) -> Tensor:
        return -(self._angle(t.clamp(max=1 - 1e-6))).tan() * (math.pi / 2) / (1 + self.s)

    def _derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        A, S = self._coefficients(t)
        slope = -self._angle(t).sin() * (math.pi / 2) / (1 + self.s) / math.exp(self._log_start())
        return slope, -A * slope / S.clamp(min=_FLOOR)

    def _time_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        cosine = (log_alpha + self._log_start()).exp().clamp(0, 1)
        return cosine.acos() * (2 / math.pi) * (1 + self.s) - self.s


class Tabulated(VariancePreserving):
    """A discrete VP schedule: alpha_bar of index i = 0..T-1 sits at t = (i + 1) / T, alpha_bar = 1 at t = 0.

    Between the points log A is linear in t, as in DPM-Solver. `index_of(t)` = t T - 1 is what a network trained on
    integer steps expects as its time.
    """

    def __init__(self, alphas_cumprod: Sequence[float]) -> None:
        table = torch.as_tensor(alphas_cumprod, dtype=torch.float64)
        falling = table.ndim == 1 and len(table) > 0 and bool((table.diff() < 0).all()) and float(table[-1]) >= 0 and float(table[0]) < 1
        if not falling:
            raise PolyscoreError("alphas_cumprod: expected a strictly falling list of numbers in [0, 1)")
        self.steps = len(table)
        log_alpha = 0.5 * table.clamp(min=1e-20).log()
        self._table = torch.cat([torch.zeros(1, dtype=torch.float64), log_alpha])

    def index_of(self, t: Time) -> Time:
        """The (fractional) training step of time t: t T - 1, in [-1, T - 1]."""
        return t * self.steps - 1

    def time_of_index(self, index: Time) -> Time:
        """The time of training step `index`: (index + 1) / T."""
        return (index + 1) / self.steps

    def _segment(self, t: Tensor) -> tuple[Tensor, Tensor]:
        place = (t * self.steps).clamp(0, self.steps)
        place = torch.where((place - place.round()).abs() < 1e-6, place.round(), place)
        left = place.floor().long().clamp(max=self.steps - 1)
        return left, place - left

    def _log_alpha(self, t: Tensor) -> Tensor:
        left, part = self._segment(t)
        return self._table[left] + part * (self._table[left + 1] - self._table[left])

    def _log_alpha_derivative(self, t: Tensor) -> Tensor:
        left, _ = self._segment(t)
        return (self._table[left + 1] - self._table[left]) * self.steps

    def _time_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        falling = -self._table
        right = torch.searchsorted(falling, -log_alpha.contiguous()).clamp(1, self.steps)
        low, high = falling[right - 1], falling[right]
        return (right - 1 + (-log_alpha - low) / (high - low)) / self.steps


register(Tabulated)


@register
class Linear(Tabulated):
    """DDPM: betas linear from beta_start to beta_end over `steps` (Ho et al. 2020)."""

    def __init__(self, beta_start: float = 1e-4, beta_end: float = 0.02, steps: int = 1000) -> None:
        betas = torch.linspace(beta_start, beta_end, steps, dtype=torch.float64)
        super().__init__((1 - betas).cumprod(0).tolist())


@register
class ScaledLinear(Tabulated):
    """Latent diffusion: square roots of the betas linear from sqrt(beta_start) to sqrt(beta_end)."""

    def __init__(self, beta_start: float = 0.00085, beta_end: float = 0.012, steps: int = 1000) -> None:
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64) ** 2
        super().__init__((1 - betas).cumprod(0).tolist())


@register
class RectifiedFlow(GaussianPath):
    """z_t = (1 - u) z_0 + u eps with u = shift t / (1 + (shift - 1) t); shift = 1 is the straight path. Pure noise at t = 1."""

    def __init__(self, shift: float = 1.0) -> None:
        self.shift = shift

    def _warp(self, t: Tensor) -> Tensor:
        return self.shift * t / (1 + (self.shift - 1) * t)

    def _coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        u = self._warp(t)
        return 1 - u, u

    def _derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        slope = self.shift / (1 + (self.shift - 1) * t) ** 2
        return -slope, slope

    def _time_of(self, log_snr: Tensor) -> Tensor:
        u = torch.sigmoid(-0.5 * log_snr)
        return u / (self.shift - (self.shift - 1) * u)


@register
class VE(GaussianPath):
    """Variance exploding: A = 1, S^2 = sigma(t)^2 - sigma_min^2, sigma(t) = sigma_min (sigma_max / sigma_min)^t (Song et al. 2021)."""

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self._rate = math.log(sigma_max / sigma_min)

    def _coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), self.sigma_min * torch.expm1(2 * self._rate * t).clamp(min=0).sqrt()

    def _derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        _, S = self._coefficients(t)
        return torch.zeros_like(t), self.sigma_min**2 * self._rate * torch.exp(2 * self._rate * t) / S.clamp(min=_FLOOR)

    def _time_of(self, log_snr: Tensor) -> Tensor:
        return torch.log1p(torch.exp(-log_snr) / self.sigma_min**2) / (2 * self._rate)
