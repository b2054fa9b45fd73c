"""`polyscore train` and `polyscore evaluate`: the recipes as commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from polyscore.data.fashion import Pictures
from polyscore.recipes.cdcd import commands as cdcd
from polyscore.recipes.cdcd import dance_commands as dance
from polyscore.recipes.cdcd import text_commands as text
from polyscore.recipes.digits.codecs import IMAGE_TRAINING, SPEECH_TRAINING, train_image_codec, train_speech_codec
from polyscore.recipes.digits.joint import JOINT_TRAINING, OBJECTIVE, Mixture, Network, train_joint
from polyscore.recipes.digits.judges import train_judge
from polyscore.recipes.faces import commands as faces
from polyscore.recipes.mmdisco.commands import RECIPES, TRAINERS
from polyscore.recipes.own import commands as own
from polyscore.recipes.polymnist import commands as polymnist
from polyscore.recipes.product import commands as product
from polyscore.terminal import progress, say
from polyscore.training import TrainConfig
from polyscore.training.joint import JointObjective

__all__ = ["EVALUATE", "RECIPE", "TRAIN"]

NETWORK, MIXTURE = Network(), Mixture()


def digits_image_codec(
    out: str = "runs/digits-codecs", data: str | None = None, latent: int = 20, beta: float = 0.5, training: TrainConfig = IMAGE_TRAINING
) -> None:
    """Train the autoencoder of handwritten digits (MNIST), without labels.

    Args:
        out: folder for image.json and image.safetensors.
        data: folder with digits/mnist.npz; default $POLYSCORE_DATA.
        latent: dimensions.
        beta: weight of the KL term.
        training: steps, batch, learning rate and the like.
    """
    train_image_codec(out, data, latent, beta, config=training)
    say(f"saved {out}/image")


def digits_speech_codec(
    out: str = "runs/digits-codecs", data: str | None = None, latent: int = 48, beta: float = 2.0, training: TrainConfig = SPEECH_TRAINING
) -> None:
    """Train the autoencoder of spoken digits (FSDD), without labels.

    Args:
        out: folder for speech.json and speech.safetensors.
        data: folder with digits/fsdd.npz; default $POLYSCORE_DATA.
        latent: dimensions.
        beta: weight of the KL term.
        training: steps, batch, learning rate and the like.
    """
    train_speech_codec(out, data, latent, beta, config=training)
    say(f"saved {out}/speech")


def digits_judge(
    modality: Literal["image", "speech"],
    out: str = "runs/digits-judges",
    data: str | None = None,
    training: TrainConfig | None = None,
    dataset: Pictures = "mnist",
) -> None:
    """Train a classifier that judges generated digits, and measure it on the official test split.

    Args:
        modality: what it looks at or listens to.
        out: folder.
        data: default $POLYSCORE_DATA.
        training: steps, batch, learning rate and the like.
        dataset: of the pictures, mnist or fashion.
    """
    judge = train_judge(modality, out, data, config=training, dataset=dataset)
    say(f"saved {out}/{modality}: {sum(p.numel() for p in judge.parameters())} parameters")


def digits_joint(
    codecs: str = "runs/digits-codecs",
    out: str = "runs/digits",
    data: str | None = None,
    network: Network = NETWORK,
    mixture: Mixture = MIXTURE,
    objective: JointObjective = OBJECTIVE,
    copies: int = 4,
    training: TrainConfig = JOINT_TRAINING,
    defaults: dict[str, Any] | None = None,
) -> None:
    """Train the joint denoiser on pairs of the same digit, average it with mixtures of Gaussians, and save the Composer.

    Args:
        codecs: folder of the two codecs.
        out: folder of the Composer.
        data: default $POLYSCORE_DATA.
        network: its size.
        mixture: components for each digit, and their weight in each modality's predictions.
        objective: how times are drawn.
        copies: augmented copies of every recording.
        training: steps, batch, learning rate and the like.
        defaults: of `sample`.
    """
    train_joint(codecs, out, data, network, mixture, objective, copies, training, defaults)
    say(f"saved {out}; try: polyscore sample --model {out}")


def evaluate_digits_command(
    model: str = "digits",
    out: str = "benchmarks/results/digits.json",
    n: int = 1500,
    balance: int = 5000,
    seeds: tuple[int, ...] = (0, 1, 2),
    data: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    conditioning: Literal["time", "clean", "scaled", "noised", "resample"] | None = None,
) -> None:
    """Coherence, fidelity, balance and intelligibility of a digits Composer on the official test splits.

    Args:
        model: folder, shipped name or hub id.
        out: the table, as JSON.
        n: samples a direction and seed.
        balance: joint samples a seed.
        seeds: one value each.
        data: default $POLYSCORE_DATA.
        steps: default the model's own.
        guidance: default the model's own.
        conditioning: default the model's own.
    """
    from polyscore.recipes.digits.tables import main_table
    from polyscore.recipes.tables import show

    named = {"steps": steps, "guidance": guidance, "conditioning": conditioning}
    options: dict[str, Any] = {k: v for k, v in named.items() if v is not None}
    with progress("evaluating") as bar:
        rows = main_table(model, out, data, n, balance, seeds, bar, **options)
    say(show(rows, f"{model}: n = {n}, seeds {list(seeds)}, {options or 'default options'}; saved {out}"))


def evaluate_digits_parts(
    model: str = "digits",
    out: str = "benchmarks/results/digits-parts.json",
    n: int = 500,
    seeds: tuple[int, ...] = (0, 1, 2),
    data: str | None = None,
) -> None:
    """Coherence of a digits Composer beside its network and its mixture alone.

    Args:
        model: folder, shipped name or hub id.
        out: the table, as JSON.
        n: samples a direction and seed.
        seeds: one value each.
        data: default $POLYSCORE_DATA.
    """
    from polyscore.recipes.digits.tables import parts_table
    from polyscore.recipes.tables import show

    with progress("evaluating") as bar:
        rows = parts_table(model, out, data, n, seeds, bar)
    say(show(rows, f"{model}: n = {n}, seeds {list(seeds)}; saved {out}"))


def evaluate_digits_sweep(
    model: str = "digits",
    out: str = "benchmarks/results/digits-sweep.json",
    n: int = 200,
    seeds: tuple[int, ...] = (0, 1, 2),
    data: str | None = None,
) -> None:
    """Coherence of a digits Composer against steps, guidance strength and conditioning mode; a table and a plot beside it.

    Args:
        model: folder, shipped name or hub id.
        out: the table, as JSON; the plot has the suffix .png.
        n: samples a direction and seed.
        seeds: one value each.
        data: default $POLYSCORE_DATA.
    """
    from polyscore.recipes.digits.tables import sweep
    from polyscore.recipes.tables import show

    with progress("evaluating") as bar:
        rows = sweep(model, out, data, n, seeds, bar)
    say(show(rows, f"{model}: n = {n}, seeds {list(seeds)}; saved {out}"))


TRAIN: dict[str, Callable[..., None]] = {
    "digits-image-codec": digits_image_codec,
    "digits-speech-codec": digits_speech_codec,
    "digits-judge": digits_judge,
    "digits-joint": digits_joint,
    **cdcd.TRAIN,
    **TRAINERS,
}
EVALUATE: dict[str, Callable[..., None]] = {
    "digits": evaluate_digits_command,
    "digits-parts": evaluate_digits_parts,
    "digits-sweep": evaluate_digits_sweep,
    **cdcd.EVALUATE,
}
RECIPE: dict[str, Callable[..., None]] = {**RECIPES}
TRAIN |= dance.TRAIN
EVALUATE |= dance.EVALUATE
RECIPE |= dance.RECIPE
TRAIN |= text.TRAIN
EVALUATE |= text.EVALUATE
TRAIN |= own.TRAIN | polymnist.TRAIN | faces.TRAIN
EVALUATE |= polymnist.EVALUATE | faces.EVALUATE
TRAIN |= product.TRAIN
EVALUATE |= product.EVALUATE
