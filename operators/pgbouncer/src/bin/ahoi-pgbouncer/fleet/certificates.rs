//! Copies certificates from the Secrets of a fleet and of DatabaseServers to the one that agents read. Invalid certificates are
//! not copied, and the last valid ones stay.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ahoi_api::{ClientTls, ClientTlsMode, DatabaseServer, POOLER_CERTIFICATES_SECRET, PgBouncer, Reason};
use ahoi_pgbouncer::certificates::{self, AUTHORITIES, Material};
use ahoi_pgbouncer::fleet;
use ahoi_reconcile::{Error, ObjectRef, Platform, Verdict};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, ResourceExt};
use tracing::info;

use crate::shared::Shared;

/// Publishes the valid certificates for the agents of `fleet`, which has so many shards. Returns what is invalid.
pub async fn converge(
    platform: &Platform,
    shared: &Shared,
    fleet: &PgBouncer,
    shards: i32,
) -> Result<Option<Verdict>, Error> {
    let (namespace, name) = (fleet.namespace().unwrap_or_default(), fleet.name_any());
    let present = shared.secrets.get_in(&namespace, POOLER_CERTIFICATES_SECRET);
    let before = Material::read(present.as_deref(), &name);
    let find = |name: &str| shared.secrets.get_in(&namespace, name);
    let (material, problems) = desired(fleet, shards, &shared.servers.all(), find, &before);
    let fleets = shared.fleets.all();
    let exists = |name: &str| {
        fleets.iter().any(|fleet| fleet.name_any() == name && fleet.namespace().as_deref() == Some(&namespace))
    };
    write(platform, &namespace, present, &material.entries(&name), |entry| {
        certificates::fleet_of(entry).is_some_and(|owner| owner != name && exists(owner))
    })
    .await?;
    let text = problems.into_iter().collect::<Vec<_>>().join("; ");
    Ok((!text.is_empty()).then(|| Verdict::stalled(Reason::CertificateRefused, text)))
}

/// The valid certificates, and the problems of the others; pure.
fn desired(
    fleet: &PgBouncer,
    shards: i32,
    servers: &[Arc<DatabaseServer>],
    find: impl Fn(&str) -> Option<Arc<Secret>>,
    before: &Material,
) -> (Material, Vec<String>) {
    let (mut material, mut problems) = (Material::default(), Vec::new());
    let hosts = hosts(fleet, shards);
    let client = &fleet.spec.tls.client;
    if let (Some(reference), true) = (&client.secret_ref, client.mode != ClientTlsMode::Disable) {
        let found = find(&reference.name).ok_or_else(|| "does not exist".to_owned());
        match found.and_then(|secret| client_material(&secret, &hosts, before)) {
            Ok(found) => {
                material = found;
                problems.extend(unverifiable(&material, &hosts, client).map(|hosts| {
                    format!(
                        "the certificate in the Secret {} (spec.tls.client.secretRef) does not cover {hosts}. Until it does, the \
                         pools' Secrets there have sslmode=require, and clients do not verify it",
                        reference.name
                    )
                }));
            }
            Err(problem) => {
                let meanwhile = match before.pair {
                    Some(_) => "pgbouncer keeps the previous certificate until it is corrected",
                    None => "pgbouncer offers no TLS until it is corrected",
                };
                problems
                    .push(format!("the Secret {} (spec.tls.client.secretRef) {problem}; {meanwhile}", reference.name));
                material.pair.clone_from(&before.pair);
                material.client_authorities.clone_from(&before.client_authorities);
            }
        }
    }
    if fleet.spec.tls.server.mode.verifies() {
        match server_authorities(servers, find) {
            Ok(authorities) => material.server_authorities = Some(authorities).filter(|pem| !pem.is_empty()),
            Err(problem) => {
                problems.push(problem);
                material.server_authorities.clone_from(&before.server_authorities);
            }
        }
    }
    (material, problems)
}

