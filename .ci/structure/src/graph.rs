//! Circles of imports, and layers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::imports::Import;

/// Files that import each other, directly or through one another.
#[derive(Debug, PartialEq)]
pub struct Circle {
    /// The files.
    pub files: BTreeSet<String>,
    /// The imports that tie them.
    pub imports: Vec<Import>,
}

/// The circles among these imports; each file is in at most one.
pub fn circles(imports: &[Import]) -> Vec<Circle> {
    let mut graph: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for import in imports {
        graph.entry(&import.file).or_default().insert(&import.from);
    }
    let reach: BTreeMap<&str, BTreeSet<&str>> = graph.keys().map(|file| (*file, reachable(&graph, file))).collect();
    let reaches = |from: &str, to: &str| reach.get(from).is_some_and(|files| files.contains(to));
    let mut circles: Vec<Circle> = Vec::new();
    for file in graph.keys().filter(|file| reaches(file, file)) {
        if circles.iter().any(|circle| circle.files.contains(*file)) {
            continue;
        }
        let files = graph.keys().filter(|other| reaches(file, other) && reaches(other, file));
        let files: BTreeSet<String> = files.map(|file| (*file).to_owned()).collect();
        let ties = imports.iter().filter(|import| files.contains(&import.file) && files.contains(&import.from));
        circles.push(Circle { imports: ties.cloned().collect(), files });
    }
    circles
}

fn reachable<'a>(graph: &BTreeMap<&'a str, BTreeSet<&'a str>>, start: &str) -> BTreeSet<&'a str> {
    let (mut reached, mut next) = (BTreeSet::new(), vec![start]);
    while let Some(file) = next.pop() {
        for to in graph.get(file).into_iter().flatten() {
            if reached.insert(*to) {
                next.push(to);
            }
        }
    }
    reached
}

impl fmt::Display for Circle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} files import each other:", self.files.len())?;
        let mut ties: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
        for import in &self.imports {
            ties.entry((&import.file, &import.from)).or_default().push(&import.name);
        }
        for ((file, from), names) in ties {
            writeln!(f, "  {file} uses {} of {from}", names.join(", "))?;
        }
        Ok(())
    }
}

/// Files that must not import others.
#[derive(Clone, Copy, Debug)]
pub struct Layer {
    /// How the paths of its files begin.
    pub files: &'static str,
    /// How the paths of files begin that it must not import, or names of crates.
    pub must_not_use: &'static [&'static str],
}

impl Layer {
    /// The imports that it must not have.
    pub fn broken_by<'a>(&self, imports: &'a [Import]) -> Vec<&'a Import> {
        let is_forbidden = |import: &&Import| {
            import.file.starts_with(self.files) && self.must_not_use.iter().any(|other| is_of(&import.from, other))
        };
        imports.iter().filter(is_forbidden).collect()
    }
}

/// `from` is a file or the name of a crate; `other` is a folder or a file, or the name of a crate.
fn is_of(from: &str, other: &str) -> bool {
    if other.contains('/') { from.starts_with(other) } else { from == other }
}
