"""LambdaMART (LightGBM's lambdarank) on the scorer's own features and the place in the order given.

Called by run.sh. Needs: lightgbm, numpy, safetensors.

Training slates are cut to the size of the evaluated ones. With the settings "usual" on Amazon Beauty, whole ones of
twice that size gave .0564/.0398 on test and cut ones .0603/.0439. Test figures were seen when that was decided;
validation said the same.

The examples, the validation cases and the test cases are those of `raisonne export --features`; the
scored orders are those of `raisonne eval --cases` for the same test cases. Everything is chosen by
NDCG@10 on the validation cases, as the mean over the tasks: the number of trees (early stopping),
the settings of the trees (GRID), whether the trees see the place, whether one model serves both
tasks or each has its own, and the weight of `ln(place)` that is taken off the trees' scores
(WEIGHTS; 0 is among them). All that is tried learns from the first training slates
(`--tried-slates-max`), and what is chosen once more from all of them (`--slates-max`); validation says
which of the two is kept. Then the test cases are measured once.

Where the examples hold slates of the evaluated ranker itself (`given`), one model with the setting `--quick` (or
"usual") learns from the training slates, from the given ones, or from both, as validation says. Then it learns once
more from those and the validation slates, with the number of trees and the weight that were chosen.
"""

import argparse
import json
import pathlib
import time

import lightgbm
import numpy as np
from safetensors import safe_open

TASKS = ["first_purchase", "next_basket"]
CUT = 10
WEIGHTS = [0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.5, 4.0, 7.0, 12.0]
GRID = {
    "small": dict(num_leaves=7, min_data_in_leaf=200, learning_rate=0.1),
    "medium": dict(num_leaves=15, min_data_in_leaf=100, learning_rate=0.05),
    "usual": dict(num_leaves=31, min_data_in_leaf=100, learning_rate=0.05),
    "large": dict(num_leaves=63, min_data_in_leaf=50, learning_rate=0.05),
    "careful": dict(num_leaves=15, min_data_in_leaf=1000, learning_rate=0.05),
}
COMMON = dict(
    objective="lambdarank", metric="None", lambdarank_truncation_level=20, feature_fraction=0.8,
    bagging_fraction=0.8, bagging_freq=1, lambda_l2=1.0, feature_pre_filter=False, verbosity=-1,
    deterministic=True, force_row_wise=True,
)
DISCOUNTS = 1 / np.log2(np.arange(2, CUT + 2))
IDEAL = np.concatenate([[0.0], np.cumsum(DISCOUNTS)])


class Cases:
    """Cases of one split: rows of candidates, padded with item 0."""

    def __init__(self, file, name):
        column = lambda of: file.get_tensor(f"{name}/{of}")
        self.features = column("features")
        self.slate, self.taken = column("slate"), column("taken")
        self.place = column("place").astype(np.float32)
        self.relevant, self.user = column("relevant").astype(int), column("user")
        self.task, self.time = column("task"), column("time")

    def __len__(self):
        return len(self.slate)

    def where(self, mask):
        chosen = object.__new__(Cases)
        for name, column in vars(self).items():
            setattr(chosen, name, column[mask])
        return chosen

    def cut_to(self, size):
        """The first `size` candidates of each slate."""
        for name in ("slate", "taken", "place", "features"):
            setattr(self, name, getattr(self, name)[:, :size])
        return self

    def joined(self, other):
        """These cases and others, with slates as wide as the wider ones."""
        size = max(self.slate.shape[1], other.slate.shape[1])
        both = object.__new__(Cases)
        for name, own in vars(self).items():
            parts = [own, getattr(other, name)]
            if own.ndim > 1:
                parts = [np.pad(part, [(0, 0), (0, size - part.shape[1])] + [(0, 0)] * (part.ndim - 2))
                         for part in parts]
            setattr(both, name, np.concatenate(parts))
        return both

    def with_hits(self):
        """Only a slate that holds an item that was bought has an order that matters."""
        return self.where(self.taken.any(1))

    def rows(self, with_place):
        """(candidates, features), without the padding."""
        known = self.slate > 0
        task = np.broadcast_to(self.task[:, None], self.slate.shape)[known].astype(np.float32)
        extra = [task] + ([self.place[known]] if with_place else [])
        return np.column_stack([self.features[known], *extra])

    def labels(self):
        return self.taken[self.slate > 0]

    def groups(self):
        return (self.slate > 0).sum(1)

    def padded(self, scores):
        """Scores of the rows as (cases, candidates), the padding last."""
        wide = np.full(self.slate.shape, -np.inf)
        wide[self.slate > 0] = scores
        return wide

    def fused(self, scores, weight):
        return self.padded(scores) - weight * np.log(np.maximum(self.place, 1))

    def ndcg(self, wide):
        """NDCG@10 of each case, against the best order of the whole catalogue."""
        order = np.argsort(-wide, axis=1, kind="stable")[:, :CUT]
        hits = np.take_along_axis(self.taken, order, 1)
        return (hits * DISCOUNTS[:hits.shape[1]]).sum(1) / IDEAL[np.minimum(self.relevant, CUT)]


