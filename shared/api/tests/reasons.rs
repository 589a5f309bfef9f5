//! The reference page of the reasons is what the code says, and has every reason that a controller gives.

use std::path::{Path, PathBuf};
use std::{fs, io};

use ahoi_api::{EventReason, Reason};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn page_is_current() {
    let file = root().join("docs/reference/reasons.md");
    let written = fs::read_to_string(&file).unwrap_or_default();
    assert!(written == ahoi_api::reasons_page(), "{} is stale: run `make crds`", file.display());
}

/// Sources of a folder, without their tests.
fn sources(folder: &Path, found: &mut Vec<(PathBuf, String)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && name != "tests" && name != "benches" {
            sources(&path, found)?;
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            let text = fs::read_to_string(&path)?;
            found.push((path.clone(), text.split("#[cfg(test)]").next().unwrap_or_default().to_owned()));
        }
    }
    Ok(())
}

/// What stands as text in a call that takes a reason.
fn literals(source: &str, calls: &[&str]) -> Vec<String> {
    let after = |call| source.split(call).skip(1).filter_map(|rest: &str| rest.trim_start().strip_prefix('"'));
    calls.iter().flat_map(|call| after(*call)).filter_map(|rest| Some(rest.split('"').next()?.to_owned())).collect()
}

/// A reason that is still text where it is given has its variant, too.
#[test]
fn every_reason_in_the_sources_is_a_variant() {
    let conditions = [
        "structural(",
        "terminal(",
        "waiting(",
        "stalled(",
        "progressing(",
        "refuse(",
        "ConditionStatus::True,",
        "ConditionStatus::False,",
        "ConditionStatus::Unknown,",
    ];
    let mut found = Vec::new();
    sources(&root().join("operators"), &mut found).unwrap();
    for (file, source) in &found {
        for reason in literals(source, &conditions).into_iter().filter(|text| text != "False") {
            assert!(Reason::parse(&reason).is_some(), "{}: {reason} is not in Reason", file.display());
        }
        for reason in literals(source, &["EventType::Warning,", "EventType::Normal,", "Transition::normal("]) {
            assert!(EventReason::parse(&reason).is_some(), "{}: {reason} is not in EventReason", file.display());
        }
    }
    assert!(found.len() > 100, "{} files", found.len());
}
