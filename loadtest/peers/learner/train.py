"""Trains with PyTorch and transformers as `raisonne bench learner` does: AdamW with the same settings,
learning rates, gradient clipping and order of lessons. Prints one JSON object."""

import argparse
import json
import math
import time
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

LEARNING_RATE, WARMUP_STEPS, MIN_LR_RATIO, MAX_GRAD_NORM, COLD_STEPS = 3e-4, 5, 0.1, 1.0, 2


def learning_rate(step, steps):
    if step < WARMUP_STEPS:
        return LEARNING_RATE * (step + 1) / WARMUP_STEPS
    elapsed = (step - WARMUP_STEPS) / max(steps - WARMUP_STEPS, 1)
    return LEARNING_RATE * (MIN_LR_RATIO + (1 - MIN_LR_RATIO) * 0.5 * (1 + math.cos(math.pi * elapsed)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path)
    parser.add_argument("--order", type=Path)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    order = json.loads(args.order.read_text())
    lessons = load_file(args.work / "lessons.safetensors")["tokens"].long()
    model = AutoModelForCausalLM.from_pretrained(
        args.work / "model", dtype=torch.float32, attn_implementation="sdpa")
    model.train()
    matrices = [weights for weights in model.parameters() if weights.dim() > 1]
    vectors = [weights for weights in model.parameters() if weights.dim() == 1]
    groups = [dict(params=matrices, weight_decay=0.1), dict(params=vectors, weight_decay=0.0)]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8, fused=True)
    losses, norms, seconds = [], [], []
    for step, indices in enumerate(order):
        begun = time.perf_counter()
        tokens = lessons[indices]
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, len(order))
        optimiser.zero_grad()
        logits = model(tokens[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM).item())
        optimiser.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - begun)
    time_of_step = median(seconds[COLD_STEPS:])
    print(json.dumps(dict(
        tokens_per_second=tokens.numel() / time_of_step, step_seconds=time_of_step,
        losses=losses, norms=norms)))


main()
