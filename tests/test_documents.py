"""What the README says is so."""

import re
import shlex
from pathlib import Path

import pytest

from coatnet.cli import VERBS
from coatnet.model.family import FAMILY
from coatnet.model.size import model_size

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_readme_stays_short() -> None:
    assert len(README.splitlines()) <= 150


def test_pictures_and_folders_that_are_named_are_there() -> None:
    for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / target).is_file(), target
    for folder in re.findall(r"^\| `([^`]+/|[^`]+\.md)`", README, flags=re.MULTILINE):
        assert (ROOT / folder).exists(), folder


def test_the_family_table_is_the_family() -> None:
    rows = re.findall(
        r"^\| `(coatnet_\w+)` \| ([CT-]+) \| ([\d,.]+) M \| ([\d,.]+) G \| (\d+) px \|$", README, re.MULTILINE
    )
    expected = []
    for name, config in FAMILY.items():
        size = model_size(config)
        counts = f"{size.parameters / 1e6:,.1f}", f"{size.multiply_adds / 1e9:,.2f}"
        expected.append((name, config.layout, *counts, str(config.image_size)))
    assert rows == expected


def test_commands_that_are_shown_exist() -> None:
    commands = [shlex.split(line.partition("#")[0]) for block in blocks("") for line in block.splitlines()]
    verbs = {words[1] for words in commands if words and words[0] == "coatnet"}
    assert verbs
    assert verbs <= set(VERBS)
    targets = {words[1] for words in commands if words and words[0] == "make"}
    assert {"demo", "test"} <= targets
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


@pytest.mark.slow
def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = blocks("python")
    exec(compile(example, "README.md", "exec"), {})
    assert (tmp_path / "runs" / "digits" / "report.html").is_file()
