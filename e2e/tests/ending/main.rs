//! The end of customers and servers: it always comes, and nothing stays open or behind. These tests compare all that there is
//! before and after, so each has the cluster for itself.

mod foreground;
mod obstacles;
mod read_only;
mod refused;
mod verifiers_full;
mod world;

use tokio::sync::Mutex;

/// Held by the test that has the cluster.
static ALONE: Mutex<()> = Mutex::const_new(());
