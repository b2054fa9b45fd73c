"""Commands of dance to music."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from polyscore.recipes.cdcd.dance import DanceSweep, DanceTraining
from polyscore.recipes.cdcd.dance_data import DanceSet
from polyscore.terminal import progress, say

__all__ = ["EVALUATE", "RECIPE", "TRAIN"]

TRAINING, SWEEP = DanceTraining(), DanceSweep()


def cdcd_dance(
    out: str = "runs/cdcd-dance",
    data: str | None = None,
    training: DanceTraining = TRAINING,
    visual: bool = False,
    dataset: DanceSet = "dances",
) -> None:
    """Train the codec of music, the judge of genres, and a vanilla denoiser of music tokens given the dance.

    Args:
        out: folder; what is there is kept.
        data: default $POLYSCORE_DATA; of aist, aist-6s and tiktok the folder of the published lists and of what they name.
        training: of all parts; size paper has the paper's networks.
        visual: the denoiser sees pictures of the dancer (of segments, the listed video features) as well.
        dataset: the real dances, or segments of AIST++ or TikTok.
    """
    from polyscore.recipes.cdcd.dance import PLAIN, prepare, train_dance

    studio = prepare(out, data, training, visual=visual, dataset=dataset)
    train_dance(studio, f"{out}/base", PLAIN, training.first, size=training.size)
    say(f"saved {out}; try: polyscore evaluate cdcd-dance --folder {out}")


def evaluate_cdcd_dance(
    folder: str = "runs/cdcd-dance",
    out: str = "benchmarks/results/cdcd-dance.json",
    data: str | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    steps: int = 25,
    most: int = 40,
    draws: int = 3,
    training: DanceTraining = TRAINING,
    visual: bool = False,
    dataset: DanceSet = "dances",
    sweep: bool = False,
    held: int = 7,
    tried: DanceSweep = SWEEP,
) -> None:
    """Dance to music: onsets, beats and genre of vanilla and contrastive models beside trivial baselines; trains what is missing.

    Args:
        folder: of the models.
        out: the table, as JSON.
        data: default $POLYSCORE_DATA; of aist, aist-6s and tiktok the folder of the published lists and of what they name.
        seeds: one model and one value each.
        steps: of sampling.
        most: test clips of a genre.
        draws: pieces of music for every test clip; their mean scores count.
        training: of all parts.
        visual: the denoisers see pictures of the dancer as well.
        dataset: the real dances, or segments of AIST++ or TikTok.
        sweep: choose the step-wise contrast on the held seed first, by onset F to two digits, then coverage nearest to 1.
        held: that seed.
        tried: the settings of the sweep, and its seeds of sampling.
    """
    from polyscore.recipes.cdcd.dance_table import DanceTable
    from polyscore.recipes.tables import show

    with progress("training and evaluating") as bar:
        chosen = tried if sweep else None
        rows = DanceTable(folder, out, data, seeds, steps, most, training, bar, visual, dataset, chosen, held, draws).run()
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
    motion: str | None = None,
    fps: float | None = None,
    bpm: float | None = None,
    genre: Literal["waltz", "rumba", "cha-cha"] | None = None,
) -> None:
    """Videos of skeletons that dance to music made for them: test clips with the real music beside it, or a dance of one's own.

    Args:
        folder: of the models, as `polyscore evaluate cdcd-dance` leaves it.
        out: folder of the videos.
        n: number of clips.
        seed: of model and sampling.
        setting: which model.
        data: default $POLYSCORE_DATA.
        steps: of sampling.
        token_solver: ancestral, confidence, random, left or maskgit, perhaps truncated as in ancestral:0.86.
        motion: file of a dance of one's own, joints (T, 23, 3) and fps (docs/tokens.md); n and data are then not used.
        fps: frames a second, where the motion file does not say.
        bpm: beats a minute of one's own dance, a beat at frame 0, where the file does not say.
        genre: of one's own dance.
    """
    from polyscore.recipes.cdcd.dance_own import own_dance_video
    from polyscore.recipes.cdcd.dance_video import dance_videos

    if motion is not None:
        say(f"saved {own_dance_video(motion, folder, out, seed, setting, fps, bpm, genre, steps, token_solver)}")
        return
    files = dance_videos(folder, out, n, seed, setting, data, steps, token_solver)
    say(f"{len(files)} videos in {out}")


TRAIN: dict[str, Callable[..., None]] = {"cdcd-dance": cdcd_dance}
EVALUATE: dict[str, Callable[..., None]] = {"cdcd-dance": evaluate_cdcd_dance}
RECIPE: dict[str, Callable[..., None]] = {"cdcd-dance-videos": cdcd_dance_videos}
