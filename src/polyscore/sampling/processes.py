"""Sampling by several processes: each takes its share of the samples, all get all of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from polyscore.denoisers import Denoiser
from polyscore.sampling.loop import Samples, sample

__all__ = ["sample_across"]


def sample_across(
    denoiser: Denoiser, n: int, *, given: Mapping[str, Tensor] | None = None, condition: Any = None, first: int = 0, **options: Any
) -> Samples:
    """`sample`, shared among the processes of `accelerate launch` or `torchrun`; in one process it is `sample` itself.

    Sample i depends on (seed, i) only, so the number of processes changes nothing but float rounding. Every process returns all samples.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return sample(denoiser, n, given=given, condition=condition, first=first, **options)
    from polyscore.processes import this_process

    state = this_process()
    denoiser = denoiser.to(state.device)
    bounds = [n * rank // state.num_processes for rank in range(state.num_processes + 1)]
    start, stop = bounds[state.process_index], bounds[state.process_index + 1]
    own: Samples | None = None
    if stop > start:
        cut = {name: value[start:stop] if len(value) > 1 else value for name, value in (given or {}).items()}
        part = condition[start:stop] if isinstance(condition, Tensor) and condition.ndim and len(condition) > 1 else condition
        own = sample(denoiser, stop - start, given=cut, condition=part, first=first + start, **options)
    shares: list[Any] = [None] * state.num_processes
    torch.distributed.all_gather_object(shares, None if own is None else ({k: v.cpu() for k, v in own.items()}, own.info))
    found = [share for share in shares if share is not None]
    joined = {name: torch.cat([values[name] for values, _ in found]) for name in found[0][0]}
    return Samples(joined, found[0][1] | {"n": n, "processes": state.num_processes, "seconds": max(info["seconds"] for _, info in found)})
