"""Class to image on tokens: a denoiser, and its continuations under every contrastive setting."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyscore.checkpoint import load_module, load_state, load_tensors, save_module
from polyscore.codecs.vq import VQ
from polyscore.data.fashion import Pictures, load_pictures
from polyscore.networks.transformer import TokenDenoiser
from polyscore.training import TrainConfig, fit
from polyscore.training.contrast import TokenObjective
from polyscore.training.negatives import OtherExamples

__all__ = ["CLASS_TRAINING", "CONTINUE", "KINDS", "NEGATIVES", "SETTINGS", "VANILLA", "settings", "tokens_of", "train_class"]

CLASS_TRAINING = TrainConfig(steps=1000, batch_size=64, lr=2e-3, ema=0.99, log_every=100, checkpoint_every=500)
CONTINUE = TrainConfig(steps=60, batch_size=64, lr=5e-4, ema=0.97, warmup=10, log_every=20, checkpoint_every=1000)
VANILLA = TokenObjective("tokens")
KINDS = ("step-intra", "step-inter", "sample-intra", "sample-inter")
LAMBDAS = (5e-5, 5e-3, 5e-2, 5e-1)
TEMPERATURES = (0.1, 0.3, 3.0)
NEGATIVES = 4


def settings() -> dict[str, TokenObjective]:
    """The sweep by name: four kinds at every lambda, the paper's own z_t for step-inter, InfoNCE at every lambda and every temperature."""
    found = {"vanilla": VANILLA}
    for kind in KINDS:
        loss, source = kind.split("-")
        for weight in LAMBDAS:
            change: dict[str, Any] = {source: loss, "weight": weight, "form": "subtracted"}
            found[f"{kind}, lambda {weight:g}"] = replace(VANILLA, **change)
    found["step-inter with own z_t, lambda 0.05"] = replace(VANILLA, inter="step", form="subtracted", weight=5e-2, parallel=True)
    for weight, tau in [*((weight, 1.0) for weight in LAMBDAS), *((5e-2, tau) for tau in TEMPERATURES)]:
        found[f"InfoNCE sample-inter, lambda {weight:g}, tau {tau:g}"] = replace(
            VANILLA, inter="sample", form="infonce", weight=weight, temperature=tau
        )
    return found


SETTINGS = settings()


def tokens_of(codec: VQ, data: str | None = None, dataset: Pictures = "mnist") -> tuple[Tensor, Tensor]:
    """Tokens and labels of the train split."""
    train = load_pictures(dataset, "train", data)
    with torch.no_grad():
        return torch.cat([codec.encode(part) for part in train.x.split(500)]), train.labels


def train_class(
    codec: str = "runs/cdcd-codec/tokens",
    out: str = "runs/cdcd-class",
    data: str | None = None,
    objective: TokenObjective = VANILLA,
    base: str | None = None,
    config: TrainConfig = CLASS_TRAINING,
    tokens: tuple[Tensor, Tensor] | None = None,
    progress: bool = True,
    dataset: Pictures = "mnist",
) -> TokenDenoiser:
    """Train a class-conditional token denoiser of pictures and save it as `out`/denoiser.

    Args:
        codec: as `train_token_codec` saves it. objective: with negatives or without. base: a denoiser to continue from.
        tokens: tokens and labels, where they are there already. dataset: of the pictures.

    Raises:
        DataError: MNIST is not there. CheckpointError: the codec or base is not there. PolyscoreError: as `polyscore.training.fit`.
    """
    torch.manual_seed(config.seed)
    vq = load_module(codec, VQ)
    tokens = tokens or tokens_of(vq, data, dataset)
    denoiser = TokenDenoiser("tokens", changes={"depth": 2, "vocabulary": vq.vocabulary, "grid": list(vq.grid)})
    if base is not None:
        load_state(denoiser, load_tensors(Path(base).with_suffix(".safetensors")), Path(base))
    needs = NEGATIVES if objective.inter != "none" else 0
    facts = {"objective": asdict(objective), "base": base}
    source = OtherExamples("tokens", *tokens, needs)
    fit(denoiser, source, objective, config, out=Path(out) / "run", progress=progress, facts=facts)
    save_module(denoiser.eval(), Path(out) / "denoiser", meta={**facts, "dataset": dataset, "training": asdict(config)})
    return denoiser
