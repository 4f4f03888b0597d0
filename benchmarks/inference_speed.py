"""Inference of our network beside timm's, in turn in one process: images per second at batch 8, latency at batch 1.

python benchmarks/inference_speed.py [--model coatnet_0] [--rounds 9] [--batches 8 1]

Peers: timm's network as it ships, and in the paper's form (stride in the first 1x1 convolution, max pool). Each goes
through OpenVINO as its users would take it: exported, converted, compiled for its batch. All weights are random, which
changes no time.
"""

import argparse
import dataclasses
import functools
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import timm
import torch
from PIL import Image
from timm.models.maxxvit import MaxxVit, model_cfgs
from torch import nn

from coatnet.classifier import Classifier
from coatnet.classifier.fingerprint import fingerprint_image
from coatnet.data.sources import DataConfig, open_data
from coatnet.export.quantization import Int8, quantize
from coatnet.model.family import create_model
from coatnet.runtime.agreement import compare
from coatnet.runtime.engines import TorchEngine
from coatnet.runtime.openvino_engine import OpenVinoEngine
from coatnet.runtime.timing import Timing, time_in_turn

Run = Callable[[np.ndarray], np.ndarray]


def timm_paper_form(name: str, image_size: int) -> nn.Module:
    config = model_cfgs[name]
    conv = dataclasses.replace(config.conv_cfg, stride_mode="1x1", pool_type="max2")
    transformer = dataclasses.replace(config.transformer_cfg, pool_type="max2")
    return MaxxVit(dataclasses.replace(config, conv_cfg=conv, transformer_cfg=transformer), img_size=image_size).eval()


def through_openvino(module: nn.Module, images: np.ndarray, precision: str) -> Run:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, (torch.from_numpy(images),))
        model = openvino.convert_model(program)
    model.reshape({model.input(0): openvino.PartialShape(list(images.shape))})
    options = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()
    return lambda batch: next(iter(request.infer({0: batch}).values()))


def peers(name: str, ours: nn.Module, images: np.ndarray, slow: bool) -> dict[str, Run]:
    """timm's networks of this name; for a member that only we have, the network before it is folded."""
    if name not in model_cfgs:
        return {
            "ours unfolded, OpenVINO bfloat16": through_openvino(ours, images, "bf16"),
            "ours unfolded, torch float32": TorchEngine(ours, "cpu").logits,
        }
    paper, shipped = timm_paper_form(name, images.shape[-1]), timm.create_model(f"{name}_224").eval()
    runs = {
        "timm in the paper's form, OpenVINO bfloat16": through_openvino(paper, images, "bf16"),
        "timm as it ships, OpenVINO bfloat16": through_openvino(shipped, images, "bf16"),
    }
    return runs | ({"timm as it ships, torch float32": TorchEngine(shipped, "cpu").logits} if slow else {})


def quantized(name: str, folder: Path) -> Run:
    """Ours in int8. Of weights that are random the answers say nothing, the time does."""
    train = open_data(DataConfig(path="digits")).train
    some = train.subset(range(32))
    model = create_model(name, num_classes=len(train.class_names)).eval()
    classifier = Classifier(TorchEngine(model, "cpu"), class_names=train.class_names)
    size = classifier.preprocess.image_size
    quantize(folder, classifier, size, Int8(some, some, max_drop=100))
    return OpenVinoEngine(folder / f"{size[0]}x{size[1]}.xml", "bfloat16").logits


def starts(place: Path, folder: Path) -> None:
    """`coatnet predict` on 10 images as whole processes; what is first has been converted before."""
    files = [folder / f"{index}.jpg" for index in range(10)]
    for index, file in enumerate(files):
        Image.fromarray(np.roll(fingerprint_image(), 20 * index, 1)).save(file, quality=95)
    words = [sys.executable, "-m", "coatnet", "predict", str(place), *map(str, files)]
    for runtime in ("openvino", "onnx", "torch"):
        times = []
        for _ in range(4):
            started = time.perf_counter()
            subprocess.run([*words, "--runtime", runtime], check=True, capture_output=True)
            times.append(time.perf_counter() - started)
        print(f"predict on 10 images, {runtime}: first {times[0]:.2f} s, then {statistics.median(times[1:]):.2f} s")


def report(timings: dict[str, Timing], batch: int) -> None:
    first = timings["ours, as a user gets it"]
    for name, timing in timings.items():
        speed = f"{1000 * timing.median:.1f} ms, {batch / timing.median:.1f} images/s"
        print(f"batch {batch}: {name}: {speed}, {timing.ratio_to(first):.2f} times the time of ours", flush=True)


def our_classifier(model: nn.Module, folder: Path) -> Path:
    names = [str(index) for index in range(model.network_config.num_classes)]
    Classifier(TorchEngine(model, "cpu"), class_names=names).save(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="coatnet_0")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batches", type=int, nargs="*", default=[8, 1])
    parser.add_argument("--slow", action="store_true", help="torch and float32 as well")
    parser.add_argument("--int8", action="store_true", help="ours in int8 as well")
    parser.add_argument("--starts", action="store_true", help="the time of whole processes as well")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, timm {timm.__version__}, openvino {openvino.__version__}, ", end="")
    print(f"onnxruntime {onnxruntime.__version__}, {torch.get_num_threads()} threads")
    ours = create_model(arguments.model).eval()
    with tempfile.TemporaryDirectory() as folder:
        place = our_classifier(ours, Path(folder) / "classifier")
        kinds = {"ours, as a user gets it": ("auto", "auto")}
        if arguments.slow:
            kinds |= {
                "ours, OpenVINO float32": ("openvino", "float32"),
                "ours, ONNX Runtime float32": ("onnx", "float32"),
            }
            kinds |= {"ours, torch float32": ("torch", "float32")}
        engines = {
            name: Classifier.load(place, runtime=runtime, precision=precision)
            for name, (runtime, precision) in kinds.items()
        }
        image = np.stack([engines["ours, as a user gets it"].preprocess(fingerprint_image())] * 8)
        images = image + np.random.default_rng(0).normal(size=image.shape).astype(np.float32)
        exact = TorchEngine(ours, "cpu").logits(images)
        for name, classifier in engines.items():
            agreement = compare(exact, classifier.engine.logits(images))
            print(f"{name}: {classifier.engine.description}, relative error {agreement.relative_error:.1e}")
        if arguments.int8:
            (Path(folder) / "int8").mkdir()
            rounded = quantized(arguments.model, Path(folder) / "int8")
        if arguments.starts:
            starts(place, Path(folder))
        for batch in arguments.batches:
            given = np.ascontiguousarray(images[:batch])
            runs: dict[str, Run] = {name: one.engine.logits for name, one in engines.items()}
            runs |= {"ours, OpenVINO int8 and bfloat16": rounded} if arguments.int8 else {}
            runs |= peers(arguments.model, ours, given, arguments.slow)
            calls = {name: functools.partial(run, given) for name, run in runs.items()}
            report(time_in_turn(calls, arguments.rounds, settle=True), batch)


if __name__ == "__main__":
    main()
