"""`polyscore demo`: handwriting is spoken, speech is drawn, both are made together; all of it on one page."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyscore.checkpoint import load_module
from polyscore.composer import WEIGHTS, Composer
from polyscore.data.digits import Labelled, load_sklearn_digits
from polyscore.errors import PolyscoreError
from polyscore.files import write_text
from polyscore.generate import fingerprint
from polyscore.metrics.coherence import agreement
from polyscore.metrics.judges import Judge, predict
from polyscore.report.timing import Timing, time_sampling
from polyscore.sampling.loop import Step

__all__ = ["ALONE", "Demo", "Row", "Shown", "run_demo"]

Bar = Callable[[int, int], None]
SOURCE = "image"
ALONE = "handwriting alone"
DRAWS = 3


@dataclass(frozen=True)
class Row:
    """One example: what was given, what was made from it (several draws), and the label it should have, if known."""

    given: Mapping[str, Tensor]
    made: list[Mapping[str, Tensor]]
    label: int | None
    heard: list[Mapping[str, int]]


@dataclass(frozen=True)
class Shown:
    """A section's measure: mean and values of the seeds, how many samples each, and what counts as right."""

    name: str
    values: list[float]
    n: int
    means: str


@dataclass
class Demo:
    """Everything the page shows."""

    composer: Composer
    model: str
    weights: str
    seed: int
    judges: dict[str, Judge]
    spoken: list[Row] = field(default_factory=list)
    drawn: dict[str, list[Row]] = field(default_factory=dict)
    joint: list[Row] = field(default_factory=list)
    strip: list[tuple[float, Mapping[str, Tensor]]] = field(default_factory=list)
    measures: list[Shown] = field(default_factory=list)
    timing: Timing | None = None
    seconds: float = 0.0
    words: dict[str, list[Row]] = field(default_factory=dict)
    media: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def see(self, data: Mapping[str, Tensor]) -> list[dict[str, int]]:
        """What the judges say of each row."""
        found = {name: predict(self.judges[name], value)[0].tolist() for name, value in data.items() if name in self.judges}
        rows = len(next(iter(data.values())))
        return [{name: labels[i] for name, labels in found.items()} for i in range(rows)]


def run_demo(
    out: str | os.PathLike[str],
    seed: int = 0,
    bar: Bar | None = None,
    *,
    model: str | os.PathLike[str] = "digits",
    words: str | os.PathLike[str] | None = "words",
    judges: str | os.PathLike[str] = WEIGHTS / "judges" / "digits",
    n: int = 100,
    seeds: int = 3,
) -> Path:
    """Write OUT/index.html, one file with everything inside; returns its path.

    Real handwritten digits (scikit-learn's) are spoken; the sounds just made are drawn; both are sampled together. With `words`, a model
    that adds words to the shipped digits, words are drawn and spoken, pictures and sounds read. Coherence is measured with n samples a
    direction and seed, by the judges that ship with polyscore.

    Raises:
        PolyscoreError: a model without pictures of digits, weights that are not there, or a page that cannot be written.
    """
    from polyscore.report.page import build
    from polyscore.report.words import say_words

    began = time.perf_counter()
    composer = Composer.load(model)
    if SOURCE not in composer.codecs or tuple(composer.codecs[SOURCE].data_shape) != (1, 28, 28):
        raise PolyscoreError(f"{model}: expected a model of digits with pictures of 28 x 28, found {', '.join(composer.modalities)}")
    found = {name: load_module(Path(judges) / name, Judge) for name in composer.modalities if (Path(judges) / f"{name}.json").exists()}
    demo = Demo(composer, str(model), fingerprint(composer), seed, found, media=dict(composer.media))
    data = load_sklearn_digits("test")
    both = words is not None and str(model) == "digits"
    spell: list[Callable[[], None]] = [lambda: say_words(demo, Composer.load(str(words)), data)] if both else []
    work: list[Callable[[], None]] = [
        lambda: _speak(demo, data),
        lambda: _draw(demo),
        lambda: _together(demo),
        lambda: _steps(demo),
        *spell,
        *[lambda s=s: _measure(demo, data, n, seed + s) for s in range(seeds)],  # type: ignore[misc]
        lambda: setattr(demo, "timing", time_sampling(composer, seed=seed)),
    ]
    for done, part in enumerate(work):
        part()
        if bar is not None:
            bar(done + 1, len(work))
    demo.seconds = time.perf_counter() - began
    return write_text(Path(out) / "index.html", build(demo))


