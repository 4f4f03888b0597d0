"""What attacks do to a server: how long health checks take meanwhile, and how soon it is well again.

python benchmarks/attacks.py CLASSIFIER IMAGE.png
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

HEAD = "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"


class Target:
    """A server of its own for each attack.

    Args:
        classifier: what it serves.
        image: a PNG that it can answer.
    """

    def __init__(self, classifier: str, image: bytes) -> None:
        command = [sys.executable, "-m", "coatnet", "serve", classifier, "--port", "0", "--json", "--name", "it"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self.process.stdout
        self.url = json.loads(self.process.stdout.readline())["url"]
        self.port = int(self.url.rstrip("/").rpartition(":")[2])
        self.image = image

    def ask(self, path: str, body: bytes | None = None) -> int:
        """The status of the answer; 0 if there is none within a minute."""
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "image/png"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def suspend_worker(self) -> None:
        """Let the process that predicts hang."""
        for child in psutil.Process(self.process.pid).children():
            if "spawn_main" in " ".join(child.cmdline()):
                child.suspend()


def hang(target: Target) -> None:
    """A worker that stops, with a request in it."""
    target.suspend_worker()
    target.ask("predict", target.image)


def many_values(target: Target) -> None:
    """2 MB of JSON, each element of another type than it should be."""
    tensor = b'{"inputs":[{"name":"image","shape":[1],"datatype":"BYTES","data":[' + b"1," * 1_000_000 + b"1]}]}"
    target.ask("v2/models/it/infer", tensor)


def stalled_bodies(target: Target) -> None:
    """26 bodies of 19 MB without their last byte, for 20 s."""
    with ExitStack() as stack:
        for _ in range(26):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", target.port), timeout=5))
            with suppress(OSError):  # refused meanwhile
                connection.sendall(f"{HEAD}Content-Length: 19000000\r\n\r\n".encode() + bytes(18_999_999))
        time.sleep(20)


def explanation(target: Target) -> None:
    """The dearest explanation."""
    target.ask("explain?method=integrated_gradients", target.image)


ATTACKS: tuple[Callable[[Target], None], ...] = (hang, many_values, stalled_bodies, explanation)


def measure(attack: Callable[[Target], None], target: Target) -> tuple[float, float, float]:
    """Seconds: of the slowest health check during the attack, from then to a good answer, from SIGTERM to the end."""
    thread = threading.Thread(target=attack, args=(target,))
    thread.start()
    worst = 0.0
    while thread.is_alive():
        began = time.monotonic()
        target.ask("healthz")
        worst = max(worst, time.monotonic() - began)
        time.sleep(0.05)
    ended = time.monotonic()
    while target.ask("predict", target.image) != 200:
        time.sleep(0.05)
    recovered = time.monotonic() - ended
    target.suspend_worker()
    began = time.monotonic()
    os.kill(target.process.pid, signal.SIGTERM)
    target.process.wait(120)
    assert target.process.stdout
    target.process.stdout.close()
    return worst, recovered, time.monotonic() - began


def main() -> None:
    """Print the table."""
    classifier, image = sys.argv[1], Path(sys.argv[2]).read_bytes()
    print(
        "| attack | slowest `/healthz` s | good answer after s | SIGTERM, worker hung, s |\n|---|---|---|---|",
        flush=True,
    )
    for attack in ATTACKS:
        worst, recovered, stopped = measure(attack, Target(classifier, image))
        print(f"| {(attack.__doc__ or '').rstrip('.')} | {worst:.2f} | {recovered:.1f} | {stopped:.1f} |", flush=True)


if __name__ == "__main__":
    main()
