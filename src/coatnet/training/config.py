"""What a run does: TrainConfig and its parts; imports no torch. The fields' docstrings are the command's help."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from coatnet.data.augmentation import AugmentationConfig
from coatnet.data.preprocess import Preprocess
from coatnet.data.sources import DataConfig
from coatnet.frozen import Frozen
from coatnet.model.family import ModelConfig
from coatnet.model.guests import GuestConfig
from coatnet.training.choices import retell

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(value: Any) -> Any:
    """ "90s", "30m", "2h", "1d", "1h30m" or a number of seconds -> seconds; what is neither is left to be refused."""
    if not isinstance(value, str):
        return value
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", value)
    if parts and "".join(number + unit for number, unit in parts) == value:
        return sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if re.fullmatch(r"\d+(?:\.\d+)?", value):
        return float(value)
    raise ValueError(f"{value!r} is no duration; write it as 90s, 30m, 2h or 1h30m")


class OptimizerConfig(Frozen):
    """Loss, AdamW, warm-up and schedule, clipping, averaging (paper Table 10)."""

    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate (1e-3 in paper Table 10)."""
    schedule: Literal["cosine", "linear"] = "cosine"
    """How the learning rate falls after the warm-up: cosine on ImageNet-1K, linear in larger pre-training (paper Table
    10)."""
    final_learning_rate: float = Field(1e-5, ge=0)
    """Learning rate at the last step (1e-5 in paper Table 10); that of the peak for a constant rate."""
    loss: Literal["softmax", "sigmoid"] = "softmax"
    """Cross-entropy of one choice among the classes, or of each class by itself, summed over classes (paper
    Table 10: sigmoid in pre-training on ImageNet-21K and JFT)."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises from 0 (10,000 of 94,000 in paper Table 10)."""
    weight_decay: float = Field(0.05, ge=0)
    """Decoupled decay of matrices and kernels; biases, norms and relative tables have none (0.05 in paper Table 10)."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """AdamW's first decay. Not in the paper."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """AdamW's second decay. Not in the paper."""
    gradient_clip: float = Field(1.0, ge=0)
    """Largest norm of the whole gradient; 0 for no clipping (1.0 in paper Table 10)."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay of the moving average of the weights; 0 for none. It is warmed up, so that short runs may use it too
    (0.9999 in paper Table 10, in fine-tuning). The classifier gets the average or the raw weights, whichever is more
    accurate on the validation split."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Learning rate of each block as a share of that of the block after it, from the head, which has the full rate,
    back to the stem; 1 for the same rate everywhere. For fine-tuning; not in the paper."""
    new_head: Literal["random", "probe"] = "random"
    """What a new classes layer starts from in fine-tuning. probe: logistic regression on the features that the initial
    weights give for up to 2,000 training images (a linear probe)."""
    batch_norms: Literal["moving", "kept"] = "moving"
    """What batch norms use and learn. moving: the statistics of each batch, which move the stored ones. kept: the
    stored ones, which stay: for few images that are near to those of the initial weights."""
    freeze: Literal["none", "body", "body_first"] = "none"
    """What stays as it was loaded, running statistics too. none: everything is trained. body: only the head is trained.
    body_first: only the head in the first part of the run, then everything."""
    frozen_share: float = Field(0.2, gt=0, lt=1)
    """Share of the steps that body_first trains only the head."""

    @model_validator(mode="after")
    def _share_is_used(self) -> Self:
        default = type(self).model_fields["frozen_share"].default
        if self.frozen_share != default and self.freeze != "body_first":
            raise ValueError(f"frozen_share {self.frozen_share:g} does nothing with freeze {self.freeze}")
        return self

    def freezes(self, step: int, num_steps: int) -> bool:
        """Whether a step of so many trains only the head: a function of the step alone."""
        return self.freeze == "body" or (self.freeze == "body_first" and step < round(self.frozen_share * num_steps))


class RunConfig(Frozen):
    """Length, batch, pace and machine. Exactly one of steps, epochs and time is set."""

    steps: PositiveInt | None = None
    """Length of the run in steps."""
    epochs: PositiveFloat | None = None
    """Length of the run in passes over the training images; turned into steps when the run starts."""
    time: Annotated[PositiveFloat | None, BeforeValidator(parse_duration)] = None
    """Length of the run as 90s, 30m or 2h; turned into steps from some timed ones when the run starts."""
    batch_size: PositiveInt = 64
    """Images per step."""
    accumulate: PositiveInt | Literal["auto"] = 1
    """Micro-batches that each process computes one after another for a step: for batches that do not fit into memory.
    The batch of the step stays what it is. auto: as few as fit, found once when the run starts."""
    seed: int = Field(0, ge=0)
    """Of the first weights, the order of images, augmentation and stochastic depth."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    shard: Literal["auto", "none", "parameters"] = "auto"
    """What each of several processes keeps of weights, gradients, moments and averages. none: all of them. parameters:
    its share (FSDP2). auto: its share where the whole does not fit into memory, settled when the run starts."""
    recompute: bool = False
    """Keep only the input of each block for the backward pass and compute the rest again: the same numbers for a
    fraction of the memory, at about a third more time."""
    sync_batch_norm: bool = False
    """Batch norms see the images of all GPUs together, not those of their own; for few images on each of many GPUs."""
    compile: bool = False
    """Compile the network that is trained by torch.compile: some minutes before the first step, faster steps after."""
    deterministic: bool = False
    """The same bits from the same run, whole or resumed, on a GPU too, by slower kernels where that takes them. CPUs
    give them anyway."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the forward and backward pass; weights stay float32. auto: bfloat16 where the machine computes in it."""
    evaluate_every: PositiveInt | None = None
    """Steps between evaluations on the validation split. Default: 10 evaluations, and at most one an epoch."""
    evaluate_train: int = Field(0, ge=0)
    """Training images, a fixed sample, that each evaluation scores too: as they are, not augmented, by the network that
    validation sees. All there are if there are fewer; 0 for none."""
    save_every: PositiveInt | None = None
    """Steps between checkpoints. Default: with each evaluation, and at least every 500."""
    keep_checkpoints: PositiveInt = 2
    """How many checkpoints to keep, the newest."""
    log_every: PositiveInt | None = None
    """Steps between lines of metrics.jsonl. Default: 200 lines in the run."""
    patience: PositiveInt | None = None
    """Evaluations in a row without a better one after which the run ends; better is a higher validation accuracy, or
    the same with a lower loss. Default: all steps are done. With patience, and in fine-tuning, the classifier is that
    of the best evaluation, of which initial weights are one; else that of the last. Each compares raw and averaged
    weights."""
    tensorboard: bool = False
    """Write TensorBoard files to the run's folder tensorboard too (needs the extra tensorboard)."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        given = [name for name in ("steps", "epochs", "time") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} both set the length of the run; give one of them")
        return self

    @model_validator(mode="after")
    def _compiled_alone(self) -> Self:
        if self.compile and self.recompute:
            raise ValueError("compile and recompute exclude each other; the compiler chooses what it computes again")
        if self.compile and self.shard == "parameters":
            raise ValueError("compile and shard parameters exclude each other; leave one of them out")
        return self


class Initial(Frozen):
    """Where the first weights came from. They are written into the run folder, and the source is not asked again."""

    source: str
    """Classifier folder or weights file."""
    sha256: str
    """Of the file of the weights."""
    head: str
    """What happened to the classes layer: kept, permuted, cut or new, and why."""


class TrainConfig(Frozen):
    """One run, whole: what `coatnet train` stores in config.json and `coatnet resume` reads."""

    format: Literal[1] = 1
    """Version of this file's form."""
    data: DataConfig
    model: ModelConfig
    preprocess: Preprocess
    augmentation: AugmentationConfig = AugmentationConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    run: RunConfig = RunConfig()
    class_names: tuple[str, ...]
    """In the order of the logits."""
    initial: Initial | None = None
    """The first weights; None for random ones."""
    choices: tuple[str, ...] = ()
    """What a recipe chose, and why: one line each, for people."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if all(getattr(self.run, name) is None for name in ("steps", "epochs", "time")):
            raise ValueError("the length of the run is not set; give steps, epochs or time")
        if len(self.class_names) != self.model.num_classes:
            raise ValueError(f"{len(self.class_names)} class names for {self.model.num_classes} classes")
        guest = self.model.guest if isinstance(self.model, GuestConfig) else None
        for option in ("recompute", "sync_batch_norm"):
            if getattr(self.run, option) and guest:
                raise ValueError(f"{option} is for members of the family, not for {guest}; leave it out")
        if self.run.sync_batch_norm and getattr(self.model, "convolution_norm", "") == "layer":
            raise ValueError("sync_batch_norm: this network has layer norms only; leave it out")
        if self.run.shard == "parameters" and self.optimizer.freeze != "none":
            raise ValueError(f"shard parameters and freeze {self.optimizer.freeze} exclude each other; leave one out")
        if self.initial is None and self.optimizer.freeze != "none":
            raise ValueError(f"freeze {self.optimizer.freeze} keeps first weights, and these are random; give init too")
        if self.initial is None and self.optimizer.batch_norms == "kept":
            raise ValueError("batch_norms kept needs statistics that were learned, and there are none; give init too")
        if self.initial is None and self.optimizer.new_head == "probe":
            raise ValueError("new_head probe fits the features of initial weights, and these are random; give init too")
        if self.run.batch_size % 2 and (self.augmentation.mixup or self.augmentation.cutmix):
            raise ValueError(
                f"batch_size {self.run.batch_size} is odd, but mixup and cutmix pair images; "
                "make it even, or set both to 0"
            )
        return self

    @property
    def keeps_best(self) -> bool:
        """Whether the classifier is that of the best evaluation: if the run may end early, and in fine-tuning, which
        must not end below its own start."""
        return self.run.patience is not None or self.initial is not None


def lay_over(config: TrainConfig, **flags: dict[str, Any]) -> TrainConfig:
    """A config with the values that a user gave laid over what a recipe returned, validated anew; what the recipe said
    of its choices follows.

    Args:
        config: the recipe's.
        flags: for each part of the config, as `run`, the values given; a length replaces the recipe's length.
    """
    changed: dict[str, Any] = {}
    for part, values in flags.items():
        unset = {"steps": None, "epochs": None, "time": None} if _LENGTHS & values.keys() else {}
        changed[part] = getattr(config, part).replace(**{**unset, **values})
    result = config.replace(**changed)
    return result.replace(choices=retell(config, result))


_LENGTHS = frozenset({"steps", "epochs", "time"})
