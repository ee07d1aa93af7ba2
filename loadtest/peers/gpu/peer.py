"""Compares the engine with transformers on the same random weights: logits, gradients and speed.

  peer.py make DIR [--tiny]     writes a model of the Qwen3-8B shape (or a tiny one), and tokens.json
  peer.py check DIR LOGITS...   compares the engine's logits with transformers' in float32. The first file may be at most
                                SLACK times as far off as transformers in bf16; other files are of 8-bit weights
  peer.py time DIR              prints transformers' tokens per second, as JSON
  peer.py learn DIR REPORT      trains adapters like `raisonne bench learner`, which wrote REPORT (JSON), and compares the
                                first loss and the first gradient norm
"""

import argparse
import json
import math
import statistics
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
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
# Tokens of the checked prompt, and of the timed prompts and generated texts.
CHECKED, PROMPT, GENERATED = 700, 1_024, 64
BATCHES = (1, 64)
# Lessons and their tokens, on a GPU and in a tiny model; and the micro-batch of PyTorch, whose logits of all lessons don't
# fit in memory.
LESSONS, TINY_LESSONS, TOGETHER = (16, 1_024), (4, 64), 4
# `ALPHA_PER_RANK`, the schedule and the bounds of the learner.
ALPHA_PER_RANK, RATE, WARM_UP, FLOOR, NORM_MAX, COLD_STEPS = 2.0, 3e-4, 5, 0.1, 1.0, 2
# Relative tolerance of the first loss, and of the first norm, which depends on the adapters' random weights.
LOSS_NEAR, NORM_NEAR = 0.005, 0.1
# The engine's error in bf16 may be so many times transformers' error in bf16.
SLACK = 1.5


def make(folder, tiny):
    torch.manual_seed(0)
    config = Qwen3Config(tie_word_embeddings=False, **(TINY if tiny else SHAPE))
    with torch.device(DEVICE):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        # With scales of one, a missing norm scale would not show.
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.1 * torch.randn_like(parameter.float()))
    model.save_pretrained(folder, max_shard_size="4GB")
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, config.vocab_size, (CHECKED,), generator=draw)
    (folder / "tokens.json").write_text(json.dumps(tokens.tolist()))
    lessons = torch.randint(0, config.vocab_size, TINY_LESSONS if tiny else LESSONS, generator=draw)
    save_file({"tokens": lessons.to(torch.int32)}, folder / "lessons.safetensors")


def load(folder, dtype):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(DEVICE).eval()


def relative(found, exact):
    return ((found - exact).norm(dim=-1) / exact.norm(dim=-1)).mean().item()


@torch.no_grad()
def check(folder, files):
    torch.backends.cuda.matmul.allow_tf32 = False
    tokens = torch.tensor([json.loads((folder / "tokens.json").read_text())], device=DEVICE)
    reference = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = load(folder, dtype)
        reference[dtype] = model(tokens).logits[0].float().cpu()
        del model
    right = True
    for file in files:
        ours = load_file(file)
        count = ours["prefill"].shape[0]
        exact, theirs = reference[torch.float32][-count:], reference[torch.bfloat16][-count:]
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
        raise SystemExit("the engine's logits are too far off")


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
    cache = StaticCache(config=model.config, max_cache_len=PROMPT + GENERATED)
    prompt = torch.randint(0, model.config.vocab_size, (batch, PROMPT), device=DEVICE)
    # Prefilling whole prompts would be slow, or not fit in memory. The cache's contents don't change the time, so a part of
    # the prompt is enough.
    first = prompt[:, :16]
    model(first, past_key_values=cache, cache_position=torch.arange(16, device=DEVICE), use_cache=True)
    token, position = prompt[:, -1:].clone(), torch.tensor([PROMPT], device=DEVICE)
    step = lambda: model(token, past_key_values=cache, cache_position=position, use_cache=True).logits
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
        # Memory bandwidth of a copy, which reads and writes each byte once.
        source = torch.empty(1 << 30, dtype=torch.int32, device=DEVICE)
        target = torch.empty_like(source)
        report["bandwidth"] = 2 * source.nbytes / median_seconds(lambda: target.copy_(source), 10)
        left = torch.randn(8_192, 8_192, dtype=torch.bfloat16, device=DEVICE)
        report["peak"] = 2 * 8_192**3 / median_seconds(lambda: left @ left, 10)
    print(json.dumps(report))


