"""The joint denoiser of the digits recipe: one network over the latents of both codecs, and the Composer that holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor

from polyscore.checkpoint import load_module
from polyscore.codecs import VAE, Chain, Codec, LogMel
from polyscore.composer import Composer
from polyscore.data.digits import RATE, load_fsdd, load_mnist
from polyscore.networks.mlp import JointDenoiser
from polyscore.paths import Path
from polyscore.recipes.digits.codecs import SpeechChange
from polyscore.training import Draw, Pairs, TrainConfig, fit
from polyscore.training.joint import JointObjective

__all__ = ["DEFAULTS", "JOINT_TRAINING", "MEDIA", "OBJECTIVE", "Network", "Trunk", "latents_of_images", "latents_of_speech", "train_joint"]

JOINT_TRAINING = TrainConfig(steps=12000, batch_size=256, lr=1e-3, ema=0.9995, checkpoint_every=2000, log_every=500)
OBJECTIVE = JointObjective()
DEFAULTS: dict[str, Any] = {"steps": 20, "guidance": 0.75}
MEDIA: dict[str, dict[str, Any]] = {
    "image": {"kind": "image", "prepare": "digit"},
    "speech": {"kind": "audio", "rate": RATE, "prepare": "clip"},
}


@dataclass(frozen=True)
class Trunk:
    """Size of a residual MLP."""

    width: int = 384
    depth: int = 3
    hidden: int = 448
    embed: int = 96
    dropout: float = 0.0


@dataclass(frozen=True)
class Network(Trunk):
    """Size of the joint denoiser; `pictures` and `sounds` are the components of its mixtures of Gaussians for each digit (0: none)."""

    pictures: int = 12
    sounds: int = 3

    def build(self, shapes: Mapping[str, Sequence[int]], path: Path | None = None) -> JointDenoiser:
        """A denoiser of latents of these shapes."""
        sizes = asdict(self)
        components = {"image": 10 * sizes.pop("pictures"), "speech": 10 * sizes.pop("sounds")}
        return JointDenoiser(shapes, path, **sizes, components={name: count for name, count in components.items() if count}, groups=10)


def train_joint(
    codecs: str = "runs/digits-codecs",
    out: str = "runs/digits-joint",
    data: str | None = None,
    network: Network | None = None,
    objective: JointObjective | None = None,
    copies: int = 4,
    config: TrainConfig = JOINT_TRAINING,
    defaults: dict[str, Any] | None = None,
    progress: bool = True,
) -> Composer:
    """Train the joint denoiser on pairs of the same digit and save the Composer in `out` (float16).

    Args:
        codecs: folder with image.json and speech.json, as the codec recipes save them.
        data: folder of the data sets; default: the environment variable POLYSCORE_DATA.
        objective: how times are drawn. copies: augmented copies of every recording. defaults: of the Composer's `sample`.

    Raises:
        DataError: MNIST or FSDD is not there. CheckpointError: a codec is not there. PolyscoreError: as `polyscore.training.fit`.
    """
    torch.manual_seed(config.seed)
    parts: dict[str, Codec] = {name: load_module(FilePath(codecs) / name, Codec) for name in ("image", "speech")}
    network, objective = network or Network(), objective or OBJECTIVE
    images, sounds = load_mnist("train", data), load_fsdd("train", data)
    pairs = Pairs(
        {
            "image": (latents_of_images(parts["image"], images.x), images.labels),
            "speech": (latents_of_speech(parts["speech"], sounds.x, copies, config.seed), sounds.labels.repeat(copies)),
        }
    )
    denoiser = network.build({name: codec.latent_shape for name, codec in parts.items()})
    generator = torch.Generator().manual_seed(config.seed)
    drawn = {name: _drawn(known, generator) for name, (known, _) in pairs.sets.items()}
    denoiser.fit_priors(drawn, {name: labels for name, (_, labels) in pairs.sets.items()}, config.seed)
    settings = {"network": asdict(network), "objective": asdict(objective), "copies": copies}
    fit(denoiser, pairs, objective, config, out=FilePath(out) / "run", progress=progress, facts=settings)
    meta = {"recipe": "digits", "dataset": "MNIST and FSDD, train splits, paired by digit", **settings, "training": asdict(config)}
    composer = Composer(parts, denoiser.eval(), DEFAULTS if defaults is None else defaults, MEDIA, meta)
    composer.save(out, dtype=torch.float16)
    return composer


def _drawn(posterior: Tensor, generator: torch.Generator) -> Tensor:
    mean, deviation = posterior.unbind(1)
    return mean + deviation * torch.randn(mean.shape, generator=generator)


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
