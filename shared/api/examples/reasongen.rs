//! `reasongen FILE` writes the reference page of the reasons, `docs/reference/reasons.md`.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let file = PathBuf::from(env::args().nth(1).ok_or("usage: reasongen FILE")?);
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(&file, ahoi_api::reasons_page())?;
    println!("{}", file.display());
    Ok(())
}
