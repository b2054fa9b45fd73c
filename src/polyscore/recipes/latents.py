"""What recipes share from latents on: contrastive encoders, the joint score as a network, and the joint score in closed form."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyscore.checkpoint import load_module, save_module
from polyscore.denoisers import Expert
from polyscore.errors import PolyscoreError
from polyscore.networks.mixture import JointMixture
from polyscore.networks.mlp import JointDenoiser
from polyscore.ratios.contrastive import Contextual, ContrastiveEncoder
from polyscore.training import Samples, TrainConfig, draw_latents, fit
from polyscore.training.contrastive import ContrastiveObjective, Groups
from polyscore.training.draws import present
from polyscore.training.joint import JointObjective

__all__ = ["ENCODER_TRAINING", "Mixture", "Network", "fit_mixture", "shared_groups", "train_encoder", "train_score"]

ENCODER_TRAINING = TrainConfig(steps=1000, batch_size=4, lr=2e-3, ema=0.99, log_every=100)


@dataclass(frozen=True)
class Network:
    """Size of a joint denoiser. `heads`: > 0 for a transformer with a token for each modality, 0 for a residual MLP."""

    width: int = 384
    depth: int = 3
    hidden: int = 512
    embed: int = 128
    dropout: float = 0.0
    heads: int = 0


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

    def unfitted(self, shapes: Mapping[str, Sequence[int]], vocabularies: Mapping[str, int] | None = None) -> JointMixture:
        """The law of these latents before it is fitted; modalities with a vocabulary are tokens."""
        coded = [name for name in shapes if name not in (vocabularies or {})]
        return JointMixture(shapes, dict.fromkeys(coded, self.groups * self.components), self.groups, vocabularies=vocabularies)


def train_encoder(
    tuples: Mapping[str, Tensor],
    shapes: Mapping[str, Sequence[int]],
    dim: int,
    out: str | os.PathLike[str],
    seed: int = 0,
    config: TrainConfig | None = None,
    progress: bool = True,
) -> ContrastiveEncoder:
    """Train contrastive encoders on tuples {NAME: posteriors (N, 2, *shape), NAME_missing: (N,)}, and save them as `out`/encoder."""
    encoder, config = ContrastiveEncoder(shapes, dim), replace(config or ENCODER_TRAINING, seed=seed)
    fit(encoder, Groups(tuples, 128), ContrastiveObjective(), config, out=Path(out) / "run-encoder", progress=progress)
    save_module(encoder, Path(out) / "encoder", dtype=torch.float16, meta={"training": asdict(config)})
    return encoder.eval()


def train_score(
    tuples: Mapping[str, Tensor],
    denoiser: JointDenoiser,
    objective: JointObjective,
    config: TrainConfig,
    out: str | os.PathLike[str],
    contrastive: int = 0,
    encoder: str | os.PathLike[str] | None = None,
    encoders: TrainConfig | None = None,
    facts: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Expert | Contextual:
    """Train a joint denoiser on tuples as in `train_encoder`; with `contrastive` numbers of context it is told what is observed ("-T").

    Args:
        encoder: saved contrastive encoders to use; None trains them, by the configuration `encoders`, on the modalities that are not
            tokens.
        facts: what must stay when a run resumes.
    """
    expert: Expert | Contextual = denoiser
    if contrastive:
        vectors = {name: shape for name, shape in denoiser.shapes.items() if tuples[name].is_floating_point()}
        found = load_module(encoder, ContrastiveEncoder) if encoder else None
        expert = Contextual(denoiser, found or train_encoder(tuples, vectors, contrastive, out, config.seed, encoders, progress))
    fit(expert, Samples(tuples), objective, config, out=Path(out) / "run", progress=progress, facts=facts)
    return expert.eval()


def fit_mixture(
    latents: Mapping[str, Tensor],
    gone: Mapping[str, Tensor],
    closed: JointMixture,
    mixture: Mixture,
    out: str | os.PathLike[str],
    seed: int = 0,
    encoder: str | os.PathLike[str] | None = None,
    encoders: TrainConfig | None = None,
    progress: bool = True,
) -> JointMixture:
    """Fit a `JointMixture` whose groups are clusters of contrastive embeddings. No label is read.

    The encoders are trained by InfoNCE on the tuples as they are (`ContrastiveObjective`); k-means on the mean embedding of what there is
    of a tuple gives its group; each modality's latents in a group become a mixture of Gaussians.

    Args:
        latents: posteriors (N, 2, *shape), or tokens (N, *shape). gone: {NAME_missing: (N,)}; without it nothing is missing.
        closed: the unfitted law. encoder: saved contrastive encoders to use; None trains them, by `encoders`.

    Raises:
        PolyscoreError: a group with too few tuples for a mixture.
    """
    vectors = {name: shape for name, shape in closed.shapes.items() if latents[name].is_floating_point()}
    towers = (
        load_module(encoder, ContrastiveEncoder)
        if encoder
        else train_encoder({**latents, **gone}, vectors, mixture.contrastive, out, seed, encoders, progress)
    )
    here = {name: present(gone, f"{name}_missing", value.flatten(1)[:, 0]) for name, value in latents.items()}
    groups = shared_groups(towers, {name: latents[name] for name in vectors}, {name: here[name] for name in vectors}, mixture.groups, seed)
    generator = torch.Generator().manual_seed(seed)
    return closed.fit(
        {name: draw_latents(x[here[name]], generator) if name in vectors else x[here[name]] for name, x in latents.items()},
        {name: groups[own] for name, own in here.items()},
        seed,
    )


@torch.no_grad()
def shared_groups(
    encoder: ContrastiveEncoder, latents: Mapping[str, Tensor], here: Mapping[str, Tensor], groups: int, seed: int = 0
) -> Tensor:
    """Clusters (N,) of the mean embedding of what is `here` {modality: (N,) bool} of each tuple (k-means).

    Raises:
        PolyscoreError: more groups than tuples.
    """
    from sklearn.cluster import KMeans

    if (count := len(next(iter(latents.values())))) < groups:
        raise PolyscoreError(f"mixture: {groups} groups, expected at most one for each of the {count} tuples")
    embedding = encoder.mean({name: value[:, 0] for name, value in latents.items()}, here)
    found = KMeans(groups, n_init=4, random_state=seed).fit(embedding.numpy())
    return torch.as_tensor(found.labels_).long()
