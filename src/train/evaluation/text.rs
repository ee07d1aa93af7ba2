//! The report as text for people.

use super::judged::{FIGURES, SLICES, gain_of};
use super::{BEST_RULE, GIVEN, TASKS};
use crate::reranker::RUNGS;
use crate::train::cases::PredictionTask;
use serde_json::Value;
use std::fmt::Write as _;

/// The figure of the report's first sentence.
const MAIN_FIGURE: &str = "ndcg@10";
/// The columns of what an order does beside hitting: the key in the report, and the heading.
const BEYOND: [(&str, &str); 6] = [
    ("coverage", "coverage"),
    ("gini", "Gini"),
    ("novelty", "novelty"),
    ("similarity", "similarity"),
    ("repeats", "repeats"),
    ("calibration", "calibration"),
];
/// Stands where there is no figure.
const NOTHING: &str = "–";
/// Marks the rule that was best on validation.
const BEST_MARK: &str = " *";

/// What is left beside the best plain rule, in a sentence.
pub fn summary(report: &Value) -> String {
    let judged = |task: &&PredictionTask| report[task.as_str()]["all"]["figures"].get(MAIN_FIGURE);
    let tasks: Vec<_> = TASKS.iter().filter(|task| judged(task).is_some()).collect();
    if tasks.is_empty() {
        return "The test time holds no slate to judge.".into();
    }
    let parts: Vec<String> = tasks.into_iter().map(|&task| left(report, task)).collect();
    format!("What is left beside the best plain rule, NDCG@10: {}.", parts.join("; "))
}

/// What is left in one task.
fn left(report: &Value, task: PredictionTask) -> String {
    let slice = &report[task.as_str()]["all"];
    let tasks = match task {
        PredictionTask::FirstPurchase => "first purchases",
        PredictionTask::NextBasket => "next baskets",
    };
    let top = text(&slice["top_rung"]);
    let gain = &slice["figures"][MAIN_FIGURE]["over_best_rule"][top];
    if gain.is_null() {
        return format!("on {tasks}, no validation slate could choose a rule");
    }
    let clear = if clear_of_zero(gain) { "" } else { ", not clear of zero," };
    format!("{top} {}{clear} over {} on {tasks}", with_interval(gain), text(&slice[BEST_RULE]))
}

/// The report as lines of tables, for people: one block for each task and slice.
pub fn table(report: &Value) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{}", text(&report["summary"]));
    for task in TASKS {
        for (slice, _) in SLICES {
            if let Some(of) = report[task.as_str()].get(slice) {
                block(&mut out, task.as_str(), slice, of);
            }
        }
    }
    out
}

/// The block of one task and slice.
fn block(out: &mut String, task: &str, name: &str, slice: &Value) {
    let _ = writeln!(
        out,
        "\n{}, {}: {} {}, ceiling of Recall@10 {:.3}, order kept {:.1} %",
        task.replace('_', " "),
        name.replace('_', " "),
        slice["cases"],
        if slice["cases"] == 1 { "case" } else { "cases" },
        number(&slice["ceiling"]),
        100.0 * number(&slice["order_kept"]),
    );
    if slice["cases"] == 0 {
        return;
    }
    aligned(out, &figures(slice));
    aligned(out, &gains(slice));
    aligned(out, &splits(slice));
    aligned(out, &beyond(slice));
    for (rule, of) in slice["whole_catalogue"].as_object().into_iter().flatten() {
        let _ = writeln!(
            out,
            "  {} over the whole catalogue, not the slate: recall@10 {}, ndcg@10 {}",
            rule.replace('_', " "),
            plain(&of["recall@10"]),
            plain(&of["ndcg@10"]),
        );
    }
}

/// The rungs of a slice, lowest first.
fn rungs(slice: &Value) -> Vec<String> {
    let over = &slice["figures"][MAIN_FIGURE]["over_given"];
    let named = RUNGS.iter().map(|rung| rung.name().to_owned());
    named.filter(|name| over.get(name).is_some()).collect()
}

