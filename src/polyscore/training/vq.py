"""Objective of a vector-quantised codec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from polyscore.codecs.vq import VQ
from polyscore.training.draws import Draw

__all__ = ["VQObjective", "spectral_distance"]


def spectral_distance(x: Tensor, y: Tensor, sizes: Sequence[int] = (128, 256, 512)) -> Tensor:
    """Mean over STFT sizes of the distance between magnitudes, |(|X| - |Y|)|_2 / sqrt(bins), of waveforms (B, L): (B,)."""
    found = torch.zeros(len(x))
    for size in sizes:
        window = torch.hann_window(size, device=x.device)
        a, b = (torch.stft(v, size, size // 4, window=window, return_complex=True).abs() for v in (x, y))
        found = found + (a - b).square().flatten(1).mean(1).sqrt()
    return found / len(sizes)


@dataclass(frozen=True)
class VQObjective:
    """D(x, decoder(codes)) + commit |u - code|^2 / D, gradients straight through; the codebook follows by moving averages.

    D per entry: "bernoulli", "absolute", "square", or "spectral" (square error of waveforms plus `spectral_distance`). Train it without an
    average of the weights (`fit(..., average=False)`): the codebook is an average already.
    """

    modality: str
    distortion: Literal["bernoulli", "absolute", "square", "spectral"] = "bernoulli"
    commit: float = 0.25

    def __call__(self, module: VQ, batch: Mapping[str, Tensor], draw: Draw) -> dict[str, Tensor]:
        """The loss and its parts, means over the batch."""
        x = batch[self.modality]
        u = module.embed(x)
        tokens = module.codebook.nearest(u.detach())
        vectors = module.codebook.vectors(tokens)
        distortion = self._distortion(x, module.raw(u + (vectors - u).detach())).mean()
        commit = (u - vectors).square().mean()
        flat = u.detach().reshape(-1, u.shape[-1])
        uniform = draw.uniform(module.vocabulary)[0]
        revived = module.codebook.learn(flat, tokens.flatten(), uniform)
        return {"loss": distortion + self.commit * commit, "distortion": distortion.detach(), "commit": commit.detach(), "revived": revived}

    def _distortion(self, x: Tensor, y: Tensor) -> Tensor:
        if self.distortion == "bernoulli":
            return functional.binary_cross_entropy_with_logits(y, x, reduction="none").flatten(1).mean(1)
        if self.distortion == "absolute":
            return (y - x).abs().flatten(1).mean(1)
        square = (y - x).square().flatten(1).mean(1)
        return square + spectral_distance(x, y) if self.distortion == "spectral" else square
