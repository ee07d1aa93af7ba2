//! The crate's files, and what each of them imports.
//!
//! This reads text, not Rust: it splits `use` statements and paths such as `super::wire::query`, follows re-exports
//! to the file that defines a name, and ignores comments and test modules. It does not see what a macro writes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A module's path below the crate: `["api", "wire"]`. The crate's root is empty.
pub type ModulePath = Vec<String>;

/// Re-exports of re-exports that are followed.
const REEXPORTS_MAX: usize = 8;

/// Every module that has a file of its own.
#[derive(Debug, Default)]
pub struct SourceTree {
    modules: BTreeMap<ModulePath, Module>,
}

/// One file.
#[derive(Debug, Default)]
struct Module {
    /// Its code, without comments, `use` statements and test modules.
    code: String,
    /// What each imported name stands for, as an absolute path.
    imports: BTreeMap<String, ModulePath>,
    /// Modules of which every name is imported.
    globs: Vec<ModulePath>,
}

/// One leaf of a `use` statement.
#[derive(Debug, PartialEq)]
struct Import {
    path: Vec<String>,
    /// The name that it has here; `*` for every name.
    name: String,
}

// === impl SourceTree ===

impl SourceTree {
    /// Reads every `.rs` file below `root`.
    pub fn read(root: &Path) -> Self {
        Self::of(sources(root).iter().map(|(file, text)| (file.as_str(), text.as_str())))
    }

    /// Of files by their path below `src`, such as `("api/wire.rs", "use super::pb;")`.
    pub fn of<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut tree = Self::default();
        let files: Vec<_> =
            files.into_iter().map(|(path, text)| (module_path(path), text)).collect();
        // Every module has to be known before a path can be resolved.
        for (module, _) in files.iter().filter(|(module, _)| !is_test(module)) {
            tree.modules.insert(module.clone(), Module::default());
        }
        for (module, text) in files.iter().filter(|(module, _)| !is_test(module)) {
            let read = tree.parse(module, text);
            tree.modules.insert(module.clone(), read);
        }
        tree
    }

    /// Paths of all modules.
    pub fn modules(&self) -> impl Iterator<Item = &ModulePath> {
        self.modules.keys()
    }

    /// The modules whose names a module uses, each the one that defines them.
    pub fn imported_by(&self, module: &ModulePath) -> BTreeSet<ModulePath> {
        let Module { code, imports, globs } = &self.modules[module];
        let inline =
            paths(code).into_iter().filter_map(|path| self.absolute(module, &path, imports));
        let named = imports.values().chain(globs).cloned().chain(inline);
        named.filter_map(|path| self.definer(&path, REEXPORTS_MAX)).collect()
    }

    fn parse(&self, module: &ModulePath, text: &str) -> Module {
        let text = without_tests(&without_comments(text));
        let (uses, code) = split_uses(&text);
        let mut read = Module { code, ..Module::default() };
        for Import { path, name } in uses.iter().flat_map(|statement| imports(statement)) {
            let Some(path) = self.absolute(module, &path, &BTreeMap::new()) else { continue };
            if name == "*" {
                read.globs.push(path);
            } else {
                read.imports.insert(name, path);
            }
        }
        read
    }

    /// A path as it is written in `module`, from the crate's root; none if it leads out of the crate.
    fn absolute(
        &self,
        module: &ModulePath,
        path: &[String],
        imports: &BTreeMap<String, ModulePath>,
    ) -> Option<ModulePath> {
        let (first, rest) = path.split_first()?;
        let mut from = module.clone();
        match first.as_str() {
            "crate" => from.clear(),
            "self" => {}
            "super" => _ = from.pop(),
            name => {
                if let Some(import) = imports.get(name) {
                    from.clone_from(import);
                } else {
                    from.push(name.to_owned());
                    self.modules.get(&from)?;
                }
            }
        }
        for step in rest {
            if step == "super" {
                from.pop();
            } else {
                from.push(step.clone());
            }
        }
        Some(from)
    }

    /// The module that defines the thing at an absolute path.
    fn definer(&self, path: &[String], reexports_max: usize) -> Option<ModulePath> {
        let mut at = ModulePath::new();
        for (nth, step) in path.iter().enumerate() {
            at.push(step.clone());
            if self.modules.contains_key(&at) {
                continue;
            }
            at.pop();
            let Module { imports, globs, code } = self.modules.get(&at)?;
            if let (Some(import), Some(left)) = (imports.get(step), reexports_max.checked_sub(1)) {
                let path = [import, &path[nth + 1..]].concat();
                return self.definer(&path, left);
            }
            let here = defines(code, step);
            let glob = globs
                .iter()
                .find(|glob| self.modules.get(*glob).is_some_and(|m| defines(&m.code, step)));
            return Some(glob.filter(|_| !here).cloned().unwrap_or(at));
        }
        self.modules.contains_key(&at).then_some(at)
    }
}

