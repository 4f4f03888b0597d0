"""The description of the server is true: schemathesis asks what it allows and what it forbids."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

# A schema cannot say that the shape is the number of images, or that bytes are a picture: such requests are refused.
CONFIG = """
hooks = "serving.schemathesis_hooks"
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 413, 415, 504]
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 504]  # a client may ask for an answer within 50 ms
"""


@pytest.mark.parametrize("cases", [8, pytest.param(1000, marks=pytest.mark.slow)])
def test_every_operation(server, tmp_path, cases):
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    command = [
        Path(sys.executable).with_name("schemathesis"),
        *("run", f"{server.started['url']}openapi.json", "--checks", "all", "--max-examples", str(cases)),
        *("--generation-deterministic", "--no-color"),
    ]
    found = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])  # the hooks
    env = {**os.environ, "PYTHONPATH": found}
    ran = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]
    assert re.search(r"(\d{3,}) generated, \1 passed", ran.stdout), ran.stdout[-2000:]
