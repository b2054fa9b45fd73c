"""How well a PolyMNIST Composer does, by a judge that took no part in its training: coherence, Frechet distances, balance, cost."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polyscore.checkpoint import load_module
from polyscore.composer import Composer
from polyscore.data.polymnist import PolyMNIST, load_polymnist
from polyscore.metrics.attributes import cosine_similarity
from polyscore.metrics.coherence import agreement, class_shares
from polyscore.metrics.frechet import frechet_distance
from polyscore.metrics.judges import Judge, predict
from polyscore.ratios.glimpse import glimpse
from polyscore.recipes.polymnist.codecs import pictures

__all__ = ["PolyTest", "evaluate_poly", "subsets"]


@dataclass
class PolyTest:
    """Test tuples and the judge; `features` of the first `size` test pictures of every modality.

    `train`, where given, are the pictures whose reconstructions the generated ones are compared with: those of the test tuples share the
    reference's sampling noise, which generated pictures cannot.
    """

    data: PolyMNIST
    judge: Judge
    size: int = 4000
    train: PolyMNIST | None = None

    def __post_init__(self) -> None:
        rows = torch.arange(min(self.size, len(self.data)))
        self.features = {name: predict(self.judge, pictures(self.data, name, rows))[1] for name in self.data.names}

    @classmethod
    def load(
        cls, judge: str | os.PathLike[str], modalities: int = 5, backgrounds: str | None = None, data: str | None = None, size: int = 4000
    ) -> PolyTest:
        """MNIST's splits and a saved judge."""
        train, test = (load_polymnist(split, modalities, backgrounds, data) for split in ("train", "test"))
        return cls(test, load_module(judge, Judge), size, train)

    def rows(self, n: int, seed: int) -> Tensor:
        """n test tuples in an order of the seed, without repetition while they last."""
        return _shuffled(len(self.data), n, seed)

    def rebuilt(self, composer: Composer, n: int, seed: int) -> float:
        """Mean over the modalities of the Frechet distance of n train pictures through the autoencoders alone."""
        data = self.train or self.data
        rows = _shuffled(len(data), n, seed)
        latents = composer.encode({name: pictures(data, name, rows) for name in data.names})
        return _mean([distance for _, distance in _see(composer, self, latents).values()])

    def recognised(self) -> dict[str, float]:
        """Share of real test pictures of each modality that the judge gets right."""
        labels = self.data.labels[: self.size]
        return {n: float((self.judge.head(f).argmax(1) == labels).double().mean()) for n, f in self.features.items()}


