"""Denoisers: callables (z, t, condition) -> {modality: Prediction}. A composition of denoisers is a denoiser.

States z are dictionaries {modality: (B, *shape)}, times t dictionaries {modality: float or (B,)}: every modality has its
own clock. A modality at t = 0 is observed, one at t = 1 tells nothing.
"""

from __future__ import annotations

import abc
import contextlib
import contextvars
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from polyscore.errors import PolyscoreError
from polyscore.paths import GaussianPath, Path, Time
from polyscore.predictions import KINDS, Kind, Prediction, TokenPrediction
from polyscore.spec import register

__all__ = [
    "AnyPrediction",
    "Averaged",
    "Denoiser",
    "Evaluations",
    "Expert",
    "Independent",
    "OnPath",
    "Run",
    "State",
    "Times",
    "count_evaluations",
    "current_run",
    "inside",
]

State = dict[str, Tensor]
Times = Mapping[str, Time]
AnyPrediction = Prediction | TokenPrediction


class Denoiser(nn.Module, abc.ABC):
    """What everything here is: `denoiser(z, t, condition)` with one path and one shape a modality.

    Attributes:
        paths: how each modality is corrupted.
        shapes: shape of each modality's state without the batch.
        spaces: name of the latent space of each modality, where known; states of two different spaces cannot be added.
        classes: number of class labels that a condition may be (-1: none of them); 0 where it knows none.
        null: the condition that stands for no prompt; None where it takes no prompts.
    """

    paths: Mapping[str, Path]
    shapes: Mapping[str, tuple[int, ...]]
    spaces: Mapping[str, str] = {}
    classes: int = 0
    null: Any = None

    @abc.abstractmethod
    def forward(self, z: State, t: Times, condition: Any = None) -> dict[str, Any]:
        """Predictions at state z and times t, one per modality (Gaussian: Prediction; tokens: TokenPrediction)."""

    def coefficients(self, name: str, t: Times) -> tuple[Time, Time]:
        """(A, S) of a Gaussian modality at its time."""
        path = self.paths[name]
        if not isinstance(path, GaussianPath):
            raise PolyscoreError(f"modality {name!r}: expected a Gaussian path, found {type(path).__name__}")
        return path.coefficients(t[name])


@dataclass
class Run:
    """What a sampling run tells the operators inside it: the step number, the initial noise, and a place to remember things.

    `rows` says which of the run's `n` samples each row of the batch belongs to (`first` is the number of sample 0); so what an operator
    holds one a sample is cut with the batch. `shared`: the rows are one population, which samples of their own cannot have.
    `absent` are the modalities left out of the run.
    """

    step: int = 0
    noise: State = field(default_factory=dict)
    memo: dict[Any, Any] = field(default_factory=dict)
    rows: Tensor | None = None
    n: int = 0
    first: int = 0
    shared: bool = False
    absent: Collection[str] = ()


current_run: contextvars.ContextVar[Run | None] = contextvars.ContextVar("current_run", default=None)


