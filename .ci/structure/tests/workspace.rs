//! No file of the workspace is in an import circle, and no file imports from a layer above its own.

use std::fs;
use std::path::{Path, PathBuf};

use ahoi_structure::{Crate, Layer, circles};

/// Which files must not use which.
const LAYERS: &[Layer] = &[
    // Users of the kinds alone need no client and no runtime.
    Layer { files: "shared/api/", must_not_use: &["ahoi_reconcile", "axum", "clap", "hyper", "tokio", "tower"] },
    // PostgreSQL, and nothing of Kubernetes.
    Layer {
        files: "operators/database/src/postgres",
        must_not_use: &[
            "k8s_openapi",
            "kube",
            "operators/database/src/database",
            "operators/database/src/server",
            "operators/database/src/context.rs",
        ],
    },
    // One controller each.
    Layer { files: "operators/database/src/database", must_not_use: &["operators/database/src/server"] },
    Layer { files: "operators/database/src/server", must_not_use: &["operators/database/src/database"] },
];

/// The packages of the workspace.
const PACKAGES: &[&str] = &["operators/*", "shared/*", "demo/worker", "e2e", "e2e/bench", ".ci/structure"];

/// The folders of `PACKAGES` that have a Cargo.toml.
fn packages(workspace: &Path) -> anyhow::Result<Vec<String>> {
    let mut packages = Vec::new();
    for pattern in PACKAGES {
        match pattern.strip_suffix("/*") {
            Some(parent) => {
                packages.extend(entries(&workspace.join(parent))?.iter().map(|name| format!("{parent}/{name}")))
            }
            None => packages.push((*pattern).to_owned()),
        }
    }
    packages.retain(|package| workspace.join(package).join("Cargo.toml").is_file());
    Ok(packages)
}

/// The files that cargo takes for roots of targets.
fn roots(workspace: &Path, package: &str) -> anyhow::Result<Vec<String>> {
    let mut roots: Vec<String> = ["src/lib.rs", "src/main.rs"].map(|root| format!("{package}/{root}")).to_vec();
    for folder in ["src/bin", "tests", "examples", "benches"] {
        for name in entries(&workspace.join(package).join(folder))? {
            let path = format!("{package}/{folder}/{name}");
            roots.push(if name.ends_with(".rs") { path } else { format!("{path}/main.rs") });
        }
    }
    roots.retain(|root| workspace.join(root).is_file());
    Ok(roots)
}

/// The names in a folder, sorted; none if it does not exist.
fn entries(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    if folder.is_dir() {
        for entry in fs::read_dir(folder)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// What is wrong in one target.
fn findings(workspace: &Path, root: &str) -> anyhow::Result<String> {
    let imports = Crate::read(workspace, root)?.imports();
    let mut findings: String = circles(&imports).iter().map(|circle| format!("{root}: {circle}")).collect();
    for import in LAYERS.iter().flat_map(|layer| layer.broken_by(&imports)) {
        findings += &format!("{} must not use {} of {}\n", import.file, import.name, import.from);
    }
    Ok(findings)
}

#[test]
fn no_file_is_in_a_circle_or_imports_from_above() -> anyhow::Result<()> {
    let workspace = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let (mut found, mut targets) = (String::new(), 0);
    for package in packages(&workspace)? {
        for root in roots(&workspace, &package)? {
            found += &findings(&workspace, &root)?;
            targets += 1;
        }
    }
    assert!(targets > 20, "only {targets} targets were found");
    assert!(found.is_empty(), "\n{found}");
    Ok(())
}

/// `cargo tree -p ahoi-api -e normal` has 41 crates, and neither a client nor a runtime.
#[test]
fn the_kinds_need_few_crates() -> anyhow::Result<()> {
    let workspace = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let manifest = fs::read_to_string(workspace.join("shared/api/Cargo.toml"))?;
    let normal =
        manifest.split_once("[dependencies]\n").map_or("", |(_, rest)| rest.split('[').next().unwrap_or_default());
    let names: Vec<&str> = normal.lines().filter_map(|line| Some(line.split_once(['.', ' '])?.0)).collect();
    assert_eq!(names, ["k8s-openapi", "kube", "schemars", "serde", "serde_json", "thiserror"]);
    let manifest = fs::read_to_string(workspace.join("Cargo.toml"))?;
    let kube = manifest.lines().find(|line| line.starts_with("kube = ")).unwrap_or_default();
    assert!(kube.ends_with("default-features = false, features = [\"derive\"] }"), "{kube}");
    Ok(())
}
