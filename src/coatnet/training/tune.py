"""Good settings for a data set: short runs around what a recipe chose, judged by validation accuracy, never by test."""

from __future__ import annotations

import importlib
import shlex
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coatnet.data.randomness import position_seed
from coatnet.errors import ConfigError, MissingPartError, QualityError, Stopped
from coatnet.model.config import CoAtNetConfig
from coatnet.ranks import world_size
from coatnet.training.config import TrainConfig, lay_over
from coatnet.training.folder import RunFolder, is_taken

if TYPE_CHECKING:
    import optuna

    from coatnet.evaluation.metrics import Evaluation

SHORT = 1 / 3
"""Length of a trial as a share of the run's: a third of the time, with the whole schedule of the rate in it."""
UNPRUNED = 4
"""Trials that are done whole before the median of others may end one: a median of fewer says little."""
LOCK_SECONDS = 5
"""How long the lock of a process that was killed is respected; one process holds it for an instant."""
_SEEDS = 2**31  # seeds that NumPy's old generator takes are below 2**32


@dataclass(frozen=True)
class Trial:
    """One short run."""

    number: int
    """Its folder is trial-NUMBER."""
    settings: dict[str, float]
    """What was searched: names of `space`."""
    top1: float
    """Validation accuracy at its end, a fraction."""
    pruned: bool
    """Ended early: it was below the median of the others."""


@dataclass(frozen=True)
class Tuning:
    """All trials of a study."""

    folder: Path
    trials: tuple[Trial, ...]
    command: str
    """Trains with the best settings, at full length."""

    @property
    def best(self) -> Trial:
        """The whole run with the highest validation accuracy; of equals the first, and trial 0 is the recipe's own."""
        return max((trial for trial in self.trials if not trial.pruned), key=lambda trial: (trial.top1, -trial.number))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        trials = [asdict(trial) for trial in self.trials]
        return {"folder": str(self.folder), "trials": trials, "best": self.best.number, "command": self.command}


class _TrialOver(Exception):  # noqa: N818 (nothing failed)
    """A trial has told its accuracy; it needs no classifier and no test score."""


def check_optuna() -> None:
    """See that Optuna is there.

    Raises:
        MissingPartError: it is not installed.
    """
    try:
        importlib.import_module("optuna")
    except ImportError:
        raise MissingPartError(
            "coatnet tune needs optuna, which is not installed", 'pip install "coatnet[tune]"'
        ) from None


def tune(
    config: TrainConfig, folder: Path, words: tuple[str, ...], *, trials: int = 20, seconds: float | None = None
) -> Tuning:
    """Search, or go on with a search that stopped: trials that are done are not done again.

    Args:
        config: what a recipe chose; its length is that of the command, and `SHORT` of it that of a trial.
        folder: of the search; each trial has a run folder trial-K in it.
        words: what `coatnet train` needs before the settings: the data and what was asked of the recipe.
        trials: how many in all, those of an earlier start counted.
        seconds: no trial is begun after them.

    Raises:
        ConfigError: the folder holds something else or the search of another config, or these are several processes.
        MissingPartError: Optuna is not installed.
        Stopped: a signal came; what was done is kept.
    """
    if world_size() > 1:
        raise ConfigError(f"tune runs in one process, and these are {world_size()}", "start it without torchrun")
    check_optuna()
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    short = _short(config)
    _claim(folder, short)
    started = time.monotonic()
    path = str(folder / "trials.log")
    backend = JournalFileBackend(path, JournalFileOpenLock(path, LOCK_SECONDS))
    storage = optuna.storages.JournalStorage(backend)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED)
    study = optuna.create_study(
        study_name="tune", storage=storage, pruner=pruner, direction="maximize", load_if_exists=True
    )
    if not study.trials:
        study.enqueue_trial(recipe_settings(config))
    states = optuna.trial.TrialState
    for begun in study.get_trials(states=(states.RUNNING,)):
        _do(study, optuna.trial.Trial(study, begun._trial_id), short, folder)
    while len(study.get_trials(states=(states.COMPLETE, states.PRUNED, states.FAIL))) < trials:
        if seconds is not None and time.monotonic() - started > seconds and study.get_trials(states=(states.COMPLETE,)):
            break
        seed = position_seed(config.run.seed, len(study.trials)) % _SEEDS  # the same after a restart
        study.sampler = optuna.samplers.TPESampler(seed=seed)
        _do(study, study.ask(), short, folder)
    told = [
        Trial(one.number, dict(one.params), one.value or 0.0, one.state == states.PRUNED)
        for one in study.get_trials(states=(states.COMPLETE, states.PRUNED))
    ]
    if all(trial.pruned for trial in told):
        raise QualityError("every trial diverged", "lower --learning-rate of the recipe, or look at the data")
    found = Tuning(folder, tuple(told), "")
    changed = _changes(config, found.best.settings) if found.best.number else {}
    return Tuning(folder, found.trials, _command(words, changed))


