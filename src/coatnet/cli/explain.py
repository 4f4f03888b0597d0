"""`coatnet explain`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from cyclopts import Parameter

from coatnet.cli import runs
from coatnet.cli.answers import STANDARD_INPUT, check_all_read, find_images, read_image
from coatnet.cli.flags import parse_size
from coatnet.cli.printing import print_now, show_json, show_path
from coatnet.data.images import ImageError
from coatnet.data.samples import printable
from coatnet.errors import ConfigError
from coatnet.explanation.explain import METHODS, Method
from coatnet.explanation.explain import explain as look

if TYPE_CHECKING:
    from coatnet.classifier import Classifier

Format = Literal["page", "grid", "overlay"]
SUFFIXES: dict[Format, str] = {"page": ".html", "grid": ".png", "overlay": ".png"}
FAITHFULNESS = "faithfulness.html"


def explain(  # noqa: PLR0913 (flags)
    classifier: str,
    /,
    *images: Path,
    published: Annotated[bool, Parameter(negative=())] = False,
    format: Format = "page",
    method: Annotated[str | None, Parameter(metavar="METHOD,...")] = None,
    label: str | None = None,
    at: Annotated[str | None, Parameter(metavar="ROW,COLUMN")] = None,
    faithfulness: Annotated[bool, Parameter(negative=())] = False,
    out: Path | None = None,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
    image_size: Annotated[str | None, Parameter(metavar="SIZE")] = None,
    device: str = "auto",
) -> None:
    """Show what a classifier looked at: a file for each image. One that cannot be read is told, and the exit code is
    then 3.

    Args:
        classifier: a run folder, a classifier folder, or published weights as timm/NAME.TAG.
        images: files, folders that are searched for images, or - for an image on standard input.
        published: CLASSIFIER is the name of published weights, as NAME.TAG, or a folder or file of them; it may be left
            out for a good default.
        format: page: an HTML file with everything. grid: a PNG file with all maps. overlay: a PNG file with one map.
        method: grad_cam, integrated_gradients, rollout or receptive_field, several with commas; default: all that
            apply, for an overlay integrated_gradients, which is the most faithful (docs/explanations.md).
        label: the class to explain; default: the most probable one.
        at: pixel of the image, as the network sees it, whose attention and receptive fields are shown; default: the
            middle.
        faithfulness: also measure whether the maps show what counts, by deletion and insertion: some 300 more passes
            for each image. Pages show it; over several images it is also written to faithfulness.html.
        out: folder of the files; default: a new one below runs/, named after the classifier.
        overwrite: replace files in the folder that --out names.
        json: print one object a line instead, with all arrays; files are then written only if --out is given.
        image_size: feed images at another size than it was trained at: 96, or 96x128 for height x width in pixels.
        device: auto, cpu, cuda, cuda:N or mps.
    """
    if published:
        classifier, images = runs.published_and_images(classifier, images)
    if not images:
        raise ConfigError("IMAGES is missing", "give files or folders of images after the classifier")
    methods, place = _methods(method, format), None if at is None else _parse_place(at)
    size = None if image_size is None else parse_size(image_size)
    if faithfulness and format != "page" and not json:
        raise ConfigError(f"--faithfulness is shown on pages, not with --format {format}", "leave one of them out")
    if overwrite and out is None:
        raise ConfigError("--overwrite needs --out, the folder of the files to replace")
    paths = find_images(images)
    writes = out is not None or not json
    files = _files(classifier, paths, format, out, overwrite) if writes else [None] * len(paths)
    loaded = runs.open_classifier(classifier, device, published=published)
    loaded = loaded.at_size(size) if size else loaded
    request = _Request(format, methods, label, place, faithfulness, json)
    check_all_read(_explain_all(loaded, list(zip(paths, files, strict=True)), request))


class _Request(NamedTuple):
    format: Format
    methods: tuple[Method, ...] | None
    label: str | None
    at: tuple[int, int] | None
    faithfulness: bool
    json: bool


def _explain_all(classifier: Classifier, paths: Sequence[tuple[Path, Path | None]], request: _Request) -> list[Path]:
    """A line and a file for each image as soon as it is explained; the images that could not be read."""
    from coatnet.explanation.faithfulness import measure, merged
    from coatnet.explanation.page import write_explanation, write_faithfulness, write_grid, write_overlay

    unread, measurements = [], []
    for path, file in paths:
        name = printable(str(path))
        try:
            image = read_image(path)
        except ImageError as error:
            unread.append(path)
            _show({"image": name, "error": {"code": error.code, "detail": error.detail}}, request)
            continue
        found = look(classifier, image, methods=request.methods, label=request.label, at=request.at)
        measured = measure(classifier, [found]) if request.faithfulness else None
        told: dict[str, Any] = {"image": name, **found.as_dict()}
        if measured is not None:
            measurements.append(measured)
            told["faithfulness"] = measured.as_dict()
        if file is not None:
            told["file"] = str(file)
            if request.format == "page":
                write_explanation(file, path.name, found, measured)
            else:
                {"grid": write_grid, "overlay": write_overlay}[request.format](file, found)
        _show(told, request)
    summary = next((file.with_name(FAITHFULNESS) for _, file in paths if file), None)
    if len(measurements) > 1 and summary is not None:
        write_faithfulness(summary, "Do the maps show what counts?", merged(measurements))
        if not request.json:
            show_path("faithfulness", summary)
    return unread


def _show(told: dict[str, Any], request: _Request) -> None:
    if request.json:
        show_json(told)
        return
    if "error" in told:
        line = f"not read, {told['error']['code']}: {told['error']['detail']}"
    else:
        line = f"{printable(told['label'])} {100 * told['probability']:.1f} %  {printable(told['file'])}"
    print_now(f"{told['image']}: {line}")
    for reason in told.get("left_out", {}).values():
        print_now(f"  left out: {reason}")


def _files(classifier: str, paths: Sequence[Path], form: Format, out: Path | None, overwrite: bool) -> list[Path]:
    """A file for each image, named after it; known to be free before a long look begins.

    Raises:
        ConfigError: one is there already.
    """
    folder = _default_folder(classifier) if out is None else out.expanduser()
    blocked = next((path for path in (folder, *folder.absolute().parents) if path.exists() and not path.is_dir()), None)
    if blocked:
        raise ConfigError(f"--out {printable(str(out))}: {printable(str(blocked))} is a file", "choose a folder")
    files: list[Path] = []
    for path in paths:
        base = "stdin" if path == STANDARD_INPUT else path.stem
        names = itertools.chain([base], (f"{base}-{count}" for count in itertools.count(2)))
        taken = {FAITHFULNESS, *(file.name for file in files)}
        files.append(folder / next(name for stem in names if (name := stem + SUFFIXES[form]) not in taken))
    there = next((file for file in files if file.exists()), None)
    if there and not overwrite:
        raise ConfigError(f"{printable(str(there))} exists", "choose another --out, or add --overwrite")
    return files


def _default_folder(classifier: str) -> Path:
    """A new folder below runs/, named after the classifier."""
    path = Path(classifier)
    name = path.absolute().parent.name if path.name == "classifier" else path.name
    base = Path("runs") / f"explain-{name or 'classifier'}"
    names = itertools.chain([base], (base.with_name(f"{base.name}-{count}") for count in itertools.count(2)))
    return next(path for path in names if not path.exists())


def _methods(text: str | None, form: Format) -> tuple[Method, ...] | None:
    """The methods that are named, or None for all that apply."""
    if text is None:
        return ("integrated_gradients",) if form == "overlay" else None
    found = tuple(method for method in METHODS if method in text.split(","))
    unknown = [word for word in text.split(",") if word not in METHODS]
    if unknown:
        raise ConfigError(f"--method: there is no {unknown[0]!r:.60}", f"the methods are {', '.join(METHODS)}")
    if form == "overlay" and len(found) > 1:
        raise ConfigError(f"--method: an overlay shows one map, got {text}", "name one method, or take --format grid")
    return found


def _parse_place(text: str) -> tuple[int, int]:
    """ "12,30" -> row and column in pixels."""
    found = re.fullmatch(r"([0-9]{1,5}),([0-9]{1,5})", text)
    if not found:
        raise ConfigError(f"--at: {text!r:.60} is no place", "write a row and a column in pixels, as 12,30")
    return int(found[1]), int(found[2])
