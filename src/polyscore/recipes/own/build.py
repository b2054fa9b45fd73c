"""A small autoencoder for one modality of a prepared data set, chosen by its kind and shape."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from polyscore.codecs import RAE, VAE, Chain, Codec, Identity, LogMel, Reshape, Standardised
from polyscore.errors import DataError
from polyscore.networks.conv import ConvDecoder, ConvEncoder, channels_last
from polyscore.networks.dense import DenseDecoder, DenseEncoder

__all__ = ["CodecKind", "Parts", "UserLikelihood", "build_codec", "conv_size", "likelihood_of", "mel_size", "pictured"]

CodecKind = Literal["vae", "rae"]
UserLikelihood = Literal["gaussian", "laplace", "bernoulli", "categorical"]
PICTURED = ("image", "video")
NUMBERS = ("vector", "json")


@dataclass(frozen=True)
class Parts:
    """An autoencoder to train, and the fixed codecs in front of it: `codec` is the chain of both."""

    fronts: tuple[Codec, ...]
    core: VAE | RAE

    @property
    def codec(self) -> Codec:
        """What is saved."""
        return Chain([*self.fronts, self.core]) if self.fronts else self.core

    def front(self, x: Tensor) -> Tensor:
        """Data -> what the autoencoder is trained on."""
        for stage in self.fronts:
            x = stage.encode(x)
        return x


def likelihood_of(spec: Mapping[str, Any], chosen: UserLikelihood | None) -> UserLikelihood:
    """The likelihood of a modality: the user's choice, or Laplace for sounds and Gaussian for all else.

    Raises:
        DataError: a kind that has no autoencoder here, or one that the likelihood doesn't fit.
    """
    kind = spec["kind"]
    if kind not in (*PICTURED, "audio", *NUMBERS):
        raise DataError(f"codec: expected a modality of kind image, video, audio, vector or json, found {kind} (tokens need no codec)")
    found: UserLikelihood = chosen or ("laplace" if kind == "audio" else "gaussian")
    if kind == "audio" and found not in ("gaussian", "laplace"):
        raise DataError(f"likelihood: expected gaussian or laplace for sounds (spectrograms), found {found}")
    return found


def build_codec(spec: Mapping[str, Any], sample: Tensor, kind: CodecKind, likelihood: UserLikelihood, latent: int | None = None) -> Parts:
    """Pictures and videos (frames as channels): convolutions. Sounds: a log-mel spectrogram and convolutions. Vectors and arrays: linear
    layers, on standardised numbers unless the likelihood is of probabilities.

    Args:
        spec: kind, shape and rate, as the data set stores them. sample: data (N, *shape), of which fixed fronts take their statistics.
        latent: dimensions; default 20, 48 for sounds, and no more than the data has numbers.
    """
    shape = tuple(spec["shape"])
    size = latent or min(math.prod(shape), 48 if spec["kind"] == "audio" else 20)
    fronts = _fronts(spec, shape, sample, likelihood)
    inner = tuple(fronts[-1].latent_shape) if fronts else shape
    out = 2 * size if kind == "vae" else size
    activation = {"bernoulli": "sigmoid", "categorical": "softmax"}.get(likelihood, "clamp" if spec["kind"] in PICTURED else "identity")
    options: dict[str, Any]
    if spec["kind"] in NUMBERS:
        encoder, decoder = DenseEncoder(inner, out, (256, 256)), DenseDecoder(inner, size, (256, 256))
        core = _core(kind)(inner, size, encoder, decoder, activation)
    else:
        patch, widths = conv_size(*inner[-2:])
        options = {"widths": widths, "patch": patch}
        core = _core(kind)(inner, size, ConvEncoder(inner, out, **options), ConvDecoder(inner, size, **options), activation)
        channels_last(core)
    return Parts(tuple(fronts), core)


def _core(kind: CodecKind) -> type[VAE] | type[RAE]:
    return VAE if kind == "vae" else RAE


def _fronts(spec: Mapping[str, Any], shape: tuple[int, ...], sample: Tensor, likelihood: UserLikelihood) -> list[Codec]:
    if spec["kind"] == "audio":
        waves = sample.reshape(len(sample), -1)
        mel = _mel(waves, int(spec.get("rate", 16000)))
        return [Reshape(shape, (shape[-1],)), mel] if len(shape) > 1 else [mel]
    if spec["kind"] == "video":
        return [Reshape(shape, pictured(shape))]
    if spec["kind"] in NUMBERS and likelihood in ("gaussian", "laplace"):
        return [Standardised(Identity(shape)).fit_statistics(sample)]
    return []


def pictured(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of a video's frames as the channels of one picture."""
    return (math.prod(shape[:-2]), *shape[-2:])


def conv_size(height: int, width: int) -> tuple[int, tuple[int, ...]]:
    """Patch and channels of each level for maps of this size: patches until the shorter side is at most 16, then halvings down to 7.

    A side is halved only while both are even, so any size will do, at a price.
    """
    patch = 1
    while min(height, width) > 16 and height % 2 == 0 and width % 2 == 0:
        patch, height, width = 2 * patch, height // 2, width // 2
    widths = [32]
    while min(height, width) > 7 and height % 2 == 0 and width % 2 == 0 and len(widths) < 3:
        widths, height, width = [*widths, 32 * (len(widths) + 1)], height // 2, width // 2
    return patch, tuple(widths)


def mel_size(samples: int, rate: int) -> tuple[int, int]:
    """Hop and window of a spectrogram of about 64 frames a second: a hop near rate / 64 that gives a number of frames divisible by 16 (or
    8, 4, 2, as short sounds need), and the even window of three hops."""
    wanted = max(1, round(rate / 64))
    for divisor in (16, 8, 4, 2, 1):
        fitting = [hop for hop in range(max(1, wanted // 2), 2 * wanted + 1) if math.ceil(samples / hop) % divisor == 0]
        if fitting:
            break
    hop = min(fitting, key=lambda one: abs(one - wanted))
    return hop, 2 * math.ceil(3 * hop / 2)


def _mel(waves: Tensor, rate: int) -> LogMel:
    """A log-mel spectrogram with mean 0 and variance 1 over these waveforms (N, samples)."""
    hop, window = mel_size(waves.shape[1], rate)
    options: dict[str, Any] = {"samples": waves.shape[1], "rate": rate, "n_fft": window, "hop": hop, "floor": 0.1}
    with torch.no_grad():
        found = LogMel(**options, mean=0.0, std=1.0).encode(waves)
    return LogMel(**options, mean=round(float(found.mean()), 4), std=round(max(float(found.std()), 1e-3), 4))
