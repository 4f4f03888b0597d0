"""A study for people: one HTML page with tables, figures and verdicts; every figure as PNG, its data as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from coatnet.model.config import CoAtNetConfig
from coatnet.pages.page import Section, Table, write_page
from coatnet.study import figures, sections
from coatnet.study.ablations import ablations, claims
from coatnet.study.analysis import Verdicts, means, of, values, verdicts
from coatnet.study.folder import StudyFolder
from coatnet.study.networks import ablated_layout
from coatnet.study.plan import plan
from coatnet.study.results import Gathered, gather, moment_rows, result_rows, write_csv
from coatnet.study.statistics import Ordering
from coatnet.study.trained_properties import properties


def write_report(folder: StudyFolder) -> tuple[Path, list[dict[str, object]]]:
    """Write report/ in the folder of a study: report.html, figures, tables as CSV. What is there is replaced.

    Returns:
        The path of the page, and the verdicts as `verdict_rows`.
    """
    found, place = gather(folder), folder.report
    judged = verdicts(found.results, _ablated(found))
    write_csv(place / "results.csv", result_rows(found.study, found.results))
    write_csv(place / "moments.csv", moment_rows(found.results))
    write_csv(place / "verdicts.csv", verdict_rows(judged))
    shown = [
        _summary(found),
        *_verdict_sections(found, judged),
        _networks(found),
        *sections.generalization(found, place),
        *sections.capacity(found, place),
        *sections.convergence(found),
        *sections.transfer(found),
        *sections.compared(found),
        *properties(found, folder),
        _costs(found, place),
    ]
    page = place / "report.html"
    write_page(page, f"Which stages should convolve, and which attend? {sections.data_name(found)}", shown)
    return page, verdict_rows(judged)


def verdict_rows(judged: Sequence[Verdicts]) -> list[dict[str, object]]:
    """A row for each pair of each ordering; differences are fractions of the first less the second."""
    return [
        {
            "experiment": one.experiment, "setting": one.setting, "measure": one.measure,
            "pair": f"{pair.better} {pair.relation} {pair.worse}", "difference": pair.difference.mean,
            "low": pair.difference.low, "high": pair.difference.high, "seeds": pair.difference.count,
            "verdict": pair.verdict,
        }
        for one in judged
        for pair in one.pairs
    ]  # fmt: skip


def _ablated(found: Gathered) -> Ordering:
    """What the paper says of the study's ablations; () if it has none."""
    if "ablations" not in found.study.config.experiments:
        return ()
    base = found.study.arm(ablated_layout(found.study.config))
    assert isinstance(base.config, CoAtNetConfig)
    return claims(base.name, ablations(base.config))


def _summary(found: Gathered) -> Section:
    config, base = found.study.config, found.study.base
    done = len(found.results)
    trials = sum(run.rate is not None for run in plan(found.study))
    facts = {
        "data": sections.data_name(found),
        "training images": f"{found.study.num_images:,} of {len(base.class_names)} classes",
        "image size": f"{config.image_size} px",
        "runs": f"{done} of {found.num_runs - trials}, and {trials} trials of learning rates",
        "batch": f"{config.batch_size} images",
        "without a result": ", ".join(found.diverged) or "none",
    }
    return Section(
        title="The question",
        text=[
            "Networks of several layouts with about the same parameters and multiply-adds are trained on the same "
            "images from the same seeds, without augmentation and without regularization (arXiv 2106.04803, section "
            "2.2). C is a stage of MBConv blocks, T one of relative attention, ViT is ViT_REL.",
            "Differences are paired by seed, with 95 % t intervals. ~ holds within one point either way, > above 0, "
            ">> above five points; >= holds above minus one point. What the interval does not settle is undecided on "
            "this data.",
        ],
        facts=facts,
    )


def _verdict_sections(found: Gathered, judged: Sequence[Verdicts]) -> Iterator[Section]:
    orderings = {
        "generalization": "CCCC ~ CCCT >= CCTT > CTTT >> ViT",
        "capacity": "CCTT ~ CTTT > ViT > CCCT > CCCC",
        "transfer": "CCTT > CTTT (Table 2)",
        "ablations": "Tables 6 to 9; section 2.2 of linear attention and of the ViT stem",
    }
    for experiment, ordering in orderings.items():
        rows = [
            (
                sections.setting_in_words(found, one.experiment, one.setting),
                one.measure,
                f"{pair.better} {pair.relation} {pair.worse}",
                pair.verdict,
                sections.in_points(pair.difference),
                str(pair.difference.count),
            )
            for one in judged
            if one.experiment == experiment
            for pair in one.pairs
        ]
        if rows:
            columns = ("setting", "measure", "the paper's pair", "verdict", "difference, points", "seeds")
            table = Table(columns=columns, rows=rows, num_names=4)
            yield Section(title=f"Verdicts: {experiment}", text=[f"The paper: {ordering}."], tables=[table])


def _networks(found: Gathered) -> Section:
    rows = []
    for arm in found.study.arms:
        pace = found.pace.get(arm.name)
        step = f"{1000 * pace.step:,.0f}" if pace else ""
        rate = f"{found.study.config.batch_size / pace.step:,.0f}" if pace else ""
        blocks = arm.config.stages if isinstance(arm.config, CoAtNetConfig) else ()
        stages = " ".join(f"{one.block}{one.depth}x{one.width}" for one in blocks)
        rows.append((arm.name, stages, f"{arm.parameters:,}", f"{arm.multiply_adds / 1e6:,.2f}", step, rate))
    columns = ("network", "stages", "parameters", "multiply-adds, 10^6", "ms a step", "training images/s")
    caption = "Steps timed before the study began."
    return Section(title="Networks", tables=[Table(columns=columns, rows=rows, num_names=2, caption=caption)])


def _costs(found: Gathered, place: Path) -> Section:
    share = max(found.study.config.fractions)
    some = of(found.results, "generalization", share) + of(found.results, "contenders", share)
    some = some or list(found.results)
    accuracy = {arm: one.mean for arm, one in means(values(some, lambda one: one.top1)).items()}
    rows = [
        (
            one.run.name, f"{one.rate:g}", f"{one.last.step:,}", f"{one.seconds:,.0f}", f"{one.images_per_second:,.0f}",
            f"{one.top1:.2%} ({one.split})",
        )
        for one in found.results
    ]  # fmt: skip
    columns = ("run", "learning rate", "steps", "seconds of training", "images/s", "final accuracy")
    caption = "Seconds as they went, with whatever else the machine did."
    return Section(
        title="What it cost",
        pictures=[figures.costs(place, found.study, accuracy)],
        tables=[Table(columns=columns, rows=rows, caption=caption)],
    )
