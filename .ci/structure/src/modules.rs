//! The modules of one target, and in which file each of them is.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::syntax::Text;

/// The modules of a library, a binary or a test.
#[derive(Debug)]
pub struct Crate {
    /// The first is the root.
    pub(crate) modules: Vec<Module>,
    pub(crate) files: Vec<String>,
}

/// A module, in a file of its own or inline in that of its parent.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) parent: Option<usize>,
    pub(crate) file: usize,
    pub(crate) text: Text,
}

impl Crate {
    /// Parses the files of the target whose root is `root`, a path inside of `folder`.
    pub fn read(folder: &Path, root: &str) -> anyhow::Result<Self> {
        Self::parse(root, &|file| {
            let path = folder.join(file);
            path.is_file().then(|| std::fs::read_to_string(path))
        })
    }

    /// The same from `source`, which returns the text of a file, or `None` where there is no such file.
    pub(crate) fn parse(root: &str, source: &dyn Fn(&str) -> Option<std::io::Result<String>>) -> anyhow::Result<Self> {
        let mut target = Crate { modules: Vec::new(), files: Vec::new() };
        let folder = Path::new(root).parent().unwrap_or(Path::new("")).to_owned();
        target.add_file(root, String::new(), None, &folder, source)?;
        Ok(target)
    }

    /// `folder` is where the files of its modules are.
    fn add_file(
        &mut self,
        file: &str,
        name: String,
        parent: Option<usize>,
        folder: &Path,
        source: &dyn Fn(&str) -> Option<std::io::Result<String>>,
    ) -> anyhow::Result<()> {
        let text = source(file).with_context(|| format!("{file} does not exist"))??;
        let text = Text::parse(&text).with_context(|| format!("cannot parse {file}"))?;
        self.files.push(file.to_owned());
        self.add(Module { name, parent, file: self.files.len() - 1, text }, folder, source)
    }

    fn add(
        &mut self,
        mut module: Module,
        folder: &Path,
        source: &dyn Fn(&str) -> Option<std::io::Result<String>>,
    ) -> anyhow::Result<()> {
        let (file, own) = (module.file, self.modules.len());
        let (inline, files) = (std::mem::take(&mut module.text.inline), std::mem::take(&mut module.text.files));
        self.modules.push(module);
        for (name, text) in inline {
            let folder = folder.join(&name);
            self.add(Module { name, parent: Some(own), file, text }, &folder, source)?;
        }
        for (name, path) in files {
            let beside = Path::new(&self.files[file]).parent().unwrap_or(Path::new("")).to_owned();
            let candidates = match path {
                Some(path) => vec![beside.join(path)],
                None => vec![folder.join(format!("{name}.rs")), folder.join(&name).join("mod.rs")],
            };
            let found = candidates.iter().map(|path| display(path)).find(|path| source(path).is_some());
            let Some(found) = found else { bail!("{}: no file for `mod {name};`", self.files[file]) };
            self.add_file(&found, name.clone(), Some(own), &folder.join(&name), source)?;
        }
        Ok(())
    }

    pub(crate) fn child(&self, of: usize, name: &str) -> Option<usize> {
        self.modules.iter().position(|module| module.parent == Some(of) && module.name == name)
    }
}

fn display(path: &Path) -> String {
    PathBuf::from(path).to_string_lossy().into_owned()
}
