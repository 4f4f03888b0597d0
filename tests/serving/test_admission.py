"""Who is let in: full, slow, too large, malformed and hostile requests, beside good ones."""

import gzip
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from coatnet.data.images import ImageError, decode
from coatnet.serving.bodies import HeldBodies, client_of
from coatnet.serving.config import ServeConfig
from coatnet.serving.problems import ProblemError
from coatnet.serving.server import bound
from serving.conftest import MAX_BYTES, picture
from serving.servers import Server, check_problem, wait_for

LIMIT = 100_000
SHOP = "http://shop.test"
FURTHER = {b"connection: close", b"vary: origin"}
"""What an answer by the application may say beside what one before it says."""


@pytest.fixture(scope="module")
def small(tiny_classifier):
    """Small limits: files of 100 kB, four that wait."""
    flags = (
        "--name",
        "tiny",
        "--queue",
        4,
        "--batch-size",
        2,
        "--max-bytes",
        LIMIT,
        "--timeout",
        20,
        "--origins",
        SHOP,
    )
    with Server(tiny_classifier, *flags, token="s3cret") as running:
        yield running


def say(server, *pieces, pause=0.0):
    """Send bytes as they are, and return the answer."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        for piece in pieces:
            try:
                connection.sendall(piece)
            except OSError:  # the answer is there before the end of the request
                break
            time.sleep(pause)
        answer = b""
        while received := connection.recv(65536):
            answer += received
            if b"content-length" in answer.lower() and answer.endswith(b"}"):
                break
        return answer


def head(server, *lines):
    token = [f"{name}: {value}" for name, value in server.headers.items()]
    return "\r\n".join(("POST /predict HTTP/1.1", "Host: x", *token, *lines, "", "")).encode()


def check_answer(answer, status, code):
    start, _, body = answer.partition(b"\r\n\r\n")
    assert start.startswith(b"HTTP/1.1 %d " % status), answer[:300]
    assert b"application/problem+json" in start
    assert b'"code": "%s"' % code.encode() in body


# --- room and deadlines ----------------------------------------------------------------------------------------------


@pytest.fixture
def halted(small):
    """The worker stands still over one image, so that nothing leaves the queue but by its deadline."""
    with ThreadPoolExecutor(1) as pool:
        worker, given = small.worker, small.metrics()["coatnet_batch_images_count"]
        worker.suspend()
        first = pool.submit(small.predict, picture(99))
        wait_for(lambda: small.metrics()["coatnet_batch_images_count"] > given)
        yield small
        worker.resume()
        assert first.result().status_code == 200


def test_a_full_queue_is_said_at_once_and_what_was_accepted_is_answered(halted):
    with ThreadPoolExecutor(4) as pool:
        accepted = [pool.submit(halted.predict, picture(seed)) for seed in range(4)]
        wait_for(lambda: halted.metrics()["coatnet_images_waiting"] == 4)
        refused = halted.predict(picture(5), headers={"origin": SHOP})
        check_problem(refused, 429, "queue_full")
        assert refused.headers["access-control-allow-origin"] == SHOP
        assert refused.headers["retry-after"] == "1"
        assert halted.is_ready()
        halted.worker.resume()
        assert {answer.result().status_code for answer in accepted} == {200}


def test_a_full_queue_is_said_to_every_kind_of_request(halted):
    """Small ones are refused before the application sees them, the others by it; the answer is the same."""
    kind, body = "Content-Type: image/png", b"x" * 1000
    chunked = (kind, "Transfer-Encoding: chunked")
    requests = [
        (head(halted, kind, "Content-Length: 1000"), body),
        (head(halted, kind, "Content-Length: 1000", "Connection: close"), body),
        (head(halted, kind, "Content-Length: 1000", "Expect: 100-continue"),),
        (head(halted, kind, "Content-Length: 90000"),),
        (head(halted, *chunked), b"3e8\r\n" + body + b"\r\n0\r\n\r\n"),
    ]
    with ThreadPoolExecutor(4) as pool:
        accepted = [pool.submit(halted.predict, picture(seed)) for seed in range(4)]
        wait_for(lambda: halted.metrics()["coatnet_images_waiting"] == 4)
        before = halted.metrics()
        seen = []
        for pieces in requests:
            answer = say(halted, *pieces, pause=0.1)
            check_answer(answer, 429, "queue_full")
            seen.append(
                {line for line in answer.partition(b"\r\n\r\n")[0].lower().split(b"\r\n") if b"date" not in line}
            )
        assert all(seen[0] == lines - FURTHER for lines in seen)
        stranger = [piece.replace(b"s3cret", b"secret") for piece in requests[0]]
        check_answer(say(halted, *stranger), 401, "unauthorized")
        after = halted.metrics()
        halted.worker.resume()
        assert {answer.result().status_code for answer in accepted} == {200}
    for name, count in (
        ('coatnet_answers_total{endpoint="predict",status="429"}', len(requests)),
        ('coatnet_answer_seconds_count{endpoint="predict"}', len(requests) + 1),
        ('coatnet_problems_total{code="queue_full"}', len(requests)),
        ('coatnet_problems_total{code="unauthorized"}', 1),
    ):
        assert after[name] - before.get(name, 0) == count, name


def test_after_a_refusal_the_connection_can_be_used_and_is_closed_when_idle(halted):
    request = head(halted, "Content-Type: image/png", "Content-Length: 1000")
    with ThreadPoolExecutor(4) as pool:
        accepted = [pool.submit(halted.predict, picture(seed)) for seed in range(4)]
        wait_for(lambda: halted.metrics()["coatnet_images_waiting"] == 4)
        with socket.create_connection(("127.0.0.1", halted.port), timeout=20) as connection:
            for _ in range(2):
                connection.sendall(request)
                check_answer(connection.recv(65536), 429, "queue_full")
                connection.sendall(b"x" * 500)
                time.sleep(0.1)
                connection.sendall(b"x" * 500)
            began = time.monotonic()
            assert connection.recv(1) == b""
            assert 2 < time.monotonic() - began < 20  # uvicorn's 5 s
        halted.worker.resume()
        assert {answer.result().status_code for answer in accepted} == {200}


def test_what_is_too_late_never_reaches_the_network(halted):
    computed, dropped = (halted.metrics()[f"coatnet_images_{what}_total"] for what in ("computed", "dropped"))
    with ThreadPoolExecutor(4) as pool:
        started = time.monotonic()
        late = [pool.submit(halted.predict, picture(seed), headers={"x-timeout-seconds": "0.4"}) for seed in range(4)]
        for answer in late:
            check_problem(answer.result(), 504, "expired")
        assert time.monotonic() - started < 3  # a tenth above 0.4 s on an idle machine, which this need not be
    halted.worker.resume()
    wait_for(lambda: halted.metrics()["coatnet_images_dropped_total"] == dropped + 4)
    assert halted.predict(picture(0)).status_code == 200
    assert halted.metrics()["coatnet_images_computed_total"] == computed + 2  # that of the fixture, and this one


def test_the_deadline_is_looked_at_in_the_worker_too(small):
    """An image that was in time when the batch was made up, and is not when the worker has decoded it."""
    computed = small.metrics()["coatnet_images_computed_total"]
    small.worker.suspend()
    check_problem(small.predict(picture(0), headers={"x-timeout-seconds": "0.2"}), 504, "expired")
    small.worker.resume()
    assert small.predict(picture(0)).status_code == 200
    assert small.metrics()["coatnet_images_computed_total"] == computed + 1


def test_nothing_is_computed_for_who_has_left(halted):
    computed = halted.metrics()["coatnet_images_computed_total"]
    with pytest.raises(httpx.ReadTimeout):
        halted.client.post("/predict", content=picture(0), headers={"content-type": "image/png"}, timeout=0.3)
    wait_for(lambda: halted.metrics().get('coatnet_problems_total{code="gone"}') == 1)
    halted.worker.resume()
    assert halted.predict(picture(0)).status_code == 200
    assert halted.metrics()["coatnet_images_computed_total"] == computed + 2


def test_predictions_go_on_beside_an_explanation_that_hangs(small):
    def explain(seconds):
        headers = {"content-type": "image/png", "x-timeout-seconds": str(seconds)}
        return small.client.post("/explain", content=picture(0), headers=headers)

    assert explain(20).status_code == 200
    first = small.explainer
    first.suspend()
    with ThreadPoolExecutor(1) as pool:
        hangs = pool.submit(explain, 3)
        wait_for(lambda: explain(1).json()["code"] == "one_at_a_time")
        assert small.predict(picture(0)).status_code == 200
        check_problem(hangs.result(), 504, "expired")
    wait_for(lambda: not first.is_running())
    assert explain(20).status_code == 200
    assert small.metrics()["coatnet_worker_deaths_total"] == 0  # of those that predict


# --- size ------------------------------------------------------------------------------------------------------------


SPARE = 65_536 + 1_000
"""Read of a body beyond its limit, at most; and the heads of this request and of that for the metrics."""


def received(server):
    return server.metrics()["coatnet_received_bytes_total"]


def test_too_long_by_its_own_word_is_refused_before_a_byte_is_read(small):
    answer = say(small, head(small, "Content-Type: image/png", f"Content-Length: {LIMIT + 1}"))
    check_answer(answer, 413, "too_large_bytes")
    assert b"connection: close" in answer
    before = received(small)
    answer = say(small, head(small, "Content-Type: image/png", "Content-Length: 50000000"), bytes(50_000_000))
    check_answer(answer, 413, "too_large_bytes")
    assert received(small) - before <= LIMIT + SPARE  # one or two reads of the connection, by when the answer is ready


def test_too_long_without_a_word_is_cut_off(small):
    """What was sent beyond lies in the buffers of the system, some hundred kB, and not in the server."""
    chunk = b"4000\r\n" + bytes(0x4000) + b"\r\n"
    before = received(small)
    with socket.create_connection(("127.0.0.1", small.port), timeout=20) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
        connection.sendall(head(small, "Content-Type: image/png", "Transfer-Encoding: chunked"))
        sent = 0
        connection.settimeout(0.5)
        with pytest.raises((TimeoutError, ConnectionError)):
            while sent < 100_000_000:
                connection.sendall(chunk)
                sent += len(chunk)
        check_answer(connection.recv(65536), 413, "too_large_bytes")
    assert sent < 10_000_000
    assert LIMIT <= received(small) - before <= LIMIT + SPARE


def test_the_largest_file_is_taken(small):
    data = picture(0) + bytes(LIMIT)
    assert small.predict(data[:LIMIT]).status_code == 200
    check_problem(small.predict(data[: LIMIT + 1]), 413, "too_large_bytes")
    form = {"image": ("a.png", data[:LIMIT])}
    assert small.client.post("/predict", files=form).status_code == 200


# --- who may ask -----------------------------------------------------------------------------------------------------


def test_the_token_is_wanted_for_all_but_health_and_the_page(small):
    with httpx.Client(base_url=small.started["url"]) as stranger:
        for path in ("/model", "/metrics", "/openapi.json", "/v2", "/v2/models/tiny", "/nothing"):
            refused = stranger.get(path)
            check_problem(refused, 401, "unauthorized")
            assert refused.headers["www-authenticate"] == "Bearer"
        check_problem(stranger.post("/predict", content=picture(0)), 401, "unauthorized")
        for wrong in ("Bearer", "Bearer s3cre", "Bearer s3crett", "Basic s3cret", "\xff"):
            headers = {"authorization": wrong.encode("latin1")}
            check_problem(stranger.get("/model", headers=headers), 401, "unauthorized")
        for scheme in ("bearer", "BEARER", "Bearer "):
            assert stranger.get("/model", headers={"authorization": f"{scheme} s3cret"}).status_code == 200
        for path in ("/healthz", "/readyz", "/v2/health/ready", "/v2/models/tiny/ready", "/", "/page/page.js"):
            assert stranger.get(path).status_code == 200
    assert small.client.get("/model").status_code == 200


def preflight(client, origin, method="POST"):
    asked = {"access-control-request-method": method, "access-control-request-headers": "authorization,content-type"}
    return client.options("/predict", headers={"origin": origin, **asked})


def test_a_page_of_an_allowed_origin_may_ask_and_reads_refusals_too(small):
    """A browser asks first, without the token; and it shows a page no answer that does not name its origin."""

    def check(answer, status, origin=SHOP):
        assert (answer.status_code, answer.headers.get("access-control-allow-origin")) == (status, origin)

    with httpx.Client(base_url=small.started["url"]) as stranger:
        allowed = preflight(stranger, SHOP)
        check(allowed, 200)
        assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
        check(stranger.get("/model", headers={"origin": SHOP}), 401)
        for origin, method in (("http://shop.test:81", "POST"), (SHOP, "DELETE")):
            check_problem(preflight(stranger, origin, method), 400, "origin_not_allowed")
    answer = small.predict(picture(0), headers={"origin": SHOP})
    check(answer, 200)
    assert "server-timing" in answer.headers["access-control-expose-headers"].lower()
    check(small.predict(b"x", headers={"origin": SHOP}), 415)
    check(small.predict(bytes(LIMIT + 1), headers={"origin": SHOP}), 413)
    check(small.predict(picture(0), headers={"origin": "http://other.test"}), 200, None)


@pytest.mark.parametrize("origin", ["shop.test", "http://shop.test/", "HTTP://shop.test", "http://*.test"])
def test_an_origin_that_no_browser_would_send_is_told(origin):
    with pytest.raises(ValueError, match="expected an origin without a path"):
        ServeConfig(origins=(origin,))


def test_defaults_are_careful(server):
    check_problem(preflight(server.client, "http://elsewhere.example"), 405, "method_not_allowed")
    assert ServeConfig().host == "127.0.0.1"
    addresses = [
        each.address for found in psutil.net_if_addrs().values() for each in found if each.family == socket.AF_INET
    ]
    for address in addresses:
        with socket.socket() as connection:
            reached = connection.connect_ex((address, server.port)) == 0
            assert reached == address.startswith("127.")
    answer = server.client.get("/", headers={"origin": "http://elsewhere.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "server" not in answer.headers


def test_answers_leave_at_once():
    """With Nagle's algorithm each would wait 40 ms for the acknowledgement of its first half."""
    with bound(ServeConfig(port=0)) as listener:
        listener.listen()
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            assert accepted.proto == socket.IPPROTO_TCP


