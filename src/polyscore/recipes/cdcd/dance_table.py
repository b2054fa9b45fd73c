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

from polyscore.checkpoint import read_json
from polyscore.data.dance import RATE
from polyscore.errors import PolyscoreError
from polyscore.metrics.beats import beats_score, click_track, onset_f_measure, onsets, seconds_with_onsets, white_noise
from polyscore.metrics.judges import Judge, mean_accuracy
from polyscore.networks.motion import DanceDenoiser
from polyscore.recipes.cdcd.dance import DANCE_SETTINGS, PLAIN, DanceSweep, DanceTraining, Studio, load_denoiser, prepare, train_dance
from polyscore.recipes.cdcd.dance_data import DanceSet
from polyscore.recipes.tables import Measured, command_of, write_table
from polyscore.sampling import sample
from polyscore.training.contrast import TokenObjective

__all__ = ["DanceTable", "make_music", "score"]

SECONDS = 2.0
WINDOW = 0.07
JUDGED = {"accuracy": "test_accuracy", "accuracy through the codec": "through_codec"}
MEASURES = ("onset F", "coverage", "hit", "genre")
DANCES = "35 clean dances (30 waltzes, 9 rumbas and 5 cha-chas less those of unsure tempo); the last 30 % of each, cut to 2 s"
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


def heard(waves: Tensor, seconds: float = SECONDS) -> list[np.ndarray]:
    """Onsets of every clip's first seconds."""
    return [onsets(wave[: int(seconds * RATE)].double().numpy(), RATE) for wave in waves]


def score(real: Sequence[np.ndarray], made: Sequence[np.ndarray], seconds: float = SECONDS) -> dict[str, float]:
    """Coverage and hit as published, and the mean onset F-measure within 70 ms over clips that have an onset."""
    bins = [[seconds_with_onsets(t, seconds).tolist() for t in clips] for clips in (real, made)]
    found = beats_score(*bins)
    each = [onset_f_measure(r, m, WINDOW) for r, m in zip(real, made, strict=True) if len(r)]
    return {"onset F": float(np.mean(each)), "coverage": found.coverage, "hit": found.hit}


