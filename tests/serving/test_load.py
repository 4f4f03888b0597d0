"""Many clients for a long time: answers are not mixed up, nothing leaks, nobody is forgotten."""

import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import psutil
import pytest

from serving.servers import KINDS, Server

NUM_CLIENTS = 4


class Client(http.client.HTTPConnection):
    """One connection; the clients share a core with the server, so they must cost little."""

    def __init__(self, server):
        super().__init__("127.0.0.1", server.port, timeout=600)
        self.used = 0.0

    def predict(self, data):
        """Status and answer."""
        if time.monotonic() - self.used > 2:  # the machine may have slept; the server closes what lies idle for 5 s
            self.close()
        self.used = time.monotonic()
        self.request("POST", "/predict", data, {"content-type": KINDS[data[:1]]})
        answer = self.getresponse()
        return answer.status, json.loads(answer.read())


@pytest.mark.parametrize(
    ("num_clients", "num_requests"), [(8, 15), pytest.param(32, 10_000, marks=pytest.mark.slow, id="full")]
)
def test_each_client_gets_its_own_answer(server, pictures, num_clients, num_requests):
    """`num_requests` of each client, pictures in its own order; each answer is the one that the picture has alone."""
    alone = [dict(server.predict(data).json()["top"]) for data in pictures]

    def ask(client_index):
        order = np.random.default_rng(client_index).integers(0, len(pictures), num_requests)
        worst = 0.0
        with closing(Client(server)) as client:
            for index in order:
                status, told = client.predict(pictures[index])
                assert status == 200, told
                found = dict(told["top"])
                worst = max(worst, *(abs(found[name] - alone[index][name]) for name in alone[index]))
        return worst

    before = server.metrics()
    with ThreadPoolExecutor(num_clients) as pool:
        assert max(pool.map(ask, range(num_clients))) <= 1e-5
    after = server.metrics()
    assert (
        after["coatnet_images_computed_total"] - before["coatnet_images_computed_total"] == num_clients * num_requests
    )
    assert after["coatnet_batch_images_count"] - before["coatnet_batch_images_count"] < num_clients * num_requests


@pytest.mark.slow
def test_ten_minutes_at_seventy_per_cent(tiny_classifier, pictures):
    """Of what the same clients get when they do not pause. Memory and open files stay what they are."""
    with Server(tiny_classifier, "--timeout", 600) as server:  # a machine that sleeps loses no request
        statuses = []

        def ask(number, interval, count):
            """One request each `interval`, or as soon as the one before is answered."""
            with closing(Client(server)) as client:
                for _ in range(count):
                    started = time.monotonic()
                    statuses.append(client.predict(pictures[number])[0])
                    time.sleep(max(0.0, started + interval - time.monotonic()))

        def load(rate, seconds):
            """Seconds that it took."""
            started = time.monotonic()
            interval, count = NUM_CLIENTS / rate, int(rate * seconds / NUM_CLIENTS)
            with ThreadPoolExecutor(NUM_CLIENTS) as pool:
                list(pool.map(lambda number: ask(number, interval, count), range(NUM_CLIENTS)))
            return time.monotonic() - started

        peak = 10_000 / load(rate=10_000, seconds=1)
        load(0.7 * peak, seconds=60)
        memory, files = held(server)
        lasted = load(0.7 * peak, seconds=600)
        later_memory, later_files = held(server)
        print(f"{peak:.0f} requests/s at most; {len(statuses)} in all, the last 600 s of them in {lasted:.0f} s")
        print(
            f"{memory / 1e6:.1f} MB and {files} files, in the end {later_memory / 1e6:.1f} MB and {later_files} files"
        )
        assert set(statuses) == {200}
        assert later_memory <= 1.05 * memory
        assert later_files == files


def held(server):
    """Bytes and open files of the server and its worker, once the connections of clients that left are closed."""
    time.sleep(1)
    family = [psutil.Process(server.process.pid), server.worker]
    return sum(each.memory_info().rss for each in family), sum(each.num_fds() for each in family)
