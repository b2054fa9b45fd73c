"""Faces from two masks that no expert saw together: parts, likeness and distance, beside each expert alone and one network for both."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyscore.checkpoint import load_module
from polyscore.denoisers import Denoiser
from polyscore.files import atomic
from polyscore.metrics.frechet import frechet_distance
from polyscore.metrics.judges import Judge
from polyscore.metrics.pictures import map_scores, ssim
from polyscore.networks.patches import UNKNOWN, PatchDenoiser
from polyscore.product import Product, Term
from polyscore.recipes.product.faces import Centred, FaceParts, Parser, conditions, load_face_experts
from polyscore.recipes.tables import Measured, write_table
from polyscore.sampling import sample

__all__ = ["METHODS", "MORE", "compose_faces", "face_picture", "product_faces_table"]

METHODS = (
    "hair expert alone",
    "skin expert alone",
    "one network, both at once",
    "one network, composable",
    "product, naive",
    "product, exact",
)
MORE = ("product with the sketch", "product with sketch and attributes")
"""Three and four experts."""
SCORES = ("mIoU", "F1", "SSIM", "hair colour", "frechet")
Features = Callable[[Tensor], Tensor]


def compose_faces(experts: Mapping[str, PatchDenoiser], method: str, parts: FaceParts, strength: float = 1.5) -> Denoiser:
    """The denoiser of a method for the masks (sketches, attributes) of given faces; every reliability is one over the number of experts."""

    def term(name: str, condition: Tensor | None = None) -> Term:
        given = conditions(name, parts) if condition is None else condition
        null = torch.full((1, *given.shape[1:]), UNKNOWN)
        return Term(experts[name], given, strength, name=name, null=null)

    def masked(known: int) -> Tensor:
        both = torch.full_like(parts.faces.mask, UNKNOWN)
        both[:, known] = parts.faces.mask[:, known]
        return both

    terms = {
        "hair expert alone": lambda: [term("hair")],
        "skin expert alone": lambda: [term("skin")],
        "one network, both at once": lambda: [term("both")],
        "one network, composable": lambda: [term("both", masked(0)), term("both", masked(1))],
        MORE[0]: lambda: [term("hair"), term("skin"), term("sketch")],
        MORE[1]: lambda: [term("hair"), term("skin"), term("sketch"), term("attributes")],
    }.get(method, lambda: [term("hair"), term("skin")])()
    names = {t.name for t in terms}
    return Product(terms, prior={str(name): 1 / len(names) for name in names})


@dataclass(frozen=True)
class Yardstick:
    """What generated faces are measured with."""

    parser: Parser
    judge: Judge
    features: Features
    real: Tensor
    test: FaceParts

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> dict[str, float]:
        """The scores of one picture a test face."""
        x, test = Centred().decode(latents).clamp(0, 1), self.test
        miou, f1 = map_scores(self.parser(x).argmax(1), test.parts, 3)
        coloured = test.colours >= 0
        colour = self.judge(x[coloured]).argmax(1) == test.colours[coloured]
        distance = frechet_distance(self.features(x), self.real)
        return {
            "mIoU": miou,
            "F1": f1,
            "SSIM": ssim(x, test.faces.image),
            "hair colour": float(colour.double().mean()),
            "frechet": distance,
        }


def product_faces_table(
    models: str,
    out: str,
    data: str | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    steps: int = 30,
    particles: int = 4,
    strength: float = 1.5,
    extractor: str = "parser",
    n: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Measured]:
    """Measure every method with the experts of every seed, one picture for the masks of each test face, and write the table to `out`.

    Methods with a sketch or attributes are left out where a seed lacks these experts. `extractor` of the Frechet distance: "parser", or
    "efficientnet-lite0" (see `polyscore.metrics.lite0`).

    Raises:
        CheckpointError: the experts are not in `models`. DataError: the faces are not there.
    """
    started, folder = time.perf_counter(), Path(models)
    measured, truth = _yardstick(folder, extractor, data, n)
    all_methods = [*METHODS, *(MORE if all((folder / str(s) / "attributes.json").exists() for s in seeds) else ())]
    found: dict[str, list[dict[str, float]]] = {method: [] for method in all_methods}
    for number, seed in enumerate(seeds):
        experts = load_face_experts(folder, seed, ("hair", "skin", "both", *(("sketch", "attributes") if len(all_methods) > 6 else ())))[2]
        for place, method in enumerate(all_methods):
            denoiser = compose_faces(experts, method, measured.test, strength)
            options: dict[str, Any] = {"particles": particles} if method == "product, exact" else {}
            made = sample(denoiser, len(measured.test.parts), steps=steps, seed=seed, batch_size=100, **options)["image"]
            found[method].append(measured(made))
            if progress is not None:
                progress(number * len(all_methods) + place + 1, len(seeds) * len(all_methods))
    table = rows(found, truth)
    protocol = {
        "command": f"polyscore evaluate product-faces --extractor {extractor} --particles {particles}" + (f" --n {n}" if n else ""),
        "preset": f"{steps} steps, strength {strength:g} each, equal own priors, {particles} particles a sample; 32 x 32 pixels",
        "split": f"{len(measured.test.parts)} test faces; hair expert on the first 400 train faces, skin expert on the other 400",
        "n": len(measured.test.parts),
        "seeds": list(seeds),
        "extractor": extractor,
        "parser": "trained on the train split",
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_table(out, table, protocol)
    return table


def _yardstick(folder: Path, extractor: str, data: str | None, n: int | None) -> tuple[Yardstick, dict[str, float]]:
    """The yardstick on the first n test faces, and what it says of these faces themselves."""
    parser, judge = load_module(folder / "parser", Parser), load_module(folder / "colour", Judge)
    features: Features = parser.features
    if extractor != "parser":
        from polyscore.metrics.lite0 import load_lite0

        features = load_lite0(extractor)
    test, train = FaceParts.load("test", data).rows(slice(0, n)), FaceParts.load("train", data)
    with torch.no_grad():
        measured = Yardstick(parser, judge, features, features(train.faces.image), test)
    return measured, measured(Centred().encode(test.faces.image))


def rows(found: Mapping[str, Sequence[Mapping[str, float]]], truth: Mapping[str, float]) -> list[Measured]:
    """The table: what the product must beat, then every score of every method, and those of the test faces themselves."""
    table = []
    for method in ("product, naive", "product, exact"):
        for score, paper in (("mIoU", "paper .911 against .872 at once"), ("F1", "paper .948 against .922 at once")):
            best = [max(run[score] for run in runs) for runs in zip(*(found[m] for m in METHODS[:3]), strict=True)]
            gap = [run[score] - b for run, b in zip(found[method], best, strict=True)]
            table.append(Measured(f"{method}: {score} over the best of each expert alone and both at once", gap, (">=", 0.0), paper))
    for method, runs in found.items():
        table += [Measured(f"{method}: {score}", [run[score] for run in runs]) for score in SCORES]
    return table + [Measured(f"the test faces themselves: {score}", [truth[score]]) for score in SCORES]


@torch.no_grad()
def face_picture(models: str, out: str, data: str | None = None, seed: int = 0, n: int = 8, strength: float = 1.5) -> Path:
    """A picture: test faces, their masks and sketches, and what every method makes of them, a row each."""
    from PIL import Image

    folder = Path(models)
    more = ("sketch", "attributes") if (folder / str(seed) / "attributes.json").exists() else ()
    _, _, experts = load_face_experts(folder, seed, ("hair", "skin", "both", *more))
    test = FaceParts.load("test", data).rows(slice(0, n))
    flags = torch.stack([test.faces.mask[:, 1], test.faces.mask[:, 0], torch.zeros_like(test.faces.mask[:, 0])], 1)
    lines = [test.faces.image, flags, test.sketches.expand(-1, 3, -1, -1)]
    for method in [*METHODS, *(MORE if more else ())]:
        options: dict[str, Any] = {"particles": 4} if method == "product, exact" else {}
        made = sample(compose_faces(experts, method, test, strength), n, steps=30, seed=seed, **options)["image"]
        lines.append(Centred().decode(made).clamp(0, 1))
    whole = torch.cat([torch.cat(list(line), 2) for line in lines], 1)
    picture = Image.fromarray((255 * whole).round().byte().permute(1, 2, 0).numpy()).resize((2 * whole.shape[2], 2 * whole.shape[1]), 0)
    with atomic(out) as temporary:
        picture.save(temporary, format="png")
    return Path(out)
