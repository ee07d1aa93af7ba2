"""Writes a small Qwen3 with random weights, and lessons: sequences of a Markov chain, which a model can learn."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

VOCABULARY, LESSONS, LENGTH, WAYS = 4_096, 64, 256, 8


def main(folder):
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=768, num_hidden_layers=6,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64, max_position_embeddings=1_024,
        tie_word_embeddings=True, rope_parameters=dict(rope_type="default", rope_theta=10_000.0),
    )
    Qwen3ForCausalLM(config).save_pretrained(folder / "model")

    ways = torch.randint(VOCABULARY, (VOCABULARY, WAYS))
    tokens = torch.randint(VOCABULARY, (LESSONS, 1))
    while tokens.shape[1] < LENGTH:
        chosen = torch.randint(WAYS, (LESSONS, 1))
        tokens = torch.cat([tokens, ways[tokens[:, -1]].gather(1, chosen)], 1)
    save_file({"tokens": tokens.int().contiguous()}, folder / "lessons.safetensors")


main(Path(sys.argv[1]))
