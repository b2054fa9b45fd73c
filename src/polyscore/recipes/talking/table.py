"""What talking digits measures: agreement of the digit, error of the instant, fidelity of each modality, time of the guidance."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyscore.codecs import VAE
from polyscore.data.talking import FPS, Domain, talking_clips
from polyscore.denoisers import Denoiser
from polyscore.guided import Guided
from polyscore.metrics.frechet import frechet_distance
from polyscore.metrics.judges import Judge, predict
from polyscore.recipes.tables import Measured, write_table
from polyscore.recipes.talking.codecs import MODALITIES, load_parts, mel, train_part
from polyscore.recipes.talking.experts import (
    BASE_TRAINING,
    DOMAINS,
    RATIO_TRAINING,
    TalkingSize,
    joint_base,
    load_bases,
    train_bases,
    train_talking_ratio,
)
from polyscore.sampling import sample
from polyscore.training import TrainConfig

__all__ = ["SCALES", "Scorer", "prepare", "run_talking", "sound_onset", "video_onset"]

SCALES = (0.5, 2.0, 3.0, 4.0)
LOSSES = {"disc": (1.0, 0.0), "denoise": (0.0, 1.0), "all": (1.0, 1.0)}
SHORT = {"window": (0.0, 0.7), "every": 2}


def video_onset(video: Tensor) -> Tensor:
    """Instants (B,) in seconds of videos (B, 16, 28, 28): the first frame whose change from the one before exceeds half the largest."""
    change = (video[:, 1:] - video[:, :-1]).abs().flatten(2).sum(2)
    return ((change > 0.5 * change.amax(1, keepdim=True)).float().argmax(1) + 1).double() / FPS


def sound_onset(spectrogram: Tensor, front: Any) -> Tensor:
    """Instants (B,) in seconds of log-mel spectrograms (B, bands, frames): the first frame louder than a tenth of the loudest."""
    level = ((spectrogram * front.std + front.mean).exp() - front.floor).clamp(min=0).sum(1)
    first = (level > 0.1 * level.amax(1, keepdim=True)).float().argmax(1)
    return first.double() * front.hop / front.rate


class Scorer:
    """Decodes latents and compares them with real test pairs of a domain, on the judges' features.

    Args:
        codecs, judges: of each modality. domain: of the reference. n: reference pairs.
    """

    def __init__(
        self, codecs: Mapping[str, VAE], judges: Mapping[str, Judge], domain: Domain, n: int = 1000, data: str | None = None
    ) -> None:
        self.codecs, self.judges, self.front = codecs, judges, mel()
        real = talking_clips(n, domain, 77, "test", data)
        self.real = {"video": real.video, "sound": torch.cat([self.front.encode(part) for part in real.sound.split(250)])}
        self.reference = {name: predict(judges[name], value)[1] for name, value in self.real.items()}

    @torch.no_grad()
    def __call__(self, latents: Mapping[str, Tensor]) -> dict[str, float]:
        """Agreement, median onset error in ms, Frechet distances of latents {modality: (n, latent)}."""
        return self.score({name: torch.cat([self.codecs[name].decode(part) for part in latents[name].split(250)]) for name in MODALITIES})

    def score(self, data: Mapping[str, Tensor]) -> dict[str, float]:
        """The same of decoded videos and spectrograms."""
        seen = {name: predict(self.judges[name], data[name]) for name in MODALITIES}
        error = (video_onset(data["video"]) - sound_onset(data["sound"], self.front)).abs() * 1000
        agreement = float((seen["video"][0] == seen["sound"][0]).double().mean())
        distances = {f"{name} frechet": frechet_distance(seen[name][1], self.reference[name]) for name in MODALITIES}
        return {"agreement": agreement, "onset error ms": float(error.median()), **distances}


def prepare(out: str, size: TalkingSize, config: TrainConfig = BASE_TRAINING, data: str | None = None) -> None:
    """Train the judges, the codecs and the base models that `out` does not hold yet."""
    for name in MODALITIES:
        for part, file in (("judge", f"judge-{name}.json"), ("codec", f"{name}.json")):
            if not (Path(out) / file).exists():
                train_part(part, name, out, data)  # type: ignore[arg-type]
    if not (Path(out) / "base-joint.json").exists():
        train_bases(out, size, config, data)


def run_talking(
    out: str = "runs/talking",
    table: str = "benchmarks/results/mmdisco-talking.json",
    seeds: Sequence[int] = (0, 1, 2),
    n: int = 500,
    size: TalkingSize | None = None,
    training: TrainConfig = RATIO_TRAINING,
    data: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    reference: int = 1000,
) -> list[Measured]:
    """Train the ratios of all cases, measure them, write the table. `out` holds codecs, judges and base models (`prepare`).

    Args:
        n: samples a case and seed. reference: real test pairs.
    """
    size, began = size or TalkingSize(), time.perf_counter()
    codecs, judges = load_parts(out)
    scorers = {name: Scorer(codecs, judges, domain, reference, data) for name, domain in DOMAINS.items()}
    found: dict[str, list[dict[str, float]]] = {}
    for done, seed in enumerate(seeds):
        for case, numbers in _seed(out, scorers, seed, n, size, training, data).items():
            found.setdefault(case, []).append(numbers)
        if progress is not None:
            progress(done + 1, len(seeds))
    rows = [
        Measured(f"{case}: {name}", [run[name] for run in runs], *_reach(case, name, found))
        for case, runs in found.items()
        for name in runs[0]
    ]
    protocol = {
        "command": "polyscore recipe mmdisco-talking",
        "n": n,
        "seeds": list(seeds),
        "preset": {"size": asdict(size), "training": asdict(training), "lambda": 1.0},
        "sampler": f"dpmpp, {size.steps} steps",
        "data": "MNIST and FSDD, official splits: training of everything on train, references on test clips of the domain",
        "reference pairs": reference,
        "judges": "own classifiers of videos and of log-mel spectrograms (before the vocoder); Frechet distances on their 64 features",
        "seconds": round(time.perf_counter() - began, 1),
    }
    write_table(table, rows, protocol)
    return rows


def _seed(
    out: str, scorers: Mapping[str, Scorer], seed: int, n: int, size: TalkingSize, training: TrainConfig, data: str | None
) -> dict[str, dict[str, float]]:
    """All cases of one seed."""
    bases, joint = load_bases(out), joint_base(out)

    def measure(denoiser: Denoiser, domain: str = "IND") -> dict[str, float]:
        made = sample(denoiser, n, steps=size.steps, seed=seed)
        return {**scorers[domain](made), "seconds": made.info["seconds"]}

    def ratio(case: str, base: Denoiser, domain: str, loss: str) -> Any:
        return train_talking_ratio(out, case, base, DOMAINS[domain], LOSSES[loss], size, seed, training, data, progress=False)

    measure(bases)  # the first run is slower
    found = {"real pairs": {**scorers["IND"].score(scorers["IND"].real), "seconds": 0.0}, "base": measure(bases)}
    for loss in LOSSES:
        learned = ratio(f"ind-{loss}", bases, "IND", loss)
        found[loss] = measure(Guided(bases, learned))
    for scale in SCALES:
        found[f"all, scale {scale:g}"] = measure(Guided(bases, learned, scale))
    found["all, every 2nd step below t = 0.7"] = measure(Guided(bases, learned, **SHORT))  # type: ignore[arg-type]
    found["OOD base"] = measure(bases, "OOD")
    found["OOD all"] = measure(Guided(bases, ratio("ood-all", bases, "OOD", "all")), "OOD")
    found["one joint base"] = measure(joint)
    found["one joint base, guided"] = measure(Guided(joint, ratio("joint-all", joint, "IND", "all")))
    for case in ("all", "all, every 2nd step below t = 0.7"):
        found[case]["time over base"] = found[case]["seconds"] / found["base"]["seconds"] - 1
    return found


def _reach(case: str, name: str, found: Mapping[str, Sequence[Mapping[str, float]]]) -> tuple[tuple[str, float] | None, str]:
    """The number to reach, and what it is compared with."""
    if case == "all" and name == "agreement":
        return (">=", 0.85), "chance: .10"
    if case == "all" and name == "onset error ms":
        return ("<=", 1000 / FPS), "one video frame"
    if case == "all" and name.endswith("frechet"):
        base = sum(run[name] for run in found["base"]) / len(found["base"])
        return ("<=", base), "the base's"
    if name == "time over base":
        return ("<=", 0.15 if case == "all" else 0.06), "paper .10 to .22"
    return None, ""
