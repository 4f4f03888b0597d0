"""The code of docs/torch.md runs, where the packages it imports are installed."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "torch.md"


@pytest.mark.parametrize("code", re.findall(r"```python\n(.+?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))
def test_code_of_the_page_runs(code: str) -> None:
    if "peft" in code:
        pytest.importorskip("peft")
    exec(compile(code, str(PAGE), "exec"), {"__name__": "page"})
