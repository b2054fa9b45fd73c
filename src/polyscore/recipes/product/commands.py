"""`polyscore train product-digits`, `polyscore evaluate product-exactness` and `product-digits`."""

from __future__ import annotations

from collections.abc import Callable

from polyscore.recipes.product.train import EXPERT_TRAINING
from polyscore.terminal import progress, say
from polyscore.training import TrainConfig

__all__ = ["EVALUATE", "TRAIN", "evaluate_product_exactness"]


def evaluate_product_exactness(out: str = "benchmarks/results/product-exactness.json", n: int = 500, sets: int = 3) -> None:
    """Score sum, correctors and particles against the laws of over 60 compositions in closed form, at equal evaluations.

    Args:
        out: the table, as JSON.
        n: samples a problem, method and set.
        sets: independent sets.
    """
    from polyscore.recipes.product.exactness import exactness_table
    from polyscore.recipes.tables import show

    with progress("problems") as bar:
        table = exactness_table(out, n, sets, progress=bar)
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


TRAIN: dict[str, Callable[..., None]] = {"product-digits": product_digits}
EVALUATE: dict[str, Callable[..., None]] = {
    "product-exactness": evaluate_product_exactness,
    "product-digits": evaluate_product_digits,
}
