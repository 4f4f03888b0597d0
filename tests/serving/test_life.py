"""Start, reload, the death of a worker, and the end: by signals to real processes."""

import asyncio
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from coatnet.classifier import Classifier
from coatnet.model.family import create_model
from coatnet.serving.batcher import Batcher
from coatnet.serving.messages import Classify, Item
from coatnet.serving.metrics import Metrics
from coatnet.serving.problems import DRAINING
from coatnet.serving.supervisor import patience_for
from serving.conftest import picture
from serving.servers import IN_TORCH, Server, check_problem, wait_for


def test_sigterm_answers_what_was_accepted_and_leaves_nothing_behind(tiny_classifier):
    """Under load: whoever was let in has an answer, whoever comes later is told so, and the exit code is 0."""
    with Server(tiny_classifier, "--batch-size", 1, "--queue", 8) as server:
        family = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
        answers, unanswered, told = [], [], threading.Event()

        def load():
            with httpx.Client(base_url=server.started["url"], timeout=30) as client:
                while not told.is_set() or server.process.poll() is None:
                    try:
                        headers = {"content-type": "image/png"}
                        answers.append(client.post("/predict", content=picture(1), headers=headers))
                    except httpx.ConnectError:  # the port is closed: this one was never accepted
                        return
                    except httpx.TransportError as error:
                        unanswered.append(error)
                        return

        with ThreadPoolExecutor(4) as pool:
            for _ in range(4):
                pool.submit(load)
            wait_for(lambda: len(answers) > 20)
            server.worker.suspend()
            worker = server.worker
            wait_for(lambda: server.metrics()["coatnet_images_waiting"] == 3)
            num_answered = len(answers)
            server.process.send_signal(signal.SIGTERM)
            started = time.monotonic()
            wait_for(lambda: not server.is_ready())
            assert time.monotonic() - started < 3  # 0.2 s on an idle machine
            check_problem(server.predict(picture(1)), 503, "draining")
            assert server.client.get("/healthz").status_code == 200
            told.set()
            worker.resume()
            assert server.process.wait(30) == 0, server.said()
        assert server.said() == ""
    assert {answer.status_code for answer in answers} == {200, 503}
    # One was being computed and three waited: all that was accepted.
    assert [answer.status_code for answer in answers[num_answered:]].count(200) == 4
    for answer in answers:
        if answer.status_code == 503:
            check_problem(answer, 503, "draining")
    # A connection that lay idle may be closed under a request that was not read yet.
    assert all(isinstance(error, httpx.RemoteProtocolError | httpx.ReadError) for error in unanswered)
    alive = [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert not alive


def test_a_worker_that_dies_comes_back_but_not_for_ever(tiny_classifier):
    with Server(tiny_classifier) as server:
        first = server.worker
        first.suspend()
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(server.predict, picture(0))
            wait_for(lambda: server.metrics()["coatnet_batch_images_count"] == 1)
            first.kill()
            answer = asked.result()
        check_problem(answer, 503, "worker_died")
        assert answer.headers["retry-after"] == "1"
        assert not server.is_ready()
        check_problem(server.predict(picture(0)), 503, "loading")
        wait_for(server.is_ready)
        assert server.predict(picture(0)).status_code == 200
        assert server.metrics()["coatnet_worker_deaths_total"] == 1
        server.worker.kill()
        wait_for(lambda: server.metrics()["coatnet_worker_deaths_total"] == 2)
        wait_for(server.is_ready)
        server.worker.kill()
        assert server.process.wait(20) == 7
        assert "the worker died 3 times in a minute" in server.said()
        assert "Traceback" not in server.said()


def test_a_worker_that_hangs_is_replaced(tiny_classifier):
    with Server(tiny_classifier) as server:
        first = server.worker
        first.suspend()
        check_problem(server.predict(picture(0), headers={"x-timeout-seconds": "0.1"}), 504, "expired")
        wait_for(lambda: server.metrics()["coatnet_worker_deaths_total"] == 1)
        assert server.client.get("/healthz").status_code == 200
        wait_for(server.is_ready)
        assert not first.is_running()
        assert server.predict(picture(0)).status_code == 200
        assert "the worker hung and was killed" in server.said()


def test_sigterm_ends_a_server_whose_worker_hangs(tiny_classifier):
    with Server(tiny_classifier, "--timeout", 600) as server:
        worker = server.worker
        worker.suspend()
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(server.predict, picture(0), headers={"x-timeout-seconds": "0.1"})
            check_problem(asked.result(), 504, "expired")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0, server.said()
        assert not worker.is_running()


def test_a_client_in_a_hurry_does_not_make_a_slow_batch_hang():
    hurried, patient = (Item(b"", Classify(1), time.monotonic() + seconds) for seconds in (0.1, 1000))
    assert patience_for([hurried], 20.0) >= 10 * 20.0
    assert patience_for([hurried], 0.01) < 6  # a fast network is not waited for
    assert patience_for([hurried, patient], 0.01) > 990


def test_who_still_waits_when_the_server_stops_is_told_so():
    async def stop():
        async def compute_for_ever(items):
            await asyncio.sleep(60)

        batcher = Batcher(compute_for_ever, Metrics())
        batcher.open(capacity=4, batch_size=1)
        running = asyncio.create_task(batcher.run())
        answers = batcher.ask([Item(b"", Classify(1), time.monotonic() + 60)] * 3)
        await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait([running])
        batcher.abandon(DRAINING)
        assert await asyncio.wait_for(asyncio.gather(*answers), 5) == [DRAINING] * 3

    asyncio.run(stop())


def test_a_server_without_explanations_says_so(tiny_classifier):
    with Server(tiny_classifier, "--no-explain") as server:
        assert server.client.get("/model").json()["methods"] == []
        answer = server.client.post("/explain", content=picture(0), headers={"content-type": "image/png"})
        check_problem(answer, 422, "does_not_apply")
        assert "--no-explain" in answer.json()["detail"]


def test_a_reload_serves_the_new_folder_or_goes_on_with_the_old(tiny_classifier, tiny_config, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_classifier, folder)
    with Server(folder) as server:
        before = server.predict(picture(0)).json()
        weights = folder / "model.safetensors"
        whole = weights.read_bytes()
        weights.write_bytes(whole[:-100])
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: server.metrics().get('coatnet_reloads_total{outcome="failed"}') == 1)
        assert server.is_ready()
        assert server.predict(picture(0)).json() == before
        assert "the old classifier is served on" in server.said()
        weights.write_bytes(whole)
        other = tiny_config.replace(num_classes=2)
        Classifier(create_model(other), class_names=("up", "down")).save(folder)
        server.process.send_signal(signal.SIGHUP)
        statuses = set()

        def is_done():
            statuses.add(server.predict(picture(0)).status_code)
            return server.metrics().get('coatnet_reloads_total{outcome="done"}') == 1

        wait_for(is_done)
        assert statuses == {200}
        assert {name for name, _ in server.predict(picture(0)).json()["top"]} == {"up", "down"}
        assert server.client.get("/model").json()["classes"] == ["up", "down"]
        assert len(psutil.Process(server.process.pid).children()) == 2  # the worker, and multiprocessing's tracker


