"""Three modalities of three data sets, MNIST pictures, FSDD words and scikit-learn's small digits, joined by one discriminator."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyscore.checkpoint import load_module, save_module
from polyscore.codecs import PCA
from polyscore.codecs.base import Codec
from polyscore.codecs.clips import draft
from polyscore.composer import WEIGHTS
from polyscore.data.digits import Labelled, load_fsdd, load_mnist, load_small_digits
from polyscore.data.talking import draw_rows
from polyscore.denoisers import Denoiser, Independent
from polyscore.guided import Guided
from polyscore.metrics.judges import Judge, accuracy, predict
from polyscore.networks import DenseEncoder
from polyscore.networks.mlp import JointDenoiser
from polyscore.ratios.base import SumRatio
from polyscore.ratios.discriminator import Discriminator
from polyscore.recipes.digits.joint import latents_of_images, latents_of_speech
from polyscore.recipes.mmdisco.ratio import latent_ratio
from polyscore.recipes.stored import is_stored, trained
from polyscore.recipes.tables import Measured, write_table
from polyscore.sampling import sample
from polyscore.training import Samples, TrainConfig, draw_latents, fit
from polyscore.training.classifier import ClassifierObjective
from polyscore.training.joint import JointObjective

__all__ = ["THREE", "ThreeSize", "run_three"]

THREE = ("image", "speech", "small")
BASE_TRAINING = TrainConfig(steps=1500, batch_size=128, lr=1e-3, ema=0.998, checkpoint_every=1500, log_every=200)
RATIO_TRAINING = TrainConfig(steps=3000, batch_size=512, lr=1e-3, ema=0.998, checkpoint_every=1000, log_every=200)
JUDGE_TRAINING = TrainConfig(steps=600, batch_size=128, lr=2e-3, weight_decay=0.02, ema=0.99, checkpoint_every=600, log_every=200)


@dataclass(frozen=True)
class ThreeSize:
    """How much of everything.

    Args:
        pictures: of MNIST that are encoded. tuples: real ones of a discriminator. fakes: of the bases.
        width, depth: of a base model. ratio, blocks: of a discriminator. latent: components of the small digits.
        steps: of the sampler. scale: of the guidance.
    """

    pictures: int = 12000
    tuples: int = 20000
    fakes: int = 3000
    width: int = 192
    depth: int = 2
    ratio: int = 128
    blocks: int = 2
    latent: int = 20
    steps: int = 20
    scale: float = 2.0


class _Parts:
    """Latents (means and deviations), labels, codecs and judges of the three modalities."""

    def __init__(self, out: str | Path, size: ThreeSize, data: str | None) -> None:
        self.codecs: dict[str, Codec] = {name: load_module(WEIGHTS / "digits" / name, Codec).eval() for name in THREE[:2]}
        self.judges = {name: load_module(WEIGHTS / "judges" / "digits" / name, Judge) for name in THREE[:2]}
        images, sounds, small = load_mnist("train", data), load_fsdd("train", data), load_small_digits("train")
        self.codecs["small"] = PCA((8, 8), size.latent).fit(small.x)
        self.judges["small"] = _small_judge(Path(out), small)
        z = self.codecs["small"].encode(small.x)
        self.latents = {
            "image": (latents_of_images(self.codecs["image"], images.x[: size.pictures]), images.labels[: size.pictures]),
            "speech": (latents_of_speech(self.codecs["speech"], sounds.x, 2), sounds.labels.repeat(2)),
            "small": (torch.stack([z, torch.full_like(z, 0.05)], 1), small.labels),
        }
        draft(self.codecs["speech"])

    def tuples(self, names: Sequence[str], n: int, seed: int) -> dict[str, Tensor]:
        """Latents of n tuples with one digit, {modality: (n, latent)}, with noise of the posterior."""
        g = torch.Generator().manual_seed(seed)
        labels = torch.randint(10, (n,), generator=g)
        found = {}
        for name in names:
            known, own = self.latents[name]
            found[name] = draw_latents(known[draw_rows(labels, own, g)], g)
        return found

    @torch.no_grad()
    def seen(self, latents: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The judges' digits of decoded latents."""
        return {
            name: predict(self.judges[name], torch.cat([self.codecs[name].decode(part) for part in value.split(25)]))[0]
            for name, value in latents.items()
        }


def _small_judge(out: Path, small: Labelled) -> Judge:
    if is_stored(out / "judge-small", {"training": trained(JUDGE_TRAINING)}):
        return load_module(out / "judge-small", Judge)
    torch.manual_seed(0)
    judge = Judge(DenseEncoder((8, 8), 64, (128,), dropout=0.2), 64)
    fit(judge, Samples({"small": small.x, "label": small.labels}), ClassifierObjective("small"), JUDGE_TRAINING, out=out / "run-judge")
    test = load_small_digits("test")
    save_module(
        judge, out / "judge-small", meta={"test_accuracy": accuracy(judge, test.x, test.labels), "training": trained(JUDGE_TRAINING)}
    )
    return judge


