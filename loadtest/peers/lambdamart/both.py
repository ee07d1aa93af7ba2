"""Trees and the direct path together, beside each alone: is a part with trees worth serving?

    python both.py EXAMPLES WORK [--settings usual] [--trees-max 250]

EXAMPLES is what `raisonne export --features` wrote, and WORK the folder whose `direct.safetensors` and `scorer.toml`
are the direct path. Both scores are standardised over the validation slates. The share of the trees, the weight of
ln(place) and the number of trees are chosen on validation slates, and the test slates are measured once. The deep
network is left out.
"""

import argparse
import json
import pathlib
import tomllib

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

from lambdamart import GRID, TASKS, Cases, Quick, Validation, interval

SHARES = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
CLAMP, SPREAD_MIN, NORM_EPSILON = 5.0, 1e-3, 1e-5
SLATES_AT_ONCE = 512


class Network:
    """The direct path in numpy, over the columns that it names."""

    def __init__(self, work, features):
        file = tomllib.loads((work / "scorer.toml").read_text())["direct"]
        self.columns = [features.index(name) for name in file["inputs"]]
        self.weights, self.members = load_file(work / "direct.safetensors"), file["members"]

    def scores(self, cases):
        """A logit for each candidate of each case, slate by slate, without the padding."""
        sizes = cases.groups()
        of = [self.slates(cases.features[at:at + SLATES_AT_ONCE], cases.slate[at:at + SLATES_AT_ONCE] > 0)
              for at in range(0, len(sizes), SLATES_AT_ONCE)]
        return np.concatenate(of) if of else np.zeros(0)

    def slates(self, features, is_item):
        deviation = self.weights["deviation"]
        x = (features[:, :, self.columns] - self.weights["mean"]) / np.where(deviation > 0, deviation, 1)
        x = np.where(deviation > 0, x, 0).clip(-CLAMP, CLAMP)
        mask = is_item[:, :, None]
        count = mask.sum(1, keepdims=True)
        mean = (x * mask).sum(1, keepdims=True) / count
        spread = np.sqrt((((x - mean) * mask) ** 2).sum(1, keepdims=True) / count)
        z = np.where(spread > SPREAD_MIN, (x - mean) / np.where(spread > SPREAD_MIN, spread, 1), 0)
        u = np.concatenate([x, z], -1)[is_item]
        return np.mean([self.member(u, f"members.{at}.") for at in range(self.members)], 0)

    def member(self, u, name):
        of = lambda part: self.weights[name + part]
        h = u @ of("hidden.weight").T + of("hidden.bias")
        h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + NORM_EPSILON)
        h = h * of("norm.weight") + of("norm.bias")
        h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h ** 3)))
        return (u @ of("linear.weight").T + h @ of("out.weight").T)[:, 0] + of("out.bias")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("examples")
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--settings", choices=GRID, default="usual")
    parser.add_argument("--trees-max", type=int, default=250)
    parser.add_argument("--slates-max", type=int, default=20_000)
    parser.add_argument("--resamples", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    with safe_open(options.examples, "np") as file:
        network = Network(options.work, json.loads(file.metadata()["features"]))
        by_task = {task: Cases(file, f"validate/{task}") for task in TASKS}
        by_task = {task: cases for task, cases in by_task.items() if len(cases)}
        validation = Validation(by_task)
        size = max(cases.slate.shape[1] for cases in by_task.values())
        train = Cases(file, "train").cut_to(size).with_hits()
        train = train.where(np.arange(len(train)) < options.slates_max)
        trees = Quick(train, validation, GRID[options.settings], options)
        del train
        test = {task: Cases(file, f"test/{task}") for task in by_task}
    grown = lambda cases: trees.model.predict(cases.rows(True), num_iteration=trees.trees)
    own = [np.concatenate([of(cases) for cases in validation.cases.values()])
           for of in (network.scores, grown)]
    scales = [scores.std() for scores in own]

    def both(scores, share):
        return (1 - share) * scores[0] / scales[0] + share * scores[1] / scales[1]

    tried = {}
    for share in SHARES:
        scores = both(own, share)
        weight = validation.weight(scores)
        tried[share] = (validation.ndcg(scores, weight), weight)
    best = max(SHARES, key=lambda share: tried[share][0])
    print(json.dumps(dict(trees=trees.trees, share=best,
                          validation={share: round(of[0], 5) for share, of in tried.items()})), flush=True)
    for task, cases in test.items():
        scores = (network.scores(cases), grown(cases))
        ndcg = {share: cases.ndcg(cases.fused(both(scores, share), tried[share][1]))
                for share in {0.0, best, 1.0}}
        print(json.dumps(dict(
            task=task, cases=len(cases), network=round(float(ndcg[0.0].mean()), 5),
            trees=round(float(ndcg[1.0].mean()), 5), both=round(float(ndcg[best].mean()), 5),
            both_minus_network=interval(ndcg[best] - ndcg[0.0], options.resamples, options.seed))), flush=True)


if __name__ == "__main__":
    main()
