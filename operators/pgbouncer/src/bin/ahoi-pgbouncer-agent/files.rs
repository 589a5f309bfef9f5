//! Writes files atomically.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use ahoi_pgbouncer::config::Files;
use anyhow::{Context, Result};

/// Writes the files that differ, the one that includes the others last, and returns their names. pgbouncer reads them at the next
/// reload.
///
/// A truncated file is valid to pgbouncer and has fewer routes. So each file is written under another name, synced and renamed.
pub fn write(directory: &Path, files: &Files) -> Result<Vec<&'static str>> {
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let mut replaced = Vec::new();
    for (name, content) in &files.files {
        if replace(directory, name, content.as_bytes()).with_context(|| format!("cannot write {name}"))? {
            replaced.push(*name);
        }
    }
    if !replaced.is_empty() {
        File::open(directory)?.sync_all()?;
    }
    Ok(replaced)
}

fn replace(directory: &Path, name: &str, content: &[u8]) -> Result<bool> {
    let (path, temporary) = (directory.join(name), directory.join(format!(".{name}.new")));
    if fs::read(&path).is_ok_and(|present| present == content) {
        return Ok(false);
    }
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, &path)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_replaced_and_private() {
        let directory = std::env::temp_dir().join(format!("ahoi-files-{}", std::process::id()));
        let files =
            |text: &str| Files { files: vec![("a.ini", text.into())], marker: String::new(), databases: [].into() };
        write(&directory, &files("first")).unwrap();
        assert_eq!(write(&directory, &files("second")).unwrap(), ["a.ini"]);
        assert_eq!(write(&directory, &files("second")).unwrap(), [""; 0]);
        fs::write(directory.join("a.ini"), "manually").unwrap();
        assert_eq!(write(&directory, &files("second")).unwrap(), ["a.ini"], "restored");
        assert_eq!(fs::read_to_string(directory.join("a.ini")).unwrap(), "second");
        assert_eq!(fs::metadata(directory.join("a.ini")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "nothing temporary stays");
        fs::remove_dir_all(&directory).unwrap();
    }
}
