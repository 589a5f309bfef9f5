//! `crdgen DIR` writes one YAML file a kind, as `crds/` has them.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = PathBuf::from(env::args().nth(1).ok_or("usage: crdgen DIR")?);
    fs::create_dir_all(&dir)?;
    for crd in ahoi_api::crds() {
        let file = dir.join(format!("{}.yaml", crd.spec.names.plural));
        fs::write(&file, serde_saphyr::to_string(&crd)?)?;
        println!("{}", file.display());
    }
    Ok(())
}
