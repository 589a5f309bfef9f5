//! From a DatabaseServer and its Secrets to the endpoint that the controllers connect to.

use ahoi_api::{DatabaseServer, Passwords, Reason};
use ahoi_reconcile::{Cache, Error};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;

use crate::postgres::server::{Endpoint, Login};
use crate::postgres::tls::are_authorities;
use crate::secret::{self, AUTHORITIES_BYTES, CA};

/// The endpoint of a server, with the login of its admin Secret. `secrets` are those of the controllers' own `namespace`.
pub fn of(server: &DatabaseServer, secrets: &Cache<Secret>, namespace: &str) -> Result<Endpoint, Error> {
    let spec = &server.spec;
    Ok(Endpoint {
        name: server.name_any(),
        uid: server.uid().unwrap_or_default(),
        host: spec.host.clone(),
        port: spec.port,
        admin_database: spec.admin_database.clone(),
        tls: spec.tls.mode,
        login: admin(server, secrets, namespace)?,
        authorities: authorities(server, secrets, namespace)?,
        hides_passwords: server.status.as_ref().and_then(|status| status.passwords) == Some(Passwords::File),
    })
}

fn admin(server: &DatabaseServer, secrets: &Cache<Secret>, namespace: &str) -> Result<Login, Error> {
    let (name, reference) = (server.name_any(), &server.spec.admin_secret_ref);
    if reference.namespace != namespace {
        let message = format!("spec.adminSecretRef.namespace must be {namespace}");
        return Err(Error::terminal(Reason::SecretNamespaceNotAllowed, message));
    }
    let which = format!("Secret {}/{}", reference.namespace, reference.name);
    let Some(admin) = secrets.get_in(namespace, &reference.name) else {
        return Err(Error::structural(
            Reason::SecretNotFound,
            format!(
                "{which} of DatabaseServer {name} does not exist: create it with username and password of the admin role"
            ),
        ));
    };
    let key = |key: &str| {
        secret::text(&admin, key).filter(|text| !text.is_empty()).ok_or_else(|| {
            let message = format!("{which} of DatabaseServer {name} has no key {key}: add it");
            Error::structural(Reason::SecretIncomplete, message)
        })
    };
    Ok(Login { username: key("username")?, password: key("password")? })
}

/// Certificates (PEM) of the authorities that the server's certificate may come from, if the server names a Secret with them.
fn authorities(server: &DatabaseServer, secrets: &Cache<Secret>, namespace: &str) -> Result<Option<String>, Error> {
    let Some(reference) = &server.spec.tls.ca_secret_ref else { return Ok(None) };
    let which = format!("Secret {namespace}/{} in spec.tls.caSecretRef of DatabaseServer", reference.name);
    let name = server.name_any();
    let Some(found) = secrets.get_in(namespace, &reference.name) else {
        let message = format!("{which} {name} does not exist: create it with the certificates under its key {CA}");
        return Err(Error::structural(Reason::SecretNotFound, message));
    };
    let pem = secret::text(&found, CA).filter(|pem| are_authorities(pem) && pem.len() <= AUTHORITIES_BYTES);
    let problem = || format!("{which} {name} must have certificates (PEM) under its key {CA}, at most 256 KiB of them");
    pem.map(Some).ok_or_else(|| Error::structural(Reason::SecretIncomplete, problem()))
}

#[cfg(test)]
mod tests;
