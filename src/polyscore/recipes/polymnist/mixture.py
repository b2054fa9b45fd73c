"""The joint score of the PolyMNIST recipe in closed form: what the modalities share is found by contrast, the rest are mixtures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from polyscore.checkpoint import load_module
from polyscore.codecs import Codec
from polyscore.composer import Composer
from polyscore.data.polymnist import load_polymnist
from polyscore.recipes.latents import Mixture, fit_mixture
from polyscore.recipes.polymnist.joint import drop, encode_all

__all__ = ["DEFAULTS", "train_poly_mixture"]

DEFAULTS: dict[str, Any] = {"steps": 8}


def train_poly_mixture(
    codecs: str | os.PathLike[str] = "runs/polymnist/codecs",
    out: str | os.PathLike[str] = "runs/polymnist/mixture",
    modalities: int = 5,
    backgrounds: str | None = None,
    data: str | None = None,
    missing: float | Mapping[str, float] = 0.0,
    mixture: Mixture | None = None,
    encoder: str | os.PathLike[str] | None = None,
    seed: int = 0,
    defaults: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Composer:
    """Fit a `JointMixture` whose groups are clusters of contrastive embeddings (`fit_mixture`), and save the Composer in `out`.

    Args:
        codecs: folder with m0.json, m1.json, ... missing: share of the modalities of the training tuples that are left out at random,
            or one a modality.
        mixture: sizes. encoder: a saved one to use; None trains one. seed: of everything that is drawn.

    Raises:
        DataError: MNIST is not there. CheckpointError: a codec is not there. PolyscoreError: a group with too few tuples for a mixture.
    """
    torch.manual_seed(seed)
    mixture = mixture or Mixture()
    train = load_polymnist("train", modalities, backgrounds, data)
    parts: dict[str, Codec] = {name: load_module(Path(codecs) / name, Codec) for name in train.names}
    latents, gone = encode_all(parts, train), drop(train.names, len(train), missing, seed)
    unfitted = mixture.unfitted({name: codec.latent_shape for name, codec in parts.items()})
    closed = fit_mixture(latents, gone, unfitted, mixture, out, seed, encoder, progress=progress)
    meta = {"recipe": "polymnist", "modalities": modalities, "missing": missing, "mixture": asdict(mixture), "seed": seed}
    composer = Composer(parts, closed, dict(defaults or DEFAULTS), {name: {"kind": "image"} for name in parts}, meta)
    composer.save(out, dtype=torch.float16)
    return composer
