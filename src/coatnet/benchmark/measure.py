"""Images per second, latency and memory of a network, in turn with its peer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from coatnet.benchmark.runtimes import RUNTIMES, TORCH, create_engine
from coatnet.benchmark.stages import StageTime, time_stages
from coatnet.model.config import CoAtNetConfig
from coatnet.model.family import FAMILY, ModelConfig, architecture, create_model
from coatnet.model.guests import PREFIX
from coatnet.model.size import model_size
from coatnet.runtime.engines import Engine, find_device
from coatnet.runtime.timing import Ceilings, Timing, measure_ceilings, time_in_turn, watch_memory

if TYPE_CHECKING:
    from torch import nn

Key = tuple[str, str]
"""Network and runtime."""
Images = NDArray[np.float32]


@dataclass(frozen=True)
class Speed:
    """One network on one runtime at one batch size."""

    model: str
    runtime: str
    batch_size: int
    timing: Timing
    """Of batches."""
    share_of_ceiling: float
    """Of the machine's matrix product in this precision, 0 to 1: multiply-adds of the network, counted twice."""

    @property
    def images_per_second(self) -> float:
        """At the median."""
        return self.batch_size / self.timing.median

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "model": self.model,
            "runtime": self.runtime,
            "batch_size": self.batch_size,
            "images_per_second": self.images_per_second,
            "latency_median_seconds": self.timing.median,
            "latency_p95_seconds": self.timing.p95,
            "share_of_ceiling": self.share_of_ceiling,
        }


@dataclass(frozen=True)
class Benchmark:
    """All that was measured of a network."""

    model: str
    peer: str | None
    """timm's network of the same name; None if there is none."""
    image_size: tuple[int, int]
    multiply_adds: int
    """Of one image."""
    device: str
    threads: int
    ceilings: Ceilings
    speeds: tuple[Speed, ...]
    memory: dict[str, int]
    """Bytes that each runtime took at its peak, at the largest batch size, beyond what was held before."""
    stages: tuple[StageTime, ...]
    """Of one batch of the largest size; none for a guest, whose parts are its own."""
    stage_runtime: str
    """What they were timed on: torch without compilation, in the precision of the last runtime."""

    def times_peer(self, one: Speed) -> float | None:
        """How many times as fast as the peer's fastest runtime at this batch size; paired, the peer's calls were
        neighbours in time."""
        rivals = [rival for rival in self.speeds if rival.model == self.peer and rival.batch_size == one.batch_size]
        if not rivals or one in rivals:
            return None
        return min(rivals, key=lambda rival: rival.timing.median).timing.ratio_to(one.timing)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON: seconds, bytes, and rates as fractions."""
        return {
            "model": self.model,
            "peer": self.peer,
            "image_size": list(self.image_size),
            "multiply_adds": self.multiply_adds,
            "device": self.device,
            "threads": self.threads,
            "ceilings": self.ceilings.as_dict(),
            "speeds": [{**one.as_dict(), "times_peer": self.times_peer(one)} for one in self.speeds],
            "peak_memory_bytes": self.memory,
            "stage_runtime": self.stage_runtime,
            "stages": [stage.as_dict() for stage in self.stages],
        }


def benchmark(  # noqa: PLR0913 (keyword-only: what is varied)
    name: str,
    model: nn.Module,
    *,
    batch_sizes: Sequence[int],
    runtimes: Sequence[str],
    rounds: int,
    image_size: tuple[int, int] | None = None,
    device: str = "auto",
) -> Benchmark:
    """Measure a network beside timm's of the same name, all in turn at each batch size.

    Args:
        name: what to call it.
        model: what `create_model` gives.
        batch_sizes: images at once.
        runtimes: of `RUNTIMES`. The peer runs as its users have it, on `TORCH`, and converted where ours is; it is not
            compiled by torch, which takes minutes.
        rounds: counted batches of each.
        image_size: height and width in pixels; the config's own if not given.
        device: see `TorchEngine`.

    Raises:
        MissingPartError: the device, or what a runtime needs, is not in this machine.
    """
    import torch

    config = config_of(model)
    height, width = image_size or (config.image_size, config.image_size)
    place = find_device(device)
    ceilings = measure_ceilings(place)
    generator = np.random.default_rng(0)
    batches = [generator.normal(size=(size, 3, height, width)).astype(np.float32) for size in batch_sizes]
    largest = max(batches, key=len)
    engines: dict[Key, Engine] = {}
    memory = {}
    for runtime in runtimes:
        with watch_memory(place) as peak:
            engines[name, runtime] = create_engine(runtime, model, device, (height, width))
            engines[name, runtime].logits(largest)
        memory[runtime] = peak.growth
    costs = {name: model_size(config, height, width).multiply_adds}
    peer = peer_of(config, (height, width))
    if peer is not None:
        rival = create_model(peer, num_classes=config.num_classes)
        costs[peer] = model_size(config_of(rival)).multiply_adds
        for runtime in dict.fromkeys((*TORCH, *runtimes)):
            if not runtime.startswith("compiled"):
                engines[peer, runtime] = create_engine(runtime, rival, device, (height, width))
    precision = RUNTIMES[runtimes[-1]]
    return Benchmark(
        model=name,
        peer=peer,
        image_size=(height, width),
        multiply_adds=costs[name],
        device=str(place),
        threads=torch.get_num_threads(),
        ceilings=ceilings,
        speeds=tuple(speed for batch in batches for speed in _speeds(engines, batch, rounds, costs, ceilings)),
        memory=memory,
        stages=time_stages(model, largest, place, precision, rounds),
        stage_runtime=f"torch-{precision}",
    )


def _speeds(
    engines: dict[Key, Engine], batch: Images, rounds: int, costs: dict[str, int], ceilings: Ceilings
) -> Iterator[Speed]:
    """All engines in turn on one batch."""
    calls = {key: partial(engine.logits, batch) for key, engine in engines.items()}
    timings = time_in_turn(calls, rounds, settle=True)
    for (model, runtime), timing in timings.items():
        reached = 2 * costs[model] * len(batch) / timing.median
        ceiling = ceilings.bfloat16 if RUNTIMES[runtime] == "bfloat16" else ceilings.float32
        yield Speed(model, runtime, len(batch), timing, reached / ceiling)


def config_of(model: nn.Module) -> ModelConfig:
    """The config that `create_model` gave a network."""
    return cast(ModelConfig, model.network_config)


def peer_of(config: ModelConfig, image_size: tuple[int, int]) -> str | None:
    """timm's network of the same name, as it ships: `coatnet_0` to `coatnet_5` at 224 px; None for any other."""
    if not isinstance(config, CoAtNetConfig) or image_size != (224, 224):
        return None
    names = [name for name, member in FAMILY.items() if architecture(member) == architecture(config)]
    from timm.models import is_model

    return next((f"{PREFIX}{name}_224" for name in names if is_model(f"{name}_224")), None)
