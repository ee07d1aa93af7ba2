//! Circles of imports among the modules that share a parent.

use crate::source_tree::SourceTree;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The imports between modules that share a parent. Each module stands for everything below it.
///
/// Imports between a module and its descendants do not count: a module is built of them, and they may use what it
/// defines.
#[derive(Debug, Default)]
pub struct SiblingImports {
    /// For each pair of importing and imported module, a line that names one file that does it.
    imports: BTreeMap<(String, String), String>,
}

impl SiblingImports {
    /// Of the whole tree.
    pub fn of(tree: &SourceTree) -> Self {
        let mut imports = BTreeMap::new();
        for module in tree.modules() {
            for other in tree.imported_by(module) {
                let shared = module.iter().zip(&other).take_while(|(a, b)| a == b).count();
                if shared == module.len() || shared == other.len() {
                    continue;
                }
                let [from, to] = [module, &other].map(|path| path[..=shared].join("::"));
                let line = format!("`{}` imports from `{}`", module.join("::"), other.join("::"));
                imports.entry((from, to)).or_insert(line);
            }
        }
        Self { imports }
    }

    /// One shortest circle through each import that is part of one, as lines of text.
    pub fn circles(&self) -> BTreeSet<String> {
        let mut circles = BTreeMap::new();
        for (from, to) in self.imports.keys() {
            if let Some(back) = self.path(to, from) {
                let round: Vec<_> = [vec![from.clone()], back].concat();
                let lines = round
                    .windows(2)
                    .map(|pair| &*self.imports[&(pair[0].clone(), pair[1].clone())]);
                let members: BTreeSet<_> = round.iter().cloned().collect();
                circles.entry(members).or_insert_with(|| lines.collect::<Vec<_>>().join("\n    "));
            }
        }
        circles.into_values().collect()
    }

    /// The shortest chain of imports from one module to another, both included.
    fn path(&self, from: &str, to: &str) -> Option<Vec<String>> {
        let mut ways = VecDeque::from([vec![from.to_owned()]]);
        let mut seen = BTreeSet::from([from.to_owned()]);
        while let Some(way) = ways.pop_front() {
            let last = way.last()?;
            if last == to {
                return Some(way);
            }
            for (_, next) in self.imports.keys().filter(|(from, _)| from == last) {
                if seen.insert(next.clone()) {
                    ways.push_back([&way[..], std::slice::from_ref(next)].concat());
                }
            }
        }
        None
    }
}

#[test]
fn a_circle_is_found_and_imports_from_a_parent_are_allowed() {
    let tree = SourceTree::of([
        ("lib.rs", ""),
        ("shop/mod.rs", "mod shelf;\npub use shelf::Shelf;\npub struct Price;"),
        ("shop/shelf.rs", "use super::Price;\nuse super::till::ring;\npub struct Shelf;"),
        ("shop/till/mod.rs", "mod drawer;\npub use drawer::ring;"),
        (
            "shop/till/drawer.rs",
            "use crate::shop::Shelf;\nuse super::super::Price;\npub fn ring() {}",
        ),
    ]);
    let circles = SiblingImports::of(&tree).circles();
    let [circle] = &circles.into_iter().collect::<Vec<_>>()[..] else { panic!() };
    assert!(circle.contains("`shop::shelf` imports from `shop::till::drawer`"), "{circle}");
    assert!(circle.contains("`shop::till::drawer` imports from `shop::shelf`"), "{circle}");
}
