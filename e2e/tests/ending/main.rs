//! Deletion of customers and servers: it always completes, closes all logins, and leaves nothing that the policy does not keep. These
//! tests compare the state of the whole cluster before and after, so each has the cluster exclusively.

mod foreground;
mod obstacles;
mod read_only;
mod refused;
mod verifiers_full;
mod world;

use tokio::sync::Mutex;

/// Held by the test that uses the cluster.
static ALONE: Mutex<()> = Mutex::const_new(());