/// The host names of the shards, which clients connect to.
fn hosts(fleet: &PgBouncer, shards: i32) -> Vec<String> {
    let (namespace, name) = (fleet.namespace().unwrap_or_default(), fleet.name_any());
    (0..shards).map(|shard| fleet::host(&namespace, &fleet::shard(&name, shard))).collect()
}

/// The certificate for clients. Clients that can verify the present one must be able to verify the new one.
fn client_material(secret: &Secret, hosts: &[String], before: &Material) -> Result<Material, String> {
    let pair = Some(certificates::pair(secret, hosts)?);
    let material =
        Material { pair, client_authorities: certificates::text(secret, AUTHORITIES), ..Material::default() };
    let lost = hosts.iter().find(|host| before.is_verifiable_at(host) && !material.is_verifiable_at(host));
    match lost.filter(|_| material.client_authorities.is_some()) {
        Some(host) => Err(format!("has a certificate that does not cover {host}, which clients connect to")),
        None => Ok(material),
    }
}

/// The hosts at which clients should verify the fleet and cannot, as the certificate does not cover them.
fn unverifiable(material: &Material, hosts: &[String], client: &ClientTls) -> Option<String> {
    let verified = client.mode == ClientTlsMode::Require && material.client_authorities.is_some();
    let hosts: Vec<&str> =
        hosts.iter().map(String::as_str).filter(|host| verified && !material.is_verifiable_at(host)).collect();
    (!hosts.is_empty()).then(|| hosts.join(", "))
}

/// The authorities of all servers, each once: pgbouncer has one file for all.
fn server_authorities(
    servers: &[Arc<DatabaseServer>],
    find: impl Fn(&str) -> Option<Arc<Secret>>,
) -> Result<String, String> {
    let named: BTreeMap<String, String> = servers
        .iter()
        .filter_map(|server| Some((server.spec.tls.ca_secret_ref.as_ref()?.name.clone(), server.name_any())))
        .collect();
    let mut all = BTreeSet::new();
    for (secret, server) in &named {
        let pem = find(secret).and_then(|secret| certificates::text(&secret, AUTHORITIES));
        let pem = pem.filter(|pem| certificates::authorities(pem).is_some()).ok_or_else(|| {
            format!(
                "the Secret {secret} (spec.tls.caSecretRef of the DatabaseServer {server}) has no certificates (PEM) in \
                 {AUTHORITIES}; pgbouncer trusts the previous authorities until it is corrected"
            )
        })?;
        all.insert(format!("{}\n", pem.trim()));
    }
    Ok(all.into_iter().collect())
}

/// Writes the entries if they differ, and removes other entries unless `keep` selects them.
async fn write(
    platform: &Platform,
    namespace: &str,
    present: Option<Arc<Secret>>,
    entries: &BTreeMap<String, ByteString>,
    keep: impl Fn(&str) -> bool,
) -> Result<(), Error> {
    let before = present.as_ref().and_then(|secret| secret.data.clone()).unwrap_or_default();
    let mut data = before.clone();
    data.retain(|entry, _| keep(entry));
    data.extend(entries.clone());
    if data == before {
        return Ok(());
    }
    info!(entries = data.len(), "writing the certificates for the agents");
    let api: Api<Secret> = Api::namespaced(platform.client.clone(), namespace);
    let params = PostParams { field_manager: Some(platform.name().to_owned()), ..PostParams::default() };
    match present {
        // Has the resourceVersion of the cache, so that a concurrent write is not overwritten.
        Some(present) => {
            let secret = Secret { data: Some(data), ..(*present).clone() };
            api.replace(POOLER_CERTIFICATES_SECRET, &params, &secret).await?;
        }
        None => {
            let metadata = ObjectMeta { name: Some(POOLER_CERTIFICATES_SECRET.to_owned()), ..ObjectMeta::default() };
            api.create(&params, &Secret { metadata, data: Some(data), ..Secret::default() }).await?;
        }
    }
    Ok(())
}

