"""The joint score over the latents of a user's autoencoders, as a network or in closed form, with whatever modalities are missing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyscore.checkpoint import load_module
from polyscore.codecs import Codec
from polyscore.composer import Composer
from polyscore.data.loader import FolderData, missing
from polyscore.denoisers import Denoiser
from polyscore.errors import DataError, PolyscoreError
from polyscore.networks.mlp import JointDenoiser
from polyscore.recipes.latents import Mixture, Network, fit_mixture, train_score
from polyscore.training import TrainConfig
from polyscore.training.joint import JointObjective

__all__ = ["JOINT_TRAINING", "OBJECTIVE", "Encoded", "encode_folder", "train_own_joint"]

JOINT_TRAINING = TrainConfig(steps=3000, batch_size=256, lr=2e-3, ema=0.998, checkpoint_every=1000, log_every=250)
OBJECTIVE = JointObjective(joint=0.3, absent=0.3, even=True)


@dataclass(frozen=True)
class Encoded:
    """A data set in latents.

    Args:
        tuples: posteriors {NAME: (N, 2, *latent_shape)}, means and standard deviations, zeros where absent; tokens (N, *shape).
        masks: {NAME: (N,)}, True where present. shapes: of a latent. vocabularies: of the tokens.
    """

    tuples: dict[str, Tensor]
    masks: dict[str, Tensor]
    shapes: dict[str, tuple[int, ...]]
    vocabularies: dict[str, int]

    @property
    def gone(self) -> dict[str, Tensor]:
        """{NAME_missing: (N,)}, True where absent."""
        return missing(self.masks)


def train_own_joint(
    data: str | os.PathLike[str],
    codecs: str | os.PathLike[str] = "runs/own/codecs",
    out: str | os.PathLike[str] = "runs/own/joint",
    modalities: Sequence[str] | None = None,
    closed: bool = False,
    contrastive: int = 0,
    guidance: float = 1.0,
    network: Network | None = None,
    mixture: Mixture | None = None,
    objective: JointObjective = OBJECTIVE,
    config: TrainConfig = JOINT_TRAINING,
    encoders: TrainConfig | None = None,
    progress: bool = True,
) -> Composer:
    """Train the joint score over the latents of autoencoders trained apart, and save the Composer in `out`. No label is read.

    Missing modalities are told to the network (their time is 1, they carry no loss), or left out of the closed form's fit. Tokens need no
    codec.

    Args:
        data: folder that `prepare_folder` wrote. codecs: folder of its autoencoders. modalities: some of the data's; default all.
        closed: fit a mixture of Gaussians in groups found by contrast (`fit_mixture`) instead of training a network.
        contrastive: size of the contrastive embedding of what is observed ("-T"); 0 for none. guidance: default strength of `sample`.
        encoders: training of the contrastive encoders.

    Raises:
        DataError: no such data or modality, or no sample with two of them. CheckpointError: a codec is not there.
        PolyscoreError: a codec of other data, groups with too few samples, and as `fit`.
    """
    torch.manual_seed(config.seed)
    source, network, mixture = FolderData(data), network or Network(), mixture or Mixture()
    names = _names(source, modalities)
    parts: dict[str, Codec] = {n: _codec(Path(codecs), n, source) for n in names if source.modalities[n]["kind"] != "tokens"}
    if (closed or contrastive) and len(parts) < 2:
        raise PolyscoreError(f"contrastive encoders: expected two modalities that are not tokens, found {sorted(parts)}")
    found = encode_folder(parts, source, names, list(parts) if closed else names)
    facts: dict[str, Any] = {"modalities": names, "data": source.fingerprint}
    meta: dict[str, Any] = {"recipe": "own", **facts, "samples": {n: int(mask.sum()) for n, mask in found.masks.items()}}
    defaults: dict[str, Any]
    if closed:
        unfitted = mixture.unfitted(found.shapes, found.vocabularies)
        denoiser: Denoiser = fit_mixture(
            found.tuples, found.gone, unfitted, mixture, out, config.seed, encoders=encoders, progress=progress
        )
        meta, defaults = meta | {"mixture": asdict(mixture), "seed": config.seed}, {"steps": 8}
    else:
        raw = JointDenoiser(found.shapes, **asdict(network), context=contrastive, vocabularies=found.vocabularies)
        facts |= {"network": asdict(network), "objective": asdict(objective), "contrastive": contrastive}
        tuples = found.tuples | found.gone
        denoiser = train_score(tuples, raw, objective, config, out, contrastive, None, encoders, facts, progress).cpu()
        meta, defaults = meta | facts | {"training": asdict(config)}, {"steps": 20, "guidance": guidance}
    composer = Composer(parts, denoiser, defaults, {n: _media(source.modalities[n]) for n in names}, meta)
    composer.save(out)
    return composer


@torch.no_grad()
def encode_folder(codecs: Mapping[str, Codec], data: FolderData, names: Sequence[str], needed: Sequence[str]) -> Encoded:
    """The samples with at least one of the modalities `needed`, in latents.

    Raises:
        DataError: no sample with two modalities, or tokens without a vocabulary.
    """
    masks = {name: data.mask(name) for name in names}
    rows = torch.stack([masks[name] for name in needed]).any(0).nonzero()[:, 0]
    masks = {name: mask[rows] for name, mask in masks.items()}
    if not len(rows) or int(torch.stack(list(masks.values())).sum(0).max()) < 2:
        raise DataError(f"{data.folder}: expected samples with two of the modalities {', '.join(names)}, found none")
    tuples, shapes, vocabularies = dict[str, Tensor](), dict[str, tuple[int, ...]](), dict[str, int]()
    for name in names:
        spec = data.modalities[name]
        codec = codecs.get(name)
        if codec is None:
            if "vocabulary" not in spec:
                raise DataError(f"{name}: expected tokens prepared with a `vocabulary`, found none in {data.folder}")
            vocabularies[name], shapes[name] = int(spec["vocabulary"]), tuple(spec["shape"])
            tuples[name] = data.values(name, rows.tolist())
            continue
        shapes[name] = tuple(codec.latent_shape)
        tuples[name] = torch.zeros(len(rows), 2, *shapes[name])
        for part in masks[name].nonzero()[:, 0].split(256):
            tuples[name][part] = torch.stack(codec.posterior(data.values(name, rows[part].tolist())), 1)
    return Encoded(tuples, masks, shapes, vocabularies)


def _names(data: FolderData, chosen: Sequence[str] | None) -> list[str]:
    names = list(data.modalities) if chosen is None else list(chosen)
    unknown = [name for name in names if name not in data.modalities]
    if unknown or len(set(names)) < 2:
        found = repr(unknown[0]) if unknown else ", ".join(names) or "none"
        raise DataError(f"{data.folder}: expected two or more of the modalities {', '.join(data.modalities)}, found {found}")
    return names


def _codec(folder: Path, name: str, data: FolderData) -> Codec:
    codec: Codec = load_module(folder / name, Codec)
    shape = tuple(data.modalities[name]["shape"])
    if tuple(codec.data_shape) != shape:
        raise PolyscoreError(f"{folder / name}: expected a codec of data of shape {shape}, found {tuple(codec.data_shape)}")
    return codec


def _media(spec: Mapping[str, Any]) -> dict[str, Any]:
    """How the modality's files are read and written: as they were prepared."""
    return {key: value for key, value in spec.items() if key not in ("shape", "vocabulary")}
