"""Our CoAtNet against timm's MaxxVit of the same form, in turn in one process: images per second and their ratio.

python benchmarks/model_speed.py [--model coatnet_0] [--batch 8] [--rounds 7]
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable

import timm
import torch
from timm.models.maxxvit import MaxxVit, model_cfgs
from torch import nn

from coatnet.model.family import create_model
from coatnet.training.machine import keep_freed_memory


def timm_paper_form(name: str) -> nn.Module:
    config = model_cfgs[name]
    return MaxxVit(
        dataclasses.replace(
            config,
            conv_cfg=dataclasses.replace(config.conv_cfg, stride_mode="1x1", pool_type="max2"),
            transformer_cfg=dataclasses.replace(config.transformer_cfg, pool_type="max2"),
        ),
        img_size=224,
    )


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


def in_turn(first: Callable[[], None], second: Callable[[], None], rounds: int) -> tuple[list[float], list[float]]:
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 2):
        for run, kept in zip((first, second), times, strict=True):
            started = time.perf_counter()
            run()
            if number >= 2:  # two rounds to warm up
                kept.append(time.perf_counter() - started)
    return times


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="coatnet_0")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    images = torch.randn(arguments.batch, 3, 224, 224).to(memory_format=torch.channels_last)
    print(f"torch {torch.__version__}, timm {timm.__version__}, {torch.get_num_threads()} threads")
    forms = {
        "timm, paper's form": (timm_paper_form(arguments.model), create_model(arguments.model, gelu="erf")),
        "timm as it ships": (timm.create_model(f"{arguments.model}_224"), create_model(arguments.model, gelu="erf")),
    }
    for what, work in (("inference", inference), ("training step", training)):
        for precision in (False, True):
            for peer, (theirs, ours) in forms.items():
                theirs = theirs.to(memory_format=torch.channels_last)
                runs = work(ours, images, precision), work(theirs, images, precision)
                mine, other = (statistics.median(times) for times in in_turn(*runs, arguments.rounds))
                name = f"{what}, {'bfloat16' if precision else 'float32'}, against {peer}"
                rates = f"{arguments.batch / mine:.1f} against {arguments.batch / other:.1f} images/s"
                print(f"{name}: {rates}, ratio {other / mine:.2f}", flush=True)


if __name__ == "__main__":
    main()
