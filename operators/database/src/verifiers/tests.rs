use ahoi_reconcile::testing::ApiServer;

use super::*;
use crate::testing::{context, secret};

const PATH: &str = "/api/v1/namespaces/ahoi-system/secrets";

#[tokio::test]
async fn verifiers_are_published_once_and_removed() {
    let api = ApiServer::new();
    let empty = context(&api, vec![], vec![], vec![]);
    keep(&empty, "c_0123456789ab_a", "v").await.unwrap();
    let name = "ahoi-verifiers-3";
    assert_eq!(api.take_writes(), [format!("PATCH {PATH}/{name}"), format!("POST {PATH}")]);
    // The cache does not have it yet.
    keep(&empty, "c_ba9876543213_a", "w").await.unwrap();
    assert_eq!(api.take_writes(), [format!("PATCH {PATH}/{name}")]);

    let data = [("c_0123456789ab_a", "v"), ("c_0123456789ab_b", "v"), ("c_ba9876543213_a", "w")];
    let filled = context(&api, vec![], vec![], vec![secret(name, &data)]);
    keep(&filled, "c_0123456789ab_a", "v").await.unwrap();
    forget(&filled, &Names::of("c_00000000000b")).await.unwrap();
    assert_eq!(api.take_requests(), [], "nothing at rest");
    assert!(!has(&filled, "c_0123456789ab_a", "another"));
    assert!(are_known(&filled, "c_0123456789ab") && !are_known(&filled, "c_00000000000b"));
    forget(&filled, &Names::of("c_0123456789ab")).await.unwrap();
    assert_eq!(api.take_writes(), [format!("PATCH {PATH}/{name}")]);
}

#[tokio::test]
async fn a_full_secret_is_reported() {
    let api = ApiServer::new();
    let full = secret("ahoi-verifiers-3", &[("c_ba9876543213_a", &"x".repeat(FULL))]);
    let context = context(&api, vec![], vec![], vec![full]);
    let error = keep(&context, "c_0123456789ab_a", "v").await.unwrap_err();
    assert_eq!(error.reason(), "VerifiersFull");
    assert_eq!(api.take_requests(), []);
    // Replacing an entry needs no more capacity.
    let present = [("c_0123456789ab_a", "former"), ("c_ba9876543213_a", &"x".repeat(FULL - 6))];
    let context = self::context(&api, vec![], vec![], vec![secret("ahoi-verifiers-3", &present)]);
    keep(&context, "c_0123456789ab_a", "latter").await.unwrap();
    assert!(!api.take_writes().is_empty());
}
