"""`coatnet serve` as a process, and what is asked of it."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil

IN_TORCH = ("--device", "cpu", "--runtime", "torch", "--precision", "float32", "--threads", "1")
KINDS = {b"\x89": "image/png", b"\xff": "image/jpeg", b"R": "image/webp"}


class Server:
    """A server on a free port, in torch with one thread if nothing else is said; ready when it is entered."""

    def __init__(
        self,
        folder: Path,
        *flags: object,
        token: str = "",
        how: tuple[str, ...] = IN_TORCH,
        python: Path | None = None,
    ) -> None:
        words = [str(python or sys.executable), "-m", "coatnet", "serve", str(folder), "--port", "0", "--json", *how]
        words += [str(flag) for flag in flags]
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed on exit)
        env = {**os.environ, "COATNET_TOKEN": token}
        if python:
            env.pop("PYTHONPATH", None)  # it has a coatnet of its own
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=self.log, env=env)
        self.headers = {"authorization": f"Bearer {token}"} if token else {}

    def __enter__(self) -> "Server":
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, self.said()
        self.started = json.loads(line)
        self.client = httpx.Client(base_url=self.started["url"], timeout=30, headers=self.headers)
        self.port = self.client.base_url.port
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            assert self.process.wait(30) == 0, self.said()
        self.close()

    def close(self) -> None:
        """Of a server that has ended."""
        assert self.process.stdout
        self.process.stdout.close()
        self.log.close()

    def said(self) -> str:
        """What it wrote to standard error."""
        self.log.seek(0)
        return self.log.read()

    @property
    def worker(self) -> psutil.Process:
        """The process that predicts."""
        return self._child(explains=False)

    @property
    def explainer(self) -> psutil.Process:
        """The process that explains: it gives way to the other."""
        return self._child(explains=True)

    def _child(self, explains: bool) -> psutil.Process:
        server = psutil.Process(self.process.pid)
        children = [child for child in server.children() if "spawn_main" in " ".join(child.cmdline())]
        (found,) = [child for child in children if (child.nice() > server.nice()) == explains]
        return found

    def predict(self, data: bytes, **options: object) -> httpx.Response:
        """Ask for one image."""
        kind = KINDS.get(data[:1], "application/octet-stream")
        headers = {"content-type": kind, **options.pop("headers", {})}  # type: ignore[dict-item]
        return self.client.post("/predict", content=data, headers=headers, params=options)  # type: ignore[arg-type]

    def metrics(self) -> dict[str, float]:
        """Each series with its value."""
        lines = re.findall(r"^(coatnet_\S+) (\S+)$", self.client.get("/metrics").text, re.MULTILINE)
        return {name: float(value) for name, value in lines}

    def is_ready(self) -> bool:
        """What a balancer would see."""
        return self.client.get("/readyz").status_code == 200


def wait_for(condition, seconds: float = 20) -> None:
    """Until it holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def check_problem(response: httpx.Response, status: int, code: str) -> None:
    """Every refusal has the same form, and tells nothing of the inside."""
    assert response.headers["content-type"] == "application/problem+json"
    told = response.json()
    assert (response.status_code, told["status"], told["code"]) == (status, status, code), told
    assert set(told) == {"type", "title", "status", "code", "detail", "error"}
    assert told["error"] == told["detail"]
    assert not re.search(r"Traceback|/usr|/tmp|\.py|0x[0-9a-f]{6}", told["detail"])