@dataclass
class DanceTable:
    """Trains what is missing in `folder`, measures every setting and baseline for every seed, and writes the table `out`.

    All settings of all seeds continue one vanilla model for as many steps; a seed is that of a continuation and of its sampling.
    `most`: test clips of a genre. `draws`: pieces of music for every clip, whose mean scores count. `visual`: the networks see pictures of
    the dancer as well. `dataset`: see `load_parts`.

    `sweep`: its settings are measured on the seed `held`, each as the mean over its seeds of sampling; the one with the highest onset
    F-measure, to two digits, and among these with the coverage nearest to 1, is what "step-intra" is for the `seeds`.
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
    dataset: DanceSet = "dances"
    sweep: DanceSweep | None = None
    held: int = 7
    draws: int = 3

    def run(self) -> list[Measured]:
        """All of it.

        Raises:
            PolyscoreError: the held seed is among the seeds; models that see pictures of the dancer and should not, or the other way round.
        """
        began = time.perf_counter()
        if self.sweep is not None and self.held in self.seeds:
            raise PolyscoreError(f"held seed {self.held}: expected another than the seeds {list(self.seeds)}")
        self.studio = prepare(self.folder, self.data, self.training, False, self.visual, self.dataset)
        self.clips, self.seconds = self._clips(), self.studio.parts.seconds
        self.waves, self.labels = self.studio.test.waves[self.clips], self.studio.test.labels[self.clips]
        self.real = heard(self.waves, self.seconds)
        self.settings = {k: v for k, v in DANCE_SETTINGS.items() if self.studio.judge is not None or v.inter == "none"}
        self.places = {name: name for name in self.settings}
        trials = {"vanilla": PLAIN, **self.sweep.settings()} if self.sweep is not None else {}
        self.done, self.total = 0, len(trials) + len(self.seeds)
        trying = {name: self._trial(name, objective) for name, objective in trials.items()}
        self.chosen = min((name for name in trying if name != "vanilla"), key=lambda name: _rank(trying[name]), default=None)
        if self.chosen is not None and trials[self.chosen] != self.settings["step-intra"]:
            self.settings["step-intra"], self.places["step-intra"] = trials[self.chosen], _slug(self.chosen)
        runs: dict[str, list[dict[str, float]]] = {}
        for seed in self.seeds:
            for name, found in self._seed(seed).items():
                runs.setdefault(name, []).append(found)
            self._tick()
        rows = self.rows(runs)
        rows += [Measured(f"held seed, {name}: {what}", [value]) for name, found in trying.items() for what, value in found.items()]
        write_table(self.out, rows, self._protocol(began))
        return rows

    def _tick(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)

    def _trial(self, name: str, objective: TokenObjective) -> dict[str, float]:
        """One setting on the held seed: means over several seeds of sampling."""
        assert self.sweep is not None
        found = self._made(self._model(self.held, _slug(name), objective), self.sweep.samplings)
        self._tick()
        return found

    def _made(self, denoiser: DanceDenoiser, samplings: Sequence[int]) -> dict[str, float]:
        """Scores of music that a denoiser makes, means over seeds of sampling."""
        found = [self._score(make_music(self.studio, denoiser, self.clips, self.steps, seed)) for seed in samplings]
        return {what: float(np.mean([one[what] for one in found])) for what in found[0]}

    def _clips(self) -> Tensor:
        """Test clips, `most` of each genre at most, evenly over it."""
        groups = [(self.studio.test.labels == k).nonzero()[:, 0] for k in self.studio.test.labels.unique().tolist()]
        return torch.cat([g[torch.linspace(0, len(g) - 1, min(self.most, len(g))).long()] for g in groups])

    def _seed(self, seed: int) -> dict[str, dict[str, float]]:
        studio, many = self.studio, len(self.clips)
        order = torch.randperm(many, generator=torch.Generator().manual_seed(seed))
        length = self.seconds + 0.1
        noise = torch.stack([torch.from_numpy(white_noise(length, seed * 10_000 + i, RATE)) for i in range(many)])
        clicks = torch.from_numpy(click_track(length, 1.0, RATE))[None]
        found = {"shuffled music": self._score(self.waves[order], [self.real[i] for i in order.tolist()])}
        found["a click a second"] = self._score(clicks.expand(many, -1), heard(clicks, self.seconds) * many)
        if studio.parts.dances:
            found["clicks on the dance's count"] = score(self.real, [self._counts(row) for row in self.clips.tolist()])
        waves = {"white noise": noise}
        if seed == self.seeds[0]:
            with torch.no_grad():
                waves["real music through the codec"] = studio.codec.decode(studio.codec.encode(self.waves))
        found |= {name: self._score(wave) for name, wave in waves.items()}
        samplings = range(seed * self.draws, (seed + 1) * self.draws)
        return found | {name: self._made(self._model(seed, self.places[name], o), samplings) for name, o in self.settings.items()}

    def _score(self, waves: Tensor, times: Sequence[np.ndarray] | None = None) -> dict[str, float]:
        """Onsets, beats and, where there is a judge of it, genre."""
        found = score(self.real, heard(waves, self.seconds) if times is None else times, self.seconds)
        return found if self.studio.judge is None else found | {"genre": self._genre(waves, self.studio.judge)}

    def _counts(self, row: int) -> np.ndarray:
        """Times in a test clip when the dance's own beats fall: what the networks are told of the beat, turned into clicks."""
        dance, start = self.studio.parts.dances[int(self.studio.test.dances[row])], float(self.studio.test.starts[row])
        period = dance.frames_per_beat / dance.fps
        times = np.arange(math.ceil(start / period), math.floor((start + self.seconds) / period) + 1) * period - start
        return cast(np.ndarray, times)

    def _genre(self, waves: Tensor, judge: Judge) -> float:
        """Share of clips that the judge gives the dance's genre, averaged over genres."""
        samples = self.studio.test.waves.shape[1]
        fitted = torch.nn.functional.pad(waves.float(), (0, max(0, samples - waves.shape[1])))[:, :samples]
        return mean_accuracy(judge, fitted, self.labels)

    def _model(self, seed: int, place: str, objective: TokenObjective) -> DanceDenoiser:
        """The denoiser of a seed and setting, trained if it is not there."""
        target, base, size = Path(self.folder) / f"{seed}" / place, Path(self.folder) / "base", self.training.size
        if not (base / "denoiser.json").is_file():
            train_dance(self.studio, str(base), PLAIN, self.training.first, None, False, size)
        if not (target / "denoiser.json").is_file():
            more = replace(self.training.more, seed=seed)
            train_dance(self.studio, str(target), objective, more, str(base / "denoiser"), False, size)
        return load_denoiser(target, self.visual)

    def rows(self, runs: Mapping[str, list[dict[str, float]]]) -> list[Measured]:
        """The claims, then every measure of everything."""
        values = {name: {m: [run[m] for run in found] for m in MEASURES if m in found[0]} for name, found in runs.items()}
        for found in values.values():
            found["coverage off 1"] = [abs(value - 1) for value in found["coverage"]]
        trivial = ("shuffled music", "white noise", "a click a second")
        best = {what: max(float(np.mean(values[name].get(what, 0.0))) for name in trivial) for what in ("onset F", "genre")}
        contrasts = [name for name in ("step-intra", "sample-inter") if name in values]
        contrast = max(contrasts, key=lambda name: float(np.mean(values[name]["onset F"])))
        beating = [(name, "onset F") for name in ("vanilla", contrast)] + [("sample-inter", "genre")]
        claims = [
            Measured(
                f"{measure}, {name} less the best trivial baseline",
                [v - best[measure] for v in values[name][measure]],
                (">=", 0.0),
                f"best trivial: {best[measure]:.3f}",
            )
            for name, measure in beating
            if name in values
        ]
        counted = values.get("clicks on the dance's count")
        if counted is not None:
            less = [a - b for a, b in zip(values[contrast]["onset F"], counted["onset F"], strict=True)]
            told = f"the networks are told the count; clicks on it: {counted['onset F'][0]:.3f}"
            claims.append(Measured(f"onset F, {contrast} less clicks on the dance's count", less, (">=", 0.0), told))
        beats = ("onset F", "coverage", "coverage off 1", "hit")
        pairs = (*(("step-intra", measure) for measure in beats), ("sample-inter", "genre"))
        claims += [
            Measured(
                f"{measure}, {name} less vanilla",
                [a - b for a, b in zip(values[name][measure], values["vanilla"][measure], strict=True)],
                ("<=" if measure.endswith("off 1") else ">=", 0.0),
                PAPER.get(measure.removesuffix(" off 1"), ""),
            )
            for name, measure in pairs
            if name in values
        ]
        return claims + [Measured(f"{name}: {m}", v, None, PAPER.get(m, "")) for name, found in values.items() for m, v in found.items()]

    def _protocol(self, began: float) -> dict[str, Any]:
        metas = {part: read_json(file)["meta"] for part in ("codec", "judge") if (file := Path(self.folder) / f"{part}.json").is_file()}
        options = {"dataset": self.dataset != "dances" and self.dataset, "visual": self.visual and "true", "sweep": self.sweep and "true"}
        held = {"seed": self.held, "chosen": self.chosen, "by": "onset F to two digits, then coverage nearest to 1"}
        return {
            "command": command_of("cdcd-dance", options),
            "data": DANCES if self.dataset == "dances" else f"{self.dataset}: the published test split",
            "n": len(self.clips),
            "per genre": torch.bincount(self.labels).tolist(),
            "music for a clip": self.draws,
            "seeds": list(self.seeds),
            "steps": self.steps,
            "window": WINDOW,
            "codec": metas["codec"]["test"],
            **({"judge": {f"{what}, mean over genres": metas["judge"][key] for what, key in JUDGED.items()}} if "judge" in metas else {}),
            **({"held seed": held | {"sweep": asdict(self.sweep)}} if self.sweep is not None else {}),
            "training": asdict(self.training),
            "seconds": round(time.perf_counter() - began, 1),
        }


def _rank(found: Mapping[str, float]) -> tuple[float, float]:
    return -round(found["onset F"], 2), abs(found["coverage"] - 1)


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-." else "_" for c in name)
