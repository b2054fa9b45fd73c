"""Class to image on tokens: a denoiser, and its continuations under every contrastive setting."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyscore.checkpoint import load_module, load_state, load_tensors
from polyscore.codecs.vq import VQ
from polyscore.composer import Composer
from polyscore.data.fashion import Pictures, load_pictures
from polyscore.metrics.judges import Judge, predict
from polyscore.networks.transformer import Size, TokenDenoiser
from polyscore.tokens import make_token_path
from polyscore.training import TrainConfig, fit
from polyscore.training.contrast import TokenObjective
from polyscore.training.negatives import By, OtherExamples

__all__ = [
    "CLASS_TRAINING",
    "CONTINUE",
    "CONTRAST",
    "KINDS",
    "NEGATIVES",
    "SETTINGS",
    "VANILLA",
    "embeddings_of",
    "settings",
    "tokens_of",
    "train_class",
]

CLASS_TRAINING = TrainConfig(steps=1000, batch_size=64, lr=2e-3, ema=0.99, log_every=100, checkpoint_every=500)
CONTINUE = TrainConfig(steps=60, batch_size=64, lr=5e-4, ema=0.97, warmup=10, log_every=20, checkpoint_every=1000)
VANILLA = TokenObjective("tokens")
CONTRAST = replace(VANILLA, inter="sample")
"""Bounded, lambda .05, temperature 1: what measured best (docs/tokens.md)."""
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


def embeddings_of(codec: VQ, tokens: Tensor, judge: str | None = None, data: str | None = None, dataset: Pictures = "mnist") -> Tensor:
    """What negatives are compared by, (N, D): a judge's features of the train pictures, or the mean of a picture's code vectors.

    Raises:
        CheckpointError: the judge is not there.
    """
    if judge is None:
        with torch.no_grad():
            return torch.cat([codec.codebook.vectors(part).mean(1) for part in tokens.split(2000)])
    return predict(load_module(judge, Judge), load_pictures(dataset, "train", data).x)[1]


def train_class(
    codec: str = "runs/cdcd-codec/tokens",
    out: str = "runs/class",
    data: str | None = None,
    objective: TokenObjective = CONTRAST,
    base: str | None = None,
    config: TrainConfig = CLASS_TRAINING,
    tokens: tuple[Tensor, Tensor] | None = None,
    progress: bool = True,
    dataset: Pictures = "mnist",
    *,
    path: str = "absorbing",
    size: Size = "small",
    depth: int | None = None,
    negatives: By = "label",
    judge: str | None = None,
) -> TokenDenoiser:
    """Train a class-conditional token denoiser of pictures and save it with its codec as a Composer in `out`.

    Args:
        codec: as `train_token_codec` saves it.
        objective: with negatives or without.
        base: a denoiser to continue from.
        tokens: tokens and labels, where they are there already.
        dataset: of the pictures.
        path: of the tokens, see `polyscore.tokens.make_token_path`.
        size: a preset of `polyscore.networks.transformer`, with the vocabulary and grid of the codec. depth: in place of the preset's.
        negatives: how inter negatives are found, see `OtherExamples`.
        judge: a classifier whose features are the embeddings of negatives; by default the means of the codec's vectors.

    Raises:
        DataError: MNIST is not there. CheckpointError: the codec, base or judge is not there. PolyscoreError: a wrong path, and as
            `polyscore.training.fit`.
    """
    torch.manual_seed(config.seed)
    vq = load_module(codec, VQ)
    tokens = tokens or tokens_of(vq, data, dataset)
    changes: dict[str, Any] = {"vocabulary": vq.vocabulary, "grid": list(vq.grid), "classes": 10, "conditions": None, "source": 0}
    if depth is not None:
        changes["depth"] = depth
    denoiser = TokenDenoiser("tokens", size, make_token_path(path, vq.vocabulary), changes)
    if base is not None:
        load_state(denoiser, load_tensors(Path(base).with_suffix(".safetensors")), Path(base))
    needs = NEGATIVES if objective.inter != "none" else 0
    embeddings = embeddings_of(vq, tokens[0], judge, data, dataset) if needs and negatives == "embedding" else None
    facts = {"objective": asdict(objective), "base": base, "path": path, "size": size, "depth": depth, "negatives": negatives}
    source = OtherExamples("tokens", *tokens, needs, embeddings, by=negatives)
    fit(denoiser, source, objective, config, out=Path(out) / "run", progress=progress, facts=facts)
    trained: Any = denoiser.eval()
    trained._meta = {**facts, "dataset": dataset, "training": asdict(config)}
    meta = {"recipe": "cdcd-class", "dataset": f"{dataset}, train split"}
    Composer({"tokens": vq}, trained, {"steps": 20}, {"tokens": {"kind": "image"}}, meta).save(out)
    return denoiser