/// Every `.rs` file below `root`: its path there, and its text. Sorted by path.
pub fn sources(root: &Path) -> Vec<(String, String)> {
    fn walk(dir: &Path, root: &Path, found: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, root, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let file = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
                found.push((file, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut found = Vec::new();
    walk(root, root, &mut found);
    found.sort();
    found
}

/// `api/mod.rs` and `api.rs` are `["api"]`; `lib.rs` is the root; `main.rs` is a crate of its own.
fn module_path(file: &str) -> ModulePath {
    let mut path: ModulePath = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if path.last().is_some_and(|last| last == "mod" || last == "lib") {
        path.pop();
    }
    path
}

fn is_test(module: &[String]) -> bool {
    module.last().is_some_and(|last| last == "tests")
}

/// The text without `//` comments. A `//` inside of a string follows no space (`http://`).
pub fn without_comments(text: &str) -> String {
    let code = |line: &str| {
        let end = if line.trim_start().starts_with("//") {
            0
        } else {
            line.find(" //").unwrap_or(line.len())
        };
        line[..end].to_owned()
    };
    text.lines().map(code).collect::<Vec<_>>().join("\n")
}

/// The text without items under `#[cfg(test)]`.
pub fn without_tests(text: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut rest = text;
    let mut kept = String::new();
    while let Some(start) = rest.find(MARK) {
        kept.push_str(&rest[..start]);
        let item = &rest[start + MARK.len()..];
        rest = &item[item_end(item)..];
    }
    kept + rest
}

/// Where an item ends: behind its `;`, or behind the brace that closes its body.
fn item_end(item: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in item.char_indices() {
        match c {
            ';' if depth == 0 => return at + 1,
            '{' => depth += 1,
            '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    item.len()
}

/// The trees of all `use` statements, and the code without them.
fn split_uses(code: &str) -> (Vec<String>, String) {
    let (mut uses, mut rest) = (Vec::new(), String::new());
    let mut statement: Option<String> = None;
    for line in code.lines() {
        let trimmed = line.trim_start();
        let begun = trimmed.strip_prefix("use ").or_else(|| {
            let (visibility, tree) = trimmed.split_once(" use ")?;
            let is_visibility = visibility == "pub"
                || (visibility.starts_with("pub(") && visibility.ends_with(')'));
            is_visibility.then_some(tree)
        });
        // A line of a string may begin with "use" too.
        let begun = begun.filter(|tree| tree.contains("::") || tree.ends_with(';'));
        match (&mut statement, begun) {
            (None, Some(tree)) => statement = Some(tree.to_owned()),
            (Some(statement), _) => statement.push_str(trimmed),
            (None, None) => rest = rest + line + "\n",
        }
        if statement.as_ref().is_some_and(|statement| statement.contains(';')) {
            uses.extend(statement.take().map(|tree| tree.trim_end_matches(';').to_owned()));
        }
    }
    (uses, rest)
}

/// The leaves of a `use` tree: `a::{b, c::D as E}` names `a::b` as `b` and `a::c::D` as `E`.
fn imports(tree: &str) -> Vec<Import> {
    let tree = tree.trim();
    if let Some((path, group)) = tree.split_once('{') {
        let group = group.strip_suffix('}').unwrap_or(group);
        return split_top(group)
            .into_iter()
            .flat_map(|leaf| imports(&format!("{path}{leaf}")))
            .collect();
    }
    if tree.is_empty() {
        return Vec::new();
    }
    let (path, alias) = tree.split_once(" as ").unwrap_or((tree, ""));
    let mut path: Vec<String> = path.split("::").map(|step| step.trim().to_owned()).collect();
    if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
        path.pop();
    }
    let last = path.last().cloned().unwrap_or_default();
    if last == "*" {
        path.pop();
    }
    let name = if alias.is_empty() { last } else { alias.trim().to_owned() };
    vec![Import { path, name }]
}

/// Splits at the commas that are in no inner group.
fn split_top(group: &str) -> Vec<String> {
    let (mut depth, mut parts) = (0_usize, vec![String::new()]);
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().unwrap().push(c);
    }
    parts.into_iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

/// Paths with at least two steps that stand in code: `super::wire::query`, `Ladder::new`.
fn paths(code: &str) -> Vec<Vec<String>> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(start) = rest.find(is_word) {
        rest = &rest[start..];
        let mut path = Vec::new();
        loop {
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            path.push(rest[..end].to_owned());
            rest = &rest[end..];
            match rest.strip_prefix("::") {
                Some(next) if next.starts_with(is_word) => rest = next,
                _ => break,
            }
        }
        if path.len() > 1 {
            found.push(path);
        }
    }
    found
}

fn defines(code: &str, name: &str) -> bool {
    const KEYWORDS: [&str; 9] =
        ["struct", "enum", "trait", "fn", "type", "const", "static", "union", "macro_rules!"];
    KEYWORDS.iter().any(|keyword| {
        code.match_indices(&format!("{keyword} {name}")).any(|(at, found)| {
            !code[at + found.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_')
        })
    })
}

#[test]
fn imports_are_split_and_resolved() {
    let tree = SourceTree::of([
        ("lib.rs", "pub mod shop;\npub mod till;"),
        (
            "shop/mod.rs",
            "mod shelf;\npub use shelf::{Shelf, Shelf as Rack};\npub use self::goods::*;",
        ),
        (
            "shop/shelf.rs",
            "use super::goods::Good;\npub struct Shelf;\n#[cfg(test)]\nmod tests { use super::super::till; }",
        ),
        (
            "shop/goods.rs",
            "pub struct Good;\n// crate::till::ring\nfn f() { super::shelf::sort() }",
        ),
        (
            "till.rs",
            "use crate::shop::{\n    self, Good,\n};\nuse std::fmt;\nfn f(_: shop::Rack) {}",
        ),
    ]);
    let path = |text: &str| -> ModulePath { text.split("::").map(str::to_owned).collect() };
    let check = |module: &str, expected: &[&str]| {
        let expected: BTreeSet<_> = expected.iter().map(|module| path(module)).collect();
        assert_eq!(tree.imported_by(&path(module)), expected, "{module}");
    };
    check("shop", &["shop::shelf", "shop::goods"]);
    check("shop::shelf", &["shop::goods"]);
    check("shop::goods", &["shop::shelf"]);
    check("till", &["shop", "shop::shelf", "shop::goods"]);
}
