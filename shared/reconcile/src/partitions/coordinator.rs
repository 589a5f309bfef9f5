//! Takes and releases partitions.
//!
//! With `--partitions=3`, a controller `ahoi-x` has these Leases:
//!
//! - `ahoi-x-replica-POD`, one for each replica, which renews it every two seconds. While it does, it keeps its partitions.
//! - `ahoi-x-0-of-3` to `ahoi-x-2-of-3`, one for each partition, with the replica that holds it. Each change of the holder is one
//!   conditional write: of two replicas that take a partition, one is refused.
//! - `ahoi-x`, the Lease of a controller with a single partition. Here its holder is `3-partitions`, and any replica renews it. So
//!   replicas with another number of partitions, or with a single one, wait until the last of these replicas has ended, and the
//!   reverse.
//!
//! A replica that has renewed nothing for 15 seconds counts as dead, and its partitions are free. It stops by itself 10 seconds
//! after it sent the last renewal that was accepted, see [`Fence`](super::Fence), and its process starts again. A partition whose
//! Lease was deleted is free 15 seconds later, for the same reason.
//!
//! The Leases of replicas only decide how many partitions each of them takes. That no object is reconciled by two replicas at once
//! depends on the Leases of the partitions, which are taken by conditional writes, and on the fence.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ahoi_api::GROUP;
use anyhow::{Context as _, bail};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::{Api, Client, Resource as _};
use rand::Rng as _;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use super::Partitions;
use super::share::{Move, Standing};
use super::sightings::{Sightings, holder, version};
use crate::metrics::Metrics;

/// After this long without a renewal others take over.
pub(super) const LEASE: Duration = Duration::from_secs(15);
/// After this long without a renewal a replica stops.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);
/// The time between two calls of [`Coordinator::look`].
const PERIOD: Duration = Duration::from_secs(2);
/// Timeout of a request, which leaves time for another one before the deadline.
const CALL: Duration = Duration::from_secs(3);
/// The Leases of replicas that ended this long ago are deleted.
const LEASE_RETENTION: Duration = Duration::from_secs(120);

/// This replica among the others.
pub(crate) struct Coordinator {
    api: Api<Lease>,
    /// The name of the controller.
    pub(super) name: String,
    /// The name of this replica.
    pub(super) me: String,
    pub(super) partitions: Partitions,
    pub(super) sightings: Sightings,
    /// The Lease of a single leader as this replica wrote it last.
    pub(super) renewed_lease: Option<Lease>,
    /// When the last accepted renewal of our own Lease was sent.
    renewed: Option<Instant>,
    layout: Layout,
    /// Partitions taken, whose objects are reconciled from the next period on: by then the caches have the former holder's writes.
    arriving: BTreeSet<u32>,
    /// The partition to release when its reconciles have ended.
    leaving: Option<u32>,
    waited: u32,
}

/// The Lease with the number of partitions.
#[derive(Default)]
struct Layout {
    /// When the last renewal of it was sent, at the earliest.
    renewed: Option<Instant>,
    /// The last observed version, and when its request was sent.
    seen: Option<(String, Instant)>,
    wait_is_logged: bool,
}

/// The Leases at one moment.
struct View {
    replicas: BTreeMap<String, Lease>,
    partitions: BTreeMap<u32, Lease>,
    layout: Option<Lease>,
    /// When the request was sent.
    asked: Instant,
    /// When the response arrived.
    seen: Instant,
}

/// Whether a replica may take partitions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Eligibility {
    /// Its caches are complete, and it is not stopping.
    pub(crate) may_take: bool,
}

impl Coordinator {
    pub(crate) fn new(client: Client, namespace: &str, name: &str, me: &str, partitions: &Partitions) -> Self {
        Coordinator {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            me: me.to_owned(),
            partitions: partitions.clone(),
            sightings: Sightings::default(),
            renewed_lease: None,
            renewed: None,
            layout: Layout::default(),
            arriving: BTreeSet::new(),
            leaving: None,
            waited: 0,
        }
    }

    /// Returns when this replica has lost its partitions. Nothing may be written after that.
    pub(crate) async fn run(&mut self, eligibility: impl Fn() -> Eligibility, metrics: &Metrics) {
        let fence = self.partitions.fence().clone();
        loop {
            let looked = tokio::select! {
                looked = self.look(eligibility(), metrics) => looked,
                () = fence.fallen() => Ok(false),
            };
            match looked {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => warn!(error = format!("{error:#}"), "cannot renew the Leases; retrying"),
            }
            let held = self.partitions.held().len();
            metrics.partitions_held.set(i64::try_from(held).unwrap_or(i64::MAX));
            metrics.leader.set(i64::from(held > 0));
            let period = PERIOD.mul_f64(rand::rng().random_range(0.8..1.2));
            tokio::select! {
                () = tokio::time::sleep(period) => {}
                () = fence.fallen() => return,
            }
        }
    }

