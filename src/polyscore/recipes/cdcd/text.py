"""Text to image on tokens: captions of several attributes, measured by a classifier of each."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from polyscore.checkpoint import load_module, load_tensors, read_json, save_module, save_tensors
from polyscore.codecs.vq import VQ
from polyscore.composer import Composer
from polyscore.data.captions import LENGTH, Captioned28, Language, captioned_digits, load_photographs
from polyscore.denoisers import Denoiser
from polyscore.errors import DataError
from polyscore.files import atomic
from polyscore.metrics.clip import clip_score
from polyscore.metrics.frechet import frechet_distance
from polyscore.metrics.judges import Judge, predict
from polyscore.networks.conv import ConvEncoder
from polyscore.networks.transformer import Size
from polyscore.networks.worded import WordedDenoiser, one_hot_words
from polyscore.product import Product, Term
from polyscore.recipes.cdcd.codec import codec_quality
from polyscore.recipes.tables import Measured, write_table
from polyscore.sampling import sample
from polyscore.training import Draw, Samples, TrainConfig, fit
from polyscore.training.contrast import TokenObjective
from polyscore.training.negatives import outside
from polyscore.training.vq import VQObjective

__all__ = ["TextTraining", "text_table", "train_text"]

OBJECTIVE = TokenObjective("tokens", auxiliary=5e-2, features=("text",), inter="sample")
CODEC = TrainConfig(steps=1500, batch_size=64, lr=2e-3, ema=0.0, log_every=100)
JUDGE = TrainConfig(steps=2000, batch_size=64, lr=2e-3, ema=0.98, log_every=50)
MODEL = TrainConfig(steps=4500, batch_size=32, lr=1.4e-3, schedule="constant", ema=0.998, log_every=100)
CONTRAST = TrainConfig(steps=1200, batch_size=32, lr=1.2e-3, ema=0.99, warmup=10, log_every=50)
NEGATIVES = 4
CODES = 256
DEFAULTS = {"steps": 25, "guidance": 2.0}
"""Of `polyscore sample`; its strength adds to 1, so this is what the table calls guidance 3."""


@dataclass(frozen=True)
class TextTraining:
    """Of the codec, the judge of attributes, the denoiser, and its continuation with negatives."""

    codec: TrainConfig = CODEC
    judge: TrainConfig = JUDGE
    model: TrainConfig = MODEL
    contrast: TrainConfig = CONTRAST


class Told:
    """Batches of tokens with captions said anew each time they come: {"tokens", "text", "label"}; the label is unused, -1.

    With `negatives` also that many other examples each, (B, N, L): another digit where all else is the same; where there is none, the
    example itself, which the objective drops.
    """

    def __init__(self, tokens: Tensor, attributes: Tensor, language: Language, ways: int = 3, negatives: int = 0) -> None:
        self.tokens, self.attributes, self.negatives = tokens, attributes, negatives
        self.text = torch.stack([words_of(language.caption(attributes, seed), language).bool() for seed in range(ways)])
        rest = torch.unique(attributes[:, 1:], dim=0, return_inverse=True)[1]
        key = rest * 10 + attributes[:, 0]
        self._order, self._group, self._own = key.argsort(stable=True), _blocks(rest), _blocks(key)

    def __len__(self) -> int:
        return len(self.tokens)

    def __call__(self, draw: Draw) -> dict[str, Tensor]:
        """One batch."""
        rows, way = draw.indices(len(self)), draw.integers(len(self.text)).cpu()
        batch = {"tokens": self.tokens[rows], "text": self.text[way, rows].float(), "label": torch.full((len(rows),), -1)}
        if self.negatives:
            batch["negatives"] = self.tokens[self._others(rows, draw.uniform(self.negatives).cpu().double())]
        return batch

    def _others(self, rows: Tensor, uniform: Tensor) -> Tensor:
        """Row of one other example for each number (B, N)."""
        group, own = ((start[rows, None], size[rows, None]) for start, size in (self._group, self._own))
        chosen = self._order[outside(uniform, own, group).clamp(max=len(self) - 1)]
        return torch.where(group[1] > own[1], chosen, rows[:, None])


def _blocks(key: Tensor) -> tuple[Tensor, Tensor]:
    """Where the block of every row's key begins once rows are sorted by key, and its size."""
    counts = torch.bincount(key)
    return (counts.cumsum(0) - counts)[key], counts[key]


@dataclass(frozen=True)
class AttributeObjective:
    """Sum of the cross-entropies of all attributes, logits of one after the other; `sizes` says how many each has."""

    sizes: Sequence[int]

    def __call__(self, module: Judge, batch: dict[str, Tensor], draw: Draw) -> dict[str, Tensor]:
        """The loss and the mean accuracy."""
        logits = module(batch["image"]).split(list(self.sizes), 1)
        labels = batch["attributes"].unbind(1)
        loss = torch.stack([nn.functional.cross_entropy(a, b) for a, b in zip(logits, labels, strict=True)]).sum()
        right = torch.stack([(a.argmax(1) == b).float().mean() for a, b in zip(logits, labels, strict=True)]).mean()
        return {"loss": loss, "accuracy": right}


