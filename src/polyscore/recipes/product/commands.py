"""`polyscore train product-digits` and `product-faces`; `polyscore evaluate` these and `product-exactness`."""

from __future__ import annotations

from collections.abc import Callable

from polyscore.recipes.product.faces import EXPERT_TRAINING as FACE_TRAINING
from polyscore.recipes.product.faces import NAMES as FACE_EXPERTS
from polyscore.recipes.product.train import EXPERT_TRAINING
from polyscore.terminal import progress, say
from polyscore.training import TrainConfig

__all__ = ["EVALUATE", "TRAIN", "evaluate_product_exactness"]


def evaluate_product_exactness(
    out: str = "benchmarks/results/product-exactness.json", n: int = 400, sets: int = 3, keep: str | None = "runs/product-exactness"
) -> None:
    """Score sum, correctors and particles against the laws of over 60 compositions in closed form, at equal evaluations.

    Args:
        out: the table, as JSON.
        n: samples a problem, method and set.
        sets: independent sets.
        keep: folder of the problems done, so that a run that was stopped goes on; None to keep nothing.
    """
    from polyscore.recipes.product.exactness import exactness_table
    from polyscore.recipes.tables import show

    with progress("problems") as bar:
        table = exactness_table(out, n, sets, progress=bar, keep=keep)
    say(show(table, f"n = {n}, {sets} sets; saved {out}"))


def product_digits(
    out: str = "runs/product-digits", data: str | None = None, seed: int = 0, training: TrainConfig = EXPERT_TRAINING
) -> None:
    """Train the experts of the product-digits experiment for one seed: digits over grey, colours, and one network for both.

    Args:
        out: folder; codec and judge serve all seeds, the experts are in OUT/SEED.
        data: default $POLYSCORE_DATA.
        seed: of the experts.
        training: steps, batch, learning rate and the like of an expert.
    """
    from polyscore.recipes.product.train import train_scenes

    say(f"saved {train_scenes(out, data, seed, training)}")


def evaluate_product_digits(
    models: str = "runs/product-digits",
    out: str = "benchmarks/results/product-digits.json",
    n: int = 1000,
    seeds: tuple[int, ...] = (0, 1, 2),
    data: str | None = None,
    particles: int = 4,
    picture: str | None = None,
) -> None:
    """Digit from one expert and colour from another, neither ever seen together, against one network and each expert alone.

    Args:
        models: folder that `train product-digits` wrote, with every seed.
        out: the table, as JSON.
        n: pictures a method and seed.
        seeds: one value each.
        data: default $POLYSCORE_DATA.
        particles: a sample, for the exact product.
        picture: also write a sweep of strengths and reliabilities as this PNG.
    """
    from polyscore.recipes.product.digits import product_digits_table, sweep
    from polyscore.recipes.tables import show

    with progress("evaluating") as bar:
        table = product_digits_table(models, out, data, n, seeds, particles=particles, progress=bar)
    if picture is not None:
        sweep(models, picture, seed=seeds[0])
    say(show(table, f"n = {n}, seeds {list(seeds)}; saved {out}"))


def product_faces(
    out: str = "runs/product-faces",
    data: str | None = None,
    seed: int = 0,
    names: tuple[str, ...] = FACE_EXPERTS,
    training: TrainConfig = FACE_TRAINING,
) -> None:
    """Train the experts of the faces experiment for one seed: hair masks and skin masks on different faces, one network for both, a sketch
    and an attribute expert; and, once, the parser and the judge of hair colour.

    Args:
        out: folder; parser and judge serve all seeds, the experts are in OUT/SEED.
        data: default $POLYSCORE_DATA.
        seed: of the experts.
        names: which experts.
        training: steps, batch, learning rate and the like of an expert.
    """
    from polyscore.recipes.product.faces import train_faces

    say(f"saved {train_faces(out, data, seed, names, training)}")


def product_text(out: str = "runs/product-text", data: str | None = None, seed: int = 0, steps: int | None = None) -> None:
    """Train encoders of pictures and phrases, and an expert on embeddings of pictures, to be sampled with embeddings of text.

    Args:
        out: folder; the networks are in OUT/SEED.
        data: default $POLYSCORE_DATA.
        seed: of the networks.
        steps: of both trainings; by default those of the recipe.
    """
    from polyscore.recipes.product.text import train_text

    say(f"saved {train_text(out, data, seed, steps=steps)}")


def evaluate_product_text(
    models: str = "runs/product-text",
    out: str = "benchmarks/results/product-text.json",
    n: int = 500,
    seeds: tuple[int, ...] = (0, 1, 2),
    data: str | None = None,
) -> None:
    """How often a digit drawn from words alone is the one named, by an expert that was only ever told embeddings of pictures.

    Args:
        models: folder that `train product-text` wrote, with every seed.
        out: the table, as JSON.
        n: pictures a phrase and seed.
        seeds: one value each.
        data: default $POLYSCORE_DATA.
    """
    from polyscore.recipes.product.text import product_text_table
    from polyscore.recipes.tables import show

    with progress("evaluating") as bar:
        table = product_text_table(models, out, data, n, seeds, progress=bar)
    say(show(table, f"n = {n}, seeds {list(seeds)}; saved {out}"))


def evaluate_product_faces(
    models: str = "runs/product-faces",
    out: str = "benchmarks/results/product-faces.json",
    seeds: tuple[int, ...] = (0, 1, 2),
    data: str | None = None,
    particles: int = 4,
    extractor: str = "efficientnet-lite0",
    n: int | None = None,
    picture: str | None = None,
) -> None:
    """Faces from a hair mask and a skin mask that no expert saw together, against each expert alone and one network for both.

    Args:
        models: folder that `train product-faces` wrote, with every seed.
        out: the table, as JSON.
        seeds: one value each.
        data: default $POLYSCORE_DATA.
        particles: a sample, for the exact product.
        extractor: of the Frechet distance: efficientnet-lite0 (its packages must be installed) or parser.
        n: the first so many test faces; all by default.
        picture: also write faces of every method as this PNG.
    """
    from polyscore.recipes.product.faces_table import face_picture, product_faces_table
    from polyscore.recipes.tables import show

    with progress("evaluating") as bar:
        table = product_faces_table(models, out, data, seeds, particles=particles, extractor=extractor, n=n, progress=bar)
    if picture is not None:
        face_picture(models, picture, data, seeds[0])
    say(show(table, f"seeds {list(seeds)}; saved {out}"))


TRAIN: dict[str, Callable[..., None]] = {"product-digits": product_digits, "product-faces": product_faces, "product-text": product_text}
EVALUATE: dict[str, Callable[..., None]] = {
    "product-exactness": evaluate_product_exactness,
    "product-digits": evaluate_product_digits,
    "product-faces": evaluate_product_faces,
    "product-text": evaluate_product_text,
}
