//! Children: written only when they differ, pruned only when they are ours.

use std::sync::Arc;
use std::time::Instant;

use ahoi_api::{GROUP, Object};
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

/// How a child says whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// By an owner reference with `controller: true`: garbage collection takes the child with its owner.
    Controller,
    /// By a label whose value is the owner's name. For what must outlive a re-created or restored
    /// owner, as a tenant's Namespace must.
    Label {
        /// The label's name.
        key: String,
    },
}

/// Children of one kind: a [`Cache`] to read them from, and the writes that keep them as desired.
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

impl<K> Clone for Owned<K> {
    fn clone(&self) -> Self {
        Owned {
            cache: self.cache.clone(),
            objects: self.objects.clone(),
            ownership: self.ownership.clone(),
            adopts_unowned: self.adopts_unowned,
            must_overwrite: self.must_overwrite,
            must_recreate: self.must_recreate,
            recreates_if_refused: self.recreates_if_refused,
            repairs: self.repairs.clone(),
            propagation: self.propagation.clone(),
        }
    }
}

impl<K: Object> Owned<K> {
    /// Children found in `cache`, which must see (by its scope and selectors) all that is going to be
    /// written, and must not trim what is compared.
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

    /// Links children to their owner by a label with the owner's name instead of an owner reference.
    pub fn linked_by(mut self, label: impl Into<String>) -> Self {
        self.ownership = Ownership::Label { key: label.into() };
        self
    }

    /// For children whose names are nobody else's in the place where they are, and which guard something: whoever may change
    /// one could otherwise get rid of it by its label. One that is not linked to its owner is taken over unless something
    /// else controls it, and one that a finalizer keeps from going is repaired for as long as it is there.
    pub fn adopting_unowned(mut self) -> Self {
        self.adopts_unowned = true;
        self
    }

    /// What others add to a child stands, since API servers add defaults, unless `refuses` says of the live child and the
    /// desired one that it must not: then it is replaced.
    pub fn overwritten_if(mut self, must_overwrite: fn(&K, &K) -> bool) -> Self {
        self.must_overwrite = must_overwrite;
        self
    }

    /// Where `must_recreate` says so of the live child and the desired one, the child is deleted and created: the API does not
    /// let it be changed into what is desired, as the role of a RoleBinding.
    pub fn recreated_if(mut self, must_recreate: fn(&K, &K) -> bool) -> Self {
        self.must_recreate = must_recreate;
        self
    }

    /// For children that a tenant may write to. One that a tenant has changed so that the API server refuses to have it put
    /// right (an immutable field, metadata that is too large) is deleted and created, and one that a finalizer keeps from going
    /// is put right for as long as it is there.
    pub fn recreated_if_refused(mut self) -> Self {
        self.recreates_if_refused = true;
        self
    }

    /// A child that is deleted is there until everything is gone that blocks it, as the pods of a Job do.
    pub fn deleted_in_foreground(mut self) -> Self {
        self.propagation = PropagationPolicy::Foreground;
        self
    }

    /// The cache the children are read from.
    pub fn cache(&self) -> &Cache<K> {
        &self.cache
    }

    /// How a child says whose it is.
    pub fn ownership(&self) -> &Ownership {
        &self.ownership
    }

    /// The owner's children of this kind, those that are being deleted included.
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

    /// The owner's child of this name, in the owner's own namespace. Of a packed cache nothing else is read.
    pub fn child<O: Object>(&self, owner: &O, name: &str) -> Option<Arc<K>> {
        let child = self.cache.lookup(&Key::new(owner.meta().namespace.as_deref(), name))?;
        self.is_owned(owner, &child).then_some(child)
    }

