//! The report as a page.

use super::{ImportReport, TableReport};
use crate::domain::Timestamp;
use crate::shop::import::rejects::{Reject, RejectReason};
use std::fmt::{self, Display, Formatter};

/// Columns of a file that are listed by name.
const COLUMNS_SHOWN_MAX: usize = 40;
/// The width of the names of counts.
const NAME_WIDTH: usize = 11;
/// The width of counts.
const COUNT_WIDTH: usize = 13;

/// A count with its name, and words about it.
struct Line<'a>(&'a str, u64, String);

// === impl ImportReport ===

impl Display for ImportReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.span {
            Some(span) => writeln!(f, "{span}")?,
            None => writeln!(f, "no event was read")?,
        }
        for table in &self.tables {
            writeln!(f)?;
            write_table(f, table)?;
        }
        writeln!(f)?;
        for line in self.lines() {
            let Line(name, count, words) = line;
            let line = format!("{name:NAME_WIDTH$}{:>COUNT_WIDTH$}  {words}", grouped(count));
            writeln!(f, "{}", line.trim_end())?;
        }
        if !self.warnings.is_empty() {
            writeln!(f)?;
        }
        self.warnings.iter().try_for_each(|warning| writeln!(f, "warning: {warning}"))
    }
}

impl ImportReport {
    fn lines(&self) -> Vec<Line<'_>> {
        let (log, catalog) = (&self.log, &self.catalog);
        let [items, users, events] = [self.items, self.users, self.events].map(|n| n as u64);
        let of_users = share(log.users_with_few_events as u64, users);
        let mut kinds: Vec<_> =
            log.kinds.iter().map(|(kind, count)| format!("{} {kind}", grouped(*count))).collect();
        if kinds.is_empty() {
            kinds.push("none".to_owned());
        }
        let cold = match log.training_end {
            Some(end) => format!(
                "items, and {}, without an event in the first 80 % of the span, before {}",
                counted(log.cold_users as u64, "user"),
                date(end)
            ),
            None => "items".to_owned(),
        };
        let lacking = [
            ("category", catalog.without_category),
            ("attributes", catalog.without_attributes),
            ("description", catalog.without_description),
            ("price", catalog.without_price),
        ]
        .map(|(name, count)| format!("{name} in {}", grouped(count as u64)));
        let (no_quantity, no_price) = (grouped(log.without_quantity), grouped(log.without_price));
        let mut lines = vec![
            Line(
                "users",
                users,
                format!(
                    "{of_users} with fewer than three events ({})",
                    grouped(log.users_with_few_events as u64)
                ),
            ),
            Line(
                "items",
                items,
                format!(
                    "{} never bought, {} without any event; missing: {}",
                    grouped(log.items_never_bought as u64),
                    grouped(log.items_without_events as u64),
                    lacking.join(", ")
                ),
            ),
            Line(
                "events",
                events,
                format!(
                    "{}; missing: quantity in {no_quantity}, price in {no_price}",
                    kinds.join(", ")
                ),
            ),
            Line("baskets", self.baskets.into(), String::new()),
            Line(
                "repeats",
                log.repeats,
                format!("the same user and item again: {} of events", share(log.repeats, events)),
            ),
            Line(
                "duplicates",
                log.exact_duplicates,
                "equal to an earlier event in every column".into(),
            ),
            Line("cold", log.cold_items as u64, cold),
        ];
        if self.unknown_items.events > 0 {
            let more = if self.unknown_items.more { "more than " } else { "" };
            lines.push(Line(
                "unknown",
                self.unknown_items.events,
                format!(
                    "events of {more}{} that the table of items does not have",
                    counted(self.unknown_items.ids as u64, "id")
                ),
            ));
        }
        lines
    }
}

fn write_table(f: &mut Formatter<'_>, table: &TableReport) -> fmt::Result {
    writeln!(
        f,
        "{}: {}\n  {} read, {} kept, {} rejected",
        table.table,
        table.file.display(),
        counted(table.rows, "row"),
        grouped(table.kept),
        grouped(table.rejected)
    )?;
    for reason in &table.reasons.reasons {
        write_reason(f, table, reason)?;
    }
    if table.reasons.further_rows > 0 {
        writeln!(f, "    {} for further reasons", counted(table.reasons.further_rows, "row"))?;
    }
    let columns = table.columns.iter().map(|column| {
        if column.ours == column.theirs {
            column.ours.clone()
        } else {
            format!("{} ← {}", column.ours, column.theirs)
        }
    });
    write_columns(f, "columns read", columns.collect())?;
    write_columns(f, "columns ignored", table.ignored.clone())?;
    write_columns(f, "columns missing", table.missing.clone())
}

fn write_reason(f: &mut Formatter<'_>, table: &TableReport, reason: &RejectReason) -> fmt::Result {
    let column = reason.column.as_ref().map_or_else(String::new, |column| format!("{column}: "));
    writeln!(f, "    {}: {column}expected {}", counted(reason.rows, "row"), reason.expected)?;
    let is_folder = reason.examples.iter().any(|e| e.file != table.file);
    let place = |example: &Reject| {
        if is_folder {
            format!("{}:{}", example.file.display(), example.line)
        } else {
            format!("line {}", example.line)
        }
    };
    let examples = reason
        .examples
        .iter()
        .map(|e| format!("{} has {:?}", place(e), e.value))
        .collect::<Vec<_>>();
    writeln!(f, "      {}", examples.join("; "))
}

fn write_columns(f: &mut Formatter<'_>, name: &str, mut columns: Vec<String>) -> fmt::Result {
    if columns.is_empty() {
        return Ok(());
    }
    let further = columns.len().saturating_sub(COLUMNS_SHOWN_MAX);
    columns.truncate(COLUMNS_SHOWN_MAX);
    let further = if further > 0 { format!(", and {further} more") } else { String::new() };
    writeln!(f, "  {name}: {}{further}", columns.join(", "))
}

/// The date of a time.
fn date(time: Timestamp) -> String {
    match jiff::Timestamp::from_second(time) {
        Ok(time) => time.strftime("%Y-%m-%d").to_string(),
        Err(_) => format!("{time} s"),
    }
}

/// A count with commas between thousands.
pub(super) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count and what is counted.
pub(super) fn counted(count: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// A share in percent. It is 0 % or 100 % only if it is none or all.
pub(super) fn share(part: u64, of: u64) -> String {
    let percent = part as f64 / of.max(1) as f64 * 100.0;
    match (part, of - part.min(of)) {
        (0, _) => "0 %".into(),
        (_, 0) => "100 %".into(),
        _ if percent < 0.1 => "under 0.1 %".into(),
        _ if percent > 99.9 => "over 99.9 %".into(),
        _ if percent < 10.0 => format!("{percent:.1} %"),
        _ => format!("{percent:.0} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_shares_are_shown_as_people_write_them() {
        for (count, shown) in [
            (0, "0 rows"),
            (1, "1 row"),
            (999, "999 rows"),
            (1_000, "1,000 rows"),
            (12_345_678, "12,345,678 rows"),
        ] {
            assert_eq!(counted(count, "row"), shown);
        }
        for (part, of, shown) in [
            (0, 0, "0 %"),
            (0, 5, "0 %"),
            (5, 5, "100 %"),
            (1, 10_000, "under 0.1 %"),
            (9_999, 10_000, "over 99.9 %"),
            (1, 40, "2.5 %"),
            (1, 3, "33 %"),
        ] {
            assert_eq!(share(part, of), shown, "{part} of {of}");
        }
    }
}
