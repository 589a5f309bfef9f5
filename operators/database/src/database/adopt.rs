//! Adoption of the data that an earlier Database of the same namespace and name left on a server.

use ahoi_api::{
    AdoptedData, CUSTOMER_LABEL, Customer, Database, DatabaseServer, DatabaseServerSpec, EventReason, Reason,
};
use ahoi_reconcile::{Error, EventType, age};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use crate::context::Context;
use crate::memory::Instance;
use crate::object;
use crate::outage::is_usable;
use crate::postgres::desired::Identity;
use crate::postgres::failure::Failure;
use crate::postgres::names::Names;
use crate::postgres::observe;
use crate::postgres::ownership::{Ownership, State};
use crate::postgres::step::Step;
use crate::{pending, placement};

/// Data to adopt.
pub struct Found {
    /// Name of its DatabaseServer.
    pub server: String,
    /// Names of the database and its roles.
    pub names: Names,
    /// For the status: its age and origin.
    pub data: AdoptedData,
}

/// Data for a Database on a server.
enum Kept {
    /// Of this cluster.
    Own(Instance, Names),
    /// Of another one, and whether the spec of the DatabaseServer adopts it.
    Others(Instance, Names, Ownership, bool),
}

/// Searches the data on all servers. An unreachable server is skipped unless it may have the data: new customers must not wait for
/// the repair of a server that does not concern them.
pub async fn find(context: &Context, database: &Database) -> Result<Option<Found>, Error> {
    let identity = object::identity(database, &context.cluster);
    let mut servers = context.caches.servers.all();
    // Two objects may describe one server: the one that accepts such databases comes first.
    let selector = &database.spec.server_selector;
    let is_selected =
        |server: &DatabaseServer| placement::is_selected(server.spec.placement, server.labels(), selector);
    servers.sort_by_key(|server| (!is_selected(server), server.name_any()));
    let asked = servers.iter().map(|server| ask(context, server, database, &identity));
    let mut kept: Vec<_> = futures::future::try_join_all(asked).await?.into_iter().flatten().collect();
    // Data of this cluster comes first. Of two objects that describe one server, one may adopt the data of another cluster.
    kept.sort_by_key(|kept| match kept {
        Kept::Own(..) => 0,
        Kept::Others(_, _, _, is_adopted) => 2 - i32::from(*is_adopted),
    });
    match kept.into_iter().next() {
        None => Ok(None),
        Some(Kept::Own(instance, names)) => adopt_own(database, &instance, names).await.map(Some),
        Some(Kept::Others(instance, _, ownership, false)) => {
            Err(of_another_cluster(&instance.name, &ownership.cluster))
        }
        Some(Kept::Others(instance, names, ownership, true)) => {
            adopt_others(&identity, &instance, names, ownership).await.map(Some)
        }
    }
}

async fn ask(
    context: &Context,
    server: &DatabaseServer,
    database: &Database,
    identity: &Identity,
) -> Result<Option<Kept>, Error> {
    match context.instance(server) {
        // Data that is being removed belongs to no object any more.
        _ if pending::is_pending(server, database) => Ok(None),
        Ok(instance) if is_usable(server) => {
            let (postgres, failed) = (&instance.postgres, |failure: Failure| failure.into_error(&instance.name));
            let own = observe::retained(postgres, &identity.cluster, &identity.object).await.map_err(failed)?;
            if let Some(names) = own {
                return Ok(Some(Kept::Own(instance, names)));
            }
            let named = observe::of_name(postgres, &identity.namespace, &identity.name).await.map_err(failed)?;
            let mut others = named.into_iter().filter(|(_, ownership)| is_others(ownership, identity, &server.spec));
            Ok(others.next().map(|(names, ownership)| {
                let is_adopted = server.spec.adopt_from_cluster.as_ref() == Some(&ownership.cluster);
                Kept::Others(instance, names, ownership, is_adopted)
            }))
        }
        instance
            if may_keep(server, instance.as_ref().ok(), &identity.object) || pending::is_kept(server, database) =>
        {
            let name = server.name_any();
            Err(Error::waiting(Reason::DatabaseServerUnreachable, may_have_data(&name)))
        }
        _ => Ok(None),
    }
}

/// The message does not advise to delete the DatabaseServer: every customer with data on it would get an empty database.
fn may_have_data(server: &str) -> String {
    format!(
        "DatabaseServer {server} is unusable and may have the data of an earlier Database of this name. Correct what its \
         condition Ready names; the Database is created when DatabaseServer {server} is Ready again"
    )
}

/// Whether a database belongs to another cluster, and the spec does not list that one as using the server.
fn is_others(ownership: &Ownership, identity: &Identity, spec: &DatabaseServerSpec) -> bool {
    ownership.cluster != identity.cluster
        && ownership.state.can_be_adopted()
        && !spec.shared_with_clusters.contains(&ownership.cluster)
}

