"""The joint score of the PolyMNIST recipe in closed form: what the modalities share is found by contrast, the rest are mixtures."""

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
from polyscore.data.polymnist import load_polymnist
from polyscore.networks.mixture import JointMixture
from polyscore.ratios.contrastive import ContrastiveEncoder
from polyscore.recipes.polymnist.joint import drop, encode_all, train_encoder
from polyscore.training import draw_latents

__all__ = ["DEFAULTS", "Mixture", "shared_groups", "train_poly_mixture"]

DEFAULTS: dict[str, Any] = {"steps": 8}


@dataclass(frozen=True)
class Mixture:
    """Size of the closed form.

    Args:
        groups: what the modalities can share; more than there are kinds of things do no harm. components: of each modality in each group.
        contrastive: size of the embedding in which the groups are found.
    """

    groups: int = 20
    components: int = 6
    contrastive: int = 32

    def unfitted(self, shapes: Mapping[str, Sequence[int]]) -> JointMixture:
        """The law of these latents before it is fitted."""
        return JointMixture(shapes, dict.fromkeys(shapes, self.groups * self.components), self.groups)


def train_poly_mixture(
    codecs: str | os.PathLike[str] = "runs/polymnist/codecs",
    out: str | os.PathLike[str] = "runs/polymnist/mixture",
    modalities: int = 5,
    backgrounds: str | None = None,
    data: str | None = None,
    missing: float = 0.0,
    mixture: Mixture | None = None,
    encoder: str | os.PathLike[str] | None = None,
    seed: int = 0,
    defaults: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Composer:
    """Fit a `JointMixture` whose groups are clusters of contrastive embeddings, and save the Composer in `out`. No label is read.

    The encoders are trained by InfoNCE on the tuples as they are (`ContrastiveObjective`); k-means on the mean embedding of what there is
    of a tuple gives its group; each modality's latents in a group become a mixture of Gaussians.

    Args:
        codecs: folder with m0.json, m1.json, ... missing: share of the modalities of the training tuples that are left out at random.
        mixture: sizes. encoder: a saved one to use; None trains one. seed: of everything that is drawn.

    Raises:
        DataError: MNIST is not there. CheckpointError: a codec is not there. PolyscoreError: a group with too few tuples for a mixture.
    """
    torch.manual_seed(seed)
    mixture = mixture or Mixture()
    train = load_polymnist("train", modalities, backgrounds, data)
    parts: dict[str, Codec] = {name: load_module(Path(codecs) / name, Codec) for name in train.names}
    latents, gone = encode_all(parts, train), drop(train.names, len(train), missing, seed)
    shapes = {name: codec.latent_shape for name, codec in parts.items()}
    towers = (
        load_module(encoder, ContrastiveEncoder)
        if encoder
        else train_encoder(latents | gone, shapes, mixture.contrastive, out, seed, progress)
    )
    here = {name: ~gone[f"{name}_missing"] if gone else torch.ones(len(train), dtype=torch.bool) for name in train.names}
    groups = shared_groups(towers, latents, here, mixture.groups, seed)
    generator = torch.Generator().manual_seed(seed)
    closed = mixture.unfitted(shapes).fit(
        {name: draw_latents(latents[name][own], generator) for name, own in here.items()},
        {name: groups[own] for name, own in here.items()},
        seed,
    )
    meta = {"recipe": "polymnist", "modalities": modalities, "missing": missing, "mixture": asdict(mixture), "seed": seed}
    composer = Composer(parts, closed, dict(defaults or DEFAULTS), {name: {"kind": "image"} for name in parts}, meta)
    composer.save(out, dtype=torch.float16)
    return composer


@torch.no_grad()
def shared_groups(
    encoder: ContrastiveEncoder, latents: Mapping[str, Tensor], here: Mapping[str, Tensor], groups: int, seed: int = 0
) -> Tensor:
    """Clusters (N,) of the mean embedding of what is `here` {modality: (N,) bool} of each tuple (k-means)."""
    from sklearn.cluster import KMeans

    embedding = encoder.mean({name: value[:, 0] for name, value in latents.items()}, here)
    found = KMeans(groups, n_init=4, random_state=seed).fit(embedding.numpy())
    return torch.as_tensor(found.labels_).long()
