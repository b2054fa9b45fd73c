"""How well the digits Composer does: coherence, fidelity, balance, by judges that took no part in its training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

__all__ = ["DigitsTest", "evaluate_digits", "share"]

BATCH = 500


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

    def reconstruction(
        self, composer: Composer, n: int = 5000, seed: int = 0, data: str | None = None, pictures: int = 0
    ) -> dict[str, float]:
        """Each codec alone: share of test items (2 000 at most) recognised, and Frechet distance of n train items (or of `pictures`, where
        that is more), both reconstructed.

        Train items, because a Frechet distance of few items is mostly sampling noise: reconstructions of the test items would share the
        reference's noise, and generated items cannot. FSDD has 2 700 train items, so n is at most that for speech.
        """
        found: dict[str, float] = {}
        for name, test in self.sets.items():
            labels = predict(self.judges[name], self._through(composer, name, test.x[:2000]))[0]
            train = load_mnist("train", data).x if name == "image" else load_fsdd("train", data).x
            rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[: max(n, pictures if name == "image" else 0)]
            found[f"{name} recognised"] = share(labels, test.labels[:2000])
            found[f"{name} frechet"] = self.see(name, self._through(composer, name, train[rows]))[1]
        return found

    @staticmethod
    def _through(composer: Composer, name: str, x: Tensor) -> Tensor:
        return torch.cat([composer.decode(composer.encode({name: part}))[name] for part in x.split(BATCH)])


@torch.no_grad()
def evaluate_digits(
    composer: Composer,
    test: DigitsTest,
    n: int = 1000,
    seed: int = 0,
    balance: int = 0,
    listener: Callable[[Tensor], Tensor] | None = None,
    **options: Any,
) -> dict[str, float]:
    """Coherence of both directions and of joint samples, Frechet distances and class shares; n samples each.

    Args:
        balance: joint samples for the class shares and the Frechet distance of the pictures, where that is more than n (pictures are
            decoded fast; a distance of few is mostly sampling noise).
        listener: another judge of speech, given the first 500 sounds that pictures gave. options: of `Composer.sample`.

    Returns:
        "image -> speech", "speech -> image", "joint" (shares), "... frechet", "least class", "most class", "evaluations", "listener".
    """
    found: dict[str, float] = {}
    for source, target in (("image", "speech"), ("speech", "image")):
        given, labels = test.conditions(source, n, seed)
        made = composer.sample(n, {source: given}, seed=seed, batch_size=BATCH, **options)[target]
        heard, distance = test.see(target, made)
        found |= {f"{source} -> {target}": share(heard, labels), f"{source} -> {target} frechet": distance}
        if listener is not None and target == "speech":
            found["listener"] = share(listener(made[:500]), labels[:500])
    latents = composer.sample_latents(max(n, balance), seed=seed, batch_size=BATCH, **options)
    seen = {}
    for name in composer.modalities:
        count = len(latents[name]) if name == "image" else n
        seen[name], found[f"joint {name} frechet"] = test.see(name, _decoded(composer, name, latents[name][:count]))
    shares: Sequence[float] = class_shares(seen["image"]).tolist()
    found["joint"] = agreement({name: labels[:n] for name, labels in seen.items()})
    return found | {"least class": min(shares), "most class": max(shares), "evaluations": latents.info["evaluations_per_sample"]}


def _decoded(composer: Composer, name: str, latents: Tensor) -> Tensor:
    return torch.cat([composer.decode({name: part})[name] for part in latents.split(BATCH)])


def share(found: Tensor, labels: Tensor) -> float:
    """Share of items that got their label."""
    return float((found == labels).double().mean())
