"""Do samples of a composition follow its law? The score sum, correctors and particles, at equal evaluations, on closed forms."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from polyscore.denoisers import Denoiser, count_evaluations
from polyscore.files import write_text
from polyscore.networks.mlp import JointDenoiser
from polyscore.product import Product, Term
from polyscore.recipes.product.problems import Problem, problems
from polyscore.recipes.product.truths import noise_floor
from polyscore.recipes.tables import Measured, write_table
from polyscore.sampling import Langevin, NoisyDPMpp, Particles, Samples, sample
from polyscore.sampling.tokens import Gibbs
from polyscore.tokens.paths import TokenPath

__all__ = ["HELD_OUT", "METHODS", "Outcome", "exactness", "exactness_table", "gaussian_bench", "rows", "solve"]

BUDGET = 128
TOKEN_BUDGET = 12
NOISE = 3.0
HELD_OUT = 1
"""Seed of the problems that are measured; the settings below were chosen on those of seed 0."""
METHODS: dict[str, Mapping[str, Any]] = {
    "naive": {"steps": BUDGET, "solver": "ddpm"},
    "correctors": {"steps": BUDGET // 4, "solver": "ddpm", "corrector": Langevin(3, 0.25)},
    "particles": {"steps": BUDGET // 2, "solver": NoisyDPMpp(NOISE), "particles": Particles(2, "run", 0.5, steer=True)},
}
"""Gaussian modalities: each asks the networks `BUDGET` times a sample (correctors 125 times, as there is none at t = 0)."""


def token_methods(length: int) -> dict[str, Mapping[str, Any]]:
    """Tokens: each asks `TOKEN_BUDGET` times a position (correctors a little less, as there is none at t = 0)."""
    moves = (TOKEN_BUDGET - 4) * length
    return {
        "naive": {"steps": TOKEN_BUDGET * length, "token_solver": "ancestral"},
        "correctors": {"steps": TOKEN_BUDGET // 2 * length, "token_solver": "ancestral", "corrector": Gibbs(1, 1)},
        "particles": {"steps": length, "token_solver": "left", "particles": Particles(4, "run", 0.5, moves)},
    }


@dataclass(frozen=True)
class Outcome:
    """One method on one problem and set of samples: distance over the noise floor, evaluations a sample, seconds; for particles the
    lowest effective share and the error of the log-normaliser."""

    problem: str
    family: str
    method: str
    seed: int
    error: float
    evaluations: float
    seconds: float
    ess: float | None = None
    log_normaliser_error: float | None = None

    @property
    def inside(self) -> bool:
        """Whether the distance is below what 99 % of exact samples of the same size reach."""
        return self.error <= 1


def solve(problem: Problem, method: str, n: int, sets: int = 3, seed: int = 0) -> list[Outcome]:
    """`sets` independent sets of n samples of a problem by one method, drawn in one call and measured apart."""
    floor = noise_floor(problem.truth, n)
    samples = draw(problem.denoiser, method, n, sets, seed)
    flat = torch.cat([samples[name] for name in problem.denoiser.paths], 1)
    facts = samples.info.get("particles", {})
    logs = facts.get("log_normalisers", [None] * sets)
    return [
        Outcome(
            problem.name,
            problem.family,
            method,
            number,
            problem.truth.distance(part) / floor,
            samples.info["evaluations_per_sample"],
            samples.info["seconds"] / sets,
            facts.get("ess_lowest"),
            None if log is None else log - problem.log_normaliser,
        )
        for number, (part, log) in enumerate(zip(flat.split(n), logs, strict=True))
    ]


def draw(denoiser: Denoiser, method: str, n: int, sets: int, seed: int) -> Samples:
    """sets * n samples by a named method; particles are one population a set."""
    shape = denoiser.shapes.get("x", ())
    options = dict(
        token_methods(shape[0])[method] if isinstance(denoiser.paths["x"], TokenPath) else {"grid": "centred", **METHODS[method]}
    )
    if "particles" in options:
        options["particles"] = replace(options["particles"], population=n)
    return sample(denoiser, n * sets, seed=seed, dtype=torch.float64, **options)


def exactness(
    n: int = 400,
    sets: int = 3,
    suite: Iterable[Problem] | None = None,
    progress: Callable[[int, int], None] | None = None,
    keep: Path | None = None,
) -> list[Outcome]:
    """Every method on every problem; what `keep`, a folder, has of the same settings is not measured again."""
    chosen = list(problems(HELD_OUT) if suite is None else suite)
    found = []
    for done, problem in enumerate(chosen):
        found += _kept(problem, n, sets, keep)
        if progress is not None:
            progress(done + 1, len(chosen))
    return found


def _kept(problem: Problem, n: int, sets: int, keep: Path | None) -> list[Outcome]:
    """The outcomes of one problem, from its file in `keep` if that was made with these settings."""
    shape = problem.denoiser.shapes.get("x", ())
    tokens = isinstance(problem.denoiser.paths["x"], TokenPath)
    settings = repr((problem.name, round(problem.log_normaliser, 9), n, sets, token_methods(shape[0]) if tokens else METHODS))
    place = None if keep is None else keep / f"{problem.name.replace(' ', '-').replace('^', 'x')}.json"
    if place is not None and place.exists():
        stored = json.loads(place.read_text(encoding="utf-8"))
        if stored["settings"] == settings:
            return [Outcome(**o) for o in stored["outcomes"]]
    found = [o for method in METHODS for o in solve(problem, method, n, sets)]
    if place is not None:
        write_text(place, json.dumps({"settings": settings, "outcomes": [asdict(o) for o in found]}))
    return found


def rows(outcomes: Sequence[Outcome]) -> list[Measured]:
    """The table: shares of problems inside Monte-Carlo noise, errors, evaluations and time."""

    seeds = sorted({o.seed for o in outcomes})

    def values(method: str, measure: Callable[[list[Outcome]], float], family: str | None = None) -> list[float]:
        return [measure([o for o in outcomes if o.method == method and o.seed == seed and family in (None, o.family)]) for seed in seeds]

    def inside(part: list[Outcome]) -> float:
        return statistics.fmean(o.inside for o in part)

    cost = {(o.method, o.problem, o.seed): o.evaluations for o in outcomes}
    names_of = list(dict.fromkeys(o.problem for o in outcomes))
    names = {"naive": "sum of scores (naive)", "correctors": "Langevin correctors", "particles": "particles"}
    reach = {"particles": (">=", 0.95)}
    reference = "nobody measures this"
    table = [Measured(f"problems inside Monte-Carlo noise: {names[m]}", values(m, inside), reach.get(m), reference) for m in METHODS]
    for m in ("correctors", "particles"):
        ratios = [max(cost[m, p, s] / cost["naive", p, s] for p in names_of) for s in seeds]
        table.append(Measured(f"evaluations over the naive rule's, largest: {names[m]}", ratios, ("<=", 1.2)))
    for family in dict.fromkeys(o.family for o in outcomes):
        table += [Measured(f"inside, {family} problems: {names[m]}", values(m, inside, family)) for m in METHODS]
    for m in METHODS:
        table.append(
            Measured(f"median distance over the noise floor: {names[m]}", values(m, lambda p: statistics.median(o.error for o in p)))
        )
        table.append(Measured(f"largest distance over the noise floor: {names[m]}", values(m, lambda p: max(o.error for o in p))))
        table.append(Measured(f"seconds a problem: {names[m]}", values(m, lambda p: statistics.fmean(o.seconds for o in p))))
    errors = values("particles", lambda p: statistics.median(abs(o.log_normaliser_error or 0.0) for o in p))
    lowest = values("particles", lambda p: statistics.median(o.ess or 0.0 for o in p))
    return [
        *table,
        Measured("median error of the log-normaliser (nats): particles", errors),
        Measured("median of the lowest effective share: particles", lowest),
        Measured("problems", [float(len(names_of))], (">=", 60)),
    ]


def exactness_table(
    out: str,
    n: int = 400,
    sets: int = 3,
    suite: Iterable[Problem] | None = None,
    progress: Callable[[int, int], None] | None = None,
    keep: str | None = None,
) -> list[Measured]:
    """Measure (or go on measuring, with a folder `keep` for the problems done), write the table as JSON to `out`, and return it."""
    outcomes = exactness(n, sets, suite, progress, None if keep is None else Path(keep))
    table = [*rows(outcomes), *gaussian_bench(), *timing()]
    protocol = {
        "command": "polyscore evaluate product-exactness",
        "preset": f"{BUDGET} evaluations a sample on Gaussian paths, {TOKEN_BUDGET} a position on tokens; one population a set",
        "split": f"none (closed forms); problems of seed {HELD_OUT}, settings chosen on those of seed 0",
        "problems": sorted({o.problem for o in outcomes}),
        "n": n,
        "seeds": sorted({o.seed for o in outcomes}),
        "seeds_are": "independent sets of n samples of seed 0, drawn in one call",
        "extractor": "Cramer-von Mises over 24 directions (tokens: pairs of positions) over the 99 % quantile of exact samples",
        "seconds": round(sum(o.seconds for o in outcomes), 1),
    }
    write_table(out, table, protocol)
    return table


def gaussian_bench() -> list[Measured]:
    """Unite and Conquer on Gaussians (research note B1.4): moments that samplers of the score sum end at, by recursion."""
    from polyscore.recipes.oracle_checks.unite_bench import bench_by_recursion

    cells = [m for m in bench_by_recursion() if m.what.startswith("experts")]
    return [Measured("Gaussian bench: share of cells within 1e-3 of the recursion", [statistics.fmean(m.met for m in cells)], (">=", 1.0))]


def timing(prompts: int = 4, batch: int = 8, repeats: int = 5) -> list[Measured]:
    """Processor time of a product of several prompts on one network against as many calls and one for the null."""
    expert = JointDenoiser({"x": (32,)}, classes=10).eval()
    z, t = {"x": torch.zeros(batch, 32)}, {"x": 0.5}
    labels = [torch.tensor(k - 1) for k in range(prompts + 1)]
    product = Product([Term(expert, label, 2.0, null=labels[0]) for label in labels[1:]])
    with torch.no_grad():
        with count_evaluations(product) as seen:
            product(z, t)
        ratios = [_seconds(lambda: product(z, t)) / _seconds(lambda: [expert(z, t, c) for c in labels]) for _ in range(repeats)]
    what = f"{prompts} prompts on one network, batch {batch}"
    return [
        Measured(f"time of a product over separate calls: {what}", [statistics.median(ratios)], ("<=", 1.0), "N + 1 calls: 1.0"),
        Measured(f"network calls of a product: {what}", [float(seen.calls)], ("<=", 1.0), "N + 1"),
    ]


def _seconds(work: Callable[[], Any], repeats: int = 20) -> float:
    work()
    started = time.process_time()
    for _ in range(repeats):
        work()
    return time.process_time() - started
