"""`polyscore recipe` and `polyscore train`: MMDisCo's experiments as commands."""

from __future__ import annotations

from collections.abc import Callable

from polyscore.recipes.mmdisco.three import BASE_TRAINING as THREE_BASE
from polyscore.recipes.mmdisco.three import RATIO_TRAINING as THREE_RATIO
from polyscore.recipes.mmdisco.three import ThreeSize
from polyscore.recipes.mmdisco.toy import BASE_TRAINING, RATIO_TRAINING, ToySize
from polyscore.recipes.talking.experts import BASE_TRAINING as TALKING_BASE
from polyscore.recipes.talking.experts import RATIO_TRAINING as TALKING_RATIO
from polyscore.recipes.talking.experts import TalkingSize
from polyscore.terminal import progress, say
from polyscore.training import TrainConfig

__all__ = ["RECIPES", "TRAINERS"]

SIZE = ToySize()
TALKING = TalkingSize()
THREE_SIZE = ThreeSize()


def mmdisco_toy(
    out: str = "runs/mmdisco-toy",
    table: str = "benchmarks/results/mmdisco-toy.json",
    seeds: tuple[int, ...] = (0, 1, 2),
    size: ToySize = SIZE,
    base: TrainConfig = BASE_TRAINING,
    training: TrainConfig = RATIO_TRAINING,
    jobs: int = 2,
) -> None:
    """MMDisCo's toy, complete: base model, both targets, every loss; a table and figures beside ground truth and the exact score.

    Args:
        out: folder of models and points; what is finished is kept.
        table: the JSON file; figures lie beside it.
        seeds: of training, fakes and sampling.
        size: numbers of points and steps, and the discriminator's widths.
        base: training of the base model.
        training: training of each discriminator.
        jobs: processes.
    """
    from polyscore.recipes.mmdisco.toy_table import run_toy
    from polyscore.recipes.tables import show

    with progress("mmdisco-toy") as bar:
        rows = run_toy(out, table, seeds, size, base, training, jobs, bar)
    say(show([row for row in rows if row.reach or "nll_paper" in row.measure], f"MMDisCo toy, seeds {list(seeds)}; all rows in {table}"))


def train_mmdisco_toy(
    setting: str = "OOD",
    loss: str = "all",
    out: str = "runs/mmdisco-toy-one",
    size: ToySize = SIZE,
    base: TrainConfig = BASE_TRAINING,
    training: TrainConfig = RATIO_TRAINING,
) -> None:
    """Train the toy's base model and one discriminator, and measure the guided samples.

    Args:
        setting: IND or OOD.
        loss: disc, denoise or all.
        out: folder.
        size: numbers of points and steps, and the discriminator's widths.
        base: training of the base model.
        training: training of the discriminator.
    """
    from polyscore.errors import PolyscoreError
    from polyscore.recipes.mmdisco.toy import LOSSES, measure_row, train_base, train_ratios
    from polyscore.recipes.toy import target

    target(setting)
    if loss not in LOSSES:
        raise PolyscoreError(f"loss {loss!r}: expected one of {', '.join(LOSSES)}")
    ratio = train_ratios(train_base(out, base), setting, [loss], out, size, training)[loss]
    found = measure_row(out, setting, ratio, size, training.seed)
    keys = ("nll_exact", "nll_paper", "in_mode_share", "variance_ratio", "energy_distance")
    say(f"{setting} {loss}: " + ", ".join(f"{name} {found[name]:.4g}" for name in keys))


def scales(
    model: str,
    real: str,
    grid: dict[str, list[float]] | None = None,
    out: str | None = None,
    n: int = 500,
    seeds: tuple[int, ...] = (0, 1, 2),
    steps: int | None = None,
    keep: bool = False,
) -> None:
    """Search the guidance scale of each modality over a grid, by the energy distance of samples to real tuples.

    Args:
        model: folder of a Composer, or a checkpoint, whose denoiser is guided by a ratio.
        real: safetensors file of real latents, one tensor a modality; rows belong together.
        grid: scales to try, as in --grid.video "[1,2,4,6,8,10]"; default the paper's grid for every modality.
        out: where to write the table, as JSON.
        n: samples a combination and seed.
        seeds: of the samples.
        steps: of the solver; by default the model's own, as are solver and times.
        keep: write the best scales into the model.
    """
    from polyscore.recipes.mmdisco.scale import tune
    from polyscore.recipes.tables import show

    with progress("scales") as bar:
        rows, protocol = tune(model, real, grid, out, n, seeds, steps, keep, bar)
    say(show(rows, f"{model}: n = {n}, seeds {list(seeds)}, {protocol['steps']} steps; best first"))