    /// Reads the Leases, and renews, takes and releases them. `false`: this replica lost its partitions.
    pub(crate) async fn look(&mut self, eligibility: Eligibility, metrics: &Metrics) -> anyhow::Result<bool> {
        if self.partitions.count() == 1 {
            return self.lead(eligibility, metrics).await;
        }
        let view = self.view().await.context("reading the Leases")?;
        self.note(&view);
        if !self.renew(&view).await? || !self.renew_layout(&view).await? {
            return Ok(false);
        }
        let (Some(renewed), Some(layout)) = (self.renewed, self.layout.renewed) else { return Ok(true) };
        self.partitions.fence().extend(renewed.min(layout) + DEADLINE);
        if !self.partitions.fence().is_open() {
            return Ok(!self.partitions.fence().has_fallen());
        }
        if let Some(lost) =
            self.partitions.held().into_iter().find(|partition| self.named(&view, *partition) != Some(&self.me))
        {
            warn!(partition = lost, "another replica has taken a partition of this one");
            return Ok(false);
        }
        for partition in std::mem::take(&mut self.arriving) {
            if self.named(&view, partition) == Some(&self.me) {
                info!(partition, "reconciling the objects of a partition");
                self.partitions.gain(partition);
            }
        }
        if !self.leave(&view).await? {
            self.share(&view, eligibility, metrics).await?;
        }
        self.forget(&view).await;
        Ok(true)
    }

    /// Releases every Lease whose reconciles have ended. The others expire.
    pub(crate) async fn resign(&mut self) -> anyhow::Result<()> {
        for partition in self.partitions.held() {
            self.partitions.end(partition);
        }
        if self.partitions.count() == 1 {
            return self.release_lead().await;
        }
        let view = self.view().await?;
        for (partition, lease) in &view.partitions {
            if holder(lease) == Some(&self.me) && self.partitions.let_go(*partition) {
                self.write(Some(lease), &self.partition_name(*partition), "").await?;
            }
        }
        if let Some(own) = view.replicas.get(&self.me)
            && self.partitions.held().is_empty()
        {
            self.remove(own).await?;
        }
        Ok(())
    }

    async fn view(&self) -> anyhow::Result<View> {
        let asked = Instant::now();
        let ours = ListParams::default().labels(&format!("{}={}", replicas_of(), self.name));
        let (list, layout) =
            bounded(futures::future::try_join(self.api.list(&ours), self.api.get_opt(&self.name))).await?;
        let mut view =
            View { replicas: BTreeMap::new(), partitions: BTreeMap::new(), layout, asked, seen: Instant::now() };
        for lease in list {
            let name = lease.metadata.name.clone().unwrap_or_default();
            if let Some(replica) = name.strip_prefix(&format!("{}-replica-", self.name)) {
                view.replicas.insert(replica.to_owned(), lease);
            } else if let Some(partition) =
                (0..self.partitions.count()).find(|partition| self.partition_name(*partition) == name)
            {
                view.partitions.insert(partition, lease);
            }
        }
        Ok(view)
    }

    fn note(&mut self, view: &View) {
        self.sightings.note(&self.name, view.layout.as_ref(), view.seen);
        let holders = view.partitions.values().filter_map(holder).map(str::to_owned);
        let replicas: BTreeSet<String> = view.replicas.keys().cloned().chain(holders).collect();
        for replica in &replicas {
            self.sightings.note(&self.replica_name(replica), view.replicas.get(replica), view.seen);
        }
        let mut known: BTreeSet<String> = replicas.iter().map(|replica| self.replica_name(replica)).collect();
        known.insert(self.name.clone());
        for partition in 0..self.partitions.count() {
            let (name, lease) = (self.partition_name(partition), view.partitions.get(&partition));
            // A Lease that never existed has no holder who would have to notice its end.
            if lease.is_some() || self.sightings.has(&name) {
                self.sightings.note(&name, lease, view.seen);
                known.insert(name);
            }
        }
        self.sightings.retain(|name| known.contains(name));
    }

    /// Renews the Lease of this replica. `false`: it was deleted, and others may take its partitions.
    async fn renew(&mut self, view: &View) -> anyhow::Result<bool> {
        let own = view.replicas.get(&self.me);
        if own.is_none() && self.renewed.is_some() {
            warn!("the Lease of this replica was deleted");
            return Ok(false);
        }
        let sent = Instant::now();
        if self.write(own, &self.replica_name(&self.me), &self.me).await.context("renewing")?.is_some() {
            self.renewed = Some(sent);
        }
        Ok(true)
    }

