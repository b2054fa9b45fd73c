"""The state of a training run on disk: safetensors and JSON, always one complete checkpoint.

`step-XXXXXXXX.safetensors` holds weights, their moving average and the optimiser's moments. `latest.json` names it, with its
SHA-256, the step and the configuration. A checkpoint counts from the moment `latest.json` is renamed into place; the older
tensor file is deleted after that. So whenever a run is killed, one checkpoint is whole.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polyscore.checkpoint import load_state, load_tensors, read_json, save_tensors
from polyscore.errors import CheckpointError, PolyscoreError
from polyscore.files import write_text
from polyscore.training.scalars import Window

__all__ = ["Folder", "TrainState"]

FORMAT = 1
MOMENTS = ("exp_avg", "exp_avg_sq")


class TrainState:
    """Everything that a step changes: weights, moving average, AdamW moments, step, seconds, the
    sums since the last log line and that line's means.

    The average follows a <- d a + (1 - d) w with d = min(decay, (1 + n) / (10 + n)) at step n, so early weights are forgotten.
    Weight decay acts on matrices and kernels, not on biases and gains (parameters with fewer than two dimensions).
    """

    def __init__(self, module: nn.Module, *, lr: float, beta2: float, weight_decay: float, decay: float) -> None:
        self.module = module
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise PolyscoreError(f"{type(module).__name__}: expected at least one trainable parameter, found none")
        values = list(self.parameters.values())
        groups = [
            {"params": [p for p in values if p.ndim >= 2], "weight_decay": weight_decay},
            {"params": [p for p in values if p.ndim < 2], "weight_decay": 0.0},
        ]
        fused = values[0].device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=(0.9, beta2), fused=fused)
        self.average = [p.detach().clone() for p in values]
        self.decay = decay
        self.step = 0
        self.seconds = 0.0
        self.window = Window()
        self.scalars: dict[str, float] = {}

    def update(self, lr: float) -> None:
        """One AdamW step at rate `lr` on the gradients in place, then the moving average."""
        from torch.optim.swa_utils import get_ema_multi_avg_fn

        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        get_ema_multi_avg_fn(decay)(self.average, list(self.parameters.values()), self.step)
        self.step += 1

    def use_average(self) -> None:
        """Put the averaged weights into the module."""
        with torch.no_grad():
            for parameter, value in zip(self.parameters.values(), self.average, strict=True):
                parameter.copy_(value)

    def tensors(self) -> dict[str, Tensor]:
        """Copies of all tensors, on the CPU, by name."""
        found = {f"module.{name}": value for name, value in self.module.state_dict().items()}
        for (name, parameter), average in zip(self.parameters.items(), self.average, strict=True):
            found[f"average.{name}"] = average
            for moment in MOMENTS:
                found[f"{moment}.{name}"] = self.optimizer.state[parameter][moment]
        return {name: value.detach().cpu().clone() for name, value in found.items()}

    def restore(self, tensors: Mapping[str, Tensor], step: int, source: object) -> None:
        """Take over what `tensors` returned at `step`.

        Raises:
            CheckpointError: a tensor is missing, unknown or of another shape.
        """
        weights = {name.removeprefix("module."): v for name, v in tensors.items() if name.startswith("module.")}
        load_state(self.module, weights, source)
        if unknown := sorted(set(tensors) - {f"module.{name}" for name in weights} - set(self._slots())):
            raise CheckpointError(f"{source}: unknown tensor {unknown[0]!r} ({len(unknown)} in all)")
        self.average = [_take(tensors, f"average.{name}", p, source) for name, p in self.parameters.items()]
        for name, parameter in self.parameters.items():
            state: dict[str, Tensor] = {moment: _take(tensors, f"{moment}.{name}", parameter, source) for moment in MOMENTS}
            counter = parameter.device if self.optimizer.defaults["fused"] else "cpu"
            self.optimizer.state[parameter] = {"step": torch.tensor(float(step), device=counter), **state}
        self.step = step

    def _slots(self) -> Iterator[str]:
        return (f"{kind}.{name}" for kind in ("average", *MOMENTS) for name in self.parameters)


def _take(tensors: Mapping[str, Tensor], name: str, like: Tensor, source: object) -> Tensor:
    if name not in tensors or tensors[name].shape != like.shape:
        found = tuple(tensors[name].shape) if name in tensors else "nothing"
        raise CheckpointError(f"{source}: tensor {name!r}: expected shape {tuple(like.shape)}, found {found}")
    return torch.empty_like(like).detach().copy_(tensors[name])  # in the parameter's memory format: fused AdamW takes it for granted


class Folder:
    """A run's folder: the checkpoint (`latest.json`, `step-*.safetensors`) and the log (`log.jsonl`).

    Args:
        path: the folder; made when the first file is written.
        identity: what must be the same when the run resumes (configuration, data size, ...), by name, as JSON.
    """

    def __init__(self, path: str | os.PathLike[str], identity: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.latest = self.path / "latest.json"
        self.log = self.path / "log.jsonl"
        self.identity = json.loads(json.dumps(dict(identity)))

    def save(self, state: TrainState) -> None:
        """Write a checkpoint, then delete the one before and what killed runs left.

        Raises:
            PolyscoreError: a file cannot be written; the checkpoint before is untouched.
        """
        name = f"step-{state.step:08d}.safetensors"
        digest = save_tensors(state.tensors(), self.path / name)
        header = {"format": FORMAT, "step": state.step, "seconds": state.seconds, "window": state.window.sums}
        header |= {"scalars": state.scalars, "file": name, "sha256": digest, "identity": self.identity}
        try:
            write_text(self.latest, json.dumps(header, indent=1) + "\n")
        except PolyscoreError:
            (self.path / name).unlink(missing_ok=True)
            raise
        self._sweep(keep=name)

    def load(self, state: TrainState) -> bool:
        """Restore the last checkpoint into `state`; False when there is none.

        Raises:
            CheckpointError: the checkpoint is damaged or belongs to another module.
            PolyscoreError: it was trained with another configuration.
        """
        if not self.latest.exists():
            return False
        header = read_json(self.latest)
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise CheckpointError(f"{self.latest}: not a training checkpoint (expected format {FORMAT})")
        try:
            file, digest, step = str(header["file"]), str(header["sha256"]), int(header["step"])
            seconds, identity = float(header["seconds"]), dict(header["identity"])
            sums, scalars = dict(header["window"]), dict(header["scalars"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{self.latest}: damaged ({type(error).__name__}: {error})") from error
        self._compare(identity)
        state.restore(load_tensors(self.path / Path(file).name, sha256=digest), step, self.path / file)
        state.seconds, state.window.sums, state.scalars = seconds, sums, scalars
        return True

    def _compare(self, before: Mapping[str, Any]) -> None:
        for name in [*self.identity, *(set(before) - set(self.identity))]:
            old, new = before.get(name), self.identity.get(name)
            if old != new:
                fix = "give it the old value, another folder, or start over with resume=False"
                raise PolyscoreError(f"{self.path}: cannot resume: {name}: expected {old!r} as before, found {new!r} ({fix})")

    def clear(self) -> None:
        """Forget the checkpoint and empty the log; shows before the first step whether the folder can be written."""
        write_text(self.log, "")
        self.latest.unlink(missing_ok=True)
        self._sweep(keep="")

    def _sweep(self, keep: str) -> None:
        for pattern in ("step-*.safetensors", ".step-*.safetensors", ".latest-*.json", ".log-*.jsonl"):
            for path in self.path.glob(pattern):
                if path.name != keep:
                    path.unlink(missing_ok=True)

    def write_log(self, entry: Mapping[str, Any]) -> None:
        """Append one line to the log; numbers that are not finite become null."""
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in entry.items()}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(finite) + "\n")
        except OSError as error:
            raise PolyscoreError(f"cannot write {self.log}: {error.strerror or error}") from error

    def cut_log(self, step: int) -> None:
        """Drop log lines after `step`, and a half-written last one."""
        if self.log.exists():
            kept = [line for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines() if _log_step(line) <= step]
            write_text(self.log, "".join(line + "\n" for line in kept))


def _log_step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
