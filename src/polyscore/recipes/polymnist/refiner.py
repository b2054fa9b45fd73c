"""A refiner for one modality of a PolyMNIST Composer."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from polyscore.composer import Composer
from polyscore.data.polymnist import load_polymnist
from polyscore.errors import PolyscoreError
from polyscore.networks.conv import channels_last
from polyscore.recipes.polymnist.codecs import SHAPE, pictures
from polyscore.refiner import Refiner
from polyscore.training import Draw, TrainConfig, fit
from polyscore.training.refine import RefineObjective

__all__ = ["REFINER_TRAINING", "train_poly_refiner"]

REFINER_TRAINING = TrainConfig(steps=1000, batch_size=64, lr=2e-3, ema=0.99, log_every=100)


def train_poly_refiner(
    modality: str,
    model: str | os.PathLike[str] = "runs/polymnist/joint",
    out: str | os.PathLike[str] = "runs/polymnist/refined",
    modalities: int = 5,
    backgrounds: str | None = None,
    data: str | None = None,
    width: int = 32,
    config: TrainConfig = REFINER_TRAINING,
    progress: bool = True,
) -> Composer:
    """Train a refiner of one modality's decoded pictures, and save the Composer with it, others' refiners kept (float16).

    Raises:
        CheckpointError: no such Composer. DataError: MNIST is not there. PolyscoreError: no such modality, and as `polyscore.training.fit`.
    """
    torch.manual_seed(config.seed)
    composer = Composer.load(model)
    if modality not in composer.codecs:
        raise PolyscoreError(f"modality {modality!r}: expected one of {', '.join(composer.codecs)}")
    train, refiner = load_polymnist("train", modalities, backgrounds, data), Refiner(SHAPE, width)
    channels_last(refiner)

    def batch(draw: Draw) -> dict[str, Tensor]:
        return {"x": pictures(train, modality, draw.indices(len(train)))}

    run = Path(out) / f"run-{modality}-refiner"
    fit(refiner, batch, RefineObjective(composer.codecs[modality]), config, out=run, progress=progress, facts={"modality": modality})
    composer.refiners[modality] = refiner.eval()
    composer.meta |= {f"{modality} refiner": asdict(config)}
    composer.save(out, dtype=torch.float16)
    return composer