def _shuffled(size: int, n: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.cat([torch.randperm(size, generator=draw) for _ in range(-(-n // size))])[:n]


def subsets(names: Sequence[str], observed: int) -> list[list[str]]:
    """As many subsets of `observed` modalities as there are modalities, each in the same number of them: runs around the circle."""
    return [[names[(start + k) % len(names)] for k in range(observed)] for start in range(len(names))]


@torch.no_grad()
def evaluate_poly(
    composer: Composer,
    test: PolyTest,
    n: int = 1000,
    seed: int = 0,
    batch_size: int = 500,
    observed: Sequence[int] | None = None,
    **options: Any,
) -> dict[str, float]:
    """n samples of every subset and n joint ones.

    Args:
        observed: the numbers of observed modalities that are measured; default 1 to M - 1.

    Returns:
        "recognised real", "recognised rebuilt", "frechet rebuilt"; for k observed modalities "given k" (share of generated pictures with
        the condition's label), "given k frechet" and "given k cosine" (of generated and true latents; paper, Table 7); "all agree", "at
        least M-1 agree", "joint frechet", "least class" and "most class" (of all generated pictures), "half a picture" (the left half of
        the first modality given: its completions with the right label), "evaluations" (the most that a sample took). Frechet distances:
        mean over the modalities, n pictures against `size`
        test pictures, on the judge's features.
    """
    names, rows = test.data.names, test.rows(n, seed)
    real = {name: pictures(test.data, name, rows) for name in names}
    labels = test.data.labels[rows]
    latents = composer.encode(real)
    run = {"seed": seed, "batch_size": batch_size, **options}
    rebuilt = _see(composer, test, latents)
    found = {
        "recognised real": _mean(test.recognised().values()),
        "recognised rebuilt": _mean([_right(seen, labels) for seen, _ in rebuilt.values()]),
        "frechet rebuilt": test.rebuilt(composer, n, seed),
    }
    cost = 0.0
    numbers = range(1, len(names)) if observed is None else observed
    for number in numbers:
        measured, evaluations = _given(composer, test, number, latents, labels, run)
        found, cost = found | measured, max(cost, evaluations)
    joint = composer.sample_latents(n, **run)
    seen = _see(composer, test, dict(joint))
    judged = {name: label for name, (label, _) in seen.items()}
    shares = class_shares(torch.cat(list(judged.values()))).tolist()
    if observed is None:
        found |= _half(composer, test, real[names[0]], latents, labels, run)
    return found | {
        "all agree": agreement(judged),
        f"at least {len(names) - 1} agree": agreement(judged, len(names) - 1),
        "joint frechet": _mean([distance for _, distance in seen.values()]),
        "least class": min(shares),
        "most class": max(shares),
        "evaluations": max(cost, float(joint.info["evaluations_per_sample"])),
        "seconds for 1000 joint samples": joint.info["seconds"] * 1000 / n,
    }


def _given(
    composer: Composer, test: PolyTest, number: int, latents: Mapping[str, Tensor], labels: Tensor, run: Mapping[str, Any]
) -> tuple[dict[str, float], float]:
    """Everything generated from `number` modalities, means over the subsets; and the evaluations of a sample."""
    names, cost = test.data.names, 0.0
    right, distances, alike = [], [], []
    for chosen in subsets(names, number):
        made = composer.sample_latents(len(labels), given={name: latents[name] for name in chosen}, **run)
        seen = _see(composer, test, {name: made[name] for name in names if name not in chosen})
        cost = max(cost, float(made.info["evaluations_per_sample"]))
        right += [_right(labelled, labels) for labelled, _ in seen.values()]
        distances += [distance for _, distance in seen.values()]
        alike += [cosine_similarity(made[name], latents[name]) for name in seen]
    found = {"": _mean(right), " frechet": _mean(distances), " cosine": _mean(alike)}
    return {f"given {number}{what}": value for what, value in found.items()}, cost


def _half(
    composer: Composer, test: PolyTest, known: Tensor, latents: Mapping[str, Tensor], labels: Tensor, run: Mapping[str, Any]
) -> dict[str, float]:
    """The left half of the first modality alone, and with all other modalities: share of its completions with the right label."""
    first, *others = composer.modalities
    found = {}
    for title, given in (("half a picture", {}), ("half a picture and the others", {name: latents[name] for name in others})):
        made = composer.sample_latents(len(known), given=given, partly={first: glimpse(known, "left")}, **run)
        seen = _see(composer, test, {name: made[name] for name in made if name not in given})
        found[title] = _right(seen[first][0], labels)
        if not given:
            found[f"{title}, others"] = _mean([_right(seen[name][0], labels) for name in others])
    return found


def _see(composer: Composer, test: PolyTest, latents: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, float]]:
    """What the judge says of decoded latents (refined, where the Composer's defaults say so), and their Frechet distance to the test
    pictures."""
    found = {}
    for name, x in composer.decode(latents, refine=composer.defaults.get("refine") or 0).items():
        labels, features = predict(test.judge, x)
        found[name] = (labels, frechet_distance(features, test.features[name]))
    return found


def _right(seen: Tensor, labels: Tensor) -> float:
    return float((seen == labels).double().mean())


def _mean(values: Any) -> float:
    known = list(values)
    return float(sum(known) / len(known))
