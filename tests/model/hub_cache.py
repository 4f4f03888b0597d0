"""A cache of the Hugging Face hub, made on the spot in the hub's own layout."""

import json
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

REVISION = "0123456789abcdef0123456789abcdef01234567"


def fresh_tensors(architecture, **options):
    """Random weights under timm's names."""
    torch.manual_seed(1)
    state = timm.create_model(architecture, **options).state_dict()
    return {name: tensor.contiguous() for name, tensor in state.items()}


def record_of(name, **changes):
    """What timm writes into config.json beside the weights `name`, as "coatnet_0_rw_224.sw_in1k"."""
    registered = timm.models.get_pretrained_cfg(name).to_dict(remove_source=True)
    inner = {**registered, **changes}
    architecture = name.partition(".")[0]
    return {"architecture": architecture, "num_classes": inner["num_classes"], "pretrained_cfg": inner}


def put(folder: Path, tensors, record, weights="model.safetensors"):
    """Weights, or any bytes in their place, and a record, or any text in its place, in one folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(tensors, bytes):
        (folder / weights).write_bytes(tensors)
    elif tensors is not None:
        save_file(tensors, folder / weights)
    if record is not None:
        (folder / "config.json").write_text(record if isinstance(record, str) else json.dumps(record))
    return folder


def put_in_cache(cache: Path, repository, tensors, record, weights="model.safetensors"):
    """The same as a repository of the hub, of which one revision was downloaded."""
    folder = cache / ("models--" + repository.replace("/", "--"))
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(REVISION)
    return put(folder / "snapshots" / REVISION, tensors, record, weights)
