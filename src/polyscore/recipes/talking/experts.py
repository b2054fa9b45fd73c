"""Base models of talking digits, trained apart on unpaired clips, and the ratios that join them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyscore.checkpoint import load_module, save_module
from polyscore.codecs import VAE
from polyscore.data.digits import Labelled
from polyscore.data.talking import Clips, Domain, Speech, digits_of, talking_clips
from polyscore.denoisers import Denoiser, Independent
from polyscore.networks.mlp import JointDenoiser
from polyscore.networks.ratio import RatioMLP
from polyscore.ratios.discriminator import Discriminator
from polyscore.recipes.talking.codecs import LATENT, MODALITIES, Stream, items, load_parts, mel
from polyscore.training import Draw, Samples, TrainConfig, fit
from polyscore.training.discriminator import DiscriminatorObjective
from polyscore.training.fakes import make_fakes
from polyscore.training.join import train_discriminator
from polyscore.training.joint import JointObjective

__all__ = ["DOMAINS", "TalkingSize", "encode_pairs", "joint_base", "load_bases", "train_bases", "train_talking_ratio"]

DOMAINS = {"IND": Domain(), "OOD": Domain((4, 5), (0.7, 1.0))}
"""The base models know four voices and the lighter handwriting; OOD pairs have the two other voices and the bolder handwriting."""
BASE_TRAINING = TrainConfig(steps=4000, batch_size=128, lr=1e-3, ema=0.998, checkpoint_every=1000, log_every=200)
RATIO_TRAINING = TrainConfig(steps=1500, batch_size=256, lr=1e-3, ema=0.998, checkpoint_every=500, log_every=100)


@dataclass(frozen=True)
class TalkingSize:
    """How much of everything.

    Args:
        clips: unpaired training clips a base model. pairs: paired clips a discriminator. fakes: of the bases. width, depth: of a base.
    """

    clips: int = 20000
    pairs: int = 10000
    fakes: int = 5000
    width: int = 384
    depth: int = 4
    steps: int = 20


def _of(modality: str, domain: Domain, split: str, data: str | None) -> Labelled | Speech:
    """The pictures or recordings of a domain."""
    known = items(modality, split, data)
    if isinstance(known, Speech):
        rows = torch.isin(known.speakers, torch.tensor(domain.speakers))
        return Speech(known.x[rows], known.labels[rows], known.speakers[rows])
    rows = digits_of(known.x, known.labels, domain)
    return Labelled(known.x[rows], known.labels[rows])


@torch.no_grad()
def _unpaired(codec: VAE, modality: str, n: int, data: str | None, seed: int) -> Tensor:
    stream = Stream(modality, _of(modality, DOMAINS["IND"], "train", data), augment=False)
    parts = [codec.encode(stream(Draw(seed, i, 250))[modality]) for i in range(-(-n // 250))]
    return torch.cat(parts)[:n]


@torch.no_grad()
def encode_pairs(codecs: dict[str, VAE], clips: Clips) -> dict[str, Tensor]:
    """Latents of paired clips, {modality: (N, latent)}."""
    front = mel()
    video = torch.cat([codecs["video"].encode(part) for part in clips.video.split(250)])
    return {"video": video, "sound": torch.cat([codecs["sound"].encode(front.encode(part)) for part in clips.sound.split(250)])}


def _denoiser(names: tuple[str, ...], size: TalkingSize) -> JointDenoiser:
    return JointDenoiser({name: (LATENT[name],) for name in names}, width=size.width, depth=size.depth, hidden=2 * size.width)


def train_bases(out: str, size: TalkingSize, config: TrainConfig = BASE_TRAINING, data: str | None = None, progress: bool = True) -> None:
    """Train a denoiser of each modality on clips of its own, and for the in-domain case one of both on pairs; saved as `out`/base-NAME."""
    codecs, _ = load_parts(out)
    for place, name in enumerate(MODALITIES):
        torch.manual_seed(config.seed + place)
        latents = _unpaired(codecs[name], name, size.clips, data, 1000 + place)
        _fit(_denoiser((name,), size), {name: latents}, JointObjective(), config, Path(out) / f"base-{name}", progress)
    torch.manual_seed(config.seed + 9)
    pairs = encode_pairs(codecs, talking_clips(size.pairs, DOMAINS["IND"], 31, "train", data))
    together = JointObjective(joint=1.0, apart=0.0)
    _fit(_denoiser(MODALITIES, size), pairs, together, config, Path(out) / "base-joint", progress)


def _fit(module: JointDenoiser, latents: dict[str, Tensor], objective: Any, config: TrainConfig, path: Path, progress: bool) -> None:
    fit(module, Samples(latents), objective, config, out=path.with_name(f"run-{path.name}"), progress=progress)
    save_module(module, path, meta={"recipe": "talking digits", "steps": config.steps, "clips": len(next(iter(latents.values())))})


def load_bases(out: str | Path) -> Independent:
    """The two base models side by side."""
    return Independent(*(load_module(Path(out) / f"base-{name}", Denoiser) for name in MODALITIES))


def joint_base(out: str | Path) -> Denoiser:
    """The one base model of both, for the in-domain case (the paper's Table 2)."""
    found: Denoiser = load_module(Path(out) / "base-joint", Denoiser)
    return found


def train_talking_ratio(
    out: str,
    case: str,
    base: Denoiser,
    domain: Domain,
    weights: tuple[float, float],
    size: TalkingSize,
    seed: int = 0,
    config: TrainConfig = RATIO_TRAINING,
    data: str | None = None,
    progress: bool = True,
) -> Discriminator:
    """Train the discriminator of a case on pairs of a domain and save it as `out`/CASE-SEED/ratio.

    Args:
        weights: of L_disc and L_denoise.
    """
    codecs, _ = load_parts(out)
    kind = "joint" if not isinstance(base, Independent) else "apart"
    fakes = make_fakes(base, size.fakes, Path(out) / f"fakes-{kind}-{seed}", seed=8000 + seed, steps=size.steps)
    real = encode_pairs(codecs, talking_clips(size.pairs, domain, 500 + seed, "train", data))
    torch.manual_seed(seed)
    network = RatioMLP({name: (LATENT[name],) for name in MODALITIES}, width=256, depth=2, hidden=256, embed=32)
    objective = DiscriminatorObjective(base, *weights, dropout=0.0)
    folder = Path(out) / f"{case}-{seed}"
    return train_discriminator(
        base, real, fakes, folder, network=network, objective=objective, config=replace(config, seed=seed), held_out=0.05, progress=progress
    )
