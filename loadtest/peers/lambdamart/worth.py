"""What each feature is worth, on the validation slates of an export with features.

For each feature: NDCG@10 of the order by it alone (the better of its two directions; equal values keep the order
given), and what LambdaMART loses when the feature's values are shuffled among all candidates. Trees that were trained
without it could put another in its place, so a loss near zero means that nothing else lacks.

    python worth.py EXAMPLES… [--settings usual] [--trees 150] [--cases-max 3000]

Several exports make one table, with two columns each.
"""

import argparse
import json
import pathlib

import lightgbm
import numpy as np
from safetensors import safe_open

from lambdamart import COMMON, GRID, TASKS, Cases, Validation


def validation_of(file, cases_max, draw):
    by_task = {}
    for task in TASKS:
        cases = Cases(file, f"validate/{task}")
        if len(cases):
            by_task[task] = cases.where(np.sort(draw.permutation(len(cases))[:cases_max]))
    return Validation(by_task)


def trained(file, size, options):
    train = Cases(file, "train").cut_to(size).with_hits()
    data = lightgbm.Dataset(train.rows(True), train.labels(), group=train.groups())
    settings = dict(COMMON, **GRID[options.settings], num_threads=options.threads, seed=options.seed)
    return lightgbm.train(settings, data, num_boost_round=options.trees)


def alone(validation, feature):
    """NDCG@10 by one column of the rows; the place breaks ties."""
    best = -1.0
    for sign in (1.0, -1.0):
        total = []
        for cases in validation.cases.values():
            values = sign * cases.features[:, :, feature] - 1e-6 * cases.place
            values[cases.slate == 0] = -np.inf
            total.append(cases.ndcg(values).sum() / validation.counts_of(cases))
        best = max(best, float(np.mean(total)))
    return best


def worth(path, options):
    draw = np.random.default_rng(options.seed)
    with safe_open(path, "np") as file:
        names = json.loads(file.metadata()["features"])
        validation = validation_of(file, options.cases_max, draw)
        of = {id(cases): validation.counts[task] for task, cases in validation.cases.items()}
        validation.counts_of = lambda cases: of[id(cases)]
        size = max(cases.slate.shape[1] for cases in validation.cases.values())
        model = trained(file, size, options)
    rows = np.concatenate([cases.rows(True) for cases in validation.cases.values()])
    whole = validation.ndcg(model.predict(rows))
    found = {}
    for at, name in enumerate(names):
        kept = rows[:, at].copy()
        if kept.std() == 0:
            found[name] = None
            continue
        rows[:, at] = draw.permutation(kept)
        loss = whole - validation.ndcg(model.predict(rows))
        rows[:, at] = kept
        found[name] = (alone(validation, at), loss)
    return names, whole, found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("examples", nargs="+")
    parser.add_argument("--settings", default="usual", choices=GRID)
    parser.add_argument("--trees", type=int, default=150)
    parser.add_argument("--cases-max", type=int, default=3_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    shops = [(pathlib.Path(path).stem, *worth(path, options)) for path in options.examples]
    print("| feature |" + "".join(f" {shop}: alone | loss |" for shop, *_ in shops))
    print("|---|" + "--:|--:|" * len(shops))
    for name in shops[0][1]:
        cells = [found.get(name) for *_, found in shops]
        row = "".join(" – | – |" if cell is None else f" {cell[0]:.4f} | {cell[1]:+.4f} |" for cell in cells)
        print(f"| `{name}` |{row}")
    print("| all together |" + "".join(f" {whole:.4f} | |" for _, _, whole, _ in shops))


if __name__ == "__main__":
    main()
