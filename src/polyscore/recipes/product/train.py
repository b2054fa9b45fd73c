"""The networks of the product-digits experiment: a codec, a judge, two experts trained apart, and one network to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from polyscore.checkpoint import load_module, save_module
from polyscore.codecs import PCA
from polyscore.denoisers import Expert
from polyscore.metrics.judges import Judge
from polyscore.networks.conv import ConvEncoder, channels_last
from polyscore.networks.mlp import JointMLP
from polyscore.paths import VPSDE
from polyscore.recipes.product.scenes import COLOURS, SHAPE, Scenes, load_scenes
from polyscore.spec import register
from polyscore.training import Draw, Samples, TrainConfig, fit
from polyscore.training.classifier import ClassifierObjective
from polyscore.training.joint import JointObjective

__all__ = ["EXPERT_TRAINING", "JUDGE_TRAINING", "LATENT", "NAMES", "ConditionObjective", "SceneExpert", "load_parts", "train_scenes"]

LATENT = 96
DIGITS = 10
NAMES = ("A", "B", "both")
EXPERT_TRAINING = TrainConfig(steps=1200, batch_size=128, lr=3e-3, ema=0.995, log_every=200, checkpoint_every=600)
JUDGE_TRAINING = TrainConfig(steps=1500, batch_size=128, lr=2e-3, ema=0.998, log_every=250, checkpoint_every=750)


class TwoLabelMLP(JointMLP):
    """A JointMLP conditioned on a digit and a colour, (B, 2) integers; -1 for none of either."""

    def __init__(self, latent: int, width: int, depth: int, hidden: int, embed: int) -> None:
        super().__init__({"scene": (latent,)}, width, depth, hidden, embed, classes=DIGITS)
        self.colours = nn.Embedding(COLOURS + 1, embed)

    def told(self, condition: Any, rows: int) -> Tensor:
        """The embeddings of digit and colour, added."""
        labels = torch.full((1, 2), -1) if condition is None else torch.as_tensor(condition).reshape(-1, 2)
        digit, colour = labels.to(self.colours.weight.device).expand(rows, 2).unbind(1)
        return cast(Tensor, super().told(digit, rows)) + self.colours(colour + 1)


@register
class SceneExpert(Expert):
    """A denoiser of scenes in the codec's space, given a digit, a colour, both or neither."""

    def __init__(self, latent: int = LATENT, width: int = 256, depth: int = 2, hidden: int = 384, embed: int = 64) -> None:
        network = TwoLabelMLP(latent, width, depth, hidden, embed)
        super().__init__(network, {"scene": VPSDE()}, {"scene": (latent,)}, "v", {"scene": "scenes-pca"})


@dataclass(frozen=True)
class ConditionObjective(JointObjective):
    """`JointObjective` of one modality, given the batch entry `entry` (B, ...), all of which is `unknown` with probability `dropout`."""

    entry: str = "label"
    dropout: float = 0.1
    unknown: float = -1

    def _condition(self, module: Expert, batch: Mapping[str, Tensor], draw: Draw) -> Tensor:
        given = batch[self.entry]
        return torch.where(draw.uniform().reshape(-1, *[1] * (given.ndim - 1)) < self.dropout, self.unknown, given)


def train_scenes(
    out: str = "runs/product-digits",
    data: str | None = None,
    seed: int = 0,
    experts: TrainConfig = EXPERT_TRAINING,
    judge: TrainConfig = JUDGE_TRAINING,
    progress: bool = True,
) -> Path:
    """Train the experts of one seed and save them in `out`/SEED; codec and judge, in `out`, serve all seeds. What is there is kept.

    The codec (principal components) and experts see sets A and B; "both" sees both sets, each picture with its one label. The judge sees
    other pictures with both labels, and nothing else does.

    Raises:
        DataError: MNIST is not there. PolyscoreError: as `polyscore.training.fit`.
    """
    folder = Path(out)
    sets = {kind: load_scenes(kind, data) for kind in ("A", "B")}
    if not (folder / "judge.json").exists():
        _judge(folder, load_scenes("judge", data), judge, progress)
    if not (folder / "codec.json").exists():
        save_module(PCA(SHAPE, LATENT).fit(torch.cat([s.x for s in sets.values()])), folder / "codec", meta={"dataset": "sets A and B"})
    codec = load_module(folder / "codec", PCA)
    for name in NAMES:
        if not (folder / str(seed) / f"{name}.json").exists():
            chosen = [sets[kind] for kind in (("A", "B") if name == "both" else (name,))]
            _expert(folder / str(seed), name, codec, chosen, replace(experts, seed=seed), progress)
    return folder / str(seed)


def _judge(folder: Path, scenes: Scenes, config: TrainConfig, progress: bool) -> None:
    torch.manual_seed(config.seed)
    judge = Judge(ConvEncoder(SHAPE, 64, (24, 48), dropout=0.1, pool=True), 64, DIGITS * COLOURS, dropout=0.1)
    channels_last(judge)
    labels = scenes.digits * COLOURS + scenes.colours
    samples = Samples({"scene": scenes.x, "label": labels})
    fit(judge, samples, ClassifierObjective("scene"), config, out=folder / "run-judge", progress=progress)
    save_module(judge, folder / "judge", meta={"dataset": "all MNIST training digits over coloured grounds"})


def _expert(folder: Path, name: str, codec: PCA, sets: list[Scenes], config: TrainConfig, progress: bool) -> None:
    torch.manual_seed(config.seed)
    latents = torch.cat([codec.encode(s.x) for s in sets])
    labels = torch.cat([torch.stack([s.digits, s.colours], 1) for s in sets])
    expert = SceneExpert()
    samples = Samples({"scene": latents, "label": labels})
    fit(expert, samples, ConditionObjective(), config, out=folder / f"run-{name}", progress=progress)
    save_module(expert, folder / name, meta={"dataset": f"set {name}" if len(sets) == 1 else "sets A and B, one label a picture"})


def load_parts(folder: Path, seed: int) -> tuple[PCA, Judge, dict[str, SceneExpert]]:
    """Codec, judge and the networks of one seed.

    Raises:
        CheckpointError: they are not there, or damaged.
    """
    experts = {name: load_module(folder / str(seed) / name, SceneExpert) for name in NAMES}
    return load_module(folder / "codec", PCA), load_module(folder / "judge", Judge), experts
