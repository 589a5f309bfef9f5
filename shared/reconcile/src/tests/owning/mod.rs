//! Children of an owner, against the recording API server.

use k8s_openapi::api::core::v1::ConfigMap;

use super::{Ship, map, named};
use crate::error::Error;
use crate::owned::Owned;
use crate::testing::{self, ApiServer};

mod apply;
mod deletion;
mod owners;
mod repair;

fn cargo<const N: usize>(data: [(&str, &str); N]) -> ConfigMap {
    named(ConfigMap { data: Some(map(data)), ..ConfigMap::default() }, "port", "cargo")
}

/// The ship's ConfigMaps, as a cache that sees what is on the server now and hears nothing later.
fn owned(server: &ApiServer, seen: impl IntoIterator<Item = ConfigMap>) -> Owned<ConfigMap> {
    Owned::new(&server.platform(), &testing::cache(seen))
}

async fn refused(owned: &Owned<ConfigMap>, ship: &Ship, desired: ConfigMap) -> Error {
    owned.apply(ship, desired).await.expect_err("this must be refused")
}

const CARGO: &str = "/api/v1/namespaces/port/configmaps/cargo";
const CARGOES: &str = "/api/v1/namespaces/port/configmaps";

/// ConfigMaps that keep a ship within its bounds, found by a label that others can remove.
fn guarding(server: &ApiServer) -> Owned<ConfigMap> {
    owned(server, []).linked_by("example.com/ship").adopting_unowned()
}