def _base(out: Path, name: str, parts: _Parts, size: ThreeSize, config: TrainConfig) -> Denoiser:
    path = out / f"base-{name}"
    latents = parts.tuples([name], size.tuples, 40 + THREE.index(name))
    torch.manual_seed(config.seed)
    module = JointDenoiser({name: tuple(latents[name].shape[1:])}, width=size.width, depth=size.depth, hidden=2 * size.width, embed=64)
    meta: dict[str, Any] = {"recipe": "mmdisco-three", "tuples": size.tuples, "training": trained(config)} | (
        {"pictures": size.pictures} if name == "image" else {}
    )
    if is_stored(path, meta, module):
        return load_module(path, Denoiser)
    fit(module, Samples(latents), JointObjective(), config, out=out / f"run-base-{name}", progress=False)
    save_module(module, path, meta=meta)
    return module


def run_three(
    out: str = "runs/three",
    table: str = "benchmarks/results/mmdisco-three.json",
    seeds: Sequence[int] = (0, 1, 2),
    n: int = 500,
    size: ThreeSize | None = None,
    base: TrainConfig = BASE_TRAINING,
    training: TrainConfig = RATIO_TRAINING,
    data: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Measured]:
    """Three base models trained apart; one discriminator for all three, one for each pair; how often the digits agree.

    Args:
        out: folder of what is trained; what is there is kept. table: the JSON file.
        seeds: of discriminators, fakes and samples; the base models are trained once. n: samples a case and seed.
    """
    size, began = size or ThreeSize(), time.perf_counter()
    parts = _Parts(out, size, data)
    experts = {name: _base(Path(out), name, parts, size, replace(base, seed=base.seed + i)) for i, name in enumerate(THREE)}
    found: dict[str, list[float]] = {}
    for done, seed in enumerate(seeds):
        for measure, value in _seed(out, parts, experts, seed, n, size, training).items():
            found.setdefault(measure, []).append(value)
        if progress is not None:
            progress(done + 1, len(seeds))
    rows = [Measured(measure, values, *_reference(measure)) for measure, values in found.items()]
    protocol = {
        "command": "polyscore recipe mmdisco-three",
        "n": n,
        "seeds": list(seeds),
        "preset": {"size": asdict(size), "base": asdict(base), "training": asdict(training), "lambda": 1.0},
        "sampler": f"dpmpp, {size.steps} steps",
        "losses": "L_all starts from the weights of L_disc and takes an eighth of its steps",
        "data": "MNIST and FSDD, official train splits; the first 1437 of scikit-learn's digits; tuples share the digit, nothing else",
        "judges": "the shipped judges; for the small digits an own classifier of 8 x 8 pictures; vocoder with 4 rounds",
        "base models": "trained once (one seed)",
        "seconds": round(time.perf_counter() - began, 1),
    }
    write_table(table, rows, protocol)
    return rows


def _seed(
    out: str, parts: _Parts, experts: Mapping[str, Denoiser], seed: int, n: int, size: ThreeSize, training: TrainConfig
) -> dict[str, float]:
    """All agreements of one seed."""
    found: dict[str, float] = {}
    sizes: dict[str, Any] = {"count": size.fakes, "steps": size.steps, "width": size.ratio, "depth": size.blocks}
    ratios: dict[tuple[str, ...], Discriminator] = {}
    everything = Independent(*(experts[name] for name in THREE))

    def seen(denoiser: Denoiser) -> dict[str, Tensor]:
        return parts.seen(sample(denoiser, n, steps=size.steps, seed=seed))

    for names in (THREE, *itertools.combinations(THREE, 2)):
        base, key = Independent(*(experts[name] for name in names)), "-".join(names)
        real = parts.tuples(names, size.tuples, 600 + seed)
        ratios[names] = latent_ratio(out, key, base, real, Path(out) / f"fakes-{key}-{seed}", **sizes, seed=seed, config=training)
        guided = seen(Guided(base, ratios[names], size.scale))
        if names == THREE:
            found |= {"one discriminator: all three agree": _agree(guided, names)}
            found |= {"no discriminator: all three agree": _agree(seen(everything), names)}
        which = "one discriminator of three" if names == THREE else "discriminator of the pair"
        found |= {f"{which}: {a} and {b} agree": _agree(guided, (a, b)) for a, b in itertools.combinations(names, 2)}
    added = SumRatio([ratio for names, ratio in ratios.items() if names != THREE])
    found["discriminators of pairs, added: all three agree"] = _agree(seen(Guided(everything, added, size.scale)), THREE)
    return found


def _agree(seen: Mapping[str, Tensor], names: Sequence[str]) -> float:
    first = seen[names[0]]
    return float(torch.stack([seen[name] == first for name in names]).all(0).double().mean())


def _reference(measure: str) -> tuple[tuple[str, float] | None, str]:
    if measure.startswith("one discriminator: all"):
        return (">=", 0.8), "chance: .01"
    return None, ""