    /// Renews the Lease with the number of partitions. `false`: this replica had renewed it, and now it has another holder.
    async fn renew_layout(&mut self, view: &View) -> anyhow::Result<bool> {
        let ours = format!("{}-partitions", self.partitions.count());
        let named = view.layout.as_ref().and_then(holder);
        if let Some(other) = named.filter(|named| *named != ours)
            && self.sightings.age(&self.name, view.seen) < LEASE
        {
            if !std::mem::replace(&mut self.layout.wait_is_logged, true) {
                info!(holder = other, "waiting for replicas with another number of partitions to end");
            }
            return Ok(self.layout.renewed.is_none());
        }
        if let (Some(lease), Some(_)) = (&view.layout, named.filter(|named| *named == ours)) {
            let now = version(lease);
            // Another replica renewed it after we had requested the version before.
            let other = self.layout.seen.as_ref().filter(|(before, _)| *before != now).map(|(_, asked)| *asked);
            self.layout.seen = Some((now, view.asked));
            if let Some(asked) = other {
                self.layout.renewed = self.layout.renewed.max(Some(asked));
                return Ok(true);
            }
        }
        let sent = Instant::now();
        if let Some(lease) = self.write(view.layout.as_ref(), &self.name, &ours).await.context("renewing")? {
            self.layout.renewed = Some(sent);
            self.layout.seen = Some((version(&lease), sent));
        }
        Ok(true)
    }

    /// Releases the partition that is leaving, once its reconciles have ended. `true`: released, and the view is outdated.
    async fn leave(&mut self, view: &View) -> anyhow::Result<bool> {
        let Some(partition) = self.leaving.filter(|partition| self.partitions.let_go(*partition)) else {
            return Ok(false);
        };
        self.leaving = None;
        info!(partition, "releasing a partition");
        self.write(view.partitions.get(&partition), &self.partition_name(partition), "")
            .await
            .context("releasing a partition")?;
        Ok(true)
    }

    async fn share(&mut self, view: &View, eligibility: Eligibility, metrics: &Metrics) -> anyhow::Result<()> {
        if !eligibility.may_take {
            return Ok(());
        }
        let standing = self.standing(view);
        let next = standing.next();
        let waits = next == Move::Rest && !standing.free.is_empty();
        // Leases that name this replica although it does not hold them: from before its start, or because a release failed. No
        // other replica takes them while this one runs.
        let mut stray: Vec<u32> = standing.free.iter().copied().collect();
        self.waited = if waits { self.waited.saturating_add(1) } else { 0 };
        stray.retain(|partition| self.named(view, *partition) == Some(&self.me));
        let wanted = match next {
            Move::Take(partitions) => partitions,
            // One at a time.
            Move::Give(partition) if self.leaving.is_none() => {
                self.partitions.end(partition);
                self.leaving = Some(partition);
                Vec::new()
            }
            Move::Give(_) | Move::Rest => Vec::new(),
        };
        stray.retain(|partition| !wanted.contains(partition));
        for partition in wanted {
            // Renew first if this took long.
            if view.asked.elapsed() > CALL {
                return Ok(());
            }
            self.take(view, partition, metrics).await?;
        }
        for partition in stray {
            self.write(view.partitions.get(&partition), &self.partition_name(partition), "")
                .await
                .context("releasing a partition")?;
        }
        Ok(())
    }

    async fn take(&mut self, view: &View, partition: u32, metrics: &Metrics) -> anyhow::Result<()> {
        let lease = view.partitions.get(&partition);
        let taken = self.write(lease, &self.partition_name(partition), &self.me).await.context("taking a partition")?;
        if taken.is_none() {
            debug!(partition, "another replica was faster");
            return Ok(());
        }
        self.note_takeover(partition, lease, metrics);
        self.arriving.insert(partition);
        Ok(())
    }

    pub(super) fn note_takeover(&self, partition: u32, former: Option<&Lease>, metrics: &Metrics) {
        let from = match former.and_then(holder) {
            Some(dead) if dead != self.me => "expired",
            _ => "free",
        };
        info!(partition, from, "took a partition");
        metrics.partition_takeovers.get_or_create(&[("from", from)]).inc();
    }

    pub(super) async fn find(&self, name: &str) -> anyhow::Result<Option<Lease>> {
        bounded(self.api.get_opt(name)).await.with_context(|| format!("Lease {name}"))
    }

