"""Waveform <-> log-mel spectrogram, with fast Griffin-Lim for the way back."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from polyscore.codecs.base import Codec
from polyscore.spec import register

__all__ = ["LogMel", "griffin_lim", "mel_filterbank"]


def mel_filterbank(rate: int, n_fft: int, n_mels: int, f_min: float = 0.0, f_max: float | None = None) -> Tensor:
    """Triangular filters (n_mels, n_fft // 2 + 1) on the HTK mel scale m = 2595 log10(1 + f / 700), each of height 1.

    Equal to `librosa.filters.mel(htk=True, norm=None)`, without importing it.
    """
    top = rate / 2 if f_max is None else f_max
    low_mel, high_mel = (2595 * math.log10(1 + f / 700) for f in (f_min, top))
    edges = 700 * (10 ** (torch.linspace(low_mel, high_mel, n_mels + 2, dtype=torch.float64) / 2595) - 1)
    bins = torch.linspace(0, rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp_min(0).float()


def griffin_lim(magnitude: Tensor, window: Tensor, hop: int, length: int, iterations: int = 32, momentum: float = 0.99) -> Tensor:
    """Waveform (B, length) whose STFT magnitude is close to `magnitude` (B, bins, frames): fast Griffin-Lim.

    The first phase is one fixed random draw, the same for every item, so a result doesn't depend on batch mates.
    Source: Perraudin, Balazs, Sondergaard, "A fast Griffin-Lim algorithm", 2013.
    """
    n_fft = window.numel()
    draw = torch.Generator().manual_seed(0)
    phase = torch.rand(magnitude.shape[1:], generator=draw).to(magnitude) * (2 * math.pi)
    angles = torch.polar(torch.ones_like(phase), phase).expand_as(magnitude)
    previous = torch.zeros_like(angles)
    for _ in range(iterations):
        wave = torch.istft(magnitude * angles, n_fft, hop, window=window, length=length)
        rebuilt = torch.stft(wave, n_fft, hop, window=window, return_complex=True)
        step = rebuilt - momentum / (1 + momentum) * previous
        angles = step / step.abs().clamp_min(1e-8)
        previous = rebuilt
    return torch.istft(magnitude * angles, n_fft, hop, window=window, length=length)


@register
class LogMel(Codec):
    """y = (log(mel + floor) - mean) / std, where mel = filters |STFT(x)|.

    encode: (B, samples) waveform in [-1, 1] -> (B, n_mels, frames), frames = ceil(samples / hop).
    decode: filters inverted by `updates` multiplicative updates (non-negative least squares), phase by `griffin_lim`, peak at most 1.
    mean and std are two fixed numbers that bring speech near zero mean and unit variance.
    """

    def __init__(
        self,
        samples: int = 8000,
        rate: int = 8000,
        n_fft: int = 512,
        hop: int = 125,
        n_mels: int = 64,
        floor: float = 1e-2,
        mean: float = -1.5,
        std: float = 2.5,
        iterations: int = 32,
        updates: int = 30,
    ) -> None:
        super().__init__()
        self.samples, self.rate, self.n_fft, self.hop = samples, rate, n_fft, hop
        self.floor, self.mean, self.std, self.iterations, self.updates = floor, mean, std, iterations, updates
        self.data_shape = (samples,)
        self.latent_shape = (n_mels, math.ceil(samples / hop))
        self.register_buffer("filters", mel_filterbank(rate, n_fft, n_mels), persistent=False)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def encode(self, x: Tensor) -> Tensor:
        """(B, samples) -> (B, n_mels, frames)."""
        spectrum = torch.stft(x, self.n_fft, self.hop, window=self._window, return_complex=True, pad_mode="constant")
        mel = self._filters @ spectrum.abs()[..., : self.latent_shape[1]]
        return ((mel + self.floor).log() - self.mean) / self.std

    def decode(self, z: Tensor) -> Tensor:
        """(B, n_mels, frames) -> (B, samples)."""
        mel = ((z * self.std + self.mean).clamp(max=12).exp() - self.floor).clamp_min(0)
        magnitude = functional.pad(self._linear(mel), (0, 1 + self.samples // self.hop - self.latent_shape[1]))
        wave = griffin_lim(magnitude, self._window, self.hop, self.samples, self.iterations)
        return wave / wave.abs().amax(-1, keepdim=True).clamp_min(1)

    def _linear(self, mel: Tensor) -> Tensor:
        """Non-negative magnitude whose mel is close to `mel`: Lee and Seung's multiplicative updates."""
        back = self._filters.T
        spread = back / back.sum(0).square().clamp_min(1e-8).sqrt()
        magnitude = spread @ mel + 1e-8
        target = back @ mel
        for _ in range(self.updates):
            magnitude = magnitude * target / (back @ (self._filters @ magnitude)).clamp_min(1e-8)
        return magnitude

    @property
    def _filters(self) -> Tensor:
        return cast(Tensor, self.filters)

    @property
    def _window(self) -> Tensor:
        return cast(Tensor, self.window)
