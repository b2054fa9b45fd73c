"""Fine-tuning of PolyMNIST's decoders under missing modalities."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from polyscore.composer import Composer
from polyscore.data.polymnist import load_polymnist
from polyscore.recipes.polymnist.codecs import pictures
from polyscore.training import Draw, TrainConfig, fit
from polyscore.training.recovered import Decoders, RecoveredObjective

__all__ = ["DECODER_TRAINING", "train_poly_decoders"]

DECODER_TRAINING = TrainConfig(steps=300, batch_size=64, lr=1e-4, warmup=10, schedule="constant", ema=0.0, log_every=50)


def train_poly_decoders(
    model: str | os.PathLike[str] = "runs/polymnist/joint",
    out: str | os.PathLike[str] = "runs/polymnist/tuned",
    modalities: int = 5,
    backgrounds: str | None = None,
    data: str | None = None,
    objective: RecoveredObjective | None = None,
    config: TrainConfig = DECODER_TRAINING,
    progress: bool = True,
) -> Composer:
    """Fine-tune the decoders of a Composer on latents recovered from other modalities, and save it as another one (float16).

    Raises:
        CheckpointError: no such Composer. DataError: MNIST is not there. PolyscoreError: as `polyscore.training.fit`.
    """
    composer, objective = Composer.load(model), objective or RecoveredObjective()
    train = load_polymnist("train", modalities, backgrounds, data)

    def batch(draw: Draw) -> dict[str, Tensor]:
        rows = draw.indices(len(train))
        return {name: pictures(train, name, rows) for name in train.names}

    fit(Decoders(composer), batch, objective, config, out=Path(out) / "run", progress=progress, facts={"objective": asdict(objective)})
    composer.meta |= {"decoders": {"objective": asdict(objective), "training": asdict(config)}}
    composer.save(out, dtype=torch.float16)
    return composer
