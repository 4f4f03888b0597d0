"""`coatnet serve`."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from coatnet.classifier.artefact import AskedPrecision, is_artefact
from coatnet.classifier.folder import find_folder
from coatnet.errors import ConfigError, MissingPartError, install_hint
from coatnet.model.published import is_published_name
from coatnet.runtime.engines import Runtime
from coatnet.serving.config import ServeConfig
from coatnet.terminal import visible

if TYPE_CHECKING:
    from coatnet.serving.server import Started


class ServeFlags(ServeConfig):
    """ServeConfig; the token may stay out of the command line, and no origins need no default."""

    token: Annotated[str, Parameter(env_var="COATNET_TOKEN", show_default=False)] = ServeConfig.model_fields["token"]  # type: ignore[assignment]

    origins: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = ServeConfig.model_fields[
        "origins"
    ]  # type: ignore[assignment]


def serve(  # noqa: PLR0913 (flags)
    classifier: str,
    /,
    *,
    json: Annotated[bool, Parameter(negative=())] = False,
    image_size: Annotated[str | None, Parameter(metavar="SIZE")] = None,
    device: str = "auto",
    runtime: Runtime = "auto",
    precision: AskedPrecision = "auto",
    flags: Annotated[ServeFlags | None, Parameter(name="*")] = None,
) -> None:
    """Answer over HTTP, with a page to try it. SIGTERM and Ctrl-C end it once all that was accepted is answered; SIGHUP
    loads the folder anew.

    Args:
        classifier: a run folder, a classifier folder, an exported folder, or published weights as timm/NAME.TAG.
        json: tell by one JSON object when requests are taken, instead of lines for people.
        image_size: feed images at another size than it was trained at: 96, or 96x128 for height x width in pixels.
        device: auto, cpu, cuda, cuda:N or mps.
        runtime: what computes; auto takes the fastest that is installed, and says which. A classifier is converted for
            it once.
        precision: auto takes bfloat16 where the CPU multiplies it and its error was found small.
    """
    config: ServeConfig = flags or ServeFlags()
    size = None if image_size is None else _size(image_size)
    published = is_published_name(classifier) and not Path(classifier).exists()
    if published and runtime not in ("auto", "torch"):
        raise ConfigError(
            f"--runtime {runtime}: published weights run in torch", f"export them first: coatnet export {classifier}"
        )
    if not published and not is_artefact(Path(classifier)):
        find_folder(Path(classifier))
    try:
        from coatnet.serving.messages import Job
        from coatnet.serving.server import serve as run
    except ModuleNotFoundError as error:
        if (error.name or "coatnet").startswith("coatnet"):
            raise
        hint = install_hint("serve")
        raise MissingPartError(f"coatnet serve needs {error.name}, which is not installed", hint) from None
    config = config.replace(name=config.name or _name(classifier))
    job = Job(
        path=classifier,
        published=published,
        device=device,
        runtime=runtime,
        precision=precision,
        image_size=size,
        limits=config.limits,
        threads=config.threads,
        batch_size=config.batch_size,
    )
    run(config, job, _show_json if json else _show)


def _size(text: str) -> tuple[int, int]:
    # Not imported above: the flags of training need packages that a slim server has not.
    from coatnet.cli.flags import parse_size

    return parse_size(text)


def _show_json(started: Started) -> None:
    sys.stdout.write(dumps(asdict(started)) + "\n")
    sys.stdout.flush()


def _show(started: Started) -> None:
    threads = f", {started.threads} threads" if started.threads else ""
    pace = f"{started.images_per_second:.1f} images/s"
    text = (
        f"{started.name}, {started.num_classes} classes, at {started.url}\n"
        f"{started.runtime}{threads}, batches of {started.batch_size}: {pace}; {started.queue} may wait\n"
    )
    sys.stdout.write(visible(text))
    sys.stdout.flush()


def _name(classifier: str) -> str:
    """That of the run or classifier folder, or of published weights, as addresses can hold it."""
    path = Path(classifier).resolve()
    word = path.parent.name if path.name == "classifier" else path.name
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", word)[:100] or "classifier"
