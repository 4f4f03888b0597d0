"""A server for an exported artefact needs no torch, and nothing that comes with it."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LISTED = {
    re.match(r"[a-z0-9_-]+", line)[0]
    for line in (ROOT / "deploy" / "requirements.txt").read_text().splitlines()
    if not line.startswith("#")
}
HEAVY = ("torch", "torchvision", "timm", "pyarrow", "sklearn", "scipy", "matplotlib", "jinja2", "huggingface_hub")
CODE = """
import sys
class Refuse:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in {heavy!r}:
            raise AssertionError(name + " was imported")
sys.meta_path.insert(0, Refuse())
import coatnet.cli.serve, coatnet.serving.server, coatnet.serving.worker
"""


def test_the_server_imports_nothing_heavy():
    subprocess.run([sys.executable, "-c", CODE.format(heavy=HEAVY)], check=True)


def test_the_list_holds_what_the_extra_says():
    extra = re.search(r"^serve = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    needed = set(re.findall(r'"([a-z0-9_-]+)', extra))
    assert needed <= LISTED
    assert {"numpy", "pillow", "pydantic", "cyclopts"} == LISTED - needed
