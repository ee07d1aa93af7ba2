"""Titles per second of text encoders: Raisonné beside sentence-transformers, and how far their vectors' tokens agree."""

import argparse
import json
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer


def open_encoder(folder):
    """The encoder of a folder: one of sentence-transformers, or a table with its tokenizer."""
    if (folder / "modules.json").exists() or (folder / "config.json").exists():
        return SentenceTransformer(str(folder), device="cpu")
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    tensors = load_file(folder / "model.safetensors")
    (table,) = tensors.values()
    tokens = Tokenizer.from_file(str(folder / "tokenizer.json"))
    module = StaticEmbedding(tokens, embedding_weights=table.astype(np.float32))
    return SentenceTransformer(modules=[module], device="cpu")


def library_rate(folder, titles):
    model = open_encoder(folder)
    model.encode(titles[:64])
    begun = time.perf_counter()
    model.encode(titles, normalize_embeddings=True)
    return len(titles) / (time.perf_counter() - begun)


def own_rate(program, folder, titles, count, threads):
    command = [program, "bench", "text", "--encoder", folder, "--titles", titles, "--titles-max", str(count), "--json"]
    printed = subprocess.run(
        [str(part) for part in command], check=True, capture_output=True, text=True,
        env={**os.environ, "RAYON_NUM_THREADS": str(threads)},
    ).stdout
    return json.loads(printed)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--titles", type=Path, required=True)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    titles = given.titles.read_text().splitlines()[: given.count]
    print("encoder | titles | Raisonné /s | sentence-transformers /s | ratio | Raisonné alone, us")
    print("--- | ---: | ---: | ---: | ---: | ---:", flush=True)
    for folder in given.folders:
        own = own_rate(given.program, folder, given.titles, given.count, given.threads)
        library = library_rate(folder, titles)
        ratio = own["titles_per_second"] / library
        print(
            f"{folder.name} | {len(titles)} | {own['titles_per_second']:.0f} | {library:.0f} | {ratio:.2f} "
            f"| {own['alone_us']:.1f}",
            flush=True,
        )


main()
