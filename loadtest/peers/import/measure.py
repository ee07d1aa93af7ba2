"""Runs two commands by turns and prints the ratio of their medians: wall time and peak memory.

    python measure.py --rounds 5 'raisonne import … --out OUT' 'python polars_import.py … --out OUT'

Each OUT in a command becomes a new folder, which is removed after the run."""

import argparse
import json
import os
import shlex
import shutil
import statistics
import tempfile
import time


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("ours")
    parser.add_argument("peer")
    options = parser.parse_args()
    runs = {"ours": [], "peer": []}
    for _ in range(options.rounds):
        for name in runs:
            runs[name].append(run(getattr(options, name)))
    medians = {
        name: {key: statistics.median(run[key] for run in found) for key in found[0]}
        for name, found in runs.items()
    }
    ratios = {key: round(medians["ours"][key] / medians["peer"][key], 2) for key in medians["ours"]}
    print(json.dumps({"runs": runs, "medians": medians, "ours / peer": ratios}, indent=2))


def run(command):
    home = tempfile.mkdtemp(dir=os.environ.get("TMPDIR"))
    words = [os.path.join(home, "shop") if word == "OUT" else word for word in shlex.split(command)]
    begun = time.monotonic()
    child = os.posix_spawnp(words[0], words, os.environ, file_actions=silent())
    _, status, usage = os.wait4(child, 0)
    seconds = time.monotonic() - begun
    shutil.rmtree(home)
    if status != 0:
        raise SystemExit(f"{command} failed")
    processor = usage.ru_utime + usage.ru_stime
    return {"seconds": round(seconds, 3), "cpu_seconds": round(processor, 3), "peak_mib": usage.ru_maxrss / 1024}


def silent():
    return [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]


main()
