"""Refinement of decoded pictures: what an autoencoder blurs, a small diffusion model in data space draws again."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from polyscore.denoisers import Expert
from polyscore.networks.refine import RefineNet
from polyscore.paths import Cosine
from polyscore.sampling.processes import sample_across
from polyscore.spec import register

__all__ = ["Refiner"]


@register
class Refiner(nn.Module):
    """x' ~ p(x | rough x): a denoiser of pictures in [-1, 1] that is shown the decoded picture (DiffuseVAE, formulation 1).

    Source: Pandey et al. 2022, "DiffuseVAE"; Score-Based Multimodal Autoencoder, App. A.10.2 (there: 1000 steps of a UNet).

    Args:
        shape: of the data, values in [0, 1]. width, blocks: of `RefineNet`.
    """

    def __init__(self, shape: Sequence[int], width: int = 32, blocks: int = 3) -> None:
        super().__init__()
        self.expert = Expert(RefineNet(shape, width, blocks), {"x": Cosine()}, {"x": tuple(shape)}, "v")

    def refine(self, rough: Tensor, steps: int = 8, seed: int = 0, first: int = 0) -> Tensor:
        """Decoded data (B, *shape) in [0, 1] -> data that looks like the training data; row i depends on (seed, first + i) only."""
        made = sample_across(self.expert, len(rough), condition=2 * rough - 1, steps=steps, seed=seed, first=first)["x"]
        return ((made + 1) / 2).clamp(0, 1)
