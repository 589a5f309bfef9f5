//! Names that more than one process must agree on.

/// The API group of every kind. `make rename GROUP=…` puts a platform team's own domain here and everywhere else.
pub const GROUP: &str = "internal.example.com";

/// Condition of a ConnectionPool while new credentials wait for the fleet, and False.
pub const CREDENTIALS_PROVED: &str = "CredentialsProved";

/// Label on everything that belongs to a customer; its value is the Customer's name.
pub const CUSTOMER_LABEL: &str = "internal.example.com/customer";

/// Label on every binding Secret; its value is `direct` or `pooled`. Controllers watch Secrets by it alone.
pub const BINDING_LABEL: &str = "internal.example.com/binding";

/// Label on a core Namespace; its value is the uid of the CustomerNamespace that made it. The core Namespace never
/// carries an ownerReference: a re-created CRD or a restored backup must not garbage-collect a tenant.
pub const NAMESPACE_OWNER_LABEL: &str = "internal.example.com/customer-namespace";

/// Label on a core Namespace; its value `within-namespace` has an admission policy bound the NetworkPolicies that its tenant adds.
pub const TENANT_NETWORK_POLICIES_LABEL: &str = "internal.example.com/tenant-network-policies";

/// Label on a core Namespace whose pods may connect to the PgBouncer fleet `name`; its value is `true`.
#[must_use]
pub fn fleet_access_label(name: &str) -> String {
    format!("fleet.internal.example.com/{name}")
}

/// Finalizers, one for each owner of something that garbage collection cannot clean up. A parent may create a child
/// with its finalizer in place, which saves the child's controller the write.
pub mod finalizers {
    /// Customer: children are removed in an order that cannot hang.
    pub const CUSTOMER: &str = "internal.example.com/customer";
    /// CustomerNamespace: the core Namespace.
    pub const CUSTOMER_NAMESPACE: &str = "internal.example.com/customer-namespace";
    /// Database: database and roles on the server.
    pub const DATABASE: &str = "internal.example.com/database";
    /// DatabaseServer: the poolers' logins on the server.
    pub const DATABASE_SERVER: &str = "internal.example.com/database-server";
    /// ConnectionPool: its route in every pgbouncer process.
    pub const CONNECTION_POOL: &str = "internal.example.com/connection-pool";
}

/// The Secret beside the agents with the [`PoolerLogin`](crate::PoolerLogin) of each DatabaseServer: one key a server, the
/// server's name. Written by the database controller, read by the agents, in the namespace of Ahoi.
pub const POOLER_AUTH_SECRET: &str = "ahoi-pooler-auth";

/// The two logins of a database, or of pgbouncer on a server. They alternate: a rotation replaces one by the other.
#[must_use]
pub fn logins(of: &str) -> [String; 2] {
    ["a", "b"].map(|generation| format!("{of}_{generation}"))
}

/// How many Secrets the verifiers are spread over; a Secret holds at most 1 MiB, which are some 7,000 verifiers.
const VERIFIER_SECRETS: u32 = 8;

/// The Secrets with the SCRAM verifiers of logins whose passwords the poolers cannot look up: one key a login. Written by
/// the database controller, read by the agents, in the namespace of Ahoi. Their names are fixed, so that a Role can
/// name them: an agent must not read the admin Secrets beside them.
pub fn verifier_secrets() -> impl Iterator<Item = String> {
    (0..VERIFIER_SECRETS).map(|number| format!("ahoi-verifiers-{number}"))
}

/// The one of [`verifier_secrets`] for the logins of `database`, whose last hexadecimal digit decides.
#[must_use]
pub fn verifier_secret(database: &str) -> String {
    let digit = database.chars().last().and_then(|digit| digit.to_digit(16)).unwrap_or_default();
    format!("ahoi-verifiers-{}", digit % VERIFIER_SECRETS)
}
/// The Secret beside the agents with the certificates that they give to pgbouncer: for each fleet `<fleet>.tls.crt` and
/// `<fleet>.tls.key`, `<fleet>.ca.crt` by which its clients verify it, and `<fleet>.servers.crt` by which it verifies
/// servers. Written by the controller of fleets, from Secrets that it has looked at; read by the agents.
pub const POOLER_CERTIFICATES_SECRET: &str = "ahoi-pooler-certificates";

/// The Secret type of the Service Binding specification for PostgreSQL
/// (<https://servicebinding.io/spec/core/1.1.0/#well-known-secret-entries>).
pub const BINDING_SECRET_TYPE: &str = "servicebinding.io/postgresql";

/// The core Namespace of the customer `name`.
#[must_use]
pub fn namespace_of(customer: &str) -> String {
    format!("customer-{customer}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_database_has_one_of_the_secrets_that_the_roles_name() {
        let secrets: Vec<String> = verifier_secrets().collect();
        assert_eq!(secrets.len(), 8);
        for digit in "0123456789abcdef".chars() {
            assert!(secrets.contains(&verifier_secret(&format!("c_00000000000{digit}"))));
        }
        assert_eq!(verifier_secret("c_0123456789af"), "ahoi-verifiers-7");
    }
}
