"""Runs in processes of their own, for tests that hurt them.

What `python -m coatnet` does, but with a config that the command line has no flags for: a tiny network.

    worker.py train CONFIG FOLDER [FAULT]
    worker.py resume FOLDER [FAULT]
    worker.py each JSON     a list of such word lists, each in a forked process; prints the list of their exit codes

A FAULT is "signal NAME MODULE:FUNCTION N": the process gets the signal just before the N-th call of the function. Or it
is "disk BYTES": no file may grow above that.
"""

import importlib
import json
import os
import resource
import signal
import sys
from pathlib import Path

import torch

from coatnet.cli.errors import exit_code
from coatnet.training import loop
from coatnet.training.config import TrainConfig


def inject(fault: str) -> None:
    kind, *words = fault.split()
    if kind == "disk":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(words[0]), resource.RLIM_INFINITY))
        return
    number, place, count = signal.Signals[words[0]], words[1], int(words[2])
    module, _, path = place.partition(":")
    *parts, name = path.split(".")
    owner = importlib.import_module(module)
    for part in parts:
        owner = getattr(owner, part)
    real, calls = getattr(owner, name), []

    def struck(*arguments: object, **keywords: object) -> object:
        calls.append(name)
        if len(calls) == count:
            os.kill(os.getpid(), number)
        return real(*arguments, **keywords)

    setattr(owner, name, struck)


def run(words: list[str]) -> int:
    verb, *rest = words
    torch.set_num_threads(1)  # sums are ordered the same in every process of a test
    expected = 1 if verb == "resume" else 2
    for fault in rest[expected:]:
        inject(fault)
    if verb == "resume":
        return exit_code(lambda: loop.resume(rest[0]), words)
    config = TrainConfig.model_validate_json(Path(rest[0]).read_bytes())
    return exit_code(lambda: loop.train(config, rest[1]), words)


def in_fork(words: list[str]) -> int:
    child = os.fork()
    if not child:
        os._exit(run(words))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    if sys.argv[1] != "each":
        sys.exit(run(sys.argv[1:]))
    print(json.dumps([in_fork(words) for words in json.loads(sys.argv[2])]))