async fn adopt_own(database: &Database, instance: &Instance, names: Names) -> Result<Found, Error> {
    let since = observe::since(&instance.postgres, &names).await?;
    let is_too_old = |before: &Time| since.is_none_or(|since| since < before.0);
    if database.spec.refuse_data_before.as_ref().is_some_and(is_too_old) {
        return Err(Error::structural(Reason::RetainedDataExists, refusal(&instance.name, &names, since)));
    }
    Ok(found(instance, names, since, None))
}

fn refusal(server: &str, names: &Names, since: Option<Timestamp>) -> String {
    let since = since.map(|since| format!(" at {}", whole_seconds(since))).unwrap_or_default();
    format!(
        "DatabaseServer {server} has database {}, which an earlier customer of this name left{since}, and adoptionPolicy is \
         Refuse: set spec.adoptionPolicy of the Customer to Automatic to adopt the data, or purge it as in docs/restore.md",
        names.database
    )
}

fn of_another_cluster(server: &str, cluster: &str) -> Error {
    let message = format!(
        "DatabaseServer {server} has data of a Database of this namespace and name in another cluster, {cluster}: set \
         spec.adoptFromCluster of the DatabaseServer to {cluster} if that cluster does not exist any more, or add it to \
         spec.sharedWithClusters if it does"
    );
    Error::structural(Reason::DataOfAnotherCluster, message)
}

async fn adopt_others(
    identity: &Identity,
    instance: &Instance,
    names: Names,
    ownership: Ownership,
) -> Result<Found, Error> {
    let cluster = ownership.cluster.clone();
    let since = observe::since(&instance.postgres, &names).await?;
    let step = Step::Mark {
        database: names.database.clone(),
        ownership: taken_over(identity, ownership),
        namespace: identity.namespace.clone(),
        name: identity.name.clone(),
    };
    // The statement is the same for all versions.
    instance.postgres.run(&step.sql(0)).await.map_err(|failure| failure.into_error(&instance.name))?;
    Ok(found(instance, names, since, Some(cluster)))
}

/// The ownership marker of a database that this cluster adopts: from now on it is found like any other retained one.
fn taken_over(identity: &Identity, former: Ownership) -> Ownership {
    let mine = identity.ownership(State::Retained);
    Ownership { extensions: former.extensions, frozen: former.frozen, full: former.full, ..mine }
}

fn found(instance: &Instance, names: Names, since: Option<Timestamp>, cluster: Option<String>) -> Found {
    let data = AdoptedData { retained_since: since.map(Time), at: Time(Timestamp::now()), cluster };
    Found { server: instance.name.clone(), names, data }
}

/// Explains the adopted data in the condition Ready.
pub fn explain(data: &AdoptedData) -> String {
    let from = data.cluster.as_ref().map(|cluster| format!(" of cluster {cluster}")).unwrap_or_default();
    let since = data.retained_since.as_ref();
    let since = since.map(|since| format!(", kept since {}", whole_seconds(since.0))).unwrap_or_default();
    format!("adopted at {} the data that an earlier Database of this name{from} left{since}", whole_seconds(data.at.0))
}

/// Records the adoption on the Database and on its Customer.
pub fn record_event(context: &Context, database: &Database, found: &Found) {
    let age = found.data.retained_since.as_ref().map(|since| age(since, Timestamp::now()));
    let age = age.map(|age| format!(" ({} old)", in_words(age.as_secs()))).unwrap_or_default();
    let note =
        format!("database {} on DatabaseServer {}: {}{age}", found.names.database, found.server, explain(&found.data));
    context.platform.event(database, EventType::Normal, EventReason::DataAdopted, note.clone());
    if let Some(customer) = customer_of(database) {
        context.platform.event(&customer, EventType::Normal, EventReason::DataAdopted, note);
    }
}

/// The Customer of a Database, as far as events need it.
fn customer_of(database: &Database) -> Option<Customer> {
    let name = database.labels().get(CUSTOMER_LABEL)?;
    let owner = database.owner_references().iter().find(|owner| owner.kind == "Customer" && owner.name == *name)?;
    let mut customer = Customer::new(name, ahoi_api::CustomerSpec::default());
    customer.metadata.uid = Some(owner.uid.clone());
    Some(customer)
}

fn in_words(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} seconds"),
        120..7200 => format!("{} minutes", seconds / 60),
        7200..172_800 => format!("{} hours", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// Whether an unusable server may have the data of an object: according to the last sweep, or if this process has not swept it, if it
/// retains any data. Data of other clusters is not known by object.
fn may_keep(server: &DatabaseServer, instance: Option<&Instance>, object: &str) -> bool {
    let status = server.status.as_ref();
    let swept = instance.and_then(|instance| {
        let memory = instance.memory.lock();
        memory.is_swept.then(|| memory.unclaimed.contains(object))
    });
    let keeps_something = || status.and_then(|status| status.retained_database_count).is_some_and(|kept| kept > 0);
    swept.unwrap_or_else(keeps_something) || status.is_some_and(|status| !status.other_clusters.is_empty())
}

#[cfg(test)]
mod tests;
