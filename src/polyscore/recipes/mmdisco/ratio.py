"""A discriminator over latent vectors, from fakes to a saved ratio: what talking digits and three modalities share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyscore.checkpoint import load_module
from polyscore.denoisers import Denoiser, Independent
from polyscore.networks.ratio import RatioTwins
from polyscore.ratios.discriminator import Discriminator
from polyscore.recipes.stored import is_stored, trained
from polyscore.training import TrainConfig
from polyscore.training.discriminator import DiscriminatorObjective
from polyscore.training.fakes import make_fakes, weights_digest
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
    width: int = 128,
    depth: int = 2,
    grid: int = 16,
    seed: int = 0,
    config: TrainConfig,
    progress: bool = False,
) -> Discriminator:
    """Train the ratio of a case on tuples `real` {modality: (N, latent)}, as `out`/CASE-LOSS-SEED/ratio; one made so is loaded.

    A step of L_den costs about four of L_disc. So "denoise" takes a quarter of the steps, and "all" starts from the weights of "disc"
    and takes an eighth of its steps, at half of its rate.

    Args:
        fakes: their folder; `count` are made by the base in `steps` steps. loss: "disc", "denoise" or "all".
        width, depth: of the discriminator. grid: times a batch; the fakes of experts that stand apart are paired in all ways within one.

    Raises:
        PolyscoreError: one that is there was made otherwise.
    """
    folder = Path(out) / f"{case}-{loss}-{seed}"
    sizes: dict[str, Any] = {"count": count, "steps": steps, "width": width, "depth": depth, "grid": grid, "seed": seed}
    pairings = config.batch_size // grid - 1 if isinstance(base, Independent) else 0
    objective = DiscriminatorObjective(base, *LOSSES[loss], dropout=0.0, grid=grid, pairings=pairings)
    part, rate = {"disc": (1, 1.0), "denoise": (4, 1.0), "all": (8, 0.5)}[loss]
    own = replace(config, steps=max(1, config.steps // part), lr=rate * config.lr, seed=seed)
    torch.manual_seed(seed)
    network = RatioTwins({name: tuple(value.shape[1:]) for name, value in real.items()}, width, depth, width)
    asked: dict[str, Any] = {"fakes_used": count, "reals_used": len(next(iter(real.values())))}
    asked |= {"fakes": {"seed": 8000 + seed, "sampling": {"steps": steps}}, "training": trained(own), "objective": objective.settings()}
    if is_stored(folder / "ratio", asked, Discriminator(network, {name: base.paths[name] for name in real})):
        return load_module(folder / "ratio", Discriminator)
    facts: dict[str, Any] = {}
    if loss == "all":
        start = latent_ratio(out, case, base, real, fakes, loss="disc", **sizes, config=config, progress=progress)
        network.load_state_dict(start.network.state_dict())
        facts["start"] = weights_digest(start)
    made = make_fakes(base, count, fakes, seed=8000 + seed, steps=steps)
    return train_discriminator(
        base,
        real,
        made,
        folder,
        network=network,
        objective=objective,
        config=own,
        held_out=0.02,
        progress=progress,
        facts=facts,
    )
