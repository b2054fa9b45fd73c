"""Dance to music: a token codec of music, and denoisers of its tokens that see the dance and its genre."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from polyscore.checkpoint import load_module, load_state, load_tensors, save_module, save_tensors
from polyscore.codecs import Chain, LogMel
from polyscore.codecs.vq import VQ, codebook_use
from polyscore.data.dance import COUNT, FRAME, GENRES, RATE, VISUAL, Clips, Dance, cut, load_dances
from polyscore.metrics.judges import Judge, accuracy
from polyscore.networks.conv import ConvEncoder
from polyscore.networks.motion import DanceDenoiser
from polyscore.training import Samples, TrainConfig, fit
from polyscore.training.classifier import ClassifierObjective
from polyscore.training.contrast import TokenObjective
from polyscore.training.negatives import OtherExamples
from polyscore.training.vq import VQObjective

__all__ = ["DANCE_SETTINGS", "DanceTraining", "Studio", "prepare", "train_dance"]

SAMPLES = 32 * FRAME
"""2.048 s: 32 tokens of 64 ms."""
TRAIN, TEST = (0.0, 0.68), (0.7, 1.0)
FEATURES = 32
NEGATIVES = 4
PLAIN = TokenObjective("music", auxiliary=5e-2)
DANCE_SETTINGS: dict[str, TokenObjective] = {
    "vanilla": PLAIN,
    "step-intra": replace(PLAIN, intra="step", form="infonce", temperature=0.02, weight=0.5, chunks=4),
    "sample-inter": replace(PLAIN, inter="sample", form="subtracted", weight=5e-2),
}


CODEC = TrainConfig(steps=1500, batch_size=32, lr=2e-3, ema=0.0, log_every=100)
JUDGE = TrainConfig(steps=150, batch_size=32, lr=2e-3, weight_decay=0.02, ema=0.98, log_every=50)
FIRST = TrainConfig(steps=2000, batch_size=64, lr=2e-3, weight_decay=0.02, ema=0.995, log_every=100)
MORE = TrainConfig(steps=120, batch_size=64, lr=5e-4, ema=0.97, warmup=10, log_every=20)


@dataclass(frozen=True)
class DanceTraining:
    """Of the codec, the judge of genres, the vanilla denoisers, and their continuations."""

    codec: TrainConfig = CODEC
    judge: TrainConfig = JUDGE
    first: TrainConfig = FIRST
    more: TrainConfig = MORE


@dataclass
class Studio:
    """Everything that the dances become once: clips of both parts, their tokens, and motion as `FEATURES` numbers, the count and a 1.

    The clips come from all dances: the first 68 % of each to train, the last 30 % to test. So the songs are known, not their ends.
    """

    codec: Chain
    judge: Judge
    dances: list[Dance]
    train: Clips
    test: Clips
    tokens: Tensor
    basis: Tensor

    @property
    def vocabulary(self) -> int:
        """Number of music tokens."""
        return cast(VQ, self.codec.stages[-1]).vocabulary

    def features(self, clips: Clips) -> dict[str, Tensor]:
        """What the networks see of the dance: motion (N, 32, FEATURES + 3), and pictures (N, 8, 144) if there are, about 1 in size."""
        seen = {} if clips.visual is None else {"visual": 20 * clips.visual}
        return {"motion": project(clips.motion, self.basis)} | seen


def project(motion: Tensor, basis: Tensor) -> Tensor:
    """Principal parts of the first D numbers of motion (N, T, D + C), the C others as they are, and a feature that is 1.

    basis (D, 2 + F): mean, deviation and directions.
    """
    known = (motion[..., : len(basis)] - basis[:, 0]) / basis[:, 1] @ basis[:, 2:]
    return torch.cat([known, motion[..., len(basis) :], torch.ones_like(known[..., :1])], -1)


def principal(motion: Tensor, features: int = FEATURES) -> Tensor:
    """The basis of `project` of training motion: numbers are standardised, then directions of most variance, each of variance 1."""
    flat = motion.flatten(0, 1)
    mean, deviation = flat.mean(0), flat.std(0).clamp(min=1e-3)
    covariance = ((flat - mean) / deviation).T.cov()
    values, vectors = torch.linalg.eigh(covariance)
    directions = vectors[:, -features:] / values[-features:].clamp(min=1e-6).sqrt()
    return torch.cat([mean[:, None], deviation[:, None], directions], 1)


def music_codec(waves: Tensor, codes: int = 128) -> Chain:
    """A log-mel spectrogram of 16 ms frames, and a 1-D VQ of them with a token every 64 ms; mean and deviation from the waves."""
    front = LogMel(SAMPLES, RATE, 1024, FRAME // 4, 48, 0.05, 0.0, 1.0)
    mel = front.encode(waves[:: max(1, len(waves) // 200)])
    mean, std = float(mel.mean()), float(mel.std())
    front = LogMel(SAMPLES, RATE, 1024, FRAME // 4, 48, 0.05, mean, std)
    return Chain([front, VQ(front.latent_shape, codes, 16, 48, (2, 2), 2, 3, "identity")])


def prepare(
    out: str = "runs/cdcd-dance",
    data: str | None = None,
    training: DanceTraining | None = None,
    progress: bool = True,
    visual: bool = False,
) -> Studio:
    """Train what is not in `out` yet (codec, judge), encode the dances, and return it all. `visual`: pictures of the dancer count as well.

    Raises:
        DataError: the dances are not there. PolyscoreError: as `polyscore.training.fit`.
    """
    training = training or DanceTraining()
    dances = load_dances(data)
    train, test = cut(dances, SAMPLES, 0.256, TRAIN, visual), cut(dances, SAMPLES, SAMPLES / RATE, TEST, visual)
    folder = Path(out)
    if not (folder / "codec.json").is_file():
        _train_codec(train, test, folder, training.codec, progress)
    codec = load_module(folder / "codec", Chain)
    if not (folder / "judge.json").is_file():
        _train_judge(train, test, cast(LogMel, codec.stages[0]), folder, training.judge, progress)
    with torch.no_grad():
        tokens = torch.cat([codec.encode(part) for part in train.waves.split(200)])
    basis = principal(train.motion[..., :-COUNT])
    save_tensors({"basis": basis}, folder / "basis.safetensors")
    return Studio(codec, load_module(folder / "judge", Judge), dances, train, test, tokens, basis)


def _train_codec(train: Clips, test: Clips, folder: Path, config: TrainConfig, progress: bool) -> None:
    torch.manual_seed(config.seed)
    codec = music_codec(train.waves)
    front, vq = cast(LogMel, codec.stages[0]), cast(VQ, codec.stages[1])
    with torch.no_grad():
        mel, unseen = (torch.cat([front.encode(part) for part in clips.waves.split(200)]) for clips in (train, test))
    fit(vq, Samples({"mel": mel}), VQObjective("mel", "square"), config, out=folder / "run-codec", progress=progress, average=False)
    with torch.no_grad():
        tokens = vq.eval().encode(unseen)
        error = float((vq.decode(tokens) - unseen).square().mean())
    quality = {"mel square error / variance": error, **codebook_use(tokens, vq.vocabulary)}
    save_module(codec.eval(), folder / "codec", meta={"dataset": "dances, first 68 %", "training": asdict(config), "test": quality})


def _train_judge(train: Clips, test: Clips, front: LogMel, folder: Path, config: TrainConfig, progress: bool) -> None:
    """A classifier of genres that sees each equally often."""
    torch.manual_seed(config.seed)
    judge = Judge(ConvEncoder(front.latent_shape, 32, (16, 32), dropout=0.1, pool=True), 32, len(GENRES), front, 0.2)
    most = int(torch.bincount(train.labels).max())
    rows = torch.cat(
        [own.repeat(-(-most // len(own)))[:most] for k in range(len(GENRES)) if len(own := (train.labels == k).nonzero()[:, 0])]
    )
    samples = Samples({"music": train.waves[rows], "label": train.labels[rows]})
    fit(judge, samples, ClassifierObjective("music"), config, out=folder / "run-judge", progress=progress)
    judge = judge.eval()
    each = [accuracy(judge, test.waves[test.labels == k], test.labels[test.labels == k]) for k in test.labels.unique().tolist()]
    meta = {"dataset": "dances, first 68 %", "test_accuracy": sum(each) / len(each), "test_items": len(test), "mean over": "genres"}
    save_module(judge, folder / "judge", meta={**meta, "training": asdict(config)})


def train_dance(
    studio: Studio, out: str, objective: TokenObjective, config: TrainConfig, base: str | None = None, progress: bool = True
) -> DanceDenoiser:
    """Train a denoiser of music tokens given the dance, from the start or from `base`, and save it as `out`/denoiser.

    Raises:
        CheckpointError: the base is not there. PolyscoreError: as `polyscore.training.fit`.
    """
    torch.manual_seed(config.seed)
    seen = studio.features(studio.train)
    objective = replace(objective, features=tuple(seen))
    sizes = (studio.vocabulary, studio.tokens.shape[1], seen["motion"].shape[2], len(GENRES))
    denoiser = DanceDenoiser(*sizes, visual=VISUAL if "visual" in seen else None)
    if base is not None:
        load_state(denoiser, load_tensors(Path(base).with_suffix(".safetensors")), Path(base))
    needs = NEGATIVES if objective.inter != "none" else 0
    source = OtherExamples("music", studio.tokens, studio.train.labels, needs, more=seen)
    facts = {"objective": asdict(objective), "base": base}
    fit(denoiser, source, objective, config, out=Path(out) / "run", progress=progress, facts=facts)
    save_module(denoiser.eval(), Path(out) / "denoiser", meta={**facts, "training": asdict(config)})
    return denoiser
