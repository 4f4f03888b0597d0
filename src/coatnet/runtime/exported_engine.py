"""torch's exported programs, and the gate that a .pt2 file passes before torch sees it.

torch reads these files with pickle, falls back to reading them without any restraint, and evaluates expressions in
them. So only what we write is let through: weights as plain bytes, operators of aten, one symbol for the batch.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coatnet.errors import ModelFileError
from coatnet.runtime.file_engine import FileEngine
from coatnet.runtime.sharing import TRACING, check_fork

MEMBERS = re.compile(
    r"[^/]+/(models/model\.json|data/(weights/(weight_\d+|model_weights_config\.json)"
    r"|constants/model_constants_config\.json|sample_inputs/model\.pt)"
    r"|archive_(format|version)|byteorder|\.data/(version|serialization_id)|\.format_version|\.storage_alignment)"
)
"""What such an archive holds, and nothing else: no libraries, no pickled constants, no files of older forms."""
OPERATORS = re.compile(
    r"torch\.ops\.aten\.(?!from_file|save|load)[a-z_0-9]+\.[A-Za-z_0-9]+|_operator\.(getitem|mul|add)"
)
"""Operators of the graph. aten.from_file would read any file."""
EXPRESSIONS = re.compile(r"Symbol\('s\d+', positive=True, integer=True\)|s\d+|\d+(\*s\d+)?")
"""Sizes: torch has sympy evaluate them as Python."""
MAX_JSON_BYTES = 64_000_000
"""coatnet_0's graph takes 0.5 MB; coatnet_7 has ten times as many blocks."""


class ExportedEngine(FileEngine):
    """An exported program on the CPU, in float32.

    Args:
        path: the .pt2 file.

    Raises:
        ModelFileError: it is refused.
    """

    def __init__(self, path: Path) -> None:
        import torch

        super().__init__(path)
        self._device = torch.device("cpu")
        check_fork(self._device)
        check_program(path)
        try:
            with TRACING:
                self._module = torch.export.load(path).module()
        except Exception as error:  # torch's errors here have no common base
            raise ModelFileError(f"{path} is refused: torch cannot read it: {error!s:.200}") from None
        self.description = "torch.export, float32"

    def logits(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """(B, 3, H, W) float32 -> (B, classes) float32."""
        import torch

        check_fork(self._device)
        batch = torch.from_numpy(np.require(images, requirements=("C", "W")))
        with torch.no_grad():
            found: NDArray[np.float32] = self._module(batch).numpy()
        return found


def check_program(path: Path) -> None:
    """See that a .pt2 file holds a graph of plain operators and plain weights.

    Raises:
        ModelFileError: it is refused.
    """
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            strange = [name for name in archive.namelist() if not MEMBERS.fullmatch(name)]
            if strange:
                raise ValueError(f"it holds {strange[0]!r:.100}")
            root = archive.namelist()[0].partition("/")[0]
            _check_graph(_json(archive, f"{root}/models/model.json"))
            _check_tensors(_json(archive, f"{root}/data/weights/model_weights_config.json"))
            _check_tensors(_json(archive, f"{root}/data/constants/model_constants_config.json"))
            torch.load(io.BytesIO(archive.read(f"{root}/data/sample_inputs/model.pt")), weights_only=True)
    except Exception as error:  # a zip, JSON, a pickle: each can be wrong in its own way
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelFileError(f"{path} is refused: {reason}", "Export it again.") from None


def _json(archive: zipfile.ZipFile, name: str) -> Any:
    if archive.getinfo(name).file_size > MAX_JSON_BYTES:
        raise ValueError(f"{name} has more than {MAX_JSON_BYTES} bytes")
    return json.loads(archive.read(name))


def _check_graph(program: Any) -> None:
    if program["guards_code"]:
        raise ValueError("it holds code")
    for key, text in _strings(program):
        if key == "target" and not OPERATORS.fullmatch(text):
            raise ValueError(f"it calls {text!r:.100}")
        if key == "expr_str" and not EXPRESSIONS.fullmatch(text):
            raise ValueError(f"it holds the expression {text!r:.100}")


def _check_tensors(config: Any) -> None:
    if any(entry["use_pickle"] for entry in config["config"].values()):
        raise ValueError("it holds pickled tensors")


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string with the key that it stands under."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _strings(part, name)
            if key in ("range_constraints", "symbol_values"):
                yield "expr_str", name
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part, key)
