"""Our CoAtNet against timm's, all in turn in one process: images per second, and how many times as fast as each.

python benchmarks/model_speed.py [--model coatnet_0] [--image-size 224] [--batch 16] [--rounds 5] [--what training]

"Layer by layer" is without the lean forms of model/expanded.py. A member that timm does not have is only compared with
itself. Ours and timm's share the form of GELU, erf; the paper's members have the other one, which is measured as well.
All take the memory setting of `coatnet train`, but for timm as its users have it, which is a process of its own.
"""

import argparse
import dataclasses
import subprocess
import sys
from collections.abc import Callable

import timm
import torch
from timm.models.maxxvit import MaxxVit, model_cfgs
from torch import nn

from coatnet.model.family import create_model
from coatnet.model.mbconv import MBConv
from coatnet.runtime.timing import time_in_turn
from coatnet.training.machine import keep_freed_memory


def timm_paper_form(name: str, size: int) -> nn.Module:
    config = model_cfgs[name]
    return MaxxVit(
        dataclasses.replace(
            config,
            conv_cfg=dataclasses.replace(config.conv_cfg, stride_mode="1x1", pool_type="max2"),
            transformer_cfg=dataclasses.replace(config.transformer_cfg, pool_type="max2"),
        ),
        img_size=size,
    )


def layer_by_layer(name: str, size: int) -> nn.Module:
    model = ours(name, size)
    for block in model.modules():
        if isinstance(block, MBConv):
            block._trains_lean = lambda _: False
    return model


def ours(name: str, size: int, gelu: str = "erf") -> nn.Module:
    return create_model(name, gelu=gelu, image_size=size).to(memory_format=torch.channels_last)


def inference(model: nn.Module, images: torch.Tensor, bfloat16: bool) -> Callable[[], None]:
    model = model.eval()

    def run() -> None:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            model(images)

    return run


def training(model: nn.Module, images: torch.Tensor, bfloat16: bool) -> Callable[[], None]:
    model = model.train()
    labels = torch.randint(0, 1000, (len(images),))

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = model(images)
        nn.functional.cross_entropy(logits.float(), labels).backward()
        model.zero_grad()

    return run


def in_a_process_of_its_own() -> Callable[[], None]:
    """timm as shipped in float32, with the C library as it is: `--on-demand` there, a line for each step here."""
    words = [sys.executable, __file__, *sys.argv[1:], "--on-demand", "--given-back"]
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    ask, answers = child.stdin, child.stdout

    def run() -> None:
        ask.write("step\n")
        ask.flush()
        answers.readline()

    return run


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="coatnet_0")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--what", choices=["training", "inference"], default="training")
    parser.add_argument("--no-float32", action="store_true")
    parser.add_argument("--given-back", action="store_true", help="leave the C library to give memory back, as it does")
    parser.add_argument("--on-demand", action="store_true", help="timm's steps in float32, one for each line of input")
    arguments = parser.parse_args()
    if not arguments.given_back:
        keep_freed_memory()
    torch.manual_seed(0)
    name, size = arguments.model, arguments.image_size
    nchw = torch.randn(arguments.batch, 3, size, size)
    nhwc = nchw.to(memory_format=torch.channels_last)
    work = {"training": training, "inference": inference}[arguments.what]
    if arguments.on_demand:
        step = work(timm.create_model(f"{name}_224", img_size=size), nchw, False)
        for _ in sys.stdin:
            step()
            print("done", flush=True)
        return
    print(f"torch {torch.__version__}, timm {timm.__version__}, {torch.get_num_threads()} threads")
    runs = {"ours, bfloat16": work(ours(name, size), nhwc, True)}
    if arguments.what == "training":
        runs["ours, bfloat16, layer by layer"] = work(layer_by_layer(name, size), nhwc, True)
        runs["ours, bfloat16, tanh form of GELU"] = work(ours(name, size, "tanh"), nhwc, True)
    if not arguments.no_float32:
        runs["ours, float32"] = work(ours(name, size), nhwc, False)
    if timm.is_model(f"{name}_224"):
        shipped = timm.create_model(f"{name}_224", img_size=size)
        runs["timm as shipped, float32"] = work(shipped, nchw, False)
        runs["timm as its users have it, float32"] = in_a_process_of_its_own()
        fast = timm.create_model(f"{name}_224", img_size=size).to(memory_format=torch.channels_last)
        runs["timm as shipped, bfloat16, channels-last"] = work(fast, nhwc, True)
        paper = timm_paper_form(name, size).to(memory_format=torch.channels_last)
        runs["timm, paper's form, bfloat16, channels-last"] = work(paper, nhwc, True)
    timings = time_in_turn(runs, arguments.rounds)
    best = timings["ours, bfloat16"]
    for what, timing in timings.items():
        rate = arguments.batch / timing.median
        taken = f"{1000 * timing.median:.0f} ms, {rate:.2f} images/s"
        print(f"{what}: {taken}, ours {timing.ratio_to(best):.2f} times as fast", flush=True)


if __name__ == "__main__":
    main()
