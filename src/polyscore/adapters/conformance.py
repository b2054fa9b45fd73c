"""Does an adapted pipeline sample what the pipeline itself samples? Measured on any pipeline, with any of its schedulers."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from polyscore.adapters.pipeline_expert import PipelineExpert
from polyscore.adapters.solvers import own_generators
from polyscore.denoisers import State
from polyscore.paths import GaussianPath
from polyscore.product import Product, Term
from polyscore.sampling import Streams, sample

__all__ = ["deviation", "pair_deviation", "pipeline_latents"]


def pipeline_latents(expert: PipelineExpert, n: int, steps: int, seed: int = 0) -> Tensor:
    """The latents of the pipeline's own `__call__`, begun from the noise with which polyscore begins sample 0..n-1 of `seed`."""
    pipe, modality = expert.pipe, expert.modality
    streams = Streams(seed, range(n))
    schedule, _ = expert.schedule(steps)
    start = expert.layout.pack(schedule.latents(streams.normal(modality, expert.shapes[modality])))
    accepted = inspect.signature(type(pipe).__call__).parameters
    arguments = expert.own_arguments(n, steps) | {"generator": own_generators(seed, range(n), modality), "latents": start}
    kept: list[Tensor] = []
    with _recording(pipe.scheduler, kept), _starting(pipe, start, "latents" not in accepted), torch.no_grad():
        pipe.set_progress_bar_config(disable=True)
        pipe(**{k: v for k, v in arguments.items() if k in accepted})
    return expert.layout.unpack(kept[-1][:n])


def deviation(expert: PipelineExpert, n: int = 2, steps: int = 4, seed: int = 0) -> float:
    """Largest difference between polyscore's samples and the pipeline's own, over the largest entry (if that is above 1)."""
    own = pipeline_latents(expert, n, steps, seed)
    ours = sample(expert, n, seed=seed, **expert.plan(steps))[expert.modality]
    return float((ours - own).abs().max() / own.abs().max().clamp(min=1))


def pair_deviation(a: PipelineExpert, b: PipelineExpert, seed: int = 0, levels: tuple[float, ...] = (0.8, 0.5, 0.2)) -> float:
    """Largest difference of eps between Product(a^2 b^1.5) and the formula written out, each expert asked alone at equal SNR."""
    product = Product([Term(a, strength=2.0, name="a", null=a.null), Term(b, strength=1.5, name="b", null=b.null)], {"a": 0.5, "b": 0.5})
    generator = torch.Generator().manual_seed(seed)
    (name, shape), found = next(iter(a.shapes.items())), 0.0
    for t in levels:
        z = torch.randn(2, *shape, generator=generator)
        asked = [_alone(a, name, z, t, a.path), _alone(b, name, z, t, a.path)]
        u = 0.5 * (asked[0][1] + asked[1][1])
        expected = u + 2.0 * (asked[0][0] - u) + 1.5 * (asked[1][0] - u)
        ours = product({name: z}, {name: t})[name].eps  # type: ignore[union-attr]
        found = max(found, float((ours - expected).abs().max() / expected.abs().max().clamp(min=1)))
    return found


def _alone(expert: PipelineExpert, name: str, z: Tensor, t: float, path: GaussianPath) -> tuple[Tensor, Tensor]:
    """eps of the expert's prompt and null for a state z of another path at time t."""
    tau = expert.path.time_of(path.log_snr(t))
    (A, S), (a, s) = path.coefficients(t), expert.path.coefficients(tau)
    state: State = {name: z * ((a * a + s * s) / (A * A + S * S)) ** 0.5}
    prompt, null = (expert(state, {name: tau}, c)[name].eps for c in (None, expert.null))  # type: ignore[union-attr]
    return prompt, null


@contextlib.contextmanager
def _recording(scheduler: Any, kept: list[Tensor]) -> Iterator[None]:
    step = scheduler.step

    def recorded(*args: Any, **kwargs: Any) -> Any:
        found = step(*args, **kwargs)
        kept.append(found[0])
        return found

    recorded.__signature__ = inspect.signature(step)  # type: ignore[attr-defined]
    scheduler.step = recorded
    try:
        yield
    finally:
        del scheduler.step


@contextlib.contextmanager
def _starting(pipe: Any, start: Tensor, needed: bool) -> Iterator[None]:
    """Pipelines that take no latents draw them by `randn_tensor`: the first draw is then `start`."""
    module: Any = inspect.getmodule(type(pipe))
    if not needed:
        yield
        return
    drawn = module.randn_tensor
    module.randn_tensor = lambda *_, **__: start
    try:
        yield
    finally:
        module.randn_tensor = drawn
