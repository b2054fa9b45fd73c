"""One process or many: what Accelerate knows about this process, on CPUs too.

Many processes on GPUs: `accelerate launch --num_processes N script.py`. On CPUs: `accelerate launch --multi_gpu --num_processes N
script.py` (the option's name notwithstanding) or `torchrun --nproc_per_node N script.py`; Accelerate 1.x starts a single process for
`accelerate launch --cpu --num_processes N`, unless it is given an MPI host file.
"""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING

import torch

from polyscore.errors import PolyscoreError

if TYPE_CHECKING:
    from accelerate import PartialState

__all__ = ["this_process"]


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
    if started == 1 and "MASTER_ADDR" in os.environ and os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true"):
        warnings.warn("accelerate launch --cpu started one process only; for more, use torchrun --nproc_per_node N", stacklevel=2)
    return state


def _has_accelerator() -> bool:
    names = ("cuda", "xpu", "npu", "mlu", "musa", "hpu")
    return any(getattr(torch, name).is_available() for name in names if hasattr(torch, name))
