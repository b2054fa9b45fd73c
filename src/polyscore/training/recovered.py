"""Objective of decoders that meet latents generated from other modalities: fine-tuning under missing modalities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polyscore.codecs import Chain
from polyscore.codecs.base import Codec
from polyscore.composer import Composer
from polyscore.errors import PolyscoreError
from polyscore.training.draws import Draw, mix

__all__ = ["Decoders", "RecoveredObjective"]


class Decoders(nn.Module):
    """The decoders of a Composer's codecs, trainable; encoders, latent statistics and the joint denoiser stay as they are.

    Raises:
        PolyscoreError: a codec without a decoder of its own.
    """

    def __init__(self, composer: Composer) -> None:
        super().__init__()
        self.composer = composer
        for parameter in [*composer.denoiser.parameters(), *(p for c in composer.codecs.values() for p in c.parameters())]:
            parameter.requires_grad_(False)
        self.parts = nn.ModuleDict({name: _decoder(name, codec).requires_grad_(True) for name, codec in composer.codecs.items()})

    def decode(self, name: str, z: Tensor) -> Tensor:
        """Latents to data, with gradients."""
        return self.composer.codecs[name].decode(z)


def _decoder(name: str, codec: Codec) -> nn.Module:
    last = codec.stages[-1] if isinstance(codec, Chain) else codec
    decoder = getattr(last, "decoder", None)
    if not isinstance(decoder, nn.Module):
        raise PolyscoreError(f"modality {name!r}: expected a codec with a decoder to train, found {type(last).__name__}")
    return decoder


@dataclass(frozen=True)
class RecoveredObjective:
    """Mean over the dropped modalities of |x - decode(z')|^2 / dim, z' ~ p(z_dropped | z_kept); dim counts the entries of x.

    Each step drops every modality with probability `share` (never all, never none), samples it in `steps` steps given the rest, and lets
    its decoder answer with the true data. As modalities share little but their class, that pulls decoders towards the mean of what is
    possible: the authors find coherence slightly up and Frechet distances clearly worse, so this is an option and no default.
    Source: Score-Based Multimodal Autoencoder, App. A.5.1 (there: one Adam step of 1e-4 a batch, 40 Langevin steps).

    Args:
        share: see above. steps: of the sampler. keep: weight of the same loss at the encoder's own latents, which holds decoders in place.
    """

    share: float = 0.3
    steps: int = 10
    keep: float = 0.0

    def __call__(self, module: Decoders, batch: Mapping[str, Tensor], draw: Draw) -> dict[str, Tensor]:
        """The loss and its part at the encoder's own latents, means over the batch."""
        composer, names = module.composer, list(module.parts)
        dropped = self.dropped(names, draw.seed, draw.step)
        with torch.no_grad():
            latents = {name: composer.codecs[name].encode(batch[name]) for name in names}
        given = {name: z for name, z in latents.items() if name not in dropped}
        seed = mix(draw.seed, 11, draw.step)
        made = composer.sample_latents(len(draw), given=given, seed=seed, first=draw.start, steps=self.steps)
        lost = torch.stack([_gap(module, name, made[name], batch[name]) for name in dropped]).mean()
        own = torch.stack([_gap(module, name, latents[name], batch[name]) for name in dropped]).mean()
        return {"loss": lost + self.keep * own, "own": own.detach()}

    def dropped(self, names: list[str], seed: int, step: int) -> list[str]:
        """The modalities that a step drops: at least one, at most all but one."""
        draw = torch.Generator().manual_seed(mix(seed, 12, step))
        places = torch.rand(len(names), generator=draw)
        most = max(1, min(int((places < self.share).sum()), len(names) - 1))
        return [names[int(i)] for i in places.argsort()[:most]]


def _gap(module: Decoders, name: str, z: Tensor, x: Tensor) -> Tensor:
    return (module.decode(name, z) - x).square().mean()
