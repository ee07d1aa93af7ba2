"""The import's join and checks, as somebody who knows polars writes them: lazy, streaming, one pass where one is enough.

    python polars_import.py --items items.csv --events events.parquet --out shop [--column ours=theirs …]

It checks ids, times and numbers, joins events with items, counts what the report of `raisonne import` counts, sorts the
log by (time, user), and writes items and events with zstd. It numbers no baskets."""

import argparse
import json
import pathlib
import time

import polars as pl

KINDS = ["impression", "click", "cart", "purchase", "dismissal"]
DAY = 86_400


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", required=True)
    parser.add_argument("--events", required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--column", action="append", default=[])
    options = parser.parse_args()
    names = dict(reversed(pair.split("=", 1)) for pair in options.column)
    options.out.mkdir(parents=True)

    items = checked_items(scan(options.items, names)).collect()
    assert items["item_id"].is_unique().all(), "an item id occurs twice"
    events = checked_events(scan(options.events, names))
    known = events.join(items.lazy().select("item_id"), on="item_id", how="semi")
    unknown = events.join(items.lazy().select("item_id"), on="item_id", how="anti")

    items.write_parquet(options.out / "items.parquet", compression="zstd")
    log = options.out / "events.parquet"
    known.sort("time", "user_id").sink_parquet(log, compression="zstd")
    print(json.dumps(counts(pl.scan_parquet(log), unknown, items), indent=2, default=str))


def scan(path, names):
    table = pl.scan_parquet(path) if path.endswith(".parquet") else pl.scan_csv(path, infer_schema=False)
    found = [name for name in names if name in table.collect_schema().names()]
    return table.rename({name: names[name] for name in found})


def text(name):
    return pl.col(name).cast(pl.String)


def checked_items(items):
    valid = text("item_id").str.len_bytes().is_between(1, 128) & text("title").str.len_bytes().le(512)
    return items.with_columns(text("item_id"), text("title").fill_null("")).filter(valid)


def checked_events(events):
    has = events.collect_schema().names()
    optional = lambda name, dtype: (pl.col(name) if name in has else pl.lit(None)).cast(dtype).alias(name)
    events = events.select(
        text("user_id"),
        text("item_id"),
        pl.col("time").cast(pl.Int64, strict=False),
        optional("kind", pl.String).fill_null("purchase"),
        optional("quantity", pl.Float32),
        optional("price", pl.Float32),
    )
    now = int(time.time()) + DAY
    return events.filter(
        text("user_id").str.len_bytes().is_between(1, 128),
        pl.col("time").is_between(0, now),
        pl.col("kind").is_in(KINDS),
        pl.col("price").fill_null(0).ge(0) & pl.col("quantity").fill_null(1).gt(0),
    )


def counts(events, unknown, items):
    by_user = events.group_by("user_id").agg(pl.len().alias("events"), pl.col("time").min().alias("first"))
    pairs = events.group_by("user_id", "item_id").len()
    rows = events.group_by(pl.all()).len()
    bought = events.filter(pl.col("kind") == "purchase").select(pl.col("item_id").n_unique().alias("bought"))
    by_item = events.group_by("item_id").agg(pl.col("time").min().alias("first"))
    span = events.select(first=pl.col("time").min(), last=pl.col("time").max(), events=pl.len())
    kinds = events.group_by("kind").len()
    frames = [
        span,
        by_user.select(users=pl.len(), few=(pl.col("events") < 3).sum(), most=pl.col("events").max()),
        pairs.select(pairs=pl.len()),
        rows.select(rows=pl.len()),
        bought,
        by_item.select(items_with_events=pl.len()),
        kinds,
        unknown.select(unknown=pl.len(), ids=pl.col("item_id").n_unique()),
    ]
    found = pl.collect_all(frames, engine="streaming")
    return {"items": items.height, "counts": [frame.to_dicts() for frame in found]}


main()