class Validation:
    """The validation cases of some tasks. The mean is over the tasks; cases without a hit count 0."""

    def __init__(self, by_task):
        self.counts = {task: len(cases) for task, cases in by_task.items()}
        self.cases = {task: cases.with_hits() for task, cases in by_task.items()}

    def ndcg(self, scores, weight=0.0):
        return float(np.mean(list(self.by_task(scores, weight).values())))

    def by_task(self, scores, weight):
        means, start = {}, 0
        for task, cases in self.cases.items():
            count = int(cases.groups().sum())
            of_task = cases.ndcg(cases.fused(scores[start:start + count], weight))
            means[task] = float(of_task.sum() / max(1, self.counts[task]))
            start += count
        return means

    def rows(self, with_place):
        return np.concatenate([cases.rows(with_place) for cases in self.cases.values()])

    def labels(self):
        return np.concatenate([cases.labels() for cases in self.cases.values()])

    def groups(self):
        return np.concatenate([cases.groups() for cases in self.cases.values()])

    def weight(self, scores):
        return max(WEIGHTS, key=lambda weight: self.ndcg(scores, weight))


class Trained:
    """A model, and how it does on validation with the best weight of the place."""

    def __init__(self, train, validation, settings, with_place, options):
        train_set = lightgbm.Dataset(train.rows(with_place), train.labels(), group=train.groups(),
                                     params=dict(COMMON), free_raw_data=True)
        rows = validation.rows(with_place)
        valid_set = lightgbm.Dataset(rows, validation.labels(), group=validation.groups(),
                                     reference=train_set)
        begun = time.time()
        self.model = lightgbm.train(
            COMMON | settings | dict(seed=options.seed, num_threads=options.threads), train_set,
            num_boost_round=options.trees_max, valid_sets=[valid_set],
            feval=lambda scores, _: ("ndcg", validation.ndcg(scores), True),
            callbacks=[lightgbm.early_stopping(options.patience, verbose=False)])
        self.with_place = with_place
        self.trees = self.model.best_iteration
        scores = self.model.predict(rows)
        self.weight = validation.weight(scores)
        self.alone = validation.ndcg(scores)
        self.validation_of = validation.by_task(scores, self.weight)
        self.ndcg = validation.ndcg(scores, self.weight)
        self.seconds = time.time() - begun

    def wide(self, cases):
        scores = self.model.predict(cases.rows(self.with_place))
        return cases.fused(scores, self.weight)

    def report(self):
        return dict(trees=self.trees, place=self.with_place, weight=self.weight,
                    validation_alone=round(self.alone, 5), validation=round(self.ndcg, 5),
                    seconds=round(self.seconds, 1))


class Refitted(Trained):
    """A chosen model once more, from the validation slates as well. What was chosen stays."""

    def __init__(self, chosen, slates, settings, options):
        self.weight, self.trees, self.with_place = chosen.weight, chosen.trees, True
        data = lightgbm.Dataset(slates.rows(True), slates.labels(), group=slates.groups())
        settings = COMMON | settings | dict(seed=options.seed, num_threads=options.threads)
        self.model = lightgbm.train(settings, data, num_boost_round=chosen.trees)