    /// The child of this namespace and name, if it is the owner's but for its owner reference: a backup was restored, or the owner
    /// deleted with `--cascade=orphan`. It has all of these labels, a controller of ours wrote it, and no other object of ours
    /// controls it. [`apply`](Owned::apply) links it to the owner again.
    pub fn orphan<O: Object>(&self, owner: &O, like: &ObjectMeta) -> Option<Arc<K>> {
        let child = self.cache.lookup(&Key::new(like.namespace.as_deref(), like.name.as_deref()?))?;
        let labels = child.meta().labels.as_ref();
        let mut wanted = like.labels.iter().flatten();
        let is_labelled = wanted.all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value));
        let is_lost = is_labelled && !self.is_owned(owner, &child) && self.has_lost_its_owner(owner, &child, like);
        is_lost.then_some(child)
    }

    /// Makes the child what is desired, by the fewest requests that do: none if it is so already.
    ///
    /// The answer is the child as it is now, with the status its own controller gave it. A child of the same name
    /// that is not the owner's is refused as `NameConflict`; it is never taken over silently (but see
    /// [`adopting_unowned`](Owned::adopting_unowned)). What others put on our child (labels, annotations, finalizers, defaults) stays.
    pub async fn apply<O: Object>(&self, owner: &O, mut desired: K) -> Result<Arc<K>, Error> {
        self.claim(owner, &mut desired)?;
        let desired = Desired::new(desired)?;
        let key = Key::of(&desired.object);
        let live = match self.cache.lookup(&key) {
            Some(live) => live,
            // POST creates at two thirds of the cost of an apply that creates. What it creates is managed by
            // an `Update` entry, and a later server-side apply would not prune the fields such an entry owns: that is why
            // changes are sent as a PUT, which leaves nothing behind that is no longer desired.
            None => match self.create(&desired).await {
                Ok(created) => return Ok(self.agreed(created, &desired.hash)),
                // Newer than our cache, or outside of its selectors.
                Err(Error::Kube(kube::Error::Api(status))) if status.is_already_exists() => {
                    self.found(owner, self.objects.get(&key).await?)
                }
                Err(error) => return Err(for_create(error, &key)),
            },
        };
        self.check(owner, &live, &desired.object)?;
        let anew = !self.cache.agrees(&*live, &desired.hash) && (self.must_recreate)(&live, &desired.object);
        if live.meta().deletion_timestamp.is_none() {
            return if anew { self.recreate(desired, &live).await } else { self.update(owner, desired, live).await };
        }
        // As long as a finalizer keeps it, it does what it does.
        if (self.adopts_unowned || self.recreates_if_refused) && !anew {
            self.update(owner, desired, live.clone()).await?;
        }
        Err(being_deleted(&*live))
    }

    async fn create(&self, desired: &Desired<K>) -> Result<K, Error> {
        self.admit(desired)?;
        self.objects.create(&desired.object).await
    }

    /// An error if the child has been put right too often of late: whoever changes or deletes it again and again must not
    /// keep us and the API server busy with it.
    fn admit(&self, desired: &Desired<K>) -> Result<(), Error> {
        if self.repairs.admit(&Key::of(&desired.object), &desired.hash, Instant::now()) {
            return Ok(());
        }
        let what = format!("{} {}", K::kind(&()), name_of(&desired.object));
        Err(Error::waiting(
            "ChangedRepeatedly",
            format!(
                "{what} is changed or deleted again and again by another client: find out by which. It is put right within 5 minutes"
            ),
        ))
    }

    /// What there is under a name where the cache has nothing. What is not the owner's may be outside of the cache's
    /// selectors, and is not remembered: no watch would tell that it has changed or is gone.
    fn found<O: Object>(&self, owner: &O, live: K) -> Arc<K> {
        if self.is_owned(owner, &live) { self.cache.written(live) } else { Arc::new(live) }
    }

    async fn update<O: Object>(&self, owner: &O, desired: Desired<K>, live: Arc<K>) -> Result<Arc<K>, Error> {
        let is_owned = self.is_owned(owner, &live);
        // Also where the answer to our write was not what we had asked for, or a webhook that has a say in it would have us
        // write again in each pass.
        if is_owned && self.cache.agrees(&*live, &desired.hash) {
            return Ok(live);
        }
        let hash = desired.hash.clone();
        let refused = (self.must_overwrite)(&live, &desired.object).then(|| "what others have added".to_owned());
        let difference = desired.difference(&live)?.or(refused);
        if difference.is_none() && is_owned {
            self.cache.agree(&*live, &hash);
            return Ok(live);
        }
        self.admit(&desired)?;
        let Some(difference) = difference else {
            info!(kind = %K::kind(&()), name = %name_of(&*live), "linking to its owner");
            return Ok(self.agreed(self.objects.replace(&desired.linked(&live)).await?, &hash));
        };
        info!(kind = %K::kind(&()), name = %name_of(&*live), %difference, "updating");
        match self.objects.replace(&desired.clone().over(&live)).await {
            Ok(replaced) => Ok(self.agreed(replaced, &hash)),
            Err(error)
                if self.recreates_if_refused && is_invalid(&error) && live.meta().deletion_timestamp.is_none() =>
            {
                // Where the new object would be refused as well, what is there is better than nothing.
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
        info!(kind = %K::kind(&()), name = %name_of(live), "deleting it, to make it anew");
        if let Deleted::Terminating(_) = self.objects.delete(live, self.propagation.clone()).await? {
            return Err(being_deleted(live));
        }
        self.cache.deleted(live);
        Ok(self.agreed(self.objects.create(&desired.object).await?, &desired.hash))
    }

    /// The API server's answer is what our wish comes to, even where it writes it in a way of its own that the comparison
    /// does not understand. Asking again would not bring us closer.
    fn agreed(&self, answer: K, hash: &Hash) -> Arc<K> {
        let object = self.cache.written(answer);
        self.cache.agree(&*object, hash);
        object
    }

    /// Deletes the owner's children that `keep` does not want; the answer is how many were told to go.
    pub async fn prune<O: Object>(&self, owner: &O, keep: impl Fn(&K) -> bool) -> Result<usize, Error> {
        // An incomplete listing says nothing about what is superfluous.
        if !self.cache.is_synced() {
            return Err(Error::waiting("CacheNotSynced", format!("the list of {} is not complete", K::plural(&()))));
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

    /// Deletes exactly this object (by its uid). That it is gone already is fine.
    pub async fn delete(&self, child: &K) -> Result<(), Error> {
        info!(kind = %K::kind(&()), name = %name_of(child), "deleting");
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
        // Garbage collection takes such a child for an orphan and deletes it.
        if owner.meta().namespace.is_some() && owner.meta().namespace != meta.namespace {
            return Err(Error::structural(
                "ForeignNamespace",
                "an owner in a namespace has its children in the same one",
            ));
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
            "NameConflict",
            format!(
                "{what} exists and does not belong to {owner}; it is left as it is. Delete it to let {owner} create its own"
            ),
        ))
    }

    /// Whether an object of the name is the child that a controller of ours wrote, by its annotation, and only its owner reference
    /// is missing: removed, not restored from a backup, or to a former owner of the same name. One whose labels say that it is
    /// another's is that one's, as is one that another object of ours controls.
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
            // Two objects of one name are never there at once.
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
    Error::waiting("WaitingForDeletion", format!("{what} is being deleted{why}"))
}

fn is_invalid(error: &Error) -> bool {
    matches!(error, Error::Kube(kube::Error::Api(status)) if status.code == 422)
}

/// A create is refused with 404 when the namespace is not there (yet): a wait, not a failure.
fn for_create(error: Error, key: &Key) -> Error {
    match error {
        Error::Kube(kube::Error::Api(status)) if status.code == 404 && names_namespace(&status) => {
            Error::waiting("WaitingForNamespace", format!("namespace {} does not exist", key.namespace))
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
