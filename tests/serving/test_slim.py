"""A server for an exported artefact needs no torch, and nothing that comes with it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from coatnet.classifier import Classifier
from coatnet.cli import main
from serving.servers import Server, check_problem

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


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "engine"), [("onnx", ["onnx", "onnxruntime"]), ("openvino", ["openvino"])])
def test_the_container_in_a_virtual_environment(tiny_classifier, tmp_path, pictures, kind, engine):
    """What deploy/Containerfile installs, from the package index, and nothing else."""
    assert main(["export", str(tiny_classifier), "--format", kind, "--out", str(tmp_path / "exported")]) == 0
    expected = Classifier.load(tmp_path / "exported", precision="auto").predict(pictures[0]).as_dict()
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet"]
    subprocess.run([*install, "-r", ROOT / "deploy" / "requirements.txt", *engine], check=True)
    subprocess.run([*install, "--no-deps", ROOT], check=True)
    heavy = subprocess.run([python, "-c", "import torch"], capture_output=True, text=True, env={})
    assert "No module named 'torch'" in heavy.stderr
    with Server(tmp_path / "exported", how=(), python=python) as slim:
        assert slim.predict(pictures[0]).json() == expected
        assert slim.client.get("/").status_code == 200
        headers = {"content-type": "image/png"}
        check_problem(slim.client.post("/explain", content=b"x", headers=headers), 422, "does_not_apply")
