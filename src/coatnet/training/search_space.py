"""What `coatnet tune` searches: a handful of settings around what a recipe chose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from coatnet.model.config import CoAtNetConfig
from coatnet.training.config import TrainConfig, lay_over

if TYPE_CHECKING:
    import optuna

RATE_REACH = 4
"""Learning rate and weight decay are searched up to this factor either way: two octaves, a choice not measured; the
rate that won in benchmarks/tune.md is 3 times the recipe's."""
MOST = {"label_smoothing": 0.2, "strength": 2.0, "stochastic_depth": 0.3}
"""Searched from 0 to this, or to the recipe's own if that is more. Twice the label smoothing of paper Table 10 and of
the recipe's augmentation; the stochastic depth of CoAtNet-1 in Table 10."""
MIXING = {"mixup": 0.2, "cutmix": 1.0}
"""Alphas tried beside the recipe's own: ImageNet's of Zhang et al. 2018 (section 3.1) and of Yun et al. 2019."""
BATCH_SHARES = (2, 4)
"""Batches are tried at a half and a quarter of the recipe's: at equal epochs twice and four times the steps, which is
what few images are short of (benchmarks/tune.md)."""
SMALLEST_BATCH = 16
"""Below it the statistics of batch norms, of few images each, cost accuracy (Wu and He 2018, figure 1)."""


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
    if config.run.batch_size % 2 == 0:  # an odd batch cannot be mixed in pairs
        settings |= {name: getattr(config.augmentation, name) for name in MIXING}
    if config.run.epochs is not None:  # a length in steps would mean fewer images with a smaller batch
        settings["batch_size"] = config.run.batch_size
    return settings


def first_settings(config: TrainConfig) -> list[dict[str, float]]:
    """What is tried before anything is drawn: the recipe's settings, then one change of them at a time.

    In eight dimensions most random points are worse than a recipe in some way; one change shows what the data want.
    """
    own = recipe_settings(config)
    changes: list[dict[str, float]] = [{"learning_rate": 2 * own["learning_rate"]}, {"strength": 0.5}]
    smaller = _batches(config)[1:]
    if "batch_size" in own and smaller:
        changes.insert(0, {"batch_size": smaller[-1]})
    changes += [{name: alpha} for name, alpha in MIXING.items() if name in own and own[name] != alpha]
    return [own, *({**own, **change} for change in changes)]


def suggest(trial: optuna.trial.Trial, config: TrainConfig) -> dict[str, float]:
    """The settings of a trial, around the recipe's."""
    own = recipe_settings(config)
    for name in ("learning_rate", "weight_decay"):
        if own[name]:
            trial.suggest_float(name, own[name] / RATE_REACH, own[name] * RATE_REACH, log=True)
    for name, most in MOST.items():
        if name in own:
            trial.suggest_float(name, 0.0, max(most, own[name]))
    for name, alpha in MIXING.items():
        if name in own:
            trial.suggest_categorical(name, sorted({0.0, alpha, own[name]}))
    if "batch_size" in own:
        trial.suggest_categorical("batch_size", _batches(config))
    return dict(trial.params)


def apply_settings(config: TrainConfig, settings: Mapping[str, float]) -> TrainConfig:
    """The run with these settings."""
    return lay_over(config, **setting_changes(config, settings))


def setting_changes(config: TrainConfig, settings: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Settings as fields of the config's parts, in three digits, so that a command repeats them exactly."""
    rounded = {name: _rounded(value) for name, value in settings.items()}
    own, strength = config.augmentation, rounded["strength"]
    changes: dict[str, dict[str, Any]] = {
        "optimizer": {name: rounded[name] for name in ("learning_rate", "weight_decay") if name in rounded},
        "augmentation": {name: rounded[name] for name in ("label_smoothing", *MIXING) if name in rounded},
    }
    for name, most in (
        ("rotation", 180.0),
        ("translation", 1.0),
        ("color_jitter", 1.0),
        ("randaugment_magnitude", 30.0),
    ):
        if getattr(own, name) and (name != "randaugment_magnitude" or own.randaugment_layers):
            changes["augmentation"][name] = _rounded(min(most, getattr(own, name) * strength))
    if own.crop_padding:
        changes["augmentation"]["crop_padding"] = min(16, round(own.crop_padding * strength))
    if own.zoom != (1.0, 1.0):
        changes["augmentation"]["zoom"] = tuple(_rounded(side**strength) for side in own.zoom)
    if own.crop_scale != (1.0, 1.0):
        changes["augmentation"]["crop_scale"] = tuple(_rounded(side**strength) for side in own.crop_scale)
    if "stochastic_depth" in rounded:
        changes["model"] = {"stochastic_depth": rounded["stochastic_depth"]}
    if "batch_size" in settings:
        changes["run"] = {"batch_size": int(settings["batch_size"])}
    return changes


def _batches(config: TrainConfig) -> list[int]:
    """The recipe's batch, then smaller even ones."""
    own = config.run.batch_size
    smaller = [own // share for share in BATCH_SHARES if own % (2 * share) == 0 and own // share >= SMALLEST_BATCH]
    return [own, *smaller]


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