# --- clients that mean ill -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_who_drips_is_closed_and_the_others_are_served(server, count):
    stop, lasted = threading.Event(), []

    def drip(number):
        start = b"POST /predict HTTP/1.1\r\nHost: x\r\n"
        if number % 2:
            start += b"Content-Type: image/png\r\nContent-Length: 5000\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            began = time.monotonic()
            connection.sendall(start)
            connection.settimeout(0.5)
            while not stop.is_set():
                try:
                    connection.sendall(b"x")
                    if connection.recv(4096) == b"":
                        break
                except TimeoutError:
                    continue
                except OSError:
                    break
            lasted.append(time.monotonic() - began)

    silent = socket.create_connection(("127.0.0.1", server.port))
    # A body of which all but a byte came at once has bought no time by that: it would hold its memory.
    stalled = socket.create_connection(("127.0.0.1", server.port))
    stalled.sendall(head(server, "Content-Type: image/png", f"Content-Length: {MAX_BYTES}") + bytes(MAX_BYTES - 1))
    with silent, stalled, ThreadPoolExecutor(count) as pool:
        for number in range(count):
            pool.submit(drip, number)
        good = []
        for _ in range(200):
            good.append(server.predict(picture(0)).status_code)
            if len(lasted) == count:
                break
            time.sleep(0.06)
        wait_for(lambda: len(lasted) == count)
        stop.set()
        silent.settimeout(3)
        assert silent.recv(100) == b""
        stalled.settimeout(10)
        check_answer(stalled.recv(65536), 408, "slow")
    assert set(good) == {200}
    assert max(lasted) <= 10


