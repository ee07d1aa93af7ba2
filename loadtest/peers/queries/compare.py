"""Accuracy@1 and NDCG@10 of `raisonne rank` on queries, beside a pretrained encoder, BM25 and popularity.

    compare.py ML1M DIR [--encoder FOLDER] [--label NAME] [--silent]

DIR holds truth.KIND.jsonl of make.py and rankings.KIND.jsonl of `raisonne rank`; with `--silent` also
silent.KIND.jsonl, the rankings of the same requests without their queries. The encoder is a folder of
sentence-transformers; it and BM25 read title, director, cast and genres. Intervals are of 2,000 resamples of requests.
"""

import argparse
import collections
import json
import math
import pathlib
import re

import numpy as np

from films import facts, rows

K, B = 1.2, 0.75


def words(text):
    """Words in lower case without the s of a plural."""
    found = re.findall(r"[^\W_]{2,}", text.lower())
    return [w[:-1] if len(w) > 3 and w.endswith("s") and not w.endswith(("ss", "us", "is")) else w for w in found]


class Bm25:
    def __init__(self, texts):
        self.counts = {item: collections.Counter(words(text)) for item, text in texts.items()}
        self.lengths = {item: sum(count.values()) for item, count in self.counts.items()}
        self.mean = sum(self.lengths.values()) / len(texts)
        holders = collections.Counter(word for count in self.counts.values() for word in count)
        self.idf = {w: math.log1p((len(texts) - n + 0.5) / (n + 0.5)) for w, n in holders.items()}

    def score(self, query, item):
        total = 0.0
        for word in set(words(query)):
            times = self.counts[item].get(word, 0)
            if times:
                total += self.idf[word] * times / (times + K * (1 - B + B * self.lengths[item] / self.mean))
        return total


def figures(order, relevant):
    """(accuracy@1, NDCG@10) of an order, best first."""
    gain = lambda place: 1 / math.log2(place + 2)
    found = sum(gain(place) for place, item in enumerate(order[:10]) if item in relevant)
    return float(order[0] in relevant), found / sum(gain(place) for place in range(min(10, len(relevant))))


def by_score(slate, scores):
    """A slate by descending scores; ties keep the order given."""
    return [slate[place] for place in np.argsort(-np.asarray(scores), kind="stable")]


def read(path):
    return [json.loads(line) for line in open(path)]


def orders_of(path):
    return {line["requestId"]: [result["itemId"] for result in line["results"]] for line in read(path)}


def interval(values, rng):
    values = np.asarray(values)
    means = values[rng.integers(0, len(values), (2000, len(values)))].mean(1)
    return values.mean(), *np.quantile(means, [0.025, 0.975])


def main():
    options = argparse.ArgumentParser()
    options.add_argument("ml1m", type=pathlib.Path)
    options.add_argument("dir", type=pathlib.Path)
    options.add_argument("--encoder", type=pathlib.Path)
    options.add_argument("--silent", action="store_true")
    options = options.parse_args()
    texts = {}
    for row in rows(options.ml1m / "items.csv.zst"):
        said = facts(row)
        texts[row["item_id"]] = ", ".join([row["title"], *said["director"], *said["cast"], *said["genre"]])
    bm25, rng = Bm25(texts), np.random.default_rng(7)
    if options.encoder:
        from sentence_transformers import SentenceTransformer

        encoder = SentenceTransformer(str(options.encoder), device="cpu")
        encode = lambda texts: encoder.encode(texts, batch_size=64, normalize_embeddings=True)
        items = list(texts)
        vectors = dict(zip(items, encode([texts[item] for item in items])))
    for path in sorted(options.dir.glob("truth.*.jsonl")):
        kind = path.name[len("truth.") : -len(".jsonl")]
        truth = read(path)
        ranked = orders_of(options.dir / f"rankings.{kind}.jsonl")
        systems = {"raisonne": [ranked[line["id"]] for line in truth]}
        if options.silent:
            silent = orders_of(options.dir / f"silent.{kind}.jsonl")
            systems["without the query"] = [silent[line["id"]] for line in truth]
        systems["bm25"] = [by_score(l["slate"], [bm25.score(l["query"], i) for i in l["slate"]]) for l in truth]
        systems["popularity"] = [by_score(line["slate"], line["popular"]) for line in truth]
        if options.encoder:
            asked = encode([line["query"] for line in truth])
            cosines = [[vectors[item] @ vector for item in line["slate"]] for line, vector in zip(truth, asked)]
            systems["encoder"] = [by_score(line["slate"], cosine) for line, cosine in zip(truth, cosines)]
        print(f"\n{kind}: {len(truth)} requests\n\n| order | accuracy@1 | NDCG@10 | raisonne's accuracy@1 less this | its NDCG@10 less this |")
        print("|---|--:|--:|--:|--:|")
        table = {name: np.array([figures(o, set(l["relevant"])) for o, l in zip(orders, truth)]) for name, orders in systems.items()}
        for name, values in table.items():
            gains = table["raisonne"] - values
            cells = [f"{m:+.3f} [{low:+.3f}, {high:+.3f}]" for m, low, high in (interval(gains[:, c], rng) for c in (0, 1))]
            print(f"| {name} | {values[:, 0].mean():.3f} | {values[:, 1].mean():.3f} | {cells[0]} | {cells[1]} |")


if __name__ == "__main__":
    main()
