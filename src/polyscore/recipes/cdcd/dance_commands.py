"""Commands of dance to music."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from polyscore.recipes.cdcd.dance import DanceTraining
from polyscore.terminal import progress, say

__all__ = ["EVALUATE", "RECIPE", "TRAIN"]

TRAINING = DanceTraining()


def cdcd_dance(out: str = "runs/cdcd-dance", data: str | None = None, training: DanceTraining = TRAINING, visual: bool = False) -> None:
    """Train the codec of music, the judge of genres, and a vanilla denoiser of music tokens given the dance.

    Args:
        out: folder; what is there is kept.
        data: default $POLYSCORE_DATA.
        training: of all parts.
        visual: the denoiser sees pictures of the dancer as well.
    """
    from polyscore.recipes.cdcd.dance import PLAIN, prepare, train_dance

    studio = prepare(out, data, training, visual=visual)
    train_dance(studio, f"{out}/base", PLAIN, training.first)
    say(f"saved {out}; try: polyscore evaluate cdcd-dance --folder {out}")


def evaluate_cdcd_dance(
    folder: str = "runs/cdcd-dance",
    out: str = "benchmarks/results/cdcd-dance.json",
    data: str | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    steps: int = 25,
    most: int = 40,
    training: DanceTraining = TRAINING,
    visual: bool = False,
) -> None:
    """Dance to music: onsets, beats and genre of vanilla and contrastive models beside trivial baselines; trains what is missing.

    Args:
        folder: of the models.
        out: the table, as JSON.
        data: default $POLYSCORE_DATA.
        seeds: one model and one value each.
        steps: of sampling.
        most: test clips of a genre.
        training: of all parts.
        visual: the denoisers see pictures of the dancer as well.
    """
    from polyscore.recipes.cdcd.dance_table import DanceTable
    from polyscore.recipes.tables import show

    with progress("training and evaluating") as bar:
        rows = DanceTable(folder, out, data, seeds, steps, most, training, bar, visual).run()
    say(show(rows, f"dance to music: seeds {list(seeds)}; saved {out}"))


def cdcd_dance_videos(
    folder: str = "runs/cdcd-dance",
    out: str = "outputs/dance",
    n: int = 3,
    seed: int = 0,
    setting: Literal["vanilla", "step-intra", "sample-inter"] = "step-intra",
    data: str | None = None,
    steps: int = 25,
    token_solver: str = "ancestral",
) -> None:
    """Videos of skeletons that dance to music made for them, the real music beside it.

    Args:
        folder: of the models, as `polyscore evaluate cdcd-dance` leaves it.
        out: folder of the videos.
        n: number of clips.
        seed: of model and sampling.
        setting: which model.
        data: default $POLYSCORE_DATA.
        steps: of sampling.
        token_solver: ancestral, confidence, random, left or maskgit, perhaps truncated as in ancestral:0.86.
    """
    from polyscore.recipes.cdcd.dance_video import dance_videos

    files = dance_videos(folder, out, n, seed, setting, data, steps, token_solver)
    say(f"{len(files)} videos in {out}")


TRAIN: dict[str, Callable[..., None]] = {"cdcd-dance": cdcd_dance}
EVALUATE: dict[str, Callable[..., None]] = {"cdcd-dance": evaluate_cdcd_dance}
RECIPE: dict[str, Callable[..., None]] = {"cdcd-dance-videos": cdcd_dance_videos}
