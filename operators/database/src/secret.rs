//! The binding Secret: what an application needs to connect to its database directly, under the keys of the Service Binding
//! specification, and the SCRAM verifier of the login.

use std::collections::BTreeMap;

use ahoi_api::binding::{self, BindingData};
use ahoi_api::{BINDING_LABEL, BINDING_SECRET_TYPE, CUSTOMER_LABEL, Database, DatabaseServerSpec, ServerTls, TlsMode};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::core::ObjectMeta;
use sha2::{Digest, Sha256};

use crate::postgres::names::Names;
use crate::postgres::scram::{self, Credentials};

/// Key of the certificates (PEM) of authorities in a Secret.
pub const CA: &str = binding::CA;

/// Maximum size of these certificates; all publicly trusted authorities fit. Each binding Secret contains them, and all binding
/// Secrets are in memory.
pub const AUTHORITIES_BYTES: usize = 256 * 1024;

/// Suffix of the name of a binding Secret, after the name of its Database.
pub const SUFFIX: &str = "-database";

/// Name of the binding Secret of a Database.
pub fn name_of(database: &str) -> String {
    format!("{database}{SUFFIX}")
}

/// The desired Secret.
pub fn desired(database: &Database, server: &DatabaseServerSpec, names: &Names, credentials: &Credentials) -> Secret {
    let mut labels = BTreeMap::from([(BINDING_LABEL.to_owned(), "direct".to_owned())]);
    if let Some(customer) = database.labels().get(CUSTOMER_LABEL) {
        labels.insert(CUSTOMER_LABEL.to_owned(), customer.clone());
    }
    let data = BindingData {
        host: server.host.clone(),
        port: server.port,
        database: names.database.clone(),
        username: names.login.clone(),
        password: credentials.password.clone(),
        // `prefer` is the default of clients; without it the Secret does not change when a server gets a spec.tls.
        sslmode: (server.tls.mode != TlsMode::Prefer).then(|| server.tls.mode.sslmode().to_owned()),
        ca: None,
        verifier: Some(credentials.verifier.clone()),
    };
    Secret {
        metadata: ObjectMeta {
            name: Some(name_of(&database.name_any())),
            namespace: database.namespace(),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        type_: Some(BINDING_SECRET_TYPE.to_owned()),
        data: Some(data.encode()),
        ..Secret::default()
    }
}

/// Adds what a client needs to verify the server as its DatabaseServer demands.
pub fn secured(mut secret: Secret, tls: &ServerTls, authorities: Option<&str>) -> Secret {
    if let Some(authorities) = authorities.filter(|_| tls.mode.verifies()) {
        let data = secret.data.get_or_insert_default();
        data.insert(CA.to_owned(), ByteString(authorities.as_bytes().to_vec()));
    }
    secret
}

/// Whether the API server would refuse to update the Secret to the desired one.
pub fn must_be_recreated(live: &Secret, desired: &Secret) -> bool {
    live.immutable == Some(true) || live.type_ != desired.type_
}

/// A short hash of the content. It reveals nothing, because a random password is part of it.
pub fn version(secret: &Secret) -> String {
    let mut sha = Sha256::new();
    for (key, value) in secret.data.iter().flatten() {
        sha.update((key.len() as u64).to_be_bytes());
        sha.update(key);
        sha.update((value.0.len() as u64).to_be_bytes());
        sha.update(&value.0);
    }
    sha.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The value of a key, if it is text.
pub fn text(secret: &Secret, key: &str) -> Option<String> {
    binding::text(secret.data.as_ref()?, key)
}

/// The verifier in a binding Secret.
pub fn verifier(secret: &Secret) -> Option<String> {
    text(secret, binding::VERIFIER)
}

/// The credentials in the Secret, if password and verifier match. The check takes 4096 hashes, and is skipped if the content has
/// the `known` version, which this controller wrote.
pub fn credentials(secret: &Secret, known: Option<&str>) -> Option<Credentials> {
    let credentials = Credentials { password: text(secret, "password")?, verifier: verifier(secret)? };
    let is_known = known == Some(version(secret).as_str());
    (is_known || scram::matches(&credentials.password, &credentials.verifier)).then_some(credentials)
}

/// The password in a damaged Secret, if it still matches the verifier of the login on the server. The login need not be replaced
/// then.
pub fn recovered(secret: &Secret, verifier: &str) -> Option<Credentials> {
    let in_uri = || binding::password_of(&text(secret, binding::URI)?);
    let candidates = [text(secret, "password"), in_uri()].into_iter().flatten();
    let mut matching = candidates.filter(|password| scram::matches(password, verifier));
    matching.next().map(|password| Credentials { password, verifier: verifier.to_owned() })
}

#[cfg(test)]
mod tests;
