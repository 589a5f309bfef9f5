//! Each field that the documentation or an alert names exists in a definition.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// What the path of a field begins with in a text, after the name of its kind or without it.
const ROOTS: &[&str] =
    &["spec", "status", "features", "limits", "guardrails", "database", "connectionPool", "scheduler"];
/// Ends of names of files.
const EXTENSIONS: &[&str] = &["md", "rs", "yaml", "json"];
/// Stands for a key of a map.
const ANY: &str = "*";

type Field = Vec<String>;

/// The paths of all fields below `schema`, and their ends: a text may leave out the beginning.
fn fields(schema: &Value, path: &mut Field, into: &mut BTreeSet<Field>) {
    let properties = schema["properties"].as_object().into_iter().flatten();
    let key = schema.get("additionalProperties").map(|value| (ANY.to_owned(), value));
    for (name, value) in properties.map(|(name, value)| (name.clone(), value)).chain(key) {
        path.push(name);
        into.extend((0..path.len()).map(|start| path[start..].to_vec()));
        fields(value, path, into);
        path.pop();
    }
    if let Some(items) = schema.get("items") {
        fields(items, path, into);
    }
}

fn known() -> (BTreeSet<String>, BTreeSet<Field>) {
    let (mut kinds, mut known) = (BTreeSet::new(), BTreeSet::new());
    for crd in ahoi_api::crds() {
        let value = serde_json::to_value(&crd).expect("a definition is JSON");
        let schema = &value["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        fields(schema, &mut vec![crd.spec.names.kind.clone()], &mut known);
        kinds.insert(crd.spec.names.kind);
    }
    (kinds, known)
}

/// The fields that a line names, such as `Customer.status.plan` or `features.database.storage`.
fn named(line: &str, kinds: &BTreeSet<String>) -> Vec<Field> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "._-/[]*".contains(c);
    let words = line.split(|c: char| !is_part(c)).filter(|word| !word.contains(['-', '/']));
    let paths = words.map(|word| {
        let segments = word.trim_matches('.').split('.');
        segments.map(|segment| segment.split('[').next().unwrap_or_default().to_owned()).collect::<Field>()
    });
    let is_field = |path: &Field| {
        let start = usize::from(kinds.contains(&path[0]));
        path.get(start).is_some_and(|root| ROOTS.contains(&root.as_str()))
            && path.len() > start + 1
            && path.last().is_some_and(|last| !last.is_empty() && !EXTENSIONS.contains(&last.as_str()))
    };
    paths.filter(is_field).collect()
}

/// Whether a path is one of the fields, or below a map that has the keys that a user chooses.
fn exists(path: &Field, known: &BTreeSet<Field>) -> bool {
    let below_map = |end: usize| known.contains(&[&path[..end], &[ANY.to_owned()]].concat());
    known.contains(path) || (1..path.len()).any(below_map)
}

fn texts(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("a folder can be read").path();
        match path.extension().and_then(|extension| extension.to_str()) {
            None if path.is_dir() => texts(&path, into),
            Some("md") => into.push(path),
            _ => {}
        }
    }
}

#[test]
fn every_field_of_the_documentation_exists() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files: Vec<PathBuf> =
        ["README.md", "CONTRIBUTING.md", "manifests/monitoring/rules.yaml"].map(|file| repository.join(file)).to_vec();
    texts(&repository.join("docs"), &mut files);
    let (kinds, known) = known();
    let (mut found, mut missing) = (0, Vec::new());
    for file in files {
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        for (number, line) in text.lines().enumerate() {
            for path in named(line, &kinds) {
                found += 1;
                if !exists(&path, &known) {
                    missing.push(format!("{}:{}: {}", file.display(), number + 1, path.join(".")));
                }
            }
        }
    }
    assert!(missing.is_empty(), "no kind has these fields:\n{}", missing.join("\n"));
    assert!(found > 100, "{found} fields");
}

#[test]
fn fields_are_found_in_a_text() {
    let (kinds, known) = known();
    let named = |line| named(line, &kinds).into_iter().map(|path| (path.join("."), exists(&path, &known)));
    let of = |line| named(line).collect::<Vec<_>>();
    assert_eq!(
        of("the `Customer.status.plan`, status.nope."),
        [("Customer.status.plan".to_owned(), true), ("status.nope".to_owned(), false)]
    );
    assert_eq!(
        of("`features.database.parameters.temp_file_limit`"),
        [("features.database.parameters.temp_file_limit".to_owned(), true)]
    );
    assert_eq!(of("{range .status.shards[*]}{.index}"), [("status.shards".to_owned(), true)]);
    assert_eq!(of("docs/features.md, features.md, internal.example.com/customer, the status."), []);
}
