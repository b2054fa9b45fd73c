"""The two autoencoders of the digits recipe. Neither sees a label, nor the other's data; both see the train split only."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from polyscore.checkpoint import save_module
from polyscore.codecs import VAE, Chain, Codec, LogMel
from polyscore.data.augment import augment_waves, warp_spectrogram
from polyscore.data.digits import load_fsdd, load_mnist
from polyscore.errors import PolyscoreError
from polyscore.networks.conv import ConvDecoder, ConvEncoder, channels_last
from polyscore.training import Draw, Samples, TrainConfig, fit
from polyscore.training.codec import VAEObjective

__all__ = ["SpeechChange", "image_codec", "speech_codec", "train_image_codec", "train_speech_codec"]

C = TypeVar("C", bound=Codec)
IMAGE_TRAINING = TrainConfig(steps=4000, batch_size=128, lr=2e-3, ema=0.998, log_every=250)
SPEECH_TRAINING = TrainConfig(steps=4000, batch_size=48, lr=2e-3, ema=0.998, log_every=250)


@dataclass(frozen=True)
class SpeechChange:
    """Waveform -> augmented log-mel spectrogram: what the speech autoencoder is trained on."""

    front: LogMel
    shift: int = 150
    speed: float = 0.1
    gain: float = 0.1
    tilt: float = 0.2
    noise: float = 0.003
    time: float = 0.1
    frequency: float = 0.04

    @torch.no_grad()
    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        """(B, samples) -> (B, n_mels, frames)."""
        y = augment_waves(x, draw, shift=self.shift, speed=self.speed, gain=self.gain, tilt=self.tilt, noise=self.noise)
        return warp_spectrogram(self.front.encode(y), draw, time=self.time, frequency=self.frequency)

    def scaled(self, factor: float) -> SpeechChange:
        """The same changes, all `factor` times as strong."""
        return SpeechChange(self.front, **{name: type(value)(value * factor) for name, value in self.settings().items()})

    def settings(self) -> dict[str, Any]:
        """The numbers, for the checkpoint."""
        return {name: value for name, value in vars(self).items() if name != "front"}


def image_codec(latent: int = 20, widths: Sequence[int] = (32, 64)) -> VAE:
    """VAE of (1, 28, 28) pictures."""
    _check(latent)
    shape = (1, 28, 28)
    return VAE(shape, latent, ConvEncoder(shape, 2 * latent, widths), ConvDecoder(shape, latent, widths), "sigmoid")


def speech_codec(
    latent: int = 48, encoder: Sequence[int] = (32, 64, 96), decoder: Sequence[int] = (32, 96, 128), dropout: float = 0.1
) -> Chain:
    """Log-mel spectrogram and VAE of one-second waveforms at 8 kHz."""
    _check(latent)
    front = LogMel(n_fft=384, floor=0.1, mean=-1.3, std=1.4)
    shape = front.latent_shape
    down = ConvEncoder(shape, 2 * latent, encoder, patch=4, dropout=dropout)
    return Chain([front, VAE(shape, latent, down, ConvDecoder(shape, latent, decoder, patch=4))])


def train_image_codec(
    out: str = "runs/digits-image-codec",
    data: str | None = None,
    latent: int = 20,
    beta: float = 0.5,
    widths: Sequence[int] = (32, 64),
    config: TrainConfig = IMAGE_TRAINING,
    progress: bool = True,
) -> VAE:
    """Train the image codec on MNIST and save it as `out`/image.json and .safetensors (float16).

    Raises:
        DataError: MNIST is not there. PolyscoreError: as `polyscore.training.fit`.
    """
    torch.manual_seed(config.seed)
    x = load_mnist("train", data).x
    codec = image_codec(latent, widths)
    channels_last(codec)
    objective = VAEObjective("image", beta, "bernoulli")
    settings = {"latent": latent, "beta": beta, "widths": list(widths)}
    fit(codec, Samples({"image": x}), objective, config, out=Path(out) / "run-image", progress=progress, facts=settings)
    return _finish(codec, codec, x, Path(out) / "image", {"dataset": "MNIST, train split", **settings, "training": asdict(config)})


def train_speech_codec(
    out: str = "runs/digits-speech-codec",
    data: str | None = None,
    latent: int = 48,
    beta: float = 2.0,
    pools: Sequence[int] = (1, 2, 4),
    config: TrainConfig = SPEECH_TRAINING,
    progress: bool = True,
) -> Chain:
    """Train the speech codec on FSDD and save it as `out`/speech.json and .safetensors (float16).

    Raises:
        DataError: FSDD is not there. PolyscoreError: as `polyscore.training.fit`.
    """
    torch.manual_seed(config.seed)
    x = load_fsdd("train", data).x
    codec = speech_codec(latent)
    channels_last(codec)
    front, vae = codec.stages
    assert isinstance(front, LogMel) and isinstance(vae, VAE)
    change = SpeechChange(front)
    settings = {"latent": latent, "beta": beta, "pools": list(pools), "change": change.settings()}
    fit(
        vae,
        Samples({"speech": x}),
        VAEObjective("speech", beta, "absolute", pools, change),
        config,
        out=Path(out) / "run-speech",
        progress=progress,
        facts=settings,
    )
    smaller = without_idle(codec, x)
    own = smaller.stages[1]
    assert isinstance(own, VAE)
    return _finish(smaller, own, x, Path(out) / "speech", {"dataset": "FSDD, train split", **settings, "training": asdict(config)})


@torch.no_grad()
def without_idle(codec: Chain, x: Tensor, most: float = 0.7) -> Chain:
    """The speech codec without its idle latent dimensions: those in which more than `most` of the variance is the posterior's own noise.

    Training with a KL term leaves such dimensions at N(0, 1) whatever the data, and the decoder learns not to read them.
    """
    vae = codec.eval().stages[1]
    assert isinstance(vae, VAE)
    means, deviations = _posteriors(codec, x)
    noise = deviations.square().mean(0)
    kept = (noise < most * (noise + means.var(0))).nonzero().flatten()
    rows = torch.cat([kept, kept + len(noise)])
    state = vae.state_dict()
    state |= {name: state[name][rows] for name in ("encoder.head.weight", "encoder.head.bias")}
    state |= {"decoder.stem.weight": state["decoder.stem.weight"][:, kept], "shift": state["shift"][kept], "scale": state["scale"][kept]}
    smaller = speech_codec(len(kept))
    smaller.stages[1].load_state_dict(state)
    return smaller


def _check(latent: int) -> None:
    if latent < 1:
        raise PolyscoreError(f"latent: expected at least one dimension, found {latent}")


def _finish(codec: C, vae: VAE, x: Tensor, path: os.PathLike[str], meta: dict[str, Any]) -> C:
    """Standardise the latents on the training data and save."""
    codec.eval()
    vae.fit_statistics(*_posteriors(codec, x))
    save_module(codec, path, dtype=torch.float16, meta=meta)
    return codec


@torch.no_grad()
def _posteriors(codec: Codec, x: Tensor) -> tuple[Tensor, Tensor]:
    """Means and standard deviations of the latents of x, (N, latent) each, in parts."""
    means, deviations = zip(*(codec.posterior(part) for part in x.split(500)), strict=True)
    return torch.cat(means), torch.cat(deviations)
