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

from typing import Literal, get_args

from torch import Tensor

from polyscore.denoisers import State
from polyscore.errors import PolyscoreError
from polyscore.paths import GaussianPath
from polyscore.sampling.walk import Walk

__all__ = ["MODES", "Mode", "check_mode", "jump_back", "observe"]

Mode = Literal["time", "clean", "scaled", "noised", "resample"]
MODES: tuple[str, ...] = get_args(Mode)


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
    if mode == "clean" or not isinstance(walk.paths[name], GaussianPath):
        return value
    A, S = walk.at(name, i)
    return (A + S) * value if mode == "scaled" else A * value + S * walk.noise(name)


def jump_back(walk: Walk, name: str, z: Tensor, i: int) -> Tensor:
    """A draw of q(z_{t_i} | z_{t_{i+1}}): noise added to go back one step of the grid. The solver forgets what it saw at t_i."""
    del walk.memory(name)[-1:]
    (A, S), (a, s) = walk.at(name, i), walk.at(name, i + 1)
    ratio = A / a
    return ratio * z + max(S * S - ratio * ratio * s * s, 0.0) ** 0.5 * walk.noise(name)
