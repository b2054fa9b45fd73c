"""The PolyMNIST table: one Composer a seed, measured and compared with the numbers to reach."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from polyscore.checkpoint import load_module
from polyscore.composer import Composer
from polyscore.data.download import sha256_of
from polyscore.denoisers import Denoiser
from polyscore.guided import Guided
from polyscore.ratios.energy import PairEnergy
from polyscore.ratios.subset import SubsetGuided
from polyscore.recipes.polymnist.evaluate import PolyTest, evaluate_poly
from polyscore.recipes.polymnist.guides import LEADING
from polyscore.recipes.polymnist.paper import paper_sampling
from polyscore.recipes.tables import Measured, write_table
from polyscore.spec import to_spec

__all__ = ["compare_table", "energy_table", "guided_by", "missing_table", "poly_sweep", "poly_table", "reaches"]

PAPER = {
    "given 1": "10 modalities, paper Fig. 8",
    "all agree": "paper, 10 modalities: about 0.71",
    "evaluations": "paper: 200",
}


def reaches(modalities: int, rebuilt: float) -> dict[str, tuple[str, float]]:
    """The numbers to reach; Frechet distances against twice what the autoencoders alone leave (`rebuilt`)."""
    most = modalities - 1
    found: dict[str, tuple[str, float]] = {"given 1": (">=", 0.85), f"given {most}": (">=", 0.97), "all agree": (">=", 0.75)}
    found |= {"evaluations": ("<=", 20), "joint frechet": ("<=", 2 * rebuilt)}
    return found | {f"given {k} frechet": ("<=", 2 * rebuilt) for k in (1, most)}


def guided_by(
    denoiser: Denoiser,
    strength: float | None = None,
    window: tuple[float, float] | None = None,
    energy: PairEnergy | None = None,
    scale: float = 1.0,
) -> Denoiser:
    """A recipe's denoiser with another subset guidance, and, with `energy`, guided by pairwise energies as well."""
    found = denoiser
    if isinstance(denoiser, SubsetGuided):
        w = denoiser.strength if strength is None else strength
        found = SubsetGuided(denoiser.denoiser, w, denoiser.window if window is None else window, denoiser.marginals)
    return found if energy is None else Guided(found, energy, scale)


