"""How soon `coatnet serve` says what it says when something is wrong: late and bad requests, a dead worker, SIGTERM.

The server has one core, this load generator another. Needs two cores and Linux.

python benchmarks/serving_faults.py MEMBER [OPTIONS of coatnet serve]
"""

import asyncio
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from serving import Clients, Seen, metrics, offer, peak, server_process

LATE_SECONDS = 0.5
GOOD_SHARE, GOOD_SECONDS = 0.2, 40
NUM_BAD = 10_000
GET = "GET {} HTTP/1.1\r\nHost: x\r\n\r\n"


def show(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def post(body: bytes, *lines: str) -> bytes:
    head = ["POST /predict HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *lines, "", ""]
    return "\r\n".join(head).encode() + body


def bad_requests(image: bytes) -> list[bytes]:
    """Mutants of a picture, cut ones, noise, forms that are none, wrong types and encodings."""
    chance = random.Random(0)
    found = []
    for number in range(NUM_BAD):
        mutant = bytearray(image)
        for _ in range(chance.choice((1, 4, 30))):
            mutant[chance.randrange(len(mutant))] = chance.randrange(256)
        cut = bytes(mutant[: chance.randrange(len(mutant))])
        found.append(
            (
                post(cut, "Content-Type: image/jpeg"),
                post(chance.randbytes(300), "Content-Type: image/png"),
                post(b"--x\r\n" + cut, "Content-Type: multipart/form-data; boundary=x"),
                post(bytes(mutant), "Content-Type: text/html"),
                post(cut, "Content-Type: image/jpeg", "Content-Encoding: gzip"),
            )[number % 5]
        )
    return found


async def when_status(clients: Clients, path: str, status: int) -> float:
    """Seconds until a path is answered so."""
    started = time.perf_counter()
    while (await clients.ask(GET.format(path).encode()))[0] != status:
        await asyncio.sleep(0.005)
    return time.perf_counter() - started


def worker_of(process: psutil.Process) -> psutil.Process:
    (found,) = [each for each in process.children() if "spawn_main" in " ".join(each.cmdline())]
    return found


async def late(clients: Clients, started: dict, process: psutil.Process) -> None:
    """S2: the worker stands still, so that nothing is answered in time of all that fits into the queue."""
    url, worker = started["url"], worker_of(process)
    await clients.ask(clients.image)
    before = metrics(url)
    worker.suspend()
    request = clients.image.replace(b"Host: x", b"Host: x\r\nX-Timeout-Seconds: %g" % LATE_SECONDS)
    answers = await asyncio.gather(*(clients.ask(request) for _ in range(started["queue"])))
    worker.resume()
    while metrics(url)["coatnet_images_waiting"]:
        await asyncio.sleep(0.05)
    await clients.ask(clients.image)  # once it is answered, those before it have been given out or dropped
    computed = metrics(url)["coatnet_images_computed_total"] - before["coatnet_images_computed_total"] - 1
    statuses = dict(Counter(status for status, _ in answers))
    after = max(seconds for _, seconds in answers) - LATE_SECONDS
    show("S2: 504 after the deadline, the last", f"{1000 * after:.0f} ms", "100 ms")
    show("S2: of these reached the network", f"{computed:.0f} of {statuses}", "0")


async def bad(clients: Clients) -> None:
    """S3: the same good requests without and with bad ones between them."""
    rate = GOOD_SHARE * await peak(clients, 16)
    quiet = await offer(clients, rate, GOOD_SECONDS)
    picture = clients.image.partition(b"\r\n\r\n")[2]
    statuses: Counter[int] = Counter()

    async def send_bad() -> None:
        started = time.perf_counter()
        for number, request in enumerate(bad_requests(picture)):
            await asyncio.sleep(max(0.0, started + number * GOOD_SECONDS / NUM_BAD - time.perf_counter()))
            statuses[(await clients.ask(request))[0]] += 1

    mixed: Seen
    mixed, _ = await asyncio.gather(offer(clients, rate, GOOD_SECONDS), send_bad())
    show("S3: answers to bad requests", dict(sorted(statuses.items())), "4xx, or 200 for what is an image after all")
    show("S3: answers to good ones", {status: len(times) for status, times in mixed.seconds.items()}, "200")
    slower = f"{quiet.milliseconds(200, 99):.1f} ms, {mixed.milliseconds(200, 99):.1f} ms"
    show("S3: p99 of good ones, without and with bad ones", slower, "twice")


async def death(clients: Clients, url: str, process: psutil.Process) -> None:
    """S7: beside a reload, which starts a worker in the same way."""
    began = time.perf_counter()
    process.send_signal(signal.SIGHUP)
    while metrics(url).get('coatnet_reloads_total{outcome="done"}') != 1:
        await asyncio.sleep(0.01)
    load_seconds = time.perf_counter() - began
    await asyncio.sleep(1)  # the old worker ends
    worker_of(process).kill()
    gone, back = await when_status(clients, "/readyz", 503), await when_status(clients, "/readyz", 200)
    show("S7: not ready after the worker died", f"{1000 * gone:.0f} ms", "")
    show("S7: ready again", f"{gone + back:.1f} s", f"{load_seconds:.1f} s of a reload + 2 s")


async def end(clients: Clients, process: psutil.Process) -> None:
    """S6: SIGTERM with a full queue behind a batch."""
    family = [process, *process.children(recursive=True)]
    asked = [asyncio.create_task(clients.ask(clients.image)) for _ in range(24)]
    await asyncio.sleep(0.02)
    started = time.perf_counter()
    process.send_signal(signal.SIGTERM)
    unready = await when_status(clients, "/readyz", 503)
    answers = Counter(status for status, _ in await asyncio.gather(*asked))
    code = await asyncio.to_thread(process.wait, 30)
    lasted = time.perf_counter() - started
    show("S6: not ready after SIGTERM", f"{1000 * unready:.0f} ms", "200 ms")
    show("S6: answers to those who waited", dict(answers), "200")
    show("S6: exit code, and after", f"{code}, {lasted:.1f} s", "0, 30 s")
    _, alive = await asyncio.to_thread(psutil.wait_procs, family, 5)
    show("S6: processes left", len(alive), "0")


async def measure(started: dict, process: psutil.Process) -> None:
    clients = Clients(int(started["url"].rstrip("/").rpartition(":")[2]))
    print(json.dumps(started))
    show("what", "found", "target")
    show(*["---"] * 3)
    await late(clients, started, process)
    await bad(clients)
    await death(clients, started["url"], process)
    await end(clients, process)


def main() -> None:
    member, *options = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder, server_process(Path(folder), member, options) as (server, started):
        asyncio.run(measure(started, psutil.Process(server.pid)))


if __name__ == "__main__":
    main()
