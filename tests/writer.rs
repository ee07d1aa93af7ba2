//! Cards in a language model's words: every text rests on evidence, and no question is asked twice.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/small.rs"]
mod small;

use raisonne::bundle::{Bundle, Part};
use raisonne::domain::ReasonSource;
use raisonne::evidence;
use raisonne::train::{
    NoProgress, ProgressObserver, ProgressUpdate, Recipe, STAGES, Workspace, publish, run,
};
use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const REASONS_LOG: &str = "write.reasons.jsonl";

/// A workspace in which every stage before `write` has run.
struct Room {
    home: TempDir,
}

/// Panics when a task has come to a step.
struct PanicAt(&'static str, u64);

impl ProgressObserver for PanicAt {
    fn report(&mut self, update: &ProgressUpdate<'_>) {
        assert!(update.task != self.0 || update.step < self.1, "the test ends the stage");
    }
}

impl Room {
    fn trained() -> Self {
        let room = Self { home: tempfile::tempdir().unwrap() };
        let recipe = room.recipe(&[]);
        let mut progress = NoProgress;
        let mut workspace = Workspace::new(&room.work(), recipe.clone(), &mut progress).unwrap();
        let enabled = STAGES.iter().filter(|stage| stage.is_enabled(&recipe));
        for stage in enabled.take_while(|stage| stage.name() != "write") {
            run(*stage, &mut workspace).unwrap();
        }
        room
    }

    fn work(&self) -> PathBuf {
        self.home.path().join("work")
    }

    fn recipe(&self, set: &[&str]) -> Recipe {
        let set: Vec<String> = set.iter().map(|&setting| setting.to_owned()).collect();
        small::recipe(self.home.path(), &set)
    }

    fn write(&self, set: &[&str], progress: &mut dyn ProgressObserver) -> serde_json::Value {
        let mut workspace = Workspace::new(&self.work(), self.recipe(set), progress).unwrap();
        let stage = STAGES.iter().find(|stage| stage.name() == "write").unwrap();
        run(*stage, &mut workspace).unwrap()["measured"].clone()
    }

    /// The files of the cards.
    fn cards(&self) -> [Vec<u8>; 3] {
        [Part::ItemCards, Part::UserCards, Part::CardVectors]
            .map(|part| fs::read(self.work().join(part.file())).unwrap())
    }

    /// Publishes and opens the bundle, whose cards were written with the overrides in `set`.
    fn bundle(&self, name: &str, set: &[&str]) -> Bundle {
        let recipe = self.recipe(set);
        let text = toml::to_string(&recipe).unwrap();
        let mut progress = NoProgress;
        let mut workspace = Workspace::new(&self.work(), recipe, &mut progress).unwrap();
        let last = STAGES.last().unwrap();
        run(*last, &mut workspace).unwrap();
        let out = self.home.path().join(name);
        publish::publish(&workspace, &text, &out).unwrap();
        Bundle::open(&out).unwrap()
    }

    fn lines(&self, file: &str) -> usize {
        fs::read_to_string(self.work().join(file)).unwrap().lines().count()
    }
}

fn leftovers(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("write.") && name != "write.report.json").collect()
}

#[test]
fn a_model_writes_only_what_rests_on_evidence_and_is_asked_nothing_twice() {
    let room = Room::trained();

    // The stage is interrupted while the model writes. Its answers so far are in the log, …
    let interrupted =
        catch_unwind(AssertUnwindSafe(|| room.write(&[], &mut PanicAt("reasons", 128))));
    interrupted.unwrap_err();
    assert_eq!(room.lines(REASONS_LOG), 1 + 128);
    let judged = room.lines("write.judged_reasons.jsonl");
    assert!(judged > 1);

    // … and are not asked again: an edited line stays in effect.
    let path = room.work().join(REASONS_LOG);
    let so_far = fs::read_to_string(&path).unwrap();
    let mut lines: Vec<&str> = so_far.lines().collect();
    let nothing = "{\"question\":0,\"chosen\":[]}";
    assert!(lines[1].starts_with("{\"question\":0,"), "{}", lines[1]);
    lines[1] = nothing;
    fs::write(&path, lines.join("\n") + "\n").unwrap();
    let resumed = room.write(&[], &mut NoProgress);
    let reasons = &resumed["by_language_model"]["reasons"];
    let [asked, answered] =
        ["asked", "answered"].map(|count| reasons[count].as_u64().unwrap() as usize);
    assert!(leftovers(&room.work()).is_empty());

    // From an empty log, the model answers the same, and the edited question too.
    let whole = room.write(&[], &mut NoProgress);
    let reasons = &whole["by_language_model"]["reasons"];
    assert_eq!(reasons["asked"].as_u64().unwrap() as usize, asked);
    assert_eq!(reasons["answered"].as_u64().unwrap() as usize, answered + 1);
    let cards = room.cards();
    room.write(&[], &mut NoProgress);
    assert!(cards == room.cards(), "the same model writes the same cards");

    let bundle = room.bundle("bundle", &[]);
    let (mut written, mut left) = (0, 0);
    for (item, card) in (0_u32..).zip(&bundle.cards.items) {
        let category = bundle.catalog.category(bundle.catalog.item(item).category);
        let mut ended = false;
        for reason in &card.reasons {
            let sayings = evidence::phrasings(&reason.evidence[0], category, "£");
            assert!(sayings.iter().any(|saying| **saying == *reason.text), "{reason:?}");
            ended |= reason.source == ReasonSource::Evidence;
            assert_eq!(
                ended,
                reason.source == ReasonSource::Evidence,
                "its own come first: {card:?}"
            );
            written += usize::from(!ended);
            left += usize::from(ended);
        }
    }
    assert!(written > 100 && left > 0, "{written} written, {left} left as they were");
    for card in bundle.cards.users.values() {
        let liked = evidence::liked_attributes(&bundle.catalog, &card.history);
        let values: BTreeSet<&str> =
            liked.iter().map(|&number| &**bundle.catalog.attribute(number).1).collect();
        let Some((_, told)) = card.pattern.split_once("; likes ") else { continue };
        let told = told.split(';').next().unwrap().replace(" and ", ", ");
        assert!(told.split(", ").all(|like| values.contains(like)), "{}", card.pattern);
    }
}

#[test]
fn cards_are_written_as_of_a_moment() {
    let room = Room::trained();
    let end = room.write(&["cards.as_of=2100-01-01T00:00:00Z"], &mut NoProgress)["users"].clone();
    let past = bundle_at(&room, "cards.as_of=2024-06-01T00:00:00Z");
    let as_of = past.cards.as_of;
    assert_eq!(as_of, "2024-06-01T00:00:00Z".parse::<jiff::Timestamp>().unwrap().as_second());
    assert!(past.cards.users.len() < end.as_u64().unwrap() as usize);
    let histories = past.cards.users.values().flat_map(|card| &card.history);
    assert!(histories.into_iter().all(|past| past.time < as_of));
    let firsts = past.cards.items.iter().filter_map(|card| card.stats.first_sale);
    assert!(firsts.into_iter().all(|first| first < as_of));
}

fn bundle_at(room: &Room, moment: &str) -> Bundle {
    room.write(&[moment], &mut NoProgress);
    room.bundle("past", &[moment])
}
