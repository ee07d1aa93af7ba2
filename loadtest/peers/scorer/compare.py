"""The scorer's network on several engines: same weights, same slates, one thread, one run.

Called by run.sh. Needs: torch, numpy, safetensors, onnx, onnxscript, onnxruntime.

The network has the sizes that are served: the benchmark prints them (`--shape`).

The engines take turns, round by round, so that a busy spell of the machine hits all of them, and
each figure is a median over the rounds. Processor time is compared, because wall time favours the
quick on a busy machine: a pass of tens of milliseconds is always interrupted there, and one of
half a millisecond seldom. On an idle machine both clocks agree.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import warnings

import numpy as np
import onnxruntime
import torch

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
OURS, BASE = "Raisonné", "ONNX Runtime"
TOLERANCE = 1e-5
GOALS = {100: 0.35, 1000: 0.30}


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def served_shape(bench):
    """The sizes of the network that is served, by the names of its shape."""
    return json.loads(subprocess.run([bench, "--shape"], check=True, capture_output=True).stdout)


def ours(bench, path, network):
    """One engine of the Rust program; its start-up is measured with one pass, and subtracted."""
    def measured(repetitions):
        command = [bench, path, "--json", f"--{network}={repetitions}"]
        environment = dict(os.environ, RAYON_NUM_THREADS="1")
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            report = json.load(process.stdout)[network]
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        return usage.ru_utime + usage.ru_stime, report

    def round_of(repetitions):
        start_up, _ = measured(1)
        total, report = measured(repetitions + 1)
        outputs = np.array(report["logits"]), np.array(report["attention"])
        return (total - start_up) / repetitions * 1e3, report["median_us"] / 1e3, outputs
    return round_of


def here(run):
    """An engine of this process; three passes warm it up, as ours does."""
    def round_of(repetitions):
        walls, out = [], None
        for _ in range(3):
            out = run()
        start = time.process_time()
        for _ in range(repetitions):
            from_ = time.perf_counter()
            run()
            walls.append(time.perf_counter() - from_)
        cpu = (time.process_time() - start) / repetitions * 1e3
        return cpu, statistics.median(walls) * 1e3, [np.asarray(part).ravel() for part in out]
    return round_of


def session(network, inputs, path):
    """ONNX Runtime on the exported network, all optimisations, one thread."""
    program = torch.onnx.export(network, tuple(inputs.values()), dynamo=True, verbose=False,
                                input_names=list(inputs), optimize=True)
    program.save(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    made = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = {want.name: inputs[want.name].numpy() for want in made.get_inputs()}
    return here(lambda: made.run(None, feeds))


def engines(bench, shape, folder, candidates):
    make = load(ROOT / "tests/fixtures/din/make.py", "make")
    precomputed = load(HERE / "precomputed.py", "precomputed")
    path = str(folder / f"case-{candidates}.safetensors")
    network, inputs = make.write(path, shape, 7, 1, candidates, ragged=False)
    found = {
        OURS: ours(bench, path, "fused"),
        "candle, the training network": ours(bench, path, "candle"),
        BASE: session(network, inputs, str(folder / f"plain-{candidates}.onnx")),
    }
    lean, lean_inputs = precomputed.of(network, inputs)
    found["ONNX Runtime, factorised and precomputed by hand"] = session(
        lean, lean_inputs, str(folder / f"lean-{candidates}.onnx"))
    found["PyTorch"] = here(lambda: network(**inputs))
    try:
        compiled = torch.compile(network)
        compiled(**inputs)
        found["PyTorch, torch.compile"] = here(lambda: compiled(**inputs))
    except Exception as error:  # it needs a C++ compiler that it supports
        print(f"torch.compile does not work here: {str(error).splitlines()[0]}", file=sys.stderr)
    return found, network(**inputs)


def compare(arguments, shape, folder, candidates):
    found, expected = engines(arguments.bench, shape, folder, candidates)
    repetitions = max(3, arguments.repetitions * 100 // candidates)
    cpu, wall = {name: [] for name in found}, {name: [] for name in found}
    apart = dict.fromkeys(found, 0.0)
    for _ in range(arguments.rounds):
        for name, round_of in found.items():
            # Our pass is short: it takes more passes to measure it beside its start-up.
            passes = repetitions * (10 if name == OURS else 1)
            cpu_ms, wall_ms, out = round_of(passes)
            cpu[name].append(cpu_ms)
            wall[name].append(wall_ms)
            for got, wanted in zip(out, expected):
                gap = float(np.abs(got.ravel() - wanted.numpy().ravel()).max())
                apart[name] = max(apart[name], gap)
    base = statistics.median(cpu[BASE])
    print(f"\n{candidates} candidates of {shape['features']} features and {shape['reasons']} reasons, "
          f"history {shape['history']}, one thread; {arguments.rounds} rounds of {repetitions} "
          f"({OURS}: ten times as many)\n")
    print(f"| engine | processor ms | against {BASE} | wall ms | furthest from PyTorch |")
    print("|---|--:|--:|--:|--:|")
    for name in found:
        ms = statistics.median(cpu[name])
        print(f"| {name} | {ms:.3f} | {ms / base:.2f}x | {statistics.median(wall[name]):.3f} "
              f"| {apart[name]:.1e} |")
    unequal = [name for name, gap in apart.items() if not gap <= TOLERANCE]
    ratio = statistics.median(cpu[OURS]) / base
    return unequal, ratio


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bench", help="the built benchmark")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--repetitions", type=int, default=50, help="a round, at 100 candidates")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    shape, failures = served_shape(arguments.bench), []
    with tempfile.TemporaryDirectory() as folder:
        for candidates, goal in GOALS.items():
            unequal, ratio = compare(arguments, shape, pathlib.Path(folder), candidates)
            failures += [f"{name} differs from PyTorch at {candidates}" for name in unequal]
            if ratio > goal:
                failures.append(f"{ratio:.2f}x at {candidates} candidates; the goal is {goal}x")
    print(*failures, sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
