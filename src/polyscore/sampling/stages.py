"""Sampling modality by modality: p(z_1, ..., z_M) = p(z_a) p(z_b | z_a) ..., each factor with a run of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from polyscore.denoisers import Denoiser
from polyscore.errors import PolyscoreError
from polyscore.sampling.loop import Samples, Step
from polyscore.sampling.noise import mix
from polyscore.sampling.processes import sample_across

__all__ = ["sample_leaders"]

Callback = Callable[[Step], None]


def sample_leaders(
    denoiser: Denoiser,
    n: int,
    leaders: Mapping[str, int],
    *,
    given: Mapping[str, Tensor] | None = None,
    steps: int = 20,
    again: int = 0,
    callback: Callback | None = None,
    **options: Any,
) -> Samples:
    """The modalities of `leaders`, one after the other in as many steps as stated, the others absent; then all the rest in `steps` steps.

    Exact for a denoiser with a time per modality, like `sample`. It pays where a modality says more about the others when it is clean than
    when all are noisy together: the rest then has a clean partner all the way, which a contrastive context (`Contextual`) can read.
    With `again` the first leader is drawn once more, given all the others, in so many steps: a Gibbs step, which leaves the joint law as it
    is and mends what a weak marginal got wrong.
    Options and result as of `polyscore.sampling.sample`; `.info` sums the stages.

    Raises:
        PolyscoreError: as `sample`, a leader that the denoiser doesn't have, or a grid of explicit times (there is one a stage).
    """
    unknown = sorted(set(leaders) - set(denoiser.paths))
    if unknown:
        raise PolyscoreError(f"leader {unknown[0]!r}: the model has {', '.join(denoiser.paths)}")
    if not isinstance(options.get("grid", "uniform"), str):
        raise PolyscoreError("leaders: expected a named time grid, found explicit times")
    known, infos, done = dict(given or {}), [], 0
    stages = [(name, count) for name, count in leaders.items() if name not in known]
    total = sum(count for _, count in stages) + steps + (again if stages else 0)
    for name, count in stages:
        absent = [other for other in denoiser.paths if other != name and other not in known]
        if not absent:
            break
        seen = _shifted(callback, done, total)
        found = sample_across(denoiser, n, given=known, absent=absent, steps=count, callback=seen, **options)
        known[name] = found[name]
        infos.append(found.info)
        done += count
    rest = sample_across(denoiser, n, given=known, steps=steps, callback=_shifted(callback, done, total), **options)
    infos.append(rest.info)
    if again and stages:
        first = stages[0][0]
        others = {name: z for name, z in rest.items() if name != first}
        seen = _shifted(callback, done + steps, total)
        # Other noise than the leader's first: the others already depend on that.
        fresh = options | {"seed": mix(options.get("seed", 0), "again")}
        rest = sample_across(denoiser, n, given=others, steps=again, callback=seen, **fresh)
        infos.append(rest.info | {"seed": options.get("seed", 0)})
    summed = {key: sum(info[key] for info in infos) for key in ("steps", "calls", "evaluations_per_sample", "seconds")}
    return Samples(rest, infos[-1] | summed | {"given": sorted(given or {}), "leaders": dict(stages)})


def _shifted(callback: Callback | None, done: int, total: int) -> Callback | None:
    """The callback of one stage: it counts the steps of all."""
    if callback is None:
        return None
    return lambda step: callback(dataclasses.replace(step, index=step.index + done, steps=total))
