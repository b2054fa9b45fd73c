"""The judges of the digits recipe: small classifiers trained on the train splits, apart from every generator."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from polyscore.checkpoint import save_module
from polyscore.codecs import LogMel
from polyscore.data.augment import augment_images, augment_waves, mask_spectrogram, warp_spectrogram
from polyscore.data.digits import load_fsdd
from polyscore.data.fashion import Pictures, load_pictures
from polyscore.metrics.judges import Judge, accuracy
from polyscore.networks.conv import ConvEncoder, channels_last
from polyscore.training import Draw, Samples, TrainConfig, fit
from polyscore.training.classifier import ClassifierObjective

__all__ = ["image_judge", "speech_judge", "train_judge"]

NAMES: dict[Pictures, str] = {"mnist": "MNIST", "fashion": "Fashion-MNIST"}
TRAINING = {
    "image": TrainConfig(steps=2000, batch_size=128, lr=2e-3, weight_decay=0.02, ema=0.998, log_every=250),
    "speech": TrainConfig(steps=3500, batch_size=64, lr=2e-3, weight_decay=0.02, ema=0.998, log_every=250),
}


def image_judge() -> Judge:
    """67 000 parameters, 64 features."""
    body = ConvEncoder((1, 28, 28), 64, (24, 48), dropout=0.1, pool=True)
    return Judge(body, 64, dropout=0.2)


def speech_judge() -> Judge:
    """130 000 parameters, 64 features, on its own 40-band log-mel spectrogram."""
    front = LogMel(n_mels=40, n_fft=256, floor=0.1)
    body = ConvEncoder(front.latent_shape, 64, (24, 48, 48), dropout=0.1, pool=True)
    return Judge(body, 64, front=front, dropout=0.3)


def train_judge(
    modality: Literal["image", "speech"],
    out: str = "runs/digits-judge",
    data: str | None = None,
    smoothing: float = 0.05,
    config: TrainConfig | None = None,
    progress: bool = True,
    dataset: Pictures = "mnist",
) -> Judge:
    """Train a judge, measure it on the official test split, save it as `out`/MODALITY.json and .safetensors (float16).

    Args:
        dataset: of the pictures.

    Raises:
        DataError: the data set is not there. PolyscoreError: as `polyscore.training.fit`.
    """
    config = config or TRAINING[modality]
    torch.manual_seed(config.seed)
    train, test = (load_fsdd(s, data) if modality == "speech" else load_pictures(dataset, s, data) for s in ("train", "test"))
    judge = image_judge() if modality == "image" else speech_judge()
    channels_last(judge)
    change = augment_images if modality == "image" else _change_wave
    objective = ClassifierObjective(modality, smoothing, change, None if modality == "image" else _change_map)
    run = Path(out) / f"run-{modality}"
    fit(judge, Samples({modality: train.x, "label": train.labels}), objective, config, out=run, progress=progress)
    meta = {
        "dataset": f"{'FSDD' if modality == 'speech' else NAMES[dataset]}, train split",
        "test_accuracy": accuracy(judge, test.x, test.labels),
        "test_items": len(test),
        "smoothing": smoothing,
        "training": asdict(config),
    }
    save_module(judge, Path(out) / modality, dtype=torch.float16, meta=meta)
    return judge


def _change_wave(x: Tensor, draw: Draw) -> Tensor:
    return augment_waves(x, draw, shift=600, tilt=0.5, noise=0.03)


def _change_map(x: Tensor, draw: Draw) -> Tensor:
    return mask_spectrogram(warp_spectrogram(x, draw, time=0.15, frequency=0.08), draw)
