"""Does the network that `coatnet study advise` names keep its latency? Ten limits, each measured again afterwards.

python benchmarks/advise.py
"""

from coatnet.data.sources import DataConfig
from coatnet.errors import ConfigError
from coatnet.study.advise import Limit, advise, measure_latency

LIMITS_MS = (20, 25, 30, 40, 50, 60, 80, 100, 200, 400)


def main() -> None:
    """Print a row for each limit, and how many were kept."""
    kept, advised = 0, 0
    for limit in LIMITS_MS:
        try:
            advice = advise(DataConfig(path="digits"), Limit(latency=limit / 1000))
        except ConfigError as error:
            print(f"| {limit} | none: {error.message} | | |", flush=True)
            continue
        again = measure_latency(advice.config)
        advised += 1
        kept += again <= limit / 1000
        print(f"| {limit} | {advice.name} | {1000 * advice.latency:.1f} | {1000 * again:.1f} |", flush=True)
    print(f"{kept} of {advised} kept")


if __name__ == "__main__":
    main()
