"""Runs in processes of their own, for tests that hurt them.

What `python -m coatnet` does, but with a config that the command line has no flags for: a tiny network.

    worker.py train CONFIG FOLDER [FAULT]
    worker.py resume FOLDER [FAULT]
    worker.py shares CONFIG FOLDER          two steps; rankN.json tells how many numbers this process holds
    worker.py serve         reads lines of JSON: a file for what is said, and a list of such word lists, each of which
                            is done in a forked process; answers with a line, the list of their exit codes. With "two"
                            before its words it is done by two processes of one run, as torchrun starts them. These runs
                            draw no report, which takes longer than all else in them


A FAULT is "signal NAME MODULE:FUNCTION N": the process gets the signal just before the N-th call of the function. Or it
is "disk BYTES": no file may grow above that. Or "nan N,N": the images of these steps, counted from 1, are not numbers.
Or "kill SECONDS": a kill -9 from outside, so much later. Or "uncached": decoded images are not kept in memory.
"""

import importlib
import json
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from coatnet import ranks
from coatnet.cli.errors import exit_code
from coatnet.data import cache
from coatnet.data.sources import DataConfig, open_data
from coatnet.training import loop
from coatnet.training.config import TrainConfig
from coatnet.training.start import stream_of
from coatnet.training.trainer import Trainer


def inject(fault: str) -> None:
    kind, *words = fault.split()
    if kind == "disk":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(words[0]), resource.RLIM_INFINITY))
        return
    if kind == "kill":
        kill_later(float(words[0]))
        return
    if kind == "uncached":
        cache.default_budget = lambda: 0
        return
    if kind == "nan":
        poisoned = {int(word) for word in words[0].split(",")}
        meet(
            "coatnet.training.trainer:Normaliser.__call__",
            lambda count, images: images * float("nan") if count in poisoned else images,
        )
        return
    number, place, struck = signal.Signals[words[0]], words[1], int(words[2])
    meet(place, before=lambda count: os.kill(os.getpid(), number) if count == struck else None)


def kill_later(seconds: float) -> None:
    """By another process: nothing that this one does can put it off."""
    doomed = os.getpid()
    if not os.fork():
        time.sleep(seconds)
        if os.getppid() == doomed:
            os.kill(doomed, signal.SIGKILL)
        os._exit(0)


def meet(place: str, after: Callable | None = None, before: Callable | None = None) -> None:
    """Do something at each call of a function: before, with the number of the call; after, with its result too."""
    module, _, path = place.partition(":")
    *parts, name = path.split(".")
    owner = importlib.import_module(module)
    for part in parts:
        owner = getattr(owner, part)
    real, calls = getattr(owner, name), []

    def met(*arguments: object, **keywords: object) -> object:
        calls.append(name)
        count = len(calls)
        if before:
            before(count)
        result = real(*arguments, **keywords)
        return after(count, result) if after else result

    setattr(owner, name, met)


def run(words: list[str]) -> int:
    verb, *rest = words
    torch.set_num_threads(1)  # sums are ordered the same in every process of a test
    expected = 1 if verb == "resume" else 2
    for fault in rest[expected:]:
        inject(fault)
    if verb == "resume":
        return exit_code(lambda: loop.resume(rest[0]), words)
    config = TrainConfig.model_validate_json(Path(rest[0]).read_bytes())
    if verb == "shares":
        return exit_code(lambda: tell_shares(config, Path(rest[1])), words)
    return exit_code(lambda: loop.train(config, rest[1]), words)


def tell_shares(config: TrainConfig, folder: Path) -> None:
    """After two steps, the numbers of each kind that this process holds."""
    with ranks.joined():
        trainer = Trainer(config, torch.device("cpu"))
        stream = stream_of(config, open_data(config.data))
        for batch in stream.batches(0, 2):
            trainer.step([batch])
        state = trainer.state
        moments = [value for values in state.optimizer.state.values() for value in values.values() if value.ndim]
        held = {"weights": state.model.parameters(), "averages": state.ema.module.parameters(), "moments": moments}
        counts = {kind: sum(one.to_local().numel() for one in tensors) for kind, tensors in held.items()}
        (folder / f"rank{ranks.rank()}.json").write_text(json.dumps(counts))


def forked(words: list[str], said: int, **environment: str) -> int:
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        os.dup2(said, sys.stderr.fileno())
        os.environ |= environment
        loop.report = lambda *_: None
        os._exit(run(words))
    return child


def in_forks(words: list[str], said: int) -> int:
    """The exit code; of two processes the one that is not 0."""
    if words[0] != "two":
        children = [forked(words, said)]
    else:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        children = [forked(words[1:], said, RANK=rank, LOCAL_RANK=rank, **common) for rank in "01"]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    if sys.argv[1] != "serve":
        sys.exit(run(sys.argv[1:]))
    open_data(DataConfig(path="digits"))  # what is imported for it now is there in every fork
    for line in sys.stdin:
        place, runs = json.loads(line)
        with Path(place).open("ab") as file:
            codes = [in_forks(words, file.fileno()) for words in runs]
        print(json.dumps(codes), flush=True)
