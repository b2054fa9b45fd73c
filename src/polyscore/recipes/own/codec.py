"""The autoencoder of one modality of a user's data: trained alone on the samples that have it, or brought along."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyscore.adapters.autoencoders import DiffusersCodec
from polyscore.checkpoint import save_module
from polyscore.codecs import RAE, VAE, Codec, Standardised
from polyscore.data.loader import FolderData
from polyscore.errors import DataError, PolyscoreError
from polyscore.recipes.own.build import CodecKind, Parts, UserLikelihood, build_codec, likelihood_of
from polyscore.training import Draw, TrainConfig, fit
from polyscore.training.codec import RAEObjective, VAEObjective

__all__ = ["CODEC_TRAINING", "fit_statistics", "rows_with", "train_own_codec", "use_pretrained"]

CODEC_TRAINING = TrainConfig(steps=3000, batch_size=128, lr=2e-3, ema=0.998, log_every=250)
FIRST = 500
"""Samples that fixed fronts (standardised numbers, spectrograms) take their statistics of."""


def train_own_codec(
    data: str | os.PathLike[str],
    modality: str,
    out: str | os.PathLike[str] = "runs/own/codecs",
    kind: CodecKind = "vae",
    likelihood: UserLikelihood | None = None,
    latent: int | None = None,
    beta: float | None = None,
    scale: float | None = None,
    noise: float = 0.01,
    config: TrainConfig = CODEC_TRAINING,
    progress: bool = True,
) -> Codec:
    """Train the autoencoder of one modality on the samples that have it, and save it as `out`/MODALITY.json and .safetensors.

    Nothing else in `out` is touched. Networks are chosen by `polyscore.recipes.own.build.build_codec`; no label is read.

    Args:
        data: folder that `prepare_folder` wrote. likelihood: of the data; default Laplace for sounds, Gaussian for all else.
        beta: weight of the KL term (default 1), or of the norm of a RAE's latent (1e-5). noise: on a RAE's latent.
        scale: of Gaussian and Laplace; default 0.2, for sounds 1.

    Raises:
        DataError: no such data or modality, fewer than two samples, data that a likelihood doesn't fit. PolyscoreError: as `fit`.
    """
    limits: tuple[tuple[str, float, float | None], ...]
    limits = (("latent", 1, latent), ("beta", 0, beta), ("scale", 1e-6, scale), ("noise", 0, noise))
    for name, least, value in limits:
        if value is not None and not value >= least:
            raise PolyscoreError(f"{name}: expected at least {least:g}, found {value:g}")
    torch.manual_seed(config.seed)
    source = FolderData(data)
    rows = rows_with(source, modality)
    spec = source.modalities[modality]
    law = likelihood_of(spec, likelihood)
    for x in _parts(source, modality, rows):
        _check(modality, law, x)
    parts = build_codec(spec, source.values(modality, rows[:FIRST].tolist()), kind, law, latent)
    spread = scale or (1.0 if spec["kind"] == "audio" else 0.2)
    weight = beta if beta is not None else 1.0 if kind == "vae" else 1e-5
    settings: dict[str, Any] = {"modality": modality, "kind": kind, "likelihood": law, "latent": parts.core.latent_shape[0]}
    settings |= {"beta": weight, "scale": spread, "noise": noise if kind == "rae" else None, "data": source.fingerprint}
    objective: Any = VAEObjective("x", weight, law, scale=spread) if kind == "vae" else RAEObjective("x", weight, noise, law, spread)
    run = Path(out) / f"run-{modality}"
    fit(parts.core, _Batches(source, modality, rows, parts), objective, config, out=run, progress=progress, facts=settings)
    _standardise(parts, source, modality, rows)
    meta = {"recipe": "own", "samples": len(rows), **settings, "spec": spec, "training": asdict(config)}
    save_module(parts.codec, Path(out) / modality, meta=meta)
    return parts.codec.eval()


def use_pretrained(
    data: str | os.PathLike[str],
    modality: str,
    pretrained: str,
    out: str | os.PathLike[str] = "runs/own/codecs",
    copy: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Standardised:
    """Take a diffusers autoencoder (folder or hub id) for a modality of pictures, fit its latent statistics, and save it as if trained.

    Args:
        copy: store its weights, too; otherwise its name and a fingerprint of its weights.

    Raises:
        DataError: no such data or modality, or not pictures. CheckpointError: no such autoencoder.
        PolyscoreError: one that cannot take these pictures.
    """
    source = FolderData(data)
    rows = rows_with(source, modality)
    spec = source.modalities[modality]
    if spec["kind"] != "image":
        raise DataError(f"{modality}: expected pictures for a pretrained autoencoder, found {spec['kind']}")
    codec = fit_statistics(Standardised(DiffusersCodec.load(pretrained, spec["shape"], copy)), source, modality, progress)
    meta = {"recipe": "own", "samples": len(rows), "modality": modality, "pretrained": pretrained, "data": source.fingerprint, "spec": spec}
    save_module(codec, Path(out) / modality, meta=meta)
    return codec


@torch.no_grad()
def fit_statistics(
    codec: Standardised, data: FolderData, modality: str, progress: Callable[[int, int], None] | None = None
) -> Standardised:
    """Standardise any codec's latents on the samples that have the modality."""
    rows = rows_with(data, modality)
    if tuple(codec.data_shape) != tuple(data.modalities[modality]["shape"]):
        raise DataError(f"{modality}: expected data of shape {tuple(codec.data_shape)}, found {tuple(data.modalities[modality]['shape'])}")
    found: list[tuple[Tensor, Tensor]] = []
    for x in _parts(data, modality, rows, 64):
        found.append(codec.eval().codec.posterior(x))
        if progress is not None:
            progress(min(64 * len(found), len(rows)), len(rows))
    means, deviations = zip(*found, strict=True)
    return codec.fit_statistics(torch.cat(means), torch.cat(deviations))


