"""`polyscore train` and `polyscore evaluate` for what guides a PolyMNIST Composer, and for the paper's own setting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from polyscore.recipes.polymnist import paper
from polyscore.recipes.polymnist.guides import (
    DISCRIMINATOR_TRAINING,
    ENERGY_TRAINING,
    Energies,
    Opponent,
    train_poly_discriminator,
    train_poly_energy,
)
from polyscore.recipes.polymnist.tables import energy_table
from polyscore.recipes.tables import show
from polyscore.terminal import progress, say
from polyscore.training import TrainConfig
from polyscore.training.energy import EnergyObjective

__all__ = ["EVALUATE", "TRAIN"]

ENERGIES, ENERGY, OPPONENT = Energies(), EnergyObjective(), Opponent()


def sbm_energy(
    model: str = "runs/polymnist/joint",
    out: str = "runs/polymnist/energy",
    modalities: int = 5,
    backgrounds: str | None = None,
    data: str | None = None,
    checked: bool = False,
    missing: float | dict[str, float] = 0.0,
    energies: Energies = ENERGIES,
    objective: EnergyObjective = ENERGY,
    training: TrainConfig = ENERGY_TRAINING,
) -> None:
    """Train the pairwise energies ("-C") on the latents of a Composer's autoencoders, and save the Composer that they guide.

    Args:
        model: folder of the Composer.
        out: folder of the guided Composer; energy.json and energy.safetensors in it are the energies alone.
        modalities: how many the data set has.
        backgrounds: as the codecs were trained.
        data: default $POLYSCORE_DATA.
        checked: negatives are never of the same class (this reads labels).
        missing: share of the modalities of the training tuples that are left out, at random; or one a modality, as in
            --missing m0=0.5 m2=0.2.
        energies: width of the network; scale, pairs and reduction of the guidance.
        objective: negatives (permuted: of other tuples, noise, or both), pairs of a step, times.
        training: steps, batch, learning rate and the like.
    """
    train_poly_energy(model, out, modalities, backgrounds, data, checked, missing, energies, objective, training)
    say(f"saved {out}; try: polyscore sample --model {out}")


def sbm_discriminator(
    model: str = "runs/polymnist/joint",
    out: str = "runs/polymnist/discriminator",
    modalities: int = 5,
    backgrounds: str | None = None,
    data: str | None = None,
    opponent: Opponent = OPPONENT,
    training: TrainConfig = DISCRIMINATOR_TRAINING,
) -> None:
    """Train MMDisCo's discriminator over all modalities, real tuples against a Composer's own samples; save the Composer that it guides.

    Args:
        model: folder of the Composer.
        out: folder of the guided Composer; ratio.json and ratio.safetensors in it are the discriminator alone.
        modalities: how many the data set has.
        backgrounds: as the codecs were trained.
        data: default $POLYSCORE_DATA.
        opponent: the discriminator's network, whose samples it tells from real tuples, and the scale of its guidance.
        training: steps, batch, learning rate and the like.
    """
    train_poly_discriminator(model, out, modalities, backgrounds, data, opponent, training)
    say(f"saved {out}; try: polyscore sample --model {out}")


def sbm_paper_codec(
    modality: str,
    kind: Literal["vae", "rae"] = "vae",
    out: str = "runs/polymnist/paper-codecs",
    modalities: int = 10,
    backgrounds: str | None = None,
    data: str | None = None,
    latent: int = 64,
    training: TrainConfig = paper.CODEC_TRAINING,
) -> None:
    """Train the paper's autoencoder of one PolyMNIST modality, alone and without labels (convolutions: hours on a CPU).

    Args:
        modality: m0, m1, ...
        kind: variational or deterministic.
        out: folder for MODALITY.json and MODALITY.safetensors.
        modalities: how many the data set has.
        backgrounds: folder of pictures; procedural textures stand in for missing ones.
        data: default $POLYSCORE_DATA.
        latent: dimensions, a square number.
        training: steps, batch, learning rate and the like; by default the paper's.
    """
    paper.train_paper_codec(modality, kind, out, modalities, backgrounds, data, latent, training)
    say(f"saved {out}/{modality}")


def sbm_paper(
    codecs: str = "runs/polymnist/paper-codecs",
    out: str = "runs/polymnist/paper",
    modalities: int = 10,
    backgrounds: str | None = None,
    data: str | None = None,
    dim: int | None = None,
    start: Literal["noise", "moments"] = "noise",
    steps: int = 100,
    conditioning: Literal["time", "clean", "scaled", "noised", "resample"] = "scaled",
    batch_norms: bool = False,
    training: TrainConfig = paper.JOINT_TRAINING,
) -> None:
    """Train the paper's joint score (a UNet on stacked latents, VP-SDE to beta 5), and save the Composer that samples as the paper does.

    Args:
        codecs: folder of the autoencoders.
        out: folder of the Composer.
        modalities: how many the data set has.
        backgrounds: as the codecs were trained.
        data: default $POLYSCORE_DATA.
        dim: channels of the UNet; default 128 for more than five modalities, else 64.
        start: where sampling begins; moments has the right mean and covariance at t = 1, where the paper's path still carries signal.
        steps: of the predictor and of the corrector; the paper takes 100 and 1000.
        conditioning: how observed latents are shown; scaled as in the authors' code, clean as they are.
        batch_norms: the corrector's norms are means over the batch, as the authors have them; a sample then depends on its batch.
        training: steps, batch, learning rate and the like; by default the paper's.
    """
    options = (dim, start, steps, conditioning, batch_norms, training)
    paper.train_paper_joint(codecs, out, modalities, backgrounds, data, *options)
    say(f"saved {out}; try: polyscore sample --model {out}")


def evaluate_sbm_energy(
    plain: str = "runs/polymnist/joint-plain",
    told: str = "runs/polymnist/joint",
    energy: str = "runs/polymnist/energy/energy",
    judge: str = "runs/polymnist/judge",
    out: str = "benchmarks/results/sbm-energy.json",
    scale: float = 1.0,
    steps: int = 20,
    seeds: tuple[int, ...] = (0, 1, 2),
    modalities: int = 5,
    backgrounds: str | None = None,
    data: str | None = None,
    n: int = 300,
) -> None:
    """Coherence and Frechet distances of the joint network plain, -C (energies), -T (contrastive context) and -TC, without subset guidance.

    Args:
        plain: folder of a Composer of `train sbm-joint`.
        told: of one with --contrastive, on the same autoencoders.
        energy: saved energies of those autoencoders.
        judge: the saved judge.
        out: the table, as JSON.
        scale: of the energies, per sample.
        steps: of the solver.
        seeds: of samples and test rows.
        modalities: how many the data set has.
        backgrounds: as in training.
        data: default $POLYSCORE_DATA.
        n: samples a subset and seed.
    """
    with progress("evaluating") as bar:
        rows = energy_table(plain, told, energy, judge, out, scale, steps, seeds, modalities, backgrounds, data, n, bar)
    say(show(rows, f"{plain}, {told}: n = {n}, seeds {list(seeds)}; saved {out}"))


TRAIN: dict[str, Callable[..., None]] = {
    "sbm-energy": sbm_energy,
    "sbm-discriminator": sbm_discriminator,
    "sbm-paper-codec": sbm_paper_codec,
    "sbm-paper": sbm_paper,
}
EVALUATE: dict[str, Callable[..., None]] = {"sbm-energy": evaluate_sbm_energy}
