//! Verifiers that pgbouncer itself does not look up: see [`FileLogins`](ahoi_pgbouncer::config::FileLogins).

use std::collections::BTreeMap;

use ahoi_pgbouncer::certificates::Tls;
use ahoi_pgbouncer::hold::endpoint;
use ahoi_pgbouncer::pool::Pool;
use futures::future::join_all;
use tokio::time::Instant;

use super::{Agent, LOOKUP_INTERVAL};
use crate::server;

impl Agent {
    /// Looks up what pgbouncer will not, if it is new or due.
    pub(super) async fn look_up(&mut self, pools: &[Pool], tls: &Tls) {
        let wanted = pools.iter().filter_map(|pool| pool.route.as_ref());
        let loaded = self.known.loaded.iter().flat_map(BTreeMap::values);
        let needed = self.known.file_logins.needed(wanted.chain(loaded), &self.known.verifiers);
        self.known.file_logins.retain(&needed);
        let is_due = self.looked_up.is_none_or(|last| last.elapsed() >= LOOKUP_INTERVAL);
        if needed.is_empty() {
            self.looked_up = None;
        }
        if needed.is_empty() || (!is_due && self.known.file_logins.has_tried(&needed)) {
            return;
        }
        let lookups = needed.iter().map(|(alias, lookup)| {
            let endpoint = endpoint(&lookup.route, &self.known.poolers, tls);
            async move {
                let answer = match endpoint {
                    Some(endpoint) => server::look_up(&endpoint, &lookup.logins).await,
                    None => Err("the Secret ahoi-pooler-auth has no login for it".to_owned()),
                };
                (alias, lookup, answer)
            }
        });
        for (alias, lookup, answer) in join_all(lookups).await {
            self.known.file_logins.update(alias, answer, &lookup.logins);
        }
        self.looked_up = Some(Instant::now());
    }
}