def seen(judge: Judge, x: Tensor, language: Language) -> tuple[Tensor, Tensor]:
    """Attributes (N, 4) that the judge sees, and its features."""
    features = predict(judge, x)[1]
    with torch.no_grad():
        return torch.stack([part.argmax(1) for part in judge.head(features).split(language.sizes, 1)], 1), features


def train_text(
    out: str = "runs/cdcd-text",
    data: str | None = None,
    backgrounds: str | None = None,
    objective: TokenObjective = OBJECTIVE,
    training: TextTraining | None = None,
    progress: bool = True,
    size: Size = "small",
    depth: int | None = None,
) -> WordedDenoiser:
    """Train what is not in `out` yet, codec, judge and denoiser, which sees captions word by word; save a Composer that takes prompts.

    Args:
        out: folder. data: default $POLYSCORE_DATA. backgrounds: folder of photographs, see `load_photographs`.
        objective: of the denoiser; it is trained without negatives first, and continued with those that the objective has.
        training: of all parts. size: of the denoiser, a preset of `polyscore.networks.transformer`. depth: in place of the preset's.

    Raises:
        DataError: MNIST is not there, or `out` was begun with other photographs. PolyscoreError: as `polyscore.training.fit`.
    """
    training, folder = training or TextTraining(), Path(out)
    photographs = _photographs(folder, backgrounds)
    train = captioned_digits("train", data, photographs=photographs)
    test = captioned_digits("test", data, most=2000, photographs=photographs)
    if not (folder / "codec.json").is_file():
        _train_codec(train, test, folder, training.codec, progress)
    if not (folder / "judge.json").is_file():
        _train_judge(train, test, folder, training.judge, progress)
    codec = load_module(folder / "codec", VQ)
    with torch.no_grad():
        tokens = torch.cat([codec.encode(part) for part in train.x.split(500)])
    torch.manual_seed(training.model.seed)
    changes: dict[str, Any] = {"vocabulary": codec.vocabulary, "grid": list(codec.grid), "source": 64, "pooled": True}
    if depth is not None:
        changes["depth"] = depth
    denoiser = WordedDenoiser(train.language.words, LENGTH, "tokens", size, changes=changes)
    alone = replace(objective, intra="none", inter="none")
    told = Told(tokens, train.attributes, train.language, negatives=NEGATIVES if objective.inter != "none" else 0)
    for name, goal, config in (("run", alone, training.model), ("run-contrast", objective, training.contrast)):
        if name == "run" or objective != alone:
            fit(denoiser, told, goal, config, out=folder / name, progress=progress, facts={"objective": asdict(goal)})
    trained: Any = denoiser.eval()
    trained._meta = {"dataset": "MNIST in colour, train split", "objective": asdict(objective), "training": asdict(training)}
    Composer({"tokens": codec}, trained, DEFAULTS, {"tokens": {"kind": "image"}}, {"recipe": "cdcd-text"}).save(folder)
    return denoiser


def words_of(captions: Sequence[str], language: Language) -> Tensor:
    """Captions as `one_hot_words`."""
    return one_hot_words(captions, language.words, LENGTH)


def _photographs(folder: Path, backgrounds: str | None) -> dict[str, Tensor]:
    """Those kept in the folder, or kept there now."""
    kept = folder / "photographs.safetensors"
    if kept.is_file() and backgrounds is None:
        return dict(sorted(load_tensors(kept).items()))
    found = load_photographs(backgrounds)
    if kept.is_file():
        before = load_tensors(kept)
        if before.keys() != found.keys() or not all(torch.equal(before[word], found[word]) for word in found):
            raise DataError(f"{kept}: expected the photographs of {backgrounds}, found others; choose another folder")
    save_tensors(found, kept)
    return found


def _train_codec(train: Captioned28, test: Captioned28, folder: Path, config: TrainConfig, progress: bool) -> None:
    torch.manual_seed(config.seed)
    codec = VQ((3, 28, 28), CODES, 16, 32)
    fit(codec, Samples({"image": train.x}), VQObjective("image"), config, out=folder / "run-codec", progress=progress, average=False)
    save_module(codec.eval(), folder / "codec", meta={"test": codec_quality(codec, test.x), "training": asdict(config)})


