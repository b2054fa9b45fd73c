"""Diffusers schedulers as paths, time grids and conventions: what a network trained beside a scheduler is told, sees and says.

A scheduler of diffusers mixes four things. Here they are apart:

    path_of        (A, S), the law the network was trained with;
    convention_of  how the network is called: its time, the scale of its input, the form of its output;
    schedule_of    the run: the times of the scheduler's own timesteps as an explicit grid;
    FromScheduler  the solver (`polyscore.adapters.solvers`).

Three conventions of state exist: variance preserving (z), sigma space (z / A: Euler, Heun, LMS, KDPM2), and flow. Ours is z.
Nothing here imports diffusers: a scheduler is read through its attributes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polyscore.errors import PolyscoreError
from polyscore.paths import GaussianPath, RectifiedFlow, Tabulated, Time, expand
from polyscore.predictions import Prediction
from polyscore.spec import register

__all__ = ["Convention", "PowerVE", "Schedule", "convention_of", "path_of", "prediction_of", "schedule_of"]

_KINDS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}
_APART = 1e-9


@register
class PowerVE(GaussianPath):
    """A = 1, S = sigma_max t^rho: the noise levels of EDM, uniform in t spaced as Karras et al. 2022, Eq. 5 (from sigma = 0)."""

    def __init__(self, sigma_max: float = 80.0, rho: float = 7.0) -> None:
        self.sigma_max, self.rho = sigma_max, rho

    def _coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), self.sigma_max * t**self.rho

    def _derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), self.sigma_max * self.rho * t ** (self.rho - 1)

    def _time_of(self, log_snr: Tensor) -> Tensor:
        return torch.exp((-0.5 * log_snr - math.log(self.sigma_max)) / self.rho)


@dataclass(frozen=True)
class Convention:
    """How a network beside a scheduler is called.

    Attributes:
        kind: form of the raw output: "eps", "v", "x0", "flow", or "edm" for x0 = c_skip z + c_out F (Karras et al. 2022, Table 1).
        clock: what the network takes for time: "index" (t T - 1), "sigma" (T S, flow matching), "log_sigma" (ln(sigma) / 4) or
            "atan" (2 atan(sigma) / pi).
        steps: T. sigma_data: of EDM. sign: of c_out (EDM epsilon: 1, v: -1).
        clip: range [-clip, clip] to which the scheduler clips x0, if it does; `keep_eps`: eps is not derived again (DDIM).
        quantile: for dynamic thresholding (Saharia et al. 2022), if on.
    """

    kind: str
    clock: str = "index"
    steps: int = 1000
    sigma_data: float = 0.5
    sign: float = 1.0
    clip: float | None = None
    keep_eps: bool = False
    quantile: float | None = None

    def timestep(self, path: GaussianPath, t: Time) -> Time:
        """The network's time at t."""
        if self.clock == "index":
            place = t * self.steps - 1
            return _whole(place)
        A, S = path.coefficients(t)
        if self.clock == "sigma":
            return S * self.steps
        sigma = torch.as_tensor(S / A, dtype=torch.float64)
        found = 0.25 * sigma.clamp(min=1e-20).log() if self.clock == "log_sigma" else sigma.atan() * (2 / math.pi)
        return found if isinstance(t, Tensor) else float(found)

    def input(self, z: Tensor, S: Time) -> Tensor:
        """What the network sees of the state z: z itself, or z / sqrt(S^2 + sigma_data^2)."""
        if self.kind != "edm":
            return z
        return z / _sqrt(expand(S, z) ** 2 + self.sigma_data**2)

    def prediction(self, raw: Tensor, z: Tensor, A: Time, S: Time) -> Prediction:
        """The raw output as a prediction, clipped as the scheduler does."""
        if self.kind == "edm":
            sigma, data = expand(S, z), self.sigma_data
            total = sigma**2 + data**2
            found = Prediction.from_x0(data**2 / total * z + self.sign * sigma * data / _sqrt(total) * raw, z, A, S)
        else:
            found = Prediction.of(self.kind, raw, z, A, S)  # type: ignore[arg-type]
        if self.clip is None:
            return found
        x0 = _clip(found.x0, self.clip, self.quantile)
        return Prediction({"x0": x0, "eps": found.eps}, z, A, S) if self.keep_eps else Prediction.from_x0(x0, z, A, S)

    def raw(self, p: Prediction) -> Tensor:
        """The raw output that says what the prediction says: the inverse of `prediction`, without its clipping."""
        if self.kind != "edm":
            return getattr(p, self.kind)
        total = p.S**2 + self.sigma_data**2
        return (p.x0 - self.sigma_data**2 / total * p.z) * _sqrt(total) / (self.sign * p.S * self.sigma_data)