def recipe_settings(config: TrainConfig) -> dict[str, float]:
    """What the recipe chose of what is searched; strength is that of its augmentation, 1."""
    settings = {
        "learning_rate": config.optimizer.learning_rate,
        "weight_decay": config.optimizer.weight_decay,
        "label_smoothing": config.augmentation.label_smoothing,
        "strength": 1.0,
    }
    if isinstance(config.model, CoAtNetConfig):
        settings["stochastic_depth"] = config.model.stochastic_depth
    return settings


def apply_settings(config: TrainConfig, settings: Mapping[str, float]) -> TrainConfig:
    """The run with these settings."""
    return lay_over(config, **_changes(config, settings))


def _suggest(trial: optuna.trial.Trial, config: TrainConfig) -> dict[str, float]:
    """Settings around the recipe's: a factor of 4 either way for rates, and for the rest from none to much."""
    own = recipe_settings(config)
    for name in ("learning_rate", "weight_decay"):
        if own[name]:
            trial.suggest_float(name, own[name] / 4, own[name] * 4, log=True)
    for name, most in (("label_smoothing", 0.2), ("strength", 2.0), ("stochastic_depth", 0.3)):
        if name in own:
            trial.suggest_float(name, 0.0, max(most, own[name]))
    return dict(trial.params)


def _changes(config: TrainConfig, settings: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Settings as fields of the config's parts, in three digits, so that a command repeats them exactly."""
    rounded = {name: float(f"{value:.3g}") for name, value in settings.items()}
    own, strength = config.augmentation, rounded["strength"]
    changes: dict[str, dict[str, Any]] = {
        "optimizer": {name: rounded[name] for name in ("learning_rate", "weight_decay") if name in rounded},
        "augmentation": {"label_smoothing": rounded["label_smoothing"]},
    }
    for name, most in (
        ("rotation", 180.0),
        ("translation", 1.0),
        ("color_jitter", 1.0),
        ("randaugment_magnitude", 30.0),
    ):
        if getattr(own, name) and (name != "randaugment_magnitude" or own.randaugment_layers):
            changes["augmentation"][name] = float(f"{min(most, getattr(own, name) * strength):.3g}")
    if own.crop_padding:
        changes["augmentation"]["crop_padding"] = min(16, round(own.crop_padding * strength))
    if own.zoom != (1.0, 1.0):
        changes["augmentation"]["zoom"] = tuple(float(f"{side**strength:.3g}") for side in own.zoom)
    if "stochastic_depth" in rounded:
        changes["model"] = {"stochastic_depth": rounded["stochastic_depth"]}
    return changes


def _short(config: TrainConfig) -> TrainConfig:
    run = config.run
    if run.time is not None:
        raise ConfigError("a trial's length is given in epochs or steps, not in time", "give --epochs")
    length = {"epochs": run.epochs * SHORT} if run.epochs else {"steps": max(1, round((run.steps or 0) * SHORT))}
    return lay_over(config, run={**length, "keep_checkpoints": 1})


def _claim(folder: Path, short: TrainConfig) -> None:
    """Make the folder this search's, or see that it is."""
    stored = folder / "tune.json"
    if stored.is_file():
        if stored.read_text() != short.model_dump_json(indent=1):
            raise ConfigError(
                f"{folder} holds a search with other settings", "repeat the command, or choose another --out"
            )
        return
    if is_taken(folder):
        raise ConfigError(f"--out {folder} is not empty", "choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    stored.write_text(short.model_dump_json(indent=1))


def _do(study: optuna.Study, trial: optuna.trial.Trial, short: TrainConfig, folder: Path) -> None:
    """One trial, from its start or from where it stopped."""
    from optuna.trial import TrialState

    from coatnet.training import loop

    settings = _suggest(trial, short)
    run = RunFolder(folder / f"trial-{trial.number}")

    def watch(step: int, evaluation: Evaluation) -> None:
        if step not in study.trials[trial.number].intermediate_values:  # else told before it was stopped
            trial.report(evaluation.top1, step)
        if step == run.read_config().run.steps or trial.should_prune():
            raise _TrialOver

    try:
        if run.exists():
            loop.resume(run.path, watch=watch)
        else:
            loop.train(apply_settings(short, settings), run.path, watch=watch)
    except _TrialOver:
        step, top1 = max(study.trials[trial.number].intermediate_values.items())
        whole = step == run.read_config().run.steps
        study.tell(trial, top1, TrialState.COMPLETE) if whole else study.tell(trial, state=TrialState.PRUNED)
    except QualityError:  # it diverged: no settings to choose
        study.tell(trial, state=TrialState.FAIL)
    except Stopped:
        raise Stopped(f"stopped in trial {trial.number}; everything is kept", "give the same command again") from None


def _command(words: tuple[str, ...], changes: Mapping[str, Mapping[str, Any]]) -> str:
    flags: list[str] = []
    for part in changes.values():
        for name, value in part.items():
            told = ",".join(f"{one:g}" for one in value) if isinstance(value, tuple) else f"{value:g}"
            flags += [f"--{name.replace('_', '-')}", told]
    return shlex.join(["coatnet", "train", *words, *flags])
