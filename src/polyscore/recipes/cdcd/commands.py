"""Commands of the token recipes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from polyscore.composer import WEIGHTS
from polyscore.recipes.cdcd.codec import CODEC_TRAINING, train_token_codec
from polyscore.recipes.cdcd.image import CLASS_TRAINING, CONTINUE, CURVE, VANILLA, train_class
from polyscore.recipes.digits.joint import Network
from polyscore.recipes.digits.words import WORDS_TRAINING, train_words
from polyscore.terminal import progress, say
from polyscore.training import TrainConfig
from polyscore.training.contrast import TokenObjective
from polyscore.training.joint import JointObjective

__all__ = ["EVALUATE", "TRAIN"]

NETWORK, OBJECTIVE = Network(), JointObjective()


def digits_words(
    codecs: str = str(WEIGHTS / "digits"),
    out: str = "runs/digits-words",
    data: str | None = None,
    network: Network = NETWORK,
    objective: JointObjective = OBJECTIVE,
    copies: int = 8,
    training: TrainConfig = WORDS_TRAINING,
    defaults: dict[str, Any] | None = None,
) -> None:
    """Train one denoiser of pictures, sounds and words (letter by letter) of the same digit, and save the Composer.

    Args:
        codecs: folder of the image and the speech codec; default the shipped ones.
        out: folder of the Composer.
        data: default $POLYSCORE_DATA.
        network: its size.
        objective: how times are drawn.
        copies: augmented copies of every recording.
        training: steps, batch, learning rate and the like.
        defaults: of `sample`.
    """
    train_words(codecs, out, data, network, objective, copies, training, defaults)
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


def cdcd_codec(out: str = "runs/cdcd-codec", data: str | None = None, codes: int = 64, training: TrainConfig = CODEC_TRAINING) -> None:
    """Train the token codec of handwritten digits, 7 x 7 tokens a picture.

    Args:
        out: folder for tokens.json and tokens.safetensors.
        data: default $POLYSCORE_DATA.
        codes: number of tokens K.
        training: steps, batch, learning rate and the like.
    """
    codec = train_token_codec(out, data, codes, config=training)
    say(f"saved {out}/tokens: {codec.vocabulary} codes, {codec.grid[0]} x {codec.grid[1]} tokens")


def cdcd_class(
    codec: str = "runs/cdcd-codec/tokens",
    out: str = "runs/cdcd-class/0/base",
    data: str | None = None,
    objective: TokenObjective = VANILLA,
    base: str | None = None,
    training: TrainConfig = CLASS_TRAINING,
) -> None:
    """Train a class-conditional denoiser of digit tokens, with contrast if the objective says so.

    Args:
        codec: as `polyscore train cdcd-codec` saves it.
        out: folder.
        data: default $POLYSCORE_DATA.
        objective: the loss and its negatives.
        base: a denoiser to continue from.
        training: steps, batch, learning rate and the like.
    """
    train_class(codec, out, data, objective, base, training)
    say(f"saved {out}/denoiser")


def evaluate_cdcd_class(
    codec: str = "runs/cdcd-codec/tokens",
    folder: str = "runs/cdcd-class",
    out: str = "benchmarks/results/cdcd-class.json",
    n: int = 400,
    seeds: tuple[int, ...] = (0, 1, 2),
    curve: tuple[int, ...] = CURVE,
    data: str | None = None,
    judges: str = str(WEIGHTS / "judges" / "digits"),
    training: TrainConfig = CLASS_TRAINING,
    continued: TrainConfig = CONTINUE,
) -> None:
    """Class to image: train and measure vanilla and contrastive settings, the sweep of lambda and temperature, guidance, and steps.

    Args:
        codec: as `polyscore train cdcd-codec` saves it.
        folder: of the models and measured cells; what is there is kept.
        out: the table, as JSON.
        n: samples a cell.
        seeds: one model and one value each.
        curve: numbers of sampling steps.
        data: default $POLYSCORE_DATA.
        judges: folder with the image judge.
        training: of the vanilla models.
        continued: of every setting after them.
    """
    from polyscore.recipes.cdcd.image import class_table
    from polyscore.recipes.tables import show

    with progress("training and evaluating") as bar:
        rows = class_table(codec, folder, out, data, n, seeds, curve, training=training, continued=continued, judges=judges, progress=bar)
    say(show(rows, f"class to image: n = {n}, seeds {list(seeds)}; saved {out}"))


TRAIN: dict[str, Callable[..., None]] = {"digits-words": digits_words, "cdcd-codec": cdcd_codec, "cdcd-class": cdcd_class}
EVALUATE: dict[str, Callable[..., None]] = {"cdcd-words": evaluate_cdcd_words, "cdcd-class": evaluate_cdcd_class}
