//! Names that were likely meant.

/// The share of a name's letters that may be wrong in what was meant.
const WRONG_SHARE: f64 = 0.4;

/// “, did you mean X?”, if a name is near to this one.
pub(super) fn did_you_mean<'a>(name: &str, among: impl Iterator<Item = &'a String>) -> String {
    nearest(name, among).map_or_else(String::new, |near| format!(" (did you mean {near:?}?)"))
}

/// How to go on without a column of ours: the nearest name of the file's columns, and the option for it. Columns of attributes
/// are looked for under their own names only.
pub(super) fn hint(ours: &str, looked_for: &[String], found: &[String]) -> String {
    let near = looked_for.iter().find_map(|name| nearest(name, found.iter()));
    match (looked_for, near) {
        ([attribute], Some(near)) if attribute == ours && !is_ours(ours) => {
            format!("; did you mean `--attributes {near}`?")
        }
        ([attribute], None) if attribute == ours && !is_ours(ours) => String::new(),
        (_, Some(near)) => format!("; say which it is, such as `--column {ours}={near}`"),
        (_, None) => {
            let other = found.first().map_or("NAME", String::as_str);
            format!("; say which it is, such as `--column {ours}={other}`")
        }
    }
}

fn is_ours(name: &str) -> bool {
    let known = super::items::COLUMNS.iter().chain(&super::events::COLUMNS);
    known.into_iter().any(|column| column.ours == name)
}

/// The name with the fewest wrong letters, if they are few. One that holds the other's last word counts as near.
fn nearest<'a>(name: &str, among: impl Iterator<Item = &'a String>) -> Option<&'a str> {
    let wanted = plain(name);
    let near = among.filter_map(|other| {
        let found = plain(other);
        let length = wanted.chars().count().max(found.chars().count());
        let wrong = distance(&wanted, &found);
        (length > 0 && wrong as f64 <= length as f64 * WRONG_SHARE).then_some((wrong, other))
    });
    near.min_by_key(|(wrong, _)| *wrong).map(|(_, other)| other.as_str())
}

/// A name without case and separators.
fn plain(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// The fewest insertions, deletions, replacements and swaps of neighbours that make `b` of `a`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1)
            };
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                rows[i][j] = rows[i][j].min(rows[i - 2][j - 2] + 1);
            }
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn near_names_are_found() {
        let found = names(&["UserID", "colour", "Title", "when", ""]);
        for (name, expected) in [
            ("user_id", Some("UserID")),
            ("color", Some("colour")),
            ("tilte", Some("Title")),
            ("whne", Some("when")),
            ("price", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, found.iter()), expected, "{name}");
        }
        assert_eq!(did_you_mean("colr", found.iter()), " (did you mean \"colour\"?)");
        assert_eq!(did_you_mean("price", found.iter()), "");
    }

    #[test]
    fn a_column_that_lacks_comes_with_an_option_that_works() {
        let found = names(&["buyer", "user", "sku"]);
        for (ours, looked_for, expected) in [
            ("user_id", &["user_id", "customer_id"][..], "`--column user_id=user`"),
            ("time", &["time", "timestamp"], "`--column time=buyer`"),
            ("item_id", &["item_id"], "`--column item_id=buyer`"),
            ("sk", &["sk"], "did you mean `--attributes sku`?"),
        ] {
            let hint = hint(ours, &names(looked_for), &found);
            assert!(hint.contains(expected), "{hint}");
        }
        assert_eq!(hint("color", &names(&["color"]), &found), "");
    }
}