/// The fleets that use a Secret.
pub fn fleets_of_secret(shared: &Shared) -> impl Fn(&Secret) -> Vec<ObjectRef<PgBouncer>> + Send + Sync + 'static {
    let shared = shared.clone();
    move |secret| {
        let name = secret.name_any();
        let of_a_server = shared
            .servers
            .all()
            .iter()
            .any(|server| server.spec.tls.ca_secret_ref.as_ref().is_some_and(|reference| reference.name == name));
        let mut fleets = shared.fleets.all();
        fleets.retain(|fleet| {
            let tls = &fleet.spec.tls;
            let its_own = tls.client.secret_ref.as_ref().is_some_and(|reference| reference.name == name);
            fleet.namespace() == secret.namespace()
                && (its_own || name == POOLER_CERTIFICATES_SECRET || of_a_server && tls.server.mode.verifies())
        });
        fleets.iter().map(|fleet| ObjectRef::from_obj(&**fleet)).collect()
    }
}

/// The fleets that use the authorities of servers.
pub fn fleets_of_server(
    shared: &Shared,
) -> impl Fn(&DatabaseServer) -> Vec<ObjectRef<PgBouncer>> + Send + Sync + 'static {
    let shared = shared.clone();
    move |_| {
        let mut fleets = shared.fleets.all();
        fleets.retain(|fleet| fleet.spec.tls.server.mode.verifies());
        fleets.iter().map(|fleet| ObjectRef::from_obj(&**fleet)).collect()
    }
}

#[cfg(test)]
mod tests {
    use ahoi_api::PgBouncerSpec;
    use ahoi_pgbouncer::certificates::{CERTIFICATE, KEY};

    use super::*;

    const AUTHORITY: &str = include_str!("../../../certificates/testdata/authority.crt");
    const GOOD: &str = include_str!("../../../certificates/testdata/good.crt");
    const BOTH: &str = include_str!("../../../certificates/testdata/both-shards.crt");
    const AUTHORITY_OF_BOTH: &str = include_str!("../../../certificates/testdata/both-shards-authority.crt");
    const KEY_OF_GOOD: &str = include_str!("../../../certificates/testdata/good.key");
    const ANOTHER_KEY: &str = include_str!("../../../certificates/testdata/another.key");

    fn fleet(tls: serde_json::Value) -> PgBouncer {
        let spec = PgBouncerSpec { tls: serde_json::from_value(tls).unwrap(), ..PgBouncerSpec::default() };
        let mut fleet = PgBouncer::new("global", spec);
        fleet.metadata.namespace = Some("ahoi-system".into());
        fleet
    }

    fn secret(entries: &[(&str, &str)]) -> Option<Arc<Secret>> {
        let data = entries.iter().map(|(key, text)| ((*key).to_owned(), ByteString(text.as_bytes().to_vec())));
        Some(Arc::new(Secret { data: Some(data.collect()), ..Secret::default() }))
    }

    fn server(name: &str, secret: &str) -> Arc<DatabaseServer> {
        let spec = serde_json::json!({"host": name, "adminSecretRef": {"namespace": "ahoi-system", "name": name},
            "tls": {"mode": "VerifyFull", "caSecretRef": {"name": secret}}});
        Arc::new(DatabaseServer::new(name, serde_json::from_value(spec).unwrap()))
    }

    #[test]
    fn an_invalid_pair_is_reported_and_the_previous_one_is_kept() {
        let fleet = fleet(serde_json::json!({"client": {"mode": "Require", "secretRef": {"name": "tls"}}}));
        let entries = [(CERTIFICATE, GOOD), (KEY, KEY_OF_GOOD), (AUTHORITIES, AUTHORITY)];
        let (good, problems) = desired(&fleet, 1, &[], |_| secret(&entries), &Material::default());
        assert!(problems.is_empty() && good.pair.is_some() && good.client_authorities.as_deref() == Some(AUTHORITY));
        let broken = [(CERTIFICATE, GOOD), (KEY, ANOTHER_KEY)];
        let (kept, problems) = desired(&fleet, 1, &[], |_| secret(&broken), &good);
        assert_eq!(kept, good);
        insta::assert_snapshot!(problems.join("\n"), @"the Secret tls (spec.tls.client.secretRef) has a tls.key that does not belong to its tls.crt; pgbouncer keeps the previous certificate until it is corrected");
        let (none, problems) = desired(&fleet, 1, &[], |_| None, &Material::default());
        assert_eq!(none, Material::default());
        insta::assert_snapshot!(problems.join("\n"), @"the Secret tls (spec.tls.client.secretRef) does not exist; pgbouncer offers no TLS until it is corrected");
    }

