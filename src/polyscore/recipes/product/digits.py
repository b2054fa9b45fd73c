"""Digit from one expert, colour from another, neither ever seen together: accuracy of both, and distance to the pictures wanted."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyscore.codecs import PCA
from polyscore.denoisers import Denoiser
from polyscore.files import atomic
from polyscore.metrics.frechet import frechet_distance
from polyscore.metrics.judges import Judge, predict
from polyscore.product import Product, Term
from polyscore.recipes.product.scenes import COLOURS, Scenes, colour_of, load_scenes
from polyscore.recipes.product.train import DIGITS, SceneExpert, load_parts
from polyscore.recipes.tables import Measured, write_table
from polyscore.sampling import sample

__all__ = ["METHODS", "compose", "measure", "product_digits_table", "sweep"]

METHODS = (
    "A alone (digit)",
    "B alone (colour)",
    "one network, both at once",
    "one network, composable",
    "product, naive",
    "product, exact",
)
NULL = torch.tensor([[-1, -1]])


def compose(
    experts: Mapping[str, SceneExpert], method: str, labels: Tensor, strengths: tuple[float, float] = (2.0, 1.0), prior: float = 0.0
) -> Denoiser:
    """The denoiser of a method for labels (n, 2), digit and colour; `prior` is the net weight r of A's own prior, B has the rest."""
    digit = torch.stack([labels[:, 0], torch.full_like(labels[:, 0], -1)], 1)
    colour = torch.stack([torch.full_like(labels[:, 1], -1), labels[:, 1]], 1)
    a, b = strengths

    def term(name: str, condition: Tensor, strength: float) -> Term:
        return Term(experts[name], condition, strength, name=name, null=NULL)

    if method == "A alone (digit)":
        return Product([term("A", digit, a)])
    if method == "B alone (colour)":
        return Product([term("B", colour, b)])
    if method == "one network, both at once":
        return Product([term("both", labels, a)])
    if method == "one network, composable":
        return Product([term("both", digit, a), term("both", colour, b)])
    return Product([term("A", digit, a), term("B", colour, b)], prior={"A": prior, "B": 1 - prior})


@torch.no_grad()
def measure(codec: PCA, judge: Judge, latents: Tensor, labels: Tensor, test: Scenes) -> dict[str, float]:
    """Shares of right digits, colours and both, and the Frechet distance to real test digits over coloured grounds."""
    x = codec.decode(latents).clamp(0, 1)
    joint, features = predict(judge, x)
    digit, colour = joint // COLOURS == labels[:, 0], colour_of(x) == labels[:, 1]
    return {
        "digit": float(digit.double().mean()),
        "colour": float(colour.double().mean()),
        "both": float((digit & colour).double().mean()),
        "frechet": frechet_distance(features, predict(judge, test.x)[1]),
    }


def wanted(n: int, seed: int) -> Tensor:
    """n pairs of a digit and a colour, (n, 2)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(k, (n,), generator=generator) for k in (DIGITS, COLOURS)], 1)


def product_digits_table(
    models: str,
    out: str,
    data: str | None = None,
    n: int = 1000,
    seeds: Sequence[int] = (0, 1, 2),
    steps: int = 30,
    particles: int = 4,
    strengths: tuple[float, float] = (2.0, 1.0),
    prior: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Measured]:
    """Measure every method with the experts of every seed, and write the table to `out`.

    Raises:
        CheckpointError: the experts are not in `models`. DataError: MNIST is not there.
    """
    started, test = time.perf_counter(), load_scenes("test", data)
    found: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
    for number, seed in enumerate(seeds):
        codec, judge, experts = load_parts(Path(models), seed)
        labels = wanted(n, seed)
        for place, method in enumerate(METHODS):
            options: dict[str, Any] = {"particles": particles} if method == "product, exact" else {}
            denoiser = compose(experts, method, labels, strengths, prior)
            made = sample(denoiser, n, steps=steps, seed=seed, batch_size=500, **options)["scene"]
            found[method].append(measure(codec, judge, made, labels, test))
            if progress is not None:
                progress(number * len(METHODS) + place + 1, len(seeds) * len(METHODS))
    table = rows(found)
    protocol = {
        "command": "polyscore evaluate product-digits",
        "preset": f"steps {steps}, strengths {strengths}, own priors r {prior:g} and {1 - prior:g}, {particles} particles a sample",
        "split": "MNIST test digits over coloured grounds",
        "n": n,
        "seeds": list(seeds),
        "extractor": "features of the recipe's judge of digit and colour",
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_table(out, table, protocol)
    return table


def rows(found: Mapping[str, Sequence[Mapping[str, float]]]) -> list[Measured]:
    """The table: accuracies and distances of every method, and what should hold between them."""
    paper = {"product, naive": "paper: 87 %", "one network, both at once": "paper: 22 %"}
    table = []
    for method, runs in found.items():
        ours = method.startswith("product")
        for key in ("digit", "colour", "both", "frechet"):
            reach = (">=", 0.9) if ours and key == "both" else None
            table.append(Measured(f"{method}: {key}", [run[key] for run in runs], reach, paper.get(method, "") if key == "both" else ""))
    single = [min(a["frechet"], b["frechet"]) for a, b in zip(found[METHODS[0]], found[METHODS[1]], strict=True)]
    for method in METHODS[4:]:
        ratio = [run["frechet"] / best for run, best in zip(found[method], single, strict=True)]
        table.append(Measured(f"{method}: Frechet distance over the better single expert's", ratio, ("<=", 1.0)))
    return table


@torch.no_grad()
def sweep(
    models: str,
    out: str,
    digit: int = 3,
    colour: int = 5,
    priors: Sequence[float] = (-0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5),
    strengths: Sequence[float] = (1.0, 2.0, 3.0, 4.0, 6.0),
    seed: int = 0,
    copies: int = 4,
) -> Path:
    """A picture like the paper's Figure 6: one wish, the same noise, over strengths (rows) and the weight r of A's own prior (columns)."""
    import warnings

    from matplotlib.figure import Figure

    codec, _, experts = load_parts(Path(models), seed)
    labels = torch.tensor([[digit, colour]]).expand(copies, 2)
    figure = Figure(figsize=(1.6 * len(priors), 1.8 * len(strengths)), layout="constrained")
    panels = figure.subplots(len(strengths), len(priors), squeeze=False)
    for line, strength in zip(panels, strengths, strict=True):
        for panel, prior in zip(line, priors, strict=True):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                denoiser = compose(experts, "product, naive", labels, (strength, strength), prior)
            x = codec.decode(sample(denoiser, copies, steps=30, seed=seed)["scene"]).clamp(0, 1)
            panel.imshow(torch.cat([torch.cat(list(x[:2]), 2), torch.cat(list(x[2:4]), 2)], 1).permute(1, 2, 0).numpy())
            panel.set_title(f"w {strength:g}, r {prior:g}", fontsize=8)
            panel.axis("off")
    with atomic(out) as temporary:
        figure.savefig(temporary, dpi=80, format="png", metadata={"Software": None})
    return Path(out)
