import json
from pathlib import Path

import pytest

from coatnet.cli import main
from coatnet.errors import ConfigError, ModelFileError
from coatnet.training.compare import compare, write_comparison
from coatnet.training.config import lay_over
from coatnet.training.recipes import small_data


def run_folder(path: Path, rate: float, losses: list[float], top1: float | None) -> Path:
    """What a run leaves, less the weights."""
    path.mkdir()
    config = lay_over(small_data("digits"), run={"steps": len(losses)}, optimizer={"learning_rate": rate})
    (path / "config.json").write_text(config.model_dump_json())
    lines = [{"step": step, "loss": loss, "images_per_second": 100.0 + step} for step, loss in enumerate(losses, 1)]
    lines.append({"step": len(losses), "evaluation": "train_sample", "top1": 1.0, "loss": 0.1})
    lines.append({"step": len(losses), "evaluation": "val", "top1": 1 - losses[-1], "loss": 0.5})
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if top1 is not None:
        (path / "evaluation.json").write_text(json.dumps({"split": "test", "top1": top1}))
    return path


@pytest.fixture
def runs(tmp_path):
    first = run_folder(tmp_path / "first", 1e-3, [2.0, 1.0, 0.3], 0.68)
    return first, run_folder(tmp_path / "second", 2e-3, [2.0, 0.5, 0.2], None)


def test_results_and_differences_are_those_of_the_runs(runs):
    comparison = compare(runs)
    first, second = comparison.runs
    assert (first.steps, first.images_per_second, first.best_val, first.top1) == (3, 102.0, pytest.approx(0.7), 0.68)
    assert (second.best_val, second.top1, second.split) == (pytest.approx(0.8), None, "")
    assert comparison.differences == {"optimizer.learning_rate": ("0.001", "0.002")}


def test_the_page_holds_both_runs(runs, tmp_path):
    page = tmp_path / "pages" / "compare.html"
    write_comparison(compare(runs), page)
    html = page.read_text(encoding="utf-8")
    assert html.count("data:image/png;base64,") == 1
    assert all(text in html for text in ("first", "second", "optimizer.learning_rate", "68.00% (test)", "not ended"))


def test_the_command_prints_tables_and_json(runs, capsys):
    assert main(["compare", *map(str, runs)]) == 0
    assert "optimizer.learning_rate" in capsys.readouterr().out
    assert main(["compare", *map(str, runs), "--json"]) == 0
    assert [run["top1"] for run in json.loads(capsys.readouterr().out)["runs"]] == [0.68, None]


def test_what_cannot_be_compared_is_said(runs, tmp_path, capsys):
    with pytest.raises(ConfigError, match="1 run was given"):
        compare(runs[:1])
    with pytest.raises(ModelFileError, match="holds no run"):
        compare([runs[0], tmp_path])
    assert main(["compare", *map(str, runs), "--report", str(tmp_path / "page.csv")]) == 2
    assert "ends with .html" in capsys.readouterr().err
