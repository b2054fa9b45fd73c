"""The paper's own setting for PolyMNIST, beside ours: its networks, its path, its sampler, its way to show what is observed."""

from __future__ import annotations

from typing import Any

from polyscore.codecs import RAE, VAE
from polyscore.networks.convnext import StackedDenoiser
from polyscore.networks.resnet import PolyDecoder, PolyEncoder
from polyscore.recipes.polymnist.codecs import SHAPE
from polyscore.sampling import SNRLangevin
from polyscore.sampling.conditioning import Mode
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


def paper_sampling(steps: int = 100, batch_norms: bool = False, conditioning: Mode = "scaled") -> dict[str, Any]:
    """Options of `sample`, all of which can be defaults of a Composer: N times from 1 to 0.001, Euler-Maruyama of step 1/N, then one
    Langevin step at the same time with signal-to-noise ratio 0.16. Two evaluations a step.

    Args:
        conditioning: "scaled" shows observed latents as (A + S) z, as the authors' code does; "clean" as they are.
        batch_norms: norms of score and noise are averaged over the batch, observed modalities included, as the authors have them; a
            result then depends on its batch mates.
    """
    corrector = SNRLangevin(0.16, "same", norm="batch" if batch_norms else "sample", observed=batch_norms)
    return {"steps": steps, "solver": "euler_maruyama_even", "corrector": corrector, "grid": "score_sde", "conditioning": conditioning}
