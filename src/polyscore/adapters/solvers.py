"""Any diffusers scheduler as a solver of polyscore, on any denoiser or composition."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from polyscore.adapters.schedulers import Schedule, convention_of
from polyscore.errors import PolyscoreError
from polyscore.predictions import Prediction
from polyscore.sampling.noise import mix
from polyscore.sampling.solvers import DDIM, DPMpp, Solver
from polyscore.sampling.walk import Walk

__all__ = ["FromScheduler", "own_generators", "solver_of"]


@dataclass(frozen=True)
class FromScheduler:
    """A step of a diffusers scheduler (UniPC, PNDM, LMS, KDPM2, Euler ancestral, ...) as a polyscore solver.

    The state is put in the scheduler's own scale, the prediction in its own form; the new state comes back in ours. Use it with
    `grid=schedule.times`. Every sample draws from its own generator, seeded by (seed, number of the sample).

    Args:
        scheduler: after `set_timesteps`; it is copied, not changed. schedule: `schedule_of(scheduler)`.
    """

    scheduler: Any
    schedule: Schedule
    refines: ClassVar[bool] = False

    def update(self, walk: Walk, name: str, z: Tensor, p: Prediction, i: int) -> Tensor:
        """One step.

        Raises:
            PolyscoreError: a run on another grid than the scheduler's.
        """
        memory = walk.memory(name)
        if i == 0:
            if len(walk.times) != len(self.schedule.times):
                raise PolyscoreError(f"FromScheduler: expected grid=schedule.times of {len(self.schedule.times)}, found {len(walk.times)}")
            streams: Any = walk.streams
            memory[:] = [copy.deepcopy(self.scheduler), own_generators(streams.seed, streams.indices[: len(z)], name)]
        scheduler, generators = memory
        timestep = scheduler.timesteps[i]
        own = z * self.schedule.scale(i)
        scheduler.scale_model_input(own, timestep) if hasattr(scheduler, "scale_model_input") else None
        more = {"generator": generators} if _draws(scheduler) else {}
        new = scheduler.step(convention_of(scheduler).raw(p), timestep, own, return_dict=False, **more)[0]
        return new / self.schedule.scale(i + 1)


def solver_of(scheduler: Any, schedule: Schedule) -> Solver:
    """polyscore's own solver where it is the scheduler's rule, else the scheduler itself (`FromScheduler`)."""
    name = type(scheduler).__name__
    config = scheduler.config
    if name in ("EulerDiscreteScheduler", "EDMEulerScheduler", "DDIMScheduler", "DDIMParallelScheduler"):
        return DDIM(0.0)
    if name == "FlowMatchEulerDiscreteScheduler" and not getattr(config, "stochastic_sampling", False):
        return DDIM(0.0)
    if name in ("DPMSolverMultistepScheduler", "EDMDPMSolverMultistepScheduler") and _is_plain_dpmpp(config):
        return DPMpp(config.solver_order)
    return FromScheduler(scheduler, schedule)


def _is_plain_dpmpp(config: Any) -> bool:
    plain = config.algorithm_type == "dpmsolver++" and config.solver_type == "midpoint" and config.solver_order <= 2
    return plain and config.final_sigmas_type == "zero" and config.lower_order_final


def _draws(scheduler: Any) -> bool:
    return "generator" in scheduler.step.__code__.co_varnames[: scheduler.step.__code__.co_argcount]


def own_generators(seed: int, indices: Iterable[int], name: str) -> list[torch.Generator]:
    """One generator a sample, for what a scheduler draws."""
    return [torch.Generator().manual_seed(mix(seed, index, name, "scheduler")) for index in indices]
