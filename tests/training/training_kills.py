"""Kill training with SIGKILL again and again, resume it, compare: `python training_kills.py FOLDER` prints {scenario: outcome}.

Every run is a forked process of its own (so that the slow imports happen once).
Scenarios: at random moments, and at chosen file operations of a checkpoint.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import accelerate.utils
import rich.progress
import torch
import torch._dynamo
import torch.optim.swa_utils
from training_tiny import run

from polyscore.checkpoint import load_tensors, save_tensors

LOADED = (accelerate.utils, rich.progress, torch._dynamo, torch.optim.swa_utils)
FIELDS = {"steps": 120, "checkpoint_every": 4}


def train(out: Path, result: Path) -> None:
    save_tensors(run(out, **FIELDS).module.state_dict(), result)


def fork(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return pid


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def deadly(operation: str, count: int, when: str) -> None:
    """Make the `count`-th call of a Path method kill this process: before it, after it, or in its middle (half the bytes)."""
    original = getattr(Path, operation)
    calls = [0]

    def wrapped(self, *args, **kwargs):
        calls[0] += 1
        if calls[0] != count:
            return original(self, *args, **kwargs)
        if when == "middle":
            original(self, args[0][: len(args[0]) // 2], **kwargs)
        elif when == "after":
            original(self, *args, **kwargs)
        return die()

    setattr(Path, operation, wrapped)


def same(result: Path, reference: dict[str, torch.Tensor]) -> bool:
    found = load_tensors(result)
    return found.keys() == reference.keys() and all(torch.equal(found[k], reference[k]) for k in reference)


def at_operation(folder: Path, reference: dict[str, torch.Tensor], operation: str, count: int, when: str) -> str:
    out, result = folder / "run", folder / "result.safetensors"

    def doomed() -> None:
        deadly(operation, count, when)
        train(out, result)

    _, status = os.waitpid(fork(doomed), 0)
    if not os.WIFSIGNALED(status):
        return "was not killed"
    _, status = os.waitpid(fork(lambda: train(out, result)), 0)
    files = sorted(p.name for p in out.iterdir())
    if status or files != ["latest.json", "log.jsonl", "step-00000120.safetensors"]:
        return f"status {status}, files {files}"
    return "same" if same(result, reference) else "different"


def at_random(folder: Path, reference: dict[str, torch.Tensor], seed: int, seconds: float) -> str:
    out, result, rng, kills = folder / "run", folder / "result.safetensors", random.Random(seed), 0
    while True:
        pid = fork(lambda: train(out, result))
        time.sleep(rng.uniform(0.05, 0.5) * seconds)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            break
        kills += 1
    if not status and kills < 2 and seconds > 0.01:  # the machine was busier while the run was timed: kill earlier
        return at_random(folder / "again", reference, seed, seconds / 3)
    if status or kills < 2:
        return f"status {status} after {kills} kills"
    return "same" if same(result, reference) else f"different after {kills} kills"


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    began = time.monotonic()
    os.waitpid(fork(lambda: train(folder / "whole", folder / "whole.safetensors")), 0)
    seconds = time.monotonic() - began
    reference = load_tensors(folder / "whole.safetensors")
    # write_bytes: one per checkpoint. replace: the log's first, then two per checkpoint. unlink: three per checkpoint or so.
    points = [("write_bytes", n, when) for n in (1, 9) for when in ("before", "middle", "after")]
    points += [("replace", n, when) for n in (1, 2, 3, 4, 5) for when in ("before", "after")]
    points += [("unlink", n, "before") for n in (4, 5, 6, 7, 8)]
    outcomes = {}
    for i, point in enumerate(points):
        outcomes[" ".join(map(str, point))] = at_operation(folder / f"point{i}", reference, *point)
    for seed in range(2):
        outcomes[f"random {seed}"] = at_random(folder / f"random{seed}", reference, seed, seconds)
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
