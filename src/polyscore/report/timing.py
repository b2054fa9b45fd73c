"""Where the time of a sampling goes: the network, and everything else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from polyscore.composer import Composer
from polyscore.denoisers import Denoiser, Expert

__all__ = ["Timing", "network_seconds", "time_sampling"]


@dataclass(frozen=True)
class Timing:
    """Seconds of one joint sampling of n items: inside the networks, around them, and decoding after it (medians of several runs)."""

    n: int
    runs: int
    steps: int
    calls: int
    evaluations: float
    network: float
    other: float
    decoding: float
    threads: int


class _Clock:
    """Adds up the time between `start` and `stop`."""

    def __init__(self) -> None:
        self.seconds = self._began = 0.0

    def start(self, *_: Any) -> None:
        self._began = time.perf_counter()

    def stop(self, *_: Any) -> None:
        self.seconds += time.perf_counter() - self._began


@contextmanager
def network_seconds(denoiser: nn.Module) -> Iterator[_Clock]:
    """Measure the time inside the networks of a denoiser's experts; `.seconds` afterwards."""
    clock = _Clock()
    networks = [m.network for m in denoiser.modules() if isinstance(m, Expert)]
    leaves = networks or [m for m in denoiser.modules() if isinstance(m, Denoiser)][-1:]
    handles = [h for m in leaves for h in (m.register_forward_pre_hook(clock.start), m.register_forward_hook(clock.stop))]
    try:
        yield clock
    finally:
        for handle in handles:
            handle.remove()


def time_sampling(composer: Composer, n: int = 64, runs: int = 5, seed: int = 0, **options: Any) -> Timing:
    """Sample n joint items `runs` times (and once before, for nothing) and decode them once."""
    network, other = [], []
    composer.sample_latents(n, seed=seed, **options)
    for _ in range(runs):
        with network_seconds(composer.denoiser) as clock:
            began = time.perf_counter()
            latents = composer.sample_latents(n, seed=seed, **options)
            whole = time.perf_counter() - began
        network.append(clock.seconds)
        other.append(whole - clock.seconds)
    began = time.perf_counter()
    composer.decode(latents)
    decoding = time.perf_counter() - began
    info = latents.info
    middle = sorted(range(runs), key=lambda i: network[i] + other[i])[runs // 2]
    seconds = (network[middle], other[middle], decoding)
    return Timing(n, runs, info["steps"], info["calls"], info["evaluations_per_sample"], *seconds, torch.get_num_threads())
