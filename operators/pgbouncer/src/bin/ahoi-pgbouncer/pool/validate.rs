//! Whether the objects that a pool refers to fit together; pure.

use ahoi_api::{DatabaseServer, Passwords, PgBouncer, Reason, TlsMode};
use ahoi_reconcile::Error;
use kube::ResourceExt;

use super::dereference::Inputs;

/// Whether a route can be made from these objects.
pub fn validate(inputs: &Inputs) -> Result<(), Error> {
    check_tls(&inputs.server, &inputs.fleet)?;
    let has_login = inputs.server.status.as_ref().is_some_and(|status| status.pooler_login.is_some());
    if !has_login && inputs.passwords() == Passwords::Lookup {
        return Err(Error::waiting(
            Reason::DatabaseServerNotPrepared,
            format!("the DatabaseServer {} has no login for pgbouncer yet", inputs.server.name_any()),
        ));
    }
    Ok(())
}

/// pgbouncer has one TLS mode for all servers. It must not be weaker than a server requires, nor require what a server lacks.
fn check_tls(server: &DatabaseServer, fleet: &PgBouncer) -> Result<(), Error> {
    let (required, configured) = (server.spec.tls.mode, fleet.spec.tls.server.mode);
    let (server_name, fleet_name) = (server.name_any(), fleet.name_any());
    let problem = if required >= TlsMode::Require && configured < required {
        format!(
            "the DatabaseServer {server_name} requires the TLS mode {required:?}, and the PgBouncer {fleet_name} uses \
             {configured:?}. Set spec.tls.server.mode of the PgBouncer to {required:?}"
        )
    } else if configured.verifies() && server.spec.tls.ca_secret_ref.is_none() {
        format!(
            "the PgBouncer {fleet_name} verifies the certificates of servers (spec.tls.server.mode is {configured:?}), and \
             the DatabaseServer {server_name} has no spec.tls.caSecretRef. Set it, and spec.tls.mode to {configured:?}"
        )
    } else if configured >= TlsMode::Require && required == TlsMode::Disable {
        format!(
            "the DatabaseServer {server_name} has no TLS (spec.tls.mode is Disable), and the PgBouncer {fleet_name} \
             requires it of all servers (spec.tls.server.mode is {configured:?}). Set spec.tls.mode of the DatabaseServer to \
             {configured:?}, or spec.tls.server.mode of the PgBouncer to Prefer"
        )
    } else {
        return Ok(());
    };
    Err(Error::structural(Reason::TlsMismatch, problem))
}

#[cfg(test)]
mod tests {
    use ahoi_api::PgBouncerSpec;
    use serde_json::json;

    use super::*;

    fn server(tls: serde_json::Value) -> DatabaseServer {
        let spec = json!({"host": "pg", "adminSecretRef": {"namespace": "ahoi-system", "name": "pg-1"}, "tls": tls});
        DatabaseServer::new("pg-1", serde_json::from_value(spec).unwrap())
    }

    fn fleet(tls: serde_json::Value) -> PgBouncer {
        let tls = serde_json::from_value(tls).unwrap();
        PgBouncer::new("global", PgBouncerSpec { tls, ..PgBouncerSpec::default() })
    }

    #[test]
    fn a_tls_mismatch_of_fleet_and_server_names_both_and_the_remedy() {
        let ca = json!({"name": "ca"});
        let verified = json!({"mode": "VerifyFull", "caSecretRef": ca});
        let judge = |server_tls: &serde_json::Value, mode: &str| {
            let outcome = check_tls(&server(server_tls.clone()), &fleet(json!({"server": {"mode": mode}})));
            outcome.map_or_else(|error| error.to_string(), |()| "ok".to_owned())
        };
        for (server, mode) in [(json!({}), "Prefer"), (json!({"mode": "Require"}), "Require"), (json!({}), "Require")] {
            assert_eq!(judge(&server, mode), "ok", "{server} {mode}");
        }
        for (server, mode) in
            [(verified.clone(), "VerifyFull"), (json!({"mode": "VerifyCa", "caSecretRef": ca}), "VerifyFull")]
        {
            assert_eq!(judge(&server, mode), "ok", "{server} {mode}");
        }
        insta::assert_snapshot!(judge(&json!({"mode": "Require"}), "Prefer"), @"the DatabaseServer pg-1 requires the TLS mode Require, and the PgBouncer global uses Prefer. Set spec.tls.server.mode of the PgBouncer to Require");
        insta::assert_snapshot!(judge(&verified, "VerifyCa"), @"the DatabaseServer pg-1 requires the TLS mode VerifyFull, and the PgBouncer global uses VerifyCa. Set spec.tls.server.mode of the PgBouncer to VerifyFull");
        insta::assert_snapshot!(judge(&json!({"mode": "Disable"}), "Require"), @"the DatabaseServer pg-1 has no TLS (spec.tls.mode is Disable), and the PgBouncer global requires it of all servers (spec.tls.server.mode is Require). Set spec.tls.mode of the DatabaseServer to Require, or spec.tls.server.mode of the PgBouncer to Prefer");
        insta::assert_snapshot!(judge(&json!({"mode": "Prefer"}), "VerifyFull"), @"the PgBouncer global verifies the certificates of servers (spec.tls.server.mode is VerifyFull), and the DatabaseServer pg-1 has no spec.tls.caSecretRef. Set it, and spec.tls.mode to VerifyFull");
    }
}
