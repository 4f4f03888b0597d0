"""The command line: one file per verb, imported when it is used, so that help and usage errors never wait for torch."""

import os
import sys
from collections.abc import Sequence

from cyclopts import App, Parameter

from coatnet.cli.errors import exit_code
from coatnet.errors import ConfigError
from coatnet.version import __version__

VERBS = {
    "models": ("[OPTIONS]", "List the members of the family, or published weights."),
    "scan": ("DATA [OPTIONS]", "Look at a data set before anything is trained on it."),
    "train": ("DATA [OPTIONS]", "Train a classifier from a folder of images."),
    "tune": ("DATA [OPTIONS]", "Find good settings for a data set by runs around the recipe."),
    "resume": ("RUN [OPTIONS]", "Go on with a run that stopped."),
    "evaluate": ("CLASSIFIER [DATA] [OPTIONS]", "Score a classifier on a data set."),
    "pack": ("DATA FOLDER [OPTIONS]", "Pack a data set into tar shards."),
    "predict": ("CLASSIFIER IMAGES... [OPTIONS]", "Name what is to be seen in images."),
    "explain": ("CLASSIFIER IMAGES... [OPTIONS]", "Show what a classifier looked at."),
    "export": ("CLASSIFIER --format FORMAT [OPTIONS]", "Write a classifier for another runtime."),
    "benchmark": ("NETWORK [OPTIONS]", "Measure how fast a network runs on this machine."),
    "serve": ("CLASSIFIER [OPTIONS]", "Answer over HTTP, with a page to try it."),
    "compare": ("RUN RUN... [OPTIONS]", "Put runs side by side."),
    "properties": ("NETWORK... [OPTIONS]", "Measure equivariance, input-adaptivity and receptive field of networks."),
    "doctor": ("PATH [DATA] [OPTIONS]", "Say what a checkpoint is, and what looks wrong with it."),
    "study": ("DATA [OPTIONS]", "Ask which stages should convolve and which attend: train layouts of one size."),
    "study report": ("FOLDER [OPTIONS]", "Gather a study's runs: tables, figures, verdicts."),
    "study advise": ("DATA [OPTIONS]", "Say which layout to use within a latency or a size on this machine."),
}
"""How each verb is used, and what it does: all that `coatnet --help` needs to know of it."""

STANDARD_INPUT = "./-"
"""How - is written so that the parser does not take it for an option; as a path it is the same."""


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the words after `coatnet`; those of this process if not given.

    Returns:
        The exit code: 0, or that of the error, which is printed in two lines.
    """
    words = sys.argv[1:] if argv is None else argv
    words = _joined(words)
    options = words[: words.index("--")] if "--" in words else words
    debug = "--debug" in options or os.environ.get("COATNET_DEBUG", "0") not in ("", "0")
    rest = [word for word in options if word != "--debug"] + words[len(options) :]
    return exit_code(lambda: _run(rest), rest, debug)


def _run(words: list[str]) -> None:
    if "" in words:  # as a path it would be the current folder
        raise ConfigError("an argument is empty", "a variable in quotes that is not set gives one; write what is meant")
    if words[:1] == ["help"]:
        words = [*_joined(words[1:]), "--help"]
    create_app(words)([STANDARD_INPUT if word == "-" else word for word in words])


def create_app(words: Sequence[str]) -> App:
    """The command line with its verbs, none of them imported yet.

    Args:
        words: what was typed; the verb in it describes itself at length, by its docstring.
    """
    app = App(
        name="coatnet",
        help="Image classification with hybrids of convolution and attention.",
        help_epilogue="`coatnet help VERB` describes a verb. With any verb, --debug shows where an error came from.",
        version=__version__,
        version_flags=["--version"],
        default_parameter=Parameter(negative_iterable=()),
        suppress_keyboard_interrupt=False,
        print_error=False,
        exit_on_error=False,
        result_action="return_none",
    )
    for position, (verb, (arguments, summary)) in enumerate(VERBS.items()):
        app.command(
            f"coatnet.cli.{verb.split()[0]}:{verb.replace(' ', '_')}",
            name=verb,
            help=None if words[:1] == [verb] else summary,
            usage=f"Usage: coatnet {verb} {arguments}",
            sort_key=position,
        )
    return app


def _joined(words: list[str]) -> list[str]:
    """A verb of two words as one."""
    first = " ".join(words[:2])
    return [first, *words[2:]] if first in VERBS else words
