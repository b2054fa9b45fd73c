"""The paper's own setting for PolyMNIST, beside ours: its networks, its path, its sampler, its way to show what is observed."""

from __future__ import annotations

from typing import Any

import torch

from polyscore.codecs import RAE, VAE
from polyscore.networks.convnext import StackedDenoiser
from polyscore.networks.resnet import PolyDecoder, PolyEncoder
from polyscore.recipes.polymnist.codecs import SHAPE
from polyscore.sampling import EulerMaruyama, SNRLangevin
from polyscore.training.codec import RAEObjective, VAEObjective
from polyscore.training.joint import JointObjective

__all__ = ["ENERGY_SCALE", "JOINT", "RAE_OBJECTIVE", "VAE_OBJECTIVE", "paper_rae", "paper_sampling", "paper_score", "paper_vae"]

VAE_OBJECTIVE = VAEObjective("x", beta=0.1, distortion="gaussian")
RAE_OBJECTIVE = RAEObjective("x", beta=1e-5, noise=0.01)
JOINT = JointObjective(joint=1.0, apart=0.0, jitter=0.0)
"""All modalities at one time; latents are posterior means."""
ENERGY_SCALE = 1000 / 256
"""The authors' 1000 on the gradient of a mean over a batch of 256, per sample."""


def paper_vae(latent: int = 64) -> VAE:
    """The VAE of each modality."""
    return VAE(SHAPE, latent, PolyEncoder(latent), PolyDecoder(latent))


def paper_rae(latent: int = 64) -> RAE:
    """The RAE of each modality."""
    return RAE(SHAPE, latent, PolyEncoder(latent, variance=False), PolyDecoder(latent))


def paper_score(modalities: int = 10, latent: int = 64) -> StackedDenoiser:
    """The joint score: beta from 0.1 (ten modalities) or 1 (fewer) to 5."""
    return StackedDenoiser({f"m{i}": (latent,) for i in range(modalities)})


def paper_sampling(steps: int = 100, batch_norms: bool = False) -> dict[str, Any]:
    """Options of `sample`: N times from 1 to 0.001, Euler-Maruyama of step 1/N, then one Langevin step at the same time with
    signal-to-noise ratio 0.16; observed latents are shown as (A + S) z. Two evaluations a step.

    Args:
        batch_norms: norms of score and noise are averaged over the batch, observed modalities included, as the authors have them; a
            result then depends on its batch mates.
    """
    corrector = SNRLangevin(0.16, "same", norm="batch" if batch_norms else "sample", observed=batch_norms)
    # The solver's step is 1/N at every point, the last one included, so the grid has one more point that is only a name.
    grid = [*torch.linspace(1, 1e-3, steps, dtype=torch.float64).tolist(), 0.0]
    return {"solver": EulerMaruyama(1 / steps), "corrector": corrector, "grid": grid, "conditioning": "scaled"}
