"""What a scan keeps of each image: its size, the SHA-256 of its bytes and of its pixels, a thumbnail. No torch.

On Linux one process per core takes them; elsewhere a process with threads cannot be forked, and this one does it all.
A process ends by itself when nobody reads its answers any more, however the reading process came to its end.
"""

import hashlib
import multiprocessing
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Generator
from contextlib import closing
from multiprocessing.connection import Connection, wait

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from coatnet.data.duplicates import THUMBNAIL
from coatnet.data.images import ImageError, ImageLimits, decode
from coatnet.data.levels import span
from coatnet.data.loader import default_threads
from coatnet.data.samples import Source
from coatnet.errors import ResourceError

DIGEST = np.dtype(
    [
        ("height", "i4"),  # 0 for an image that cannot be read
        ("width", "i4"),
        ("span", "u1"),  # levels from the darkest to the brightest
        ("file", "u1", 32),
        ("pixels", "u1", 32),
        ("thumbnail", "u1", (*THUMBNAIL, 3)),
    ]
)
# Images of one answer: small ones take some ten milliseconds, so that answers cost nothing beside them.
_BLOCK = 32
_DEFAULT_LIMITS = ImageLimits()

Block = tuple[int, NDArray[np.void], dict[int, ImageError]]


def take_digests(
    source: Source, on_progress: Callable[[int], None] = lambda _: None
) -> tuple[NDArray[np.void], dict[int, ImageError]]:
    """Read and decode every image once.

    Args:
        source: N images.
        on_progress: is told now and then how many more were read.

    Returns:
        (N,) records of `DIGEST`, zeros for what cannot be read; and why not, by index.

    Raises:
        ResourceError: a process died.
    """
    digests = np.zeros(len(source), DIGEST)
    errors: dict[int, ImageError] = {}
    num_processes = min(default_threads(), -(-len(source) // _BLOCK)) if sys.platform == "linux" else 1
    with closing(_by_processes(source, num_processes) if num_processes > 1 else _in_turn(source, 0, 1)) as blocks:
        for start, block, why_not in blocks:
            digests[start : start + len(block)] = block
            errors.update(why_not)
            on_progress(len(block))
    return digests, dict(sorted(errors.items()))


def _in_turn(source: Source, first: int, step: int) -> Generator[Block, None, None]:
    """Every `step`-th block from block `first` on."""
    for start in range(first * _BLOCK, len(source), step * _BLOCK):
        indices = range(start, min(start + _BLOCK, len(source)))
        block, errors = np.zeros(len(indices), DIGEST), {}
        for row, index in zip(block, indices, strict=True):
            try:
                _fill(row, source.read(index, _DEFAULT_LIMITS))
            except ImageError as error:
                errors[index] = error
        yield start, block, errors


def _fill(row: np.void, data: bytes) -> None:
    image = decode(data, _DEFAULT_LIMITS)
    height, width, _ = image.shape
    pixels = hashlib.sha256(f"{width}x{height}".encode())
    pixels.update(image.data)
    # Bilinear: of Pillow's filters the one whose thumbnails change least when a picture is resized.
    small = Image.fromarray(image).resize(THUMBNAIL[::-1], Image.Resampling.BILINEAR)
    row["height"], row["width"], row["span"] = height, width, span(image)
    row["file"] = np.frombuffer(hashlib.sha256(data).digest(), np.uint8)
    row["pixels"] = np.frombuffer(pixels.digest(), np.uint8)
    row["thumbnail"] = np.asarray(small)


def _by_processes(source: Source, num_processes: int) -> Generator[Block, None, None]:
    context = multiprocessing.get_context("fork")  # the source is shared, not copied
    pipes: list[Connection] = []
    processes = []
    try:
        for number in range(num_processes):
            ours, theirs = context.Pipe(duplex=False)
            pipes.append(ours)
            share = (source, number, num_processes)
            process = context.Process(target=_work, args=(share, theirs, list(pipes)), daemon=True)
            with warnings.catch_warnings():
                # Python 3.12 and later warn of forking a process with threads: ours touch nothing of theirs.
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            theirs.close()
            processes.append(process)
        yield from _answers(pipes)
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.kill()  # they hold nothing that could be lost
            process.join()
            process.close()


def _answers(pipes: list[Connection]) -> Generator[Block, None, None]:
    waiting: list[Connection] = list(pipes)
    while waiting:
        for pipe in wait(waiting):
            assert isinstance(pipe, Connection)
            try:
                answer = pipe.recv()
            except EOFError as error:
                raise ResourceError(
                    "A process that reads images died.", hint="It may have been killed for lack of memory."
                ) from error
            if isinstance(answer, str):
                raise RuntimeError(answer)
            if answer is None:
                waiting.remove(pipe)
            else:
                yield answer


def _work(share: tuple[Source, int, int], answers: Connection, inherited: list[Connection]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that reads the answers
    for pipe in inherited:  # else a pipe would still have a reader after that process is gone
        pipe.close()
    try:
        for block in _in_turn(*share):
            answers.send(block)
        answers.send(None)
    except BrokenPipeError:
        return
    except Exception:  # whatever it is belongs to the reading process
        answers.send(traceback.format_exc())
