"""Class to image on tokens: one denoiser a seed, continued under every contrastive setting, measured at equal cost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from polyscore.checkpoint import load_module, load_state, load_tensors, read_json, save_module
from polyscore.codecs.vq import VQ
from polyscore.composer import WEIGHTS
from polyscore.data.digits import load_mnist
from polyscore.denoisers import Denoiser
from polyscore.files import write_text
from polyscore.metrics.frechet import frechet_distance
from polyscore.metrics.judges import Judge, predict
from polyscore.networks.transformer import TokenDenoiser
from polyscore.product import Product, Term
from polyscore.recipes.tables import Measured, write_table
from polyscore.sampling import sample
from polyscore.training import TrainConfig, fit
from polyscore.training.contrast import TokenObjective
from polyscore.training.negatives import OtherExamples

__all__ = ["CLASS_TRAINING", "CONTINUE", "CURVE", "SETTINGS", "VANILLA", "class_table", "train_class"]

CLASS_TRAINING = TrainConfig(steps=1000, batch_size=64, lr=2e-3, ema=0.99, log_every=100, checkpoint_every=500)
CONTINUE = TrainConfig(steps=120, batch_size=64, lr=5e-4, ema=0.97, warmup=10, log_every=20, checkpoint_every=1000)
VANILLA = TokenObjective("tokens")
SETTINGS: dict[str, TokenObjective] = {
    "vanilla": VANILLA,
    "step-intra, lambda 5e-2": replace(VANILLA, intra="step", weight=5e-2),
    "step-inter, lambda 5e-2": replace(VANILLA, inter="step", weight=5e-2),
    "step-inter with own z_t, lambda 5e-2": replace(VANILLA, inter="step", weight=5e-2, parallel=True),
    "sample-intra, lambda 5e-2": replace(VANILLA, intra="sample", weight=5e-2),
    "sample-inter, lambda 5e-5": replace(VANILLA, inter="sample", weight=5e-5),
    "sample-inter, lambda 5e-4": replace(VANILLA, inter="sample", weight=5e-4),
    "sample-inter, lambda 5e-3": replace(VANILLA, inter="sample", weight=5e-3),
    "sample-inter, lambda 5e-2": replace(VANILLA, inter="sample", weight=5e-2),
    "sample-inter, lambda 5e-1": replace(VANILLA, inter="sample", weight=5e-1),
    "InfoNCE sample-inter, lambda 5e-2, tau 0.1": replace(VANILLA, inter="sample", form="infonce", weight=5e-2, temperature=0.1),
    "InfoNCE sample-inter, lambda 5e-2, tau 1": replace(VANILLA, inter="sample", form="infonce", weight=5e-2),
    "InfoNCE step-inter, lambda 5e-1, tau 0.1": replace(VANILLA, inter="step", form="infonce", weight=5e-1, temperature=0.1),
}
CURVE = (10, 20, 40, 80, 120)
NEGATIVES = 4
PAPER = "paper, ImageNet: top-5 72.7 vanilla, 77.6 contrastive"
Progress = Callable[[int, int], None]


def tokens_of(codec: VQ, data: str | None = None) -> tuple[Tensor, Tensor]:
    """Tokens and labels of the train split."""
    train = load_mnist("train", data)
    with torch.no_grad():
        return torch.cat([codec.encode(part) for part in train.x.split(500)]), train.labels


def train_class(
    codec: str = "runs/cdcd-codec/tokens",
    out: str = "runs/cdcd-class",
    data: str | None = None,
    objective: TokenObjective = VANILLA,
    base: str | None = None,
    config: TrainConfig = CLASS_TRAINING,
    tokens: tuple[Tensor, Tensor] | None = None,
    progress: bool = True,
) -> TokenDenoiser:
    """Train a class-conditional token denoiser on MNIST and save it as `out`/denoiser.

    Args:
        codec: as `train_token_codec` saves it. objective: with negatives or without. base: a denoiser to continue from.
        tokens: tokens and labels, where they are there already.

    Raises:
        DataError: MNIST is not there. CheckpointError: the codec or base is not there. PolyscoreError: as `polyscore.training.fit`.
    """
    torch.manual_seed(config.seed)
    tokens = tokens or tokens_of(load_module(codec, VQ), data)
    denoiser = TokenDenoiser("tokens", changes={"depth": 2})
    if base is not None:
        load_state(denoiser, load_tensors(Path(base).with_suffix(".safetensors")), Path(base))
    needs = NEGATIVES if objective.inter != "none" else 0
    facts = {"objective": asdict(objective), "base": base}
    source = OtherExamples("tokens", *tokens, needs)
    fit(denoiser, source, objective, config, out=Path(out) / "run", progress=progress, facts=facts)
    save_module(denoiser.eval(), Path(out) / "denoiser", meta={**facts, "training": asdict(config)})
    return denoiser


@dataclass
class Lab:
    """What every measurement shares: codec, judge, test features, a folder, and the cells already measured."""

    codec: VQ
    judge: Judge
    reference: Tensor
    out: Path
    n: int

    def __post_init__(self) -> None:
        self.file = self.out / "cells.json"
        self.cells: dict[str, dict[str, float]] = json.loads(self.file.read_text()) if self.file.is_file() else {}

    def measure(self, key: str, denoiser: TokenDenoiser, steps: int, seed: int, guidance: float = 1.0, n: int | None = None) -> None:
        """Accuracy and Frechet distance of n samples of balanced classes, kept under the key."""
        if key in self.cells:
            return
        number = n or self.n
        labels = torch.arange(number) % 10
        model: Denoiser = denoiser
        if guidance != 1.0:
            model = Product([Term(denoiser, labels, guidance, null=torch.tensor(-1))])
        began = time.process_time()
        found = sample(model, number, condition=labels, steps=steps, seed=seed)
        seen, features = predict(self.judge, self.codec.decode(found["tokens"]))
        self.cells[key] = {
            "accuracy": float((seen == labels).double().mean()),
            "frechet": frechet_distance(features, self.reference),
            "evaluations": float(found.info["evaluations_per_sample"]),
            "seconds": time.process_time() - began,
        }
        write_text(self.file, json.dumps(self.cells, indent=1))


def class_table(
    codec: str,
    folder: str,
    out: str,
    data: str | None,
    n: int,
    seeds: Sequence[int],
    curve: Sequence[int] = CURVE,
    settings: Sequence[str] = tuple(SETTINGS),
    training: TrainConfig = CLASS_TRAINING,
    continued: TrainConfig = CONTINUE,
    judges: str = str(WEIGHTS / "judges" / "digits"),
    progress: Progress | None = None,
) -> list[Measured]:
    """Train and measure all settings and seeds (what is measured already is kept), and write the table."""
    vq = load_module(codec, VQ)
    judge_file = Path(judges) / "image"
    judge = load_module(judge_file, Judge)
    test = load_mnist("test", data)
    lab = Lab(vq, judge, predict(judge, test.x)[1], Path(folder), n)
    tokens = tokens_of(vq, data)
    done = 0
    for seed in seeds:
        base = str(Path(folder) / f"{seed}" / "base" / "denoiser")
        train_class(codec, str(Path(base).parent), data, VANILLA, None, replace(training, seed=seed), tokens, False)
        for name in settings:
            _one(lab, codec, folder, data, name, seed, base, tokens, continued)
            done += 1
            if progress is not None:
                progress(done, len(seeds) * len(settings))
        so_far = [s for s in seeds if s == seed or f"{settings[-1]}|{s}|20 steps" in lab.cells]
        _write(out, _rows(lab, so_far, settings, curve), lab, codec, judge_file, n, so_far, training, continued)
    best = _best(lab, seeds, settings)
    for seed in seeds:
        for name in ("vanilla", best):
            model = _model(folder, seed, name)
            for steps in curve:
                lab.measure(f"{name}|{seed}|{steps} steps", model, steps, seed)
    rows = _rows(lab, seeds, settings, curve)
    _write(out, rows, lab, codec, judge_file, n, seeds, training, continued)
    return rows


def _folder(folder: str, seed: int, name: str) -> Path:
    plain = "".join(c if c.isalnum() or c in "-." else "_" for c in name)
    return Path(folder) / f"{seed}" / plain


def _model(folder: str, seed: int, name: str) -> TokenDenoiser:
    return cast(TokenDenoiser, load_module(_folder(folder, seed, name) / "denoiser", TokenDenoiser))


def _one(lab: Lab, codec: str, folder: str, data: str | None, name: str, seed: int, base: str, tokens: Any, config: TrainConfig) -> None:
    """One setting of one seed: trained, then measured at 20 steps, truncated or guided where it is the vanilla one."""
    target = _folder(folder, seed, name)
    if not (target / "denoiser.json").is_file():
        train_class(codec, str(target), data, SETTINGS[name], base, replace(config, seed=seed), tokens, False)
    model = _model(folder, seed, name)
    lab.measure(f"{name}|{seed}|20 steps", model, 20, seed)
    if name == "vanilla":
        lab.measure(f"classifier-free guidance 2, 10 steps|{seed}|20 evaluations", model, 10, seed, 2.0)
        lab.measure(f"classifier-free guidance 2, 20 steps|{seed}|40 evaluations", model, 20, seed, 2.0)


def _best(lab: Lab, seeds: Sequence[int], settings: Sequence[str]) -> str:
    """The contrastive setting of the highest mean accuracy at 20 steps."""
    named = [s for s in settings if s != "vanilla"]
    return max(named, key=lambda name: sum(lab.cells[f"{name}|{seed}|20 steps"]["accuracy"] for seed in seeds))


def _rows(lab: Lab, seeds: Sequence[int], settings: Sequence[str], curve: Sequence[int]) -> list[Measured]:
    groups: dict[tuple[str, str], list[dict[str, float]]] = {}
    for key, cell in lab.cells.items():
        name, seed, cost = key.split("|")
        if int(seed) in seeds:
            groups.setdefault((name, cost), []).append(cell)
    rows = []
    for (name, cost), cells in groups.items():
        for what in ("accuracy", "frechet"):
            reference = PAPER if name == "vanilla" and cost == "20 steps" and what == "accuracy" else ""
            rows.append(Measured(f"{name}, {cost}: {what}", [cell[what] for cell in cells], None, reference))
    return rows + _claims(groups, settings, curve, len(seeds))


def _claims(groups: dict[tuple[str, str], list[dict[str, float]]], settings: Sequence[str], curve: Sequence[int], n: int) -> list[Measured]:
    """The paper's two claims: a gain at equal steps with separate intervals (mean -+ sd), and fewer steps for the same accuracy."""

    def measured(name: str, steps: int) -> Measured | None:
        cells = groups.get((name, f"{steps} steps"), [])
        return Measured("", [cell["accuracy"] for cell in cells]) if len(cells) == n else None

    vanilla = measured("vanilla", 20)
    rivals = {name: found for name in settings if name != "vanilla" and (found := measured(name, 20)) is not None}
    if vanilla is None or not rivals:
        return []
    best = max(rivals, key=lambda name: rivals[name].mean)
    gap = rivals[best].mean - rivals[best].sd - vanilla.mean - vanilla.sd
    rows = [Measured(f"gap between the intervals of {best} and vanilla, 20 steps", [gap], (">=", 0.0), PAPER)]
    goal = measured("vanilla", max(curve))
    reached = [steps for steps in curve if goal is not None and (found := measured(best, steps)) is not None and found.mean >= goal.mean]
    if goal is not None:
        saved = 1 - min(reached) / max(curve) if reached else 0.0
        title = f"share of steps saved by {best} at vanilla's accuracy of {max(curve)} steps"
        rows.append(Measured(title, [saved], (">=", 0.4), "paper: 35 to 40 % fewer"))
    return rows


def _write(
    out: str,
    rows: Sequence[Measured],
    lab: Lab,
    codec: str,
    judge: Path,
    n: int,
    seeds: Sequence[int],
    first: TrainConfig,
    more: TrainConfig,
) -> None:
    codec_meta, judge_meta = read_json(Path(codec).with_suffix(".json")), read_json(judge.with_suffix(".json"))
    protocol = {
        "command": "polyscore evaluate cdcd-class",
        "data": "MNIST: tokens of the train split; Frechet distance to the test split on the judge's features",
        "n": n,
        "seeds": list(seeds),
        "codec": {"sha256": codec_meta["sha256"][:16], **codec_meta["meta"].get("test", {})},
        "judge": {"sha256": judge_meta["sha256"][:16], "test_accuracy": judge_meta["meta"].get("test_accuracy")},
        "training": {"base": asdict(first), "continued": asdict(more), "negatives": NEGATIVES},
        "seconds": round(sum(cell["seconds"] for cell in lab.cells.values()), 1),
    }
    write_table(out, rows, protocol)
