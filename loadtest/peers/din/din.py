"""Deep Interest Network (Zhou et al., 2018) in plain PyTorch, on the examples of `raisonne export`.

Called by run.sh. Needs: torch, numpy, safetensors.

The model is the one that PyTorch users know: embeddings of ids and categories, an attention MLP of
80-40 over [target, event, target - event, target * event] without softmax, an MLP of 200-80 with
dropout, PReLU, Adam, and binary cross-entropy over the item taken and others of its slate. Two
orders are evaluated: by its logits alone, and by its logits fused with the position in the order
given, whose weight is chosen on the validation cases as for Raisonné's scorer.
"""

import argparse
import json
import time

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import nn

TASKS = ["first_purchase", "next_basket"]
WEIGHTS = [0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.5]


def mlp(inputs, hidden, dropout=0.0):
    layers = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.PReLU(), nn.Dropout(dropout)]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, 1))


class Din(nn.Module):
    def __init__(self, categories, width, dropout):
        super().__init__()
        self.register_buffer("category_of", categories)
        self.item = nn.Embedding(len(categories), width, padding_idx=0)
        self.category = nn.Embedding(int(categories.max()) + 1, width, padding_idx=0)
        for table in (self.item, self.category):
            nn.init.normal_(table.weight, std=0.05)
            nn.init.zeros_(table.weight[0:1].detach())
        d = 2 * width
        self.attention = mlp(4 * d, (80, 40))
        self.head = mlp(3 * d, (200, 80), dropout)

    def embed(self, items):
        return torch.cat([self.item(items), self.category(self.category_of[items])], -1)

    def forward(self, history, slate):
        """history (B, H), slate (B, N) -> logits (B, N)"""
        events, targets = self.embed(history), self.embed(slate)
        e, t = torch.broadcast_tensors(events[:, None], targets[:, :, None])
        weights = self.attention(torch.cat([t, e, t - e, t * e], -1)).squeeze(-1)
        weights = weights * (history > 0)[:, None]
        interest = weights @ events
        return self.head(torch.cat([interest, targets, interest * targets], -1)).squeeze(-1)


def batch_of(examples, rows, candidates, draw):
    """One item that was taken, then others of its slate, as in the scorer's training."""
    shown = np.zeros((len(rows), candidates), np.int64)
    for at, row in enumerate(rows):
        slate, taken = examples["slate"][row], examples["taken"][row]
        others = slate[(taken == 0) & (slate > 0)]
        shown[at, 0] = draw.choice(slate[taken == 1])
        shown[at, 1:] = draw.choice(others, candidates - 1, replace=len(others) < candidates - 1)
    history = torch.from_numpy(examples["history"][rows].astype(np.int64))
    return history, torch.from_numpy(shown)


@torch.no_grad()
def logits_of(model, cases):
    model.eval()
    scored = []
    for start in range(0, len(cases["slate"]), 64):
        part = {name: torch.from_numpy(cases[name][start:start + 64].astype(np.int64))
                for name in ("history", "slate")}
        scored.append(model(part["history"], part["slate"]).numpy())
    model.train()
    return np.concatenate(scored)


def figures(logits, cases, weight):
    """NDCG@10 and Recall@5 of the order by logits less the weighted log position in the order given."""
    places = np.log1p(np.arange(logits.shape[1]))
    fused = np.where(cases["slate"] > 0, logits - weight * places, -np.inf)
    order = np.argsort(-fused, axis=1, kind="stable")
    hits = np.take_along_axis(cases["taken"], order, 1)
    discounts = 1 / np.log2(np.arange(2, 12))
    relevant = cases["relevant"].astype(int)
    ideal = np.concatenate([[0], np.cumsum(discounts)])[np.minimum(relevant, 10)]
    ndcg = (hits[:, :10] * discounts).sum(1) / ideal
    recall = hits[:, :5].sum(1) / np.minimum(relevant, 5)
    return float(ndcg.mean()), float(recall.mean())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("examples")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    draw = np.random.default_rng(options.seed)

    tables = load_file(options.examples)
    part = lambda of: {name: tables[f"{of}/{name}"]
                       for name in ("history", "slate", "taken", "relevant")}
    train = part("train")
    validate, test = ({task: part(f"{of}/{task}") for task in TASKS} for of in ("validate", "test"))
    categories = torch.from_numpy(tables["categories"].astype(np.int64))

    model = Din(categories, options.width, options.dropout)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate)
    best, begun = None, time.time()
    for epoch in range(options.epochs):
        losses = []
        rows = draw.permutation(len(train["slate"]))
        for start in range(0, len(rows), options.batch):
            history, shown = batch_of(train, rows[start:start + options.batch],
                                      options.candidates, draw)
            labels = torch.zeros(shown.shape)
            labels[:, 0] = 1
            loss = nn.functional.binary_cross_entropy_with_logits(model(history, shown), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        scored = {task: logits_of(model, validate[task]) for task in TASKS}
        verdicts = [(np.mean([figures(scored[task], validate[task], weight)[0]
                              for task in TASKS]), weight) for weight in WEIGHTS]
        verdict = max(verdicts)
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.4f}, validation NDCG@10 "
              f"{verdicts[0][0]:.4f} alone, {verdict[0]:.4f} fused with weight {verdict[1]}, "
              f"{time.time() - begun:.0f} s", flush=True)
        if best is None or verdict[0] > best[0]:
            state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            best = (*verdict, state)
    model.load_state_dict(best[2])
    report = {"examples": len(train["slate"]), "epochs": options.epochs, "weight": best[1],
              "seconds": round(time.time() - begun)}
    for task in TASKS:
        logits = logits_of(model, test[task])
        given = np.zeros_like(logits)
        for name, figure in (("given", figures(given, test[task], 1.0)),
                             ("alone", figures(logits, test[task], 0.0)),
                             ("fused", figures(logits, test[task], best[1]))):
            report[f"{task}/{name}"] = dict(zip(("ndcg@10", "recall@5"), np.round(figure, 4)))
    print(json.dumps(report, indent=2, default=float))


if __name__ == "__main__":
    main()
