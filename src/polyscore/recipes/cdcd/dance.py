"""Dance to music: a token codec of music, and denoisers of its tokens that see the dance and its genre."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor

from polyscore.checkpoint import load_module, load_state, read_json, save_module, save_tensors
from polyscore.codecs import Chain, LogMel
from polyscore.codecs.vq import VQ, codebook_use
from polyscore.data.augment import mask_spectrogram
from polyscore.data.dance import FRAME, RATE, Clips
from polyscore.errors import PolyscoreError
from polyscore.metrics.judges import Judge, mean_accuracy
from polyscore.networks.conv import ConvEncoder
from polyscore.networks.motion import DanceDenoiser
from polyscore.recipes.cdcd.dance_data import DanceSet, Parts, load_parts
from polyscore.training import Samples, TrainConfig, fit
from polyscore.training.classifier import ClassifierObjective
from polyscore.training.contrast import TokenObjective
from polyscore.training.draws import Draw
from polyscore.training.negatives import OtherExamples
from polyscore.training.vq import VQObjective

__all__ = ["DANCE_SETTINGS", "DanceSweep", "DanceTraining", "Studio", "load_denoiser", "prepare", "same_data", "train_dance"]

FEATURES = 32
NEGATIVES = 4
PLAIN = TokenObjective("music", auxiliary=5e-2)
DANCE_SETTINGS: dict[str, TokenObjective] = {
    "vanilla": PLAIN,
    "step-intra": replace(PLAIN, intra="step", form="infonce", temperature=0.02, weight=0.5, chunks=4),
    "sample-inter": replace(PLAIN, inter="sample", form="subtracted", weight=5e-2),
}


CODEC = TrainConfig(steps=1500, batch_size=32, lr=2e-3, ema=0.0, log_every=100)
JUDGE = TrainConfig(steps=400, batch_size=32, lr=2e-3, weight_decay=0.05, ema=0.99, log_every=50)
FIRST = TrainConfig(steps=2000, batch_size=64, lr=2e-3, weight_decay=0.02, ema=0.995, log_every=100)
MORE = TrainConfig(steps=120, batch_size=64, lr=5e-4, ema=0.97, warmup=10, log_every=20)


@dataclass(frozen=True)
class DanceTraining:
    """Of the codec, the judge of genres, the vanilla denoisers, and their continuations; size: of the denoisers."""

    codec: TrainConfig = CODEC
    judge: TrainConfig = JUDGE
    first: TrainConfig = FIRST
    more: TrainConfig = MORE
    size: Literal["small", "paper"] = "small"


@dataclass(frozen=True)
class DanceSweep:
    """Step-wise contrast against shuffled chunks with all of these: chunks, temperatures, weights (lambda).

    Args:
        samplings: seeds of sampling; the mean over them counts.
    """

    chunks: tuple[int, ...] = (2, 4, 8)
    temperatures: tuple[float, ...] = (0.02, 0.1)
    weights: tuple[float, ...] = (0.05, 0.2, 0.5)
    samplings: tuple[int, ...] = (11, 12, 13, 14)

    def settings(self) -> dict[str, TokenObjective]:
        """By name."""
        base = DANCE_SETTINGS["step-intra"]
        return {
            f"step-intra, chunks {c}, temperature {t:g}, lambda {w:g}": replace(base, chunks=c, temperature=t, weight=w)
            for c in self.chunks
            for t in self.temperatures
            for w in self.weights
        }


@dataclass
class Studio:
    """Everything that the dances become once: clips of both parts, their tokens, and motion as `FEATURES` numbers, the count and a 1.

    The clips come from all dances: the first 68 % of each to train, the last 30 % to test. So the songs are known, not their ends.
    (Segments have their own splits, and no count.) Where there is one genre there is no judge.
    """

    codec: Chain
    judge: Judge | None
    parts: Parts
    tokens: Tensor
    basis: Tensor

    @property
    def train(self) -> Clips:
        """To train with."""
        return self.parts.train

    @property
    def test(self) -> Clips:
        """To test with."""
        return self.parts.test

    @property
    def vocabulary(self) -> int:
        """Number of music tokens."""
        return cast(VQ, self.codec.stages[-1]).vocabulary

    def features(self, clips: Clips) -> dict[str, Tensor]:
        """What the networks see of these clips."""
        return features_of(clips, self.basis)


def features_of(clips: Clips, basis: Tensor) -> dict[str, Tensor]:
    """What the networks see of a dance: motion (N, frames, FEATURES + count + 1), and what is seen of it (N, rows, D) if there is."""
    return {"motion": project(clips.motion, basis)} | ({} if clips.visual is None else {"visual": clips.visual})


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
    samples = waves.shape[1]
    front = LogMel(samples, RATE, 1024, FRAME // 4, 48, 0.05, 0.0, 1.0)
    mel = front.encode(waves[:: max(1, len(waves) // 200)])
    mean, std = float(mel.mean()), float(mel.std())
    front = LogMel(samples, RATE, 1024, FRAME // 4, 48, 0.05, mean, std)
    return Chain([front, VQ(front.latent_shape, codes, 16, 48, (2, 2), 2, 3, "identity")])


def prepare(
    out: str = "runs/cdcd-dance",
    data: str | None = None,
    training: DanceTraining | None = None,
    progress: bool = True,
    visual: bool = False,
    dataset: DanceSet = "dances",
) -> Studio:
    """Train what is not in `out` yet (codec, judge), encode the dances, and return it all.

    Args:
        visual: pictures of the dancer, or the segments' video features, count as well. data, dataset: see `load_parts`.

    Raises:
        DataError: the dances are not there. PolyscoreError: `out` is of another data set; as `polyscore.training.fit`.
    """
    training, folder = training or DanceTraining(), Path(out)
    parts = load_parts(dataset, data, visual)
    if not (folder / "codec.json").is_file():
        _train_codec(parts, folder, training.codec, progress)
    same_data(folder, parts.name)
    codec = load_module(folder / "codec", Chain)
    judged = len(parts.genres) > 1
    if judged and not (folder / "judge.json").is_file():
        _train_judge(parts, codec, folder, training.judge, progress)
    with torch.no_grad():
        tokens = torch.cat([codec.encode(part) for part in parts.train.waves.split(200)])
    basis = principal(parts.train.motion[..., : parts.train.motion.shape[-1] - parts.count])
    edges = {"edges": torch.tensor(parts.dances[0].edges)} if parts.dances else {}
    save_tensors({"basis": basis, **edges}, folder / "basis.safetensors")
    return Studio(codec, load_module(folder / "judge", Judge) if judged else None, parts, tokens, basis)


def same_data(folder: Path, name: str) -> None:
    """Refuse a folder of models that were trained on other dances than `name` says.

    Raises:
        CheckpointError: no codec is there. PolyscoreError: another data set.
    """
    found = read_json(folder / "codec.json")["meta"]["dataset"]
    if found != name:
        raise PolyscoreError(f"{folder}: expected models of {name!r}, found those of {found!r}; choose another folder or data set")


def _train_codec(parts: Parts, folder: Path, config: TrainConfig, progress: bool) -> None:
    train, test = parts.train, parts.test
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
    save_module(codec.eval(), folder / "codec", meta={"dataset": parts.name, "training": asdict(config), "test": quality})


@dataclass(frozen=True)
class Heard:
    """What changes spectrograms (B, bins, frames) while the judge learns: half of them pass through the codec, as all generated music did;
    level and tilt vary by 0.3, and a band of up to 12 bins and a span of up to 40 frames are masked."""

    vq: VQ

    def __call__(self, x: Tensor, draw: Draw) -> Tensor:
        """Changed spectrograms."""
        with torch.no_grad():
            coded = self.vq.decode(self.vq.encode(x))
        x = torch.where((draw.uniform() < 0.5)[:, None, None], coded, x)
        level, tilt = draw.normal(2).mul(0.3).unbind(1)
        slope = torch.linspace(-1, 1, x.shape[1], device=x.device)
        return mask_spectrogram(x + level[:, None, None] + tilt[:, None, None] * slope[:, None], draw, bins=12, frames=40)


def _train_judge(parts: Parts, codec: Chain, folder: Path, config: TrainConfig, progress: bool) -> None:
    """A classifier of genres that sees each equally often; its accuracy is of test clips as they are, and through the codec."""
    train, test, genres = parts.train, parts.test, len(parts.genres)
    front, vq = cast(LogMel, codec.stages[0]), cast(VQ, codec.stages[1])
    torch.manual_seed(config.seed)
    judge = Judge(ConvEncoder(front.latent_shape, 32, (32, 64), dropout=0.2, pool=True), 32, genres, front, 0.4)
    most = int(torch.bincount(train.labels).max())
    rows = torch.cat([own.repeat(-(-most // len(own)))[:most] for k in range(genres) if len(own := (train.labels == k).nonzero()[:, 0])])
    samples = Samples({"music": train.waves[rows], "label": train.labels[rows]})
    objective = ClassifierObjective("music", change_map=Heard(vq))
    fit(judge, samples, objective, config, out=folder / "run-judge", progress=progress)
    judge = judge.eval()
    with torch.no_grad():
        coded = torch.cat([codec.decode(codec.encode(part)) for part in test.waves.split(200)])
    found = {"test_accuracy": mean_accuracy(judge, test.waves, test.labels), "through_codec": mean_accuracy(judge, coded, test.labels)}
    meta = {"dataset": parts.name, **found, "test_items": len(test), "mean over": "genres"}
    save_module(judge, folder / "judge", meta={**meta, "training": asdict(config)})


def load_denoiser(folder: Path, visual: bool) -> DanceDenoiser:
    """The denoiser that `train_dance` saved in a folder.

    Raises:
        CheckpointError: it is not there or damaged. PolyscoreError: it sees pictures of the dancer and should not, or the other way round.
    """
    denoiser = cast(DanceDenoiser, load_module(folder / "denoiser", DanceDenoiser))
    sees = denoiser.network.visual is not None  # type: ignore[union-attr]
    if sees != visual:
        kinds = {True: "with pictures of the dancer (--visual true)", False: "without pictures of the dancer (--visual false)"}
        raise PolyscoreError(f"{folder}: expected a denoiser trained {kinds[visual]}, found one {kinds[sees]}; choose another folder")
    return denoiser


def train_dance(
    studio: Studio,
    out: str,
    objective: TokenObjective,
    config: TrainConfig,
    base: str | None = None,
    progress: bool = True,
    size: str = "small",
) -> DanceDenoiser:
    """Train a denoiser of music tokens given the dance, from the start or from `base`, and save it as `out`/denoiser.

    Args:
        base: a denoiser of the same size that `train_dance` saved. size: see `polyscore.networks.motion.SIZES`.

    Raises:
        CheckpointError: the base is not there, or of another size. PolyscoreError: the base, or what is in `out`, sees pictures of the
            dancer and the studio has none, or the other way round; as `polyscore.training.fit`.
    """
    torch.manual_seed(config.seed)
    seen = studio.features(studio.train)
    objective = replace(objective, features=tuple(seen))
    if (Path(out) / "denoiser.json").is_file():
        load_denoiser(Path(out), "visual" in seen)
    motion = seen["motion"]
    visual = tuple(seen["visual"].shape[1:]) if "visual" in seen else None
    sizes = (studio.vocabulary, studio.tokens.shape[1], motion.shape[2], len(studio.parts.genres))
    denoiser = DanceDenoiser(*sizes, visual=visual, size=size, frames=motion.shape[1])
    if base is not None:
        load_state(denoiser, load_denoiser(Path(base).parent, "visual" in seen).state_dict(), base)
    needs = NEGATIVES if objective.inter != "none" else 0
    source = OtherExamples("music", studio.tokens, studio.train.labels, needs, more=seen, listed=studio.parts.negatives)
    facts = {"objective": asdict(objective), "base": base}
    fit(denoiser, source, objective, config, out=Path(out) / "run", progress=progress, facts=facts)
    save_module(denoiser.eval(), Path(out) / "denoiser", meta={**facts, "training": asdict(config)})
    return denoiser
