"""`polyscore train sbm-faces` and `polyscore evaluate sbm-faces`."""

from __future__ import annotations

from collections.abc import Callable

from polyscore.recipes.faces.evaluate import faces_table
from polyscore.recipes.faces.train import FACES_TRAINING, FacesSize, train_faces
from polyscore.recipes.tables import show
from polyscore.terminal import progress, say
from polyscore.training import TrainConfig

__all__ = ["EVALUATE", "TRAIN"]

SIZE = FacesSize()


def sbm_faces(out: str = "runs/faces", data: str | None = None, size: FacesSize = SIZE, training: TrainConfig = FACES_TRAINING) -> None:
    """Train autoencoders of faces, masks and attributes, the joint score plain and "-T", energies ("-C") and a classifier to attack.

    Args:
        out: folder of all parts.
        data: folder with faces/celebamask_1000.json; default $POLYSCORE_DATA.
        size: side of the pictures, latents and widths.
        training: steps, batch, learning rate and the like, of each part.
    """
    train_faces(out, data, size, training)
    say(f"saved {out}")


def evaluate_sbm_faces(
    model: str = "runs/faces",
    out: str = "benchmarks/results/sbm-faces.json",
    data: str | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    scale: float = 2.0,
    attack: float = 0.03,
) -> None:
    """F1 of attributes and masks given pictures, and what an attack on the picture takes away, for the plain score, -T, -C and both.

    Args:
        model: folder of the parts.
        out: the table, as JSON.
        data: default $POLYSCORE_DATA.
        seeds: of the sampler.
        scale: of the energies, per sample.
        attack: size of the attack, a pixel.
    """
    with progress("evaluating") as bar:
        rows = faces_table(model, out, data, seeds, scale, attack, bar)
    say(show(rows, f"{model}; saved {out}"))


TRAIN: dict[str, Callable[..., None]] = {"sbm-faces": sbm_faces}
EVALUATE: dict[str, Callable[..., None]] = {"sbm-faces": evaluate_sbm_faces}
