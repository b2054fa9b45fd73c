"""The dance-to-music table: beats, onsets and genre of generated music, beside real music and trivial baselines."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from polyscore.checkpoint import load_module, read_json
from polyscore.data.dance import RATE
from polyscore.metrics.beats import beats_score, click_track, onset_f_measure, onsets, seconds_with_onsets, white_noise
from polyscore.metrics.judges import predict
from polyscore.networks.motion import DanceDenoiser
from polyscore.recipes.cdcd.dance import DANCE_SETTINGS, PLAIN, DanceTraining, Studio, prepare, train_dance
from polyscore.recipes.tables import Measured, write_table
from polyscore.sampling import sample

__all__ = ["DanceTable", "make_music", "score"]

SECONDS = 2.0
WINDOW = 0.07
MEASURES = ("onset F", "coverage", "hit", "genre")
PAPER = {
    "coverage": "paper, AIST++: 89.0 vanilla, 93.9 step-intra",
    "hit": "paper: 83.8 vanilla, 90.7 step-intra",
    "genre": "paper: 25.3 % vanilla, 27.2 % sample-inter, of ten",
}
Progress = Callable[[int, int], None]


def make_music(
    studio: Studio, denoiser: DanceDenoiser, rows: Tensor, steps: int = 25, seed: int = 0, token_solver: str = "ancestral"
) -> Tensor:
    """Music for test clips, waves (n, samples)."""
    condition = {name: value[rows] for name, value in studio.features(studio.test).items()} | {"label": studio.test.labels[rows]}
    tokens = sample(denoiser, len(rows), condition=condition, steps=steps, token_solver=token_solver, seed=seed)["music"]
    with torch.no_grad():
        return torch.cat([studio.codec.decode(part) for part in tokens.split(50)])


def heard(waves: Tensor) -> list[np.ndarray]:
    """Onsets of every clip's first two seconds."""
    return [onsets(wave[: int(SECONDS * RATE)].double().numpy(), RATE) for wave in waves]


def score(real: Sequence[np.ndarray], made: Sequence[np.ndarray]) -> dict[str, float]:
    """Coverage and hit as published, and the mean onset F-measure within 70 ms over clips that have an onset."""
    bins = [[seconds_with_onsets(t, SECONDS).tolist() for t in clips] for clips in (real, made)]
    found = beats_score(*bins)
    each = [onset_f_measure(r, m, WINDOW) for r, m in zip(real, made, strict=True) if len(r)]
    return {"onset F": float(np.mean(each)), "coverage": found.coverage, "hit": found.hit}


