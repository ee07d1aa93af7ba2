"""Queries for ML-1M by RecBench+'s published construction, as requests for `raisonne rank`.

    make.py ML1M CASES OUT [--group-queries movie_UserBasedQuery.json.zst] [--films 1500] [--seed 7]

CASES is what `raisonne eval --cases` wrote for a bundle of the same films, with the shop's retriever: each case is a
shopper, a moment and the film that was then taken (the task `first_purchase`). OUT gets requests.KIND.jsonl and
truth.KIND.jsonl for each KIND of class and slate:

  explicit     "a Crime film directed by X, starring Y": one to three facts of the film
  implicit     the same facts, but a person is named through another film: "by the director of Z"
  misinformed  explicit, and one fact that is false
  group        the real queries of groups of shoppers, if given; there is no history

  19  the film and 19 others that the shopper has not seen, drawn at random, in the order of their popularity
  49  the film and the best 49 others of the retriever, in its order; only cases whose slate holds the film

Popularity counts the events before the case. The history is what the shopper saw before it, 50 films at most.
"""

import argparse
import collections
import io
import json
import pathlib
import random

import zstandard

from films import facts, rows

HISTORY = 50
PEOPLE = {"director": ("directed by {}", "by the director of {}"), "cast": ("starring {}", "with an actor of {}")}


def opened(path):
    """A text file, compressed or not."""
    if str(path).endswith(".zst"):
        return io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(open(path, "rb")), encoding="utf-8")
    return open(path)


def chosen_facts(film, rng):
    """One to three facts of a film: (relation, value)."""
    pairs = [(relation, value) for relation, values in film.items() for value in values]
    return rng.sample(pairs, min(len(pairs), rng.randint(1, 3)))


def sentence(facts_said, through, titles, rng):
    """A query that says these facts. `through` maps a person to films that could stand for them, or is None."""
    genres = [value for relation, value in facts_said if relation == "genre"]
    said = []
    for relation, value in facts_said:
        if relation not in PEOPLE:
            continue
        plain, other = PEOPLE[relation]
        films = (through or {}).get((relation, value), [])
        said.append(other.format(titles[rng.choice(films)]) if films else plain.format(value))
    text = " ".join([*genres, "film", *said])
    return rng.choice(["Can you recommend a {}?", "I'm looking for a {}.", "{}", "Any {} you could suggest?"]).format(text)


def query(kind, film, films, people, titles, rng):
    """A query of a kind for a film, or None where the film says too little."""
    said = chosen_facts(films[film], rng)
    if not said:
        return None
    if kind == "explicit":
        return sentence(said, None, titles, rng)
    if kind == "implicit":
        through = {fact: [other for other in people[fact] if other != film] for fact in said if fact[0] in PEOPLE}
        if not any(through.values()):
            return None
        return sentence(said, through, titles, rng)
    relation = rng.choice([relation for relation, _ in said])
    false = [value for (r, value) in people if r == relation and value not in films[film].get(relation, [])]
    wrong = (relation, rng.choice(false))
    return sentence([*said, wrong], None, titles, rng)


def slates(case, popular, seen, items, rng):
    """Both slates of a case, by their names."""
    target = case["relevant"][0]
    others = rng.sample([item for item in items if item not in seen and item != target], 19)
    drawn = sorted([target, *others], key=lambda item: (-popular[item], item))
    out = {"19": drawn}
    if target in case["given"]:
        best = [item for item in case["given"] if item != target][:49]
        kept = set(best) | {target}
        out["49"] = [item for item in case["given"] if item in kept]
    return out


def stamp(seconds):
    """A moment as the API takes it."""
    import datetime

    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class Writer:
    """Writes requests and what is right for each, by kind."""

    def __init__(self, out):
        self.out, self.files = out, {}

    def write(self, kind, user, text, slate, relevant, popular, history, time):
        if kind not in self.files:
            self.files[kind] = [open(self.out / f"{name}.{kind}.jsonl", "w") for name in ("requests", "truth")]
        requests, truth = self.files[kind]
        name = f"{kind}/{user}"
        request = {
            "requestId": name,
            "user": {"userId": user, "history": history},
            "query": text,
            "candidates": [{"itemId": item} for item in slate],
            "topN": len(slate),
            "explain": "EXPLAIN_NONE",
            "effort": "EFFORT_SCORED",
        }
        if time is not None:
            request["time"] = stamp(time)
        requests.write(json.dumps(request) + "\n")
        counts = [popular[item] for item in slate]
        truth.write(json.dumps({"id": name, "query": text, "slate": slate, "relevant": relevant, "popular": counts}) + "\n")


def main():
    options = argparse.ArgumentParser()
    for name in ("ml1m", "cases", "out"):
        options.add_argument(name, type=pathlib.Path)
    options.add_argument("--group-queries", type=pathlib.Path)
    options.add_argument("--films", type=int, default=1500)
    options.add_argument("--seed", type=int, default=7)
    options = options.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(options.seed)
    films, titles = {}, {}
    people = collections.defaultdict(list)
    for row in rows(options.ml1m / "items.csv.zst"):
        films[row["item_id"]], titles[row["item_id"]] = facts(row), row["title"]
        for relation, values in films[row["item_id"]].items():
            for value in values:
                people[(relation, value)].append(row["item_id"])
    log = collections.defaultdict(list)
    events = []
    for row in rows(options.ml1m / "interactions.csv.zst"):
        time = int(float(row["time"] if "time" in row else row["timestamp"]))
        log[row["user_id"]].append((time, row["item_id"]))
        events.append((time, row["item_id"]))
    events.sort()
    cases = [json.loads(line) for line in opened(options.cases)]
    cases = [case for case in cases if case["task"] == "first_purchase"]
    rng.shuffle(cases)
    cases = sorted(cases[: options.films], key=lambda case: case["time"])
    writer, popular, at = Writer(options.out), collections.Counter(), 0
    for case in cases:
        while at < len(events) and events[at][0] < case["time"]:
            popular[events[at][1]] += 1
            at += 1
        target = case["relevant"][0]
        past = [event for event in log[case["user"]] if event[0] < case["time"]]
        history = [{"itemId": item, "time": stamp(time), "kind": "EVENT_KIND_PURCHASE"} for time, item in past[-HISTORY:]]
        seen = {item for _, item in log[case["user"]]}
        for name, slate in slates(case, popular, seen, list(films), rng).items():
            for kind in ("explicit", "implicit", "misinformed"):
                text = query(kind, target, films, people, titles, rng)
                if text is not None:
                    writer.write(
                        f"{kind}.{name}", case["user"], text, slate, [target], popular, history, case["time"]
                    )
    if options.group_queries:
        group_queries(options.group_queries, titles, popular, writer, rng)


def group_queries(path, titles, popular, writer, rng):
    """The real queries of groups: the films that belong to each, and 19 others at random."""
    plain = lambda title: title.lower().replace("the ", "").replace(", the", "").strip()
    by_title = {plain(title): item for item, title in titles.items()}
    for number, group in enumerate(json.load(opened(path))):
        for place, asked in enumerate(group["query & ground true"]):
            right = [by_title[plain(title)] for title in asked["movie subset"] if plain(title) in by_title]
            if not right:
                continue
            others = rng.sample([item for item in titles if item not in right], 19)
            slate = sorted({*right, *others}, key=lambda item: (-popular[item], item))
            writer.write(f"group.19", f"group-{number}-{place}", asked["query"], slate, right, popular, [], None)


if __name__ == "__main__":
    main()
