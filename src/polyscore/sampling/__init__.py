"""Sampling: grids, solvers, correctors, conditioning, and the loop that joins them. It never knows what it samples."""

from __future__ import annotations

from polyscore.sampling.correctors import Corrector, Langevin, SNRLangevin, make_corrector
from polyscore.sampling.editing import edit
from polyscore.sampling.grids import make_grid
from polyscore.sampling.loop import Samples, Step, sample
from polyscore.sampling.noise import Streams
from polyscore.sampling.particles import Particles
from polyscore.sampling.solvers import DDIM, DPMpp, EulerMaruyama, Heun, NoisyDPMpp, Solver, make_solver
from polyscore.sampling.stages import sample_leaders
from polyscore.sampling.starts import MomentStart
from polyscore.sampling.tokens import Ancestral, Gibbs, Unmask, make_token_solver
from polyscore.sampling.walk import Walk

__all__ = [
    "DDIM",
    "Ancestral",
    "Corrector",
    "DPMpp",
    "EulerMaruyama",
    "Gibbs",
    "Heun",
    "Langevin",
    "MomentStart",
    "NoisyDPMpp",
    "Particles",
    "SNRLangevin",
    "Samples",
    "Solver",
    "Step",
    "Streams",
    "Unmask",
    "Walk",
    "edit",
    "make_corrector",
    "make_grid",
    "make_solver",
    "make_token_solver",
    "sample",
    "sample_leaders",
]