def one_of_each(data: Labelled, seed: int) -> list[int]:
    """Rows of the first item of each label, in an order of the seed."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed)).tolist()
    return [next(i for i in order if int(data.labels[i]) == label) for label in sorted(set(data.labels.tolist()))]


def _rows(demo: Demo, given: Mapping[str, Tensor], draws: list[Mapping[str, Tensor]], labels: list[int | None]) -> list[Row]:
    seen = [demo.see(made) for made in draws]
    return [
        Row({k: v[i] for k, v in given.items()}, [{k: v[i] for k, v in made.items()} for made in draws], label, [s[i] for s in seen])
        for i, label in enumerate(labels)
    ]


def _made(demo: Demo, given: Mapping[str, Tensor], n: int, seed: int) -> dict[str, Tensor]:
    """What was not given."""
    found = demo.composer.sample(n, given, seed=seed)
    return {name: value for name, value in found.items() if name not in given}


def _speak(demo: Demo, data: Labelled) -> None:
    rows = one_of_each(data, demo.seed)
    given = {SOURCE: data.x[rows]}
    demo.spoken = _rows(demo, given, [_made(demo, given, len(rows), demo.seed)], data.labels[rows].tolist())


def _draw(demo: Demo) -> None:
    """Every other modality that was just made becomes the condition in its turn; its label is what its judge says."""
    for name in demo.composer.modalities:
        if name != SOURCE:
            given = {name: torch.stack([row.made[0][name] for row in demo.spoken])}
            draws = [_made(demo, given, len(demo.spoken), demo.seed + 1 + k) for k in range(DRAWS)]
            demo.drawn[name] = _rows(demo, given, list(draws), [row.heard[0].get(name) for row in demo.spoken])


def _together(demo: Demo) -> None:
    made = _made(demo, {}, 10, demo.seed)
    demo.joint = _rows(demo, {}, [made], [None] * 10)


def _steps(demo: Demo) -> None:
    """The guesses of the clean result along the way of the first joint sample."""
    seen: list[tuple[float, dict[str, Tensor]]] = []

    def watch(step: Step) -> None:
        clean = {name: p.x0[:1] for name, p in step.predictions.items() if hasattr(p, "x0")}
        seen.append((step.t, demo.composer.decode(clean)))

    made = demo.composer.sample(1, seed=demo.seed, callback=watch)
    seen.append((0.0, {name: made[name] for name in seen[0][1]}))
    kept = sorted({round(i * (len(seen) - 1) / 7) for i in range(8)})
    demo.strip = [(seen[i][0], {name: value[0] for name, value in seen[i][1].items()}) for i in kept]


def _measure(demo: Demo, data: Labelled, n: int, seed: int) -> None:
    """Coherence of every direction that the judges can see, one seed."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    rows = order.repeat(-(-n // len(data)))[:n]
    pictures, labels = {SOURCE: data.x[rows]}, data.labels[rows]
    if SOURCE in demo.judges:
        read = predict(demo.judges[SOURCE], pictures[SOURCE])[0] == labels
        _add(demo, ALONE, read, f"the {SOURCE} judge reads the real pictures themselves: what these hands allow")
    made = _made(demo, pictures, n, seed)
    judged = {name: predict(demo.judges[name], value)[0] for name, value in made.items() if name in demo.judges}
    for name, heard in judged.items():
        _add(demo, f"{SOURCE} → {name}", heard == labels, f"the {name} judge gives the label of the handwriting")
        back = _made(demo, {name: made[name]}, n, seed + 1000)
        if SOURCE in demo.judges:
            drawn = predict(demo.judges[SOURCE], back[SOURCE])[0]
            _add(demo, f"{name} → {SOURCE}", drawn == heard, f"both judges give one label to the {name} and to the {SOURCE} made from it")
    joint = {name: predict(judge, value)[0] for name, value in _made(demo, {}, n, seed).items() if (judge := demo.judges.get(name))}
    if len(joint) > 1:
        right = torch.tensor([agreement({k: v[i : i + 1] for k, v in joint.items()}) for i in range(n)])
        _add(demo, "joint", right > 0, "all judges give one label to what was made together")


def _add(demo: Demo, name: str, right: Tensor, means: str) -> None:
    shown = next((m for m in demo.measures if m.name == name), None)
    if shown is None:
        demo.measures.append(shown := Shown(name, [], len(right), means))
    shown.values.append(float(right.double().mean()))


def facts(demo: Demo) -> dict[str, Any]:
    """Judges, versions and machine, for the page's protocol."""
    from polyscore.recipes.tables import versions

    judges = {name: getattr(judge, "_meta", {}) for name, judge in demo.judges.items()}
    return {"judges": judges, "versions": versions(), "threads": torch.get_num_threads()}
