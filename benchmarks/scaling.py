"""What training each member needs: memory counted from real forward passes, time computed from a sustained rate.

python benchmarks/scaling.py [--members coatnet_0 coatnet_1 ...] [--teraflops 42] [--accelerators 8]

Counted: the bytes of all tensors that the forward pass keeps for the backward pass, in bfloat16 autocast on this CPU,
from a batch of 4 less one of 2. They are the same on any device but for what its kernels keep of their own.
Computed: hours of the paper's 300 epochs on ImageNet-1K at the sustained rate that is given for one accelerator.
"""

import argparse

import torch

import coatnet
from coatnet.model.family import PAPER, member
from coatnet.model.size import model_size

BYTES_PER_PARAMETER = 4 + 4 + 8  # weights and gradients in float32, and AdamW's two moments
IMAGES = 300 * 1_281_167


def kept_bytes(model: torch.nn.Module, batch: int, image_size: int) -> int:
    """Bytes that a forward pass keeps for the backward pass; parameters are not counted."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    images = torch.randn(batch, 3, image_size, image_size)
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16):
        logits = model(images)  # held, so that no address is used twice
    assert logits.shape[0] == batch
    return sum(kept.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", nargs="+", default=["coatnet_0", "coatnet_1", "coatnet_2", "coatnet_3"])
    parser.add_argument("--teraflops", type=float, default=42.0, help="sustained by one accelerator in training")
    parser.add_argument("--accelerators", type=int, default=8)
    arguments = parser.parse_args()
    print("| member | weights, gradients, AdamW | kept per image at 224 px | images in 64 GB | hours of 300 epochs |")
    print("|---|---|---|---|---|")
    for name in PAPER:
        size = model_size(member(name))
        state = size.parameters * BYTES_PER_PARAMETER
        hours = 6 * size.multiply_adds * IMAGES / (arguments.teraflops * 1e12 * arguments.accelerators) / 3600
        told = "not counted", "not counted"
        if name in arguments.members:
            model = coatnet.create_model(name).train()
            each = (kept_bytes(model, 4, 224) - kept_bytes(model, 2, 224)) / 2
            told = f"{each / 1e6:,.0f} MB", f"{max(0, (64e9 - state) / each):,.0f}"
        print(f"| `{name}` | {state / 1e9:,.1f} GB | {told[0]} | {told[1]} | {hours:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
