//! A slate as a prompt in words, for a language model without knowledge of the shop, and the parser of its reply.
//!
//! The task is GR2's (B4): the whole history and all candidates at once, three steps of thought, and only claims about
//! what the prompt says. A thought is accepted only if the candidate's card agrees, so the prompt quotes each card's
//! reasons.
//!
//! A reply is `<thought>…</thought><answer>B</answer>`. A reasoning model's `<think>` section before it is ignored.

use super::TeacherReply;
use super::question::SlateQuestion;
use crate::bundle::{HistoryEvent, month};
use crate::domain::EventKind;
use crate::evidence::MONTHS;
use crate::reranker::{EVENTS_MAX, Thought};
use crate::scorer::features::FeatureContext;
use crate::train::dataset::DAY_S;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// The most attributes of an item in the prompt.
const ATTRIBUTES_MAX: usize = 8;
/// The most reasons of a candidate in the prompt.
const REASONS_MAX: usize = 4;
/// The label of the first candidate. The others follow in the alphabet.
const FIRST_LABEL: u8 = b'A';
const THOUGHT: [&str; 2] = ["<thought>", "</thought>"];
const ANSWER: [&str; 2] = ["<answer>", "</answer>"];

const TASK: &str = "\
You know shoppers and what they take. You read what one shopper did in a shop, and a few products that \
it offers them now, and you pick the one that they take.
Think in three steps: what the shopper's things have in common; which products match or complete them; \
which one fits best, and why. Where a product has a line that begins with \"known:\", the shop has \
counted that.
QuestionOutcome with one line in exactly this form, and write nothing after it:
<thought>Likes VALUE and VALUE. TITLE goes with OTHER.</thought><answer>LABEL</answer>
VALUE is the value of an attribute that the shopper's things have; name two at most, or leave that \
sentence out. TITLE is the title of the product that you pick, and LABEL its letter. OTHER is the title \
of something in the history that a \"known:\" line of this product names. If none names one, the second \
sentence is \"TITLE is VALUE.\" instead, with a value that this product and the shopper's things share. \
Copy titles and values letter by letter, and claim nothing that is not written below.";

/// The chat messages of a question. `label` is the taken candidate, if the teacher is to explain it.
pub fn messages(question: &SlateQuestion<'_>, label: Option<u32>) -> Value {
    let content = slate(question, label);
    json!([
        { "role": "system", "content": TASK },
        { "role": "user", "content": content },
    ])
}

/// Parses a reply.
pub fn parse_reply(text: &str, question: &SlateQuestion<'_>) -> TeacherReply {
    let Some((before, label)) = last_between(text, ANSWER) else {
        return if text.trim().is_empty() {
            TeacherReply::NoAnswer
        } else {
            TeacherReply::Unreadable
        };
    };
    let choice = question
        .offered
        .iter()
        .zip(FIRST_LABEL..)
        .find(|(_, letter)| label.trim().as_bytes() == [*letter]);
    let Some((&item, _)) = choice else { return TeacherReply::NoAnswer };
    // Thoughts begin with a space, as our own models generate them.
    let thought = last_between(before, THOUGHT).map(|(_, thought)| format!(" {}", thought.trim()));
    let thought = thought.and_then(|thought| Thought::parse(&thought));
    thought.map_or(TeacherReply::Unreadable, |thought| TeacherReply::Chose(item, thought))
}

/// The text between the last pair of tags, and the text before it.
fn last_between<'t>(text: &'t str, [begin, end]: [&str; 2]) -> Option<(&'t str, &'t str)> {
    let (before, rest) = text.rsplit_once(begin)?;
    Some((before, rest.split_once(end)?.0))
}

fn slate(question: &SlateQuestion<'_>, label: Option<u32>) -> String {
    let case = question.case;
    let latest = &case.history[case.history.len().saturating_sub(EVENTS_MAX)..];
    let mut text = String::from("What the shopper did, oldest first:\n");
    for event in latest {
        let _ = writeln!(text, "{}", describe_event(question, event));
    }
    if latest.is_empty() {
        text.push_str("nothing yet\n");
    }
    let _ = writeln!(text, "\nNow it is {}. Offered are:", MONTHS[month(case.now)]);
    let context = question.context();
    for (&item, letter) in question.offered.iter().zip(FIRST_LABEL..) {
        let _ = writeln!(text, "{}: {}", char::from(letter), describe_item(question, item));
        write_reasons(question, &context, item, &mut text);
    }
    let taken = question.offered.iter().position(|item| Some(*item) == label);
    if let Some(index) = taken {
        let letter = char::from(FIRST_LABEL + index as u8);
        let _ = writeln!(text, "\nThe shopper took {letter}. Say why, in the same form.");
    }
    text
}

fn describe_event(question: &SlateQuestion<'_>, event: &HistoryEvent) -> String {
    let days = (question.case.now - event.time).max(0) / DAY_S;
    let verb = match event.kind {
        EventKind::Purchase => "bought",
        EventKind::Cart => "put into the cart",
        _ => "looked at",
    };
    format!("{days} days ago {verb}: {}", describe_item(question, event.item))
}

/// An item: its title, its category and its attributes.
fn describe_item(question: &SlateQuestion<'_>, number: u32) -> String {
    let catalog = question.catalog;
    let item = catalog.item(number);
    let mut text = item.title.to_string();
    let category = catalog.category(item.category);
    if !category.is_empty() {
        let _ = write!(text, " | category: {category}");
    }
    for (name, value) in catalog.attributes_of(item).take(ATTRIBUTES_MAX) {
        let _ = write!(text, " | {name}: {value}");
    }
    text
}

