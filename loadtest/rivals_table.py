"""The tables of all shops that `loadtest/rivals.sh` has run, as Markdown.

    python3 loadtest/rivals_table.py WORK > rivals.md

Needs nothing but Python. Each run is WORK/SHOP.RETRIEVER.{report,lambdamart}.json; a run without LambdaMART shows dashes.
"""

import json
import pathlib
import sys

TASKS = ["first_purchase", "next_basket"]
BEYOND = ["coverage", "gini", "novelty", "similarity", "repeats", "calibration"]


def number(value, digits=4):
    return "–" if value is None else f"{value:.{digits}f}"


def mean(of):
    return of and of.get("mean")


def interval(of):
    if not of or of.get("mean") is None:
        return "–"
    return "{mean:+.4f} [{low:+.4f}, {high:+.4f}]".format(**of)


def table(head, rows):
    names = "| " + " | ".join(head) + " |"
    return "\n".join([names, "|" + "---|" * len(head)] + ["| " + " | ".join(row) + " |" for row in rows])


def runs(work):
    """(shop, retriever, task, the table of all cases, LambdaMART's figures) of each run."""
    for path in sorted(work.glob("*.report.json"), key=lambda path: path.stat().st_mtime):
        shop, retriever = path.name.removesuffix(".report.json").split(".")
        report = json.loads(path.read_text())
        peer = path.with_name(f"{shop}.{retriever}.lambdamart.json")
        peer = json.loads(peer.read_text()) if peer.exists() else {"tasks": {}}
        for task in TASKS:
            slices = report.get(task) or {}
            if slices.get("all", {}).get("cases"):
                yield shop, retriever, task.replace("_", " "), slices, peer["tasks"].get(task)


def main():
    work = pathlib.Path(sys.argv[1])
    orders, gains, beyond, split, slices_of = [], [], [], [], []
    for shop, retriever, task, slices, peer in runs(work):
        of = slices["all"]
        name, row = [shop, retriever, task], of["figures"]["ndcg@10"]
        trees = peer and peer["figures"]["lambdamart"]["ndcg@10"]
        orders.append(name + [
            str(of["cases"]), number(of["ceiling"], 3), number(mean(row["given"])),
            f"{number(mean(row.get('best_rule')))} ({of.get('best_rule')})",
            number(mean(row["scored"])), number(trees)])
        gains.append(name + [
            interval(row["gain"]), interval((row.get("over_best_rule") or {}).get("scored")),
            interval(peer and peer["scored_minus"]["lambdamart"]["ndcg@10"])])
        for ranker, figures in (of.get("beyond_accuracy@10") or {}).items():
            beyond.append(name + [ranker] + [number(figures.get(figure)) for figure in BEYOND])
        if row.get("split"):
            split.append(name[:2] + [interval(row["gain"]), interval(row["split"]["repeats_first"]),
                                     interval(row["split"]["rest"]["scored"])])
        for slice_name in ("cold_shoppers", "cold_items"):
            cold = slices.get(slice_name) or {}
            figures = (cold.get("figures") or {}).get("ndcg@10")
            if figures:
                slices_of.append(name + [slice_name.replace("_", " "), str(cold["cases"]),
                                         number(mean(figures["given"])),
                                         number(mean(figures.get("best_rule"))),
                                         number(mean(figures["scored"])), interval(figures["gain"])])
    who = ["shop", "retriever", "task"]
    print("## NDCG@10 of each order\n")
    print(table(who + ["cases", "ceiling of Recall@10", "given", "best rule (chosen on validation)", "scored",
                       "LambdaMART"], orders))
    print("\n## What the scored order gains, with paired 95 % intervals\n")
    print(table(who + ["scored − given", "scored − best rule", "scored − LambdaMART"], gains))
    print("\n## Next baskets: what moving repeats first gives, and the rest\n")
    print(table(who[:2] + ["scored − given", "bought before first − given", "scored − bought before first"], split))
    print("\n## Beyond accuracy, of the first ten\n")
    print(table(who + ["order"] + BEYOND, beyond))
    print("\n## Cold shoppers and cold items\n")
    print(table(who + ["slice", "cases", "given", "best rule", "scored", "scored − given"], slices_of))


if __name__ == "__main__":
    main()
