"""Videos of a skeleton that dances to the music made for it."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from polyscore.checkpoint import load_module
from polyscore.data.dance import GENRES, RATE, Dance, pose
from polyscore.errors import PolyscoreError
from polyscore.media import write_video
from polyscore.networks.motion import DanceDenoiser
from polyscore.recipes.cdcd.dance import prepare
from polyscore.recipes.cdcd.dance_table import make_music

__all__ = ["dance_videos", "draw_dance", "trained_denoiser"]

FPS = 25


def draw_dance(dance: Dance, start: float, seconds: float, size: int = 192, fps: int = FPS) -> Tensor:
    """The skeleton from the front, frames (F, 3, size, size) in [0, 1]; the whole clip fits into the picture."""
    from PIL import Image, ImageDraw

    times = start + torch.arange(round(seconds * fps), dtype=torch.float64) / fps
    flat = pose(dance, times)[..., :2].numpy()
    low, high = flat.min((0, 1)), flat.max((0, 1))
    scale = 0.84 * size / max(float((high - low).max()), 1e-6)
    place = (flat - (low + high) / 2) * np.array([scale, -scale]) + size / 2
    frames = []
    for points in place:
        picture = Image.new("RGB", (size * 2, size * 2), (246, 244, 239))
        pen = ImageDraw.Draw(picture)
        for a, b in dance.edges:
            pen.line([tuple(2 * points[a]), tuple(2 * points[b])], fill=(40, 60, 90), width=6)
        for x, y in 2 * points:
            pen.ellipse([x - 4, y - 4, x + 4, y + 4], fill=(209, 73, 91))
        frames.append(np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS)))
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 255


def trained_denoiser(folder: str, seed: int, setting: str) -> DanceDenoiser:
    """The denoiser of a seed and setting in a recipe's folder."""
    return cast(DanceDenoiser, load_module(Path(folder) / f"{seed}" / setting / "denoiser", DanceDenoiser))


def dance_videos(
    folder: str = "runs/cdcd-dance",
    out: str = "outputs/dance",
    n: int = 3,
    seed: int = 0,
    setting: str = "step-intra",
    data: str | None = None,
    steps: int = 25,
    token_solver: str = "ancestral",
) -> list[Path]:
    """Music for n test clips, one genre after the other, and a video of each; real music beside it as NAME_real.mp4.

    Raises:
        CheckpointError: models that are not trained. DataError: the dances are not there. PolyscoreError: more clips than there are.
    """
    denoiser = trained_denoiser(folder, seed, setting)
    studio = prepare(folder, data, progress=False, visual=denoiser.network.visual is not None)
    if not 1 <= n <= len(studio.test):
        raise PolyscoreError(f"n is {n}, expected 1 to {len(studio.test)}")
    groups = [(studio.test.labels == k).nonzero()[:, 0].tolist() for k in range(len(GENRES))]
    turns = [group[i] for i in range(max(map(len, groups))) for group in groups if i < len(group)][:n]
    made = make_music(studio, denoiser, torch.tensor(turns), steps, seed, token_solver)
    files = []
    for row, wave in zip(turns, made, strict=True):
        dance, start = studio.parts.dances[int(studio.test.dances[row])], float(studio.test.starts[row])
        frames = draw_dance(dance, start, len(wave) / RATE)
        facts = {"dance": dance.name, "genre": GENRES[dance.genre], "start": start, "seed": seed, "setting": setting}
        facts |= {"steps": steps, "token_solver": token_solver}
        for name, sound in (("made", wave), ("real", studio.test.waves[row])):
            target = Path(out) / f"{dance.name}_{start:05.1f}_{name}.mp4"
            files.append(write_video(target, frames, fps=FPS, waveform=sound, rate=RATE, metadata={"run": facts}))
    return files
