"""The joint denoiser of the digits recipe: one network over the latents of both codecs, and the Composer that holds them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyscore.checkpoint import load_module
from polyscore.codecs import VAE, Chain, Codec, LogMel
from polyscore.composer import Composer
from polyscore.data.digits import RATE, load_fsdd, load_mnist
from polyscore.denoisers import Averaged, Denoiser
from polyscore.networks.mixture import JointMixture
from polyscore.networks.mlp import JointDenoiser
from polyscore.recipes.digits.codecs import SpeechChange
from polyscore.training import Draw, Pairs, TrainConfig, draw_latents, fit
from polyscore.training.joint import JointObjective

__all__ = [
    "DEFAULTS",
    "JOINT_TRAINING",
    "MEDIA",
    "OBJECTIVE",
    "Mixture",
    "Network",
    "average_with_mixture",
    "latents_of_images",
    "latents_of_speech",
    "train_joint",
]

JOINT_TRAINING = TrainConfig(steps=20000, batch_size=256, lr=1e-3, ema=0.999, checkpoint_every=2000, log_every=500)
OBJECTIVE = JointObjective()
DEFAULTS: dict[str, Any] = {"steps": 20, "guidance": 0.3, "solver": {"image": "dpmpp_sde", "speech": "dpmpp"}}
MEDIA: dict[str, dict[str, Any]] = {
    "image": {"kind": "image", "prepare": "digit"},
    "speech": {"kind": "audio", "rate": RATE, "prepare": "clip"},
}


@dataclass(frozen=True)
class Network:
    """Size of a joint denoiser's residual MLP."""

    width: int = 384
    depth: int = 3
    hidden: int = 512
    embed: int = 96
    dropout: float = 0.0


@dataclass(frozen=True)
class Mixture:
    """The mixtures of Gaussians that are averaged with the network.

    Args:
        pictures, sounds: components for each digit. image, speech: their weight in the predictions of each modality, the rest is the
            network's.
    """

    pictures: int = 12
    sounds: int = 3
    image: float = 1.0
    speech: float = 0.25


def train_joint(
    codecs: str = "runs/digits-codecs",
    out: str = "runs/digits-joint",
    data: str | None = None,
    network: Network | None = None,
    mixture: Mixture | None = None,
    objective: JointObjective | None = None,
    copies: int = 4,
    config: TrainConfig = JOINT_TRAINING,
    defaults: dict[str, Any] | None = None,
    progress: bool = True,
) -> Composer:
    """Train the joint denoiser on pairs of the same digit, average it with mixtures of Gaussians in closed form, and save the Composer in
    `out` (float16).

    Args:
        codecs: folder with image.json and speech.json, as the codec recipes save them.
        data: folder of the data sets; default: the environment variable POLYSCORE_DATA.
        network: its size. mixture: sizes and weights of the mixtures. objective: how times are drawn.
        copies: augmented copies of every recording. defaults: of the Composer's `sample`.

    Raises:
        DataError: MNIST or FSDD is not there. CheckpointError: a codec is not there. PolyscoreError: as `polyscore.training.fit`.
    """
    torch.manual_seed(config.seed)
    parts: dict[str, Codec] = {name: load_module(Path(codecs) / name, Codec) for name in ("image", "speech")}
    network, mixture, objective = network or Network(), mixture or Mixture(), objective or OBJECTIVE
    images, sounds = load_mnist("train", data), load_fsdd("train", data)
    pairs = Pairs(
        {
            "image": (latents_of_images(parts["image"], images.x), images.labels),
            "speech": (latents_of_speech(parts["speech"], sounds.x, copies, config.seed), sounds.labels.repeat(copies)),
        }
    )
    denoiser = JointDenoiser({name: codec.latent_shape for name, codec in parts.items()}, **asdict(network))
    settings = {"network": asdict(network), "objective": asdict(objective), "copies": copies}
    fit(denoiser, pairs, objective, config, out=Path(out) / "run", progress=progress, facts=settings)
    meta = {"recipe": "digits", "dataset": "MNIST and FSDD, train splits, paired by digit", **settings, "training": asdict(config)}
    meta |= {"mixture": asdict(mixture)}
    whole = average_with_mixture(denoiser.eval(), pairs, mixture, config.seed)
    composer = Composer(parts, whole, DEFAULTS if defaults is None else defaults, MEDIA, meta)
    composer.save(out, dtype=torch.float16)
    return composer


def average_with_mixture(denoiser: Denoiser, pairs: Pairs, mixture: Mixture, seed: int = 0) -> Averaged:
    """The denoiser, averaged with a `JointMixture` fitted to the same latents and their digits."""
    generator = torch.Generator().manual_seed(seed)
    latents = {name: draw_latents(posterior, generator) for name, (posterior, _) in pairs.sets.items()}
    closed = JointMixture(denoiser.shapes, {"image": 10 * mixture.pictures, "speech": 10 * mixture.sounds}, groups=10)
    closed.fit(latents, {name: labels for name, (_, labels) in pairs.sets.items()}, seed)
    weights = {name: [1 - share, share] for name, share in (("image", mixture.image), ("speech", mixture.speech))}
    return Averaged(denoiser, closed, weights=weights)


@torch.no_grad()
def latents_of_images(codec: Codec, x: Tensor) -> Tensor:
    """Posterior means and standard deviations, (N, 2, latent)."""
    assert isinstance(codec, VAE)
    return torch.cat([torch.stack(codec.posterior(part), 1) for part in x.split(500)])


@torch.no_grad()
def latents_of_speech(codec: Codec, x: Tensor, copies: int = 1, seed: int = 0, strength: float = 0.4) -> Tensor:
    """Posterior means and standard deviations of augmented recordings, (copies * N, 2, latent); the first copy is the recording itself.

    `strength` is relative to the codec's augmentation: changes as strong as those are heard in what the joint denoiser generates.
    """
    assert isinstance(codec, Chain)
    front, vae = codec.stages
    assert isinstance(front, LogMel) and isinstance(vae, VAE)
    change = SpeechChange(front).scaled(strength)
    found = []
    for copy in range(copies):
        for start in range(0, len(x), 300):
            part = x[start : start + 300]
            mel = front.encode(part) if copy == 0 else change(part, Draw(seed, copy * len(x) + start, len(part)))
            found.append(torch.stack(vae.posterior(mel), 1))
    return torch.cat(found)
