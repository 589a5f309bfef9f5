use std::collections::BTreeMap;

use crate::{Crate, Import, Layer, circles};

/// The imports of a crate of these files, as "file: name of other file".
fn imports(files: &[(&str, &str)]) -> Vec<Import> {
    let files: BTreeMap<&str, &str> = files.iter().copied().collect();
    let source = |file: &str| files.get(file).map(|text| Ok((*text).to_owned()));
    Crate::parse("src/lib.rs", &source).unwrap().imports()
}

fn texts(files: &[(&str, &str)]) -> Vec<String> {
    let text = |import: &Import| format!("{}: {} of {}", import.file, import.name, import.from);
    imports(files).iter().map(text).collect()
}

#[test]
fn an_import_counts_for_the_file_that_defines_the_name() {
    let files = [
        ("src/lib.rs", "mod a; mod b; pub use b::Plan;"),
        ("src/a.rs", "use crate::b::Server; use crate::Plan; fn f() -> Server { crate::b::deep::connect() }"),
        ("src/b/mod.rs", "pub mod deep; pub use deep::Server; pub struct Plan;"),
        ("src/b/deep.rs", "pub struct Server; pub fn connect() {}"),
    ];
    let expected =
        ["src/a.rs: Server of src/b/deep.rs", "src/a.rs: connect of src/b/deep.rs", "src/a.rs: Plan of src/b/mod.rs"];
    assert_eq!(texts(&files), expected);
}

#[test]
fn a_reexport_counts_where_the_file_uses_the_name_itself() {
    let files = [
        ("src/lib.rs", "mod a; mod b; pub use a::A; pub use b::B; fn f(_: B) {}"),
        ("src/a.rs", "pub struct A;"),
        ("src/b.rs", "pub struct B;"),
    ];
    assert_eq!(texts(&files), ["src/lib.rs: B of src/b.rs"]);
}

#[test]
fn globs_aliases_and_modules_are_followed() {
    let files = [
        ("src/lib.rs", "mod a; mod b; mod c; pub use c::*;"),
        (
            "src/a.rs",
            "use crate::b as other; use super::*; fn f() -> Deep { other::g(); inner::h() } mod inner { pub fn h() {} }",
        ),
        ("src/b.rs", "pub fn g() {}"),
        ("src/c.rs", "#[derive(kube::CustomResource)] #[kube(group = \"x\", kind = \"Deep\")] pub struct DeepSpec;"),
    ];
    let expected = ["src/a.rs: g of src/b.rs", "src/a.rs: Deep of src/c.rs", "src/c.rs: CustomResource of kube"];
    assert_eq!(texts(&files), expected);
}

#[test]
fn paths_in_functions_and_macros_count() {
    let files = [
        ("src/lib.rs", "mod a; mod b;"),
        ("src/a.rs", "fn f() { use crate::b::One; println!(\"{}\", crate::b::two(One)); }"),
        ("src/b.rs", "pub struct One; pub fn two(_: One) {}"),
    ];
    assert_eq!(texts(&files), ["src/a.rs: One of src/b.rs", "src/a.rs: two of src/b.rs"]);
}

#[test]
fn tests_in_a_file_do_not_count_for_it_and_files_of_tests_do() {
    let files = [
        ("src/lib.rs", "mod a; mod b;"),
        ("src/a.rs", "pub fn f() {} #[cfg(test)] use crate::b::g; #[cfg(test)] mod tests { use crate::b::g; }"),
        ("src/b.rs", "pub fn g() { crate::a::f() } #[cfg(test)] mod tests;"),
        ("src/b/tests.rs", "use super::*; fn t() { g() }"),
    ];
    assert_eq!(texts(&files), ["src/b.rs: f of src/a.rs", "src/b/tests.rs: g of src/b.rs"]);
    assert!(circles(&imports(&files)).is_empty());
}

#[test]
fn a_circle_names_its_files_and_what_ties_them() {
    let files = [
        ("src/lib.rs", "mod a; mod b; mod c; mod d;"),
        ("src/a.rs", "use crate::b::B; pub struct A;"),
        ("src/b.rs", "use crate::c::C; pub struct B;"),
        ("src/c.rs", "use crate::a::A; pub struct C;"),
        ("src/d.rs", "use crate::a::A;"),
    ];
    let circles = circles(&imports(&files));
    assert_eq!(circles.len(), 1);
    let expected = "3 files import each other:\n  src/a.rs uses B of src/b.rs\n  src/b.rs uses C of src/c.rs\n  \
                    src/c.rs uses A of src/a.rs\n";
    assert_eq!(circles[0].to_string(), expected);
}

#[test]
fn a_parent_and_its_child_can_be_a_circle() {
    let files = [
        ("src/lib.rs", "mod a; pub struct Config; fn f() { a::run() }"),
        ("src/a.rs", "use super::Config; pub fn run() {}"),
    ];
    assert_eq!(circles(&imports(&files)).len(), 1);
    let untied = [files[0], ("src/a.rs", "pub fn run() {}")];
    assert!(circles(&imports(&untied)).is_empty());
}

#[test]
fn a_layer_must_not_use_files_above_it_or_crates() {
    let files = [
        ("src/lib.rs", "mod sql; mod web;"),
        ("src/sql/mod.rs", "use kube::Api; use crate::web::Page; use tokio::time;"),
        ("src/web.rs", "use kube::Client; pub struct Page;"),
    ];
    let layer = Layer { files: "src/sql", must_not_use: &["kube", "src/web"] };
    let imports = imports(&files);
    let broken: Vec<&str> = layer.broken_by(&imports).iter().map(|import| import.name.as_str()).collect();
    assert_eq!(broken, ["Api", "Page"]);
}

#[test]
fn a_module_without_a_file_is_an_error() {
    let source = |file: &str| (file == "src/lib.rs").then(|| Ok("mod lost;".to_owned()));
    let error = Crate::parse("src/lib.rs", &source).unwrap_err();
    assert_eq!(error.to_string(), "src/lib.rs: no file for `mod lost;`");
}
