"""Objective of a reader: tokens from other modalities at any noise level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from polyscore.denoisers import Expert
from polyscore.predictions import TokenPrediction
from polyscore.training.draws import Draw
from polyscore.training.joint import latent

__all__ = ["ReadingObjective"]


@dataclass(frozen=True)
class ReadingObjective:
    """-log p(w_0 | w_t, z_t) of the masked tokens, averaged over them; the other modalities at one time, some observed or absent.

    With probability `observed` a modality is shown clean (t = 0), with `absent` not at all (t = 1). Batch entries as of `JointObjective`:
    latents, or posterior means and deviations, of which a sample is taken (its mean where observed).
    """

    modality: str = "word"
    observed: float = 0.2
    absent: float = 0.2
    jitter: float = 1.0

    def __call__(self, module: Expert, batch: Mapping[str, Tensor], draw: Draw) -> dict[str, Tensor]:
        """The loss, a mean over the batch, and the share of masked tokens that are named right."""
        clean = batch[self.modality]
        shared, own = draw.stratified(), draw.stratified()
        z = {self.modality: module.paths[self.modality].corrupt(clean, own, draw.uniform(*clean.shape[1:], 2))}
        t = {self.modality: own}
        for name in module.shapes:
            if name != self.modality:
                role = draw.uniform()
                t[name] = torch.where(role < self.observed, 0.0, torch.where(role < self.observed + self.absent, 1.0, shared))
                value = latent(batch[name], module.shapes[name], torch.where(t[name] > 0, self.jitter, 0.0), draw)
                z[name] = module.paths[name].corrupt(value, t[name], draw.normal(*module.shapes[name]))
        said = cast(TokenPrediction, module(z, t)[self.modality]).log_probs
        masked = (z[self.modality] != clean).flatten(1).float()
        nll = -said.gather(-1, clean.unsqueeze(-1)).squeeze(-1).flatten(1)
        right = (said.argmax(-1) == clean).flatten(1).float()
        loss = ((nll * masked).sum(1) / masked.sum(1).clamp(min=1)).mean()
        return {"loss": loss, "right": (right * masked).sum().detach() / masked.sum().clamp(min=1)}