/// Writes the reasons for a candidate, strongest first.
fn write_reasons<'a>(
    question: &SlateQuestion<'a>,
    context: &FeatureContext<'a>,
    item: u32,
    text: &mut String,
) {
    let mut backed = question.backed_reasons(context, item);
    backed.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (_, reason) in backed.into_iter().take(REASONS_MAX) {
        let _ = writeln!(text, "   known: {}", reason.text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::{
        Backing, CardReason, Cards, Catalog, CatalogRow, ItemCard, NeighbourTable,
    };
    use crate::domain::{ReasonSource, Timestamp, UserId};
    use crate::reranker::Because;
    use crate::train::cases::{Case, PredictionTask};
    use crate::train::synthetic_query::SyntheticQuery;

    /// Midday of the first of December 2025.
    const NOW: Timestamp = 1_764_590_400;

    fn catalog() -> Catalog {
        let row = |title: &str, colour: &str| CatalogRow {
            id: title.into(),
            title: title.into(),
            category: "kitchen".into(),
            attributes: vec![("colour".into(), colour.into())],
            price: None,
        };
        Catalog::new([row("Red Mug", "red"), row("Red Teapot", "red"), row("Jar", "blue")])
    }

    /// The teapot goes with the mug, and the jar with a shopper's own things.
    fn cards(user: &UserId) -> Cards {
        let reason = |text: &str, supporters: &[UserId]| CardReason {
            text: text.into(),
            source: ReasonSource::Evidence,
            evidence: Vec::new().into(),
            strength: 0.5,
            backing: Backing::Item(0),
            supporters: supporters.to_vec(),
        };
        let card = |reasons| ItemCard { reasons, ..ItemCard::default() };
        let mut ties = NeighbourTable::new(1);
        (0..3).for_each(|_| ties.push([].into_iter()));
        let items = vec![
            card(vec![]),
            card(vec![reason("Goes with “Red Mug”: 3 of the 4 who bought this have both.", &[])]),
            card(vec![reason("Goes with “Red Mug”.", std::slice::from_ref(user))]),
        ];
        Cards { items, partners: ties.clone(), companions: ties, ..Cards::default() }
    }

    fn with_question<T>(then: impl FnOnce(&SlateQuestion<'_>) -> T) -> T {
        let (catalog, user) = (catalog(), UserId::from("u"));
        let cards = cards(&user);
        let event = |item, days, kind| HistoryEvent { item, time: NOW - days * DAY_S, kind };
        let case = Case {
            user: 0,
            task: PredictionTask::FirstPurchase,
            now: NOW,
            history: vec![event(0, 40, EventKind::Purchase), event(2, 1, EventKind::Click)],
            pattern: None,
            pattern_text: String::new(),
            synthetic_query: SyntheticQuery::default(),
            expected_item: None,
            slate: vec![1, 2],
            relevant: vec![1],
            live: Vec::new(),
            rechead: Vec::new(),
            line: 0,
            snapshot: 0,
        };
        then(&SlateQuestion {
            case: &case,
            user: &user,
            catalog: &catalog,
            cards: &cards,
            offered: vec![2, 1],
            seed: 0,
        })
    }

    #[test]
    fn a_prompt_quotes_history_candidates_and_reasons() {
        let (labelled, plain) =
            with_question(|question| (slate(question, Some(1)), slate(question, None)));
        assert_eq!(
            labelled,
            "What the shopper did, oldest first:\n\
             40 days ago bought: Red Mug | category: kitchen | colour: red\n\
             1 days ago looked at: Jar | category: kitchen | colour: blue\n\
             \n\
             Now it is December. Offered are:\n\
             A: Jar | category: kitchen | colour: blue\n\
             B: Red Teapot | category: kitchen | colour: red\n   \
             known: Goes with “Red Mug”: 3 of the 4 who bought this have both.\n\
             \n\
             The shopper took B. Say why, in the same form.\n"
        );
        assert!(labelled.starts_with(&plain) && !plain.contains("took"));
    }

    #[test]
    fn the_last_answer_counts_and_only_in_its_form() {
        let thought = Thought {
            likes: vec!["red".into()],
            title: "Red Teapot".into(),
            because: Because::GoesWith("Red Mug".into()),
        };
        let right = "<think>Is it <answer>A</answer>?</think>\n<thought> Likes red. Red Teapot goes with \
                     Red Mug. </thought> <answer>B</answer>";
        for (text, expected) in [
            (right, TeacherReply::Chose(1, thought)),
            ("", TeacherReply::NoAnswer),
            ("<thought>Red Teapot is red.</thought><answer>C</answer>", TeacherReply::NoAnswer),
            ("<thought>Red Teapot is red.</thought><answer>both</answer>", TeacherReply::NoAnswer),
            ("<thought>Red Teapot is red.</thought><answer>B", TeacherReply::Unreadable),
            ("<thought>Red Teapot is red</thought><answer>B</answer>", TeacherReply::Unreadable),
            ("<answer>B</answer><thought>Red Teapot is red.</thought>", TeacherReply::Unreadable),
            ("B, because it is red.", TeacherReply::Unreadable),
        ] {
            assert_eq!(with_question(|question| parse_reply(text, question)), expected, "{text}");
        }
    }
}
