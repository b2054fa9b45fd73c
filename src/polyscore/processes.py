"""One process or many: what Accelerate knows about this process, on CPUs too.

The command line, on GPUs or CPUs: `accelerate launch --num_processes N -m polyscore ...`. Accelerate 1.x starts a single process for
that on CPUs (it leaves the others to MPI); `start_the_others` then starts them through torchrun, over gloo.
A script of one's own: `accelerate launch --num_processes N script.py` on GPUs; on CPUs `torchrun --nproc_per_node N script.py`, or
`accelerate launch --multi_gpu --num_processes N script.py` (the option's name notwithstanding).
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from polyscore.errors import PolyscoreError

if TYPE_CHECKING:
    from accelerate import PartialState

__all__ = ["share", "start_the_others", "this_process"]


def this_process() -> PartialState:
    """Accelerate's `PartialState`: `device`, `process_index`, `num_processes`, `is_main_process`. Joins the other processes.

    Raises:
        PolyscoreError: the launcher started more processes than Accelerate can join.
    """
    from accelerate import PartialState

    started = int(os.environ.get("WORLD_SIZE", "1"))
    state = PartialState(cpu=True) if started > 1 and not _has_accelerator() else PartialState()
    if state.num_processes != started:
        raise PolyscoreError(f"processes: expected {started} (WORLD_SIZE), found {state.num_processes}: they cannot reach each other")
    if started == 1 and _alone():
        warnings.warn("accelerate launch started one process only; for more on CPUs, use torchrun --nproc_per_node N", stacklevel=2)
    return state


def share(value: Any) -> Any:
    """The main process's `value`, in every process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return value
    from accelerate.utils import broadcast_object_list

    this_process()
    return broadcast_object_list([value])[0]


def start_the_others(arguments: Sequence[str]) -> None:
    """Where `accelerate launch` on CPUs started one process of N for `-m polyscore ARGUMENTS`: become N of them, by torchrun.

    N is read from the launcher's own command, this process's parent. Everywhere else this does nothing.
    """
    if not _alone():
        return
    import psutil

    parent = psutil.Process().parent()
    command = " ".join(parent.cmdline()) if parent else ""
    wanted = re.search(r"\blaunch\b.*? --num[_-]processes[= ](\d+)", command)
    if wanted is None or int(wanted[1]) < 2:
        return
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name)
    # "--": torchrun would take --n for one of its own options
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", wanted[1], "-m", "--", "polyscore"]
    os.execv(sys.executable, [*run, *arguments])


def _alone() -> bool:
    """Whether Accelerate's launcher was asked for several processes and started this one only."""
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ and "MASTER_PORT" in os.environ
    return launched and "WORLD_SIZE" not in os.environ and "PMI_SIZE" not in os.environ and "OMPI_COMM_WORLD_SIZE" not in os.environ


def _has_accelerator() -> bool:
    import torch

    names = ("cuda", "xpu", "npu", "mlu", "musa", "hpu")
    return any(getattr(torch, name).is_available() for name in names if hasattr(torch, name))
