"""Attributes and masks from pictures, with and without an attack on the picture."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from polyscore.checkpoint import load_module
from polyscore.composer import Composer
from polyscore.data.faces import load_faces
from polyscore.guided import Guided
from polyscore.metrics.attributes import drop, fgsm, sample_f1
from polyscore.networks.dense import DenseEncoder
from polyscore.ratios.energy import PairEnergy
from polyscore.recipes.faces.train import front_of
from polyscore.recipes.tables import Measured, write_table

__all__ = ["faces_table", "variants"]


def variants(folder: str | os.PathLike[str], scale: float = 2.0) -> dict[str, Composer]:
    """The plain joint score, "-T" (told the contrastive embedding), "-C" (guided by energies) and both.

    Raises:
        CheckpointError: a part is not there.
    """
    place = Path(folder)
    plain, told = (Composer.load(place / name) for name in ("plain", "told"))
    energy = load_module(place / "energy", PairEnergy)

    def guided(composer: Composer) -> Composer:
        return Composer(composer.codecs, Guided(composer.denoiser, energy, scale), composer.defaults)

    return {"plain": plain, "-T": told, "-C": guided(plain), "-TC": guided(told)}


def faces_table(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    data: str | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    scale: float = 2.0,
    attack: float = 0.03,
    progress: Callable[[int, int], None] | None = None,
) -> list[Measured]:
    """F1 of attributes and masks given the test pictures, and the share of it that an attack of `attack` a pixel takes away.

    The attack (FGSM) is made against a supervised classifier, which is measured beside the Composers.

    Raises:
        CheckpointError, DataError: parts or faces are not there.
    """
    began = time.perf_counter()
    models = variants(folder, scale)
    side = models["plain"].codecs["image"].data_shape[-1]
    faces = load_faces("test", side, data)
    net, front = load_module(Path(folder) / "classifier", DenseEncoder), front_of(models["plain"].codecs["image"])

    def loss(x: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(net(front.encode(x)), faces.attributes, reduction="sum")

    attacked = fgsm(loss, faces.image, attack)
    with torch.no_grad():
        own = [sample_f1(net(front.encode(x)) > 0, faces.attributes) for x in (faces.image, attacked)]
    found: dict[str, dict[str, list[float]]] = {}
    for place, (title, composer) in enumerate(models.items()):
        found[title] = {"attribute F1": [], "mask F1": [], "drop": []}
        for seed in seeds:
            clean, hit = (composer.sample(len(x), {"image": x}, seed=seed) for x in (faces.image, attacked))
            scores = [sample_f1(made["attributes"] > 0.5, faces.attributes) for made in (clean, hit)]
            found[title]["attribute F1"].append(scores[0])
            found[title]["mask F1"].append(sample_f1(clean["mask"] > 0.5, faces.mask > 0.5))
            found[title]["drop"].append(drop(*scores))
        if progress is not None:
            progress(place + 1, len(models))
    rows = _rows(found) + [Measured("classifier: attribute F1", [own[0]]), Measured("classifier: FGSM drop", [drop(*own)])]
    protocol = {
        "command": "polyscore evaluate sbm-faces",
        "split": f"faces 800 to 999; trained on 0 to 799 at {side} x {side}",
        "n": len(faces),
        "seeds": list(seeds),
        "what the seeds vary": "the sampler's noise; one training",
        "scale": scale,
        "attack": attack,
        "seconds": round(time.perf_counter() - began, 1),
    }
    write_table(out, rows, protocol)
    return rows


def _rows(found: dict[str, dict[str, list[float]]]) -> list[Measured]:
    """All variants; each guided one is to be above the plain joint score."""
    rows = []
    for measure, reference in (("attribute F1", "paper: .62 plain, .66 -C, .77 -T"), ("mask F1", "paper: .82 plain, .82 -C, .84 -T")):
        plain = sum(found["plain"][measure]) / len(found["plain"][measure])
        for title, values in found.items():
            reach = None if title == "plain" else (">=", plain)
            rows.append(Measured(f"{title}: {measure} given image", values[measure], reach, reference))
    for title, values in found.items():
        rows.append(Measured(f"{title}: FGSM drop", values["drop"], ("<=", 0.1) if title == "-C" else None, "paper, -C: 3.9 %"))
    return rows
