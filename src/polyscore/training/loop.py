"""The training loop: one objective, one module, AdamW, a moving average, checkpoints that survive SIGKILL.

One process and many (`polyscore.processes` says how to start them) take the same steps: each process computes the gradient
on its slice of the global batch, and slices are averaged with their sizes as weights. Accelerate gives devices and processes.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from polyscore.errors import PolyscoreError
from polyscore.processes import this_process
from polyscore.training.config import TrainConfig
from polyscore.training.draws import Draw, mix
from polyscore.training.scalars import as_sums
from polyscore.training.signals import StopRequest, TrainingInterruptedError
from polyscore.training.state import Folder, TrainState

__all__ = ["Objective", "TrainResult", "fit"]

M = TypeVar("M", bound=nn.Module)
Objective = Callable[[Any, Any, Draw], Tensor | Mapping[str, Any]]


@dataclass(frozen=True)
class TrainResult(Generic[M]):
    """A trained module in evaluation mode, and how it went: steps in all, step resumed from, mean last losses, seconds in all."""

    module: M
    steps: int
    resumed: int
    scalars: dict[str, float]
    seconds: float


def fit(
    module: M,
    batches: Callable[[Draw], Any],
    loss: Objective,
    config: TrainConfig,
    *,
    out: str | os.PathLike[str],
    resume: bool = True,
    progress: bool = True,
    average: bool = True,
    facts: Mapping[str, Any] | None = None,
    review: Callable[[int, M], bool] | None = None,
) -> TrainResult[M]:
    """Minimise `loss(module, batches(draw), draw)` over the module's trainable parameters.

    Args:
        module: trained in place and returned in evaluation mode. With many processes, process 0's weights count.
        batches: gives this process's part of a step's batch from a `Draw` (`Samples`, `Pairs`, or any function).
        loss: gives a *mean over the samples* of the batch, or `{"loss": mean, name: mean or (sum, count), ...}`; the rest is logged.
            The modules of its `parts()`, if it has that, are parts of the module while it trains, so a run resumes with what they learned.
        config: how.
        out: folder of checkpoints and log; many processes share it.
        resume: continue from the checkpoint in `out` if there is one; otherwise start over.
        progress: show a bar (main process, on a terminal).
        average: return the moving average of the weights.
        facts: more that must be the same when a run resumes (objective's settings, data hash), JSON.
        review: called as review(step, module with averaged weights) at every checkpoint; True ends the run early.

    Raises:
        PolyscoreError: another configuration than the checkpoint's, a loss that is not finite, a file that cannot be written.
        CheckpointError: a damaged checkpoint, or one of another module.
        TrainingInterruptedError: Ctrl-C or SIGTERM; the state is saved.
    """
    with _parts(module, loss):
        return _fit(
            module, batches, loss, config, Folder(out, _identity(module, batches, config, facts or {})), resume, progress, average, review
        )


def _fit(
    module: M,
    batches: Callable[[Draw], Any],
    loss: Objective,
    config: TrainConfig,
    folder: Folder,
    resume: bool,
    progress: bool,
    average: bool,
    review: Callable[[int, M], bool] | None,
) -> TrainResult[M]:
    trainer = _Trainer(module, batches, loss, config, folder)
    resumed = trainer.open(resume)
    gpus = [trainer.device] if trainer.device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus), StopRequest(impatient=trainer.processes == 1) as stop, _bar(trainer, progress) as bar:
        module.train()
        trainer.run(stop, bar, review)
    if average:
        trainer.state.use_average()
    module.eval()
    return TrainResult(module, trainer.state.step, resumed, dict(trainer.state.scalars), trainer.state.seconds)


@contextlib.contextmanager
def _parts(module: nn.Module, loss: Objective) -> Iterator[None]:
    """The objective's own modules as parts of the trained one, for as long as it trains."""
    found: Mapping[str, nn.Module] = getattr(loss, "parts", dict)()
    for name, part in found.items():
        module.add_module(name, part)
    try:
        yield
    finally:
        for name in found:
            delattr(module, name)


def _identity(module: nn.Module, batches: object, config: TrainConfig, facts: Mapping[str, Any]) -> dict[str, Any]:
    size = len(batches) if isinstance(batches, Sized) else None
    return {"module": type(module).__name__, "samples": size, **config.fixed(), **facts}


class _Trainer:
    """The loop's parts: what to do at a step, and when to log and save."""

    def __init__(self, module: nn.Module, batches: Callable[[Draw], Any], loss: Objective, config: TrainConfig, folder: Folder) -> None:
        process = this_process()
        self.device, self.rank, self.processes = process.device, process.process_index, process.num_processes
        self.module, self.batches, self.loss, self.config, self.folder = module, batches, loss, config, folder
        self.state = TrainState(
            module.to(self.device), lr=config.lr, beta2=config.beta2, weight_decay=config.weight_decay, decay=config.ema
        )

    def open(self, resume: bool) -> int:
        """Load the checkpoint, or start over; returns the step to go on from."""
        found = resume and self.folder.load(self.state)
        if self.state.step > self.config.steps:
            raise PolyscoreError(f"{self.folder.path}: steps: expected {self.state.step} or more (done before), found {self.config.steps}")
        if not found:
            self._share_weights()
        if self.rank == 0:
            self.folder.cut_log(self.state.step) if found else self.folder.clear()
        return self.state.step

    def run(
        self, stop: StopRequest, bar: Callable[[int, Mapping[str, float]], None], review: Callable[[int, Any], bool] | None = None
    ) -> None:
        """Train to the end, to a review that ends it, or until asked to stop, which is agreed on by all processes at each step."""
        began = time.monotonic() - self.state.seconds
        bar(self.state.step, {})
        while self.state.step < self.config.steps:
            stopping = self.step(stop)
            self.state.seconds = time.monotonic() - began
            done = self.state.step == self.config.steps
            if self.state.step % self.config.log_every == 0 or done:
                self.log()
            if self.state.step % self.config.checkpoint_every == 0 or done or stopping:
                self.save()
                if review is not None and not stopping and self._reviewed(review):
                    return
            bar(self.state.step, self.state.scalars)
            if stopping and not done:
                where = f"{self.folder.path}: training stopped after step {self.state.step} of {self.config.steps}"
                raise TrainingInterruptedError(f"{where} and was saved; run the same command again to resume")

    def _reviewed(self, review: Callable[[int, Any], bool]) -> bool:
        """Show the averaged weights to a reviewer, and put the raw ones back."""
        raw = [p.detach().clone() for p in self.state.parameters.values()]
        self.state.use_average()
        self.module.eval()
        done = review(self.state.step, self.module)
        self.module.train()
        with torch.no_grad():
            for parameter, value in zip(self.state.parameters.values(), raw, strict=True):
                parameter.copy_(value)
        return done

    def step(self, stop: StopRequest) -> bool:
        """One optimiser step; True when any process was asked to stop."""
        config, number = self.config, self.state.step
        draw = Draw(config.seed, number, config.batch_size, self.rank, self.processes, self.device)
        _seed(self.device, mix(config.seed, 2, number, self.rank))  # for dropout and the like
        loss, sums = self._objective(draw)
        self.state.optimizer.zero_grad()
        (loss * (len(draw) / config.batch_size)).backward()
        gradients = [_gradient(p) for p in self.state.parameters.values()]
        scalars = torch.stack([*sums.values(), torch.tensor([float(stop.asked), 0.0], device=self.device)])
        self._sum([*gradients, scalars])
        norm = nn.utils.clip_grad_norm_(self.state.parameters.values(), config.clip or math.inf)
        values = torch.cat([scalars.flatten(), norm.float().reshape(1)]).tolist()
        pairs = dict(zip(sums, zip(values[0::2], values[1::2], strict=False), strict=False))
        self._require_finite(number, pairs["loss"][0] / config.batch_size, values[-1])
        self.state.window.add(pairs)
        self.state.update(config.rate(number))
        return bool(values[-3] > 0)

    def _objective(self, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        from accelerate.utils import send_to_device

        batch = send_to_device(self.batches(draw), self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            return as_sums(self.loss(self.module, batch, draw), len(draw))

    def _require_finite(self, number: int, loss: float, norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        kept = "the checkpoint before is kept" if self.folder.latest.exists() else "no checkpoint was written yet"
        raise PolyscoreError(f"{self.folder.path}: step {number + 1}: loss {loss}, gradient norm {norm}: expected finite numbers ({kept})")

    def log(self) -> None:
        """Write the means since the last line."""
        self.state.scalars = self.state.window.means()
        self.state.window.sums = {}
        if self.rank == 0:
            step = self.state.step
            self.folder.write_log(
                {"step": step, **self.state.scalars, "lr": self.config.rate(step - 1), "seconds": round(self.state.seconds, 3)}
            )

    def save(self) -> None:
        """The main process saves; if it cannot, all processes stop."""
        failure: PolyscoreError | None = None
        if self.rank == 0:
            try:
                self.folder.save(self.state)
            except PolyscoreError as error:
                failure = error
        failed = torch.tensor([float(failure is not None)], device=self.device)
        self._sum([failed])
        if failed.item():
            raise failure or PolyscoreError(f"{self.folder.path}: the main process could not save")

    def _sum(self, tensors: list[Tensor]) -> None:
        """Sum over processes, in place, in one message."""
        if self.processes == 1:
            return
        from accelerate.utils import reduce

        flat: Any = reduce(torch.cat([t.reshape(-1) for t in tensors]), "sum")
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def _share_weights(self) -> None:
        if self.processes > 1:
            from accelerate.utils import broadcast

            with torch.no_grad():
                for value in [*self.module.parameters(), *self.module.buffers(), *self.state.average]:
                    value.copy_(broadcast(value.detach().clone()))  # type: ignore[arg-type]


def _seed(device: torch.device, seed: int) -> None:
    """Seed torch for a step. On CPUs its own generator only: `torch.manual_seed` also queues a call, with a traceback, for absent GPUs."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _gradient(parameter: Tensor) -> Tensor:
    """The parameter's gradient; zeros if the objective did not touch it."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _bar(trainer: _Trainer, wanted: bool) -> AbstractContextManager[Callable[[int, Mapping[str, float]], None]]:
    from polyscore.training.bar import progress_bar

    name = Path(trainer.folder.path).name
    return progress_bar(name, trainer.config.steps, wanted and trainer.rank == 0)
