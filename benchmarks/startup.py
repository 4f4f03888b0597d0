"""Start-up times of the command line, medians of whole processes.

python benchmarks/startup.py
"""

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "--help": ["--help"],
    "--version": ["--version"],
    "a verb that does not exist": ["trian"],
    "models": ["models"],
    "a path that does not exist": ["train", "nowhere"],
    "a flag that does not validate": ["train", "digits", "--learning-rate", "abc"],
    "train --help": ["train", "--help"],
    "evaluate --help": ["evaluate", "--help"],
}


def main() -> None:
    for name, words in COMMANDS.items():
        times = []
        for _ in range(7):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-m", "coatnet", *words], capture_output=True, check=False)
            times.append(time.perf_counter() - started)
        print(f"{name}: {statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f})")


if __name__ == "__main__":
    main()
