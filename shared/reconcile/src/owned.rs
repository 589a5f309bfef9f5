//! Children: written only if they differ, deleted only if they are ours.

use std::sync::Arc;
use std::time::Instant;

use ahoi_api::{GROUP, Object, Reason};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;
use kube::api::PropagationPolicy;
use tracing::info;

use crate::cache::{Cache, Hash, Key, controller_of};
use crate::desired::{APPLIED_HASH, Desired};
use crate::error::Error;
use crate::objects::{Deleted, Objects};
use crate::platform::Platform;
use crate::repairs::Repairs;

/// How a child refers to its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// By an owner reference with `controller: true`: garbage collection takes the child with its owner.
    Controller,
    /// By a label whose value is the owner's name: for a child that must survive a recreated or restored owner, such as a tenant's
    /// Namespace.
    Label {
        /// The label's name.
        key: String,
    },
}

/// Children of one kind: the [`Cache`] with their live state, and the writes that keep them as desired.
#[derive(Clone)]
pub struct Owned<K> {
    cache: Cache<K>,
    objects: Objects<K>,
    ownership: Ownership,
    /// See [`Owned::adopting_unowned`].
    adopts_unowned: bool,
    /// See [`Owned::overwritten_if`].
    must_overwrite: fn(&K, &K) -> bool,
    /// See [`Owned::recreated_if`].
    must_recreate: fn(&K, &K) -> bool,
    /// See [`Owned::recreated_if_refused`].
    recreates_if_refused: bool,
    repairs: Arc<Repairs>,
    /// See [`Owned::deleted_in_foreground`].
    propagation: PropagationPolicy,
}

impl<K: Object> Owned<K> {
    /// Children in `cache`. Its scope and selectors must include every child that is written, and it must not trim fields that are
    /// compared.
    pub fn new(platform: &Platform, cache: &Cache<K>) -> Self {
        Owned {
            cache: cache.clone(),
            objects: platform.objects(),
            ownership: Ownership::Controller,
            adopts_unowned: false,
            must_overwrite: |_, _| false,
            must_recreate: |_, _| false,
            recreates_if_refused: false,
            repairs: Arc::default(),
            propagation: PropagationPolicy::Background,
        }
    }

    /// Links children to their owner by a label with the owner's name, instead of by an owner reference.
    pub fn linked_by(mut self, label: impl Into<String>) -> Self {
        self.ownership = Ownership::Label { key: label.into() };
        self
    }

    /// For children that guard something and whose names no other client uses: without this, a client that may change one could
    /// disable it by removing its label. Adopts a child that is not linked to its owner unless another object controls it, and
    /// repairs a child that is being deleted for as long as a finalizer blocks its deletion.
    pub fn adopting_unowned(mut self) -> Self {
        self.adopts_unowned = true;
        self
    }

    /// Overwrites fields that others added to a child if `must_overwrite` returns true for the live and the desired child. By
    /// default they stay, since API servers add defaults.
    pub fn overwritten_if(mut self, must_overwrite: fn(&K, &K) -> bool) -> Self {
        self.must_overwrite = must_overwrite;
        self
    }

    /// Deletes and creates a child if `must_recreate` returns true for the live and the desired child: for changes that the API
    /// does not allow, such as the role of a RoleBinding.
    pub fn recreated_if(mut self, must_recreate: fn(&K, &K) -> bool) -> Self {
        self.must_recreate = must_recreate;
        self
    }

    /// For children that a tenant may write. Deletes and creates a child if the API server refuses its repair (an immutable field,
    /// metadata that is too large), and repairs a child that is being deleted for as long as a finalizer blocks its deletion.
    pub fn recreated_if_refused(mut self) -> Self {
        self.recreates_if_refused = true;
        self
    }

    /// Deletes children in the foreground: a child exists until its own children are deleted, such as the pods of a Job.
    pub fn deleted_in_foreground(mut self) -> Self {
        self.propagation = PropagationPolicy::Foreground;
        self
    }

    /// The cache the children are read from.
    pub fn cache(&self) -> &Cache<K> {
        &self.cache
    }

    /// How a child refers to its owner.
    pub fn ownership(&self) -> &Ownership {
        &self.ownership
    }

