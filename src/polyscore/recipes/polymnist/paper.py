"""The paper's own setting for PolyMNIST, beside ours: its networks, its path, its sampler, its way to show what is observed."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from polyscore.checkpoint import load_module, save_module
from polyscore.codecs import RAE, VAE
from polyscore.codecs.base import Codec
from polyscore.composer import Composer
from polyscore.data.polymnist import load_polymnist
from polyscore.networks.convnext import StackedDenoiser
from polyscore.networks.resnet import PolyDecoder, PolyEncoder
from polyscore.recipes.polymnist.codecs import SHAPE, pictures
from polyscore.recipes.polymnist.joint import encode_all
from polyscore.sampling import SNRLangevin
from polyscore.sampling.conditioning import Mode
from polyscore.sampling.starts import MomentStart
from polyscore.training import Draw, Samples, TrainConfig, fit
from polyscore.training.codec import RAEObjective, VAEObjective
from polyscore.training.joint import JointObjective

__all__ = [
    "CODEC_TRAINING",
    "ENERGY_SCALE",
    "JOINT",
    "JOINT_TRAINING",
    "RAE_OBJECTIVE",
    "VAE_OBJECTIVE",
    "paper_rae",
    "paper_sampling",
    "paper_score",
    "paper_vae",
    "train_paper_codec",
    "train_paper_joint",
]


VAE_OBJECTIVE = VAEObjective("x", beta=0.1, distortion="gaussian")
RAE_OBJECTIVE = RAEObjective("x", beta=1e-5, noise=0.01)
JOINT = JointObjective(joint=1.0, apart=0.0, jitter=0.0)
"""All modalities at one time; latents are posterior means."""
ENERGY_SCALE = 1000 / 256
"""The authors' 1000 on the gradient of a mean over a batch of 256, per sample."""
CODEC_TRAINING = TrainConfig(
    steps=47_000, batch_size=256, lr=1e-3, warmup=0, schedule="constant", clip=None, ema=0.0, checkpoint_every=1000, log_every=250
)
"""200 epochs of Adam."""
JOINT_TRAINING = TrainConfig(
    steps=117_000, batch_size=256, lr=2e-4, warmup=0, schedule="constant", clip=None, ema=0.0, checkpoint_every=1000, log_every=250
)
"""500 epochs of Adam."""


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


def train_paper_codec(
    modality: str,
    kind: Literal["vae", "rae"] = "vae",
    out: str | os.PathLike[str] = "runs/polymnist/paper-codecs",
    modalities: int = 10,
    backgrounds: str | None = None,
    data: str | None = None,
    latent: int = 64,
    config: TrainConfig = CODEC_TRAINING,
    progress: bool = True,
) -> Codec:
    """Train the paper's autoencoder of one modality alone and save it as `out`/MODALITY.json and .safetensors.

    Its latents are standardised by their own means and deviations; the authors take them as they are.

    Raises:
        DataError: MNIST or the modality is not there. PolyscoreError: as `polyscore.training.fit`.
    """
    torch.manual_seed(config.seed)
    train = load_polymnist("train", modalities, backgrounds, data)
    codec: VAE | RAE = paper_vae(latent) if kind == "vae" else paper_rae(latent)
    objective: VAEObjective | RAEObjective = VAE_OBJECTIVE if kind == "vae" else RAE_OBJECTIVE
    train.rows(modality, torch.arange(1))

    def batch(draw: Draw) -> dict[str, Tensor]:
        return {"x": pictures(train, modality, draw.indices(len(train)))}

    settings = {"modality": modality, "kind": kind, "latent": latent, "objective": asdict(objective)}
    fit(codec, batch, objective, config, out=Path(out) / f"run-{modality}", progress=progress, facts=settings)
    with torch.no_grad():
        means = [codec.eval().encode(pictures(train, modality, rows)) for rows in torch.arange(len(train)).split(2000)]
        codec.fit_statistics(torch.cat(means))
    save_module(codec, Path(out) / modality, meta={"dataset": "PolyMNIST, train split", **settings, "training": asdict(config)})
    return codec


def train_paper_joint(
    codecs: str | os.PathLike[str] = "runs/polymnist/paper-codecs",
    out: str | os.PathLike[str] = "runs/polymnist/paper",
    modalities: int = 10,
    backgrounds: str | None = None,
    data: str | None = None,
    dim: int | None = None,
    start: Literal["noise", "moments"] = "noise",
    steps: int = 100,
    conditioning: Mode = "scaled",
    batch_norms: bool = False,
    config: TrainConfig = JOINT_TRAINING,
    progress: bool = True,
) -> Composer:
    """Train the paper's joint score over posterior means, and save the Composer whose defaults are the paper's sampler.

    Args:
        codecs: folder with m0.json, m1.json, ..., of latents with one square number of entries. dim: channels of the UNet, default the
            paper's. start: "moments" begins at the right mean and covariance of t = 1 (`MomentStart`); the paper begins at noise.
        steps, conditioning, batch_norms: as in `paper_sampling`.

    Raises:
        DataError: MNIST is not there. CheckpointError: a codec is not there. PolyscoreError: latents that cannot be stacked, and as
            `polyscore.training.fit`.
    """
    torch.manual_seed(config.seed)
    train = load_polymnist("train", modalities, backgrounds, data)
    parts: dict[str, Codec] = {name: load_module(Path(codecs) / name, Codec) for name in train.names}
    shapes = {name: codec.latent_shape for name, codec in parts.items()}
    score = StackedDenoiser(shapes, dim=dim)
    means = {name: value[:, 0] for name, value in encode_all(parts, train).items()}
    fit(score, Samples(means), JOINT, config, out=Path(out) / "run", progress=progress, facts={"objective": asdict(JOINT), "dim": dim})
    begin = MomentStart(shapes).fit(means) if start == "moments" else None
    meta = {"recipe": "polymnist, the paper's setting", "modalities": modalities, "dim": dim, "training": asdict(config)}
    media = {name: {"kind": "image"} for name in parts}
    composer = Composer(parts, score.eval(), paper_sampling(steps, batch_norms, conditioning), media, meta, start=begin)
    composer.save(out, dtype=torch.float16)
    return composer
