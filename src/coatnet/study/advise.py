"""Which network to use for some data on this machine: within a latency or a size, by what a study found."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from coatnet.data.sources import DataConfig, open_data
from coatnet.errors import ConfigError
from coatnet.model.config import CoAtNetConfig
from coatnet.model.family import FAMILY, create_model
from coatnet.model.size import model_size
from coatnet.runtime.timing import time_in_turn
from coatnet.study.analysis import means, of, settings, values
from coatnet.study.config import study_config
from coatnet.study.folder import StudyFolder
from coatnet.study.layouts import matched_layouts, parse_budget
from coatnet.study.results import Result, gather
from coatnet.study.statistics import paired

MEMBERS_LAYOUT = "CCTT"
"""The paper's choice (section 2.2): that of all members but the largest two."""
UNTIMED, ROUNDS, TIMED = 5, 5, 20
"""Forward passes in which caches settle; then rounds, and timed passes in each. The latency is the worst of the rounds'
medians: a single slow pass says nothing, a slow round that what meets the limit now may not do so later."""


@dataclass(frozen=True)
class Limit:
    """What a network may cost; one of them is set."""

    latency: float | None = None
    """Seconds for one image."""
    parameters: float | None = None


@dataclass(frozen=True)
class Advice:
    """A network, and why."""

    layout: str
    name: str
    """Of a member; or of the layout, with the size of a member."""
    config: CoAtNetConfig
    parameters: int
    multiply_adds: int
    latency: float
    """Measured: seconds from a preprocessed image to its logits on this machine."""
    reason: str
    runs: tuple[str, ...]
    """Of the study, that say so."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON; the latency in seconds."""
        return {**asdict(self), "config": self.config.model_dump(mode="json"), "runs": list(self.runs)}


def parse_limit(latency: str | None, parameters: str | None) -> Limit:
    """ "20ms" or "0.5s", or "10M".

    Raises:
        ConfigError: neither or both, or not of this form.
    """
    if (latency is None) == (parameters is None):
        raise ConfigError("one limit is needed", "give --latency, as 20ms, or --parameters, as 10M")
    if parameters is not None:
        found = parse_budget(parameters).parameters if re.fullmatch(r"[\d.]+M", parameters) else None
        if found is None:
            raise ConfigError(f"--parameters {parameters:.60} is no number of parameters", "write millions as 10M")
        return Limit(parameters=found)
    told = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s)", latency or "")
    if not told or not float(told[1]):
        raise ConfigError(f"--latency {latency:.60} is no duration", "write it as 20ms or 0.5s")
    return Limit(latency=float(told[1]) * (1e-3 if told[2] == "ms" else 1.0))


def advise(data: DataConfig, limit: Limit, study: StudyFolder | None = None, device: str = "auto") -> Advice:
    """The largest network within the limit, of the layout that a study found best for about as many images.

    Args:
        data: what it is for.
        limit: what it may cost.
        study: runs on these data or on others like them; without, the paper's layout is taken.
        device: whose latency counts.

    Raises:
        ConfigError: no network is within the limit.
    """
    train = open_data(data).train
    size = study_config(data).image_size
    layout, reason, runs = _best_layout(len(train), study)
    members = sorted(
        (name for name, config in FAMILY.items() if config.image_size == size),
        key=lambda name: model_size(FAMILY[name]).multiply_adds,
    )
    fitting: tuple[str, CoAtNetConfig, float | None] | None = None
    beyond = "there is no member of this image size"
    for name in members:
        config = _of_layout(layout, name, size, len(train.class_names))
        parameters = model_size(config).parameters
        latency = None if limit.latency is None else measure_latency(config, device)
        if limit.parameters is not None and parameters > limit.parameters:
            beyond = f"{name} has {parameters / 1e6:.2f} M parameters"
            break
        if limit.latency is not None and latency is not None and latency > limit.latency:
            beyond = f"{name} takes {1000 * latency:.1f} ms"
            break
        fitting = name, config, latency
    if fitting is None:
        raise ConfigError(f"no network is within this limit: {beyond}", "allow more, or export to a faster engine")
    name, config, latency = fitting
    return Advice(
        layout=layout,
        name=name if layout == MEMBERS_LAYOUT else f"{layout} of the size of {name}",
        config=config,
        parameters=model_size(config).parameters,
        multiply_adds=model_size(config).multiply_adds,
        latency=latency or measure_latency(config, device),
        reason=reason,
        runs=runs,
    )


def measure_latency(config: CoAtNetConfig, device: str = "auto") -> float:
    """Seconds from one preprocessed image to its logits, see `ROUNDS`; the weights are random."""
    from coatnet.runtime.engines import TorchEngine

    engine = TorchEngine(create_model(config), device)
    image = np.zeros((1, config.input_channels, config.image_size, config.image_size), np.float32)

    timings = [
        time_in_turn({"network": lambda: engine.logits(image)}, TIMED, warm_up=0 if number else UNTIMED)
        for number in range(ROUNDS)
    ]
    return max(timing["network"].median for timing in timings)


def _of_layout(layout: str, member: str, size: int, num_classes: int) -> CoAtNetConfig:
    """The member, or a network of another layout with as many parameters."""
    config = FAMILY[member].replace(num_classes=num_classes)
    if layout == MEMBERS_LAYOUT:
        return config
    budget = f"{model_size(config).parameters / 1e6:.3f}M"
    return matched_layouts(budget, (layout,), image_size=size, num_classes=num_classes)[0].config


def _best_layout(num_images: int, study: StudyFolder | None) -> tuple[str, str, tuple[str, ...]]:
    """The layout, why, and the runs that say so."""
    if study is None:
        return MEMBERS_LAYOUT, "no study of such data is at hand: the paper's choice", ()
    found = gather(study)
    results = of(found.results, "generalization")
    if not results:
        raise ConfigError(f"{study.path} has no result of generalization yet", "go on with the study")
    share = min(settings(results), key=lambda setting: abs(np.log(setting * found.study.num_images / num_images)))
    return _choose([one for one in results if one.run.setting == share], round(share * found.study.num_images))


def _choose(results: Sequence[Result], num_images: int) -> tuple[str, str, tuple[str, ...]]:
    """The most accurate layout; the members' own if the seeds do not tell the two apart."""
    numbers = values(results, lambda one: one.top1)
    accuracy = means(numbers)
    best = max(accuracy, key=lambda layout: accuracy[layout].mean)
    told = f"at {num_images:,} images {best} was the most accurate, {accuracy[best].mean:.1%}"
    chosen = best
    difference = paired(numbers[best], numbers.get(MEMBERS_LAYOUT, {}))
    if best != MEMBERS_LAYOUT and difference is not None and difference.low <= 0:
        chosen = MEMBERS_LAYOUT
        told += f"; {chosen}, {accuracy[chosen].mean:.1%}, cannot be told from it, and has trained members"
    runs = tuple(one.run.name for one in results if one.run.arm in (best, chosen))
    return chosen, told, runs
