"""Writes a large simulated log: items.csv, events.parquet and, with --csv, events.csv.

    python simulate.py --events 50000000 --out data

Users and items are drawn from long-tailed distributions; times rise, as in a log. One event in a hundred has no
price, and one user in a thousand events buys the same item twice in a row."""

import argparse
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

BEGIN, DAYS = 1_500_000_000, 730
CHUNK = 1_000_000


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=50_000_000)
    parser.add_argument("--users", type=int, default=2_000_000)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--csv", action="store_true")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(options.seed)
    write_items(options)
    schema = pa.schema(
        [
            ("user_id", pa.string()),
            ("item_id", pa.int64()),
            ("time", pa.int64()),
            ("kind", pa.string()),
            ("price", pa.float64()),
        ]
    )
    parquet = pa.parquet.ParquetWriter(options.out / "events.parquet", schema, compression="zstd")
    text = pa.csv.CSVWriter(options.out / "events.csv", schema) if options.csv else None
    for begin in range(0, options.events, CHUNK):
        table = events(random, options, begin, min(CHUNK, options.events - begin), schema)
        parquet.write_table(table)
        if text:
            text.write_table(table)
    parquet.close()
    if text:
        text.close()


def write_items(options):
    with open(options.out / "items.csv", "w") as out:
        out.write("item_id,title,category,price\n")
        for item in range(options.items):
            out.write(f"{item},Product number {item},Category {item % 97},{item % 990 / 10}\n")


def events(random, options, begin, count, schema):
    long_tail = lambda of: np.minimum(of * random.random(count) ** 3, of - 1).astype(np.int64)
    users, items = long_tail(options.users), long_tail(options.items)
    again = random.random(count) < 0.001
    again[0] = False
    users[again], items[again] = users[np.flatnonzero(again) - 1], items[np.flatnonzero(again) - 1]
    seconds = np.sort(random.integers(0, 1_000_000, count)) + begin
    times = BEGIN + seconds * (DAYS * 86_400) // options.events
    kinds = np.array(["click", "cart", "purchase"])[np.searchsorted([0.7, 0.8], random.random(count))]
    prices = pa.array(items % 990 / 10, mask=random.random(count) < 0.01)
    names = pa.array(np.char.add("u", users.astype(str)))
    return pa.table([names, pa.array(items), pa.array(times), pa.array(kinds), prices], schema=schema)


main()