def bad_requests(count):
    """(content type, body) of each; mutants of pictures, some of which are still pictures, and forms."""
    chance = random.Random(0)
    files = [picture(seed, kind) for seed, kind in enumerate(("PNG", "JPEG", "WEBP"))]
    for number in range(count):
        data = bytearray(files[number % 3])
        for _ in range(chance.choice((1, 4, 30))):
            data[chance.randrange(len(data))] = chance.randrange(256)
        if chance.random() < 0.4:
            del data[chance.randrange(len(data)) :]
        body = bytes(data)
        kind = chance.choice(("raw", "raw", "raw", "form", "text", "packed", "noise"))
        if kind == "form":
            whole = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + body + b"\r\n--x--\r\n"
            start, end = sorted(chance.randrange(len(whole)) for _ in range(2))
            yield {"content-type": "multipart/form-data; boundary=x"}, whole[:start] + whole[end:]
        elif kind == "text":
            yield {"content-type": chance.choice(("text/html", "application/json", "image/svg+xml", "x"))}, body
        elif kind == "packed":
            yield {"content-type": "image/png", "content-encoding": "gzip"}, gzip.compress(bytes(10**6))
        elif kind == "noise":
            yield {"content-type": "image/jpeg"}, chance.randbytes(chance.randrange(300))
        else:
            yield {"content-type": "image/png"}, body


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_bad_bodies_beside_good_ones(server, count):
    good, said = server.predict(picture(7)).json(), server.said()
    limits = ServeConfig().limits
    with ThreadPoolExecutor(4) as pool:

        def ask(request):
            headers, body = request
            return request, server.client.post("/predict", content=body, headers=headers)

        for number, ((headers, body), answer) in enumerate(pool.map(ask, bad_requests(count))):
            if answer.status_code == 200:
                assert "encoding" not in str(headers)
                if not headers["content-type"].startswith("multipart"):
                    decode(body, limits)
                continue
            assert 400 <= answer.status_code < 500, answer.text
            told = answer.json()
            check_problem(answer, told["status"], told["code"])
            if headers == {"content-type": "image/png"}:
                with pytest.raises(ImageError):
                    decode(body, limits)
            if number % 10 == 0:
                assert server.predict(picture(7)).json()["probability"] == pytest.approx(good["probability"], abs=1e-5)
    assert server.said() == said  # the log is not theirs to fill


