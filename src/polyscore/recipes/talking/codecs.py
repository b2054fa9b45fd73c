"""The two autoencoders of talking digits, and the judges. They see single modalities only, and no labels but the judges'."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor

from polyscore.checkpoint import load_module, save_module
from polyscore.codecs import VAE, LogMel
from polyscore.codecs.base import Codec
from polyscore.data.digits import Labelled
from polyscore.data.talking import FIRST, FRAMES, LAST, Speech, _sources, place, render
from polyscore.metrics.judges import Judge
from polyscore.networks.conv import ConvDecoder, ConvEncoder, channels_last
from polyscore.training import Draw, TrainConfig, fit
from polyscore.training.classifier import ClassifierObjective
from polyscore.training.codec import VAEObjective

__all__ = ["CODEC_TRAINING", "JUDGE_TRAINING", "MODALITIES", "Stream", "codec", "judge", "load_parts", "mel", "train_part"]

MODALITIES = ("video", "sound")
Modality = Literal["video", "sound"]
CODEC_TRAINING = {
    "video": TrainConfig(steps=2000, batch_size=64, lr=2e-3, ema=0.998, checkpoint_every=500, log_every=250),
    "sound": TrainConfig(steps=2500, batch_size=64, lr=2e-3, ema=0.998, checkpoint_every=500, log_every=250),
}
JUDGE_TRAINING = TrainConfig(steps=700, batch_size=64, lr=2e-3, weight_decay=0.02, ema=0.995, checkpoint_every=600, log_every=200)
LATENT = {"video": 32, "sound": 64}
STATISTICS = 16
"""Batches of 256 clips from which the latents are standardised."""


def mel() -> LogMel:
    """Two seconds at 8 kHz -> (40, 64): a column every 31 ms."""
    return LogMel(samples=16000, n_fft=512, hop=250, n_mels=40, floor=0.1, mean=-1.3, std=1.4)


def codec(modality: str) -> VAE:
    """VAE of a whole clip: video (16, 28, 28), or the log-mel spectrogram (40, 64) of the sound."""
    latent = LATENT[modality]
    if modality == "video":
        shape: tuple[int, ...] = (FRAMES, 28, 28)
        return VAE(shape, latent, ConvEncoder(shape, 2 * latent, (24, 48)), ConvDecoder(shape, latent, (32, 64)), "sigmoid")
    shape = mel().latent_shape
    return VAE(shape, latent, ConvEncoder(shape, 2 * latent, (32, 64), patch=4), ConvDecoder(shape, latent, (40, 80), patch=4))


def judge(modality: str) -> Judge:
    """Classifier of the digit in a clip (sound: of its spectrogram), 64 features."""
    shape = (FRAMES, 28, 28) if modality == "video" else mel().latent_shape
    body = ConvEncoder(shape, 64, (24, 48), patch=2 if modality == "video" else 4, dropout=0.1, pool=True)
    return Judge(body, 64, dropout=0.2)


@dataclass(frozen=True)
class Stream:
    """Batches of fresh clips of one modality: a random item, instant, kind and direction each: {modality, label}.

    Args:
        items: pictures, or recordings. augment: sounds also get another loudness, speed (within 8 %) and a little noise.
    """

    modality: str
    items: Labelled | Speech
    augment: bool = True

    def __len__(self) -> int:
        return len(self.items.labels)

    @torch.no_grad()
    def __call__(self, draw: Draw) -> dict[str, Tensor]:
        """One step's batch."""
        rows = draw.indices(len(self))
        instants = (FIRST + (LAST - FIRST) * draw.uniform()).to(self.items.x.device)
        kinds, directions = draw.integers(3), 2 * draw.integers(2) - 1
        if self.modality == "video":
            x = render(self.items.x[rows], instants, kinds, directions)
        else:
            x = mel().encode(self._wave(place(self.items.x[rows], instants), draw))
        return {self.modality: x, "label": self.items.labels[rows]}

    def _wave(self, wave: Tensor, draw: Draw) -> Tensor:
        gain, speed, hiss = draw.uniform(1), draw.uniform(1), draw.normal(wave.shape[1])
        if not self.augment:
            return wave
        at = torch.arange(wave.shape[1]) * (0.92 + 0.16 * speed)
        left = at.floor().long().clamp(max=wave.shape[1] - 2)
        part = (at - left).clamp(0, 1)
        return ((1 - part) * wave.gather(1, left) + part * wave.gather(1, left + 1)) * (0.8 + 0.3 * gain) + 0.002 * hiss


def items(modality: str, split: str, data: str | None) -> Labelled | Speech:
    """All pictures, or all recordings, of a split."""
    return _sources(split, data)[0 if modality == "video" else 1]


def train_part(
    part: Literal["codec", "judge"],
    modality: Modality,
    out: str = "runs/talking",
    data: str | None = None,
    config: TrainConfig | None = None,
    progress: bool = True,
) -> VAE | Judge:
    """Train a codec or a judge on clips of its modality (train split) and save it as `out`/MODALITY or `out`/judge-MODALITY.

    Raises:
        DataError: MNIST or FSDD is not there. PolyscoreError: as `polyscore.training.fit`.
    """
    config = config or (JUDGE_TRAINING if part == "judge" else CODEC_TRAINING[modality])
    torch.manual_seed(config.seed)
    stream = Stream(modality, items(modality, "train", data))
    name = modality if part == "codec" else f"judge-{modality}"
    run = Path(out) / f"run-{name}"
    if part == "judge":
        module: VAE | Judge = judge(modality)
        channels_last(module)
        fit(module, stream, ClassifierObjective(modality), config, out=run, progress=progress)
    else:
        module = codec(modality)
        channels_last(module)
        bernoulli = modality == "video"
        objective = VAEObjective(modality, 1.0, "bernoulli" if bernoulli else "absolute", (1,) if bernoulli else (1, 2, 4))
        fit(module, stream, objective, config, out=run, progress=progress)
        _standardise(module, stream)
    save_module(module, Path(out) / name, meta={"recipe": "talking digits", "steps": config.steps})
    return module


@torch.no_grad()
def _standardise(vae: VAE, stream: Stream) -> None:
    vae.eval()
    draws = [Draw(77, i, 256) for i in range(STATISTICS)]
    vae.fit_statistics(torch.cat([vae.encode(stream(draw)[stream.modality]) for draw in draws]))


def load_parts(out: str | Path) -> tuple[dict[str, VAE], dict[str, Judge]]:
    """Codecs and judges as `train_part` saved them."""
    codecs = {name: cast(VAE, load_module(Path(out) / name, Codec)) for name in MODALITIES}
    return codecs, {name: load_module(Path(out) / f"judge-{name}", Judge) for name in MODALITIES}
