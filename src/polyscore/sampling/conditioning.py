"""How observed modalities enter a run.

The default, `time`, gives each observed modality its own clock: it is shown clean, at t = 0. With a denoiser that takes a time
per modality this is exact. The other modes show all modalities at one common time t, as single-clock models need; they
are biased even with a perfect score (kept for comparison and for the papers' settings):

    clean     z_o as it is;
    scaled    (A + S) z_o, what the authors of the Score-Based Multimodal Autoencoder run;
    noised    A z_o + S n, with fresh n at every evaluation;
    resample  noised, and every step is repeated after jumping back one step (RePaint).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Literal, get_args

from torch import Tensor

from polyscore.denoisers import State
from polyscore.errors import PolyscoreError
from polyscore.paths import GaussianPath
from polyscore.sampling.tokens import jump_back as token_jump_back
from polyscore.sampling.walk import Walk
from polyscore.tokens.paths import TokenPath

__all__ = ["MODES", "Mode", "check_mode", "content", "corrupted_content", "jump_back", "observe"]

Mode = Literal["time", "clean", "scaled", "noised", "resample"]
MODES: tuple[str, ...] = get_args(Mode)
content: ContextVar[Mapping[str, Tensor] | None] = ContextVar("content", default=None)
"""The clean states that `edit` starts from; nothing else sets it."""


def check_mode(mode: str) -> None:
    """Refuse an unknown mode."""
    if mode not in MODES:
        raise PolyscoreError(f"conditioning {mode!r}: expected one of {', '.join(MODES)}")


def observe(walk: Walk, given: State, mode: str, i: int) -> tuple[State, dict[str, float]]:
    """States and times of the observed modalities at grid point i."""
    if mode == "time":
        return given, dict.fromkeys(given, 0.0)
    shown = {name: _show(walk, name, value, mode, i) for name, value in given.items()}
    return shown, dict.fromkeys(given, walk.times[i])


def _show(walk: Walk, name: str, value: Tensor, mode: str, i: int) -> Tensor:
    path = walk.paths[name]
    if mode == "clean" or (mode == "scaled" and isinstance(path, TokenPath)):
        return value
    if not isinstance(path, GaussianPath):
        return _corrupted(walk, f"{name}/shown", name, value, i)
    A, S = walk.at(name, i)
    return (A + S) * value if mode == "scaled" else A * value + S * walk.noise(name)


def _corrupted(walk: Walk, stream: str, name: str, value: Tensor, i: int) -> Tensor:
    """Tokens at the level of grid point i, with fresh noise."""
    path = walk.paths[name]
    found: Tensor = path.corrupt(value, walk.times[i], path.noise(stream, walk.shapes[name], walk.streams))
    return found


def corrupted_content(walk: Walk, start: State, own: Tensor) -> State:
    """Where a run begins: at `start` (noise), or in `polyscore.sampling.edit` at its content, corrupted to the first time."""
    found = dict(start)
    for name, value in (content.get() or {}).items():
        mine = value[own].to(start[name].device)
        if isinstance(walk.paths[name], GaussianPath):
            A, S = walk.at(name, 0)
            found[name] = A * mine + (S / math.hypot(A, S)) * start[name]
        else:
            found[name] = _corrupted(walk, f"{name}/begin", name, mine, 0)
    return found


def jump_back(walk: Walk, name: str, z: Tensor, i: int) -> Tensor:
    """A draw of q(z_{t_i} | z_{t_{i+1}}): noise added to go back one step of the grid. The solver forgets what it saw at t_i."""
    if isinstance(walk.paths[name], TokenPath):
        return token_jump_back(walk, name, z, i)
    del walk.memory(name)[-1:]
    (A, S), (a, s) = walk.at(name, i), walk.at(name, i + 1)
    ratio = A / a
    return ratio * z + max(S * S - ratio * ratio * s * s, 0.0) ** 0.5 * walk.noise(name)