def mmdisco_talking(
    out: str = "runs/talking",
    table: str = "benchmarks/results/mmdisco-talking.json",
    seeds: tuple[int, ...] = (0, 1, 2),
    n: int = 500,
    size: TalkingSize = TALKING,
    base: TrainConfig = TALKING_BASE,
    training: TrainConfig = TALKING_RATIO,
    data: str | None = None,
) -> None:
    """Talking digits: video and sound models trained apart, joined by a discriminator; all losses, scales and domains, and a table.

    Args:
        out: folder of latents, base models and ratios; what is there is kept.
        table: the JSON file.
        seeds: of discriminators, fakes and samples.
        n: samples a case and seed.
        size: numbers of clips, widths and depths, steps of the sampler.
        base: training of a base model.
        training: training of a discriminator.
        data: folder with digits/mnist.npz and digits/fsdd.npz; default $POLYSCORE_DATA.
    """
    from polyscore.recipes.tables import show
    from polyscore.recipes.talking.table import run_talking

    with progress("mmdisco-talking") as bar:
        rows = run_talking(out, table, seeds, n, size, base, training, data, bar)
    chosen = [row for row in rows if row.reach or "agreement" in row.measure]
    say(show(chosen, f"talking digits, n = {n}, seeds {list(seeds)}; saved {table}"))


def mmdisco_talking_time(
    out: str = "runs/talking",
    table: str = "benchmarks/results/mmdisco-talking-time.json",
    seeds: tuple[int, ...] = (0, 1, 2),
    n: int = 500,
    rounds: int = 16,
    size: TalkingSize = TALKING,
) -> None:
    """What guidance adds to the time of sampling talking digits. Nothing else should run beside it.

    Args:
        out: folder of the models, as `polyscore recipe mmdisco-talking` leaves it.
        table: the JSON file.
        seeds: of discriminators.
        n: samples.
        rounds: of which the fastest counts.
        size: steps of the sampler and scale.
    """
    from polyscore.recipes.tables import show
    from polyscore.recipes.talking.table import talking_time

    with progress("timing") as bar:
        rows = talking_time(out, table, seeds, n, rounds, size, bar)
    say(show(rows, f"talking digits, n = {n}, seeds {list(seeds)}; saved {table}"))


def mmdisco_three(
    out: str = "runs/three",
    table: str = "benchmarks/results/mmdisco-three.json",
    seeds: tuple[int, ...] = (0, 1, 2),
    n: int = 500,
    size: ThreeSize = THREE_SIZE,
    base: TrainConfig = THREE_BASE,
    training: TrainConfig = THREE_RATIO,
    data: str | None = None,
) -> None:
    """Pictures, words and small pictures of three data sets, joined by one discriminator, beside discriminators of two; and a table.

    Args:
        out: folder of base models and ratios; what is there is kept.
        table: the JSON file.
        seeds: of discriminators, fakes and samples.
        n: samples a case and seed.
        size: numbers of tuples, widths and depths, steps of the sampler.
        base: training of a base model.
        training: training of a discriminator.
        data: folder with digits/mnist.npz and digits/fsdd.npz; default $POLYSCORE_DATA.
    """
    from polyscore.recipes.mmdisco.three import run_three
    from polyscore.recipes.tables import show

    with progress("mmdisco-three") as bar:
        rows = run_three(out, table, seeds, n, size, base, training, data, bar)
    say(show(rows, f"three modalities, n = {n}, seeds {list(seeds)}; saved {table}"))


RECIPES: dict[str, Callable[..., None]] = {
    "mmdisco-toy": mmdisco_toy,
    "mmdisco-talking": mmdisco_talking,
    "mmdisco-talking-time": mmdisco_talking_time,
    "mmdisco-three": mmdisco_three,
    "scales": scales,
}
TRAINERS: dict[str, Callable[..., None]] = {"mmdisco-toy": train_mmdisco_toy}
