"""Digits written, spoken and spelled: a closed-form joint law of pictures, sounds and the letters of a word."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from polyscore.codecs import Letters
from polyscore.composer import Composer
from polyscore.data.digits import load_fsdd, load_mnist
from polyscore.metrics.coherence import class_shares
from polyscore.networks.mixture import JointMixture
from polyscore.recipes.digits.evaluate import DigitsTest
from polyscore.recipes.digits.joint import latents_of_images, latents_of_speech
from polyscore.recipes.tables import Measured, write_table
from polyscore.training import draw_latents

__all__ = ["WORDS", "WORDS_DEFAULTS", "Components", "evaluate_words", "letters", "train_words", "words_table"]

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS_DEFAULTS: dict[str, Any] = {"steps": 8, "token_solver": "random"}
NAMES = ("image", "speech", "word")
SUBSETS = [subset for size in range(3) for subset in itertools.combinations(NAMES, size)]


@dataclass(frozen=True)
class Components:
    """Gaussians of each digit's pictures and sounds."""

    pictures: int = 12
    sounds: int = 8


def letters() -> Letters:
    """The codec of the ten words."""
    return Letters("".join(sorted(set("".join(WORDS)))), max(map(len, WORDS)))


def train_words(
    model: str = "digits",
    out: str = "runs/digits-words",
    data: str | None = None,
    components: Components | None = None,
    copies: int = 8,
    seed: int = 0,
    defaults: dict[str, Any] | None = None,
) -> Composer:
    """Fit a `JointMixture` of pictures, sounds and the letters of their names on the codecs of a digits model; save the Composer in `out`.

    The codecs are only read, and the Composer is saved without them. Digits are the groups: what the three modalities share.

    Args:
        model: folder or name of a composer of image and speech. data: folder of the data sets; default $POLYSCORE_DATA.
        components: of the mixtures. copies: augmented copies of every recording. seed: of everything that is drawn.
        defaults: of the Composer's `sample`.

    Raises:
        DataError: MNIST or FSDD is not there. CheckpointError: the model is not there.
    """
    base, words, components = Composer.load(model), letters(), components or Components()
    images, sounds = load_mnist("train", data), load_fsdd("train", data)
    generator = torch.Generator().manual_seed(seed)
    latents = {
        "image": draw_latents(latents_of_images(base.codecs["image"], images.x), generator),
        "speech": draw_latents(latents_of_speech(base.codecs["speech"], sounds.x, copies, seed), generator),
        "word": words.encode(words.write(WORDS)),
    }
    labels = {"image": images.labels, "speech": sounds.labels.repeat(copies), "word": torch.arange(10)}
    shapes = {name: base.codecs[name].latent_shape for name in ("image", "speech")} | {"word": words.latent_shape}
    counts = {"image": 10 * components.pictures, "speech": 10 * components.sounds}
    denoiser = JointMixture(shapes, counts, 10, None, {"word": words.vocabulary}).fit(latents, labels, seed)
    dataset = "MNIST and FSDD, train splits, by digit, and its name"
    meta = {"recipe": "digits-words", "dataset": dataset, "components": asdict(components), "copies": copies, "seed": seed}
    media = base.media | {"word": {"kind": "text"}}
    composer = Composer({**base.codecs, "word": words}, denoiser, defaults or WORDS_DEFAULTS, media, meta, model)
    composer.save(out, dtype=torch.float16)
    return composer


def spelled(codes: Tensor) -> Tensor:
    """The digit whose name is spelled, -1 for any other string, (N,)."""
    place = {word: digit for digit, word in enumerate(WORDS)}
    return torch.tensor([place.get(word, -1) for word in Letters.read(codes)])


def _seen(test: DigitsTest, name: str, data: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Labels of generated data, and what else is known of it."""
    if name == "word":
        labels = spelled(data)
        return labels, {"a number's name": float((labels >= 0).double().mean())}
    labels, distance = test.see(name, data)
    return labels, {"frechet": distance}


def _given(test: DigitsTest, subset: Sequence[str], n: int, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Test items of the same digit for every modality of the subset, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 10
    given: dict[str, Tensor] = {}
    for name in subset:
        if name == "word":
            given[name] = letters().write([WORDS[int(k)] for k in labels])
            continue
        data = test.sets[name]
        rows = torch.empty(n, dtype=torch.int64)
        for digit in range(10):
            own = (data.labels == digit).nonzero()[:, 0]
            rows[labels == digit] = own[torch.randint(len(own), (int((labels == digit).sum()),), generator=generator)]
        given[name] = data.x[rows]
    return given, labels


@torch.no_grad()
def evaluate_words(composer: Composer, test: DigitsTest, n: int = 1000, seed: int = 0, **options: Any) -> dict[str, float]:
    """Coherence of all seven ways to condition: the share of samples in which every generated modality shows the digit given; jointly,
    in which all three agree. A word counts only if it is spelled right."""
    found: dict[str, float] = {}
    for subset in SUBSETS:
        given, labels = _given(test, subset, n, seed)
        made = composer.sample(n, given, seed=seed, batch_size=1000, **options)
        targets = [name for name in NAMES if name not in subset]
        title = f"{' + '.join(subset) or 'nothing'} -> {' + '.join(targets)}"
        seen = {name: _seen(test, name, made[name]) for name in targets}
        goal = labels if subset else seen["word"][0]
        every = torch.stack([label == goal for label, _ in seen.values()]).all(0) & (goal >= 0)
        found[title] = float(every.double().mean())
        found |= {f"{title}: {name} {what}": value for name, (_, more) in seen.items() for what, value in more.items()}
        if not subset:
            shares = class_shares(seen["image"][0])
            found |= {"least class": float(shares.min()), "most class": float(shares.max())}
        found["evaluations"] = max(found.get("evaluations", 0.0), made.info["evaluations_per_sample"])
    return found


def words_table(
    model: str, out: str, data: str | None, n: int, seeds: Sequence[int], progress: Callable[[int, int], None] | None = None, **options: Any
) -> list[Measured]:
    """Measure `evaluate_words` for every seed, and write the table."""
    from polyscore.recipes.digits.tables import protocol

    began = time.perf_counter()
    composer, test = Composer.load(model), DigitsTest.load(data=data)
    results = []
    for place, seed in enumerate(seeds):
        results.append(evaluate_words(composer, test, n, seed, **options))
        if progress is not None:
            progress(place + 1, len(seeds))
    whole = [name for name in results[0] if " -> " in name and ":" not in name]
    reaches = dict.fromkeys(whole, (">=", 0.95)) | {"evaluations": ("<=", 20.0)}
    rows = [Measured(name, [r[name] for r in results], reaches.get(name)) for name in results[0]]
    command = f"polyscore evaluate cdcd-words --model {model}"
    write_table(out, rows, protocol(command, model, seeds, n, began, options={**composer.defaults, **options}, fitted=composer.meta))
    return rows
