"""transformers beside the engine, on the same random weights: what both say, and how fast.

  peer.py make DIR [--tiny]     writes a model of the Qwen3-8B shape (or a tiny one), and tokens.json
  peer.py check DIR LOGITS...   holds logits that the engine wrote against transformers' in float32,
                                beside transformers' own in bf16: the first may not be much further off, others
                                are weights of fewer bits
  peer.py time DIR              prints what transformers does in a second, as JSON
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Qwen3Config, StaticCache

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPE = dict(
    vocab_size=151_936, hidden_size=4_096, intermediate_size=12_288, num_hidden_layers=36,
    num_attention_heads=32, num_key_value_heads=8, head_dim=128, max_position_embeddings=40_960,
)
TINY = dict(
    vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, head_dim=64, max_position_embeddings=4_096,
)
# Tokens of the text that is checked, and of the prompts and texts that are timed.
CHECKED, PROMPT, WRITTEN = 700, 1_024, 64
BATCHES = (1, 64)
# How much further from float32 than transformers' bf16 the engine may be.
SLACK = 1.5


def make(folder, tiny):
    torch.manual_seed(0)
    config = Qwen3Config(tie_word_embeddings=False, **(TINY if tiny else SHAPE))
    with torch.device(DEVICE):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        # Norms that are all ones would hide one that is missing.
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.1 * torch.randn_like(parameter.float()))
    model.save_pretrained(folder, max_shard_size="4GB")
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, config.vocab_size, (CHECKED,), generator=draw)
    (folder / "tokens.json").write_text(json.dumps(tokens.tolist()))


def load(folder, dtype):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(DEVICE).eval()


def relative(found, exact):
    return ((found - exact).norm(dim=-1) / exact.norm(dim=-1)).mean().item()


@torch.no_grad()
def check(folder, files):
    torch.backends.cuda.matmul.allow_tf32 = False
    tokens = torch.tensor([json.loads((folder / "tokens.json").read_text())], device=DEVICE)
    said = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = load(folder, dtype)
        said[dtype] = model(tokens).logits[0].float().cpu()
        del model
    right = True
    for file in files:
        ours = load_file(file)
        count = ours["prefill"].shape[0]
        exact, theirs = said[torch.float32][-count:], said[torch.bfloat16][-count:]
        bound = relative(theirs, exact)
        for name in ("prefill", "decode"):
            error = relative(ours[name].float(), exact)
            same = (ours[name].argmax(-1) == exact.argmax(-1)).float().mean().item()
            right &= error <= SLACK * bound or file != files[0]
            print(f"{file.stem}, {name}: {error:.2e} from float32, transformers' bf16 {bound:.2e} "
                  f"({error / bound:.2f}x, at most {SLACK}x in bf16); the same token first in {same:.1%} of {count}")
        alike = (ours["prefill"] == ours["decode"]).all(-1).float().mean().item()
        print(f"{file.stem}: {alike:.1%} of {count} rows have the same bits in prefill and decode")
    if not right:
        raise SystemExit("the engine says something else")


def wait():
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def median_seconds(work, times):
    for _ in range(3):
        work()
    took = []
    for _ in range(times):
        wait()
        begun = time.perf_counter()
        work()
        wait()
        took.append(time.perf_counter() - begun)
    return statistics.median(took)


def decoder(model, batch):
    """One step of a batch after a prompt, as a CUDA graph over a static cache where there is a GPU."""
    cache = StaticCache(config=model.config, max_cache_len=PROMPT + WRITTEN)
    prompt = torch.randint(0, model.config.vocab_size, (batch, PROMPT), device=DEVICE)
    # A prompt at a time would be slow, and all at once would not fit: what is in the cache costs the
    # same whatever it is, so a part of it is enough.
    first = prompt[:, :16]
    model(first, past_key_values=cache, cache_position=torch.arange(16, device=DEVICE), use_cache=True)
    token, place = prompt[:, -1:].clone(), torch.tensor([PROMPT], device=DEVICE)
    step = lambda: model(token, past_key_values=cache, cache_position=place, use_cache=True).logits
    if DEVICE != "cuda":
        return step
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


@torch.no_grad()
def timed(folder):
    model = load(folder, torch.bfloat16)
    report = {"device": torch.cuda.get_device_name() if DEVICE == "cuda" else DEVICE, "batches": []}
    for batch in BATCHES if DEVICE == "cuda" else (1, 4):
        prompt = torch.randint(0, model.config.vocab_size, (1, PROMPT), device=DEVICE)
        prefill = PROMPT / median_seconds(lambda: model(prompt, logits_to_keep=1), 5)
        decode = batch / median_seconds(decoder(model, batch), 20)
        report["batches"].append({"texts": batch, "prefill": prefill, "decode": decode})
    if DEVICE == "cuda":
        # What the memory gives, by copying: each byte is read once and written once.
        source = torch.empty(1 << 30, dtype=torch.int32, device=DEVICE)
        target = torch.empty_like(source)
        report["bandwidth"] = 2 * source.nbytes / median_seconds(lambda: target.copy_(source), 10)
        left = torch.randn(8_192, 8_192, dtype=torch.bfloat16, device=DEVICE)
        report["peak"] = 2 * 8_192**3 / median_seconds(lambda: left @ left, 10)
    print(json.dumps(report))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "check", "time"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("logits", nargs="*", type=Path)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    if args.what == "make":
        make(args.folder, args.tiny)
    elif args.what == "check":
        check(args.folder, args.logits)
    else:
        timed(args.folder)


main()
