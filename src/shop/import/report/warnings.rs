//! What is likely wrong with a shop that could be read.

use super::ImportReport;
use super::page::{grouped, share};
use crate::shop::import::event_records::EventRecords;
use crate::shop::import::id::FloatIds;
use crate::shop::import::{ImportSpec, ShopItem};

/// Ids below which a common ending is no sign.
const IDS_MIN: usize = 3;
/// The share of the events of one user from which a log is rather a test's or a robot's.
const TOP_USER_SHARE: f64 = 0.5;
/// Users below which one of them always has much.
const USERS_MIN: usize = 3;
/// The share of rows that are left out from which it is worth a warning.
const REJECTED_SHARE: f64 = 0.1;
/// The share of users with few events from which personal orders can't be learned for most.
const FEW_EVENTS_SHARE: f64 = 0.9;
/// The share of exact duplicates from which a file was likely joined to itself.
const DUPLICATES_SHARE: f64 = 0.01;

/// The warnings of an import.
pub(super) fn warnings(
    report: &ImportReport,
    spec: &ImportSpec,
    items: &[ShopItem],
    log: &EventRecords,
) -> Vec<String> {
    let ids = float_ids(report, items, log);
    let rest = [rows_left_out, one_user, few_events, duplicates, kinds, only_dates];
    let rest = rest.into_iter().filter_map(|warning| warning(report));
    let span = report.span.iter().flat_map(|span| &span.warnings).map(ToString::to_string);
    span.chain(ids).chain(titles(report, spec)).chain(rest).collect()
}

fn float_ids(report: &ImportReport, items: &[ShopItem], log: &EventRecords) -> Vec<String> {
    let (mut of_users, mut of_items) = (FloatIds::default(), FloatIds::default());
    for user in 0..report.users as u32 {
        of_users.add(log.user(user));
    }
    for item in items {
        of_items.add(item.id.as_str());
    }
    let ids = [("user_id", report.users, of_users), ("item_id", items.len(), of_items)];
    let are_many = ids.into_iter().filter(|(_, count, _)| *count >= IDS_MIN);
    are_many.filter_map(|(column, _, ids)| ids.warning(column)).collect()
}

fn titles(report: &ImportReport, spec: &ImportSpec) -> Vec<String> {
    let (catalog, mut found) = (&report.catalog, Vec::new());
    if catalog.without_title > 0 {
        let (count, of) = (catalog.without_title as u64, report.items as u64);
        found.push(format!(
            "{} of {} items have no title: models read titles",
            grouped(count),
            grouped(of)
        ));
    }
    if report.items > 0 && catalog.title_only == report.items {
        let ignored = report.tables.first().map(|table| table.ignored.join(", "));
        let ignored = ignored.filter(|columns| spec.attributes.is_empty() && !columns.is_empty());
        let hint = ignored.map_or_else(String::new, |columns| {
            format!(
                "; if some of these columns describe items, take them with `--attributes`: {columns}"
            )
        });
        found.push(format!(
            "no item has a category or an attribute: reasons can only come from titles and from what buyers did{hint}"
        ));
    }
    found
}

fn rows_left_out(report: &ImportReport) -> Option<String> {
    let rows: u64 = report.tables.iter().map(|table| table.rows).sum();
    let rejected: u64 = report.tables.iter().map(|table| table.rejected).sum();
    let is_much = rejected as f64 > rows as f64 * REJECTED_SHARE;
    is_much.then(|| {
        format!(
            "{} of all rows are wrong: what is left may be no fair sample",
            share(rejected, rows)
        )
    })
}

fn one_user(report: &ImportReport) -> Option<String> {
    let (user, events) = report.log.top_user.as_ref()?;
    let is_much =
        report.users >= USERS_MIN && *events as f64 >= report.events as f64 * TOP_USER_SHARE;
    is_much.then(|| {
        let share = share(*events as u64, report.events as u64);
        format!("user {user:?} has {share} of all events: is it a default, a test or a robot?")
    })
}

fn few_events(report: &ImportReport) -> Option<String> {
    let few = report.log.users_with_few_events;
    let is_much = few as f64 >= report.users as f64 * FEW_EVENTS_SHARE && few > 0;
    is_much.then(|| {
        let share = share(few as u64, report.users as u64);
        format!(
            "{share} of users have fewer than three events: there is little to learn about each"
        )
    })
}

fn duplicates(report: &ImportReport) -> Option<String> {
    let count = report.log.exact_duplicates;
    let is_much = count as f64 >= report.events as f64 * DUPLICATES_SHARE && count > 0;
    is_much.then(|| {
        let share = share(count, report.events as u64);
        format!(
            "{share} of events are exact duplicates of others: was a file exported or joined twice?"
        )
    })
}

fn kinds(report: &ImportReport) -> Option<String> {
    let (kind, _) = report.log.kinds.first_key_value()?;
    let is_single = report.log.kinds.len() == 1 && report.events > 1;
    let is_given = !report.tables.iter().any(|t| t.missing.iter().any(|name| name == "kind"));
    is_single.then(|| {
        if is_given {
            format!("every event is of the kind {kind}")
        } else {
            format!("there is no column `kind`: every event counts as a {kind}")
        }
    })
}

fn only_dates(report: &ImportReport) -> Option<String> {
    (report.log.only_dates && report.events > 1).then(|| {
        "every time is at midnight: days are the finest time, and events of one day keep the order of the file".into()
    })
}
