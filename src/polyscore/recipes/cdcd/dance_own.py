"""Music for a dance of one's own: a motion file in, a video of its skeleton with the music made for it out."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyscore.checkpoint import load_module, load_tensors
from polyscore.codecs import Chain
from polyscore.data.dance import COUNT, GENRES, RATE, Clips, Dance, cut
from polyscore.errors import DataError, PolyscoreError
from polyscore.media import write_video
from polyscore.networks.motion import DanceDenoiser
from polyscore.recipes.cdcd.dance import features_of, same_data
from polyscore.recipes.cdcd.dance_data import SAMPLES
from polyscore.recipes.cdcd.dance_video import FPS, draw_dance, trained_denoiser
from polyscore.sampling import sample

__all__ = ["music_for", "own_dance_video", "read_motion"]

JOINTS = 23


def read_motion(file: str | Path, fps: float | None = None, bpm: float | None = None, genre: str | None = None) -> Dance:
    """A dance from a motion file, without music.

    An .npz has "joints" (T, 23, 3) in cm with y up, in the order of the real dances', "fps", and perhaps "center" (T, 3), which joints are
    around (default: their mean, which is taken off), "frames_per_beat" with a beat at frame 0, and "edges" (E, 2), the bones. An .npy has
    the joints alone.

    Args:
        fps: where the file has none. bpm: beats a minute, where the file has no "frames_per_beat"; without either the count is not known
            (`frames_per_beat` 0). genre: one of `GENRES`; None: not known (-1).

    Raises:
        DataError: a file that is missing or damaged, joints of another shape or not finite, fewer than two frames, no fps.
    """
    place = Path(file)
    try:
        with place.open("rb") as stream:
            found = np.load(stream, allow_pickle=False)
            arrays: dict[str, Any] = {name: found[name] for name in found.files} if hasattr(found, "files") else {"joints": found}
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise DataError(f"{place}: expected a motion file, .npz or .npy ({error})") from error
    if "joints" not in arrays:
        raise DataError(f'{place}: expected an array "joints", found {", ".join(arrays) or "nothing"}')
    joints = np.asarray(arrays["joints"])
    if joints.ndim != 3 or joints.shape[1:] != (JOINTS, 3) or len(joints) < 2 or joints.dtype.kind not in "fiu":
        raise DataError(f"{place}: expected joints (2 or more frames, {JOINTS}, 3), found shape {joints.shape} of {joints.dtype}")
    rate = float(arrays.get("fps", fps or 0.0))
    if not np.isfinite(joints).all() or not (math.isfinite(rate) and rate > 0):
        raise DataError(f'{place}: expected finite joints and frames a second, "fps" in the file or --fps, found {rate:g}')
    points = torch.from_numpy(joints.astype(np.float32))
    center = torch.from_numpy(np.asarray(arrays["center"], dtype=np.float32)) if "center" in arrays else points.mean(1)
    if tuple(center.shape) != (len(points), 3):
        raise DataError(f"{place}: expected center ({len(points)}, 3), found {tuple(center.shape)}")
    points = points if "center" in arrays else points - center[:, None]
    count = float(arrays.get("frames_per_beat", 60 * rate / bpm if bpm else 0.0))
    edges = tuple((int(a), int(b)) for a, b in np.asarray(arrays.get("edges", np.zeros((0, 2)))))
    number = -1 if genre is None else GENRES.index(genre)
    return Dance(place.stem, number, points, center, rate, torch.zeros(0), torch.zeros(0), edges, count)


def _windows(dance: Dance, many: int, step: float, visual: bool) -> Clips:
    """`many` clips, one every `step` seconds; the last pose stays."""
    seconds = SAMPLES / RATE + (many - 0.5) * step
    frames = math.ceil(seconds * dance.fps) + 1
    held = [torch.cat([x, x[-1:].expand(max(0, frames - len(x)), *x.shape[1:])]) for x in (dance.joints, dance.center)]
    counted = dance.frames_per_beat or 1.0
    long = replace(dance, joints=held[0], center=held[1], wave=torch.zeros(math.ceil(seconds * RATE)), frames_per_beat=counted)
    clips = cut([long], SAMPLES, step, (0.0, 1.0), visual)
    if not dance.frames_per_beat:
        clips.motion[..., -COUNT:] = 0
    return clips


def music_for(
    dance: Dance, codec: Chain, denoiser: DanceDenoiser, basis: Tensor, steps: int = 25, seed: int = 0, token_solver: str = "ancestral"
) -> Tensor:
    """Music for a dance of any length, a wave (L,): windows of 2 s, each goes on from the second half of the one before (infilling)."""
    step, seconds = SAMPLES / RATE / 2, len(dance.joints) / dance.fps
    many = 1 + max(0, math.ceil(seconds / step) - 2)
    visual = denoiser.network.visual is not None  # type: ignore[union-attr]
    clips = _windows(dance, many, step, visual)
    seen = features_of(clips, basis)
    length = denoiser.shapes["music"][0]
    known, pieces = torch.full((1, length), -1), []
    for k in range(many):
        condition = {name: value[k : k + 1] for name, value in seen.items()} | {"label": torch.tensor([dance.genre])}
        given = {"music": known} if k else None
        options: dict[str, Any] = {"steps": steps, "token_solver": token_solver, "seed": seed, "first": k}
        tokens = sample(denoiser, 1, given=given, condition=condition, **options)["music"]
        known = torch.cat([tokens[:, length // 2 :], torch.full((1, length // 2), -1)], 1)
        pieces.append(tokens)
    with torch.no_grad():
        waves = torch.cat([codec.decode(tokens) for tokens in pieces])
    half = SAMPLES // 2
    ramp, out = torch.linspace(0, 1, half), waves[0]
    for wave in waves[1:]:
        out = torch.cat([out[:-half], out[-half:] * (1 - ramp) + wave[:half] * ramp, wave[half:]])
    return out[: round(seconds * RATE)]


def own_dance_video(
    motion: str,
    folder: str = "runs/cdcd-dance",
    out: str = "outputs/dance",
    seed: int = 0,
    setting: str = "step-intra",
    fps: float | None = None,
    bpm: float | None = None,
    genre: str | None = None,
    steps: int = 25,
    token_solver: str = "ancestral",
) -> Path:
    """Music for the dance in a motion file, and a video of both, `out`/NAME.mp4. The data the models were trained on need not be there.

    Raises:
        CheckpointError: models that are not trained. DataError: see `read_motion`. PolyscoreError: models of segments, or that need bones.
    """
    dance, place = read_motion(motion, fps, bpm, genre), Path(folder)
    same_data(place, "dances, first 68 %")
    denoiser = trained_denoiser(folder, seed, setting)
    tensors = load_tensors(place / "basis.safetensors")
    if not dance.edges and "edges" in tensors:
        dance = replace(dance, edges=tuple((int(a), int(b)) for a, b in tensors["edges"]))
    if denoiser.network.visual is not None and not dance.edges:  # type: ignore[union-attr]
        raise PolyscoreError(f'{motion}: expected "edges", the bones, as this model sees pictures of the dancer')
    wave = music_for(dance, load_module(place / "codec", Chain), denoiser, tensors["basis"], steps, seed, token_solver)
    frames = draw_dance(dance, 0.0, len(wave) / RATE)
    facts = {"motion": Path(motion).name, "genre": genre, "fps": dance.fps, "bpm": bpm, "seed": seed, "setting": setting}
    facts |= {"steps": steps, "token_solver": token_solver}
    return write_video(Path(out) / f"{dance.name}.mp4", frames, fps=FPS, waveform=wave, rate=RATE, metadata={"run": facts})