@pytest.mark.parametrize("damage", ["missing", "weights"])
def test_a_bad_model_is_never_ready(tiny_classifier, tmp_path, damage):
    folder = tmp_path / "model"
    if damage == "weights":
        shutil.copytree(tiny_classifier, folder)
        (folder / "model.safetensors").write_bytes(b"x" * 100)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "coatnet", "serve", str(folder), "--port", str(port)]
    seen = set()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            with socket.socket() as connection:
                if connection.connect_ex(("127.0.0.1", port)) == 0:
                    connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
                    seen.add(connection.recv(12))
            time.sleep(0.05)
        out, err = process.communicate()
    assert process.returncode == 4, err
    assert seen <= {b"HTTP/1.1 503", b""}
    assert (out, err.count("\n")) == ("", 2)


def test_a_port_that_is_taken_is_said(tiny_classifier, server):
    command = [sys.executable, "-m", "coatnet", "serve", str(tiny_classifier), "--port", str(server.port)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert f"--port {server.port}" in ran.stderr


WITHOUT = """
import sys
for name in {names!r}: sys.modules[name] = None
from coatnet.cli import main
sys.exit(main(["serve", {folder!r}]))
"""


@pytest.mark.parametrize("name", ["fastapi", "uvicorn", "python_multipart", "prometheus_client"])
def test_without_the_extra_it_says_so(tiny_classifier, name):
    code = WITHOUT.format(names=[name], folder=str(tiny_classifier))
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 5
    assert name in ran.stderr
    assert ".[serve]" in ran.stderr


def test_what_is_printed_for_people(tiny_classifier):
    command = [sys.executable, "-m", "coatnet", "serve", str(tiny_classifier), "--port", "0", *IN_TORCH]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        first, second = process.stdout.readline(), process.stdout.readline()
        process.send_signal(signal.SIGINT)
    assert process.returncode == 0
    assert first.startswith("tiny, 3 classes, at http://127.0.0.1:")
    assert second.startswith("torch on cpu, float32, 1 threads, batches of ")
