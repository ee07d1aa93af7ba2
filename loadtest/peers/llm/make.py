"""Writes a model of the Qwen3-0.6B shape with random weights, as a Hugging Face folder in bf16 and as a
GGUF file of the same numbers, so that both engines do the same work."""

import json
import sys
from pathlib import Path

import gguf
import numpy as np

SHAPE = dict(vocab=151_936, width=1_024, layers=28, heads=16, kv_heads=8, head_dim=128, mlp=3_072)


def bf16(values):
    """The upper halves of f32 numbers."""
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def tensors(shape):
    """Hugging Face's and GGUF's names, and dimensions, in order."""
    width, queries = shape["width"], shape["heads"] * shape["head_dim"]
    keys = shape["kv_heads"] * shape["head_dim"]
    yield "model.embed_tokens.weight", "token_embd.weight", (shape["vocab"], width)
    for layer in range(shape["layers"]):
        ours, theirs = f"model.layers.{layer}.", f"blk.{layer}."
        yield ours + "input_layernorm.weight", theirs + "attn_norm.weight", (width,)
        yield ours + "self_attn.q_proj.weight", theirs + "attn_q.weight", (queries, width)
        yield ours + "self_attn.k_proj.weight", theirs + "attn_k.weight", (keys, width)
        yield ours + "self_attn.v_proj.weight", theirs + "attn_v.weight", (keys, width)
        yield ours + "self_attn.o_proj.weight", theirs + "attn_output.weight", (width, queries)
        yield ours + "self_attn.q_norm.weight", theirs + "attn_q_norm.weight", (shape["head_dim"],)
        yield ours + "self_attn.k_norm.weight", theirs + "attn_k_norm.weight", (shape["head_dim"],)
        yield ours + "post_attention_layernorm.weight", theirs + "ffn_norm.weight", (width,)
        yield ours + "mlp.gate_proj.weight", theirs + "ffn_gate.weight", (shape["mlp"], width)
        yield ours + "mlp.up_proj.weight", theirs + "ffn_up.weight", (shape["mlp"], width)
        yield ours + "mlp.down_proj.weight", theirs + "ffn_down.weight", (width, shape["mlp"])
    yield "model.norm.weight", "output_norm.weight", (width,)


def values(rng, dims):
    """Norms are ones; the rest has the standard deviation of a trained model."""
    if len(dims) == 1:
        return np.ones(dims, dtype=np.float32)
    return rng.standard_normal(dims, dtype=np.float32) * 0.02


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    shape, rng = SHAPE, np.random.default_rng(0)
    config = dict(
        architectures=["Qwen3ForCausalLM"],
        model_type="qwen3",
        vocab_size=shape["vocab"],
        hidden_size=shape["width"],
        intermediate_size=shape["mlp"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        head_dim=shape["head_dim"],
        rms_norm_eps=1e-6,
        rope_theta=1_000_000.0,
        max_position_embeddings=40_960,
        tie_word_embeddings=True,
        hidden_act="silu",
    )
    (folder / "config.json").write_text(json.dumps(config))

    writer = gguf.GGUFWriter(str(folder / "bf16.gguf"), "qwen3")
    writer.add_context_length(40_960)
    writer.add_embedding_length(shape["width"])
    writer.add_block_count(shape["layers"])
    writer.add_feed_forward_length(shape["mlp"])
    writer.add_head_count(shape["heads"])
    writer.add_head_count_kv(shape["kv_heads"])
    writer.add_key_length(shape["head_dim"])
    writer.add_value_length(shape["head_dim"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(shape["vocab"])

    header, blobs, at = {"__metadata__": {"format": "pt"}}, [], 0
    for ours, theirs, dims in tensors(shape):
        full = values(rng, dims)
        half = bf16(full)
        header[ours] = dict(dtype="BF16", shape=list(dims), data_offsets=[at, at + half.nbytes])
        at += half.nbytes
        blobs.append(half)
        if len(dims) == 1:
            writer.add_tensor(theirs, full)
        else:
            raw = half.view(np.uint8).reshape(dims[0], -1)
            writer.add_tensor(theirs, raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for blob in blobs:
            file.write(blob.tobytes())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main(Path(sys.argv[1]))
