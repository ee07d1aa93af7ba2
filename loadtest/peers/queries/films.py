"""ML-1M with its casts as a shop that `raisonne import` reads: items.jsonl and events.csv in a folder.

    films.py ML1M OUT

ML1M holds items.csv.zst (item_id, title, genres, year, director, cast, plot) and interactions.csv.zst.
"""

import csv
import io
import json
import pathlib
import sys

import zstandard


def rows(path):
    """The rows of a compressed CSV file."""
    with open(path, "rb") as file:
        text = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8", newline="")
        yield from csv.DictReader(text)


def facts(row):
    """What queries are made from: director, cast and genres, each a list."""
    names = lambda text, mark: [name.strip() for name in text.split(mark) if name.strip() and name.strip() != "N/A"]
    return {
        "director": names(row["director"], ","),
        "cast": names(row["cast"], ","),
        "genre": names(row["genres"], "|"),
    }


def main():
    source, out = map(pathlib.Path, sys.argv[1:3])
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "items.jsonl", "w") as items:
        for row in rows(source / "items.csv.zst"):
            attributes = {name: values for name, values in facts(row).items() if values}
            item = {"item_id": row["item_id"], "title": row["title"], "category": "film", "attributes": attributes}
            items.write(json.dumps(item) + "\n")


if __name__ == "__main__":
    main()
