//! Observed changes and their times. The benchmark uses watches instead of polling, because polling would be measured as well.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures::StreamExt as _;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::{oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

/// Change of an object.
pub enum Change<'a, K> {
    /// The object exists in this state.
    Is(&'a K),
    /// The object was deleted, with its last state.
    Gone(&'a K),
}

/// When a watch first observed each name.
pub struct Seen {
    times: watch::Receiver<BTreeMap<String, Instant>>,
    _task: AbortOnDropHandle<()>,
}

impl Seen {
    /// Watches `api` and records the first time of each name that `notable` returns. Returns when the watch is established and the
    /// existing objects were processed.
    pub async fn by<K>(api: Api<K>, notable: impl Fn(Change<'_, K>) -> Option<String> + Send + 'static) -> Result<Seen>
    where
        K: Clone + Debug + Send + DeserializeOwned + Resource + 'static,
    {
        let (times, seen) = watch::channel(BTreeMap::new());
        let (stands, standing) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut stands = Some(stands);
            let mut events = pin!(watcher(api, Config::default()).default_backoff());
            while let Some(event) = events.next().await {
                let name = match &event {
                    Ok(Event::Apply(object) | Event::InitApply(object)) => notable(Change::Is(object)),
                    Ok(Event::Delete(object)) => notable(Change::Gone(object)),
                    Ok(Event::Init) => None,
                    Ok(Event::InitDone) => {
                        if let Some(stands) = stands.take() {
                            // The receiver may be dropped.
                            let _ = stands.send(());
                        }
                        None
                    }
                    Err(error) => {
                        eprintln!("    a watch was interrupted: {error}");
                        None
                    }
                };
                let now = Instant::now();
                if let Some(name) = name {
                    times.send_if_modified(|times: &mut BTreeMap<String, Instant>| {
                        let known = times.contains_key(&name);
                        times.entry(name).or_insert(now);
                        !known
                    });
                }
            }
        });
        let seen = Seen { times: seen, _task: AbortOnDropHandle::new(task) };
        let stood = tokio::time::timeout(Duration::from_secs(60), standing).await;
        stood.context("a watch was not established within 60 s")?.context("a watch ended before it was established")?;
        Ok(seen)
    }

    /// Waits until `name` is observed.
    pub async fn one(&self, name: &str, seconds: u64) -> Result<()> {
        let mut times = self.times.clone();
        let seen = times.wait_for(|times| times.contains_key(name));
        let seen = tokio::time::timeout(Duration::from_secs(seconds), seen).await;
        seen.with_context(|| format!("{name} was not observed within {seconds} s"))?.context("the watch ended")?;
        Ok(())
    }

    /// Waits until `n` names are observed. Returns their times.
    pub async fn all(&mut self, n: usize, what: &str, seconds: u64) -> Result<BTreeMap<String, Instant>> {
        let complete = self.times.wait_for(|times| times.len() >= n);
        if let Ok(times) = tokio::time::timeout(Duration::from_secs(seconds), complete).await {
            return Ok(times.context("the watch ended")?.clone());
        }
        bail!("{what}: {} of {n} within {seconds} s", self.times.borrow().len())
    }
}
