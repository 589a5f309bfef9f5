//! `crdgen DIR` writes `crds/`: one YAML file for each kind, and a kustomization that lists them.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = PathBuf::from(env::args().nth(1).ok_or("usage: crdgen DIR")?);
    fs::create_dir_all(&dir)?;
    let mut kustomization = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n".to_owned();
    for crd in ahoi_api::crds() {
        let file = dir.join(format!("{}.yaml", crd.spec.names.plural));
        fs::write(&file, serde_saphyr::to_string(&crd)?)?;
        println!("{}", file.display());
        kustomization += &format!("  - {}.yaml\n", crd.spec.names.plural);
    }
    fs::write(dir.join("kustomization.yaml"), kustomization)?;
    Ok(())
}