class Adapted(torch.nn.Module):
    """A frozen matrix in bf16, and a small trained one beside it (LoRA)."""

    def __init__(self, frozen, rank):
        super().__init__()
        self.frozen = frozen
        bound = frozen.in_features**-0.5
        self.down = torch.nn.Parameter(torch.empty(rank, frozen.in_features, device=DEVICE).uniform_(-bound, bound))
        self.up = torch.nn.Parameter(torch.zeros(frozen.out_features, rank, device=DEVICE))

    def forward(self, rows):
        down, up = self.down.to(rows.dtype), self.up.to(rows.dtype)
        return self.frozen(rows) + ALPHA_PER_RANK * torch.nn.functional.linear(torch.nn.functional.linear(rows, down), up)


def rate(step, steps):
    if step < WARM_UP:
        return RATE * (step + 1) / WARM_UP
    progress = (step - WARM_UP) / max(steps - WARM_UP, 1)
    return RATE * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * progress)))


def learn(folder, report):
    """The same lessons, in the same order, with gradient checkpointing."""
    ours = json.loads(report.read_text())
    lessons = load_file(folder / "lessons.safetensors")["tokens"].long().to(DEVICE)
    model = load(folder, torch.bfloat16)
    for layer in model.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, matrix in list(part.named_children()):
                if isinstance(matrix, torch.nn.Linear):
                    setattr(part, name, Adapted(matrix, ours["rank"]))
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.dtype == torch.float32)
    adapters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    optimiser = torch.optim.AdamW(adapters, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=True)
    losses, norms, seconds = [], [], []
    for step, indices in enumerate(ours["order"]):
        wait()
        begun = time.perf_counter()
        tokens = lessons[indices]
        for group in optimiser.param_groups:
            group["lr"] = rate(step, len(ours["order"]))
        optimiser.zero_grad()
        sum_of_losses = 0.0
        for some in tokens.split(TOGETHER):
            logits = model(some[:, :-1], use_cache=False).logits.float()
            entropy = torch.nn.functional.cross_entropy(logits.flatten(0, 1), some[:, 1:].flatten(), reduction="sum")
            loss = entropy / tokens[:, 1:].numel()
            loss.backward()
            sum_of_losses += loss.item()
        norms.append(torch.nn.utils.clip_grad_norm_(adapters, NORM_MAX).item())
        optimiser.step()
        wait()
        losses.append(sum_of_losses)
        seconds.append(time.perf_counter() - begun)
    theirs = tokens.numel() / statistics.median(seconds[COLD_STEPS:])
    memory = torch.cuda.max_memory_allocated() / 1e9 if DEVICE == "cuda" else math.nan
    print(f"{ours['tokens_per_second']:.0f} tokens/s, PyTorch {theirs:.0f} ({ours['tokens_per_second'] / theirs:.2f}x)")
    print(f"{(ours['gpu_bytes'] or math.nan) / 1e9:.1f} GB, PyTorch {memory:.1f}")
    print(f"losses {ours['losses'][0]:.4f} to {ours['losses'][-1]:.4f}, PyTorch {losses[0]:.4f} to {losses[-1]:.4f}")
    print(f"first norm {ours['norms'][0]:.4f}, PyTorch {norms[0]:.4f}")
    if abs(ours["losses"][0] / losses[0] - 1) > LOSS_NEAR or abs(ours["norms"][0] / norms[0] - 1) > NORM_NEAR:
        raise SystemExit("the learner's loss or norm is too far off")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "check", "time", "learn"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    if args.what == "make":
        make(args.folder, args.tiny)
    elif args.what == "check":
        check(args.folder, args.files)
    elif args.what == "learn":
        learn(args.folder, *args.files)
    else:
        timed(args.folder)


main()
