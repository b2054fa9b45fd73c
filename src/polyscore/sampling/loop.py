"""Sampling: all modalities together, from any subset of them to all the others."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from polyscore.denoisers import Denoiser, Run, State, count_evaluations, current_run
from polyscore.errors import PolyscoreError
from polyscore.paths import GaussianPath
from polyscore.sampling.conditioning import Mode, check_mode, corrupted_content, jump_back, observe
from polyscore.sampling.correctors import Corrector, make_corrector
from polyscore.sampling.grids import make_grid
from polyscore.sampling.noise import Streams
from polyscore.sampling.particles import Particles, Population, approximations, check_shared, noisy, summary
from polyscore.sampling.solvers import Solver, make_solver
from polyscore.sampling.starts import MomentStart
from polyscore.sampling.tokens import make_token_solver, partial, pin, redraw
from polyscore.sampling.walk import Walk
from polyscore.tokens.paths import TokenPath

__all__ = ["Samples", "Step", "sample"]

Callback = Callable[["Step"], None]


@dataclass(frozen=True)
class Step:
    """What a callback sees after every step.

    Attributes:
        index: number of the step, from 0; `steps` in all.
        t: the time the step left from. first: number of the batch's first sample.
        z: the new states of all modalities. predictions: what the denoiser said at t.
    """

    index: int
    steps: int
    t: float
    first: int
    z: State
    predictions: Mapping[str, Any]


@runtime_checkable
class Summed(Protocol):
    """A callback that sums up what it saw; a run puts that into its `.info`."""

    def summary(self) -> dict[str, Any]:
        """What it saw."""
        ...


class Samples(dict[str, Tensor]):
    """{modality: (n, *shape)}; `info` says what was done: steps, solver, evaluations, seconds, particles."""

    def __init__(self, values: Mapping[str, Tensor], info: Mapping[str, Any] | None = None) -> None:
        super().__init__(values)
        self.info: dict[str, Any] = dict(info or {})


def sample(
    denoiser: Denoiser,
    n: int,
    *,
    given: Mapping[str, Tensor] | None = None,
    absent: Collection[str] = (),
    condition: Any = None,
    steps: int = 20,
    solver: str | Solver | Mapping[str, Any] = "dpmpp",
    token_solver: Any = "ancestral",
    corrector: str | Corrector | None = None,
    particles: int | Particles | None = None,
    population: Literal["sample", "run"] = "sample",
    grid: str | Sequence[float] = "uniform",
    conditioning: Mode = "time",
    resamplings: int = 5,
    seed: int = 0,
    first: int = 0,
    batch_size: int | None = None,
    callback: Callback | None = None,
    start: MomentStart | None = None,
    dtype: torch.dtype = torch.float32,
) -> Samples:
    """Sample n states of all modalities of a denoiser, those in `given` held fixed.

    Args:
        denoiser: any denoiser or composition of denoisers.
        n: number of samples.
        given: observed latents, (n, *shape), or (1, *shape) for all; a token of -1 is free (infilling).
        absent: modalities that are left out: held at t = 1, where they tell nothing, and not returned.
        condition: handed to the denoiser; a tensor or list of n rows (or a mapping of these) is cut with the batch.
        steps: of the grid. solver: "dpmpp" (2M), "dpmpp3m", "dpmpp3m_full", "dpmpp_sde", "ddim", "ddpm", "heun", "euler",
            "euler_maruyama", "euler_maruyama_even", or an object.
        token_solver: for token modalities (`polyscore.sampling.tokens.make_token_solver`). corrector: run at every step: "langevin",
            "snr", "gibbs", one of these with a number ("langevin:0.1", `polyscore.sampling.correctors.make_corrector`), or an object.
        particles: K weighted particles a sample, which make a composition exact (`polyscore.sampling.particles`); "dpmpp" and "ddim"
            then run in their noisy form. population: who shares them, each "sample" its own or the whole "run".
        grid: "uniform" in t, "log_snr", "centred", "karras" (spaced for the first generated Gaussian modality), "score_sde", or times.
        conditioning: how `given` enters; see `polyscore.sampling.conditioning`. resamplings: rounds of `resample`.
        seed: sample i depends on (seed, i) only, not on n or the batch. first: number of the first sample.
        batch_size: samples at a time; all by default. callback: called after every step with a `Step`; a
            `polyscore.sampling.diagnostics.Recorder` also puts its summary into `.info["diagnostics"]`.
        start: moments to begin with, where t = 1 is not pure noise; by default standard normal noise of the right variance.

    Returns:
        All modalities, the given ones included; `.info` has steps, solver, evaluations (calls and rows a sample), seconds, and under
        "particles" their number, ESS, resamplings, log-normaliser and what is still approximate.

    Raises:
        PolyscoreError: an unknown modality, wrong shape or NaN in `given`; unknown names; states that stop being finite.
    """
    check_mode(conditioning)
    observed = {name: _given(denoiser, name, value, n, dtype) for name, value in (given or {}).items()}
    _check_absent(denoiser, observed, absent)
    for title, number in (("n", n), ("batch_size", 1 if batch_size is None else batch_size)):
        if number < 1:
            raise PolyscoreError(f"{title} is {number}, expected at least 1")
    many = Particles(particles, population) if isinstance(particles, int) else particles
    if many is not None and conditioning == "resample":
        raise PolyscoreError("particles: conditioning 'resample' goes back in time, which weights cannot follow; expected another mode")
    chosen = make_solver(solver) if many is None else noisy(make_solver(solver))
    tokens, repairs = _token_solver(denoiser, token_solver), make_corrector(corrector)
    options = _Options(steps, chosen, tokens, repairs, many, grid, conditioning, resamplings, callback, dtype, absent, start)
    size = batch_size or n
    started = time.perf_counter()
    with torch.no_grad(), count_evaluations(denoiser) as evaluations:
        parts = [range(a, min(a + size, n)) for a in range(0, n, size)]
        batches = [_batch(denoiser, observed, condition, seed, first, n, rows, options) for rows in parts]
    joined = {name: torch.cat([b[name] for b, _ in batches]) for name in denoiser.paths if name not in absent}
    info: dict[str, Any] = {
        "n": n,
        "seed": seed,
        "first": first,
        "steps": steps if isinstance(grid, str) else len(grid) - 1,
        "solver": repr(options.solver),
        "corrector": None if repairs is None else repr(repairs),
        "grid": grid if isinstance(grid, str) else "explicit",
        "conditioning": conditioning if observed else None,
        "given": sorted(observed),
        "calls": evaluations.calls // len(batches),
        "evaluations_per_sample": evaluations.rows / n,
        "seconds": time.perf_counter() - started,
    }
    if many is not None:
        info["particles"] = summary(many, [facts for _, facts in batches], approximations(denoiser))
    if isinstance(callback, Summed):
        info["diagnostics"] = callback.summary()
    return Samples(joined, info)


@dataclass(frozen=True)
class _Options:
    steps: int
    solver: Solver
    token_solver: Any
    corrector: Corrector | None
    particles: Particles | None
    grid: str | Sequence[float]
    conditioning: str
    resamplings: int
    callback: Callback | None
    dtype: torch.dtype
    absent: Collection[str]
    start: MomentStart | None


def _batch(
    denoiser: Denoiser, given: State, condition: Any, seed: int, first: int, n: int, rows: range, options: _Options
) -> tuple[State, dict[str, Tensor]]:
    """One batch: its samples, and the facts about its particles."""
    device = next((p.device for p in denoiser.parameters()), torch.device("cpu"))
    each = 1 if options.particles is None else options.particles.count
    numbers: list[Any] = [first + i if each == 1 else (first + i, k) for i in rows for k in range(each)]
    streams = Streams(seed, numbers, device, options.dtype)
    fixed = {name: value for name, value in given.items() if partial(denoiser.paths[name], value)}
    given = {name: value for name, value in given.items() if name not in fixed}
    generated = [name for name in denoiser.paths if name not in given and name not in options.absent]
    gaussian = [p for name in generated if isinstance(p := denoiser.paths[name], GaussianPath)]
    walk = Walk(denoiser.paths, denoiser.shapes, make_grid(options.grid, options.steps, gaussian[0] if gaussian else None), streams)
    own = torch.arange(rows.start, rows.stop).repeat_interleave(each)
    shown, known = ({name: value[own].to(device) for name, value in some.items()} for some in (given, fixed))
    part = _own(condition, n, own)
    start = {name: path.start(walk.times[0], name, denoiser.shapes[name], streams) for name, path in denoiser.paths.items()}
    population = None
    if options.particles is not None:
        if options.particles.population != "sample":
            check_shared(shown, part)
        population = Population.of(options.particles, walk, seed, [first + i for i in rows], device, getattr(options.solver, "noise", 0.0))
    shared = population is not None and population.groups < len(rows)
    run = Run(0, start, rows=own, n=n, first=first, shared=shared, absent=options.absent)
    begin = corrupted_content(walk, start, own)
    if options.start is not None:
        begin |= options.start(walk, {name: start[name] for name in generated}, shown)
    token = current_run.set(run)
    try:
        stepper = _Stepper(denoiser, walk, shown, known, part, options, run, first + rows.start, population)
        return stepper.go({name: begin[name] for name in generated}), {} if population is None else population.facts()
    finally:
        current_run.reset(token)


def _own(condition: Any, n: int, own: Tensor) -> Any:
    """The batch's rows of a condition that has one row a sample: a tensor or list, or a mapping of these."""
    if isinstance(condition, Mapping):
        return {key: _own(value, n, own) for key, value in condition.items()}
    if isinstance(condition, list) and len(condition) == n > 1:
        return [condition[i] for i in own.tolist()]
    whole = isinstance(condition, Tensor) and condition.ndim > 0 and len(condition) == n > 1
    return condition[own.to(condition.device)] if whole else condition


