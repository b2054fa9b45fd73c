"""Base models of talking digits, trained apart on unpaired clips, and the ratios that join them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyscore.checkpoint import load_module, save_module
from polyscore.codecs.clips import FPS, RATE
from polyscore.composer import Composer
from polyscore.denoisers import Denoiser, Independent
from polyscore.guided import Guided
from polyscore.networks.mlp import JointDenoiser
from polyscore.ratios.discriminator import Discriminator
from polyscore.recipes.mmdisco.ratio import latent_ratio
from polyscore.recipes.stored import is_stored, trained
from polyscore.recipes.talking.clips import MODALITIES, clip_codecs, compose, load_bank
from polyscore.training import Samples, TrainConfig, fit
from polyscore.training.joint import JointObjective

__all__ = [
    "BASE_TRAINING",
    "RATIO_TRAINING",
    "TalkingSize",
    "joint_base",
    "load_bases",
    "talking_composer",
    "train_bases",
    "train_talking_ratio",
]

BASE_TRAINING = TrainConfig(steps=2500, batch_size=128, lr=1e-3, ema=0.998, checkpoint_every=1000, log_every=200)
RATIO_TRAINING = TrainConfig(steps=3500, batch_size=512, lr=1e-3, ema=0.998, checkpoint_every=1000, log_every=200)


@dataclass(frozen=True)
class TalkingSize:
    """How much of everything.

    Args:
        clips: unpaired training clips a base model. pairs: paired clips a discriminator. fakes: of the bases.
        width, depth: of a base model. ratio, blocks: width and depth of a discriminator's streams. steps: of the sampler.
        scale: of the guidance.
    """

    clips: int = 40000
    pairs: int = 40000
    fakes: int = 5000
    width: int = 320
    depth: int = 3
    ratio: int = 96
    blocks: int = 1
    steps: int = 20
    scale: float = 3.0


def _denoiser(shapes: dict[str, tuple[int, ...]], size: TalkingSize) -> JointDenoiser:
    return JointDenoiser(shapes, width=size.width, depth=size.depth, hidden=2 * size.width, embed=96)


def train_bases(out: str, size: TalkingSize, config: TrainConfig = BASE_TRAINING, data: str | None = None, progress: bool = True) -> None:
    """Train a denoiser of each modality on clips of its own, and for the in-domain case one of both on pairs; saved as `out`/base-NAME.

    What is there already is kept, if it was made so.

    Raises:
        PolyscoreError: a base model that is there was made otherwise.
    """
    bank = load_bank(out, "IND", data)
    apart = compose(bank, size.clips, 1000, paired=False)
    for place, name in enumerate(MODALITIES):
        _fit({name: apart[name]}, JointObjective(), replace(config, seed=config.seed + place), size, Path(out) / f"base-{name}", progress)
    together = JointObjective(joint=1.0, apart=0.0)
    joint_config = replace(config, seed=config.seed + 9)
    _fit(compose(bank, size.pairs, 31), together, joint_config, size, Path(out) / "base-joint", progress)


def _fit(latents: dict[str, Tensor], objective: Any, config: TrainConfig, size: TalkingSize, path: Path, progress: bool) -> None:
    torch.manual_seed(config.seed)
    module = _denoiser({name: tuple(value.shape[1:]) for name, value in latents.items()}, size)
    meta = {"recipe": "talking digits", "steps": config.steps, "clips": len(next(iter(latents.values()))), "training": trained(config)}
    if is_stored(path, meta, module):
        return
    fit(module, Samples(latents), objective, config, out=path.with_name(f"run-{path.name}"), progress=progress)
    save_module(module, path, meta=meta)


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
    domain: str,
    loss: str,
    size: TalkingSize,
    seed: int = 0,
    config: TrainConfig = RATIO_TRAINING,
    data: str | None = None,
) -> Discriminator:
    """Train the discriminator of a case on pairs of a domain and save it as `out`/CASE-LOSS-SEED/ratio; one made so is loaded."""
    fakes = Path(out) / f"fakes-{'apart' if isinstance(base, Independent) else 'joint'}-{seed}"
    sizes: dict[str, Any] = {"count": size.fakes, "steps": size.steps, "width": size.ratio, "depth": size.blocks}
    real = compose(load_bank(out, domain, data), size.pairs, 500 + seed)
    return latent_ratio(out, case, base, real, fakes, loss=loss, **sizes, seed=seed, config=config)


def talking_composer(out: str | Path, ratio: Discriminator, scale: float) -> Composer:
    """The two base models guided by a ratio, as a Composer whose videos are mp4 files with sound; saved in `out`/joined.

    A given modality is shown noised: the ratio knows one time for all.
    """
    media = {"video": {"kind": "video", "fps": FPS, "sound": "sound"}, "sound": {"kind": "audio", "rate": RATE}}
    defaults = {"steps": 20, "conditioning": "noised"}
    composer = Composer(clip_codecs(), Guided(load_bases(out), ratio, scale), defaults, media, {"recipe": "talking digits"})
    composer.save(Path(out) / "joined")
    return composer
