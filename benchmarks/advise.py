"""Does the network that `coatnet study advise` names keep its latency, and do other limits lead to other networks?

python benchmarks/advise.py [--cases 32:4 32:20 224:150 ...]

A case is the side of the images in pixels and a limit in milliseconds. Each advised network is measured again.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from coatnet.data.sources import DataConfig
from coatnet.errors import ConfigError
from coatnet.study.advise import Limit, advise, measure_latency

CASES = ("32:3", "32:5", "32:8", "32:12", "32:20", "32:50", "64:15", "64:50", "224:100", "224:250")
CLASSES, IMAGES = 2, 20
"""Of the made-up data, whose pixels are noise: only their size and number count."""


def write_images(folder: Path, side: int) -> str:
    """A folder of images for each class."""
    generator = np.random.default_rng(0)
    for number in range(CLASSES * IMAGES):
        path = folder / str(side) / f"class-{number % CLASSES}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (side, side, 3), np.uint8)).save(path)
    return str(folder / str(side))


def main() -> None:
    """Print a row for each case, and how many were kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", default=CASES)
    kept, advised = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for case in parser.parse_args().cases:
            side, limit = map(int, case.split(":"))
            data = DataConfig(path=write_images(Path(folder), side))
            try:
                advice = advise(data, Limit(latency=limit / 1000))
            except ConfigError as error:
                print(f"| {side} | {limit} | none: {error.message} | | |", flush=True)
                continue
            again = measure_latency(advice.config)
            advised += 1
            kept += again <= limit / 1000
            times = f"{1000 * advice.latency:.1f} | {1000 * again:.1f}"
            print(f"| {side} | {limit} | {advice.name} | {times} |", flush=True)
    print(f"{kept} of {advised} kept")


if __name__ == "__main__":
    main()
