"""Many clients for a long time: answers are not mixed up, nothing leaks, nobody is forgotten."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import psutil
import pytest

from serving.servers import KINDS, Server


@pytest.mark.parametrize(
    ("num_clients", "num_requests"), [(8, 15), pytest.param(32, 10_000, marks=pytest.mark.slow, id="full")]
)
def test_each_client_gets_its_own_answer(server, pictures, num_clients, num_requests):
    """`num_requests` of each client, pictures in its own order; each answer is the one that the picture has alone."""
    alone = [dict(server.predict(data).json()["top"]) for data in pictures]

    def ask(client_index):
        order = np.random.default_rng(client_index).integers(0, len(pictures), num_requests)
        worst = 0.0
        with httpx.Client(base_url=server.started["url"], timeout=30) as client:
            for index in order:
                headers = {"content-type": KINDS[pictures[index][:1]]}
                answer = client.post("/predict", content=pictures[index], headers=headers)
                assert answer.status_code == 200, answer.text
                found = dict(answer.json()["top"])
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
    """Memory and open files stay what they are."""
    with Server(tiny_classifier) as server:

        def held():
            family = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children()]
            return sum(each.memory_info().rss for each in family), sum(each.num_fds() for each in family)

        statuses, stop = [], threading.Event()

        def ask(number):
            with httpx.Client(base_url=server.started["url"], timeout=30) as client:
                while not stop.is_set():
                    started = time.monotonic()
                    data = pictures[number]
                    headers = {"content-type": KINDS[data[:1]]}
                    statuses.append(client.post("/predict", content=data, headers=headers).status_code)
                    taken = time.monotonic() - started
                    stop.wait(taken * 0.3 / 0.7)  # at work for 70 % of the time

        with ThreadPoolExecutor(4) as pool:
            for number in range(4):
                pool.submit(ask, number)
            time.sleep(60)
            memory, files = held()
            time.sleep(540)
            later_memory, later_files = held()
            stop.set()
        assert set(statuses) == {200}
        assert later_memory <= 1.05 * memory
        assert later_files == files
