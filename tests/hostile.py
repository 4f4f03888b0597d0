"""Model files made to run code, to write where they should not, to exhaust memory, or to be read wrongly."""

import io
import json
import os
import pickle
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import torch

TENSOR = {"head.classes.bias": torch.zeros(4)}


class Payload:
    """Makes the file `marker` when a careless reader unpickles it."""

    def __init__(self, kind: str, marker: Path) -> None:
        self.kind, self.marker = kind, str(marker)

    def __reduce__(self):
        script = f"open({self.marker!r}, 'w').close()"
        return {
            "system": (os.system, (f"touch {self.marker}",)),
            "exec": (exec, (script,)),
            "eval": (eval, (script,)),
            "open": (open, (self.marker, "w")),
            "output": (subprocess.getoutput, (f"touch {self.marker}",)),
            "copy": (shutil.copy, (__file__, self.marker)),
        }[self.kind]


KINDS = ("system", "exec", "eval", "open", "output", "copy")


def pickles(folder: Path, marker: Path) -> list[Path]:
    """Files that run code when they are unpickled."""
    made = []
    for kind in KINDS:
        payload = Payload(kind, marker)
        made.append(_bytes(folder / f"bare_{kind}.pth", pickle.dumps({"weight": payload}, protocol=2)))
        torch.save({"state_dict": TENSOR, "args": payload}, made_path := folder / f"zip_{kind}.pt")
        made.append(made_path)
    payload = Payload("system", marker)
    torch.save({"model": payload}, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(payload, folder / "whole.bin")
    torch.save(torch.nn.Linear(2, 2), folder / "module.pth")  # a whole network: its class would have to be imported
    made += [folder / name for name in ("legacy.pth", "whole.bin", "module.pth")]
    made.append(_bytes(folder / "newest.ckpt", pickle.dumps(payload, protocol=5)))
    made.append(_tar(folder / "legacy.pth.tar", pickle.dumps(payload)))
    archive = {"archive/data.pkl": pickle.dumps(payload, protocol=2), "archive/version": b"3\n"}
    made.append(_zip(folder / "script.pt", {**archive, "archive/constants.pkl": pickle.dumps(payload, protocol=2)}))
    return made


def archives(folder: Path) -> list[Path]:
    """Zip files that point outside of themselves, grow, or are cut."""
    torch.save(TENSOR, folder / "whole.pt")
    whole = (folder / "whole.pt").read_bytes()
    (folder / "whole.pt").unlink()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        records = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    return [
        _zip(folder / "slip_up.pt", {**records, "../../slipped": b"x"}),
        _zip(folder / "slip_inside.pt", {**records, "archive/../../slipped": b"x"}),
        _zip(folder / "slip_root.pt", {**records, "/tmp/slipped": b"x"}),
        _zip(folder / "bomb.pt", {**records, "archive/data/9": bytes(50_000_000)}, zipfile.ZIP_DEFLATED),
        _bytes(folder / "cut.pt", whole[: len(whole) // 2]),
        _bytes(folder / "empty.pt", b""),
        _bytes(folder / "noise.pth", bytes(range(256)) * 8),
        _bytes(folder / "text.bin", b"<html>404 not found</html>"),
    ]


def headers(folder: Path) -> list[Path]:
    """Safetensors files whose header lies."""
    one = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    other = {"dtype": "F32", "shape": [4], "data_offsets": [16, 32]}
    pair = json.dumps({"a": one})[:-1] + ', "a": ' + json.dumps(one) + "}"
    attacks = {
        "overlap": {"a": one, "b": {**other, "data_offsets": [8, 24]}},
        "same_bytes": {"a": one, "b": one},
        "out_of_range": {"a": one, "b": {**other, "data_offsets": [16, 3200]}},
        "backwards": {"a": {**one, "data_offsets": [16, 0]}},
        "negative": {"a": {**one, "data_offsets": [-16, 0]}},
        "hole": {"a": one, "b": {**other, "data_offsets": [20, 36]}},
        "unknown_type": {"a": {**one, "dtype": "F33"}},
        "wider_type": {"a": {**one, "dtype": "F64"}},
        "shape_product": {"a": {**one, "shape": [5]}},
        "shape_overflow": {"a": {**one, "shape": [2**33, 2**33]}},
        "shape_wraps": {"a": {**one, "shape": [2**62, 4]}},
        "shape_negative": {"a": {**one, "shape": [-4]}},
        "no_shape": {"a": {"dtype": "F32", "data_offsets": [0, 16]}},
        "list": [one],
        "duplicate": pair,
        "not_json": "{a: 1}",
        "not_text": b"\xff\xfe\x00{}",
        "deep": '{"a":' * 100_000,
        "nan": '{"a": NaN}',
        "huge_number": '{"a": ' + "9" * 5000 + "}",
    }
    made = []
    for name, header in attacks.items():
        text = header if isinstance(header, (str, bytes)) else json.dumps(header)
        data = text if isinstance(text, bytes) else text.encode()
        made.append(_bytes(folder / f"{name}.safetensors", len(data).to_bytes(8, "little") + data + bytes(64)))
    for name, length in {"beyond": 10_000, "largest": 2**64 - 1, "sign": 2**63, "zero": 0}.items():
        made.append(_bytes(folder / f"length_{name}.safetensors", length.to_bytes(8, "little") + b"{}" + bytes(64)))
    big = b'{"__metadata__": {"a": "' + b"x" * 17_000_000 + b'"}}'
    made.append(_bytes(folder / "huge_header.safetensors", len(big).to_bytes(8, "little") + big))
    return made


def _bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _zip(path: Path, records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return path


def _tar(path: Path, data: bytes) -> Path:
    """The oldest form of torch's files."""
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path
