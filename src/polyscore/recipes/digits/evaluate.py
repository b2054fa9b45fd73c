"""How well the digits Composer does: coherence, fidelity, balance, by judges that took no part in its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyscore.checkpoint import load_module
from polyscore.composer import WEIGHTS, Composer
from polyscore.data.digits import Labelled, load_fsdd, load_mnist
from polyscore.metrics.coherence import agreement, class_shares
from polyscore.metrics.frechet import frechet_distance
from polyscore.metrics.judges import Judge, predict

__all__ = ["DigitsTest", "evaluate_digits"]


@dataclass
class DigitsTest:
    """The test data of both modalities, seen through the judges once.

    Args:
        judges: judge of each modality. sets: test data of each modality.
    """

    judges: Mapping[str, Judge]
    sets: Mapping[str, Labelled]

    def __post_init__(self) -> None:
        self.features = {name: predict(self.judges[name], data.x)[1] for name, data in self.sets.items()}

    @classmethod
    def load(cls, judges: str | Path = WEIGHTS / "judges" / "digits", data: str | None = None) -> DigitsTest:
        """The shipped judges and the official test splits."""
        names = ("image", "speech")
        return cls(
            {name: load_module(Path(judges) / name, Judge) for name in names},
            {"image": load_mnist("test", data), "speech": load_fsdd("test", data)},
        )

    def conditions(self, name: str, n: int, seed: int) -> tuple[Tensor, Tensor]:
        """n test items of a modality and their labels; each once before any comes again, in an order of the seed."""
        data = self.sets[name]
        generator = torch.Generator().manual_seed(seed)
        rows = torch.cat([torch.randperm(len(data), generator=generator) for _ in range(-(-n // len(data)))])[:n]
        return data.x[rows], data.labels[rows]

    def see(self, name: str, data: Tensor) -> tuple[Tensor, float]:
        """The judge's labels of generated data, and its Frechet distance to the test set on the judge's features."""
        labels, features = predict(self.judges[name], data)
        return labels, frechet_distance(features, self.features[name])

    def reconstruction(self, composer: Composer, n: int = 5000, seed: int = 0, data: str | None = None) -> dict[str, float]:
        """Each codec alone: share of reconstructed test items recognised, and Frechet distance of n reconstructed train items.

        Train items, because a Frechet distance of few items is mostly sampling noise: reconstructions of the test items would share the
        reference's noise, and generated items cannot. FSDD has 2 700 train items, so n is at most that for speech.
        """
        found: dict[str, float] = {}
        for name, test in self.sets.items():
            labels = self.see(name, self._through(composer, name, test.x))[0]
            train = load_mnist("train", data).x if name == "image" else load_fsdd("train", data).x
            rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[:n]
            found[f"{name} recognised"] = float((labels == test.labels).double().mean())
            found[f"{name} frechet"] = self.see(name, self._through(composer, name, train[rows]))[1]
        return found

    @staticmethod
    def _through(composer: Composer, name: str, x: Tensor) -> Tensor:
        return torch.cat([composer.decode(composer.encode({name: part}))[name] for part in x.split(500)])


@torch.no_grad()
def evaluate_digits(
    composer: Composer, test: DigitsTest, n: int = 1000, seed: int = 0, batch_size: int = 1000, joint: int | None = None, **options: Any
) -> dict[str, float]:
    """Coherence of both directions and of joint samples, Frechet distances and class shares; n samples each (`joint`: of joint ones).

    Returns:
        "image -> speech", "speech -> image", "joint" (shares), "... frechet", "least class", "most class", "evaluations".
    """
    found: dict[str, float] = {}
    for source, target in (("image", "speech"), ("speech", "image")):
        given, labels = test.conditions(source, n, seed)
        made = composer.sample(n, {source: given}, seed=seed, batch_size=batch_size, **options)
        heard, distance = test.see(target, made[target])
        found |= {f"{source} -> {target}": float((heard == labels).double().mean()), f"{source} -> {target} frechet": distance}
    both = composer.sample(joint or n, seed=seed, batch_size=batch_size, **options)
    seen = {name: test.see(name, both[name]) for name in composer.modalities}
    found["joint"] = agreement({name: label for name, (label, _) in seen.items()})
    found |= {f"joint {name} frechet": distance for name, (_, distance) in seen.items()}
    shares: Sequence[float] = class_shares(seen["image"][0]).tolist()
    return found | {"least class": min(shares), "most class": max(shares), "evaluations": both.info["evaluations_per_sample"]}