class Quick(Trained):
    """A model with one setting, whose number of trees is chosen among every 25th: for a busy machine."""

    def __init__(self, train, validation, settings, options):
        begun = time.time()
        rows = validation.rows(True)
        train_set = lightgbm.Dataset(train.rows(True), train.labels(), group=train.groups())
        settings = COMMON | settings | dict(seed=options.seed, num_threads=options.threads)
        self.model, self.with_place, self.ndcg = lightgbm.Booster(settings, train_set), True, -1.0
        for trees in range(1, options.trees_max + 1):
            self.model.update()
            if trees % 25 == 0:
                scores = self.model.predict(rows)
                weight = validation.weight(scores)
                ndcg = validation.ndcg(scores, weight)
                if ndcg > self.ndcg:
                    self.ndcg, self.weight, self.trees = ndcg, weight, trees
                    self.alone = validation.ndcg(scores)
                    self.validation_of = validation.by_task(scores, weight)
        self.seconds = time.time() - begun

    def wide(self, cases):
        scores = self.model.predict(cases.rows(True), num_iteration=self.trees)
        return cases.fused(scores, self.weight)


def quick(train, by_task, options):
    """One model for all tasks, with the setting `--quick`."""
    tasks = [task for task in TASKS if len(by_task[task])]
    name = options.quick
    made = Quick(train, Validation({task: by_task[task] for task in tasks}), GRID[name], options)
    print(f"  {name:<28} {json.dumps(made.report())}", flush=True)
    chosen = dict(grid=name, own_models=False, place=True, all_slates=True)
    return {task: made for task in tasks}, {name: made.report()}, chosen


def adapt(train, given, by_task, options):
    """One model for all tasks, adapted to the ranker whose slates are given."""
    tasks = [task for task in TASKS if len(by_task[task])]
    validation, settings = Validation({task: by_task[task] for task in tasks}), GRID[options.quick or "usual"]
    sets = dict(train=train, given=given, both=train.joined(given))
    tried = {name: Quick(slates, validation, settings, options) for name, slates in sets.items()}
    name = max(tried, key=lambda name: tried[name].ndcg)
    slates = sets[name]
    for task in tasks:
        slates = slates.joined(validation.cases[task])
    made = Refitted(tried[name], slates, settings, options)
    reports = {name: model.report() for name, model in tried.items()}
    print(json.dumps(reports), flush=True)
    return {task: made for task in tasks}, reports, dict(grid=options.quick or "usual", slates=name, place=True)


def tune(train, by_task, options):
    """The models of each task, chosen on validation, and all that was tried."""
    tried, tasks = {}, [task for task in TASKS if len(by_task[task])]
    validation = Validation({task: by_task[task] for task in tasks})

    def try_it(name, *arguments):
        made = Trained(*arguments, options)
        tried[name] = made.report()
        print(f"  {name:<28} {json.dumps(tried[name])}", flush=True)
        return made

    few = train.where(np.arange(len(train)) < options.tried_slates_max)
    joint = {name: try_it(f"{name}, both tasks", few, validation, settings, True)
             for name, settings in GRID.items()}
    name = max(joint, key=lambda name: joint[name].ndcg)
    best = joint[name]
    blind = try_it(f"{name}, both tasks, no place", few, validation, GRID[name], False)
    if blind.ndcg > best.ndcg:
        best = blind

    def each_its_own(slates, about):
        of_task = {task: slates.where(slates.task == TASKS.index(task)) for task in tasks}
        return {task: try_it(f"{name}, {task} alone{about}", of_task[task],
                             Validation({task: by_task[task]}), GRID[name], best.with_place)
                for task in tasks if len(tasks) > 1 and len(of_task[task])}

    chosen = [({task: best for task in tasks}, False)]
    own = each_its_own(few, "")
    if len(own) == len(tasks) and mean_ndcg(own) > best.ndcg:
        chosen = [(own, True)]
    if len(few) < len(train):
        if chosen[0][1]:
            chosen.append((each_its_own(train, ", all slates"), True))
        else:
            again = try_it(f"{name}, both tasks, all slates", train, validation, GRID[name], best.with_place)
            chosen.append(({task: again for task in tasks}, False))
    models, own_models = max(chosen, key=lambda of: mean_ndcg(of[0]))
    return models, tried, dict(grid=name, own_models=own_models, place=best.with_place,
                               all_slates=models is chosen[-1][0])


