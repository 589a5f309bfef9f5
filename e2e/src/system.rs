//! Where Ahoi runs.

/// Namespace of the controllers, the PgBouncer fleets and the admin Secrets.
pub const SYSTEM: &str = "ahoi-system";
