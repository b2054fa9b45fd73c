"""Commands of text to image."""

from __future__ import annotations

from collections.abc import Callable

from polyscore.networks.transformer import Size
from polyscore.recipes.cdcd.text import OBJECTIVE, TextTraining
from polyscore.terminal import progress, say
from polyscore.training.contrast import TokenObjective

__all__ = ["EVALUATE", "TRAIN"]

TRAINING = TextTraining()


def cdcd_text(
    out: str = "runs/cdcd-text",
    data: str | None = None,
    backgrounds: str | None = None,
    objective: TokenObjective = OBJECTIVE,
    training: TextTraining = TRAINING,
    size: Size = "small",
    depth: int | None = None,
) -> None:
    """Train a token model of coloured digits on photographs, told by captions: codec, judge of attributes, denoiser.

    Args:
        out: folder; the codec and the judge that are there are kept.
        data: default $POLYSCORE_DATA.
        backgrounds: folder of photographs, WORD.jpg or WORD/*.jpg; captions say WORD. Default two of scikit-learn's, flower and temple.
        objective: the loss; with negatives (inter, intra) once the denoiser was trained without.
        training: of all parts.
        size: of the denoiser: small, or text, class or dance as in the papers.
        depth: blocks, in place of the size's own.
    """
    from polyscore.recipes.cdcd.text import train_text

    train_text(out, data, backgrounds, objective, training, size=size, depth=depth)
    say(f'saved {out}; try: polyscore sample --model {out} --prompt "a large red seven on plain black"')


def evaluate_cdcd_text(
    folder: str = "runs/cdcd-text",
    out: str = "benchmarks/results/cdcd-text.json",
    data: str | None = None,
    n: int = 200,
    seeds: tuple[int, ...] = (0, 1, 2),
    steps: int = 25,
    guidances: tuple[float, ...] = (1.0, 3.0),
    clip: str | None = None,
    picture: str | None = None,
) -> None:
    """Text to image: does a picture have the attributes of its caption?

    Args:
        folder: of the models.
        out: the table, as JSON.
        data: default $POLYSCORE_DATA.
        n: captions a seed.
        seeds: one value each.
        steps: of sampling.
        guidances: strengths of classifier-free guidance.
        clip: folder or hub id of a CLIP model, for rows of CLIPScore (needs transformers).
        picture: a PNG to write, of the first captions and what was drawn for them.
    """
    from polyscore.recipes.cdcd.text import text_table
    from polyscore.recipes.tables import show

    with progress("evaluating") as bar:
        rows = text_table(folder, out, data, n, seeds, steps, guidances, clip, picture, progress=bar)
    say(show(rows, f"text to image: n = {n}, seeds {list(seeds)}; saved {out}"))


TRAIN: dict[str, Callable[..., None]] = {"cdcd-text": cdcd_text}
EVALUATE: dict[str, Callable[..., None]] = {"cdcd-text": evaluate_cdcd_text}
