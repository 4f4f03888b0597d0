"""Doing the runs of a study: each once, whatever stops in between, by as many processes as are started."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from filelock import FileLock, Timeout

from coatnet.errors import ConfigError, QualityError, Stopped
from coatnet.ranks import world_size
from coatnet.study.folder import DIVERGED, ArmPace, StudyFolder
from coatnet.study.networks import Study
from coatnet.study.plan import PlannedRun, plan, run_config
from coatnet.training.config import TrainConfig
from coatnet.training.trial import run_trial

WAIT = 2.0
"""Seconds between looks at what other processes have done, where a run is minutes."""


def work(folder: StudyFolder, study: Study, runs: Sequence[PlannedRun]) -> None:
    """Do what is left of some runs. Several processes that do the same share the work: each run is done by one.

    Args:
        folder: of the study.
        study: whose they are.
        runs: of its plan.

    Raises:
        ConfigError: a run needs another that is neither done nor among these; or torchrun started this.
        QualityError: all learning rates of a network diverged.
        Stopped: a signal came; everything is kept.
    """
    if world_size() > 1:
        raise ConfigError("a study's runs are independent, and torchrun joins processes", "start it once per device")
    by_name, asked = {run.name: run for run in plan(study)}, {run.name for run in runs}
    left = [run for run in runs if not folder.is_done(run)]
    while left:
        missing = next((name for run in left for name in run.needs if _is_missing(folder, by_name[name], asked)), None)
        if missing:
            number = list(by_name).index(missing)
            raise ConfigError(f"run {number}, {missing}, must be done before", f"--only {number} does it")
        ready = (run for run in left if all(folder.is_done(by_name[name]) for name in run.needs))
        if not any(_take(folder, study, run, by_name) for run in ready):
            time.sleep(WAIT)
        left = [run for run in left if not folder.is_done(run)]


def chosen_rate(folder: StudyFolder, trials: Iterable[PlannedRun]) -> float:
    """The learning rate whose trial was best on validation.

    Raises:
        QualityError: all diverged.
    """
    scores = {trial.rate: score for trial in trials if (score := folder.trial_score(trial)) is not None}
    if not scores:
        raise QualityError("every learning rate that was tried diverged", "give lower --rates")
    best = max(scores, key=lambda rate: scores[rate])
    assert best is not None
    return best


def measure_pace(folder: StudyFolder, study: Study, runs: Sequence[PlannedRun]) -> dict[str, ArmPace]:
    """Time some steps of each network that has not been timed yet, alone on the machine if it should mean something."""
    from coatnet.training.forecast import forecast

    pace = folder.read_pace()
    own = [run for run in runs if run.experiment != "transfer"]  # those see other images, of other sizes
    for arm in dict.fromkeys(run.arm for run in own):
        if arm not in pace:
            longest = max((run for run in own if run.arm == arm), key=lambda run: run.setting)
            found = forecast(run_config(study, longest, study.config.rates[0]))
            pace[arm] = ArmPace(preparation=found.preparation, **found.pace._asdict())
            folder.write_pace(pace)
    return pace


def expected_seconds(study: Study, run: PlannedRun, pace: ArmPace) -> float:
    """Of a run that is not done, about."""
    config = run_config(study, run, 1.0).run
    assert config.steps
    assert config.evaluate_every
    evaluations = math.ceil(config.steps / config.evaluate_every)
    return pace.preparation + config.steps * pace.step + evaluations * pace.evaluation + (run.rate is None) * pace.final


def plan_as_dict(folder: StudyFolder, study: Study, runs: Sequence[PlannedRun]) -> dict[str, Any]:
    """For JSON: `layouts`, all networks with their configs; `runs`, with those that each needs by their numbers."""
    pace, numbers = folder.read_pace(), {run.name: number for number, run in enumerate(runs)}
    layouts = [{"layout": arm.name, **arm.model_dump(mode="json", exclude={"name"})} for arm in study.arms]
    told = []
    for number, run in enumerate(runs):
        seconds = expected_seconds(study, run, pace[run.arm]) if run.arm in pace else None
        named = run.model_dump(mode="json", exclude={"trials", "start"})
        needs = [numbers[name] for name in run.needs]
        told.append({"number": number, **named, "needs": needs, "done": folder.is_done(run), "seconds": seconds})
    return {"folder": str(folder.path), "layouts": layouts, "runs": told}


def _is_missing(folder: StudyFolder, needed: PlannedRun, asked: set[str]) -> bool:
    return needed.name not in asked and not folder.is_done(needed)


def _take(folder: StudyFolder, study: Study, run: PlannedRun, by_name: dict[str, PlannedRun]) -> bool:
    """Do a run, unless another process is at it. The lock of a process that dies is free."""
    path = folder.lock(run.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=0):
            if not folder.is_done(run):  # another may have done it since we looked
                _do(folder, study, run, by_name)
            return True
    except Timeout:
        return False


def _do(folder: StudyFolder, study: Study, run: PlannedRun, by_name: dict[str, PlannedRun]) -> None:
    """One run, from its start or from where it stopped."""
    from coatnet.training import loop

    place = folder.run(run.name)
    sys.stderr.write(f"{run.name}\n")
    try:
        config = place.read_config() if place.exists() else _whole_config(folder, study, run, by_name)
        if run.rate is not None:
            run_trial(config, place)
        elif place.exists():
            loop.resume(place.path)
        else:
            loop.train(config, place.path)
    except QualityError as error:
        if run.trials and not place.exists():
            raise  # no rate to train it with
        (place.path / DIVERGED).write_text(f"{error.message}\n")
    except Stopped:
        raise Stopped(f"stopped in {run.name}; everything is kept", "give the same command again") from None
    shutil.rmtree(place.checkpoints, ignore_errors=True)  # nothing goes on from a run that is done


def _whole_config(folder: StudyFolder, study: Study, run: PlannedRun, by_name: dict[str, PlannedRun]) -> TrainConfig:
    """The config with its learning rate, and its first weights if it has any."""
    rate = run.rate or chosen_rate(folder, [by_name[name] for name in run.trials])
    config = run_config(study, run, rate)
    if run.start is None:
        return config
    from coatnet.training.initial import find_initial

    return config.replace(initial=find_initial(folder.run(run.start).path).record(config.class_names))
