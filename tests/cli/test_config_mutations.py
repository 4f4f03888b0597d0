"""Odd values for any flags of `coatnet train`: a valid config, or exit code 2 with the flag's name; no traceback."""

import contextlib
import io
import re

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from coatnet.cli import create_app
from coatnet.cli.errors import exit_code
from coatnet.cli.flags import Asked, AugmentationFlags, DataFlags, OptimizerConfig, RunFlags, build_config
from coatnet.cli.flags import given as given_fields
from coatnet.errors import CoatnetError, ConfigError
from coatnet.training.config import TrainConfig

PARTS = {
    "run_flags": RunFlags,
    "data_flags": DataFlags,
    "optimizer_flags": OptimizerConfig,
    "augmentation_flags": AugmentationFlags,
}
FIELDS = sorted(name for config in PARTS.values() for name in config.model_fields if name != "path")
FLAGS = [f"--{name.replace('_', '-')}" for name in (*FIELDS, *Asked.model_fields)]
ODD = [
    *("0", "1", "-1", "2", "3", "7", "64", "0.5", "0.9", "1.5", "1e-3", "1e400", "-0", "1_000", "0x10", "٣"),
    *("nan", "inf", "-inf", "none", "null", "true", "auto", "cpu", "float32", "coatnet_0", "small_data", "label"),
    *("", " ", "3x", "90s", "2h", "1,1", "0.5,1", "1,0.5", "0,0", "1,2,3", ",", "a,b", "[1,2]", "{}", '{"steps":1}'),
    *("--", "-", "é", "\n", "9" * 30, "9" * 400, "x" * 300, "$(id)", "../..", "%s", "[bold]"),
]


def outcome(words):
    """A valid config, or the exit code with what is printed: `coatnet train digits` without the training."""
    configs = []

    def build():
        _, bound, _ = create_app([]).parse_args(["train", "digits", *words])
        flags = {part.removesuffix("_flags"): given_fields(bound.arguments.get(part)) for part in PARTS}
        configs.append(build_config("digits", flags, bound.arguments.get("asked_flags") or Asked())[0])

    with contextlib.redirect_stderr(io.StringIO()) as told:
        code = exit_code(build, ["train", "digits", *words])
    return configs[0] if configs else (code, told.getvalue())


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(FLAGS), st.sampled_from(ODD)), min_size=1, max_size=3))
@example([("--learning-rate", "inf")])
@example([("--batch-size", "3"), ("--cutmix", "0.5")])
@example([("--weight-decay", "9" * 400)])
def test_any_flags(mutations):
    words = [word for flag, value in mutations for word in (flag, value)]
    found = outcome(words)
    if isinstance(found, TrainConfig):
        assert TrainConfig.model_validate_json(found.model_dump_json()) == found
        return
    code, told = found
    names_a_file = any(flag == "--init" for flag, _ in mutations)
    assert code == 2 or (names_a_file and code == 4), told
    assert len(told.splitlines()) == 2, told
    named = [flag for flag, _ in mutations if re.search(rf"{flag}\b|{flag[2:].replace('-', '_')}\b", told)]
    assert named or any(repr(value)[1:-1] in told for _, value in mutations), (words, told)


def test_every_error_of_a_user_has_a_code_of_its_own():
    codes = [kind.exit_code for kind in CoatnetError.__subclasses__()]
    assert len(set(codes)) == len(codes)
    assert ConfigError.exit_code == 2
