//! `docs/features.md` is the catalogue as a table.

use super::{FEATURES, LIVE_FEATURES, QUERY_FEATURES, VECTOR_FEATURES};

const HEAD: &str = "\
# The scorer's features

The network reads these numbers of each candidate, beside ids, texts and reasons. `src/scorer/features/catalogue.rs`
defines them, for training and serving alike, and a test writes these tables. The order is that of the network's
input and never changes. A feature is 0 where the history or the card does not know.

| place | name | unit | meaning |
|--:|---|---|---|
";

const LIVE_HEAD: &str = "
## Live features

The direct path reads the features above and these. They come from counts that are up to date to the moment of the
request, and from the shopper's whole past (`src/scorer/features/live_catalogue.rs`). A window of w days is an exponential
one: an event of age a counts e^(−a/w). k counts the shopper's latest distinct items, latest first. c is the number of
baskets in common, and p = c / (buyers of the shopper's item + 8). A bundle names its inputs, so features may be added
and left out.

| name | unit | meaning |
|---|---|---|
";

const VECTOR_HEAD: &str = "
## History by the text encoder

A direct path reads these only if the recipe names them in `direct.inputs`, and they are computed only then
(`src/scorer/features/vector_history.rs`). k counts the history's latest distinct items, latest first.

| name | unit | meaning |
|---|---|---|
";

const QUERY_HEAD: &str = "
## Query features

The query path reads what the direct path reads, and these. They hold each candidate against the request's query and
profile (`src/scorer/features/query_catalogue.rs`). All are 0 where the request says nothing of the slate. What no item of
the slate has is left out of every share and sum, so that a wrong or misspelt word takes nothing from the others.

A *value* is a value of an attribute, or a category: in \"walnut mug, not red, under £20\", walnut and mug are wanted, red
is refused, and £20 is a bound. An item that comes inline has no reasons, and a price only if it was put with one.

| name | unit | meaning |
|---|---|---|
";

/// The file is written by this test where `UPDATE_DOCS` is set, and checked otherwise.
#[test]
fn the_documented_tables_are_those_of_the_catalogue() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/features.md");
    let cell = |unit: &str| unit.replace('|', "\\|");
    let rows = FEATURES
        .iter()
        .enumerate()
        .map(|(place, of)| {
            format!("| {place} | `{}` | {} | {} |\n", of.name, cell(of.unit), of.meaning)
        })
        .collect::<Vec<_>>()
        .concat();
    let live = LIVE_FEATURES
        .iter()
        .map(|of| format!("| `{}` | {} | {} |\n", of.name, cell(of.unit), of.meaning))
        .collect::<Vec<_>>()
        .concat();
    let query = QUERY_FEATURES
        .iter()
        .map(|of| format!("| `{}` | {} | {} |\n", of.name, cell(of.unit), of.meaning))
        .collect::<Vec<_>>()
        .concat();
    let vectors = VECTOR_FEATURES
        .iter()
        .map(|of| format!("| `{}` | {} | {} |\n", of.name, of.unit, of.meaning))
        .collect::<Vec<_>>()
        .concat();
    let tables = format!("{HEAD}{rows}{LIVE_HEAD}{live}{VECTOR_HEAD}{vectors}{QUERY_HEAD}{query}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &tables).unwrap();
    }
    let documented = std::fs::read_to_string(path).unwrap();
    assert_eq!(documented, tables, "`UPDATE_DOCS=1 cargo test documented_tables` writes it anew");
}