@register
class Expert(Denoiser):
    """One trained network as a denoiser, with its own paths and parametrisation: a leaf of the algebra.

    Args:
        network: `network(z, t, condition) -> {modality: raw output}`; z and t hold every modality, t as (B,) tensors
            in float32 (float64 for float64 states).
        paths: path of each modality the network was trained with.
        shapes: shape of each modality without the batch.
        prediction: what the raw outputs are: "eps", "x0", "v", "score", "flow", or "logits" for tokens; one word or one a modality.
        spaces: names of the latent spaces, if any.
    """

    def __init__(
        self,
        network: nn.Module,
        paths: Mapping[str, Path],
        shapes: Mapping[str, Sequence[int]],
        prediction: str | Mapping[str, str] = "eps",
        spaces: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.paths = dict(paths)
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.prediction = {name: prediction if isinstance(prediction, str) else prediction[name] for name in self.paths}
        self.spaces = dict(spaces or {})
        for name, kind in self.prediction.items():
            if kind not in (*KINDS, "logits"):
                raise PolyscoreError(f"modality {name!r}: prediction {kind!r} is not one of {', '.join(KINDS)}, logits")

    def forward(self, z: State, t: Times, condition: Any = None) -> dict[str, AnyPrediction]:
        """One network call; its outputs as predictions on the expert's own paths."""
        rows = len(next(iter(z.values())))
        device = next(iter(z.values())).device
        dtype = torch.float64 if any(v.dtype == torch.float64 for v in z.values()) else torch.float32
        clocks = {name: _clock(t[name], rows, device, dtype) for name in self.paths}
        outputs = self.network(z, clocks, condition)
        return {name: self._prediction(name, outputs[name], z, t) for name in self.paths}

    def _prediction(self, name: str, output: Tensor, z: State, t: Times) -> AnyPrediction:
        kind = self.prediction[name]
        if kind == "logits":
            return TokenPrediction.from_logits(output)
        known: Kind = kind  # type: ignore[assignment]
        return Prediction.of(known, output, z[name], *self.coefficients(name, t))


def _clock(t: Time, rows: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    if isinstance(t, Tensor):
        return t.to(device, dtype).expand(rows)
    return torch.full((rows,), t, device=device, dtype=dtype)


def inside(window: tuple[float, float], clocks: Iterable[Time]) -> bool | Tensor:
    """Whether the latest of the clocks lies in [low, high]: one answer, or one a sample (B,) where a clock has one time a sample."""
    times = list(clocks)
    low, high = window
    rows = [t for t in times if isinstance(t, Tensor) and t.ndim]
    latest = max((float(t) for t in times if not (isinstance(t, Tensor) and t.ndim)), default=-math.inf)
    if not rows:
        return low <= latest <= high
    now = torch.stack(torch.broadcast_tensors(*(t.double() for t in rows))).amax(0).clamp(min=latest)
    return (now >= low) & (now <= high)


@register
class Independent(Denoiser):
    """Disjoint modalities side by side: p(x, y, ...) = p(x) p(y) ...; no network sees another's modality.

    Conditions: one for every part, or a mapping by modality, or by number of the part (an integer): {"video": a, 1: b}. A part that is not
    named gets None. A part of several modalities gets the mapping of those of its own that are named.

    Raises:
        PolyscoreError: a modality of two parts; a condition for a modality or part that does not exist, or two for one.
    """

    def __init__(self, *parts: Denoiser) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        names = [name for part in parts for name in part.paths]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise PolyscoreError(
                f"Independent: modality {twice[0]!r} belongs to two parts; expected disjoint modalities (use Product to join them)"
            )
        self.paths = {name: path for part in parts for name, path in part.paths.items()}
        self.shapes = {name: shape for part in parts for name, shape in part.shapes.items()}
        self.spaces = {name: space for part in parts for name, space in part.spaces.items()}

    def forward(self, z: State, t: Times, condition: Any = None) -> dict[str, AnyPrediction]:
        """Each part's predictions of its own modalities."""
        found: dict[str, AnyPrediction] = {}
        for part, own in zip(self.parts, self.own_conditions(condition), strict=True):
            found |= part({k: z[k] for k in part.paths}, {k: t[k] for k in part.paths}, own)  # type: ignore[union-attr,operator]
        return found

    def own_conditions(self, condition: Any) -> list[Any]:
        """The condition of each part."""
        if not isinstance(condition, Mapping):
            return [condition] * len(self.parts)
        parts = [cast(Denoiser, part) for part in self.parts]
        numbers = {name: number for number, part in enumerate(parts) for name in part.paths}
        found: list[Any] = [None] * len(self.parts)
        for key, value in condition.items():
            known = key in numbers if isinstance(key, str) else type(key) is int and 0 <= key < len(parts)
            if not known:
                raise PolyscoreError(
                    f"Independent: a condition for {key!r}, expected a modality of {sorted(numbers)} or the number of a part, "
                    f"0 to {len(parts) - 1}"
                )
            number = numbers[key] if isinstance(key, str) else key
            alone = not isinstance(key, str) or len(parts[number].paths) == 1
            if found[number] is not None and (alone or not isinstance(found[number], dict)):
                raise PolyscoreError(f"Independent: two conditions for part {number}, one of them for {key!r}; expected one")
            found[number] = value if alone else {**(found[number] or {}), key: value}
        return found


@register
class Averaged(Denoiser):
    """Several denoisers of one and the same law, averaged: estimates whose errors differ have a smaller one together.

    Each modality's prediction is the mean with weights of its own, in eps and x0 alike (the geometric mean of the densities).

    Args:
        parts: denoisers on the same paths and shapes. weights: {modality: one weight a part, summing to 1}; default equal ones.
    """

    def __init__(self, *parts: Denoiser, weights: Mapping[str, Sequence[float]] | None = None) -> None:
        super().__init__()
        first = parts[0]
        self.parts = nn.ModuleList(parts)
        self.paths, self.shapes, self.spaces = first.paths, first.shapes, first.spaces
        self.weights = {name: [1 / len(parts)] * len(parts) for name in self.paths} | {k: list(v) for k, v in (weights or {}).items()}
        for part in parts[1:]:
            if dict(part.paths) != dict(self.paths) or dict(part.shapes) != dict(self.shapes):
                raise PolyscoreError(f"Averaged: a part on {dict(part.paths)}, {dict(part.shapes)}; expected {self.paths}, {self.shapes}")
        for name, own in self.weights.items():
            if name not in self.paths or len(own) != len(parts) or abs(sum(own) - 1) > 1e-6:
                raise PolyscoreError(f"Averaged: weights {own} of {name!r}, expected {len(parts)} that sum to 1, of {sorted(self.paths)}")

    def forward(self, z: State, t: Times, condition: Any = None) -> dict[str, AnyPrediction]:
        """The mean predictions."""
        found = [part(z, t, condition) for part in self.parts]
        return {name: _mean([part[name] for part in found], own) for name, own in self.weights.items()}


def _mean(parts: Sequence[AnyPrediction], weights: Sequence[float]) -> AnyPrediction:
    named = [(str(number), weight, part) for number, (weight, part) in enumerate(zip(weights, parts, strict=True)) if weight]
    if isinstance(parts[0], TokenPrediction):
        return TokenPrediction.mix(cast(Any, named))
    return Prediction.mix(cast(Any, named), parts[0].z, parts[0].A, parts[0].S)


@register
class OnPath(Denoiser):
    """A denoiser shown on other Gaussian paths: it is asked at equal SNR, never at equal index.

    For a state z at (A, S) the denoiser's own time tau has A(tau) / S(tau) = A / S; it sees z rescaled by
    sqrt((A_tau^2 + S_tau^2) / (A^2 + S^2)), and its eps and x0 hold for z unchanged.
    """

    def __init__(self, denoiser: Denoiser, paths: Mapping[str, Path]) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.paths = {name: paths.get(name, own) for name, own in denoiser.paths.items()}
        self.shapes, self.spaces = denoiser.shapes, denoiser.spaces
        self._moved = [name for name, own in denoiser.paths.items() if self.paths[name] != own]
        for name in self._moved:
            if not (isinstance(self.paths[name], GaussianPath) and isinstance(denoiser.paths[name], GaussianPath)):
                raise PolyscoreError(f"modality {name!r}: a token path cannot be exchanged for another path")

    def forward(self, z: State, t: Times, condition: Any = None) -> dict[str, Any]:
        """Predictions for z on the new paths."""
        own_z, own_t = dict(z), dict(t)
        for name in self._moved:
            tau = self.denoiser.paths[name].time_of(self.paths[name].log_snr(t[name]))  # type: ignore[attr-defined]
            ratio = _norm(*self.denoiser.coefficients(name, {name: tau})) / _norm(*self.coefficients(name, t))
            own_t[name] = tau
            own_z[name] = z[name] * (ratio if isinstance(ratio, float) else ratio.to(z[name]).reshape(-1, *[1] * (z[name].ndim - 1)))
        found = dict(self.denoiser(own_z, own_t, condition))
        for name in self._moved:
            found[name] = found[name].moved(z[name], *self.coefficients(name, t))
        return found


def _norm(A: Time, S: Time) -> Any:
    return torch.hypot(A, S) if isinstance(A, Tensor) and isinstance(S, Tensor) else math.hypot(A, S)  # type: ignore[arg-type]


@dataclass
class Evaluations:
    """Network calls and rows (samples times calls), counted at the leaves."""

    calls: int = 0
    rows: int = 0


@contextlib.contextmanager
def count_evaluations(denoiser: nn.Module) -> Iterator[Evaluations]:
    """Count the calls of every leaf denoiser inside the block."""
    found = Evaluations()

    def hook(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        found.calls += 1
        found.rows += len(next(iter(arguments[0].values())))

    leaves = [m for m in denoiser.modules() if isinstance(m, Denoiser) and not any(isinstance(c, Denoiser) for c in list(m.modules())[1:])]
    handles = [leaf.register_forward_pre_hook(hook) for leaf in leaves]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
