"""Commands of text to image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from polyscore.networks.transformer import Size
from polyscore.recipes.cdcd.text import OBJECTIVE, TextTraining
from polyscore.terminal import progress, say
from polyscore.training.contrast import TokenObjective

__all__ = ["EVALUATE", "RECIPE", "TRAIN"]

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
    say(f'saved {out}; try: polyscore recipe cdcd-draw --folder {out} --caption "a large red seven on plain black"')


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


def cdcd_draw(
    caption: str,
    folder: str = "runs/cdcd-text",
    out: str = "outputs/drawn",
    n: int = 4,
    seed: int = 0,
    guidance: float = 3.0,
    clip: str | None = None,
    steps: int = 25,
    token_solver: str = "ancestral",
) -> None:
    """Draw a caption, and with a CLIP model say its CLIPScore.

    Args:
        caption: for example "a large red seven on a temple".
        folder: of the models.
        out: folder of the pictures.
        n: number of pictures.
        seed: of sampling.
        guidance: strength of classifier-free guidance.
        clip: folder or hub id of a CLIP model (needs transformers).
        steps: of sampling.
        token_solver: ancestral, confidence, random, left or maskgit, perhaps truncated as in ancestral:0.86.
    """
    from polyscore.media import write_image
    from polyscore.recipes.cdcd.text import draw

    pictures = draw(folder, [caption] * n, guidance, steps, seed, token_solver)
    facts = {"caption": caption, "seed": seed, "guidance": guidance, "steps": steps, "token_solver": token_solver}
    for i, picture in enumerate(pictures):
        write_image(Path(out) / f"{i:04d}.png", picture, metadata={"run": facts, "index": i})
    say(f"{n} files in {out}")
    if clip is not None:
        from polyscore.metrics.clip import clip_score

        say(f"CLIPScore {float(clip_score(pictures, [caption] * n, clip).mean()):.4f}")


TRAIN: dict[str, Callable[..., None]] = {"cdcd-text": cdcd_text}
EVALUATE: dict[str, Callable[..., None]] = {"cdcd-text": evaluate_cdcd_text}
RECIPE: dict[str, Callable[..., None]] = {"cdcd-draw": cdcd_draw}