@dataclass
class DanceTable:
    """Trains what is missing in `folder`, measures every setting and baseline for every seed, and writes the table `out`.

    All settings of all seeds continue one vanilla model for as many steps; a seed is that of a continuation and of its sampling.
    `most`: test clips of a genre. `visual`: the networks see pictures of the dancer as well.
    """

    folder: str = "runs/cdcd-dance"
    out: str = "benchmarks/results/cdcd-dance.json"
    data: str | None = None
    seeds: Sequence[int] = (0, 1, 2)
    steps: int = 25
    most: int = 40
    training: DanceTraining = field(default_factory=DanceTraining)
    progress: Progress | None = None
    visual: bool = False

    def run(self) -> list[Measured]:
        """All of it."""
        began = time.perf_counter()
        self.studio = prepare(self.folder, self.data, self.training, False, self.visual)
        self.clips = self._clips()
        self.waves, self.labels = self.studio.test.waves[self.clips], self.studio.test.labels[self.clips]
        self.real = heard(self.waves)
        runs: dict[str, list[dict[str, float]]] = {}
        for place, seed in enumerate(self.seeds):
            for name, found in self._seed(seed).items():
                runs.setdefault(name, []).append(found)
            if self.progress is not None:
                self.progress(place + 1, len(self.seeds))
        rows = self.rows(runs)
        write_table(self.out, rows, self._protocol(began))
        return rows

    def _clips(self) -> Tensor:
        """Test clips, `most` of each genre at most, evenly over it."""
        groups = [(self.studio.test.labels == k).nonzero()[:, 0] for k in self.studio.test.labels.unique().tolist()]
        return torch.cat([g[torch.linspace(0, len(g) - 1, min(self.most, len(g))).long()] for g in groups])

    def _seed(self, seed: int) -> dict[str, dict[str, float]]:
        studio, many = self.studio, len(self.clips)
        order = torch.randperm(many, generator=torch.Generator().manual_seed(seed))
        shuffled = score(self.real, [self.real[i] for i in order.tolist()])
        noise = torch.stack([torch.from_numpy(white_noise(SECONDS + 0.1, seed * 10_000 + i, RATE)) for i in range(many)])
        clicks = torch.from_numpy(click_track(SECONDS + 0.1, 1.0, RATE))[None]
        found = {"shuffled music": shuffled | {"genre": self._genre(self.waves[order])}}
        found["a click a second"] = score(self.real, heard(clicks) * many) | {"genre": self._genre(clicks.expand(many, -1))}
        found["clicks on the dance's count"] = score(self.real, [self._counts(row) for row in self.clips.tolist()])
        waves = {"white noise": noise}
        if seed == self.seeds[0]:
            with torch.no_grad():
                waves["real music through the codec"] = studio.codec.decode(studio.codec.encode(self.waves))
        for name, denoiser in self._models(seed).items():
            waves[name] = make_music(studio, denoiser, self.clips, self.steps, seed)
        return found | {name: score(self.real, heard(wave)) | {"genre": self._genre(wave)} for name, wave in waves.items()}

    def _counts(self, row: int) -> np.ndarray:
        """Times in a test clip when the dance's own beats fall: what the networks are told of the beat, turned into clicks."""
        dance, start = self.studio.dances[int(self.studio.test.dances[row])], float(self.studio.test.starts[row])
        period = dance.frames_per_beat / dance.fps
        times = np.arange(math.ceil(start / period), math.floor((start + SECONDS) / period) + 1) * period - start
        return cast(np.ndarray, times)

    def _genre(self, waves: Tensor) -> float:
        """Share of clips that the judge gives the dance's genre, averaged over genres."""
        samples = self.studio.test.waves.shape[1]
        fitted = torch.nn.functional.pad(waves.float(), (0, max(0, samples - waves.shape[1])))[:, :samples]
        seen = predict(self.studio.judge, fitted)[0]
        return float(torch.stack([(seen[self.labels == k] == k).double().mean() for k in self.labels.unique().tolist()]).mean())

    def _models(self, seed: int) -> dict[str, DanceDenoiser]:
        place, base = Path(self.folder) / f"{seed}", Path(self.folder) / "base"
        more = replace(self.training.more, seed=seed)
        if not (base / "denoiser.json").is_file():
            train_dance(self.studio, str(base), PLAIN, self.training.first, None, False)
        for name, objective in DANCE_SETTINGS.items():
            if not (place / name / "denoiser.json").is_file():
                train_dance(self.studio, str(place / name), objective, more, str(base / "denoiser"), False)
        return {name: cast(DanceDenoiser, load_module(place / name / "denoiser", DanceDenoiser)) for name in DANCE_SETTINGS}

    def rows(self, runs: Mapping[str, list[dict[str, float]]]) -> list[Measured]:
        """The claims, then every measure of everything."""
        values = {name: {m: [run[m] for run in found] for m in MEASURES if m in found[0]} for name, found in runs.items()}
        for found in values.values():
            found["coverage off 1"] = [abs(value - 1) for value in found["coverage"]]
        trivial = ("shuffled music", "white noise", "a click a second")
        best = {m: max(float(np.mean(values[name][m])) for name in trivial) for m in MEASURES}
        contrast = max(("step-intra", "sample-inter"), key=lambda name: float(np.mean(values[name]["onset F"])))
        claims = [
            Measured(
                f"onset F within 70 ms, {name} less the best trivial baseline",
                [v - best["onset F"] for v in values[name]["onset F"]],
                (">=", 0.0),
                f"best trivial: {best['onset F']:.3f}",
            )
            for name in ("vanilla", contrast)
        ]
        pairs = (("step-intra", "onset F"), ("step-intra", "coverage off 1"), ("step-intra", "hit"), ("sample-inter", "genre"))
        claims += [
            Measured(
                f"{measure}, {name} less vanilla",
                [a - b for a, b in zip(values[name][measure], values["vanilla"][measure], strict=True)],
                ("<=" if measure.endswith("off 1") else ">=", 0.0),
                PAPER.get(measure.removesuffix(" off 1"), ""),
            )
            for name, measure in pairs
        ]
        return claims + [Measured(f"{name}: {m}", v, None, PAPER.get(m, "")) for name, found in values.items() for m, v in found.items()]

    def _protocol(self, began: float) -> dict[str, Any]:
        codec, judge = (read_json(Path(self.folder) / f"{part}.json")["meta"] for part in ("codec", "judge"))
        return {
            "command": "polyscore evaluate cdcd-dance" + (" --visual true" if self.visual else ""),
            "data": "35 clean dances (30 waltzes, 9 rumbas and 5 cha-chas less those of unsure tempo); the last 30 % of each, cut to 2 s",
            "n": len(self.clips),
            "per genre": torch.bincount(self.labels).tolist(),
            "seeds": list(self.seeds),
            "steps": self.steps,
            "window": WINDOW,
            "codec": codec["test"],
            "judge": {"accuracy, mean over genres": judge["test_accuracy"]},
            "training": asdict(self.training),
            "seconds": round(time.perf_counter() - began, 1),
        }
