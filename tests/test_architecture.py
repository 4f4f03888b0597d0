"""The rooms import downwards only, and every public name says what it is."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import coatnet

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "src" / "coatnet").rglob("*.py"))


def test_import_contract():
    """In a process of its own: it sets logging up anew, and what is closed then may be what pytest writes to."""
    lint = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", lint], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", coatnet.__all__)
def test_public_names_are_documented(name):
    value = getattr(coatnet, name)
    assert isinstance(value, str) or value.__doc__.strip()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_files_answer_one_question(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "what is this file for?"
    public = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_") and _is_public(tree, node)
    ]
    assert [node.name for node in public if not ast.get_docstring(node)] == []
    assert path.stem not in ("utils", "common", "helpers", "base", "core", "misc")


def _is_public(tree, node):
    """At the top of the file; methods may say by their class what they do."""
    return node in tree.body
