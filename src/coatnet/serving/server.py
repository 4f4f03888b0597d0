"""The life of a server: bind, load, serve, reload on SIGHUP, and on SIGTERM answer what was accepted and go."""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
import socket
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeAlias

import uvicorn

from coatnet.errors import ConfigError
from coatnet.serving.admission import Admission
from coatnet.serving.app import create_app
from coatnet.serving.config import ServeConfig
from coatnet.serving.explainer import Explainer
from coatnet.serving.messages import Job, Ready
from coatnet.serving.metrics import Metrics
from coatnet.serving.origins import for_origins
from coatnet.serving.protocol import DeadlineProtocol
from coatnet.serving.state import State
from coatnet.serving.supervisor import Supervisor

NOTICE_SECONDS = 1.0
"""After SIGTERM: as long as `readyz` says 503 at least, so that a balancer that asks each second sees it."""
GRACE_SECONDS = 5.0
"""Beyond the timeout of requests, for those whose body was still on its way. With the defaults that is half of the 30 s
that Kubernetes gives."""
LONGEST_DRAIN_SECONDS = 20.0
"""Whatever the timeout: with the 5 s of a worker's end and the 1 s of the connections', less than those 30 s."""


@dataclass(frozen=True)
class Started:
    """What is told once a server takes requests."""

    url: str
    """Of the page."""
    name: str
    """Of the model."""
    num_classes: int
    """How many it knows."""
    runtime: str
    """What computes."""
    threads: int
    """That compute; 0 if the runtime chooses."""
    batch_size: int
    """Most images computed at once."""
    queue: int
    """Most images that wait."""
    images_per_second: float
    """Computed, decoding apart, as measured at the start."""


Tell: TypeAlias = Callable[[Started], None]


def serve(config: ServeConfig, job: Job, tell: Tell) -> None:
    """Serve until a signal says stop.

    Args:
        config: where and how.
        job: what.
        tell: called once requests are taken.

    Raises:
        ConfigError: the address cannot be bound.
        CoatnetError: the classifier cannot be loaded; requests were never taken.
        ResourceError: the worker dies again and again.
    """
    # A line for each bad form would let anyone flood the log.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    with bound(config) as listener:
        asyncio.run(_serve(config, job, listener, tell))


@contextmanager
def bound(config: ServeConfig) -> Generator[socket.socket]:
    """A socket at the address, not listening yet.

    Raises:
        ConfigError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    # asyncio sends at once, without Nagle's 40 ms, only on a socket that says that its protocol is TCP.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((config.host, config.port))
        except OSError as error:
            where = f"--host {config.host} --port {config.port}"
            raise ConfigError(f"{where}: {error.strerror}", "choose another --port, or 0 for a free one") from None
        yield listener


async def _serve(config: ServeConfig, job: Job, listener: socket.socket, tell: Tell) -> None:
    supervisor = Supervisor(job, config.queue, Metrics())
    explainer = Explainer(job)
    state = State(config, supervisor, explainer)
    admission = create_app(state)
    server = _Server(admission, config.origins, supervisor, explainer)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    stopping = asyncio.create_task(server.stop.wait())
    starting = asyncio.create_task(supervisor.start())
    try:
        await _first(starting, stopping, serving)
        if starting.done():
            tell(_started(starting.result(), state, listener))
            await _first(stopping, serving, supervisor.failed)
        if supervisor.failed.done():
            supervisor.failed.result()
        await _drain(state, admission, server)
    finally:
        starting.cancel()
        stopping.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await asyncio.gather(supervisor.stop(), explainer.stop())
        server.should_exit = True
        await serving


def _started(ready: Ready, state: State, listener: socket.socket) -> Started:
    host, port = listener.getsockname()[:2]
    return Started(
        url=f"http://{f'[{host}]' if ':' in host else host}:{port}/",
        name=state.config.name,
        num_classes=len(ready.class_names),
        runtime=ready.runtime,
        threads=ready.tuned.threads,
        batch_size=ready.tuned.batch_size,
        queue=state.batcher.capacity,
        images_per_second=ready.tuned.rate,
    )


async def _first(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


async def _drain(state: State, admission: Admission, server: _Server) -> None:
    """Take no more, and wait until all is answered that was taken."""
    state.is_draining = True
    state.supervisor.metrics.ready.set(0)
    loop = asyncio.get_running_loop()
    started = loop.time()
    notice = NOTICE_SECONDS if server.stopped_by == signal.SIGTERM else 0
    longest = min(state.config.timeout + GRACE_SECONDS, LONGEST_DRAIN_SECONDS)
    while loop.time() - started < longest:
        if not admission.num_asking and loop.time() - started >= notice:
            return
        await asyncio.sleep(0.02)


class _Server(uvicorn.Server):
    """Uvicorn, with signals of ours: its own would close the port before a balancer could see that we are leaving."""

    def __init__(
        self, admission: Admission, origins: Sequence[str], supervisor: Supervisor, explainer: Explainer
    ) -> None:
        received = supervisor.metrics.received_bytes.inc
        protocol: Any = functools.partial(
            DeadlineProtocol, count=admission.count, received=received, refusal=admission.refusal
        )
        super().__init__(
            uvicorn.Config(
                for_origins(admission, origins),
                http=protocol,
                ws="none",
                lifespan="off",
                log_level="error",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=1,
            )
        )
        self._supervisor, self._explainer = supervisor, explainer
        self._reloads: set[asyncio.Task[None]] = set()
        self.stop = asyncio.Event()
        """Set by SIGTERM and Ctrl-C."""
        self.stopped_by: int | None = None

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Handle signals while the server runs."""
        loop = asyncio.get_running_loop()

        def on_stop(number: int, frame: FrameType | None) -> None:
            if self.stopped_by == signal.SIGINT == number:
                raise KeyboardInterrupt
            self.stopped_by = number
            loop.call_soon_threadsafe(self.stop.set)

        def on_hangup(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self._reload)

        handlers = {signal.SIGTERM: on_stop, signal.SIGINT: on_stop}
        if hasattr(signal, "SIGHUP"):
            handlers[signal.SIGHUP] = on_hangup
        previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _reload(self) -> None:
        task = asyncio.get_running_loop().create_task(self._load_anew())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _load_anew(self) -> None:
        await self._supervisor.reload()
        await self._explainer.stop()  # the next explanation loads what is served now
