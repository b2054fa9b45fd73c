"""Commands of the token recipes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from polyscore.composer import WEIGHTS
from polyscore.data.fashion import Pictures
from polyscore.networks.transformer import Size
from polyscore.recipes.cdcd.codec import CODEC_TRAINING, train_token_codec
from polyscore.recipes.cdcd.image import CLASS_TRAINING, CONTINUE, CONTRAST, SETTINGS, train_class
from polyscore.recipes.cdcd.table import CURVE
from polyscore.recipes.digits.words import Components, train_words
from polyscore.terminal import progress, say
from polyscore.training import TrainConfig
from polyscore.training.contrast import TokenObjective
from polyscore.training.negatives import By

__all__ = ["EVALUATE", "TRAIN"]

COMPONENTS = Components()


def digits_words(
    model: str = "digits",
    out: str = "runs/digits-words",
    data: str | None = None,
    components: Components = COMPONENTS,
    copies: int = 8,
    seed: int = 0,
    defaults: dict[str, Any] | None = None,
) -> None:
    """Fit pictures, sounds and the letters of their names in closed form, on the codecs of a digits model.

    Args:
        model: folder or name of a composer of image and speech; it is only read.
        out: folder of the Composer.
        data: default $POLYSCORE_DATA.
        components: of the mixtures.
        copies: augmented copies of every recording.
        seed: of everything that is drawn.
        defaults: of `sample`.
    """
    train_words(model, out, data, components, copies, seed, defaults)
    say(f"saved {out}; try: polyscore sample --model {out}")


def evaluate_cdcd_words(
    model: str = "runs/digits-words",
    out: str = "benchmarks/results/cdcd-words.json",
    n: int = 1000,
    seeds: tuple[int, ...] = (0, 1, 2),
    data: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    token_solver: str | None = None,
) -> None:
    """Coherence of pictures, sounds and words for all seven ways to condition.

    Args:
        model: folder, shipped name or hub id.
        out: the table, as JSON.
        n: samples a way and seed.
        seeds: one value each.
        data: default $POLYSCORE_DATA.
        steps: default the model's own.
        guidance: default the model's own.
        token_solver: default the model's own.
    """
    from polyscore.recipes.digits.words import words_table
    from polyscore.recipes.tables import show

    named = {"steps": steps, "guidance": guidance, "token_solver": token_solver}
    options: dict[str, Any] = {k: v for k, v in named.items() if v is not None}
    with progress("evaluating") as bar:
        rows = words_table(model, out, data, n, seeds, bar, **options)
    say(show(rows, f"{model}: n = {n}, seeds {list(seeds)}, {options or 'default options'}; saved {out}"))


def cdcd_codec(
    out: str = "runs/cdcd-codec",
    data: str | None = None,
    codes: int = 64,
    training: TrainConfig = CODEC_TRAINING,
    dataset: Pictures = "mnist",
) -> None:
    """Train the token codec of handwritten digits or clothes, 7 x 7 tokens a picture.

    Args:
        out: folder for tokens.json and tokens.safetensors.
        data: default $POLYSCORE_DATA.
        codes: number of tokens K.
        training: steps, batch, learning rate and the like.
        dataset: mnist or fashion.
    """
    codec = train_token_codec(out, data, codes, config=training, dataset=dataset)
    say(f"saved {out}/tokens: {codec.vocabulary} codes, {codec.grid[0]} x {codec.grid[1]} tokens")


def cdcd_class(
    codec: str = "runs/cdcd-codec/tokens",
    out: str = "runs/class",
    data: str | None = None,
    objective: TokenObjective = CONTRAST,
    base: str | None = None,
    training: TrainConfig = CLASS_TRAINING,
    dataset: Pictures = "mnist",
    path: str = "absorbing",
    size: Size = "small",
    depth: int | None = None,
    negatives: By = "label",
    judge: str | None = None,
) -> None:
    """Train a class-conditional denoiser of picture tokens, by default with the contrast that measured best.

    Args:
        codec: as `polyscore train cdcd-codec` saves it.
        out: folder of the Composer.
        data: default $POLYSCORE_DATA.
        objective: the loss and its negatives; vanilla with inter none.
        base: a denoiser to continue from.
        training: steps, batch, learning rate and the like.
        dataset: mnist or fashion.
        path: of the tokens: absorbing, absorbing:cosine, released, uniform or replace, or replace:ALPHA_END:GAMMA_END.
        size: of the network: small, or text, class or dance as in the papers.
        depth: blocks, in place of the size's own.
        negatives: other examples by label, by embedding (the least similar of another label) or from the batch.
        judge: classifier whose features are the embeddings; by default the means of the codec's vectors.
    """
    train_class(
        codec, out, data, objective, base, training, dataset=dataset, path=path, size=size, depth=depth, negatives=negatives, judge=judge
    )
    say(f"saved {out}; try: polyscore sample --model {out} --label 3")


def evaluate_cdcd_class(
    codec: str = "runs/cdcd-codec/tokens",
    folder: str = "runs/cdcd-class",
    out: str = "benchmarks/results/cdcd-class.json",
    n: int = 200,
    many: int = 1000,
    seeds: tuple[int, ...] = (0, 1, 2),
    held: int = 7,
    curve: tuple[int, ...] = CURVE,
    data: str | None = None,
    dataset: Pictures = "mnist",
    judges: str = str(WEIGHTS / "judges" / "digits"),
    training: TrainConfig = CLASS_TRAINING,
    continued: TrainConfig = CONTINUE,
) -> None:
    """Class to image: train and measure vanilla and contrastive settings, lambda and temperature, guidance, and steps.

    Args:
        codec: as `polyscore train cdcd-codec` saves it.
        folder: of the models and measured cells; what is there is kept.
        out: the table, as JSON; the curve beside it as PNG.
        n: samples a cell.
        many: samples of the choice on the held seed, and of the main comparison, vanilla and the best contrast at 20 steps.
        seeds: one model and one value each.
        held: the seed on which the settings are chosen.
        curve: numbers of sampling steps.
        data: default $POLYSCORE_DATA.
        dataset: mnist or fashion.
        judges: folder with the image judge.
        training: of the vanilla models.
        continued: of every setting after them.
    """
    from polyscore.recipes.cdcd.table import ClassTable
    from polyscore.recipes.tables import show

    with progress("training and evaluating") as bar:
        table = ClassTable(
            codec, folder, out, data, n, many, seeds, held, curve, dataset, judges, training, continued, tuple(SETTINGS), bar
        )
        rows = table.run()
    say(show(rows, f"class to image: n = {n}, seeds {list(seeds)}; saved {out}"))


def evaluate_cdcd_checks(out: str = "benchmarks/results/cdcd-checks.json", seeds: tuple[int, ...] = (0, 1, 2)) -> None:
    """Acceptance checks of token diffusion on closed forms: deviations from what they should be.

    Args:
        out: the table, as JSON.
        seeds: one value each.
    """
    from polyscore.recipes.oracle_checks.cdcd import checks_table
    from polyscore.recipes.tables import show

    with progress("checking") as bar:
        rows = checks_table(out, seeds, bar)
    say(show(rows, f"token diffusion: seeds {list(seeds)}; saved {out}"))


TRAIN: dict[str, Callable[..., None]] = {"digits-words": digits_words, "cdcd-codec": cdcd_codec, "cdcd-class": cdcd_class}
EVALUATE: dict[str, Callable[..., None]] = {
    "cdcd-words": evaluate_cdcd_words,
    "cdcd-class": evaluate_cdcd_class,
    "cdcd-checks": evaluate_cdcd_checks,
}
