"""Good settings for a data set: runs around what a recipe chose, judged by validation accuracy, never by test.

A trial is as long as the run that is searched for: shorter ones favour what learns fast. The best of one seed is often
the luckiest, so the best few run against the recipe with other seeds, and the recipe's settings stay unless some
settings are better with each of them.
"""

from __future__ import annotations

import importlib
import shlex
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coatnet.data.randomness import position_seed
from coatnet.errors import ConfigError, MissingPartError, QualityError, Stopped, install_hint
from coatnet.ranks import world_size
from coatnet.training.claim import held
from coatnet.training.config import TrainConfig, lay_over
from coatnet.training.folder import RunFolder, is_taken
from coatnet.training.last_round import Contender, last_round
from coatnet.training.search_space import apply_settings, first_settings, setting_changes, suggest
from coatnet.training.trial import run_trial

if TYPE_CHECKING:
    import optuna

    from coatnet.evaluation.metrics import Evaluation

UNPRUNED = 4
"""Trials that are done whole before the median of others may end one: a median of fewer says little."""
UNJUDGED = 0.5
"""Share of a trial before the median of others at the same share may end it: until half of the schedule what learns
fast is ahead, and regularisation pays later (benchmarks/tune.md)."""
CONFIG = "tune.json"
"""File of a search's folder with what the recipe chose; it makes the folder a search."""
LOCK_SECONDS = 5
"""How long the lock of a process that was killed is respected; one process holds it for an instant."""
_SEEDS = 2**31  # seeds that NumPy's old generator takes are below 2**32


@dataclass(frozen=True)
class Trial:
    """One run of the search."""

    number: int
    """Its folder is trial-NUMBER."""
    settings: dict[str, float]
    """What was searched: names of `recipe_settings`."""
    top1: float
    """Validation accuracy at its end, a fraction."""
    pruned: bool
    """Ended early: it was below the median of the others."""


@dataclass(frozen=True)
class Tuning:
    """All trials of a search, and the last round."""

    folder: Path
    trials: tuple[Trial, ...]
    last_round: tuple[Contender, ...]
    """The recipe first, trial 0; nothing if no trial was better than it."""
    command: str
    """Trains with the best settings."""

    @property
    def best(self) -> int:
        """Number of the trial with the best settings: 0, the recipe's own, unless others won the last round."""
        return _winner(self.last_round)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "folder": str(self.folder),
            "trials": [asdict(trial) for trial in self.trials],
            "last_round": [asdict(contender) for contender in self.last_round],
            "best": self.best,
            "command": self.command,
        }


def check_optuna() -> None:
    """See that Optuna is there.

    Raises:
        MissingPartError: it is not installed.
    """
    try:
        importlib.import_module("optuna")
    except ImportError:
        raise MissingPartError("coatnet tune needs optuna, which is not installed", install_hint("tune")) from None


def tune(
    config: TrainConfig, folder: Path, words: tuple[str, ...], *, trials: int = 20, seconds: float | None = None
) -> Tuning:
    """Search, or go on with a search that stopped: runs that are done are not done again.

    Args:
        config: what a recipe chose; each trial is as long.
        folder: of the search; each trial has a run folder trial-K in it, each run of the last round one of its own.
        words: what `coatnet train` needs before the settings: the data and what was asked of the recipe.
        trials: how many in all, those of an earlier start counted; the last round comes after them.
        seconds: no trial is begun after them.

    Raises:
        ConfigError: the folder holds something else or the search of another config, another process searches there,
            or these are several processes.
        MissingPartError: Optuna is not installed.
        QualityError: every trial diverged.
        Stopped: a signal came; what was done is kept.
    """
    if world_size() > 1:
        raise ConfigError(f"tune runs in one process, and these are {world_size()}", "start it without torchrun")
    if config.run.time is not None:
        raise ConfigError("a trial's length is given in epochs or steps, not in time", "give --epochs")
    check_optuna()
    config = lay_over(config, run={"keep_checkpoints": 1})
    _check_free(folder)
    with held(folder):
        _claim(folder, config)
        told = _search(config, folder, trials, seconds)
        if all(trial.pruned for trial in told):
            raise QualityError("every trial diverged", "lower --learning-rate of the recipe, or look at the data")
        contenders = last_round(config, folder, _finalists(told))
    best = _winner(contenders)
    changes = setting_changes(config, next(one.settings for one in told if one.number == best)) if best else {}
    return Tuning(folder, tuple(told), contenders, _command(words, changes))


