"""What the ways to afford attention, and the other choices that the ablations vary, cost at full size: images/s.

python benchmarks/attention_ways.py [--size 224] [--batch 8] [--rounds 5]

CoAtNet-0 and its variants, random weights, float32, eager torch; all in turn, medians of the rounds.
"""

import argparse

import torch

from coatnet.model.family import FAMILY, create_model
from coatnet.model.size import model_size
from coatnet.runtime.timing import time_in_turn
from coatnet.study.ablations import ablations


def main() -> None:
    """Print a row for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=(), help="of the variants, beside the base")
    arguments = parser.parse_args()
    variants = [
        one
        for one in ablations(FAMILY["coatnet_0"].replace(image_size=arguments.size))
        if not arguments.only or one.name in ("base", *arguments.only)
    ]
    images = torch.randn(arguments.batch, 3, arguments.size, arguments.size)
    networks = {one.name: create_model(one.config).eval() for one in variants}
    with torch.inference_mode():
        found = time_in_turn(
            {name: lambda network=network: network(images) for name, network in networks.items()},
            arguments.rounds,
            warm_up=1,
        )
    for one in variants:
        size, timing = model_size(one.config), found[one.name]
        print(
            f"| {one.name} | {size.parameters / 1e6:.2f} | {size.multiply_adds / 1e9:.2f} | "
            f"{arguments.batch / timing.median:.1f} | {timing.ratio_to(found['base']):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