def mean_ndcg(models):
    return float(np.mean([model.validation_of[task] for task, model in models.items()]))


def ndcg(order, relevant):
    hits = [DISCOUNTS[at] for at, item in enumerate(order[:CUT]) if item in relevant]
    return sum(hits) / IDEAL[min(CUT, len(relevant))]


def recall(order, relevant, cut):
    return sum(item in relevant for item in order[:cut]) / min(cut, len(relevant))


FIGURES = {
    "ndcg@10": ndcg,
    "recall@5": lambda order, relevant: recall(order, relevant, 5),
    "recall@10": lambda order, relevant: recall(order, relevant, 10),
}


def interval(differences, resamples, seed):
    """The mean of paired differences with its 95 % percentile-bootstrap interval."""
    draw = np.random.default_rng(seed)
    means = [differences[draw.integers(0, len(differences), len(differences))].mean()
             for _ in range(resamples)]
    low, high = np.percentile(means, [2.5, 97.5])
    return dict(mean=round(float(differences.mean()), 5), low=round(float(low), 5),
                high=round(float(high), 5))


def read_cases(path):
    with open(path, encoding="utf-8") as lines:
        return {(case["task"], case["user"]): case for case in map(json.loads, lines)}


def add_orders(models, task, cases, names, results):
    """Adds the trees' order to the results of each case of a task."""
    items, users = names["items"], names["users"]
    order = np.argsort(-models[task].wide(cases), axis=1, kind="stable")
    found = []
    for row in range(len(cases)):
        result = results.get((task, users[cases.user[row] - 1]))
        if result is None:
            raise SystemExit(f"the cases lack {task}/{users[cases.user[row] - 1]}: were the results "
                             "and the examples made with the same recipe and data?")
        slate = [items[item - 1] for item in cases.slate[row] if item]
        if slate != result["given"]:
            raise SystemExit(f"{result['case']} has another slate in the results than in the examples")
        result["orders"]["lambdamart"] = [
            items[cases.slate[row, at] - 1] for at in order[row] if cases.slate[row, at]]
        found.append(result)
    return found


def measure(results, options):
    """The figures of every order, and the paired differences of the scored order to it."""
    orders = {"given": [result["given"] for result in results]}
    for name in results[0]["orders"]:
        if all(name in result["orders"] for result in results):
            orders[name] = [result["orders"][name] for result in results]
    relevant = [set(result["relevant"]) for result in results]
    each = {name: {figure: np.array([of(order, wanted) for order, wanted in zip(lists, relevant)])
                   for figure, of in FIGURES.items()} for name, lists in orders.items()}
    shown = {name: len({item for order in lists for item in order[:CUT]})
             for name, lists in orders.items()}
    ceiling = np.mean([min(CUT, sum(item in wanted for item in order)) / min(CUT, len(wanted))
                       for order, wanted in zip(orders["given"], relevant)])
    table = {name: {figure: round(float(values.mean()), 5) for figure, values in figures.items()}
             | {"items_shown@10": shown[name]} for name, figures in each.items()}
    gains = {name: {figure: interval(each["scored"][figure] - values, options.resamples, options.seed)
                    for figure, values in figures.items()}
             for name, figures in each.items() if name != "scored"} if "scored" in each else {}
    return dict(cases=len(results), ceiling=round(float(ceiling), 5), figures=table, scored_minus=gains,
                slices={name: of_slice(name, results, each, options) for name in ("cold_shoppers", "cold_items")})


