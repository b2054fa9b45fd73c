"""The demo's words: text to picture and speech, picture to text, speech to text, by the shipped model of three modalities."""

from __future__ import annotations

import torch
from torch import Tensor

from polyscore.codecs.letters import Letters
from polyscore.composer import Composer
from polyscore.data.digits import Labelled
from polyscore.report.demo import SOURCE, Demo, Row, one_of_each

__all__ = ["WORD", "say_words"]

WORD = "word"


def say_words(demo: Demo, words: Composer, data: Labelled) -> None:
    """Fill `demo.words`: every word drawn and spoken; handwriting and the sounds just made of it, read.

    What is given is other modalities' data; labels are the digits of the words, and what the judges say of sounds that were made.
    """
    from polyscore.recipes.digits.words import WORDS

    codec = words.codecs[WORD]
    assert isinstance(codec, Letters)
    demo.media |= words.media
    told = codec.write(WORDS)
    demo.words["Text, drawn and spoken"] = _rows(demo, words, {WORD: told}, list(range(10)))
    chosen = one_of_each(data, demo.seed + 1)
    demo.words["Handwriting, read"] = _rows(demo, words, {SOURCE: data.x[chosen]}, data.labels[chosen].tolist(), (WORD,))
    others = [name for name in demo.composer.modalities if name != SOURCE and name in words.modalities]
    for name in others:
        given = {name: torch.stack([row.made[0][name] for row in demo.spoken])}
        labels = [row.heard[0].get(name) for row in demo.spoken]
        demo.words[f"{name.capitalize()}, written down"] = _rows(demo, words, given, labels, (WORD,))


def _rows(
    demo: Demo, words: Composer, given: dict[str, Tensor], labels: list[int | None], shown: tuple[str, ...] | None = None
) -> list[Row]:
    from polyscore.recipes.digits.words import spelled

    found = words.sample(len(labels), given, seed=demo.seed)
    made = {name: value for name, value in found.items() if name not in given and (shown is None or name in shown)}
    seen = demo.see(made)
    if WORD in made:
        seen = [one | {WORD: digit} for one, digit in zip(seen, spelled(made[WORD]).tolist(), strict=True)]
    return [
        Row({k: v[i] for k, v in given.items()}, [{k: v[i] for k, v in made.items()}], label, [seen[i]]) for i, label in enumerate(labels)
    ]
