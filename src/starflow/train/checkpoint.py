"""Checkpoints of a training run, by `torch.distributed.checkpoint` in safetensors files.

    checkpoints/step-00001500/shard-…safetensors   the tensors that each process holds, by name
                              state.json           the step, and the size of each file

The tensors of a parameter are, for example, `scale.bias` (its value), `ema.scale.bias` (its moving average) and
`optimizer.scale.bias.exp_avg` (a part of its optimizer state). Frozen parameters are left out. Any number of processes
can read a checkpoint, with any sharding.

It is written in the background under a temporary name, and gets its name when all processes have written their files. A
folder whose files are not those of its `state.json` is damaged, for example by a full disk, and does not count.
"""

import json
import logging
import os
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException

from starflow.errors import StarflowError
from starflow.media.files import TEMPORARY, atomic_write, remove
from starflow.train.processes import is_main, num_processes
from starflow.train.state import TrainState, named_trained_parameters

logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of a run. All processes must call the methods together."""

    def __init__(self, folder: Path, keep: int) -> None:
        """`keep` is the number of checkpoints to keep, the newest ones."""
        self.folder, self.keep = folder, keep
        self._group = dist.new_group(backend="gloo") if num_processes() > 1 else None
        self._pool = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        if is_main():
            for unfinished in folder.glob(f"{TEMPORARY}*"):
                remove(unfinished)

    def save(self, state: TrainState) -> None:
        """Copy the state, and write it in the background after the checkpoint before it.

        Raises StarflowError if the checkpoint before it could not be written.
        """
        self.wait()
        step, name = state.step, checkpoint_name(state.step)
        temporary = self.folder / f"{TEMPORARY}{name}"
        temporary.mkdir(parents=True, exist_ok=True)
        tensors = {key: tensor.contiguous() for key, tensor in _named_tensors(state)}
        written = dcp.async_save(
            tensors,
            storage_writer=HuggingFaceStorageWriter(str(temporary), save_distributed=True),
            process_group=self._group,
            no_dist=self._group is None,
        )
        assert isinstance(written, Future)
        self._writing = self._pool.submit(self._finish, written, temporary, step)

    def wait(self) -> None:
        """Wait until the newest checkpoint is on disk. Raises StarflowError if it could not be written."""
        writing, self._writing = self._writing, None
        try:
            if writing is not None:
                writing.result()
        except (CheckpointException, OSError, RuntimeError) as error:
            raise StarflowError(f"cannot write a checkpoint to {self.folder}: {_reason(error)}") from error

    def _finish(self, written: "Future[object]", temporary: Path, step: int) -> None:
        written.result()  # in process 0, after all processes have written their files
        if not is_main():
            return
        sizes = {file.name: file.stat().st_size for file in temporary.iterdir()}
        with atomic_write(temporary / "state.json") as path:
            path.write_text(json.dumps({"step": step, "files": sizes}))
        final = self.folder / checkpoint_name(step)
        remove(final)  # a damaged checkpoint
        os.replace(temporary, final)
        for old in list_checkpoints(self.folder)[: -self.keep]:
            remove(old)


def checkpoint_name(step: int) -> str:
    return f"step-{step:08d}"


def list_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in `folder`, oldest first. A warning names those that are damaged."""
    complete = []
    for path in sorted(folder.glob("step-*")):
        if _is_complete(path):
            complete.append(path)
        else:
            logger.warning("the checkpoint %s is damaged and is not used", path)
    return complete


def _is_complete(path: Path) -> bool:
    try:
        sizes = json.loads((path / "state.json").read_text())["files"]
        return all((path / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def load_checkpoint(state: TrainState, path: Path) -> None:
    """Restore `state` from the checkpoint at `path`. All processes must call this together.

    The peak learning rates of `state` do not change, so that a run can resume with other rates.

    Raises:
        StarflowError: a file is corrupt, or the checkpoint is of another architecture.
    """
    try:
        dcp.load(
            dict(_named_tensors(state)),
            storage_reader=HuggingFaceStorageReader(str(path)),
            no_dist=num_processes() == 1,
        )
    except (CheckpointException, OSError, RuntimeError) as error:
        raise StarflowError(f"cannot resume from {path}: {_reason(error)}") from error
    state.step = json.loads((path / "state.json").read_text())["step"]
    for ema in state.ema.values():
        ema.optimization_step = state.step
    schedule = state.schedule
    schedule.last_epoch = state.step
    groups = schedule.optimizer.param_groups
    for group, peak, factor in zip(groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
        group["lr"] = peak * factor(state.step)


def _named_tensors(state: TrainState) -> Iterator[tuple[str, Tensor]]:
    for module_name, module in state.modules.items():
        averages = state.ema[module_name].shadow_params
        for (key, parameter), average in zip(named_trained_parameters(module), averages, strict=True):
            name = f"{module_name}.{key}"
            yield name, parameter.detach()
            yield f"ema.{name}", average
            for part, value in state.optimizer.state.get(parameter, {}).items():
                yield f"optimizer.{name}.{part}", value


def _reason(error: BaseException) -> str:
    """The first line of the cause, which may be in another process."""
    if isinstance(error, CheckpointException):
        error, _ = next(iter(error.failures.values()))
    return re.sub(r"\s+", " ", str(error)) or type(error).__name__
