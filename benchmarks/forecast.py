"""What `coatnet train --dry-run` foretells against what the run then takes.

python benchmarks/forecast.py NAME=DATA[:STEPS] ... > forecast.json

Each forecast and each run has a process of its own, on a machine that does nothing else.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

TRIAL = """
import json, sys, time
from coatnet.cli.flags import Asked, build_config
from coatnet.runtime.engines import find_device
from coatnet.runtime.timing import peak_memory
from coatnet.training import forecast, loop
kind, data, steps, out = sys.argv[1:]
run = {"steps": int(steps)} if steps != "0" else {}
flags = {"run": run, "data": {}, "model": {}, "optimizer": {}, "augmentation": {}}
config, splits = build_config(data, flags, Asked(init="none"))
started = time.perf_counter()
if kind == "forecast":
    told = forecast.forecast(config, splits)
    print(json.dumps({"seconds": told.seconds, "memory": told.memory, "pace": told.pace, "prepared": told.preparation,
        "took": time.perf_counter() - started}))
else:
    took = {}
    report = loop.report
    def timed(*arguments):
        begun, computed = time.perf_counter(), time.process_time()
        report(*arguments)
        took.update(report=time.perf_counter() - begun, report_cpu=time.process_time() - computed)
    loop.report = timed
    done = loop.train(config, out, splits=splits)
    steps = loop.RunFolder(done.folder).read_config().run.steps
    print(json.dumps({"seconds": time.perf_counter() - started, "steps": steps,
        "memory": peak_memory(find_device(config.run.device)), **took}))
"""


def trial(kind: str, data: str, steps: str, out: str) -> dict[str, float]:
    command = [sys.executable, "-c", TRIAL, kind, data, steps, out]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return {**json.loads(answer.stdout), "load": os.getloadavg()[0]}


def main() -> None:
    for word in sys.argv[1:]:
        name, _, where = word.partition("=")
        data, _, steps = where.partition(":")
        with tempfile.TemporaryDirectory() as folder:
            told = [trial(kind, data, steps or "0", f"{folder}/run") for kind in ("forecast", "run")]
        print(json.dumps({"name": name, "date": time.strftime("%F %T"), "trials": told}), flush=True)


if __name__ == "__main__":
    main()
