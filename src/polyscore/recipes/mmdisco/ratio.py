"""A discriminator over latent vectors, from fakes to a saved ratio: what talking digits and three modalities share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from polyscore.checkpoint import load_module
from polyscore.denoisers import Denoiser
from polyscore.networks.ratio import RatioMLP
from polyscore.ratios.discriminator import Discriminator
from polyscore.training import TrainConfig
from polyscore.training.discriminator import DiscriminatorObjective
from polyscore.training.fakes import make_fakes
from polyscore.training.join import train_discriminator

__all__ = ["LOSSES", "latent_ratio"]

LOSSES = {"disc": (1.0, 0.0), "denoise": (0.0, 1.0), "all": (1.0, 1.0)}
"""The weights of L_disc and L_den in the three trained rows of Table 1; lambda is 1."""


def latent_ratio(
    out: str | Path,
    case: str,
    base: Denoiser,
    real: Mapping[str, Tensor],
    fakes: str | Path,
    *,
    loss: str = "all",
    count: int = 5000,
    steps: int = 20,
    width: int = 160,
    depth: int = 2,
    seed: int = 0,
    config: TrainConfig,
    progress: bool = False,
) -> Discriminator:
    """Train the ratio of a case on tuples `real` {modality: (N, latent)} and save it as `out`/CASE-SEED/ratio; one that is there is loaded.

    Args:
        fakes: their folder; `count` are made by the base in `steps` steps. loss: "disc", "denoise" or "all".
        width, depth: of the discriminator.
    """
    folder = Path(out) / f"{case}-{seed}"
    if (folder / "ratio.json").exists():
        return load_module(folder / "ratio", Discriminator)
    made = make_fakes(base, count, fakes, seed=8000 + seed, steps=steps)
    torch.manual_seed(seed)
    network = RatioMLP({name: tuple(value.shape[1:]) for name, value in real.items()}, width, depth, width, 32)
    objective = DiscriminatorObjective(base, *LOSSES[loss], dropout=0.0)
    return train_discriminator(
        base,
        real,
        made,
        folder,
        network=network,
        objective=objective,
        config=replace(config, seed=seed),
        held_out=0.02,
        progress=progress,
    )