@dataclass(frozen=True)
class Schedule:
    """One run of a scheduler: `times` (falling, one more than the calls) and the `timesteps` that the network is told at them.

    Attributes:
        path: of the state. times: use as `grid=` of `polyscore.sample`. Repeated levels (Heun, PNDM) are 1e-9 apart.
        timesteps: the scheduler's own, one a call. sigma_space: its state is z / A. start: its factor on the initial noise.
    """

    path: GaussianPath
    times: tuple[float, ...]
    timesteps: tuple[float, ...]
    sigma_space: bool = False
    start: float = 1.0

    def scale(self, i: int) -> float:
        """The scheduler's state at grid point i is this times ours."""
        return 1 / self.path.coefficients(self.times[i])[0] if self.sigma_space else 1.0

    def latents(self, noise: Tensor) -> Tensor:
        """The `latents` argument that makes a pipeline start where polyscore starts from standard normal `noise`."""
        return noise * (math.hypot(*self.path.coefficients(self.times[0])) * self.scale(0) / self.start)


def _config(scheduler: Any, name: str, default: Any = None) -> Any:
    return getattr(scheduler.config, name, default) if hasattr(scheduler, "config") else default


def _is_edm(scheduler: Any) -> bool:
    return hasattr(scheduler, "precondition_outputs")


def _is_flow(scheduler: Any) -> bool:
    named = "FlowMatch" in type(scheduler).__name__ and hasattr(scheduler, "sigmas")
    return named or bool(_config(scheduler, "use_flow_sigmas")) or _config(scheduler, "prediction_type") == "flow_prediction"


def path_of(scheduler: Any, mu: float | None = None) -> GaussianPath:
    """The Gaussian path of any diffusers scheduler, with its true A and S.

    Tables of alphas_cumprod (rescaled to zero terminal SNR or not): `Tabulated`, index i at t = (i + 1) / T. EDM: `PowerVE`. Flow
    matching: `RectifiedFlow` with the scheduler's shift, or exp(mu) where it shifts dynamically.

    Raises:
        PolyscoreError: a scheduler of another kind.
    """
    if _is_edm(scheduler):
        return PowerVE(float(_config(scheduler, "sigma_max")), float(_config(scheduler, "rho", None) or 7.0))
    if _is_flow(scheduler):
        dynamic = mu is not None and bool(_config(scheduler, "use_dynamic_shifting"))
        shift = math.exp(mu) if dynamic and mu is not None else _config(scheduler, "shift", None) or _config(scheduler, "flow_shift", None)
        return RectifiedFlow(float(shift or 1.0))
    table = getattr(scheduler, "alphas_cumprod", None)
    if table is None:
        kinds = "a table alphas_cumprod, EDM preconditioning or flow matching"
        raise PolyscoreError(f"{type(scheduler).__name__}: no Gaussian path is known for it, expected a scheduler with {kinds}")
    return Tabulated(torch.as_tensor(table).double().cpu().tolist())


def prediction_of(scheduler: Any) -> str:
    """Form of the raw output of the scheduler's network: "eps", "v", "x0", "flow", or "edm"."""
    return convention_of(scheduler).kind


