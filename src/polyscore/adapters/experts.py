"""A network trained beside a diffusers scheduler, as an expert on its true path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polyscore.adapters.schedulers import Convention, Schedule, convention_of, path_of
from polyscore.denoisers import AnyPrediction, Denoiser, State, Times
from polyscore.networks.streams import infer_kind
from polyscore.paths import GaussianPath, Time
from polyscore.predictions import Prediction

__all__ = ["AdaptedExpert", "NetworkExpert"]

_NEAR = 1e-8


class AdaptedExpert(Denoiser):
    """One modality; z -> convention.prediction(call(convention.input(z), timestep, condition)).

    Subclasses give `call`. The network is told `convention.timestep(t)`, or exactly the scheduler's own timestep where `follow` has
    pinned the time (schedulers round or interpolate theirs in several ways).
    """

    def __init__(self, modality: str, path: GaussianPath, convention: Convention, shape: Sequence[int], space: str | None = None) -> None:
        super().__init__()
        self.modality, self.path, self.convention = modality, path, convention
        self.paths = {modality: path}
        self.shapes = {modality: tuple(shape)}
        self.spaces = {modality: space} if space else {}
        self._pins: dict[float, float] = {}

    @property
    def kind(self) -> str:
        """What the modality is, "audio", "video" or "image"; by the rank of its states (C, ...): two axes sound, four a video."""
        return {2: "audio", 4: "video"}.get(len(self.shapes[self.modality]), "image")

    @property
    def stream(self) -> tuple[str, tuple[int, ...]]:
        """How a discriminator sees the states: their kind (`polyscore.networks.streams.KINDS`), and the order of axes that kind has.

        Diffusers puts channels first: a video (C, F, H, W) is turned to (F, C, H, W); a sound (C, time, mel) is a spectrogram.
        """
        rank = len(self.shapes[self.modality])
        order = (1, 0, 2, 3) if rank == 4 else tuple(range(rank))
        return "spectrogram" if rank == 3 and self.kind == "audio" else infer_kind(self.shapes[self.modality]), order

    def call(self, z: Tensor, timestep: Tensor, condition: Any) -> Tensor:
        """The network's raw output for scaled states z (B, *shape), its own times (B,) and a condition."""
        raise TypeError(f"{type(self).__name__} has no network")

    def follow(self, schedule: Schedule) -> list[float]:
        """Pin the timesteps of a scheduler's run; returns its times, to be used as `grid`."""
        self._pins = dict(zip(schedule.times, schedule.timesteps, strict=False))
        return list(schedule.times)

    def timestep(self, t: Time) -> Time:
        """What the network is told at time t."""
        first = t.reshape(-1)[0] if isinstance(t, Tensor) else t
        if not isinstance(t, Tensor) or bool((t == first).all()):
            now = float(first)
            near = min(self._pins, key=lambda pin: abs(pin - now), default=None)
            if near is not None and abs(near - now) < _NEAR:
                return self._pins[near]
        return self.convention.timestep(self.path, t)

    def forward(self, z: State, t: Times, condition: Any = None) -> dict[str, AnyPrediction]:
        """One network call; none for a state that is observed (t = 0), which says itself what it is."""
        state, now = z[self.modality], t[self.modality]
        A, S = self.path.coefficients(now)
        if not isinstance(now, Tensor) and now <= 0:
            return {self.modality: Prediction({"x0": state, "eps": torch.zeros_like(state)}, state, A, S)}
        told = torch.as_tensor(self.timestep(now), dtype=torch.float32, device=state.device).reshape(-1).expand(len(state))
        raw = self.call(self.convention.input(state, S), told, condition)
        found: Prediction = self.convention.prediction(raw.to(state.dtype), state, A, S)
        return {self.modality: found}


class NetworkExpert(AdaptedExpert):
    """Any `network(z, timestep, condition) -> tensor` trained beside a diffusers scheduler.

    Args:
        network: a module or function. scheduler: the one it was trained with. shape: of the state without the batch.
        modality: its name. mu: of dynamic shifting. space: name of the latent space.
        kind: "audio", "video" or "image"; by default what the rank of the states says.
    """

    def __init__(
        self,
        network: Callable[[Tensor, Tensor, Any], Tensor] | nn.Module,
        scheduler: Any,
        shape: Sequence[int],
        modality: str = "image",
        mu: float | None = None,
        space: str | None = None,
        kind: str | None = None,
    ) -> None:
        super().__init__(modality, path_of(scheduler, mu), convention_of(scheduler), shape, space)
        self.network, self._kind = network, kind

    @property
    def kind(self) -> str:
        """What the modality is."""
        return self._kind or super().kind

    def call(self, z: Tensor, timestep: Tensor, condition: Any) -> Tensor:
        """The network's raw output."""
        return self.network(z, timestep, condition)
