//! The reference page of the reasons is what the code says.

use std::path::Path;

#[test]
fn page_is_current() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/reasons.md");
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(written == ahoi_api::reasons_page(), "{} is stale: run `make crds`", file.display());
}