def of_slice(name, results, each, options):
    """NDCG@10 of every order in a slice, and the paired differences of scored and LambdaMART."""
    inside = np.array([name in result.get("slices", []) for result in results])
    if not inside.any() or "scored" not in each:
        return dict(cases=int(inside.sum()))
    ndcg = {order: of["ndcg@10"][inside] for order, of in each.items()}
    return dict(cases=int(inside.sum()), ndcg={order: round(float(of.mean()), 5) for order, of in ndcg.items()},
                scored_minus_lambdamart=interval(ndcg["scored"] - ndcg["lambdamart"], options.resamples, options.seed))


def row(shop, task, of):
    """A row of the table: given, scored, LambdaMART, and scored less the other two."""
    mean = lambda name: f"{of['figures'][name]['ndcg@10']:.4f}"
    gain = lambda name: "{mean:+.4f} [{low:+.4f}, {high:+.4f}]".format(**of["scored_minus"][name]["ndcg@10"])
    return (f"| {shop} | {task.replace('_', ' ')} | {of['cases']} | {of['ceiling']:.3f} | {mean('given')} "
            f"| {mean('scored')} | {mean('lambdamart')} | {gain('given')} | {gain('lambdamart')} |")


def report(file, names, models, about, options):
    """Measures the test cases, and writes and prints what came out."""
    results, tasks = read_cases(options.cases), {}
    for task in models:
        cases = Cases(file, f"test/{task}")
        if len(cases):
            tasks[task] = measure(add_orders(models, task, cases, names, results), options)
    columns = names["features"] + ["task", "place"]
    importance = {task: sorted(zip(model.model.feature_importance("gain").tolist(), columns), reverse=True)
                  for task, model in models.items()}
    written = dict(shop=options.shop, **about, settings=GRID[about["chosen"]["grid"]], tasks=tasks,
                   importance={task: [name for _, name in best[:8]] for task, best in importance.items()})
    pathlib.Path(options.out).write_text(json.dumps(written, indent=1))
    if options.cases_out:
        lines = (json.dumps(result, ensure_ascii=False) for result in results.values())
        pathlib.Path(options.cases_out).write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n| shop | task | cases | ceiling | given | scored | LambdaMART | scored − given | scored − LambdaMART |")
    print("|---|---|--:|--:|--:|--:|--:|---|---|")
    for task, of in tasks.items():
        print(row(options.shop, task, of))


def options_of(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("examples", help="what `raisonne export --features` wrote")
    parser.add_argument("cases", help="what `raisonne eval --cases` wrote")
    parser.add_argument("--shop", default="shop", help="its name in the table")
    parser.add_argument("--out", default="lambdamart.json")
    parser.add_argument("--cases-out", help="the cases again, with the order `lambdamart`")
    parser.add_argument("--slates-max", type=int, default=20_000, help="training slates, at most")
    parser.add_argument("--tried-slates-max", type=int, default=6_000, help="of them, those that choose")
    parser.add_argument("--trees-max", type=int, default=1_000)
    parser.add_argument("--patience", type=int, default=50, help="trees without a better validation")
    parser.add_argument("--quick", choices=GRID, help="one model with this setting, instead of tuning")
    parser.add_argument("--resamples", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(arguments)


def main():
    options = options_of()
    with safe_open(options.examples, "np") as file:
        names = {name: json.loads(text) for name, text in file.metadata().items()}
        validate = {task: Cases(file, f"validate/{task}") for task in TASKS}
        size = max(cases.slate.shape[1] for cases in validate.values())
        train = Cases(file, "train").cut_to(size).with_hits()
        train = train.where(np.arange(len(train)) < options.slates_max)
        print(f"{options.shop}: {len(train)} training slates, "
              f"{[len(cases) for cases in validate.values()]} validation cases", flush=True)
        given = Cases(file, "given").with_hits() if "given/slate" in file.keys() else None
        if given is not None:
            models, tried, chosen = adapt(train, given, validate, options)
        else:
            models, tried, chosen = (quick if options.quick else tune)(train, validate, options)
        del train, validate
        report(file, names, models, dict(chosen=chosen, tried=tried), options)


if __name__ == "__main__":
    main()