/// A row for each order: the order given, rules, rungs, and orders that are no rung's.
fn figures(slice: &Value) -> Vec<Vec<String>> {
    let of = |figure: &str| &slice["figures"][figure];
    let best = text(&slice[BEST_RULE]);
    let rules = of(MAIN_FIGURE)["rules"].as_object().into_iter().flatten();
    let rules = rules.map(|(name, _)| (name.clone(), true));
    let rungs = rungs(slice);
    let is_part = |name: &String| {
        let own = [GIVEN, BEST_RULE, "gain", "relative"].contains(&name.as_str());
        !own && !name.ends_with("_gain") && !rungs.contains(name)
    };
    let named = of(MAIN_FIGURE).as_object().into_iter().flatten();
    let parts = named.filter(|(_, value)| value["mean"].is_number()).map(|(name, _)| name.clone());
    let parts: Vec<String> = parts.filter(is_part).collect();
    let orders = std::iter::once((GIVEN.to_owned(), false))
        .chain(rules)
        .chain(rungs.iter().cloned().chain(parts).map(|name| (name, false)));
    let heading = std::iter::once("order").chain(FIGURES.iter().map(|(name, _)| *name));
    let mut rows = vec![heading.map(str::to_owned).collect::<Vec<_>>()];
    for (name, is_rule) in orders {
        let mark = if is_rule && name == best { BEST_MARK } else { "" };
        let mut row = vec![format!("{name}{mark}")];
        row.extend(FIGURES.iter().map(|(figure, _)| {
            let of = of(figure);
            let of = if is_rule { &of["rules"][&name] } else { &of[&name] };
            plain(&of["mean"])
        }));
        rows.push(row);
    }
    if !best.is_empty() {
        rows[0][0].push_str(" (* the best rule on validation)");
    }
    rows
}

/// A row for each figure: what each rung gains over the order given, the best rule and the rung below.
fn gains(slice: &Value) -> Vec<Vec<String>> {
    let rungs = rungs(slice);
    let mut heading = vec!["gain, 95 % interval".to_owned()];
    let mut keys: Vec<[&str; 2]> = Vec::new();
    for (at, rung) in rungs.iter().enumerate() {
        for (below, over) in [(GIVEN, "over_given"), ("best rule", "over_best_rule")] {
            if !slice["figures"][MAIN_FIGURE][over].is_null() {
                heading.push(format!("{rung} − {below}"));
                keys.push([over, rung]);
            }
        }
        if at > 0 {
            heading.push(format!("{rung} − {}", rungs[at - 1]));
            keys.push(["", rung]);
        }
    }
    let mut rows = vec![heading];
    for (name, _) in FIGURES {
        let of = &slice["figures"][name];
        let cells = keys.iter().map(|[over, rung]| match *over {
            "" => with_interval(&of[gain_of(rung)]),
            over => with_interval(&of[over][rung]),
        });
        rows.push(std::iter::once(name.to_owned()).chain(cells).collect());
    }
    rows
}

/// What moving repeats first gives, and what the top rung gives beyond that. Only next baskets have it.
fn splits(slice: &Value) -> Vec<Vec<String>> {
    let top = text(&slice["top_rung"]);
    let split = |figure: &str| &slice["figures"][figure]["split"];
    if split(MAIN_FIGURE).is_null() {
        return Vec::new();
    }
    let heading = ["gain, split", "items bought before first"].map(str::to_owned);
    let rest = format!("the rest, up to {top}");
    let mut rows = vec![heading.into_iter().chain([rest]).collect::<Vec<_>>()];
    rows.extend(FIGURES.iter().map(|(name, _)| {
        let split = split(name);
        let gains = [&split["repeats_first"], &split["rest"][top]].map(with_interval);
        std::iter::once((*name).to_owned()).chain(gains).collect()
    }));
    rows
}

/// A row for each order that is measured beyond accuracy.
fn beyond(slice: &Value) -> Vec<Vec<String>> {
    let of = &slice["beyond_accuracy@10"];
    let orders = [GIVEN.to_owned(), BEST_RULE.to_owned()].into_iter().chain(rungs(slice));
    let heading = std::iter::once("first ten").chain(BEYOND.iter().map(|(_, heading)| *heading));
    let mut rows = vec![heading.map(str::to_owned).collect::<Vec<_>>()];
    for name in orders.filter(|name| of.get(name).is_some()) {
        let cells = BEYOND.iter().map(|(key, _)| plain(&of[&name][key]));
        rows.push(std::iter::once(name.replace('_', " ")).chain(cells).collect());
    }
    rows
}

