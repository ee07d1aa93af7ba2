"""Runs both trainers alternately. Prints their losses side by side, tokens per second, peak resident memory and the
ratios."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", HERE / "../../../target"))


def run(command, threads):
    """The JSON that a command prints, and its peak resident memory in MiB."""
    with tempfile.TemporaryFile("w+") as out:
        environment = os.environ | {"RAYON_NUM_THREADS": str(threads)}
        process = subprocess.Popen(list(map(str, command)), stdout=out, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            sys.exit(f"{command[0]} failed")
        out.seek(0)
        return json.loads(out.read()), usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument("--binary", type=Path, default=TARGET / "release/raisonne")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--max-batched-tokens", type=int, default=1024, help="tokens of our micro-batches, one per thread")
    parser.add_argument("--bf16", action="store_true", help="our passes are in bf16")
    parser.add_argument("--recompute", action="store_true", help="we recompute activations in the backward pass")
    args = parser.parse_args()
    mine, other = [], []
    for _ in range(args.rounds):
        command = [
            args.binary, "bench", "learner", "--json", "--model", args.work / "model",
            "--lessons", args.work / "lessons.safetensors", "--steps", args.steps,
            "--batch", args.batch, "--max-batched-tokens", args.max_batched_tokens,
            *(["--recompute"] if args.recompute else []), *(["--bf16"] if args.bf16 else []),
        ]
        mine.append(run(command, args.threads))
        order = args.work / "order.json"
        order.write_text(json.dumps(mine[-1][0]["order"]))
        command = [args.python, HERE / "train.py", "--work", args.work, "--order", order,
                   "--threads", args.threads]
        other.append(run(command, args.threads))
    report(mine, other)


def report(mine, other):
    print("| step | loss | PyTorch | gradients' norm | PyTorch |\n|--:|--:|--:|--:|--:|")
    (ours, _), (theirs, _) = mine[0], other[0]
    rows = zip(ours["losses"], theirs["losses"], ours["norms"], theirs["norms"])
    apart = 0.0
    for step, (loss, their_loss, norm, their_norm) in enumerate(rows, start=1):
        apart = max(apart, abs(loss - their_loss))
        print(f"| {step} | {loss:.5f} | {their_loss:.5f} | {norm:.4f} | {their_norm:.4f} |")
    print(f"\nLosses are at most {apart:.1e} apart.\n")
    speed, memory = (median(run["tokens_per_second"] for run, _ in runs) for runs in (mine, other)), \
        (median(peak for _, peak in runs) for runs in (mine, other))
    (our_speed, their_speed), (our_memory, their_memory) = speed, memory
    print(f"{ours['parameters']:,} parameters, {len(mine)} rounds, medians")
    print("| | ours | PyTorch | ratio |\n|---|--:|--:|--:|")
    print(f"| tokens/s | {our_speed:,.0f} | {their_speed:,.0f} | **{our_speed / their_speed:.2f}x** |")
    print(f"| peak resident memory, MiB | {our_memory:,.0f} | {their_memory:,.0f} "
          f"| {our_memory / their_memory:.2f}x |")


main()
