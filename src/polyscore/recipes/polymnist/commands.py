"""`polyscore train sbm-...` and `polyscore evaluate sbm-polymnist`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from polyscore.checkpoint import load_module
from polyscore.composer import Composer
from polyscore.ratios.energy import PairEnergy
from polyscore.recipes.latents import Mixture
from polyscore.recipes.polymnist import guide_commands as guides
from polyscore.recipes.polymnist.codecs import CODEC_TRAINING, JUDGE_TRAINING, train_poly_codec, train_poly_judge
from polyscore.recipes.polymnist.decoders import DECODER_TRAINING, train_poly_decoders
from polyscore.recipes.polymnist.joint import (
    JOINT_TRAINING,
    OBJECTIVE,
    Guidance,
    Network,
    train_poly_joint,
)
from polyscore.recipes.polymnist.mixture import train_poly_mixture
from polyscore.recipes.polymnist.refiner import REFINER_TRAINING, train_poly_refiner
from polyscore.recipes.polymnist.tables import LOST, compare_table, guided_by, missing_table, poly_sweep, poly_table
from polyscore.recipes.polymnist.timing import time_table
from polyscore.recipes.tables import show
from polyscore.terminal import progress, say
from polyscore.training import TrainConfig
from polyscore.training.joint import JointObjective
from polyscore.training.recovered import RecoveredObjective

__all__ = ["EVALUATE", "TRAIN"]

NETWORK, MIXTURE, GUIDANCE, RECOVERED = Network(), Mixture(), Guidance(), RecoveredObjective()


def sbm_codec(
    modality: str,
    out: str = "runs/polymnist/codecs",
    modalities: int = 5,
    backgrounds: str | None = None,
    data: str | None = None,
    latent: int = 20,
    beta: float = 1.0,
    scale: float = 0.2,
    training: TrainConfig = CODEC_TRAINING,
) -> None:
    """Train the autoencoder of one PolyMNIST modality, alone and without labels.

    Args:
        modality: m0, m1, ...
        out: folder for MODALITY.json and MODALITY.safetensors; the other files in it stay as they are.
        modalities: how many the data set has.
        backgrounds: folder of pictures; procedural textures stand in for missing ones.
        data: folder with digits/mnist.npz; default $POLYSCORE_DATA.
        latent: dimensions.
        beta: weight of the KL term.
        scale: standard deviation of the Gaussian likelihood.
        training: steps, batch, learning rate and the like.
    """
    train_poly_codec(modality, out, modalities, backgrounds, data, latent, beta, scale, config=training)
    say(f"saved {out}/{modality}")


def sbm_judge(
    out: str = "runs/polymnist",
    modalities: int = 5,
    backgrounds: str | None = None,
    data: str | None = None,
    training: TrainConfig = JUDGE_TRAINING,
) -> None:
    """Train the classifier that judges generated PolyMNIST pictures, on all modalities pooled, and measure it on each.

    Args:
        out: folder for judge.json and judge.safetensors.
        modalities: how many the data set has.
        backgrounds: folder of pictures; procedural textures stand in for missing ones.
        data: default $POLYSCORE_DATA.
        training: steps, batch, learning rate and the like.
    """
    judge = train_poly_judge(out, modalities, backgrounds, data, training)
    say(f"saved {out}/judge: {sum(p.numel() for p in judge.parameters())} parameters")


def sbm_joint(
    codecs: str = "runs/polymnist/codecs",
    out: str = "runs/polymnist/joint",
    modalities: int = 5,
    backgrounds: str | None = None,
    data: str | None = None,
    missing: float | dict[str, float] = 0.0,
    contrastive: int = 0,
    marginals: str | None = None,
    encoder: str | None = None,
    network: Network = NETWORK,
    objective: JointObjective = OBJECTIVE,
    guidance: Guidance = GUIDANCE,
    training: TrainConfig = JOINT_TRAINING,
) -> None:
    """Train the joint score over the latents of PolyMNIST's autoencoders, and its marginals; save the Composer.

    Args:
        codecs: folder of the autoencoders.
        out: folder of the Composer.
        modalities: how many the data set has.
        backgrounds: as the codecs were trained.
        data: default $POLYSCORE_DATA.
        missing: share of the modalities of the training tuples that are left out, at random; or one a modality, as in
            --missing m0=0.5 m2=0.2.
        contrastive: size of the contrastive embedding of what is observed ("-T"); 0 for none.
        marginals: saved marginals to use, such as OUT/marginals of another run; by default they are trained.
        encoder: the same for the contrastive encoder, such as OUT/encoder of another run.
        network: sizes.
        objective: how times are drawn.
        guidance: strength and window of the Composer's subset guidance.
        training: steps, batch, learning rate and the like.
    """
    more = (missing, contrastive, marginals, encoder, network, objective, guidance, training)
    train_poly_joint(codecs, out, modalities, backgrounds, data, *more)
    say(f"saved {out}; try: polyscore sample --model {out}")


def sbm_mixture(
    codecs: str = "runs/polymnist/codecs",
    out: str = "runs/polymnist/mixture",
    modalities: int = 5,
    backgrounds: str | None = None,
    data: str | None = None,
    missing: float | dict[str, float] = 0.0,
    mixture: Mixture = MIXTURE,
    encoder: str | None = None,
    seed: int = 0,
) -> None:
    """Fit the joint score in closed form over the latents of PolyMNIST's autoencoders, without labels; save the Composer.

    Args:
        codecs: folder of the autoencoders.
        out: folder of the Composer.
        modalities: how many the data set has.
        backgrounds: as the codecs were trained.
        data: default $POLYSCORE_DATA.
        missing: share of the modalities of the training tuples that are left out, at random; or one a modality, as in
            --missing m0=0.5 m2=0.2.
        mixture: sizes.
        encoder: a saved contrastive encoder to use, such as OUT/encoder of another run; by default one is trained.
        seed: of everything that is drawn.
    """
    train_poly_mixture(codecs, out, modalities, backgrounds, data, missing, mixture, encoder, seed)
    say(f"saved {out}; try: polyscore sample --model {out}")


def sbm_decoders(
    model: str = "runs/polymnist/joint",
    out: str = "runs/polymnist/tuned",
    modalities: int = 5,
    backgrounds: str | None = None,
    data: str | None = None,
    objective: RecoveredObjective = RECOVERED,
    training: TrainConfig = DECODER_TRAINING,
) -> None:
    """Fine-tune a Composer's decoders on latents that were generated from other modalities, and save it as another Composer.

    Args:
        model: folder of the Composer.
        out: folder of the new one.
        modalities: how many the data set has.
        backgrounds: as the codecs were trained.
        data: default $POLYSCORE_DATA.
        objective: how many modalities are dropped, and how they are recovered.
        training: steps, batch, learning rate and the like.
    """
    train_poly_decoders(model, out, modalities, backgrounds, data, objective, training)
    say(f"saved {out}")


def sbm_refiner(
    modality: str,
    model: str = "runs/polymnist/joint",
    out: str = "runs/polymnist/refined",
    modalities: int = 5,
    backgrounds: str | None = None,
    data: str | None = None,
    width: int = 32,
    training: TrainConfig = REFINER_TRAINING,
) -> None:
    """Train a refiner of one modality: a small diffusion model that draws decoded pictures again (`polyscore sample --refine 8`).

    Args:
        modality: m0, m1, ...
        model: folder of the Composer.
        out: folder of the Composer with the refiner.
        modalities: how many the data set has.
        backgrounds: as the codecs were trained.
        data: default $POLYSCORE_DATA.
        width: channels of the network.
        training: steps, batch, learning rate and the like.
    """
    train_poly_refiner(modality, model, out, modalities, backgrounds, data, width, training)
    say(f"saved {out}; try: polyscore sample --model {out} --refine 8")


def sbm_polymnist(
    models: tuple[str, ...] = ("runs/polymnist/joint",),
    judge: str = "runs/polymnist/judge",
    out: str = "benchmarks/results/sbm-polymnist.json",
    modalities: int = 5,
    backgrounds: str | None = None,
    data: str | None = None,
    n: int = 1000,
    steps: int | None = None,
    solver: str | None = None,
    guidance: float | None = None,
    window: tuple[float, float] | None = None,
    energy: str | None = None,
    scale: float = 1.0,
    label: str = "",
) -> None:
    """Coherence given 1 to M-1 modalities and given none, Frechet distances, balance and cost of PolyMNIST Composers.

    Args:
        models: folders of Composers, one a seed.
        judge: the saved judge.
        out: the table, as JSON.
        modalities: how many the data set has.
        backgrounds: as in training.
        data: default $POLYSCORE_DATA.
        n: samples a subset and seed.
        steps: default the model's own.
        solver: default the model's own.
        guidance: strength of subset guidance; default the model's own.
        window: the times in which it acts; default the model's own.
        energy: saved energies that guide as well ("-C").
        scale: of the energies, per sample.
        label: what the table says of this variant.
    """
    ratio = load_module(energy, PairEnergy) if energy else None

    def change(composer: Composer) -> Mapping[str, Any]:
        composer.denoiser = guided_by(composer.denoiser, guidance, window, ratio, scale)
        return {
            "guidance": guidance if guidance is not None else getattr(composer.denoiser, "strength", 0.0),
            "window": window or getattr(composer.denoiser, "window", None),
            "energy": energy,
            "scale": scale,
        }

    options: dict[str, Any] = {k: v for k, v in {"steps": steps, "solver": solver}.items() if v is not None}
    with progress("evaluating") as bar:
        rows = poly_table(models, judge, out, modalities, backgrounds, data, n, change, label, bar, **options)
    say(show(rows, f"{len(models)} models, n = {n}; saved {out}"))


def sbm_sweep(
    model: str = "runs/polymnist/joint",
    judge: str = "runs/polymnist/judge",
    out: str = "benchmarks/results/sbm-sweep.json",
    steps: tuple[int, ...] = (3, 5, 7, 10, 20),
    guidance: tuple[float, ...] = (0.0, 1.0, 2.0),
    paper: tuple[int, ...] = (),
    modalities: int = 5,
    backgrounds: str | None = None,
    data: str | None = None,
    n: int = 300,
    seed: int = 0,
) -> None:
    """Coherence and Frechet distances of a PolyMNIST Composer against steps, guidance strength and the paper's sampler.

    Args:
        model: folder of the Composer.
        judge: the saved judge.
        out: the table, as JSON.
        steps: numbers of steps, at the model's own guidance.
        guidance: strengths, at the model's own steps.
        paper: numbers of steps of the paper's sampler (predictor and corrector), two evaluations each; the paper takes 100 to 1000.
        modalities: how many the data set has.
        backgrounds: as in training.
        data: default $POLYSCORE_DATA.
        n: samples a subset.
        seed: of the samples.
    """
    with progress("evaluating") as bar:
        rows = poly_sweep(model, judge, out, steps, guidance, paper, modalities, backgrounds, data, n, seed, bar)
    say(show(rows, f"{model}, n = {n}; saved {out}"))


def sbm_missing(
    folder: str = "runs/polymnist",
    judge: str = "runs/polymnist/judge",
    out: str = "benchmarks/results/sbm-missing.json",
    shares: tuple[float, ...] = tuple(LOST),
    seeds: tuple[int, ...] = (0, 1, 2),
    modalities: int = 5,
    backgrounds: str | None = None,
    data: str | None = None,
    n: int = 600,
) -> None:
    """What is lost by Composers that were fitted with a share of the training data missing.

    Args:
        folder: of the Composers mixture-SEED and mixture-SEED-missing-SHARE (`polyscore train sbm-mixture --missing SHARE`).
        judge: the saved judge.
        out: the table, as JSON.
        shares: of missing modalities.
        seeds: one Composer of each share a seed.
        modalities: how many the data set has.
        backgrounds: as in training.
        data: default $POLYSCORE_DATA.
        n: samples a subset and seed.
    """
    with progress("evaluating") as bar:
        rows = missing_table(folder, judge, out, shares, seeds, modalities, backgrounds, data, n, bar)
    say(show(rows, f"{folder}, n = {n}, seeds {list(seeds)}; saved {out}"))


def sbm_beta(
    folder: str = "runs/polymnist",
    judge: str = "runs/polymnist/judge",
    out: str = "benchmarks/results/sbm-beta.json",
    betas: tuple[float, ...] = (0.1, 0.4, 1.0, 4.0),
    seeds: tuple[int, ...] = (0, 1, 2),
    modalities: int = 5,
    backgrounds: str | None = None,
    data: str | None = None,
    n: int = 600,
) -> None:
    """What the weight of the autoencoders' KL term does to coherence, Frechet distances and recovered latents.

    Args:
        folder: of the Composers mixture-beta-BETA (`polyscore train sbm-codec --beta BETA`, then `polyscore train sbm-mixture`).
        judge: the saved judge.
        out: the table, as JSON.
        betas: the weights.
        seeds: of samples and test rows.
        modalities: how many the data set has.
        backgrounds: as in training.
        data: default $POLYSCORE_DATA.
        n: samples a subset and seed.
    """
    with progress("evaluating") as bar:
        models = {f"beta {beta:g}": f"{folder}/mixture-beta-{beta:g}" for beta in betas}
        rows = compare_table(models, judge, out, seeds, modalities, backgrounds, data, n, progress=bar, command="sbm-beta")
    say(show(rows, f"{folder}, n = {n}, seeds {list(seeds)}; saved {out}"))


def sbm_compare(
    models: dict[str, str],
    judge: str = "runs/polymnist/judge",
    out: str = "benchmarks/results/sbm-compare.json",
    refine: int = 8,
    leaders: bool = True,
    seeds: tuple[int, ...] = (0, 1, 2),
    modalities: int = 5,
    backgrounds: str | None = None,
    data: str | None = None,
    n: int = 600,
) -> None:
    """Coherence and Frechet distances of several Composers, side by side: as fitted, with tuned decoders, refined, guided.

    Args:
        models: folders of Composers by name, such as --models.plain=runs/polymnist/joint --models.tuned=runs/polymnist/tuned.
        judge: the saved judge.
        out: the table, as JSON.
        refine: steps of the refiners of those that have some.
        leaders: false where no modality is to be drawn before the others.
        seeds: of samples and test rows.
        modalities: how many the data set has.
        backgrounds: as in training.
        data: default $POLYSCORE_DATA.
        n: samples a subset and seed.
    """
    with progress("evaluating") as bar:
        rows = compare_table(models, judge, out, seeds, modalities, backgrounds, data, n, refine, leaders, bar)
    say(show(rows, f"{', '.join(models)}: n = {n}, seeds {list(seeds)}; saved {out}"))


def sbm_time(
    out: str = "benchmarks/results/sbm-time.json",
    numbers: tuple[int, ...] = (2, 4, 6, 8, 10),
    n: int = 256,
    repeats: int = 5,
    network: bool = False,
) -> None:
    """Seconds for joint samples against the number of modalities, of the closed form (sbm-mixture) or the network; nothing is trained.

    Args:
        out: the table, as JSON.
        numbers: of modalities.
        n: samples.
        repeats: of the measurement.
        network: time the joint network (sbm-joint, untrained and without guidance) in place of the closed form.
    """
    with progress("timing") as bar:
        rows = time_table(out, numbers, n, repeats, network=network, progress=bar)
    say(show(rows, f"{n} samples; saved {out}"))


TRAIN: dict[str, Callable[..., None]] = {
    "sbm-codec": sbm_codec,
    "sbm-judge": sbm_judge,
    "sbm-joint": sbm_joint,
    "sbm-mixture": sbm_mixture,
    "sbm-decoders": sbm_decoders,
    "sbm-refiner": sbm_refiner,
    **guides.TRAIN,
}
EVALUATE: dict[str, Callable[..., None]] = {
    "sbm-polymnist": sbm_polymnist,
    "sbm-missing": sbm_missing,
    "sbm-beta": sbm_beta,
    "sbm-compare": sbm_compare,
    "sbm-sweep": sbm_sweep,
    "sbm-time": sbm_time,
    **guides.EVALUATE,
}