def _search(config: TrainConfig, folder: Path, trials: int, seconds: float | None) -> list[Trial]:
    """All trials that did not diverge, done now or before."""
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    started = time.monotonic()
    path = str(folder / "trials.log")
    backend = JournalFileBackend(path, JournalFileOpenLock(path, LOCK_SECONDS))
    storage = optuna.storages.JournalStorage(backend)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED)
    study = optuna.create_study(
        study_name="tune", storage=storage, pruner=pruner, direction="maximize", load_if_exists=True
    )
    first = first_settings(config)
    for settings in first:
        study.enqueue_trial(settings, skip_if_exists=True)
    states = optuna.trial.TrialState
    for begun in study.get_trials(states=(states.RUNNING,)):
        _do(study, optuna.trial.Trial(study, begun._trial_id), config, folder)
    while (done := len(study.get_trials(states=(states.COMPLETE, states.PRUNED, states.FAIL)))) < trials:
        if seconds is not None and time.monotonic() - started > seconds and study.get_trials(states=(states.COMPLETE,)):
            break
        seed = position_seed(config.run.seed, done) % _SEEDS  # the same after a restart
        study.sampler = optuna.samplers.TPESampler(n_startup_trials=len(first), seed=seed)
        _do(study, study.ask(), config, folder)
    return [
        Trial(one.number, dict(one.params), one.value or 0.0, one.state == states.PRUNED)
        for one in study.get_trials(states=(states.COMPLETE, states.PRUNED))
    ]


def _finalists(trials: list[Trial]) -> dict[int, dict[str, float]]:
    """Settings, by trial, of the whole runs that were better than the recipe's, the best first."""
    recipe = next((trial.top1 for trial in trials if trial.number == 0), 0.0)  # it may have diverged
    whole = [trial for trial in trials if not trial.pruned and trial.top1 > recipe]
    return {trial.number: trial.settings for trial in sorted(whole, key=lambda trial: -trial.top1)}


def _winner(contenders: tuple[Contender, ...]) -> int:
    """The trial that beat the recipe with each seed and is best in the mean, else 0."""
    won = [one for one in contenders[1:] if one.won]
    return max(won, key=lambda one: one.mean).number if won else 0


def _check_free(folder: Path) -> None:
    """See that a search is there, or nothing."""
    if is_taken(folder) and not (folder / CONFIG).is_file():
        raise ConfigError(f"--out {folder} is not empty", "choose another folder")


def _claim(folder: Path, config: TrainConfig) -> None:
    """Make the folder this search's, or see that it is."""
    stored = folder / CONFIG
    if stored.is_file():
        if stored.read_text(encoding="utf-8", errors="replace") != config.model_dump_json(indent=1):
            raise ConfigError(
                f"{folder} holds a search with other settings", "repeat the command, or choose another --out"
            )
        return
    fresh = stored.with_suffix(".tmp")
    fresh.write_text(config.model_dump_json(indent=1), encoding="utf-8")
    fresh.replace(stored)


def _do(study: optuna.Study, trial: optuna.trial.Trial, config: TrainConfig, folder: Path) -> None:
    """One trial, from its start or from where it stopped."""
    from optuna.trial import TrialState

    settings = suggest(trial, config)
    run = RunFolder(folder / f"trial-{trial.number}")

    def is_enough(step: int, evaluation: Evaluation) -> bool:
        pace = run.read_config().run
        assert pace.steps
        assert pace.evaluate_every
        count = -(-step // pace.evaluate_every)  # evaluations share their places in the schedule; steps depend on batch
        if count not in study.trials[trial.number].intermediate_values:  # else told before it was stopped
            trial.report(evaluation.top1, count)
        return step < pace.steps and step >= UNJUDGED * pace.steps and trial.should_prune()

    try:
        run_trial(apply_settings(config, settings), run, is_enough)
        pace = run.read_config().run
        assert pace.steps
        assert pace.evaluate_every
        count, top1 = max(study.trials[trial.number].intermediate_values.items())
        whole = count * pace.evaluate_every >= pace.steps
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