class _Stepper:
    """One batch on its way from noise to data."""

    def __init__(
        self,
        denoiser: Denoiser,
        walk: Walk,
        given: State,
        fixed: State,
        condition: Any,
        options: _Options,
        run: Run,
        first: int,
        population: Population | None,
    ) -> None:
        self.denoiser, self.walk, self.given, self.fixed, self.condition = denoiser, walk, given, fixed, condition
        self.options, self.run, self.first, self.population = options, run, first, population
        self.hidden = {name: run.noise[name] for name in options.absent}

    def predict(self, z: State, i: int) -> Mapping[str, Any]:
        """Predictions at grid point i, the observed modalities put in."""
        shown, clocks = observe(self.walk, self.given, self.options.conditioning, i)
        clocks = clocks | dict.fromkeys(self.hidden, 1.0) | dict.fromkeys(z, self.walk.times[i])
        found: Mapping[str, Any] = self.denoiser(z | shown | self.hidden, clocks, self.condition)
        return found

    def go(self, z: State) -> State:
        """All steps of the grid."""
        rounds = self.options.resamplings if self.options.conditioning == "resample" and self.given else 1
        z = pin(z, self.fixed)
        for i in range(self.walk.steps):
            self.run.step = i
            for again in range(rounds):
                z, predictions = self.step(z, i)
                if again + 1 < rounds and self.walk.times[i + 1] > 0:
                    z = pin({name: jump_back(self.walk, name, value, i) for name, value in z.items()}, self.fixed)
            if self.options.callback is not None:
                self.options.callback(Step(i, self.walk.steps, self.walk.times[i], self.first, z | self.given, predictions))
        z = z | {name: mean for name, mean in self.walk.means.items() if name in z}
        if self.population is not None:
            z, self.given = self.population.finish(z, self.given)
            z = self.settle(z, self.population.own()) if self.options.particles.moves else z  # type: ignore[union-attr]
        for name, value in z.items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise PolyscoreError(f"modality {name!r}: the sampled latent is not finite (NaN or infinity); expected finite numbers")
        return z | self.given

    def settle(self, z: State, rows: Tensor) -> State:
        """Gibbs moves of the drawn samples' tokens, with the random streams of `rows`."""
        assert self.options.particles is not None and self.run.rows is not None
        fixed = {name: known[rows] for name, known in self.fixed.items()}
        self.condition = _own(self.condition, len(self.run.rows), rows)
        self.run.rows, self.run.noise = self.run.rows[rows], {name: noise[rows] for name, noise in self.run.noise.items()}
        self.run.memo.clear()
        return redraw(self.walk, z, fixed, rows, self.options.particles.moves, lambda state: self.predict(state, self.walk.steps - 1))

    def step(self, z: State, i: int) -> tuple[State, Mapping[str, Any]]:
        """One step of all generated modalities."""
        corrector = self.options.corrector
        self.walk.means.clear()
        if corrector is not None and corrector.when == "before":
            z = corrector(self.walk, z, i, self.predict)
        predictions = self.predict(z, i)
        if self.population is not None:
            z, predictions = self.population.select(z, predictions, i)
            self.run.memo.clear()
        new = pin({name: self._solver(name).update(self.walk, name, value, predictions[name], i) for name, value in z.items()}, self.fixed)
        if self.population is not None:
            self.population.reveal(z, new, predictions)
            new = new if self.population.steering is None else self.population.steering.drift(new, i)
        if self.options.solver.refines and self.walk.times[i + 1] > 0:
            second = self.predict(new, i + 1)
            for name in [n for n in new if self._solver(n) is self.options.solver]:
                new[name] = self.options.solver.refine(self.walk, name, second[name], i)  # type: ignore[attr-defined]
        if corrector is not None and corrector.when == "same":
            new = corrector(self.walk, new, i, self.predict)
        if corrector is not None and corrector.when == "after" and self.walk.times[i + 1] > 0:
            new = corrector(self.walk, new, i + 1, self.predict)
        return pin(new, self.fixed), predictions

    def _solver(self, name: str) -> Any:
        return self.options.solver if isinstance(self.walk.paths[name], GaussianPath) else self.options.token_solver