    fn standing<'a>(&'a self, view: &'a View) -> Standing<'a> {
        let held: BTreeSet<u32> = self.partitions.held().into_iter().chain(self.arriving.iter().copied()).collect();
        let alive = |who: &str| self.sightings.age(&self.replica_name(who), view.seen) < LEASE;
        // The holder of a deleted Lease may not have noticed yet.
        let deleted = |partition: u32| {
            let missing = self.sightings.missing(&self.partition_name(partition), view.seen);
            missing.is_some_and(|missing| missing < LEASE)
        };
        let others = view.replicas.iter().filter(|(_, lease)| self.divides_as_we_do(lease));
        let others = others.map(|(who, _)| who.as_str()).filter(|who| *who != self.me && alive(who));
        let mut others: BTreeMap<&str, u32> = others.map(|who| (who, 0)).collect();
        let mut free = BTreeSet::new();
        for partition in 0..self.partitions.count() {
            match self.named(view, partition) {
                // It may name this replica from before its start.
                Some(who) if who == self.me => {
                    if !held.contains(&partition) {
                        free.insert(partition);
                    }
                }
                Some(who) if alive(who) => {
                    if let Some(has) = others.get_mut(who) {
                        *has += 1;
                    }
                }
                None if deleted(partition) => {}
                _ => drop(free.insert(partition)),
            }
        }
        Standing { me: &self.me, count: self.partitions.count(), mine: held, others, free, waited: self.waited }
    }

    fn divides_as_we_do(&self, lease: &Lease) -> bool {
        let label = lease.metadata.labels.as_ref().and_then(|labels| labels.get(&partitions_label()));
        label.is_some_and(|label| *label == self.partitions.count().to_string())
    }

    /// Deletes the Leases of replicas that ended long ago. Only the holder of partition 0 does.
    async fn forget(&self, view: &View) {
        if !self.partitions.has(0) {
            return;
        }
        for (replica, lease) in &view.replicas {
            if self.sightings.age(&self.replica_name(replica), view.seen) > LEASE_RETENTION
                && let Err(error) = self.remove(lease).await
            {
                debug!(%error, replica, "cannot delete the Lease of a replica that ended");
            }
        }
    }

    async fn remove(&self, lease: &Lease) -> anyhow::Result<()> {
        let meta = &lease.metadata;
        let exactly = Preconditions { uid: meta.uid.clone(), resource_version: meta.resource_version.clone() };
        let params = DeleteParams::default().preconditions(exactly);
        bounded(self.api.delete(meta.name.as_deref().unwrap_or_default(), &params)).await.map(drop)
    }

    /// Makes `who` the holder if the Lease has not changed since it was observed. `None`: it has.
    pub(super) async fn write(&self, seen: Option<&Lease>, name: &str, who: &str) -> anyhow::Result<Option<Lease>> {
        let lease = self.lease(seen, name, who);
        let written = match seen {
            Some(_) => timeout(CALL, self.api.replace(name, &PostParams::default(), &lease)).await,
            None => timeout(CALL, self.api.create(&PostParams::default(), &lease)).await,
        };
        match written {
            Ok(Ok(lease)) => Ok(Some(lease)),
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(None),
            Ok(Err(error)) => Err(error).with_context(|| format!("Lease {name}")),
            Err(_) => bail!("Lease {name}: no answer in {} seconds", CALL.as_secs()),
        }
    }

    fn lease(&self, seen: Option<&Lease>, name: &str, who: &str) -> Lease {
        let mut lease = seen.cloned().unwrap_or_default();
        let meta = lease.meta_mut();
        meta.name = Some(name.to_owned());
        meta.managed_fields = None;
        // The Lease with the number of partitions is read by its name.
        if name != self.name {
            let labels = meta.labels.get_or_insert_default();
            labels.insert(replicas_of(), self.name.clone());
            labels.insert(partitions_label(), self.partitions.count().to_string());
        }
        let before = lease.spec.take().unwrap_or_default();
        let same = before.holder_identity.as_deref() == Some(who);
        let now = MicroTime(Timestamp::now());
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(who.to_owned()),
            lease_duration_seconds: Some(i32::try_from(LEASE.as_secs()).unwrap_or(15)),
            acquire_time: before.acquire_time.filter(|_| same).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(before.lease_transitions.unwrap_or(0).saturating_add(i32::from(!same))),
            ..LeaseSpec::default()
        });
        lease
    }

    fn named<'a>(&self, view: &'a View, partition: u32) -> Option<&'a str> {
        view.partitions.get(&partition).and_then(holder)
    }

    fn partition_name(&self, partition: u32) -> String {
        format!("{}-{partition}-of-{}", self.name, self.partitions.count())
    }

    fn replica_name(&self, replica: &str) -> String {
        format!("{}-replica-{replica}", self.name)
    }
}

fn replicas_of() -> String {
    format!("{GROUP}/partitions-of")
}

fn partitions_label() -> String {
    format!("{GROUP}/partitions")
}

async fn bounded<T>(call: impl Future<Output = Result<T, kube::Error>>) -> anyhow::Result<T> {
    timeout(CALL, call).await.with_context(|| format!("no answer in {} seconds", CALL.as_secs()))?.map_err(Into::into)
}