    #[test]
    fn a_certificate_that_does_not_cover_every_shard_is_reported() {
        let fleet = fleet(serde_json::json!({"client": {"mode": "Require", "secretRef": {"name": "tls"}}}));
        let entries = [(CERTIFICATE, GOOD), (KEY, KEY_OF_GOOD), (AUTHORITIES, AUTHORITY)];
        let (one, problems) = desired(&fleet, 2, &[], |_| secret(&entries), &Material::default());
        assert!(one.is_verifiable_at("global.ahoi-system.svc") && !one.is_verifiable_at("global-s1.ahoi-system.svc"));
        insta::assert_snapshot!(problems.join("\n"), @"the certificate in the Secret tls (spec.tls.client.secretRef) does not cover global-s1.ahoi-system.svc. Until it does, the pools' Secrets there have sslmode=require, and clients do not verify it");
        assert_eq!(desired(&fleet, 2, &[], |_| secret(&entries), &one), (one.clone(), problems), "the same again");

        // A certificate for both shards is replaced by one that covers only one of them.
        let entries = [(CERTIFICATE, BOTH), (KEY, KEY_OF_GOOD), (AUTHORITIES, AUTHORITY_OF_BOTH)];
        let (both, problems) = desired(&fleet, 2, &[], |_| secret(&entries), &one);
        assert!(problems.is_empty() && both.is_verifiable_at("global-s1.ahoi-system.svc"));
        let entries = [(CERTIFICATE, GOOD), (KEY, KEY_OF_GOOD), (AUTHORITIES, AUTHORITY)];
        let (kept, problems) = desired(&fleet, 2, &[], |_| secret(&entries), &both);
        assert_eq!(kept, both);
        insta::assert_snapshot!(problems.join("\n"), @"the Secret tls (spec.tls.client.secretRef) has a certificate that does not cover global-s1.ahoi-system.svc, which clients connect to; pgbouncer keeps the previous certificate until it is corrected");
    }

    #[test]
    fn a_fleet_without_tls_has_no_certificates() {
        let before = Material { server_authorities: Some(AUTHORITY.into()), ..Material::default() };
        let (material, problems) = desired(&fleet(serde_json::json!({})), 1, &[server("pg-1", "a")], |_| None, &before);
        assert_eq!((material, problems), (Material::default(), vec![]));
    }

    #[test]
    fn authorities_of_all_servers_are_published_once() {
        let fleet = fleet(serde_json::json!({"server": {"mode": "VerifyFull"}}));
        let servers = [server("pg-1", "a"), server("pg-2", "a"), server("pg-3", "b")];
        let other = include_str!("../../../certificates/testdata/another-authority.crt");
        let find = |name: &str| secret(&[(AUTHORITIES, if name == "a" { AUTHORITY } else { other })]);
        let (all, problems) = desired(&fleet, 1, &servers, find, &Material::default());
        assert_eq!(problems, Vec::<String>::new());
        let pem = all.server_authorities.clone().unwrap();
        assert_eq!(certificates::chain(&pem).unwrap().len(), 2);
        let (kept, problems) = desired(&fleet, 1, &servers, |name| if name == "a" { find(name) } else { None }, &all);
        assert_eq!(kept, all, "the previous authorities stay");
        insta::assert_snapshot!(problems.join("\n"), @"the Secret b (spec.tls.caSecretRef of the DatabaseServer pg-3) has no certificates (PEM) in ca.crt; pgbouncer trusts the previous authorities until it is corrected");
    }
}
