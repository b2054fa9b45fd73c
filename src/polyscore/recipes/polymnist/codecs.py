"""The autoencoders and the judge of the PolyMNIST recipe. Each autoencoder sees one modality, and no label."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from polyscore.checkpoint import save_module
from polyscore.codecs import VAE
from polyscore.data.polymnist import PolyMNIST, load_polymnist
from polyscore.metrics.judges import Judge, predict
from polyscore.networks.conv import ConvEncoder, channels_last
from polyscore.networks.dense import DenseDecoder, DenseEncoder
from polyscore.training import Draw, TrainConfig, fit
from polyscore.training.classifier import ClassifierObjective
from polyscore.training.codec import VAEObjective

__all__ = ["CODEC_TRAINING", "JUDGE_TRAINING", "SHAPE", "pictures", "poly_codec", "train_poly_codec", "train_poly_judge"]

SHAPE = (3, 28, 28)
CODEC_TRAINING = TrainConfig(steps=1800, batch_size=128, lr=2e-3, ema=0.995, log_every=200)
JUDGE_TRAINING = TrainConfig(steps=2000, batch_size=96, lr=3e-3, weight_decay=0.02, ema=0.998, log_every=250)
Batches = Callable[[Draw], dict[str, Tensor]]


def poly_codec(latent: int = 20, widths: Sequence[int] = (512, 512)) -> VAE:
    """Fully connected VAE of (3, 28, 28) pictures; small enough to train ten on a laptop."""
    return VAE(SHAPE, latent, DenseEncoder(SHAPE, 2 * latent, widths), DenseDecoder(SHAPE, latent, widths), "clamp")


def train_poly_codec(
    modality: str,
    out: str | os.PathLike[str] = "runs/polymnist/codecs",
    modalities: int = 5,
    backgrounds: str | None = None,
    data: str | None = None,
    latent: int = 20,
    beta: float = 1.0,
    scale: float = 0.2,
    widths: Sequence[int] = (512, 512),
    config: TrainConfig = CODEC_TRAINING,
    progress: bool = True,
) -> VAE:
    """Train the autoencoder of one modality alone (Gaussian likelihood) and save it as `out`/MODALITY.json and .safetensors (float16).

    Raises:
        DataError: MNIST or the modality is not there. PolyscoreError: as `polyscore.training.fit`.
    """
    torch.manual_seed(config.seed)
    train = load_polymnist("train", modalities, backgrounds, data)
    codec = poly_codec(latent, widths)
    settings = {"latent": latent, "beta": beta, "scale": scale, "widths": list(widths), "modality": modality}
    objective = VAEObjective("x", beta, "gaussian", scale=scale)
    fit(codec, _one(train, modality), objective, config, out=Path(out) / f"run-{modality}", progress=progress, facts=settings)
    codec.eval()
    with torch.no_grad():
        rows = torch.arange(min(len(train), 20_000)).split(500)
        means, deviations = zip(*(codec.posterior(pictures(train, modality, part)) for part in rows), strict=True)
        codec.fit_statistics(torch.cat(means), torch.cat(deviations))
    meta = {"dataset": f"PolyMNIST, train split, {_scenery(backgrounds)}", **settings, "training": asdict(config)}
    save_module(codec, Path(out) / modality, dtype=torch.float16, meta=meta)
    return codec


def train_poly_judge(
    out: str | os.PathLike[str] = "runs/polymnist",
    modalities: int = 5,
    backgrounds: str | None = None,
    data: str | None = None,
    config: TrainConfig = JUDGE_TRAINING,
    progress: bool = True,
) -> Judge:
    """Train one judge on all modalities pooled, measure it on the test split of each, save it as `out`/judge (float16).

    Raises:
        DataError: MNIST is not there. PolyscoreError: as `polyscore.training.fit`.
    """
    torch.manual_seed(config.seed)
    train, test = (load_polymnist(split, modalities, backgrounds, data) for split in ("train", "test"))
    judge = Judge(ConvEncoder(SHAPE, 64, (24, 48), dropout=0.1, pool=True), 64, dropout=0.2)
    channels_last(judge)
    fit(judge, _pooled(train), ClassifierObjective("x"), config, out=Path(out) / "run-judge", progress=progress)
    right = {n: float((predict(judge, pictures(test, n))[0] == test.labels).double().mean()) for n in test.names}
    meta = {
        "dataset": f"PolyMNIST, train split, {_scenery(backgrounds)}",
        "test_accuracy": right,
        "test_items": len(test),
        "training": asdict(config),
    }
    save_module(judge, Path(out) / "judge", dtype=torch.float16, meta=meta)
    return judge


def pictures(data: PolyMNIST, modality: str, rows: Tensor | None = None) -> Tensor:
    """Pictures of a modality as floats in [0, 1], (B, 3, 28, 28); all rows by default."""
    found = data.modality(modality) if rows is None else data.rows(modality, rows)
    return found.float() / 255


def _one(data: PolyMNIST, modality: str) -> Batches:
    return lambda draw: {"x": pictures(data, modality, draw.indices(len(data)))}


def _pooled(data: PolyMNIST) -> Batches:
    """Rows of the global batch take the modalities in turn."""

    def batch(draw: Draw) -> dict[str, Tensor]:
        rows = draw.indices(len(data))
        which = torch.arange(draw.start, draw.stop) % len(data.names)
        x = torch.empty(len(rows), *SHAPE)
        for place, name in enumerate(data.names):
            x[which == place] = pictures(data, name, rows[which == place])
        return {"x": x, "label": data.labels[rows]}

    return batch


def _scenery(backgrounds: str | None) -> str:
    return "photographs of " + Path(backgrounds).name if backgrounds else "procedural textures"