def _train_judge(train: Captioned28, test: Captioned28, folder: Path, config: TrainConfig, progress: bool) -> None:
    torch.manual_seed(config.seed)
    judge = Judge(ConvEncoder((3, 28, 28), 64, (24, 48), dropout=0.1), 64, sum(train.language.sizes), dropout=0.1)
    samples = Samples({"image": train.x, "attributes": train.attributes})
    fit(judge, samples, AttributeObjective(train.language.sizes), config, out=folder / "run-judge", progress=progress)
    right = (seen(judge.eval(), test.x, test.language)[0] == test.attributes).double()
    each = dict(zip(test.language.attributes, right.mean(0).tolist(), strict=True))
    save_module(judge, folder / "judge", meta={"test_accuracy": float(right.all(1).double().mean()), **each, "test_items": len(test)})


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
    guidances: Sequence[float] = (1.0, 3.0),
    clip: str | None = None,
    picture: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Measured]:
    """Attribute accuracy and Frechet distance of pictures drawn from captions of test digits, for every seed and strength.

    With `clip`, folder or hub id of a CLIP model, also CLIPScore times 100, beside that of test pictures with their own captions.
    `picture` is a PNG to write: the first six captions of plain grounds and of photographs of the first seed, and what was drawn at the
    greatest strength.

    Raises:
        CheckpointError: a model is not there. DataError: MNIST is not there. PolyscoreError: as `polyscore.metrics.clip.clip_score`.
    """
    began = time.perf_counter()
    denoiser, codec = load_module(Path(folder) / "denoiser", WordedDenoiser), load_module(Path(folder) / "codec", VQ)
    judge = cast(Judge, load_module(Path(folder) / "judge", Judge))
    photographs = _photographs(Path(folder), None)
    test = captioned_digits("test", data, most=2000, photographs=photographs)
    language = test.language
    reference = seen(judge, test.x, language)[1]
    with torch.no_grad():
        rebuilt = seen(judge, codec.decode(codec.encode(test.x)), language)[0] == test.attributes
    values: dict[str, list[float]] = {}
    for place, seed in enumerate(seeds):
        rows = torch.randperm(len(test), generator=torch.Generator().manual_seed(seed))[:n]
        wanted, captions = test.attributes[rows], language.caption(test.attributes[rows], seed)
        for w in guidances:
            pictures = _draw(denoiser, codec, words_of(captions, language), w, steps, seed)
            found, features = seen(judge, pictures, language)
            right = found == wanted
            measures = {"all attributes": right.all(1), "mean": right.double().mean(1)}
            measures |= dict(zip(language.attributes, right.unbind(1), strict=True))
            if picture is not None and place == 0 and w == max(guidances):
                plain = wanted[:, 2] < len(language.attributes["ground"]) - len(photographs)
                shown = [int(i) for part in (plain, ~plain) for i in part.nonzero().flatten()[:6]]
                _plot(pictures[shown], [captions[i] for i in shown], picture)
            if clip is not None:
                measures["CLIPScore"] = 100 * clip_score(pictures, captions, clip)
            for name, each in measures.items():
                values.setdefault(f"guidance {w:g}: {name}", []).append(float(each.double().mean()))
            values.setdefault(f"guidance {w:g}: frechet", []).append(frechet_distance(features, reference))
        if clip is not None:
            values.setdefault("test pictures: CLIPScore", []).append(100 * float(clip_score(test.x[rows], captions, clip).mean()))
        if progress is not None:
            progress(place + 1, len(seeds))
    top = f"guidance {max(guidances):g}"
    reach = {f"{top}: mean": (">=", 0.95), f"{top}: all attributes": (">=", 0.8)}
    table = [Measured(name, found, reach.get(name)) for name, found in values.items()]
    table.append(Measured("pictures through the codec: all attributes", [float(rebuilt.all(1).double().mean())]))
    seconds = round(time.perf_counter() - began, 1)
    protocol = _protocol(Path(folder), language) | {"n": n, "seeds": list(seeds), "steps": steps, "seconds": seconds}
    write_table(out, table, protocol)
    return table


def _plot(pictures: Tensor, captions: Sequence[str], out: str) -> None:
    """Pictures below their captions, six a row."""
    from matplotlib.figure import Figure

    lines = -(-len(pictures) // 6)
    figure = Figure(figsize=(9.6, 2.1 * lines), layout="constrained")
    panels = figure.subplots(lines, 6, squeeze=False).ravel()
    for panel in panels:
        panel.axis("off")
    for panel, x, caption in zip(panels, pictures, captions, strict=False):
        panel.imshow(x.permute(1, 2, 0).numpy())
        panel.set_title(textwrap.fill(caption, 22), fontsize=7)
    with atomic(out) as temporary:
        figure.savefig(temporary, dpi=80, format="png", metadata={"Software": None})


def _protocol(folder: Path, language: Language) -> dict[str, Any]:
    """What was drawn and by which models."""
    counts = dict(zip(language.attributes, language.sizes, strict=True))
    many = f"{counts['ink']} inks and {counts['size']} sizes on {counts['ground']} grounds"
    meta = read_json(folder / "denoiser.json")["meta"]
    return {
        "command": "polyscore evaluate cdcd-text",
        "data": f"test digits of MNIST in {many}, of them photographs: {', '.join(language.photographs)}; captions in 3 ways",
        "codec": read_json(folder / "codec.json")["meta"]["test"],
        "judge": read_json(folder / "judge.json")["meta"],
        "objective": meta["objective"],
        "steps of training": {part: config["steps"] for part, config in meta["training"].items()},
    }
