"""What a study asks: StudyConfig, and what of it follows from the data; imports no torch.

The fields' docstrings are the command's help.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from coatnet.data.sources import DataConfig, open_data
from coatnet.frozen import Frozen
from coatnet.model.config import SMALLEST_IMAGE
from coatnet.study.contenders import CONTENDERS
from coatnet.training.look import look_at

Experiment = Literal["generalization", "capacity", "transfer", "ablations", "contenders"]


def _words(value: Any) -> Any:
    """ "a,b", or a list of such texts, -> ["a", "b"]; what is no text is left as it is."""
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        return value
    return [word.strip() for part in parts for word in part.split(",") if word.strip()]


def _unlike(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError(f"{','.join(map(str, values))} names one twice")
    return values


_LISTED = (BeforeValidator(_words), AfterValidator(_unlike))
Words = Annotated[tuple[str, ...], *_LISTED]
Shares = Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], *_LISTED]
Rates = Annotated[tuple[PositiveFloat, ...], *_LISTED]
Sizes = Annotated[tuple[Annotated[int, Field(ge=SMALLEST_IMAGE)], ...], *_LISTED]
Experiments = Annotated[tuple[Experiment, ...], *_LISTED]


class StudyConfig(Frozen):
    """Layouts x data x seeds. The defaults are the paper's where it tells (sections 2.2 and 4)."""

    data: DataConfig
    """Which images."""
    layouts: Words = Field(("CCCC", "CCCT", "CCTT", "CTTT", "ViT"), min_length=1)
    """Layouts, a letter for each of S1 to S4, or ViT for ViT_REL. The first ablated is CCTT, else the last of them."""
    budget: str | None = None
    """Common size of the layouts: parameters as 25M, multiply-adds as 4.2G, or those of a member, as coatnet_0."""
    networks: str | None = None
    """Instead of a budget, the file of an earlier --plan --json: exactly its networks for the layouts."""
    patch: PositiveInt | None = None
    """Of ViT_REL, and the stride at which S3 stands in the others; not given, the search chooses it by the size."""
    image_size: int = Field(ge=SMALLEST_IMAGE)
    """Height and width of the input, pixels."""
    experiments: Experiments = Field(("generalization", "capacity"), min_length=1)
    """What is asked: generalization, capacity, transfer (with --target), ablations, contenders (with --contenders)."""
    seeds: int = Field(5, ge=2)
    """Runs of each kind, each with first weights, order, validation split and share of the images of its own; all
    layouts see the same. Intervals from fewer than 5 are wide."""
    rates: Rates = Field((5e-4, 1e-3, 2e-3), min_length=1)
    """Peak learning rates that each layout tries, on validation, with a seed of its own: around the paper's 1e-3."""
    fractions: Shares = Field((0.1, 0.3, 1.0), min_length=1)
    """Generalization: shares of the training images that are the data sizes."""
    epochs: PositiveFloat | None = None
    """Generalization, ablations and contenders: passes over the images; 300 if neither this nor steps is given."""
    steps: PositiveInt | None = None
    """The same in steps, equal for all data sizes."""
    passes: Rates = Field((1.0, 3.0, 10.0), min_length=1)
    """Capacity: passes over the images, a run for each (3 in the paper, on JFT)."""
    most: float = Field(1.0, gt=0, le=1)
    """Capacity: share of the training images that is the most data."""
    target: DataConfig | None = None
    """Transfer: the images to fine-tune on."""
    sizes: Sizes = Field(min_length=1)
    """Transfer: image sizes, pixels (224 and 384 in Table 2)."""
    transferred: Words = Field(("CCTT", "CTTT"), min_length=1)
    """Transfer: layouts (Table 2's two)."""
    transfer_epochs: PositiveFloat = 30.0
    """Transfer: passes over the target's training images (Table 10)."""
    transfer_rates: Rates = Field((2e-5, 5e-5, 1.5e-4), min_length=1)
    """Transfer: learning rates that are tried, constant as in Table 10, around its 5e-5."""
    contenders: Words = ()
    """Other networks to train beside the layouts: members, timm/NAME, vit_pytorch/NAME. If the experiment is asked for
    and none is named, one of each of five families."""
    batch_size: PositiveInt = 128
    """Images per step."""
    accumulate: PositiveInt | Literal["auto"] = 1
    """Micro-batches of a step; auto: as few as fit into memory."""
    evaluations: PositiveInt = 10
    """Moments of a run at which training loss and validation accuracy are taken."""
    train_sample: PositiveInt = 2000
    """Training images on which the training loss is taken, in eval mode."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of training; auto: bfloat16 where the machine computes in it."""

    @model_validator(mode="after")
    def _is_one_study(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("epochs and steps both set the length of the runs; give one of them")
        if (self.budget is None) == (self.networks is None):
            raise ValueError("budget and networks both settle the networks; give one of them")
        if self.patch is not None and self.networks is not None:
            raise ValueError("patch is a wish to the search, and networks leaves nothing to search; give one of them")
        for experiment, needed in (("transfer", self.target), ("contenders", self.contenders)):
            if (experiment in self.experiments) != bool(needed):
                field = "target" if experiment == "transfer" else experiment
                raise ValueError(f"the experiment {experiment} and the field {field} need each other; give both")
        missing = [name for name in self.transferred if name not in self.layouts]
        if "transfer" in self.experiments and missing:
            raise ValueError(f"transferred {missing[0]} is not among the layouts {','.join(self.layouts)}")
        return self


def study_config(data: DataConfig, **given: Any) -> StudyConfig:
    """A study of some data; the image size, and with it the budget, follow from the images unless they are given.

    Args:
        data: the images.
        given: fields of StudyConfig.

    Raises:
        DataError: the data cannot be read.
        ValidationError: values that cannot be.
    """
    if "image_size" not in given:
        side = look_at(open_data(data).train).side
        # As `small_data` chooses, but for photographs, which the paper studies at 224 px.
        given["image_size"] = 32 if side <= 48 else 64 if side <= 112 else 224
    if "budget" not in given and "networks" not in given:
        given["budget"] = "coatnet_0" if given["image_size"] >= 224 else "3M"
    if "sizes" not in given:
        given["sizes"] = (given["image_size"], round(given["image_size"] * 384 / 224 / 16) * 16)  # as in Table 2
    if "contenders" in given.get("experiments", ()):
        given.setdefault("contenders", CONTENDERS)
    return StudyConfig(data=data, **given)
