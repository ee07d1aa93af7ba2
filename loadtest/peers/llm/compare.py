"""Runs both engines alternately on the same weights, and prints medians and their ratios."""

import argparse
import json
import os
import subprocess
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", HERE / "../../../target"))
FORMATS = {"q8_0": "q8_0.gguf", "bf16": "model/bf16.gguf"}
TRUNK, BRANCHES, BRANCH = 1_000, 100, 5


def ours(model, precision, args, batches, weigh):
    command = [
        TARGET / "release/raisonne", "bench", "engine", "--json",
        "--model", model, "--quantize", precision, "--threads", args.threads,
        *(["--instructions", args.instructions] if args.instructions else []),
        "--batches", ",".join(map(str, batches)),
        "--prompt-tokens", args.prompt, "--tokens", args.tokens,
        "--trunk-tokens", TRUNK if weigh else 0,
        "--branches", BRANCHES, "--branch-tokens", BRANCH,
    ]
    out = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    return json.loads(out.stdout)


def theirs(bench, gguf, args, batches, prompt, tokens):
    command = [
        bench, "-m", gguf, "-t", args.threads, "-tb", args.threads, "-npp", prompt, "-ntg", tokens,
        "-npl", ",".join(map(str, batches)), "-c", (prompt + tokens) * max(batches) + 64,
        "-b", 2048, "-ub", 512, "--output-format", "jsonl",
    ]
    out = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    rows = [json.loads(line) for line in out.stdout.splitlines() if line.startswith("{")]
    return {row["pl"]: (row["speed_pp"], row["speed_tg"], row["t_pp"]) for row in rows}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, default=HERE / "work/model")
    parser.add_argument("--gguf", type=Path, default=HERE / "work", help="folder of the GGUF files")
    parser.add_argument("--bench", type=Path, default=HERE / "work/native/bin/llama-batched-bench")
    parser.add_argument("--instructions", help="of the processor, for our engine; all, without it")
    parser.add_argument("--formats", default="q8_0,bf16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--batches", default="1,4,16")
    args = parser.parse_args()
    batches = [int(batch) for batch in args.batches.split(",")]
    for precision in args.formats.split(","):
        gguf = args.gguf / FORMATS[precision]
        mine, other, texts, candles = [], [], [], []
        for _ in range(args.rounds):
            mine.append(ours(args.model, precision, args, batches, True))
            other.append(theirs(args.bench, gguf, args, batches, args.prompt, args.tokens))
            texts.append(theirs(args.bench, gguf, args, [1], TRUNK + BRANCH, 1)[1][2])
            if precision == "q8_0" and not args.instructions:
                # With this precision, candle multiplies the file's quantised blocks as they are.
                candles.append(ours(gguf, "q4_k", args, batches, False))
        report(precision, batches, mine, other, texts)
        if candles:
            compare_with_candle(batches, mine, candles)


def compare_with_candle(batches, mine, candles):
    """Prints the whole model by our kernels beside candle's QMatMul on the same blocks."""
    print("\n| texts | prefill, tokens/s | candle's QMatMul | ratio | decode, tokens/s | candle's QMatMul | ratio |")
    print("|--:|--:|--:|--:|--:|--:|--:|")
    for place, texts_at_once in enumerate(batches):
        def of(runs, key):
            return median(run["batches"][place][key] for run in runs)
        cells = [str(texts_at_once)]
        for key in ("prefill", "decode"):
            ours_, candle = of(mine, key), of(candles, key)
            cells += [f"{ours_:.1f}", f"{candle:.1f}", f"**{ours_ / candle:.2f}x**"]
        print("| " + " | ".join(cells) + " |")


def report(precision, batches, mine, other, texts):
    first = mine[0]
    print(f"\n{precision} ({first['level']}, {first['threads']} threads; "
          f"memory {median(run['bandwidth'] for run in mine) / 1e9:.0f} GB/s, "
          f"kernel {median(run['peak'] for run in mine) / 1e9:.0f} GFLOP/s)")
    print("| texts | prefill, tokens/s | llama.cpp | ratio | decode, tokens/s | llama.cpp | ratio | of the roof |")
    print("|--:|--:|--:|--:|--:|--:|--:|--:|")
    for place, texts_at_once in enumerate(batches):
        def of(key):
            return median(run["batches"][place][key] for run in mine)
        prefill = median(run[texts_at_once][0] for run in other)
        decode = median(run[texts_at_once][1] for run in other)
        print(f"| {texts_at_once} | {of('prefill'):.0f} | {prefill:.0f} | **{of('prefill') / prefill:.2f}x** "
              f"| {of('decode'):.1f} | {decode:.1f} | **{of('decode') / decode:.2f}x** "
              f"| {of('decode') / of('decode_roof'):.0%} |")
    held = (first["weights_bytes"] + first["cache_bytes"]) / 1e6
    print(f"\nMemory: {held:.0f} MB of weights and cache, computed {first['computed_bytes'] / 1e6:.0f} MB, "
          f"resident {first['resident_bytes'] / 1e6:.0f} MB")
    cold = median(run["weighing"]["cold"] for run in mine)
    warm = median(run["weighing"]["warm"] for run in mine)
    one = median(texts)
    print(f"\nWeighing {BRANCHES} branches of {BRANCH} tokens on a trunk of {TRUNK}: cold {cold:.2f} s, warm "
          f"{warm:.2f} s; llama.cpp, one prompt of {TRUNK + BRANCH} tokens per branch: {one:.2f} s each, "
          f"{one * BRANCHES:.0f} s for all (one was measured): {one * BRANCHES / cold:.0f}x and "
          f"{one * BRANCHES / warm:.0f}x")


main()