@pytest.mark.parametrize(
    "lines",
    [
        b"nonsense\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
        b"POST /predict HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcde",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcdefgh\r\n",
    ],
)
def test_what_is_no_http(server, lines):
    answer = say(server, lines)
    check_answer(answer, 400, "malformed")
    assert b"connection: close" in answer


@pytest.mark.parametrize("target", [b"http://x/healthz", b"HTTP://x:80/healthz?a=://b", b"/healthz?a=http://b"])
def test_the_target_may_be_the_whole_address(server, target):
    answer = say(server, b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_no_client_can_fill_the_memory_for_bodies():
    bodies = HeldBodies(120)

    def most(client):
        """Held one by one until it is refused."""
        for count in range(121):
            try:
                bodies.check(client, 1)
            except ProblemError:
                return count
            bodies.hold(client, 1)
        raise AssertionError("there is no end")

    first, second = most("192.0.2.1"), most("192.0.2.2")
    assert (first, second) == (60, 30)
    bodies.check("192.0.2.3", 15)
    with pytest.raises(ProblemError, match="memory"):
        bodies.check("192.0.2.3", 16)
    bodies.hold("192.0.2.1", -first)
    bodies.hold("192.0.2.2", -second)
    assert most("192.0.2.3") == 60


def test_an_ipv6_client_has_all_addresses_of_its_network():
    assert client_of("2001:db8::1") == client_of("2001:db8::ffff:1") != client_of("2001:db8:0:1::1")
    assert client_of("fe80::1%eth0") == client_of("fe80::2")
    assert client_of("192.0.2.1") != client_of("192.0.2.2")


# --- counting --------------------------------------------------------------------------------------------------------


def test_counters_are_what_clients_count(server, pictures):
    earlier = server.metrics()
    asked = [*pictures[:9], b"x", b"", pictures[0][:50]]
    with ThreadPoolExecutor(6) as pool:
        statuses = [answer.status_code for answer in pool.map(server.predict, asked)]
    server.client.get("/nothing")
    later = server.metrics()

    def grown(name):
        return later.get(name, 0) - earlier.get(name, 0)

    for status in (200, 400, 415):
        assert grown(f'coatnet_answers_total{{endpoint="predict",status="{status}"}}') == statuses.count(status) > 0
    assert grown('coatnet_answers_total{endpoint="other",status="404"}') == 1
    assert grown("coatnet_images_computed_total") == 9
    assert grown("coatnet_batch_images_sum") == len(asked)
    assert grown("coatnet_wait_seconds_count") == len(asked)
    assert grown('coatnet_answer_seconds_count{endpoint="predict"}') == len(asked)
    assert [grown(f'coatnet_problems_total{{code="{code}"}}') for code in ("empty", "truncated", "not_found")] == [
        1
    ] * 3
    assert (later["coatnet_ready"], later["coatnet_images_waiting"]) == (1, 0)
