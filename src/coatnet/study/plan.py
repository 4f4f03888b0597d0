"""The runs of a study: which networks, which data, which seeds, and what each run waits for. Imports no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from coatnet.frozen import Frozen
from coatnet.study.config import Experiment
from coatnet.study.networks import Study, ablated_layout
from coatnet.training.config import OptimizerConfig, RunConfig, TrainConfig

TRIAL_SEED = 10_000
"""Seed of the learning-rate trials: none that a result has."""
EPOCHS = 300.0
"""Passes of a run of generalization (section 2.2, on ImageNet-1K)."""
_SOURCES: tuple[Experiment, ...] = ("generalization", "capacity")
"""Experiments whose runs others need: ablations their rates, transfer its first weights."""


class PlannedRun(Frozen):
    """One training run: everything but the learning rate, which its trials choose."""

    name: str
    """Its folder below runs/ in the study's."""
    experiment: Experiment
    arm: str
    setting: float
    """Of generalization, ablations and contenders the share of the training images; of capacity the passes; of
    transfer the image size in pixels."""
    seed: int
    rate: float | None = None
    """Of a trial, its learning rate."""
    trials: tuple[str, ...] = ()
    """Of a result, the trials that choose its learning rate."""
    start: str | None = None
    """Of a fine-tuning, the run that it starts from."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the runs that must be done before."""
        return (*self.trials, *((self.start,) if self.start else ()))


def plan(study: Study) -> tuple[PlannedRun, ...]:
    """All runs: trials first, so that a cluster can do them as one array and the results as another; then setting by
    setting with all its seeds, so that a study that is cut short has whole answers. What a run needs stands before it.
    """
    asked = [run for experiment in study.config.experiments for run in _trials(study, experiment)]
    asked += [run for experiment in study.config.experiments for run in _all_results(study, experiment)]
    known = {run.name: run for run in asked}
    for experiment in _SOURCES:  # asked for or not
        sources = [*_trials(study, experiment), *_all_results(study, experiment)]
        known = {run.name: run for run in sources} | known
    ordered: dict[str, PlannedRun] = {}
    for run in asked:
        _add(run, known, ordered)
    return tuple(ordered.values())


def _all_results(study: Study, experiment: Experiment) -> Iterator[PlannedRun]:
    for setting in _settings(study, experiment):
        for seed in range(study.config.seeds):
            yield from _results(study, experiment, setting, seed)


def _add(run: PlannedRun, known: dict[str, PlannedRun], ordered: dict[str, PlannedRun]) -> None:
    for name in run.needs:
        if name not in ordered:
            _add(known[name], known, ordered)
    ordered.setdefault(run.name, run)


def run_config(study: Study, run: PlannedRun, rate: float) -> TrainConfig:
    """What a run does, but for the first weights of a fine-tuning.

    Args:
        study: it belongs to.
        run: of its plan.
        rate: peak learning rate.
    """
    config, side = study.config, config_side(study, run)
    whole = study.target if run.experiment == "transfer" else study.base
    assert whole is not None
    optimizer = OptimizerConfig(learning_rate=rate, weight_decay=0.0)
    if run.experiment == "transfer":
        optimizer = optimizer.replace(final_learning_rate=rate, warmup=0.0)  # Table 10: constant
    share, steps = share_and_steps(study, run)
    return whole.replace(
        data=whole.data.replace(train_fraction=share, split_seed=run.seed),
        model=study.arm(run.arm).config.replace(num_classes=len(whole.class_names)),
        preprocess=whole.preprocess.replace(image_size=(side, side)),
        optimizer=optimizer,
        run=RunConfig(
            steps=steps,
            batch_size=config.batch_size,
            accumulate=config.accumulate,
            seed=run.seed,
            evaluate_every=math.ceil(steps / config.evaluations),
            evaluate_train=config.train_sample,
            keep_checkpoints=1,
            device=config.device,
            precision=config.precision,
        ),
    )


def share_and_steps(study: Study, run: PlannedRun) -> tuple[float, int]:
    """Share of the training images that a run sees, and its length."""
    config, images = study.config, study.num_images
    share, epochs = run.setting, config.epochs or EPOCHS
    if run.experiment == "capacity":
        share, epochs = config.most, run.setting
    elif run.experiment == "transfer":
        share, epochs, images = 1.0, config.transfer_epochs, study.num_target_images
    elif config.steps is not None:
        return share, config.steps
    return share, max(1, round(epochs * share * images / config.batch_size))


def config_side(study: Study, run: PlannedRun) -> int:
    """Height and width of a run's images, pixels."""
    return int(run.setting) if run.experiment == "transfer" else study.config.image_size


def _arms(study: Study, experiment: Experiment) -> list[str]:
    """Names of the networks of an experiment."""
    if experiment == "transfer":
        return list(study.config.transferred)
    kind = {"ablations": "ablation", "contenders": "contender"}.get(experiment, "layout")
    return [arm.name for arm in study.arms if arm.kind == kind]


def _settings(study: Study, experiment: Experiment) -> tuple[float, ...]:
    config = study.config
    if experiment == "generalization":
        return config.fractions
    if experiment == "capacity":
        return config.passes
    return tuple(map(float, config.sizes)) if experiment == "transfer" else (max(config.fractions),)


def _trials(study: Study, experiment: Experiment) -> Iterator[PlannedRun]:
    """For each network the same rates at the same, middle setting. An ablation takes the rates of what is ablated."""
    config = study.config
    if experiment == "ablations":
        return
    settings = _settings(study, experiment)
    setting = settings[len(settings) // 2]
    for arm in _arms(study, experiment):
        for rate in config.transfer_rates if experiment == "transfer" else config.rates:
            yield PlannedRun(
                name=f"{experiment}/{_word(arm)}/rate-{rate:g}",
                experiment=experiment,
                arm=arm,
                setting=setting,
                seed=TRIAL_SEED,
                rate=rate,
                start=_start(study, arm, 0) if experiment == "transfer" else None,
            )


def _results(study: Study, experiment: Experiment, setting: float, seed: int) -> Iterator[PlannedRun]:
    ablated = ablated_layout(study.config)
    if experiment == "ablations":  # beside what is ablated
        whole = _results(study, "generalization", setting, seed)
        yield from (run for run in whole if run.arm == ablated)
    for arm in _arms(study, experiment):
        rates = _trials(study, "generalization" if experiment == "ablations" else experiment)
        chooser = ablated if experiment == "ablations" else arm
        yield PlannedRun(
            name=f"{experiment}/{_word(arm)}/{setting:g}/seed-{seed}",
            experiment=experiment,
            arm=arm,
            setting=setting,
            seed=seed,
            trials=tuple(trial.name for trial in rates if trial.arm == chooser),
            start=_start(study, arm, seed) if experiment == "transfer" else None,
        )


def _start(study: Study, arm: str, seed: int) -> str:
    """The run that was trained on the most data for the longest time with this seed."""
    return f"capacity/{_word(arm)}/{max(study.config.passes):g}/seed-{seed}"


def _word(name: str) -> str:
    """A name as a part of a path."""
    return re.sub(r"[^\w.-]+", "-", name)
