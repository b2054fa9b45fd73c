"""What sampling costs as modalities are added. Weights don't matter for that, so nothing is trained."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

import torch

from polyscore.composer import Composer
from polyscore.networks.mlp import JointDenoiser
from polyscore.recipes.latents import Mixture
from polyscore.recipes.polymnist.codecs import poly_codec
from polyscore.recipes.polymnist.joint import Network
from polyscore.recipes.polymnist.mixture import DEFAULTS
from polyscore.recipes.tables import Measured, write_table

__all__ = ["time_table", "unfitted"]


def unfitted(modalities: int, mixture: Mixture | None = None, latent: int = 20, network: bool = False) -> Composer:
    """The recipe's Composer of so many modalities, as it is before it is fitted: the closed form, or the joint network without guidance."""
    codecs = {f"m{i}": poly_codec(latent) for i in range(modalities)}
    shapes = {name: codec.latent_shape for name, codec in codecs.items()}
    sizes = {name: value for name, value in asdict(Network()).items() if not name.startswith("marginal")}
    denoiser = JointDenoiser(shapes, **sizes).eval() if network else (mixture or Mixture()).unfitted(shapes)
    return Composer({n: c.eval() for n, c in codecs.items()}, denoiser, DEFAULTS)


def time_table(
    out: str | os.PathLike[str],
    numbers: Sequence[int] = (2, 4, 6, 8, 10),
    n: int = 256,
    repeats: int = 5,
    mixture: Mixture | None = None,
    network: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Measured]:
    """Seconds for n joint samples, decoded, with 2, 4, ... modalities; the fastest of three runs, `repeats` times over.

    The joint law is the closed form, or with `network` the joint network, untrained and without guidance.
    """
    began = time.perf_counter()
    composers = {m: unfitted(m, mixture, network=network) for m in numbers}
    seconds: dict[int, list[float]] = {m: [] for m in numbers}
    for again in range(repeats):
        for m, composer in composers.items():
            seconds[m].append(min(_once(composer, n, again) for _ in range(3)))
        if progress is not None:
            progress(again + 1, repeats)
    first, last = min(numbers), max(numbers)
    growth = [b / a for a, b in zip(seconds[first], seconds[last], strict=True)]
    rows = [Measured(f"time with {last} modalities over time with {first}", growth, ("<=", last / first), "at most linear")]
    rows += [Measured(f"seconds for {n} samples of {m} modalities", seconds[m]) for m in numbers]
    info = composers[last].sample(2).info
    rows.append(Measured(f"evaluations of a joint sample of {last} modalities", [float(info["evaluations_per_sample"])], ("<=", 20.0)))
    protocol = {
        "command": "polyscore evaluate sbm-time",
        "n": n,
        "seeds": list(range(repeats)),
        "threads": torch.get_num_threads(),
        "joint law": {"network": asdict(Network())} if network else {"mixture": asdict(mixture or Mixture())},
        "options": DEFAULTS,
        "seconds": round(time.perf_counter() - began, 1),
    }
    write_table(out, rows, protocol)
    return rows


def _once(composer: Composer, n: int, seed: int) -> float:
    began = time.perf_counter()
    composer.sample(n, seed=seed)
    return time.perf_counter() - began