def _token_solver(denoiser: Denoiser, solver: Any) -> Any:
    tokens = any(isinstance(path, TokenPath) for path in denoiser.paths.values())
    if not tokens and isinstance(solver, str) and solver != "ancestral":
        raise PolyscoreError(f"token solver {solver!r}: expected a token modality, found none among {sorted(denoiser.paths)}")
    return make_token_solver(solver) if tokens and isinstance(solver, str) else solver


def _check_absent(denoiser: Denoiser, given: State, absent: Collection[str]) -> None:
    for name in absent:
        if name not in denoiser.paths or name in given:
            raise PolyscoreError(f"absent modality {name!r}: expected one of {sorted(set(denoiser.paths) - set(given))}")
    if len(absent) and set(absent) | set(given) == set(denoiser.paths):
        raise PolyscoreError("absent: expected at least one modality to generate, found none")


def _given(denoiser: Denoiser, name: str, value: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    if name not in denoiser.paths:
        raise PolyscoreError(f"given modality {name!r}: the model has {', '.join(sorted(denoiser.paths))}")
    shape = tuple(denoiser.shapes[name])
    if tuple(value.shape[1:]) != shape or len(value) not in (1, n):
        raise PolyscoreError(f"given modality {name!r}: expected shape {(n, *shape)} (or 1 row), found {tuple(value.shape)}")
    if value.is_floating_point():
        bad = int((~torch.isfinite(value)).sum())
        if bad:
            raise PolyscoreError(
                f"given modality {name!r}: {bad} of {math.prod(value.shape)} latent values are NaN or infinite; expected finite numbers"
            )
        value = value.to(dtype)
    path = denoiser.paths[name]
    if isinstance(path, TokenPath):
        path.check(name, torch.where(value == -1, 0, value), shape)
        value = value.long()
    return value.expand(n, *shape)