    /// The owner's children of this kind, including those that are being deleted.
    pub fn children<O: Object>(&self, owner: &O) -> Vec<Arc<K>> {
        match &self.ownership {
            Ownership::Controller => {
                owner.meta().uid.as_deref().map(|uid| self.cache.owned_by(uid)).unwrap_or_default()
            }
            Ownership::Label { .. } => {
                self.cache.select(|child| self.is_owned(owner, child).then(|| Arc::new(child.clone())))
            }
        }
    }

    /// The owner's child of this name, in the owner's namespace. In a packed cache, only this object is decoded.
    pub fn child<O: Object>(&self, owner: &O, name: &str) -> Option<Arc<K>> {
        let child = self.cache.lookup(&Key::new(owner.meta().namespace.as_deref(), name))?;
        self.is_owned(owner, &child).then_some(child)
    }

    /// The child of this namespace and name that lost its owner reference: a backup was restored, or the owner was deleted with
    /// `--cascade=orphan`. It has all of these labels, a controller of ours wrote it, and no other object of ours controls it.
    /// [`apply`](Owned::apply) links it to the owner again.
    pub fn orphan<O: Object>(&self, owner: &O, like: &ObjectMeta) -> Option<Arc<K>> {
        let child = self.cache.lookup(&Key::new(like.namespace.as_deref(), like.name.as_deref()?))?;
        let labels = child.meta().labels.as_ref();
        let mut wanted = like.labels.iter().flatten();
        let is_labelled = wanted.all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value));
        let is_lost = is_labelled && !self.is_owned(owner, &child) && self.has_lost_its_owner(owner, &child, like);
        is_lost.then_some(child)
    }

    /// Creates or changes the child so that it is as desired. Sends nothing if it is already.
    ///
    /// Returns the live child, with the status of its own controller. An object of the same name that is not the owner's is a
    /// `NameConflict`; it is never taken over silently (but see [`adopting_unowned`](Owned::adopting_unowned)). Labels, annotations,
    /// finalizers and defaults that others add stay.
    pub async fn apply<O: Object>(&self, owner: &O, mut desired: K) -> Result<Arc<K>, Error> {
        self.claim(owner, &mut desired)?;
        let desired = Desired::new(desired)?;
        let key = Key::of(&desired.object);
        let live = match self.cache.lookup(&key) {
            Some(live) => live,
            // A POST costs two thirds of an apply that creates. The fields of its object belong to an `Update` entry, which a
            // later server-side apply would not prune; so changes are sent as a PUT, which removes what is no longer desired.
            None => match self.create(&desired).await {
                Ok(created) => return Ok(self.agreed(created, &desired.hash)),
                // Newer than the cache, or outside of its selectors.
                Err(Error::Kube(kube::Error::Api(status))) if status.is_already_exists() => {
                    self.found(owner, self.objects.get(&key).await?)
                }
                Err(error) => return Err(for_create(error, &key)),
            },
        };
        self.check(owner, &live, &desired.object)?;
        let must_recreate = !self.cache.agrees(&*live, &desired.hash) && (self.must_recreate)(&live, &desired.object);
        if live.meta().deletion_timestamp.is_none() {
            return if must_recreate {
                self.recreate(desired, &live).await
            } else {
                self.update(owner, desired, live).await
            };
        }
        // It is effective for as long as a finalizer blocks its deletion.
        if (self.adopts_unowned || self.recreates_if_refused) && !must_recreate {
            self.update(owner, desired, live.clone()).await?;
        }
        Err(being_deleted(&*live))
    }

    async fn create(&self, desired: &Desired<K>) -> Result<K, Error> {
        self.admit(desired)?;
        self.objects.create(&desired.object).await
    }

    /// An error if the child was repaired too often recently: a client that changes or deletes it again and again must not cause
    /// endless writes.
    fn admit(&self, desired: &Desired<K>) -> Result<(), Error> {
        if self.repairs.admit(&Key::of(&desired.object), &desired.hash, Instant::now()) {
            return Ok(());
        }
        let what = format!("{} {}", K::kind(&()), name_of(&desired.object));
        Err(Error::waiting(
            Reason::ChangedRepeatedly,
            format!(
                "{what} is changed or deleted again and again by another client. Find out by which; it is repaired within 5 minutes"
            ),
        ))
    }

    /// The live object of a name that the cache does not have. If it is not the owner's, it may be outside of the cache's selectors
    /// and is not cached: no watch would report its changes.
    fn found<O: Object>(&self, owner: &O, live: K) -> Arc<K> {
        if self.is_owned(owner, &live) { self.cache.written(live) } else { Arc::new(live) }
    }

    async fn update<O: Object>(&self, owner: &O, desired: Desired<K>, live: Arc<K>) -> Result<Arc<K>, Error> {
        let is_owned = self.is_owned(owner, &live);
        // Even if the API server stored something else than we sent: a webhook that changes it would cause a write in each
        // reconcile.
        if is_owned && self.cache.agrees(&*live, &desired.hash) {
            return Ok(live);
        }
        let hash = desired.hash.clone();
        let refused =
            (self.must_overwrite)(&live, &desired.object).then(|| "fields that another client added".to_owned());
        let difference = desired.difference(&live)?.or(refused);
        if difference.is_none() && is_owned {
            self.cache.agree(&*live, &hash);
            return Ok(live);
        }
        self.admit(&desired)?;
        let Some(difference) = difference else {
            info!(kind = %K::kind(&()), name = %name_of(&*live), "linking the child to its owner");
            return Ok(self.agreed(self.objects.replace(&desired.linked(&live)).await?, &hash));
        };
        info!(kind = %K::kind(&()), name = %name_of(&*live), %difference, "updating the child");
        match self.objects.replace(&desired.clone().over(&live)).await {
            Ok(replaced) => Ok(self.agreed(replaced, &hash)),
            Err(error)
                if self.recreates_if_refused && is_invalid(&error) && live.meta().deletion_timestamp.is_none() =>
            {
                // If a new object would be refused as well, the live one is better than none.
                if self.objects.is_valid(&desired.object).await? {
                    self.delete_and_create(desired, &live).await
                } else {
                    Err(error)
                }
            }
            Err(error) => Err(error),
        }
    }

    async fn recreate(&self, desired: Desired<K>, live: &K) -> Result<Arc<K>, Error> {
        self.admit(&desired)?;
        self.delete_and_create(desired, live).await
    }

    async fn delete_and_create(&self, desired: Desired<K>, live: &K) -> Result<Arc<K>, Error> {
        info!(kind = %K::kind(&()), name = %name_of(live), "recreating the child");
        if let Deleted::Terminating(_) = self.objects.delete(live, self.propagation.clone()).await? {
            return Err(being_deleted(live));
        }
        self.cache.deleted(live);
        Ok(self.agreed(self.objects.create(&desired.object).await?, &desired.hash))
    }

    /// Remembers that the answer satisfies the desired state, even if the API server stores it in a form in which the comparison
    /// finds a difference: another write would have the same result.
    fn agreed(&self, answer: K, hash: &Hash) -> Arc<K> {
        let object = self.cache.written(answer);
        self.cache.agree(&*object, hash);
        object
    }

    /// Deletes the owner's children for which `keep` returns false. Returns how many.
    pub async fn prune<O: Object>(&self, owner: &O, keep: impl Fn(&K) -> bool) -> Result<usize, Error> {
        if !self.cache.is_synced() {
            return Err(Error::waiting(
                Reason::CacheNotSynced,
                format!("the list of {} is not complete", K::plural(&())),
            ));
        }
        let mut deleted = 0;
        for child in self.children(owner) {
            if child.meta().deletion_timestamp.is_none() && !keep(&child) {
                self.delete(&*child).await?;
                deleted += 1;
            }
        }
        Ok(deleted)
    }

    /// Deletes exactly this object, by its uid. Succeeds if it does not exist any more.
    pub async fn delete(&self, child: &K) -> Result<(), Error> {
        info!(kind = %K::kind(&()), name = %name_of(child), "deleting the child");
        match self.objects.delete(child, self.propagation.clone()).await? {
            Deleted::Terminating(object) => {
                self.cache.written(*object);
            }
            Deleted::Gone => self.cache.deleted(child),
        }
        Ok(())
    }

    /// Marks a desired child as the owner's.
    fn claim<O: Object>(&self, owner: &O, desired: &mut K) -> Result<(), Error> {
        let meta = desired.meta_mut();
        if meta.namespace.is_none() && !K::cluster_scoped() {
            meta.namespace = owner.meta().namespace.clone();
        }
        // Garbage collection would delete such a child as an orphan.
        if owner.meta().namespace.is_some() && owner.meta().namespace != meta.namespace {
            return Err(Error::structural(Reason::ForeignNamespace, "a child must be in the namespace of its owner"));
        }
        match &self.ownership {
            Ownership::Controller => {
                meta.owner_references.get_or_insert_default().extend(owner.controller_owner_ref(&()));
            }
            Ownership::Label { key } => {
                let name = owner.meta().name.clone().unwrap_or_default();
                meta.labels.get_or_insert_default().insert(key.clone(), name);
            }
        }
        Ok(())
    }

    fn is_owned<O: Object>(&self, owner: &O, child: &K) -> bool {
        match &self.ownership {
            Ownership::Controller => controller_of(child).is_some_and(|uid| owner.meta().uid.as_deref() == Some(uid)),
            Ownership::Label { key } => {
                let label = child.meta().labels.as_ref().and_then(|labels| labels.get(key));
                label.is_some() && label == owner.meta().name.as_ref()
            }
        }
    }

    fn check<O: Object>(&self, owner: &O, live: &K, desired: &K) -> Result<(), Error> {
        let is_free = self.adopts_unowned && controller_of(live).is_none();
        if self.is_owned(owner, live) || is_free || self.has_lost_its_owner(owner, live, desired.meta()) {
            return Ok(());
        }
        let what = format!("{} {}", K::kind(&()), name_of(live));
        let owner = format!("{} {}", O::kind(&()), name_of(owner));
        Err(Error::structural(
            Reason::NameConflict,
            format!(
                "{what} exists, does not belong to {owner} and is not changed. Delete it to let {owner} create its own"
            ),
        ))
    }

    /// Whether a controller of ours wrote the object, by its annotation, and only its owner reference is missing: removed, not
    /// restored from a backup, or to a former owner of the same name. Not if its labels name another owner, or another object of
    /// ours controls it.
    fn has_lost_its_owner<O: Object>(&self, owner: &O, live: &K, desired: &ObjectMeta) -> bool {
        let Ownership::Controller = self.ownership else { return false };
        let meta = live.meta();
        let is_written = meta.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(APPLIED_HASH));
        let labels = |key| meta.labels.as_ref().and_then(|labels| labels.get(key));
        let mut wanted = desired.labels.iter().flatten();
        let is_others = wanted.any(|(key, value)| labels(key).is_some_and(|label| label != value));
        let mut owners = meta.owner_references.iter().flatten().filter(|owner| owner.controller == Some(true));
        let is_controlled = owners.any(|other| {
            let group = group_of(other);
            let is_of_its_kind = group == O::group(&()) && other.kind == O::kind(&());
            // Two objects of one name never exist at once.
            let is_former = is_of_its_kind && Some(&other.name) == owner.meta().name.as_ref();
            !is_former && (group == GROUP || is_of_its_kind)
        });
        is_written && !is_others && !is_controlled
    }
}

