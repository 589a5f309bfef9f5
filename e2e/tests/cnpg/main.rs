//! CloudNativePG 1.30 with three instances as a DatabaseServer, installed as in docs/cloudnative-pg.md. Each test is a row of a table:
//! clients book through the pooler during a disturbance, and no query may fail that could have waited. The tests run one after the
//! other: `make test-cnpg`.

mod data;
mod engine;
mod guide;
mod row;
mod shutdown;
mod switchover;
mod unavailable;

static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
