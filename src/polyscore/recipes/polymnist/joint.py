"""The joint score of the PolyMNIST recipe over the latents of autoencoders trained apart, and its marginals."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyscore.checkpoint import load_module, save_module
from polyscore.codecs import Codec
from polyscore.composer import Composer
from polyscore.data.polymnist import PolyMNIST, load_polymnist
from polyscore.errors import PolyscoreError
from polyscore.networks.alone import MarginalDenoiser
from polyscore.networks.mlp import JointDenoiser
from polyscore.ratios.subset import SubsetGuided
from polyscore.recipes.latents import Network as Size
from polyscore.recipes.latents import train_score
from polyscore.recipes.polymnist.codecs import pictures
from polyscore.training import Samples, TrainConfig, fit
from polyscore.training.joint import JointObjective

__all__ = ["DEFAULTS", "JOINT_TRAINING", "Network", "drop", "encode_all", "train_poly_joint"]

JOINT_TRAINING = TrainConfig(steps=3000, batch_size=256, lr=2e-3, ema=0.998, checkpoint_every=1000, log_every=250)
MARGINAL_TRAINING = TrainConfig(steps=1500, batch_size=256, lr=2e-3, ema=0.997, checkpoint_every=500, log_every=250)
DEFAULTS: dict[str, Any] = {"steps": 8, "leaders": {"m0": 4}, "rest": 5, "again": 4}
OBJECTIVE = JointObjective(joint=0.1, absent=0.0, apart=0.0, even=True)


@dataclass(frozen=True)
class Network(Size):
    """Size of the joint denoiser, and of the small nets of the marginals."""

    marginal_width: int = 128
    marginal_depth: int = 2


@dataclass(frozen=True)
class Guidance:
    """Subset guidance of the Composer: its strength and the times in which it acts."""

    strength: float = 2.0
    window: tuple[float, float] = (0.3, 1.0)


def train_poly_joint(
    codecs: str | os.PathLike[str] = "runs/polymnist/codecs",
    out: str | os.PathLike[str] = "runs/polymnist/joint",
    modalities: int = 5,
    backgrounds: str | None = None,
    data: str | None = None,
    missing: float | Mapping[str, float] = 0.0,
    contrastive: int = 0,
    marginals: str | os.PathLike[str] | None = None,
    encoder: str | os.PathLike[str] | None = None,
    network: Network | None = None,
    objective: JointObjective | None = None,
    guidance: Guidance | None = None,
    config: TrainConfig = JOINT_TRAINING,
    defaults: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Composer:
    """Train the joint score, the marginals and, for "-T", the contrastive encoders, on the tuples as they are (no label is read).

    Args:
        codecs: folder with m0.json, m1.json, ... missing: share of the modalities of the training tuples that are left out at random,
            or one a modality. contrastive: size of the contrastive embedding; 0 for none.
        marginals, encoder: saved ones to use; None trains them.
        guidance: with a strength of 0 no marginals are trained: per-modality times alone, as Bounoua et al. 2024 train (MLD).

    Raises:
        DataError: MNIST is not there. CheckpointError: a codec is not there. PolyscoreError: as `polyscore.training.fit`.
    """
    torch.manual_seed(config.seed)
    network, objective, guidance = network or Network(), objective or OBJECTIVE, guidance or Guidance()
    train = load_polymnist("train", modalities, backgrounds, data)
    parts: dict[str, Codec] = {name: load_module(Path(codecs) / name, Codec) for name in train.names}
    tuples = encode_all(parts, train) | drop(train.names, len(train), missing, config.seed)
    shapes = {name: codec.latent_shape for name, codec in parts.items()}
    size = {k: v for k, v in asdict(network).items() if not k.startswith("marginal")}
    settings = {"network": asdict(network), "objective": asdict(objective), "missing": missing, "contrastive": contrastive}
    denoiser = JointDenoiser(shapes, **size, context=contrastive)
    expert = train_score(tuples, denoiser, objective, config, out, contrastive, encoder, facts=settings, progress=progress)
    alone = load_module(marginals, MarginalDenoiser) if marginals else None
    if alone is None and guidance.strength:
        alone = _marginals(tuples, shapes, network, Path(out), config.seed, progress)
    meta = {"recipe": "polymnist", "modalities": modalities, **settings, "training": asdict(config)}
    guided = SubsetGuided(expert, guidance.strength, guidance.window, alone)
    media = {name: {"kind": "image"} for name in parts}
    composer = Composer(parts, guided, dict(defaults or DEFAULTS), media, meta)
    composer.save(out, dtype=torch.float16)
    return composer


def _marginals(
    tuples: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], network: Network, out: Path, seed: int, progress: bool
) -> MarginalDenoiser:
    model = MarginalDenoiser(shapes, width=network.marginal_width, depth=network.marginal_depth)
    config = replace(MARGINAL_TRAINING, seed=seed)
    fit(model, Samples(tuples), JointObjective(joint=1.0, apart=0.0), config, out=out / "run-marginals", progress=progress)
    save_module(model, out / "marginals", dtype=torch.float16, meta={"training": asdict(config)})
    return model.eval()


@torch.no_grad()
def encode_all(codecs: Mapping[str, Codec], data: PolyMNIST) -> dict[str, Tensor]:
    """Posterior means and standard deviations of all tuples, {modality: (N, 2, latent)}."""
    parts = torch.arange(len(data)).split(2000)
    return {name: torch.cat([torch.stack(codecs[name].posterior(pictures(data, name, rows)), 1) for rows in parts]) for name in data.names}


def drop(names: Sequence[str], n: int, share: float | Mapping[str, float], seed: int) -> dict[str, Tensor]:
    """{NAME_missing: (n,)}: each modality is missing with probability `share`, or its own of `share` (none: 0), but never all of a tuple.

    A tuple that would have nothing keeps one modality, drawn among those that are not always missing. Empty without any missing.

    Raises:
        PolyscoreError: an unknown modality, a share outside [0, 1], or nothing left.
    """
    own = share if isinstance(share, Mapping) else dict.fromkeys(names, share)
    if unknown := sorted(set(own) - set(names)):
        raise PolyscoreError(f"missing modality {unknown[0]!r}: expected one of {', '.join(names)}")
    shares = torch.tensor([float(own.get(name, 0.0)) for name in names])
    if not bool(((shares >= 0) & (shares <= 1)).all()) or bool((shares == 1).all()):
        raise PolyscoreError(f"missing: expected shares in [0, 1], not all 1, found {share}")
    if not bool(shares.any()):
        return {}
    draw = torch.Generator().manual_seed(seed + 77)
    gone = torch.rand(n, len(names), generator=draw) < shares
    empty = gone.all(1)
    kept = torch.arange(len(names))[shares < 1]
    gone[empty, kept[torch.randint(len(kept), (int(empty.sum()),), generator=draw)]] = False
    return {f"{name}_missing": gone[:, place] for place, name in enumerate(names)}
