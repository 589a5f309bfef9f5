//! Places outside of this crate that list kinds, controllers or features, and cannot be derived from one list. A test names the file
//! that lacks an entry. CONTRIBUTING.md, "Add a kind", has the same files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSONSchemaProps};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(file: &str) -> String {
    fs::read_to_string(repository().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Fails unless the file contains the text.
fn lists(file: &str, text: &str) {
    assert!(read(file).contains(text), "{file} lacks {text:?}");
}

/// The names of the folders in `folder`.
fn folders(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(repository().join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    entries
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// The schema of a field.
fn property<'a>(schema: &'a JSONSchemaProps, name: &str) -> &'a JSONSchemaProps {
    schema.properties.as_ref().and_then(|properties| properties.get(name)).unwrap_or_else(|| panic!("no field {name}"))
}

fn kinds() -> impl Iterator<Item = CustomResourceDefinition> {
    ahoi_api::crds().into_iter()
}

/// The lines of a rule for these resources, such as `resources: [databases, schedulers]`.
fn has_rule(role: &str, resource: &str) -> bool {
    let lists = role.lines().filter_map(|line| line.trim().strip_prefix("resources: [")?.strip_suffix(']'));
    lists.flat_map(|list| list.split(", ")).any(|listed| listed == resource)
}

#[test]
fn every_kind_is_listed() {
    let roles: Vec<String> =
        folders("manifests/controllers").iter().map(|name| format!("manifests/controllers/{name}/rbac.yaml")).collect();
    for crd in kinds() {
        let names = crd.spec.names;
        lists("crds/kustomization.yaml", &format!("- {}.yaml", names.plural));
        lists("shared/api/src/lib.rs", &format!("[`{}`]", names.kind));
        // The fleet of the kind PgBouncer has its row as "PgBouncer fleet".
        lists("docs/glossary.md", &format!("\n| {} ", names.kind));
        let status = format!("{}/status", names.plural);
        assert!(
            roles.iter().any(|role| has_rule(&read(role), &status)),
            "no controller may write {status}: add it to the rbac.yaml of its owner in manifests/controllers"
        );
    }
}

#[test]
fn every_controller_is_deployed() {
    let controllers = folders("operators");
    assert_eq!(controllers, folders("manifests/controllers"), "operators/ and manifests/controllers/ differ");
    for name in controllers {
        let kustomization = format!("manifests/controllers/{name}/kustomization.yaml");
        lists(&kustomization, &format!("nameSuffix: -{name}\n"));
        lists(&kustomization, &format!("app.kubernetes.io/name: ahoi-{name},"));
        lists(&kustomization, &format!("value: [ahoi-{name}]"));
        lists("manifests/base/kustomization.yaml", &format!("- ../controllers/{name}\n"));
        lists(
            "manifests/monitoring/rules.yaml",
            &format!("absent(ahoi_leader{{app_kubernetes_io_name=\"ahoi-{name}\"}})"),
        );
        lists("CONTRIBUTING.md", &format!("operators/{name}/"));
    }
}

/// `connectionPool` is `connection_pool` in Rust.
fn snake_case(name: &str) -> String {
    name.chars().fold(String::new(), |mut all, c| {
        if c.is_ascii_uppercase() {
            all.push('_');
        }
        all.push(c.to_ascii_lowercase());
        all
    })
}

#[test]
fn every_feature_of_a_customer_is_handled() {
    let customer = kinds().find(|crd| crd.spec.names.kind == "Customer").unwrap();
    let schema = customer.spec.versions[0].schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap();
    let features = property(property(schema, "spec"), "features").properties.as_ref().unwrap();
    let (registry, announced) =
        ("operators/customer/src/features/mod.rs", read("operators/customer/src/features/announced.rs"));
    for name in features.keys() {
        lists("docs/features.md", &format!("`{name}`"));
        if !announced.contains(&format!("name: \"{name}\"")) {
            lists(registry, &format!("            {}: ", snake_case(name)));
        }
    }
}

/// The child of each feature: `database: DatabaseFeature => Database,`.
#[test]
fn every_child_of_a_customer_can_be_written() {
    let registry = read("operators/customer/src/features/mod.rs");
    let children: Vec<&str> =
        registry.lines().filter_map(|line| line.split_once(" => ")?.1.trim().strip_suffix(',')).collect();
    assert!(children.len() > 3, "{children:?}");
    for child in children {
        let crd = kinds().find(|crd| crd.spec.names.kind == child);
        let plural = crd.unwrap_or_else(|| panic!("shared/api/src/kinds.rs lacks {child}")).spec.names.plural;
        let role = "manifests/controllers/customer/rbac.yaml";
        assert!(has_rule(&read(role), &plural), "{role} lacks {plural}");
    }
}
