"""What a diffusers pipeline prepares for its network, taken from the pipeline itself.

Every pipeline encodes its prompts, builds its extra inputs (time ids, position ids, masks, durations, guidance embeddings) and sets
its scheduler in its own way. Instead of repeating each of them, `capture` runs the pipeline's own `__call__` up to the first step of
its scheduler, with the network's `forward` replaced by a recorder (no evaluation is spent), and keeps what the network was handed.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from polyscore.errors import PolyscoreError

__all__ = ["Capture", "block", "capture", "networks_of", "spread"]

_LATENTS = ("sample", "hidden_states")


@dataclass
class Capture:
    """What one call of a pipeline handed to its network.

    Attributes:
        latents: the network's input, (rows, ...). timestep: what it was told at the scheduler's first timestep.
        calls: the other arguments of each call before the first scheduler step (two where guidance is a second call).
        scheduler: a copy, after `set_timesteps`. mu: of dynamic shifting.
    """

    latents: Tensor | None = None
    timestep: float = 0.0
    calls: list[dict[str, Any]] = field(default_factory=list)
    scheduler: Any = None
    mu: float | None = None


class _StopError(Exception):
    """The pipeline has come to its first scheduler step."""


def networks_of(pipe: Any) -> list[nn.Module]:
    """The denoising networks of a pipeline: its unet, or its transformer (and the second one of Wan 2.2).

    Raises:
        PolyscoreError: a pipeline with none.
    """
    found = [n for name in ("unet", "transformer", "transformer_2") if isinstance(n := getattr(pipe, name, None), nn.Module)]
    if not found:
        raise PolyscoreError(f"{type(pipe).__name__}: expected a pipeline with a unet or a transformer, found {sorted(pipe.components)}")
    return found


@torch.no_grad()
def capture(pipe: Any, **arguments: Any) -> Capture:
    """Run `pipe(**arguments)` up to its first scheduler step; arguments its `__call__` doesn't have are left out.

    Raises:
        PolyscoreError: a pipeline whose call fails, or that never asks its network.
    """
    accepted = inspect.signature(type(pipe).__call__).parameters
    arguments = {k: v for k, v in arguments.items() if k in accepted}
    found = Capture()
    with contextlib.ExitStack() as stack:
        for network in networks_of(pipe):
            stack.enter_context(_replaced(network, "forward", _recorder(network, found)))
        stack.enter_context(_replaced(pipe.scheduler, "step", _stop))
        stack.enter_context(_replaced(pipe.scheduler, "set_timesteps", _noticing(pipe.scheduler, found)))
        stack.enter_context(_quiet(pipe))
        try:
            pipe(**arguments)
        except _StopError:
            pass
        except (TypeError, ValueError, RuntimeError, AttributeError, KeyError) as error:
            message = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise PolyscoreError(f"{type(pipe).__name__}: cannot be called with {sorted(arguments)}: {message}") from error
    if found.latents is None:
        raise PolyscoreError(f"{type(pipe).__name__}: expected a call of its network before its first scheduler step, found none")
    found.scheduler = copy.deepcopy(pipe.scheduler)
    return found


def block(value: Any, single: Any, double: Any, start: int, parts: int) -> Any:
    """Rows number `start` of `parts` equal parts, of every tensor in `value` whose first size grows from `single` to `double`.

    `single` and `double` are the same arguments captured with one prompt and with two: what doubles belongs to a sample, the rest
    (position ids, embeddings of the grid) is shared.
    """
    if isinstance(value, dict):
        return {k: block(v, single[k], double[k], start, parts) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(block(v, s, d, start, parts) for v, s, d in zip(value, single, double, strict=True))
    if not _grows(single, double) or not isinstance(value, Tensor):
        return value
    size = len(value) // parts
    return value[start * size : (start + 1) * size]


def spread(values: list[Any], single: Any, double: Any) -> Any:
    """Arguments for len(values) rows: the samples' own tensors one after the other, the shared ones once."""
    first = values[0]
    if isinstance(first, dict):
        return {k: spread([v[k] for v in values], single[k], double[k]) for k in first}
    if isinstance(first, list | tuple):
        return type(first)(spread([v[i] for v in values], single[i], double[i]) for i in range(len(first)))
    return torch.cat(values) if _grows(single, double) and isinstance(first, Tensor) else first


def _grows(single: Any, double: Any) -> bool:
    tensors = isinstance(single, Tensor) and isinstance(double, Tensor) and single.ndim > 0
    return tensors and len(double) == 2 * len(single)


def _recorder(network: nn.Module, found: Capture) -> Any:
    signature = inspect.signature(type(network).forward)
    from diffusers.models.modeling_outputs import Transformer2DModelOutput

    def forward(*args: Any, **kwargs: Any) -> Any:
        given = dict(list(signature.bind(network, *args, **kwargs).arguments.items())[1:])
        extra = given.pop("kwargs", {})
        latents = given.pop(next(name for name in _LATENTS if name in given))
        told = torch.as_tensor(given.pop("timestep")).double().reshape(-1)
        given.pop("return_dict", None)
        if found.latents is None:
            found.latents, found.timestep = latents.detach().clone(), float(told[0])
        found.calls.append({**given, **extra})
        # A learned variance doubles the channels.
        own, out = (getattr(network.config, f"{side}_channels", None) for side in ("in", "out"))
        return Transformer2DModelOutput(sample=torch.cat([torch.zeros_like(latents)] * (2 if own and out == 2 * own else 1), 1))

    return forward


def _stop(*_: Any, **__: Any) -> Any:
    raise _StopError


def _noticing(scheduler: Any, found: Capture) -> Any:
    original = scheduler.set_timesteps

    # diffusers asks for the parameters of set_timesteps by name, so the signature has to stay.
    def set_timesteps(*args: Any, **kwargs: Any) -> Any:
        found.mu = kwargs.get("mu", found.mu)
        return original(*args, **kwargs)

    set_timesteps.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
    return set_timesteps


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    had, before = name in owner.__dict__, owner.__dict__.get(name)
    owner.__dict__[name] = value
    try:
        yield
    finally:
        if had:
            owner.__dict__[name] = before
        else:
            del owner.__dict__[name]


@contextlib.contextmanager
def _quiet(pipe: Any) -> Iterator[None]:
    before = dict(getattr(pipe, "_progress_bar_config", {}))
    pipe.set_progress_bar_config(disable=True)
    try:
        yield
    finally:
        pipe._progress_bar_config = before
