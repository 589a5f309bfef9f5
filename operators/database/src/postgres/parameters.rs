//! The PostgreSQL parameters that a Database may set.
//!
//! An allow list, because each version of PostgreSQL adds parameters, and some of them load libraries, write files or change the
//! current role.

use std::collections::BTreeMap;

use ahoi_api::Reason;
use ahoi_reconcile::Error;

use super::lists;

/// The allowed parameters, in the spelling that PostgreSQL stores.
const ALLOWED: &[&str] = &[
    "bytea_output",
    "client_connection_check_interval",
    "client_min_messages",
    "constraint_exclusion",
    "cursor_tuple_fraction",
    "DateStyle",
    "deadlock_timeout",
    "default_statistics_target",
    "default_text_search_config",
    "default_toast_compression",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "effective_cache_size",
    "effective_io_concurrency",
    "enable_hashjoin",
    "enable_mergejoin",
    "enable_nestloop",
    "enable_partitionwise_aggregate",
    "enable_partitionwise_join",
    "enable_seqscan",
    "extra_float_digits",
    "from_collapse_limit",
    "gin_fuzzy_search_limit",
    "gin_pending_list_limit",
    "hash_mem_multiplier",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "IntervalStyle",
    "jit",
    "join_collapse_limit",
    "lock_timeout",
    "log_lock_waits",
    "log_min_duration_statement",
    "log_temp_files",
    "logical_decoding_work_mem",
    "maintenance_work_mem",
    "max_parallel_workers_per_gather",
    "plan_cache_mode",
    "random_page_cost",
    "row_security",
    "search_path",
    "seq_page_cost",
    "standard_conforming_strings",
    "statement_timeout",
    "synchronous_commit",
    "tcp_keepalives_count",
    "tcp_keepalives_idle",
    "tcp_keepalives_interval",
    "temp_buffers",
    "temp_file_limit",
    "TimeZone",
    "track_io_timing",
    "transaction_timeout",
    "work_mem",
    "xmloption",
];

/// Checks parameters, and returns them in the spelling that PostgreSQL stores.
pub fn check(parameters: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Error> {
    let checked = parameters.iter().map(|(name, value)| {
        let stored = ALLOWED
            .iter()
            .find(|allowed| allowed.eq_ignore_ascii_case(name))
            .ok_or_else(|| refused(name, "a Database may not set this parameter"))?;
        if value.chars().any(char::is_control) || value.len() > 256 {
            return Err(refused(name, "its value must be one line of at most 256 characters"));
        }
        let value = if lists::is_list(stored) {
            lists::canonical(value)
                .ok_or_else(|| refused(name, "its value must be a list of names, such as app, public"))?
        } else {
            value.clone()
        };
        Ok(((*stored).to_owned(), value))
    });
    checked.collect()
}

/// The error about one parameter.
fn refused(name: &str, why: &str) -> Error {
    Error::terminal(Reason::InvalidParameter, format!("spec.parameters[{name}]: {why}. Correct or remove it"))
}

/// The error if PostgreSQL refuses a parameter; its message names the parameter.
pub fn refused_by_server(parameters: &BTreeMap<String, String>, message: &str) -> Error {
    match parameters.keys().find(|name| message.contains(&format!("\"{name}\""))) {
        Some(name) => refused(name, message),
        None => Error::terminal(Reason::InvalidParameter, format!("spec.parameters: {message}. Correct or remove it")),
    }
}

#[cfg(test)]
mod tests;
