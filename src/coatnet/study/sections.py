"""What the report of a study says of each experiment: tables and figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from coatnet.pages.page import Picture, Section, Table
from coatnet.study import figures
from coatnet.study.analysis import BySeed, at_equal_loss, differences, means, of, settings, values
from coatnet.study.analysis import convergence as converged
from coatnet.study.folder import ArmPace
from coatnet.study.networks import ablated_layout
from coatnet.study.published import TABLE_2, TABLE_2_SIZES
from coatnet.study.results import Gathered, Result
from coatnet.study.statistics import Interval, paired

_Column = tuple[str, Callable[[Interval], str], Mapping[str, BySeed]]
"""Heading, how a mean is written, and the numbers of each network by seed."""


def generalization(found: Gathered, place: Path) -> Iterator[Section]:
    """What was learned from little: for each data size the curves, and how far evaluation is behind training."""
    results = of(found.results, "generalization")
    for setting in settings(results):
        some = of(results, "generalization", setting)
        name = setting_in_words(found, "generalization", setting)
        picture = figures.curves(place, f"generalization_{setting:g}", some, f"Generalization, {name}.")
        columns: list[_Column] = [
            ("final accuracy, %", _per_cent, values(some, lambda one: one.top1)),
            ("validation accuracy at equal training loss, %", _per_cent, at_equal_loss(some)),
            ("training less validation accuracy, points", in_points, values(some, lambda one: one.gap)),
            ("final training loss", _plain, values(some, lambda one: one.last.train_loss)),
        ]
        yield _measured(f"Generalization: {name}", some, columns, picture)


def capacity(found: Gathered, place: Path) -> Iterator[Section]:
    """What could be fitted of much in few passes."""
    results = of(found.results, "capacity")
    for setting in settings(results):
        some = of(results, "capacity", setting)
        name = setting_in_words(found, "capacity", setting)
        picture = figures.curves(place, f"capacity_{setting:g}", some, f"Capacity, {name}.")
        columns: list[_Column] = [
            ("final training loss", _plain, values(some, lambda one: one.last.train_loss)),
            ("accuracy on training images, %", _per_cent, values(some, lambda one: one.last.train_top1)),
            ("final accuracy, %", _per_cent, values(some, lambda one: one.top1)),
        ]
        yield _measured(f"Capacity: {name}", some, columns, picture)


def _measured(title: str, results: Sequence[Result], columns: Sequence[_Column], picture: Picture) -> Section:
    """A section with the curves, and a table with a row for each network."""
    rows = []
    for arm in dict.fromkeys(one.run.arm for one in results):
        own = [one for one in results if one.run.arm == arm]
        told = [show(means(numbers)[arm]) for _, show, numbers in columns]
        rows.append((arm, *told, f"{own[0].rate:g}", str(len(own))))
    headings = ("network", *(heading for heading, _, _ in columns), "learning rate", "seeds")
    caption = "Means and 95 % t intervals over the seeds."
    return Section(title=title, pictures=[picture], tables=[Table(columns=headings, rows=rows, caption=caption)])


def convergence(found: Gathered) -> Iterator[Section]:
    """Steps, and seconds, to what all networks came to."""
    tables = []
    for experiment in ("generalization", "capacity"):
        for setting in settings(of(found.results, experiment)):
            some = of(found.results, experiment, setting)
            reached = converged(some)
            rows = [
                (
                    arm,
                    *_steps_and_seconds(reached.steps_to_loss[arm], found.pace.get(arm)),
                    *_steps_and_seconds(reached.steps_to_accuracy[arm], found.pace.get(arm)),
                )
                for arm in reached.steps_to_loss
            ]
            columns = ("network", "steps to the loss", "seconds", "steps to the accuracy", "seconds")
            caption = (
                f"{experiment}, {setting_in_words(found, experiment, setting)}: to a training loss of "
                f"{reached.train_loss:.3f}, and to a validation accuracy of {reached.val_top1:.1%}, which every run "
                "came to."
            )
            tables.append(Table(columns=columns, rows=rows, caption=caption))
    if tables:
        text = ["Counted at evaluations; seconds are steps times the step that was timed before the study began."]
        yield Section(title="Convergence", text=text, tables=tables)


def transfer(found: Gathered) -> Iterator[Section]:
    """Fine-tuning on other data at each image size, beside the paper's Table 2."""
    results = of(found.results, "transfer")
    if not results:
        return
    assert found.study.config.target is not None
    longest = max(settings(of(found.results, "capacity")))
    pretrained = means(values(of(found.results, "capacity", longest), lambda one: one.top1))
    # Two sizes stand for the paper's two, whatever they are.
    like = dict(zip(sorted(found.study.config.sizes), TABLE_2_SIZES, strict=False))
    rows = []
    for setting in settings(results):
        numbers = values(of(results, "transfer", setting), lambda one: one.top1)
        for arm, one in means(numbers).items():
            size = like.get(int(setting), 0)
            paper = f"{TABLE_2[arm, size]:g} at {size} px" if (arm, size) in TABLE_2 else ""
            before = _per_cent(pretrained[arm]) if arm in pretrained else ""
            rows.append((arm, f"{setting:g} px", before, _per_cent(one), paper, str(one.count)))
        first, second = found.study.config.transferred[:2] if len(numbers) > 1 else ("", "")
        difference = paired(numbers.get(first, {}), numbers.get(second, {}))
        if difference is not None:
            name = f"{first} less {second}"
            rows.append((name, f"{setting:g} px", "", f"{in_points(difference)} points", "", str(difference.count)))
    columns = ("layout", "image size", "pre-training accuracy, %", "transfer accuracy, %", "paper's, %", "seeds")
    where = f"Pre-trained on {data_name(found)}, fine-tuned on {Path(found.study.config.target.path).name}."
    yield Section(title="Transfer (Table 2)", text=[where], tables=[Table(columns=columns, rows=rows, num_names=2)])


