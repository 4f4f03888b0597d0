"""Where published files come from: a path that is given, the cache of the Hugging Face hub, or the hub itself.

huggingface_hub does the work, so its variables hold: HF_HOME and HF_HUB_CACHE for the cache, HF_HUB_OFFLINE,
HF_ENDPOINT for a mirror, HF_TOKEN. Imports no torch and no timm: without a network the answer must come at once.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import NamedTuple

from coatnet.errors import MissingPartError, ModelFileError

RECORD = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""What timm calls its weights on the hub, the safe form first."""
WEIGHTS_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
ANSWER_SECONDS = 2.0
"""How long the hub may take to answer at all: with the start of the program that makes less than 3 s without a network.
A download takes as long as it takes."""


class Files(NamedTuple):
    """Weights and what is written beside them."""

    weights: Path
    record: Path | None
    """config.json, if there is one."""


def holds_weights(folder: Path) -> bool:
    """Whether a folder holds published weights."""
    return any((folder / name).is_file() for name in WEIGHTS)


class NotOnHubError(Exception):
    """The hub answers, and has no such repository or file."""


def local_files(place: Path) -> Files:
    """The files of a folder, or a file of weights with the record beside it.

    Raises:
        ModelFileError: nothing is there, or no weights.
    """
    if place.is_file():
        return Files(place, _if_file(place.with_name(RECORD)))
    if not place.is_dir():
        raise ModelFileError(f"{place} does not exist", "give a folder or file of weights")
    found = [place / name for name in WEIGHTS if (place / name).is_file()]
    if not found:
        raise ModelFileError(f"{place} holds no weights", f"it should hold {' or '.join(WEIGHTS)}, and {RECORD}")
    return Files(found[0], _if_file(place / RECORD))


def hub_files(repository: str) -> Files:
    """The files of a repository of the hub: from the cache, else downloaded into it.

    Args:
        repository: as "timm/resnet50.a1_in1k".

    Raises:
        MissingPartError: they are not in the cache, and the hub is offline, silent or refuses.
        NotOnHubError: there is no such repository, or no weights in it.
    """
    from huggingface_hub import constants

    for name in WEIGHTS:
        cached = _cached(repository, name)
        if cached:
            return Files(cached, _cached(repository, RECORD))
    if constants.is_offline_mode():
        raise _missing(repository, "HF_HUB_OFFLINE forbids to ask the hub")
    name = _answer(repository)
    weights = _download(repository, name)
    assert weights is not None
    return Files(weights, _download(repository, RECORD))


def cache_is_empty() -> bool:
    """Whether no repository was ever downloaded."""
    from huggingface_hub import constants

    return not any(Path(constants.HF_HUB_CACHE).glob("models--*"))


def _if_file(path: Path) -> Path | None:
    return path if path.is_file() else None


def _cached(repository: str, name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, name)
    return Path(found) if isinstance(found, str) else None


def _answer(repository: str) -> str:
    """Ask the hub once which weights it has. In a thread, because looking up a name knows no time limit."""
    answers: list[str | Exception] = []
    thread = threading.Thread(target=lambda: answers.append(_ask(repository)), daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    if not answers:
        raise _missing(repository, f"the hub does not answer within {ANSWER_SECONDS:g} s")
    answer = answers[0]
    if isinstance(answer, NotOnHubError):
        raise answer
    if isinstance(answer, Exception):
        raise _missing(repository, _reason(answer)) from None
    return answer


def _ask(repository: str) -> str | Exception:
    """The name of the weights; an exception is given back, for it must leave the thread."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError

    for name in WEIGHTS:
        try:
            get_hf_file_metadata(hf_hub_url(repository, name), timeout=ANSWER_SECONDS, retry_on_errors=False)
            return name
        except EntryNotFoundError:
            continue
        except GatedRepoError as error:
            return error
        except RepositoryNotFoundError:
            break
        except Exception as error:  # no network, a proxy's page, a certificate: all mean the same here
            return error
    return NotOnHubError(repository)


def _download(repository: str, name: str) -> Path | None:
    """A file of a repository that has answered; None if it has no such file."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, name))
    except RemoteEntryNotFoundError:
        return None
    except Exception as error:
        if isinstance(error, OSError) and error.errno:  # the disk, not the network
            raise
        raise _missing(repository, _reason(error)) from None


def _reason(error: Exception) -> str:
    first_line = str(error).strip().partition("\n")[0]
    return f"the hub does not give them ({first_line or type(error).__name__})"


def _missing(repository: str, reason: str) -> MissingPartError:
    from huggingface_hub import constants

    folder = "models--" + repository.replace("/", "--")
    return MissingPartError(
        f"the weights {repository} are not in {constants.HF_HUB_CACHE}, and {reason}",
        f"where there is a network, run `hf download {repository} {WEIGHTS[0]} {RECORD}`, and copy the folder {folder} "
        f"of its cache to {constants.HF_HUB_CACHE}; or give the path of a folder with both files",
    )
