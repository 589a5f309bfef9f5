//! Finds import circles between the files of a crate, and imports from a layer above.
//!
//! [`Crate::read`] parses the files of one target with syn, [`Crate::imports`] lists which file uses a name that another
//! file defines, and [`circles`] and [`Layer::broken_by`] judge that list. `tests/workspace.rs` applies them to the workspace.
//!
//! What counts as an import:
//!
//! - A name counts for the file that defines it. `crate::cache::Key` is an import of `cache/view.rs` if `cache/mod.rs` only
//!   re-exports it from there.
//! - A re-export is no import, unless the file uses the name itself. Neither is the declaration of a module.
//! - Code under `#[cfg(test)]` does not count for the file that it stands in. Files of tests are files like others.

mod graph;
mod imports;
mod modules;
mod syntax;

pub use graph::{Circle, Layer, circles};
pub use imports::Import;
pub use modules::Crate;

#[cfg(test)]
mod tests;