def poly_table(
    models: Sequence[str],
    judge: str | os.PathLike[str],
    out: str | os.PathLike[str],
    modalities: int = 5,
    backgrounds: str | None = None,
    data: str | None = None,
    n: int = 1000,
    change: Callable[[Composer], Mapping[str, Any]] | None = None,
    label: str = "",
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> list[Measured]:
    """Measure every Composer of `models` with its own number as the seed, and write `out`.

    Args:
        change: alters each Composer's denoiser before it is measured, and says what it did.
        label: of the variant, for the protocol.

    Raises:
        CheckpointError: no such Composer or judge. DataError: MNIST is not there.
    """
    began = time.perf_counter()
    test = PolyTest.load(judge, modalities, backgrounds, data)
    runs, facts, sample_options = [], {}, dict(options)
    for seed, folder in enumerate(models):
        composer = Composer.load(folder)
        facts = dict(change(composer)) if change is not None else {}
        sample_options = to_spec({**composer.defaults, **options})
        runs.append(evaluate_poly(composer, test, n, seed, **options))
        if progress is not None:
            progress(seed + 1, len(models))
    wanted = reaches(modalities, sum(run["frechet rebuilt"] for run in runs) / len(runs))
    rows = [Measured(name, [run[name] for run in runs], wanted.get(name), PAPER.get(name, "")) for name in runs[0]]
    rows += _one_more(runs, modalities)
    protocol = {
        "what the seeds vary": "sampler and test rows" if len(set(models)) == 1 else "the joint law, sampler and test rows",
        "variant": label,
        "models": [str(m) for m in models],
        "options": sample_options,
        **facts,
    }
    shared = _protocol("sbm-polymnist", judge, modalities, backgrounds, n, range(len(models)), began)
    write_table(out, rows, shared | protocol)
    return rows


def _protocol(
    command: str, judge: str | os.PathLike[str], modalities: int, backgrounds: str | None, n: int, seeds: Iterable[int], began: float
) -> dict[str, Any]:
    """What every table of PolyMNIST says of itself."""
    return {
        "command": f"polyscore evaluate {command}",
        "split": "PolyMNIST, test tuples from the MNIST test split",
        "scenery": "photographs" if backgrounds else "procedural textures",
        "modalities": modalities,
        "n": n,
        "seeds": list(seeds),
        "extractor": "judge",
        "extractor_sha256": sha256_of(Path(judge).with_suffix(".safetensors")),
        "seconds": round(time.perf_counter() - began, 1),
    }


def _one_more(runs: Sequence[Mapping[str, float]], modalities: int) -> list[Measured]:
    """What one more observed modality does at worst, on the means over the seeds: monotone within noise."""
    if modalities < 3:
        return []
    means = {name: sum(run[name] for run in runs) / len(runs) for name in runs[0]}
    pairs = list(itertools.pairwise(range(1, modalities)))
    gain = min(means[f"given {b}"] - means[f"given {a}"] for a, b in pairs)
    rise = max(means[f"given {b} frechet"] - means[f"given {a} frechet"] for a, b in pairs)
    return [
        Measured("one more observed: least gain of coherence", [gain], (">=", -0.01), "paper Fig. 8: rises"),
        Measured("one more observed: largest rise of frechet", [rise], ("<=", 0.03), "paper Fig. 9: falls"),
    ]


LOST = {0.2: 0.02, 0.4: 0.04, 0.6: 0.08}


def missing_table(
    folder: str | os.PathLike[str],
    judge: str | os.PathLike[str],
    out: str | os.PathLike[str],
    shares: Sequence[float] = tuple(LOST),
    seeds: Sequence[int] = (0, 1, 2),
    modalities: int = 5,
    backgrounds: str | None = None,
    data: str | None = None,
    n: int = 1000,
    progress: Callable[[int, int], None] | None = None,
) -> list[Measured]:
    """What Composers lose that were fitted with a share of their training data missing, `folder`/mixture-SEED-missing-SHARE, against
    `folder`/mixture-SEED; writes `out`.

    Raises:
        CheckpointError: no such Composer or judge. DataError: MNIST is not there.
    """
    began = time.perf_counter()
    test = PolyTest.load(judge, modalities, backgrounds, data)
    few = (1, modalities - 1)
    coherence = [f"given {k}" for k in few] + ["all agree"]
    distances = [f"given {k} frechet" for k in few] + ["joint frechet"]
    cases = {0.0: "", **{share: f"-missing-{share:g}" for share in shares}}
    runs: dict[float, list[dict[str, float]]] = {share: [] for share in cases}
    for seed in seeds:
        for share, ending in cases.items():
            composer = Composer.load(Path(folder) / f"mixture-{seed}{ending}")
            runs[share].append(evaluate_poly(composer, test, n, seed, observed=few))
            if progress is not None:
                progress(sum(map(len, runs.values())), len(seeds) * len(cases))
    rows = []
    for share in shares:
        for name in coherence:
            lost = [a[name] - b[name] for a, b in zip(runs[0.0], runs[share], strict=True)]
            rows.append(Measured(f"{share:.0%} missing: {name}, lost", lost, ("<=", LOST[share]) if share in LOST else None))
    rows += [
        Measured(f"{share:.0%} missing: {name}", [run[name] for run in runs[share]]) for share in cases for name in coherence + distances
    ]
    protocol = {"what the seeds vary": "what is missing, the joint law, sampler and test rows", "tested on": "complete tuples"}
    write_table(out, rows, _protocol("sbm-missing", judge, modalities, backgrounds, n, seeds, began) | protocol)
    return rows


def poly_sweep(
    model: str,
    judge: str | os.PathLike[str],
    out: str | os.PathLike[str],
    steps: Sequence[int] = (3, 5, 7, 10, 20),
    guidance: Sequence[float] = (0.0, 1.0, 2.0),
    paper: Sequence[int] = (),
    modalities: int = 5,
    backgrounds: str | None = None,
    data: str | None = None,
    n: int = 300,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Measured]:
    """One Composer at several numbers of steps (its own guidance), at several strengths (its own steps), and with the paper's sampler;
    writes `out`.

    Args:
        paper: numbers of steps of `paper_sampling`, two evaluations each.

    Raises:
        CheckpointError: no such Composer or judge. DataError: MNIST is not there.
    """
    began = time.perf_counter()
    test, composer = PolyTest.load(judge, modalities, backgrounds, data), Composer.load(model)
    base = composer.denoiser
    settings: list[tuple[str, float | None, dict[str, Any]]] = [(f"{s} steps", None, {"steps": s}) for s in steps]
    settings += [(f"guidance {w:g}", w, {}) for w in guidance]
    settings += [(f"{s} steps of the paper's sampler", 0.0, {"leaders": None, **paper_sampling(s)}) for s in paper]
    rows = []
    for place, (title, strength, options) in enumerate(settings):
        composer.denoiser = guided_by(base, strength)
        rows += _few(title, composer, test, n, [seed], **options)
        if progress is not None:
            progress(place + 1, len(settings))
    protocol = {"model": model, "defaults": to_spec(composer.defaults)}
    write_table(out, rows, _protocol("sbm-sweep", judge, modalities, backgrounds, n, [seed], began) | protocol)
    return rows


def energy_table(
    plain: str,
    told: str,
    energy: str,
    judge: str | os.PathLike[str],
    out: str | os.PathLike[str],
    scale: float = 1.0,
    steps: int = 20,
    seeds: Sequence[int] = (0, 1, 2),
    modalities: int = 5,
    backgrounds: str | None = None,
    data: str | None = None,
    n: int = 300,
    progress: Callable[[int, int], None] | None = None,
) -> list[Measured]:
    """A joint network alone, guided by energies (-C), told the contrastive context (-T), and both (-TC); writes `out`.

    No subset guidance and no leaders. "-C, all pairs" guides by all pairs with a generated member, observed or not.

    Raises:
        CheckpointError: no such Composer, energies or judge. DataError: MNIST is not there.
    """
    began = time.perf_counter()
    test, rows = PolyTest.load(judge, modalities, backgrounds, data), []
    cases: dict[str, tuple[str, str | None]] = {"plain": (plain, None), "-C": (plain, "observed"), "-C, all pairs": (plain, "all")}
    cases |= {"-T": (told, None), "-TC": (told, "observed")}
    for place, (title, (model, pairs)) in enumerate(cases.items()):
        composer, ratio = Composer.load(model), load_module(energy, PairEnergy) if pairs else None
        if ratio is not None:
            ratio.pairs = pairs
        composer.denoiser = guided_by(composer.denoiser, 0.0, energy=ratio, scale=scale)
        rows += _few(title, composer, test, n, seeds, steps=steps, leaders=None)
        if progress is not None:
            progress(place + 1, len(cases))
    protocol = {
        "what the seeds vary": "sampler and test rows",
        "plain": plain,
        "told": told,
        "energy": energy,
        "scale": scale,
        "steps": steps,
    }
    write_table(out, rows, _protocol("sbm-energy", judge, modalities, backgrounds, n, seeds, began) | protocol)
    return rows


def compare_table(
    models: Mapping[str, str | os.PathLike[str]],
    judge: str | os.PathLike[str],
    out: str | os.PathLike[str],
    seeds: Sequence[int] = (0, 1, 2),
    modalities: int = 5,
    backgrounds: str | None = None,
    data: str | None = None,
    n: int = 600,
    refine: int = 0,
    leaders: bool = True,
    progress: Callable[[int, int], None] | None = None,
    command: str = "sbm-compare",
) -> list[Measured]:
    """Composers by name, each as its own defaults sample; writes `out`.

    Args:
        refine: steps of their refiners, where they have some.
        leaders: false where no modality is to be drawn before the others.

    Raises:
        CheckpointError: no such Composer or judge. DataError: MNIST is not there.
    """
    began = time.perf_counter()
    test, rows, used = PolyTest.load(judge, modalities, backgrounds, data), [], {}
    for place, (title, folder) in enumerate(models.items()):
        composer = Composer.load(folder)
        kept = {name: value for name, value in composer.defaults.items() if leaders or name not in LEADING}
        composer.defaults = kept | ({"refine": refine} if composer.refiners else {})
        rows += _few(title, composer, test, n, seeds)
        used[title] = {"model": str(folder), **to_spec(composer.defaults)}
        if progress is not None:
            progress(place + 1, len(models))
    protocol = {"what the seeds vary": "sampler and test rows", "compared": used}
    write_table(out, rows, _protocol(command, judge, modalities, backgrounds, n, seeds, began) | protocol)
    return rows


def _few(title: str, composer: Composer, test: PolyTest, n: int, seeds: Sequence[int], **options: Any) -> list[Measured]:
    """The few numbers that comparisons of settings show."""
    few = (1, len(composer.modalities) - 1)
    runs = [evaluate_poly(composer, test, n, seed, observed=few, **options) for seed in seeds]
    kept = [f"given {k}{what}" for k in few for what in ("", " frechet", " cosine")]
    kept += ["all agree", "joint frechet", "frechet rebuilt", "recognised rebuilt", "evaluations"]
    return [Measured(f"{title}: {name}", [run[name] for run in runs]) for name in kept]
