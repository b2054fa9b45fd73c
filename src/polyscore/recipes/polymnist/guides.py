"""What guides a PolyMNIST Composer: pairwise energies ("-C"), and a discriminator between real tuples and the Composer's own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from polyscore.checkpoint import save_module
from polyscore.composer import Composer
from polyscore.data.polymnist import load_polymnist
from polyscore.denoisers import Denoiser
from polyscore.errors import PolyscoreError
from polyscore.guided import Guided
from polyscore.networks.ratio import RatioMLP, RatioTwins
from polyscore.ratios.energy import PairEnergy
from polyscore.ratios.subset import SubsetGuided
from polyscore.recipes.polymnist.joint import drop, encode_all
from polyscore.training import TrainConfig, draw_latents, fit
from polyscore.training.discriminator import DiscriminatorObjective
from polyscore.training.energy import EnergyObjective, Strangers
from polyscore.training.fakes import make_fakes
from polyscore.training.join import train_discriminator

__all__ = ["DISCRIMINATOR_TRAINING", "ENERGY_TRAINING", "Energies", "Opponent", "train_poly_discriminator", "train_poly_energy"]

ENERGY_TRAINING = TrainConfig(steps=3000, batch_size=256, lr=1e-3, ema=0.998, checkpoint_every=1000, log_every=250)
DISCRIMINATOR_TRAINING = TrainConfig(steps=2000, batch_size=256, lr=1e-3, ema=0.998, checkpoint_every=500, log_every=250)
LEADING = ("leaders", "rest", "again")


@dataclass(frozen=True)
class Energies:
    """The energies' size, and how they guide the Composer.

    Args:
        width: of the network. scale: of the guidance, per sample (the authors' 1000 at a batch of 256 is 3.9).
        pairs: "observed" (every observed with every generated modality; all pairs where nothing is observed), "all" (every pair with a
            generated modality) or "random" (one of those of "observed" a step). reduction: "mean" or "sum" over the partners.
    """

    width: int = 192
    scale: float = 1.0
    pairs: Literal["observed", "all", "random"] = "observed"
    reduction: Literal["mean", "sum"] = "mean"


@dataclass(frozen=True)
class Opponent:
    """What the discriminator is, what it tells apart, and how it guides.

    Args:
        network: "mlp" (all latents together) or "twins" (inner products of what each modality shows). width: of it.
        base: whose samples are the fakes, and what is guided then: the "joint" law of the Composer, or the product of its "marginals".
        fakes: how many. steps: of their sampling. denoise: weight of the denoising loss. scale: of the guidance.
    """

    network: Literal["mlp", "twins"] = "mlp"
    width: int = 192
    base: Literal["joint", "marginals"] = "joint"
    fakes: int = 10000
    steps: int = 20
    denoise: float = 1.0
    scale: float = 1.0


def train_poly_energy(
    model: str | os.PathLike[str] = "runs/polymnist/joint",
    out: str | os.PathLike[str] = "runs/polymnist/energy",
    modalities: int = 5,
    backgrounds: str | None = None,
    data: str | None = None,
    checked: bool = False,
    missing: float | Mapping[str, float] = 0.0,
    energies: Energies | None = None,
    objective: EnergyObjective | None = None,
    config: TrainConfig = ENERGY_TRAINING,
    progress: bool = True,
) -> PairEnergy:
    """Train the pairwise energies on the latents of a Composer's codecs; save them as `out`/energy, and in `out` the Composer that they
    guide (float16).

    Args:
        checked: negatives are never of the same class (this reads labels). missing: as in `drop`.

    Raises:
        DataError: MNIST is not there. CheckpointError: no such Composer. PolyscoreError: as `polyscore.training.fit` and `drop`.
    """
    torch.manual_seed(config.seed)
    composer = Composer.load(model)
    train = load_polymnist("train", modalities, backgrounds, data)
    tuples = encode_all(composer.codecs, train) | drop(train.names, len(train), missing, config.seed)
    source = Strangers(tuples, train.labels if checked else None)
    size, objective = energies or Energies(), objective or EnergyObjective()
    base: Denoiser = composer.denoiser
    energy = PairEnergy(base.shapes, next(iter(base.paths.values())), size.width, size.pairs, size.reduction)
    settings = {"objective": asdict(objective), "checked": checked, "missing": missing, "width": size.width}
    fit(energy, source, objective, config, out=Path(out) / "run", progress=progress, facts=settings)
    facts = {**settings, "energies": asdict(size), "training": asdict(config)}
    save_module(energy, Path(out) / "energy", dtype=torch.float16, meta=facts)
    _save(composer, Guided(base, energy.eval(), size.scale), out, {"energy": facts}, composer.defaults)
    return energy


def train_poly_discriminator(
    model: str | os.PathLike[str] = "runs/polymnist/joint",
    out: str | os.PathLike[str] = "runs/polymnist/discriminator",
    modalities: int = 5,
    backgrounds: str | None = None,
    data: str | None = None,
    opponent: Opponent | None = None,
    config: TrainConfig = DISCRIMINATOR_TRAINING,
    progress: bool = True,
) -> Composer:
    """Train a discriminator between real latent tuples and a Composer's own samples; save it as `out`/ratio, and in `out` the Composer
    that it guides (float16). No label is read.

    Half of the rows see 1 to M - 1 modalities at t = 0, so that the ratio serves conditional sampling too. The Composer has no `leaders`:
    the discriminator has not met modalities that are left out.

    Raises:
        DataError: MNIST is not there. CheckpointError: no such Composer. PolyscoreError: a Composer without marginals where they are
            asked for, and as `polyscore.training.join.train_discriminator`.
    """
    torch.manual_seed(config.seed)
    composer, size = Composer.load(model), opponent or Opponent()
    base = _base(composer.denoiser, size.base)
    train = load_polymnist("train", modalities, backgrounds, data)
    generator = torch.Generator().manual_seed(config.seed)
    real = {name: draw_latents(value, generator) for name, value in encode_all(composer.codecs, train).items()}
    fakes = make_fakes(base, size.fakes, Path(out) / "fakes", seed=config.seed + 1, steps=size.steps)
    shapes = {name: tuple(value.shape[1:]) for name, value in real.items()}
    network = RatioTwins(shapes, width=size.width) if size.network == "twins" else RatioMLP(shapes, width=size.width)
    objective = DiscriminatorObjective(base, denoise=size.denoise, dropout=0.0, observed=0.5, most=len(shapes) - 1)
    ratio = train_discriminator(
        base, real, fakes, out, network=network, objective=objective, config=config, progress=progress, facts={"opponent": asdict(size)}
    )
    defaults = {key: value for key, value in composer.defaults.items() if key not in LEADING}
    facts = {"opponent": asdict(size), "training": asdict(config)}
    return _save(composer, Guided(base, ratio, size.scale), out, {"discriminator": facts}, defaults)


def _base(denoiser: Denoiser, which: str) -> Denoiser:
    if which == "joint":
        return denoiser
    if not isinstance(denoiser, SubsetGuided) or denoiser.marginals is None:
        raise PolyscoreError(f"discriminator: expected a Composer with marginals (train sbm-joint), found {type(denoiser).__name__}")
    return denoiser.marginals


def _save(
    composer: Composer, guided: Guided, out: str | os.PathLike[str], meta: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Composer:
    """The Composer with another denoiser, saved in `out`."""
    composer.denoiser, composer.defaults, composer.meta = guided, dict(defaults), {**composer.meta, **meta}
    composer.save(out, dtype=torch.float16)
    return composer
