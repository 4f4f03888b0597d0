import os
import signal
import threading
import time

import pytest

from coatnet.training.signals import StopRequestedError, StopSignal


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_only_noted(number: signal.Signals) -> None:
    with StopSignal() as stop:
        assert not stop.is_asked()
        send(number)
        assert stop.is_asked()


def test_a_wait_is_broken_off() -> None:
    with StopSignal() as stop, pytest.raises(StopRequestedError), stop.interruptible():
        threading.Timer(0.05, send, [signal.SIGTERM]).start()
        time.sleep(30)


def test_a_signal_before_a_wait_is_not_slept_through() -> None:
    with StopSignal() as stop:
        send(signal.SIGTERM)
        with pytest.raises(StopRequestedError), stop.interruptible():
            time.sleep(30)


def test_the_second_interrupt_aborts() -> None:
    with StopSignal(), pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)
        send(signal.SIGINT)


def test_the_handlers_of_before_come_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopSignal():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