def convention_of(scheduler: Any) -> Convention:
    """How the scheduler's network is called.

    Raises:
        PolyscoreError: an unknown prediction type.
    """
    steps = int(_config(scheduler, "num_train_timesteps", 1000))
    told = str(_config(scheduler, "prediction_type", "epsilon"))
    if _is_edm(scheduler):
        cosine = "Cosine" in type(scheduler).__name__
        data, sign = float(_config(scheduler, "sigma_data")), -1.0 if told == "v_prediction" else 1.0
        return Convention("edm", "atan" if cosine else "log_sigma", steps, data, sign)
    if _is_flow(scheduler):
        return Convention("flow", "sigma", steps)
    if told not in _KINDS:
        raise PolyscoreError(f"{type(scheduler).__name__}: prediction type {told!r}, expected one of {', '.join(_KINDS)}")
    continuous = _config(scheduler, "timestep_type") == "continuous" and told == "v_prediction"
    dynamic = bool(_config(scheduler, "thresholding"))
    clips = dynamic or bool(_config(scheduler, "clip_sample"))
    size = float(_config(scheduler, "sample_max_value" if dynamic else "clip_sample_range", 1.0) or 1.0)
    return Convention(
        _KINDS[told],
        "log_sigma" if continuous else "index",
        steps,
        clip=size if clips else None,
        keep_eps="DDIM" in type(scheduler).__name__,
        quantile=float(_config(scheduler, "dynamic_thresholding_ratio", 0.995)) if dynamic else None,
    )


def schedule_of(scheduler: Any, steps: int | None = None, mu: float | None = None, **options: Any) -> Schedule:
    """The scheduler's own run as an explicit grid.

    Args:
        scheduler: of diffusers. steps: calls `set_timesteps(steps, **options)` first; None: it was called already.
        mu: of dynamic shifting.
        options: of its `set_timesteps` (timesteps, sigmas, ...).
    """
    if steps is not None:
        if mu is not None:
            options["mu"] = mu
        scheduler.set_timesteps(steps, **options)
    path = path_of(scheduler, mu)
    timesteps = [float(s) for s in torch.as_tensor(scheduler.timesteps).tolist()]
    times = _times(scheduler, path, timesteps)
    for k in range(1, len(times)):
        times[k] = min(times[k], times[k - 1] - _APART)
    start = float(getattr(scheduler, "init_noise_sigma", 1.0))
    sigma_space = isinstance(path, Tabulated) and not math.isclose(start, 1.0, rel_tol=1e-6)
    return Schedule(path, tuple(times), tuple(timesteps), sigma_space, start)


def _times(scheduler: Any, path: GaussianPath, timesteps: list[float]) -> list[float]:
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is not None and len(sigmas) > len(timesteps):
        levels = torch.as_tensor(sigmas).double().tolist()[: len(timesteps) + 1]
        between = getattr(scheduler, "sigmas_interpol", None)
        if between is not None:
            # KDPM2: every second call is at the level between two sigmas; the ancestral variant keeps it one place earlier.
            first = 0 if "Ancestral" in type(scheduler).__name__ else 1
            levels[1:-1:2] = torch.as_tensor(between).double().tolist()[first : first + len(timesteps) - 1 : 2]
        return [_time(path, sigma) for sigma in levels]
    if not isinstance(path, Tabulated):
        raise PolyscoreError(f"{type(scheduler).__name__}: expected sigmas after set_timesteps, found none")
    final = float(getattr(scheduler, "final_alpha_cumprod", 1.0))
    end = 0.0 if final >= 1 else 1 / path.steps
    return [(i + 1) / path.steps for i in timesteps] + [end]


def _time(path: GaussianPath, sigma: float) -> float:
    if sigma <= 0:
        return 0.0
    signal = 1 - sigma if isinstance(path, RectifiedFlow) else 1.0
    return path.time_of(2 * math.log(signal / sigma)) if signal > 0 else 1.0


def _whole(place: Time) -> Time:
    """Whole numbers where rounding of t has moved them by less than 1e-3 of a step."""
    if isinstance(place, Tensor):
        near = place.round()
        return torch.where((place - near).abs() < 1e-3, near, place)
    return float(round(place)) if abs(place - round(place)) < 1e-6 else place


def _sqrt(value: Any) -> Any:
    return value.sqrt() if isinstance(value, Tensor) else math.sqrt(value)


def _clip(x0: Tensor, size: float, quantile: float | None) -> Tensor:
    if quantile is None:
        return x0.clamp(-size, size)
    flat = x0.float().abs().flatten(1)
    limit = torch.quantile(flat, quantile, dim=1).clamp(min=1, max=size).reshape(-1, *[1] * (x0.ndim - 1)).to(x0)
    return torch.maximum(torch.minimum(x0, limit), -limit) / limit