/// Writes rows with their columns aligned: the first to the left, the others to the right.
fn aligned(out: &mut String, rows: &[Vec<String>]) {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    for row in rows {
        let _ = write!(out, "  {:<1$}", row[0], widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            let _ = write!(out, "  {cell:>width$}");
        }
        out.push('\n');
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

/// A figure with four digits, or a dash.
fn plain(value: &Value) -> String {
    value.as_f64().map_or_else(|| NOTHING.into(), |value| format!("{:.4}", four_digits(value)))
}

/// A gain with its interval, or a dash.
fn with_interval(gain: &Value) -> String {
    let [mean, low, high] = ["mean", "low", "high"].map(|end| gain[end].as_f64());
    match (mean, low, high) {
        (Some(mean), Some(low), Some(high)) => {
            let [mean, low, high] = [mean, low, high].map(four_digits);
            format!("{mean:+.4} [{low:+.4}, {high:+.4}]")
        }
        _ => NOTHING.into(),
    }
}

/// To four digits. Never a negative zero, which would be printed with a minus.
fn four_digits(value: f64) -> f64 {
    (value * 1e4).round() / 1e4 + 0.0
}

fn clear_of_zero(gain: &Value) -> bool {
    number(&gain["low"]) > 0.0 || number(&gain["high"]) < 0.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A report with one slice of one task.
    fn report(over_best: &Value, best: Option<&str>) -> Value {
        let mean = |mean: f64| json!({ "mean": mean, "low": mean - 0.01, "high": mean + 0.01 });
        let gain = json!({ "mean": -0.00001, "low": -0.00002, "high": 0.3 });
        let mut figures = json!({});
        for (name, _) in FIGURES {
            figures[name] = json!({
                "given": mean(0.1), "scored": mean(0.3), "gain": gain, "relative": Value::Null,
                "without_rechead": mean(0.25),
                "rules": { "popular_7d": mean(0.2), "own_favourites_and_place": mean(0.15) },
                "over_given": { "scored": gain },
            });
            if best.is_some() {
                figures[name]["best_rule"] = mean(0.2);
                figures[name]["over_best_rule"] = json!({ "scored": over_best });
            }
        }
        let beyond = json!({
            "coverage": 0.5, "gini": 0.25, "novelty": 3.0, "similarity": -0.0, "repeats": 0.125,
            "calibration": Value::Null,
        });
        let slice = json!({
            "cases": 20, "ceiling": 0.5, "order_kept": 0.1, "top_rung": "scored",
            "best_rule": best, "figures": figures, "beyond_accuracy@10": { "given": beyond },
            "whole_catalogue": { "popularity": { "recall@10": 0.5, "ndcg@10": -0.0 } },
        });
        let empty = json!({ "cases": 0, "ceiling": 0.0, "order_kept": 0.0, "figures": {} });
        let mut report = json!({ "next_basket": { "all": slice, "cold_items": empty } });
        report["summary"] = summary(&report).into();
        report
    }

    #[test]
    fn the_first_sentence_says_what_is_left() {
        let gain = |low: f64| json!({ "mean": 0.02, "low": low, "high": 0.03 });
        let begin = "What is left beside the best plain rule, NDCG@10:";
        let table = [
            (
                report(&gain(0.01), Some("popular_7d")),
                "scored +0.0200 [+0.0100, +0.0300] over popular_7d on next baskets.",
            ),
            (
                report(&gain(-0.01), Some("popular_7d")),
                "scored +0.0200 [-0.0100, +0.0300], not clear of zero, over popular_7d on next baskets.",
            ),
            (
                report(&Value::Null, None),
                "on next baskets, no validation slate could choose a rule.",
            ),
        ];
        for (report, expected) in table {
            assert_eq!(summary(&report), format!("{begin} {expected}"));
        }
        assert_eq!(summary(&json!({})), "The test time holds no slate to judge.");
    }

    #[test]
    fn a_table_is_aligned_and_has_no_negative_zero() {
        let gain = json!({ "mean": 0.02, "low": 0.01, "high": 0.03 });
        let text = table(&report(&gain, Some("popular_7d")));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("What is left"), "{text}");
        assert!(!text.contains("-0.0000") && !text.contains("NaN"), "{text}");
        let row = |start: &str| {
            let found = lines.iter().find(|line| line.trim_start().starts_with(start));
            *found.unwrap_or_else(|| panic!("no {start:?} in {text}"))
        };
        let width = |start: &str| row(start).chars().count();
        let orders = [
            "order ",
            "given ",
            "popular_7d *",
            "own_favourites_and_place ",
            "scored ",
            "without_rechead ",
        ];
        assert!(orders.iter().all(|order| width(order) == width("order ")), "{text}");
        assert!(row("ndcg@10 ").contains("+0.0000 [+0.0000, +0.3000]"), "{text}");
        assert!(row("ndcg@10 ").ends_with("+0.0200 [+0.0100, +0.0300]"), "{text}");
        assert!(row("first ten").ends_with("calibration"), "{text}");
        assert!(row("next basket, cold items: 0 cases").contains("order kept"), "{text}");
        assert!(
            text.contains("popularity over the whole catalogue, not the slate: recall@10 0.5000")
        );
    }
}