/// Whether the controller of the object with this metadata is an object of kind `O`, for
/// [`Platform::cache_ours`](crate::Platform::cache_ours).
pub fn is_controlled_by<O: Object>(meta: &ObjectMeta) -> bool {
    let mut owners = meta.owner_references.iter().flatten().filter(|owner| owner.controller == Some(true));
    owners.any(|owner| owner.kind == O::kind(&()) && owner.api_version == O::api_version(&()))
}

fn group_of(owner: &OwnerReference) -> &str {
    owner.api_version.rsplit_once('/').map_or("", |(group, _)| group)
}

fn being_deleted<K: Object>(child: &K) -> Error {
    let what = format!("{} {}", K::kind(&()), name_of(child));
    let finalizers = child.meta().finalizers.as_deref().unwrap_or_default();
    let why = match finalizers {
        [] => String::new(),
        [one] => format!(": the finalizer {one} blocks it"),
        several => format!(": the finalizers {} block it", several.join(", ")),
    };
    Error::waiting(Reason::WaitingForDeletion, format!("{what} is being deleted{why}"))
}

fn is_invalid(error: &Error) -> bool {
    matches!(error, Error::Kube(kube::Error::Api(status)) if status.code == 422)
}

/// A create fails with 404 if the namespace does not exist (yet).
fn for_create(error: Error, key: &Key) -> Error {
    match error {
        Error::Kube(kube::Error::Api(status)) if status.code == 404 && names_namespace(&status) => {
            Error::waiting(Reason::WaitingForNamespace, format!("namespace {} does not exist", key.namespace))
        }
        other => other,
    }
}

fn names_namespace(status: &kube::core::Status) -> bool {
    status.details.as_ref().is_some_and(|details| details.kind == "namespaces")
}

fn name_of<K: Resource>(object: &K) -> String {
    let meta = object.meta();
    let name = meta.name.as_deref().unwrap_or_default();
    match &meta.namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}