def rows_with(data: FolderData, modality: str) -> Tensor:
    """Numbers of the samples that have a modality.

    Raises:
        DataError: no such modality, or fewer than two samples.
    """
    rows = data.mask(modality).nonzero()[:, 0]
    if len(rows) < 2:
        raise DataError(f"{data.folder}: expected at least 2 samples with {modality}, found {len(rows)}")
    return rows


class _Batches:
    """Batches {"x": (B, ...)} of one modality, as its autoencoder takes them, from the samples that have it."""

    def __init__(self, data: FolderData, modality: str, rows: Tensor, parts: Parts) -> None:
        self.data, self.modality, self.rows, self.parts = data, modality, rows, parts

    def __len__(self) -> int:
        return len(self.rows)

    @torch.no_grad()
    def __call__(self, draw: Draw) -> dict[str, Tensor]:
        chosen = self.rows[draw.indices(len(self))].tolist()
        return {"x": self.parts.front(self.data.values(self.modality, chosen))}


@torch.no_grad()
def _standardise(parts: Parts, data: FolderData, modality: str, rows: Tensor) -> None:
    core: VAE | RAE = parts.core.cpu().eval()
    means, deviations = zip(*(core.posterior(parts.front(x)) for x in _parts(data, modality, rows)), strict=True)
    core.fit_statistics(torch.cat(means), torch.cat(deviations))


def _parts(data: FolderData, modality: str, rows: Tensor, size: int = FIRST) -> Iterator[Tensor]:
    for part in rows.split(size):
        yield data.values(modality, part.tolist())


def _check(modality: str, likelihood: UserLikelihood, x: Tensor) -> None:
    if likelihood in ("bernoulli", "categorical") and (x.min() < 0 or x.max() > 1):
        found = f"{float(x.min()):g} to {float(x.max()):g}"
        raise DataError(f"{modality}: expected numbers from 0 to 1 for the {likelihood} likelihood, found {found}")
    if likelihood == "categorical" and not torch.allclose(total := x.sum(1), torch.ones(()), atol=1e-3):
        worst = float(total.flatten()[(total - 1).abs().flatten().argmax()])
        raise DataError(f"{modality}: expected shares that sum to 1 over the first dimension (one-hot), found a sum of {worst:g}")
