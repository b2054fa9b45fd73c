"""Text to image on tokens: captions of several attributes, measured by a classifier of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from polyscore.checkpoint import load_module, read_json, save_module
from polyscore.codecs.vq import VQ
from polyscore.data.captions import ATTRIBUTES, LENGTH, WORDS, Captioned28, caption, captioned_digits, words_of
from polyscore.denoisers import Denoiser
from polyscore.metrics.frechet import frechet_distance
from polyscore.metrics.judges import Judge, predict
from polyscore.networks.conv import ConvEncoder
from polyscore.networks.transformer import TokenDenoiser
from polyscore.product import Product, Term
from polyscore.recipes.cdcd.codec import codec_quality
from polyscore.recipes.tables import Measured, write_table
from polyscore.sampling import sample
from polyscore.training import Draw, Samples, TrainConfig, fit
from polyscore.training.contrast import TokenObjective
from polyscore.training.vq import VQObjective

__all__ = ["TextTraining", "draw", "text_table", "train_text"]

OBJECTIVE = TokenObjective("tokens", auxiliary=5e-2, features=("text",))
CODEC = TrainConfig(steps=1500, batch_size=64, lr=2e-3, ema=0.0, log_every=100)
JUDGE = TrainConfig(steps=2000, batch_size=64, lr=2e-3, ema=0.98, log_every=50)
MODEL = TrainConfig(steps=2200, batch_size=64, lr=2e-3, ema=0.99, log_every=100)
SIZES = [len(values) for values in ATTRIBUTES.values()]


@dataclass(frozen=True)
class TextTraining:
    """Of the codec, the judge of attributes, and the denoiser."""

    codec: TrainConfig = CODEC
    judge: TrainConfig = JUDGE
    model: TrainConfig = MODEL


class Told:
    """Batches of tokens with captions said anew each time they come: {"tokens", "text", "label"}; the label is the digit, unused."""

    def __init__(self, tokens: Tensor, attributes: Tensor, ways: int = 3) -> None:
        self.tokens, self.attributes = tokens, attributes
        self.text = torch.stack([words_of(caption(attributes, seed)).bool() for seed in range(ways)])

    def __len__(self) -> int:
        return len(self.tokens)

    def __call__(self, draw: Draw) -> dict[str, Tensor]:
        """One batch."""
        rows, way = draw.indices(len(self)), draw.integers(len(self.text)).cpu()
        return {"tokens": self.tokens[rows], "text": self.text[way, rows].float(), "label": torch.full((len(rows),), -1)}


@dataclass(frozen=True)
class AttributeObjective:
    """Sum of the cross-entropies of all attributes, logits of one after the other."""

    def __call__(self, module: Judge, batch: dict[str, Tensor], draw: Draw) -> dict[str, Tensor]:
        """The loss and the mean accuracy."""
        logits = module(batch["image"]).split(SIZES, 1)
        labels = batch["attributes"].unbind(1)
        loss = torch.stack([nn.functional.cross_entropy(a, b) for a, b in zip(logits, labels, strict=True)]).sum()
        right = torch.stack([(a.argmax(1) == b).float().mean() for a, b in zip(logits, labels, strict=True)]).mean()
        return {"loss": loss, "accuracy": right}


def seen(judge: Judge, x: Tensor) -> tuple[Tensor, Tensor]:
    """Attributes (N, 5) that the judge sees, and its features."""
    features = predict(judge, x)[1]
    with torch.no_grad():
        return torch.stack([part.argmax(1) for part in judge.head(features).split(SIZES, 1)], 1), features


def train_text(
    out: str = "runs/cdcd-text", data: str | None = None, training: TextTraining | None = None, progress: bool = True
) -> TokenDenoiser:
    """Train what is not in `out` yet: codec, judge and denoiser; the denoiser sees captions word by word.

    Raises:
        DataError: MNIST is not there. PolyscoreError: as `polyscore.training.fit`.
    """
    training, folder = training or TextTraining(), Path(out)
    train, test = captioned_digits("train", data), captioned_digits("test", data, most=2000)
    if not (folder / "codec.json").is_file():
        torch.manual_seed(training.codec.seed)
        codec = VQ((3, 28, 28), 128, 16, 32)
        fit(
            codec,
            Samples({"image": train.x}),
            VQObjective("image"),
            training.codec,
            out=folder / "run-codec",
            progress=progress,
            average=False,
        )
        save_module(codec.eval(), folder / "codec", meta={"test": codec_quality(codec, test.x), "training": asdict(training.codec)})
    if not (folder / "judge.json").is_file():
        _train_judge(train, test, folder, training.judge, progress)
    codec = load_module(folder / "codec", VQ)
    with torch.no_grad():
        tokens = torch.cat([codec.encode(part) for part in train.x.split(500)])
    torch.manual_seed(training.model.seed)
    changes = {"depth": 2, "vocabulary": codec.vocabulary, "grid": list(codec.grid), "classes": 0, "source": 64}
    denoiser = TokenDenoiser("tokens", changes=changes | {"conditions": {"text": [LENGTH, len(WORDS) + 1]}})
    fit(denoiser, Told(tokens, train.attributes), OBJECTIVE, training.model, out=folder / "run", progress=progress)
    save_module(denoiser.eval(), folder / "denoiser", meta={"dataset": "MNIST in colour, train split", "training": asdict(training.model)})
    return denoiser


def _train_judge(train: Captioned28, test: Captioned28, folder: Path, config: TrainConfig, progress: bool) -> None:
    torch.manual_seed(config.seed)
    judge = Judge(ConvEncoder((3, 28, 28), 64, (24, 48), dropout=0.1), 64, sum(SIZES), dropout=0.1)
    samples = Samples({"image": train.x, "attributes": train.attributes})
    fit(judge, samples, AttributeObjective(), config, out=folder / "run-judge", progress=progress)
    right = (seen(judge.eval(), test.x)[0] == test.attributes).double()
    each = dict(zip(ATTRIBUTES, right.mean(0).tolist(), strict=True))
    save_module(judge, folder / "judge", meta={"test_accuracy": float(right.all(1).double().mean()), **each, "test_items": len(test)})


def draw(folder: str, captions: Sequence[str], guidance: float = 2.0, steps: int = 25, seed: int = 0) -> Tensor:
    """Pictures (N, 3, 28, 28) of captions.

    Raises:
        CheckpointError: the model is not there. DataError: a word it doesn't know.
    """
    denoiser, codec = load_module(Path(folder) / "denoiser", TokenDenoiser), load_module(Path(folder) / "codec", VQ)
    return _draw(denoiser, codec, words_of(captions), guidance, steps, seed)


def _draw(denoiser: Denoiser, codec: VQ, text: Tensor, guidance: float, steps: int, seed: int) -> Tensor:
    condition = {"text": text}
    model: Denoiser = denoiser
    if guidance != 1.0:
        model = Product([Term(denoiser, condition, guidance, null={"text": torch.zeros_like(text)})])
    tokens = sample(model, len(text), condition=condition, steps=steps, seed=seed)["tokens"]
    with torch.no_grad():
        return codec.decode(tokens)


def text_table(
    folder: str,
    out: str,
    data: str | None,
    n: int,
    seeds: Sequence[int],
    steps: int = 25,
    guidances: Sequence[float] = (1.0, 2.0),
    progress: Callable[[int, int], None] | None = None,
) -> list[Measured]:
    """Attribute accuracy and Frechet distance of pictures drawn from captions of unseen attributes, for every seed and strength."""
    began = time.perf_counter()
    denoiser, codec = load_module(Path(folder) / "denoiser", TokenDenoiser), load_module(Path(folder) / "codec", VQ)
    judge = cast(Judge, load_module(Path(folder) / "judge", Judge))
    test = captioned_digits("test", data, most=2000)
    reference = seen(judge, test.x)[1]
    with torch.no_grad():
        rebuilt = seen(judge, codec.decode(codec.encode(test.x)))[0] == test.attributes
    values: dict[str, list[float]] = {}
    for place, seed in enumerate(seeds):
        rows = torch.randperm(len(test), generator=torch.Generator().manual_seed(seed))[:n]
        wanted = test.attributes[rows]
        for w in guidances:
            found, features = seen(judge, _draw(denoiser, codec, words_of(caption(wanted, seed)), w, steps, seed))
            right = found == wanted
            measures = {"all attributes": right.all(1), "mean": right.double().mean(1)} | dict(
                zip(ATTRIBUTES, right.unbind(1), strict=True)
            )
            for name, each in measures.items():
                values.setdefault(f"guidance {w:g}: {name}", []).append(float(each.double().mean()))
            values.setdefault(f"guidance {w:g}: frechet", []).append(frechet_distance(features, reference))
        if progress is not None:
            progress(place + 1, len(seeds))
    top = f"guidance {max(guidances):g}"
    reach = {f"{top}: mean": (">=", 0.95), f"{top}: all attributes": (">=", 0.8)}
    table = [Measured(name, found, reach.get(name)) for name, found in values.items()]
    table.append(Measured("pictures through the codec: all attributes", [float(rebuilt.all(1).double().mean())]))
    protocol: dict[str, Any] = {
        "command": "polyscore evaluate cdcd-text",
        "data": "MNIST digits in 6 inks, 2 sizes, on 4 grounds with 3 patterns; captions of test digits' attributes in 3 ways",
        "n": n,
        "seeds": list(seeds),
        "steps": steps,
        "codec": read_json(Path(folder) / "codec.json")["meta"]["test"],
        "judge": read_json(Path(folder) / "judge.json")["meta"],
        "seconds": round(time.perf_counter() - began, 1),
    }
    write_table(out, table, protocol)
    return table


def quick(training: TextTraining, steps: int) -> TextTraining:
    """The same with so few steps, for a try."""
    return TextTraining(*(replace(part, steps=steps, batch_size=8) for part in (training.codec, training.judge, training.model)))
