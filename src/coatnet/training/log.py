"""What a run says while it goes: metrics.jsonl for machines, a progress bar or plain lines for people."""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from coatnet.errors import MissingPartError, install_hint
from coatnet.terminal import Terminal
from coatnet.training.checkpoint import TrainingState
from coatnet.training.disk import room_for

TRAIN_SAMPLE = "train_sample"
"""What metrics.jsonl calls an evaluation on training images."""
PLAIN_INTERVAL = 10.0
"""Seconds between lines where there is no terminal: often enough to see life, seldom enough for a log file."""


WORTH_SAYING = 0.1
"""Share of the time spent waiting for data from which a line says so: what more processes could win."""
WIDE = 110
"""Columns of a terminal from which a bar has room beside the longest line, which has 79 with the time that is left."""


class Meter:
    """Speed and waiting since the last line.

    Args:
        batch_size: images per step.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self._steps, self._waited, self._took = 0, 0.0, 0.0

    def add(self, waited: float, took: float) -> None:
        """Count a step.

        Args:
            waited: seconds spent waiting for the batch.
            took: seconds of the whole step, waiting included.
        """
        self._steps += 1
        self._waited += waited
        self._took += took

    def read(self) -> dict[str, float]:
        """Images per second, and the share of the time spent waiting, since the last call."""
        found = {"images_per_second": self.batch_size * self._steps / self._took, "wait": self._waited / self._took}
        self._steps, self._waited, self._took = 0, 0.0, 0.0
        return found


class RunLog:
    """Writes metrics.jsonl (and TensorBoard files if asked), and shows progress on standard error.

    Args:
        folder: the run folder.
        num_steps: length of the run.
        done: what the run comes from; lines of later steps and evaluations are cut, they will be made again.
        tensorboard: write TensorBoard files too.
        epoch: steps of a pass over the training images, to count them; None to count steps only.

    Raises:
        MissingPartError: TensorBoard is asked for and not installed.
    """

    def __init__(
        self, folder: Path, num_steps: int, done: TrainingState, *, tensorboard: bool, epoch: float | None = None
    ) -> None:
        self.path = folder / "metrics.jsonl"
        self.num_steps, self.epoch = num_steps, epoch
        step, self._damaged = done.step, 0
        self._cut_after(step, done.evaluated)
        self._writer = _tensorboard_writer(folder / "tensorboard", step) if tensorboard else None
        self._console = Terminal(stderr=True)
        self._progress: Progress | None = None
        if self._console.is_terminal:
            bar = (BarColumn(bar_width=24),) if self._console.width >= WIDE else ()
            left = (TextColumn("left"), TimeRemainingColumn(compact=True))
            told = TextColumn("{task.description}", markup=False)
            self._progress = Progress(told, *bar, *left, console=self._console, transient=True)
            self._task = self._progress.add_task("starting", total=num_steps, completed=step)
        self._first_step = step
        self._started = self._said = time.monotonic()

    def __enter__(self) -> Self:
        self._file = self.path.open("a", encoding="utf-8")
        if self._progress:
            self._progress.start()
        if self._damaged:
            self.say(f"{self.path}: {self._damaged} damaged line{'s are' if self._damaged > 1 else ' is'} left out")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()
        # A line for which there was no room is still in the buffer, and that was told.
        with contextlib.suppress(OSError) if error else contextlib.nullcontext():
            self._file.close()
        if self._writer:
            self._writer.close()

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl; `line` holds "step"."""
        with room_for(f"a line of {self.path}", self.path.parent):
            self._file.write(json.dumps(dict(line)) + "\n")
            self._file.flush()
        if self._writer:
            split = line.get("evaluation", "train")
            for name, value in line.items():
                if isinstance(value, float):
                    self._writer.add_scalar(f"{split}/{name}", value, line["step"])

    def show(self, line: Mapping[str, Any], best: float | None) -> None:
        """Say where the run stands: beside the time that is left, or as a line now and then where there is no terminal.

        Args:
            line: as in metrics.jsonl, of training steps.
            best: best validation accuracy so far, a fraction; None before the first evaluation.
        """
        step = line["step"]
        reached = "" if best is None else f"  best {best:.1%}"
        text = f"loss {line['loss']:.3f}{reached}  {line['images_per_second']:,.0f} img/s"
        where = f"{self._epoch(step)}step {step}/{self.num_steps}"
        if self._progress:
            self._progress.update(self._task, completed=step, description=f"{where}  {text}")
        elif time.monotonic() - self._said >= PLAIN_INTERVAL or step == self.num_steps:
            self._said = time.monotonic()
            waiting = f"  waiting for data {line['wait']:.0%}" if line["wait"] >= WORTH_SAYING else ""
            self.say(f"{where}  {text}{waiting}  left {self._left(step)}")

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print_wrapped(text)

    def _epoch(self, step: int) -> str:
        """The pass over the images that a step is in, of so many."""
        if self.epoch is None:
            return ""
        return f"epoch {math.ceil(step / self.epoch)}/{math.ceil(self.num_steps / self.epoch)}  "

    def _left(self, step: int) -> str:
        done = step - self._first_step
        if not done:
            return "?"
        seconds = (time.monotonic() - self._started) / done * (self.num_steps - step)
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"

    def _cut_after(self, step: int, evaluated: int) -> None:
        """Drop lines of steps that will be done again, and a line that a crash left half written."""
        if not self.path.exists():
            return
        lines, self._damaged = split_metrics(self.path)
        kept = [line for line in lines if line["step"] <= (evaluated if "evaluation" in line else step)]
        fresh = self.path.with_suffix(".tmp")
        fresh.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        fresh.replace(self.path)


class SilentLog:
    """What the other processes of a run have in place of a RunLog."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def write(self, line: Mapping[str, Any]) -> None:
        """Nothing: the main process writes it."""

    def show(self, line: Mapping[str, Any], best: float | None) -> None:
        """Nothing: the main process shows it."""

    def say(self, text: str) -> None:
        """Nothing: the main process says it."""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics.jsonl; none where there is no file yet."""
    return split_metrics(path)[0]


def split_metrics(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The whole lines of a metrics.jsonl, and how many others there are: damaged, not only half written at the end."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    found = [line for line in map(_parse_line, lines) if line is not None]
    return found, len(lines) - len(found)


def _parse_line(text: bytes) -> dict[str, Any] | None:
    """A line of metrics, None for what none of ours says: bytes on a disk change."""
    try:
        line = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or type(line.get("step")) is not int or line["step"] < 0:
        return None
    numbers = ["loss"]
    if "evaluation" in line:
        numbers.append("top1")
    numbers += [name for name in ("images_per_second", "learning_rate", "wait") if name in line]
    is_whole = all(type(line.get(name)) in (int, float) for name in numbers)
    return line if is_whole and isinstance(line.get("evaluation", ""), str) else None


def check_tensorboard() -> None:
    """See that TensorBoard can be written.

    Raises:
        MissingPartError: it is not installed.
    """
    try:
        importlib.import_module("torch.utils.tensorboard")
    except ImportError:
        raise MissingPartError(
            "tensorboard is asked for and not installed", f"{install_hint('tensorboard')}; or leave the flag out"
        ) from None


def _tensorboard_writer(folder: Path, step: int) -> Any:
    check_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1)
