"""What `coatnet serve` does below, at and far above what it can compute: throughput, latency, refusals, memory.

The server has one core, this load generator another; the peak is measured with that split. Needs two cores and Linux.

python benchmarks/serving.py overload MEMBER [OPTIONS of coatnet serve]     5 x the peak for 60 s
python benchmarks/serving.py levels MEMBER [OPTIONS of coatnet serve]       50 %, 90 % and 300 % of the peak, 30 s each
"""

import asyncio
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import psutil
from PIL import Image

from coatnet.classifier import Classifier
from coatnet.model.family import create_model

SERVER_CORE, CLIENT_CORE = 0, 1
KEPT_SECONDS = 2
PEAK_SECONDS, OVERLOAD_SECONDS, LEVEL_SECONDS = 10, 60, 30


@dataclass
class Seen:
    """What clients saw."""

    seconds: dict[int, list[float]] = field(default_factory=dict)
    probes: list[float] = field(default_factory=list)
    lasted: float = 0.0

    def add(self, status: int, seconds: float) -> None:
        self.seconds.setdefault(status, []).append(seconds)

    def milliseconds(self, status: int, percentile: float) -> float:
        return float(np.percentile(self.seconds[status], percentile)) * 1000 if status in self.seconds else np.nan

    @property
    def goodput(self) -> float:
        return len(self.seconds.get(200, ())) / self.lasted


class Clients:
    """Connections that are kept, as many as are needed at once."""

    def __init__(self, port: int) -> None:
        self.port, self.free = port, []
        buffer = io.BytesIO()
        noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        data = buffer.getvalue()
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
        self.image = head.encode() + data
        self.live = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"

    async def ask(self, request: bytes) -> tuple[int, float]:
        started = time.perf_counter()
        while self.free and started - self.free[-1][2] > KEPT_SECONDS:  # the server closes what lies idle for 5 s
            self.free.pop()[1].close()
        kept = self.free.pop()[:2] if self.free else None
        reader, writer = kept or await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))
        if b"connection: close" in head:
            writer.close()
        else:
            self.free.append((reader, writer, time.perf_counter()))
        return int(head[9:12]), time.perf_counter() - started


async def peak(clients: Clients, num_clients: int) -> float:
    """Images per second if there is always a full batch waiting."""
    started = time.perf_counter()
    end = started + PEAK_SECONDS
    count = 0

    async def go_on() -> None:
        nonlocal count
        while time.perf_counter() < end:
            status, _ = await clients.ask(clients.image)
            count += status == 200

    await asyncio.gather(*(go_on() for _ in range(num_clients)))
    return count / (time.perf_counter() - started)  # the last ones are answered after the end


async def offer(clients: Clients, rate: float, seconds: float) -> Seen:
    """So many requests per second, whatever becomes of those before."""
    seen, tasks = Seen(), set()

    async def one(request: bytes, is_probe: bool) -> None:
        status, taken = await clients.ask(request)
        seen.probes.append(taken) if is_probe else seen.add(status, taken)

    started = time.perf_counter()
    gaps = np.random.default_rng(0).exponential(1 / rate, int(rate * seconds))
    due, next_probe = started + np.cumsum(gaps), started
    for at in due:
        while (now := time.perf_counter()) < at:
            await asyncio.sleep(at - now)
        tasks.add(asyncio.create_task(one(clients.image, False)))
        if now >= next_probe:
            next_probe = now + 0.1
            tasks.add(asyncio.create_task(one(clients.live, True)))
    await asyncio.gather(*tasks)
    seen.lasted = time.perf_counter() - started
    return seen


def metrics(url: str) -> dict[str, float]:
    text = urlopen(f"{url}metrics").read().decode()
    return {name: float(value) for name, value in re.findall(r"^(coatnet_\S+) (\S+)$", text, re.MULTILINE)}


def resident(process: psutil.Process) -> float:
    """MB of the server and its worker."""
    return sum(each.memory_info().rss for each in (process, *process.children(recursive=True))) / 1e6


def processor_seconds(process: psutil.Process) -> float:
    """Of the process that speaks HTTP, so far."""
    times = process.cpu_times()
    return times.user + times.system


def describe(name: str, seen: Seen) -> str:
    counts = ", ".join(f"{status}: {len(times)}" for status, times in sorted(seen.seconds.items()))
    return (
        f"| {name} | {seen.goodput:.1f} | {seen.milliseconds(200, 50):.0f} | {seen.milliseconds(200, 99):.0f} | "
        f"{seen.milliseconds(429, 99):.0f} | {np.percentile(seen.probes, 99) * 1000:.0f} | {counts} |"
    )


async def measure(mode: str, started: dict, process: psutil.Process) -> None:
    url = started["url"]
    clients = Clients(int(url.rstrip("/").rpartition(":")[2]))
    for _ in range(20):
        await clients.ask(clients.image)
    best = await peak(clients, 2 * started["batch_size"])
    print(json.dumps(started), f"peak with {2 * started['batch_size']} clients: {best:.1f} images/s", sep="\n")
    print("| load | answered/s | p50 ms | p99 ms | 429 p99 ms | live p99 ms | answers |", "|---" * 7 + "|", sep="\n")
    if mode == "levels":
        for level in (0.5, 0.9, 3.0):
            print(describe(f"{100 * level:.0f} %", await offer(clients, level * best, LEVEL_SECONDS)), flush=True)
        return
    before, memory, worked = metrics(url), resident(process), processor_seconds(process)
    seen = await offer(clients, 5 * best, OVERLOAD_SECONDS)
    after, worked = metrics(url), processor_seconds(process) - worked
    print(describe("500 %", seen))
    batches = after["coatnet_batch_seconds_count"] - before["coatnet_batch_seconds_count"]
    batch_time = (after["coatnet_batch_seconds_sum"] - before["coatnet_batch_seconds_sum"]) / batches
    bound = (started["queue"] / started["batch_size"] + 2) * batch_time + 0.1
    print(f"batch {batch_time * 1000:.0f} ms, so accepted p99 at most {bound * 1000:.0f} ms")
    print(f"goodput {100 * seen.goodput / best:.1f} % of the peak")
    requests = sum(map(len, seen.seconds.values())) + len(seen.probes)
    print(f"HTTP took {100 * worked / seen.lasted:.1f} % of the core, {1000 * worked / requests:.2f} ms a request")
    print(f"memory {memory:.0f} MB, then {resident(process):.0f} MB")
    print(f"answers {dict(Counter({status: len(times) for status, times in seen.seconds.items()}))}")


@contextmanager
def server_process(folder: Path, member: str, options: list[str]) -> Iterator[tuple[subprocess.Popen[str], dict]]:
    """A server of a new network on its core, and what it says once it is ready."""
    Classifier(create_model(member)).save(folder / member)
    command = [sys.executable, "-m", "coatnet", "serve", f"{folder}/{member}", "--port", "0", "--json"]
    os.sched_setaffinity(0, {SERVER_CORE})
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        try:
            started = json.loads(server.stdout.readline())
            os.sched_setaffinity(0, {CLIENT_CORE})
            yield server, started
        finally:
            server.terminate()


def main() -> None:
    mode, member, *options = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder, server_process(Path(folder), member, options) as (server, started):
        asyncio.run(measure(mode, started, psutil.Process(server.pid)))


if __name__ == "__main__":
    main()
