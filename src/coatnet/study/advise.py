"""Which network to use for some data on this machine: within a latency or a size, by what a study found."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
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
SMALLER = (0.7, 0.5, 0.35, 0.25, 0.18, 0.12)
"""Shares of the smallest member's parameters that are tried if it is beyond the limit: steps as those between members,
which have 1.5 to 2.5 times as many as the next."""
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
    """The largest network within the limit, of the layout that a study found best for about as many images: a member's
    size, or if none is within the limit, a smaller one.

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
    fitting: tuple[str, CoAtNetConfig, float | None] | None = None
    for name, config in _members(layout, size, len(train.class_names)):
        latency, beyond = _measured(name, config, limit, device)
        if beyond:
            break
        fitting = name, config, latency
    if fitting is None:
        for name, config in _smaller(layout, size, len(train.class_names)):
            latency, beyond = _measured(name, config, limit, device)
            if not beyond:
                fitting = name, config, latency
                break
    if fitting is None:
        raise ConfigError(f"no network is within this limit: {beyond}", "allow more, or export to a faster engine")
    name, config, latency = fitting
    return Advice(
        layout=layout,
        name=name,
        config=config,
        parameters=model_size(config).parameters,
        multiply_adds=model_size(config).multiply_adds,
        latency=latency or measure_latency(config, device),
        reason=reason,
        runs=runs,
    )


def _measured(name: str, config: CoAtNetConfig, limit: Limit, device: str) -> tuple[float | None, str]:
    """The latency, if it is limited; and what is beyond the limit, or nothing."""
    parameters = model_size(config).parameters
    if limit.parameters is not None:
        return None, f"{name} has {parameters / 1e6:.2f} M parameters" if parameters > limit.parameters else ""
    assert limit.latency is not None
    latency = measure_latency(config, device)
    return latency, f"{name} takes {1000 * latency:.1f} ms" if latency > limit.latency else ""


def measure_latency(config: CoAtNetConfig, device: str = "auto") -> float:
    """Seconds from one preprocessed image to its logits, see `ROUNDS`; the weights are random."""
    from coatnet.runtime.engines import TorchEngine

    engine = TorchEngine(create_model(config), device, copy=False)
    image = np.zeros((1, config.input_channels, config.image_size, config.image_size), np.float32)

    timings = [
        time_in_turn({"network": lambda: engine.logits(image)}, TIMED, warm_up=0 if number else UNTIMED)
        for number in range(ROUNDS)
    ]
    return max(timing["network"].median for timing in timings)


def _members(layout: str, size: int, num_classes: int) -> Iterator[tuple[str, CoAtNetConfig]]:
    """The members for an image size, from the smallest on, or networks of another layout with as many parameters."""
    for name, config in _by_cost(size, num_classes):
        if layout == MEMBERS_LAYOUT:
            yield name, config
        else:
            yield f"{layout} of the size of {name}", _sized(layout, config, 1.0)


def _smaller(layout: str, size: int, num_classes: int) -> Iterator[tuple[str, CoAtNetConfig]]:
    """Networks with less and less of the smallest member's parameters, until the search has none."""
    _, smallest = _by_cost(size, num_classes)[0]
    for share in SMALLER:
        try:
            config = _sized(layout, smallest, share)
        except ConfigError:
            return
        yield f"{layout} of {model_size(config).parameters / 1e6:.2f} M parameters", config


def _by_cost(size: int, num_classes: int) -> list[tuple[str, CoAtNetConfig]]:
    members = [(name, one.replace(num_classes=num_classes)) for name, one in FAMILY.items() if one.image_size == size]
    return sorted(members, key=lambda named: model_size(named[1]).multiply_adds)


def _sized(layout: str, member: CoAtNetConfig, share: float) -> CoAtNetConfig:
    """A network of a layout with a share of a member's parameters."""
    budget = f"{share * model_size(member).parameters / 1e6:.3f}M"
    size, num_classes = member.image_size, member.num_classes
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
