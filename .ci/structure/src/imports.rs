//! Which file uses a name that another file defines.

use std::collections::BTreeSet;

use crate::modules::Crate;

/// A file uses a name of another file of its crate, or of another crate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Import {
    /// The file that uses it.
    pub file: String,
    /// The file that defines it, or the name of the other crate.
    pub from: String,
    /// The name.
    pub name: String,
}

/// What a path stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Module(usize),
    Item { file: usize, name: String },
    Foreign { package: String, name: String },
}

/// Re-exports of re-exports are followed so far.
const MAX_DEPTH: usize = 24;

impl Crate {
    /// Every import of every file, sorted.
    pub fn imports(&self) -> Vec<Import> {
        let mut found = BTreeSet::new();
        for (index, module) in self.modules.iter().enumerate() {
            let mut add = |target: Option<Target>| {
                let (from, name) = match target {
                    Some(Target::Item { file, name }) if file != module.file => (self.files[file].clone(), name),
                    Some(Target::Foreign { package, name }) => (package, name),
                    // What a module is imported for shows in the paths that begin with it.
                    _ => return,
                };
                found.insert(Import { file: self.files[module.file].clone(), from, name });
            };
            for import in module.text.uses.iter().filter(|import| !import.is_for_tests && import.name.is_some()) {
                let is_used = || module.text.paths.iter().any(|path| path.first() == import.name.as_ref());
                if !import.is_reexport || is_used() {
                    add(self.resolve(index, &import.path, MAX_DEPTH));
                }
            }
            for path in &module.text.paths {
                add(self.resolve(index, path, MAX_DEPTH));
            }
        }
        found.into_iter().collect()
    }

    /// `None`: a name of a function, of the prelude, or of what a macro makes.
    fn resolve(&self, module: usize, path: &[String], depth: usize) -> Option<Target> {
        let (first, rest) = path.split_first()?;
        let depth = depth.checked_sub(1)?;
        let start = match first.as_str() {
            "crate" => Target::Module(0),
            "self" => Target::Module(module),
            "super" => Target::Module(self.modules[module].parent?),
            name => self.member(module, name, depth).or_else(|| {
                let name = rest.first().cloned().unwrap_or_default();
                is_foreign(path).then(|| Target::Foreign { package: first.clone(), name })
            })?,
        };
        self.walk(start, rest, depth)
    }

    /// Where the rest of a path ends that has come to `start`.
    fn walk(&self, start: Target, rest: &[String], depth: usize) -> Option<Target> {
        let (Target::Module(module), Some((next, rest))) = (&start, rest.split_first()) else { return Some(start) };
        match next.as_str() {
            "super" => self.walk(Target::Module(self.modules[*module].parent?), rest, depth),
            "self" => self.walk(start, rest, depth),
            // A macro has made it, perhaps.
            name => match self.member(*module, name, depth) {
                Some(member) => self.walk(member, rest, depth),
                None => Some(Target::Item { file: self.modules[*module].file, name: name.to_owned() }),
            },
        }
    }

    /// What the module calls `name`.
    fn member(&self, module: usize, name: &str, depth: usize) -> Option<Target> {
        if let Some(child) = self.child(module, name) {
            return Some(Target::Module(child));
        }
        let text = &self.modules[module].text;
        if text.items.contains(name) {
            return Some(Target::Item { file: self.modules[module].file, name: name.to_owned() });
        }
        let depth = depth.checked_sub(1)?;
        // `use x::y as x` and `use x::{self}` name what they start with: that is the other x.
        let named = text.uses.iter().filter(|import| import.name.as_deref() == Some(name));
        let named = named.filter(|import| import.path.len() > 1 || import.path.first().is_none_or(|own| own != name));
        if let Some(import) = named.clone().next() {
            return self.resolve_import(module, &import.path, name, depth);
        }
        let globs = text.uses.iter().filter(|import| import.name.is_none());
        globs.into_iter().find_map(|glob| match self.resolve_import(module, &glob.path, name, depth)? {
            Target::Module(from) if from != module => self.member(from, name, depth),
            _ => None,
        })
    }

    /// The path of a `use`, whose first name is not the one that it gives itself.
    fn resolve_import(&self, module: usize, path: &[String], given: &str, depth: usize) -> Option<Target> {
        match path.first() {
            Some(first) if first == given && self.child(module, first).is_none() => {
                let name = path.get(1).cloned().unwrap_or_default();
                Some(Target::Foreign { package: first.clone(), name })
            }
            _ => self.resolve(module, path, depth),
        }
    }
}

/// Whether a path that begins with nothing known begins with another crate: `kube::Api`, not `Vec::new`.
fn is_foreign(path: &[String]) -> bool {
    let begins_low = |name: &String| name.starts_with(|first: char| first.is_ascii_lowercase());
    path.len() > 1 && path.first().is_some_and(begins_low)
}