def compared(found: Gathered) -> Iterator[Section]:
    """Ablations beside what is ablated, and contenders beside the layouts."""
    share = max(found.study.config.fractions)
    layouts = of(found.results, "generalization", share)
    base = [one for one in layouts if one.run.arm == ablated_layout(found.study.config)]
    for experiment, beside in (("ablations", base), ("contenders", layouts)):
        results = of(found.results, experiment)
        if not results or not base:
            continue
        both = [*beside, *results]
        changes, final = differences(both, base), means(values(both, lambda one: one.top1))
        rows = []
        for name, accuracy in final.items():
            arm, pace = found.study.arm(name), found.pace.get(name)
            speed = f"{found.study.config.batch_size / pace.step:,.0f}" if pace else ""
            sizes = f"{arm.parameters / 1e6:,.3f}", f"{arm.multiply_adds / 1e6:,.1f}", speed
            change = in_points(changes[name]) if name in changes and name != base[0].run.arm else ""
            rows.append((name, arm.table, *sizes, _per_cent(accuracy), change, str(accuracy.count)))
        columns = (
            "network", "paper", "parameters, 10^6", "multiply-adds, 10^6", "training images/s", "final accuracy, %",
            f"less {base[0].run.arm}, points", "seeds",
        )  # fmt: skip
        where = setting_in_words(found, "generalization", share)
        yield Section(
            title=experiment.capitalize(), text=[where], tables=[Table(columns=columns, rows=rows, num_names=2)]
        )


def setting_in_words(found: Gathered, experiment: str, setting: float) -> str:
    """A setting in words."""
    images = found.study.num_images
    if experiment == "capacity":
        passes = "1 pass" if setting == 1 else f"{setting:g} passes"
        return f"{passes} over {round(images * found.study.config.most):,} images"
    if experiment == "transfer":
        return f"{setting:g} px"
    return f"{round(images * setting):,} training images"


def _per_cent(one: Interval) -> str:
    return f"{100 * one.mean:.2f} ± {100 * (one.high - one.mean):.2f}"


def in_points(one: Interval) -> str:
    """A difference of fractions in points, with its interval."""
    return f"{100 * one.mean:+.2f} ({100 * one.low:+.2f} to {100 * one.high:+.2f})"


def _plain(one: Interval) -> str:
    return f"{one.mean:.3f} ± {one.high - one.mean:.3f}"


def _steps_and_seconds(steps: Interval, pace: ArmPace | None) -> tuple[str, str]:
    seconds = f"{steps.mean * pace.step:,.1f}" if pace else ""
    return f"{steps.mean:,.0f} ± {steps.high - steps.mean:,.0f}", seconds


def data_name(found: Gathered) -> str:
    """What the data is called."""
    return Path(found.study.config.data.path).name
