"""Median, p95 and ratios of what a clock says; order and number of calls; memory; ceilings."""

import itertools
import subprocess
import sys

import pytest
import torch

from coatnet.runtime.timing import Timing, measure_ceilings, time_in_turn

CPU = torch.device("cpu")


class Clock:
    """Stands still but for what actions take."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def action(self, *seconds):
        """Takes these times in turn."""
        each = itertools.cycle(seconds)

        def act():
            self.now += next(each)

        return act


def test_calls_alternate_and_the_first_rounds_do_not_count():
    called, clock = [], Clock()
    actions = {name: lambda name=name: called.append(name) for name in ("first", "second")}
    assert {name: len(timing.seconds) for name, timing in time_in_turn(actions, 3).items()} == {"first": 3, "second": 3}
    assert called == ["first", "second"] * 5  # two rounds to warm up
    timings = time_in_turn({"slow at first": clock.action(9, 9, 1, 2)}, 2, clock=clock)
    assert timings["slow at first"].seconds == (1, 2)


def test_a_call_that_settles_the_machine_is_not_counted():
    clock = Clock()
    actions = {"ours": clock.action(8, 1), "theirs": clock.action(9, 2)}  # each slowed by the threads of the other
    timings = time_in_turn(actions, 3, settle=True, clock=clock)
    assert timings["ours"].seconds == (1, 1, 1)
    assert timings["theirs"].seconds == (2, 2, 2)


def test_a_slow_spell_of_the_machine_does_not_change_the_ratio():
    clock = Clock()
    actions = {"ours": clock.action(1, 1, 5), "theirs": clock.action(2, 2, 10)}
    timings = time_in_turn(actions, 9, warm_up=0, clock=clock)
    assert timings["theirs"].ratio_to(timings["ours"]) == 2
    assert timings["ours"].ratio_to(timings["theirs"]) == 0.5


def test_the_ratio_is_that_of_neighbours():
    ours, theirs = Timing((1.0, 10.0, 1.0)), Timing((3.0, 30.0, 1.0))
    assert theirs.ratio_to(ours) == 3


def test_median_and_p95():
    timing = Timing(tuple(float(value) for value in range(1, 102)))
    assert timing.median == 51
    assert timing.p95 == pytest.approx(96)


def test_no_rounds_measure_nothing():
    with pytest.raises(ValueError, match="rounds is 0; at least 1 is needed"):
        time_in_turn({"nothing": int}, 0)


def test_memory_is_that_of_the_span_and_not_of_an_earlier_one():
    code = """
import numpy as np, torch
from coatnet.runtime.timing import watch_memory
earlier = np.ones(60_000_000)  # 480 MB
del earlier
with watch_memory(torch.device("cpu")) as memory:
    held = np.ones(20_000_000)  # 160 MB
    del held
print(memory.before, memory.peak, memory.growth)
"""  # in a process of its own: another test may have told the allocator to keep what is freed
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    before, peak, growth = map(int, told.split())
    assert peak > before > 0
    assert 150e6 < growth < 300e6


def test_ceilings_are_rates():
    ceilings = measure_ceilings(CPU, rounds=1)
    assert all(rate > 1e8 for rate in ceilings.as_dict().values())  # any machine of this century
