//! Data that an earlier Database of the same namespace and name left on a server: found, and adopted or refused.

use std::sync::Arc;

use ahoi_api::{AdoptedData, CUSTOMER_LABEL, Customer, Database, DatabaseServer, DatabaseServerSpec};
use ahoi_reconcile::{Error, EventType, age};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use crate::context::{Context, is_usable};
use crate::postgres::desired::Identity;
use crate::postgres::names::Names;
use crate::postgres::observe;
use crate::postgres::ownership::{Stamp, State};
use crate::postgres::server::{SERVER_UNREACHABLE, ServerPool};
use crate::postgres::step::Step;
use crate::{pending, placement};

/// The reason while data is there that the Database must not adopt.
const RETAINED_DATA_EXISTS: &str = "RetainedDataExists";
/// The reason while data of another cluster is there, and its DatabaseServer does not say what it is to this one.
const DATA_OF_ANOTHER_CLUSTER: &str = "DataOfAnotherCluster";

/// Data that is adopted.
pub struct Found {
    /// The server that it is on.
    pub server: String,
    /// The names of the database.
    pub names: Names,
    /// How old it is, and from where.
    pub data: AdoptedData,
}

/// What a server has for a Database.
enum Kept {
    /// Data of this cluster.
    Own(Arc<ServerPool>, Names),
    /// Data of another one, and whether its DatabaseServer says that it is to be adopted.
    Others(Arc<ServerPool>, Names, Stamp, bool),
}

/// Looks for the data on every server. One that cannot be reached is passed over, unless it may have it: new customers must not
/// wait for the repair of a server they have nothing to do with.
pub async fn find(context: &Context, database: &Database) -> Result<Option<Found>, Error> {
    let identity = Identity::of(database, &context.cluster);
    let mut servers = context.caches.servers.all();
    // Two objects may describe one server: the one that is meant for such databases comes first.
    let selector = &database.spec.server_selector;
    let is_meant = |server: &DatabaseServer| placement::is_meant(server.spec.placement, server.labels(), selector);
    servers.sort_by_key(|server| (!is_meant(server), server.name_any()));
    let asked = servers.iter().map(|server| ask(context, server, database, &identity));
    let mut kept: Vec<_> = futures::future::try_join_all(asked).await?.into_iter().flatten().collect();
    // Its own, wherever it is; two objects that describe one server need not both say whose data to adopt.
    kept.sort_by_key(|kept| match kept {
        Kept::Own(..) => 0,
        Kept::Others(_, _, _, is_adopted) => 2 - i32::from(*is_adopted),
    });
    match kept.into_iter().next() {
        None => Ok(None),
        Some(Kept::Own(pool, names)) => adopt_own(database, &pool, names).await.map(Some),
        Some(Kept::Others(pool, _, stamp, false)) => Err(of_another_cluster(&pool.name, &stamp.cluster)),
        Some(Kept::Others(pool, names, stamp, true)) => adopt_others(&identity, &pool, names, stamp).await.map(Some),
    }
}

async fn ask(
    context: &Context,
    server: &DatabaseServer,
    database: &Database,
    identity: &Identity,
) -> Result<Option<Kept>, Error> {
    match context.pool(server) {
        // What is to be removed there belongs to no object any more.
        _ if pending::is_pending(server, database) => Ok(None),
        Ok(pool) if is_usable(server) => {
            let failed = |failure: crate::postgres::server::Failure| failure.into_error(&pool.name);
            let own = observe::retained(&pool, &identity.cluster, &identity.object).await.map_err(failed)?;
            if let Some(names) = own {
                return Ok(Some(Kept::Own(pool, names)));
            }
            let named = observe::of_name(&pool, &identity.namespace, &identity.name).await.map_err(failed)?;
            let mut others = named.into_iter().filter(|(_, stamp)| is_others(stamp, identity, &server.spec));
            Ok(others.next().map(|(names, stamp)| {
                let is_adopted = server.spec.adopt_from_cluster.as_ref() == Some(&stamp.cluster);
                Kept::Others(pool, names, stamp, is_adopted)
            }))
        }
        pool if may_keep(server, pool.as_ref().ok(), &identity.object) || pending::is_kept(server, database) => {
            let name = server.name_any();
            Err(Error::waiting(SERVER_UNREACHABLE, may_have_data(&name)))
        }
        _ => Ok(None),
    }
}

/// Nothing here advises to delete the DatabaseServer: whoever does that while its PostgreSQL is repaired gives every customer that
/// has data there an empty database.
fn may_have_data(server: &str) -> String {
    format!(
        "DatabaseServer {server} cannot be used, and may keep the data of an earlier Database of this name: the condition Ready of \
         DatabaseServer {server} says what to correct. The Database is created when it is Ready again"
    )
}

/// Whether a database is another cluster's, and not one's that is known to use the server.
fn is_others(stamp: &Stamp, identity: &Identity, spec: &DatabaseServerSpec) -> bool {
    stamp.cluster != identity.cluster
        && stamp.state.can_be_adopted()
        && !spec.shared_with_clusters.contains(&stamp.cluster)
}

async fn adopt_own(database: &Database, pool: &ServerPool, names: Names) -> Result<Found, Error> {
    let since = observe::since(pool, &names).await?;
    let is_too_old = |before: &Time| since.is_none_or(|since| since < before.0);
    if database.spec.refuse_data_before.as_ref().is_some_and(is_too_old) {
        return Err(Error::structural(RETAINED_DATA_EXISTS, refusal(&pool.name, &names, since)));
    }
    Ok(found(pool, names, since, None))
}

fn refusal(server: &str, names: &Names, since: Option<Timestamp>) -> String {
    let since = since.map(|since| format!(" at {}", whole_seconds(since))).unwrap_or_default();
    format!(
        "DatabaseServer {server} keeps database {}, which an earlier customer of this name left{since}, and adoptionPolicy is \
         Refuse: set spec.adoptionPolicy of the Customer to Automatic to give it the data, or purge the data as docs/restore.md says",
        names.database
    )
}

fn of_another_cluster(server: &str, cluster: &str) -> Error {
    let message = format!(
        "DatabaseServer {server} keeps data for a Database of this namespace and name in another cluster, {cluster}: set \
         spec.adoptFromCluster of the DatabaseServer to {cluster} if that cluster does not exist any more, or add it to \
         spec.sharedWithClusters if it does"
    );
    Error::structural(DATA_OF_ANOTHER_CLUSTER, message)
}

async fn adopt_others(identity: &Identity, pool: &ServerPool, names: Names, stamp: Stamp) -> Result<Found, Error> {
    let cluster = stamp.cluster.clone();
    let since = observe::since(pool, &names).await?;
    let step = Step::Stamp {
        database: names.database.clone(),
        stamp: taken_over(identity, stamp),
        namespace: identity.namespace.clone(),
        name: identity.name.clone(),
    };
    // The statement is the same for all versions.
    pool.run(&step.sql(0)).await.map_err(|failure| failure.into_error(&pool.name))?;
    Ok(found(pool, names, since, Some(cluster)))
}

/// The ownership marker of a database that has become this cluster's: from here on it is found like any other that is retained.
fn taken_over(identity: &Identity, former: Stamp) -> Stamp {
    let mine = identity.stamp(State::Retained);
    Stamp { extensions: former.extensions, frozen: former.frozen, full: former.full, ..mine }
}

fn found(pool: &ServerPool, names: Names, since: Option<Timestamp>, cluster: Option<String>) -> Found {
    let data = AdoptedData { retained_since: since.map(Time), at: Time(Timestamp::now()), cluster };
    Found { server: pool.name.clone(), names, data }
}

/// What is said of the data for as long as the Database is there.
pub fn explain(data: &AdoptedData) -> String {
    let from = data.cluster.as_ref().map(|cluster| format!(" of cluster {cluster}")).unwrap_or_default();
    let since = data.retained_since.as_ref();
    let since = since.map(|since| format!(", kept since {}", whole_seconds(since.0))).unwrap_or_default();
    format!("adopted at {} the data that an earlier Database of this name{from} left{since}", whole_seconds(data.at.0))
}

/// Publishes the adoption, on the Database and on its Customer.
pub fn report(context: &Context, database: &Database, found: &Found) {
    let age = found.data.retained_since.as_ref().map(|since| age(since, Timestamp::now()));
    let age = age.map(|age| format!(" ({} old)", in_words(age.as_secs()))).unwrap_or_default();
    let note =
        format!("database {} on DatabaseServer {}: {}{age}", found.names.database, found.server, explain(&found.data));
    context.platform.event(database, EventType::Normal, "DataAdopted", note.clone());
    if let Some(customer) = customer_of(database) {
        context.platform.event(&customer, EventType::Normal, "DataAdopted", note);
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

/// Whether a server that cannot be reached may keep what an object left: as the last sweep saw it, or, where this process has
/// made none, if it keeps anything at all. What other clusters left is not known by object.
fn may_keep(server: &DatabaseServer, pool: Option<&Arc<ServerPool>>, object: &str) -> bool {
    let status = server.status.as_ref();
    let swept = pool.and_then(|pool| {
        let memory = pool.memory.lock();
        memory.is_swept.then(|| memory.unclaimed.contains(object))
    });
    let keeps_something = || status.and_then(|status| status.retained).is_some_and(|kept| kept > 0);
    swept.unwrap_or_else(keeps_something) || status.is_some_and(|status| !status.other_clusters.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::tests::server;
    use crate::postgres::ownership::Cluster;

    fn identity(cluster: &str) -> Identity {
        Identity::new(&Cluster::new(cluster), "customer-acme".into(), "acme".into(), "new".into())
    }

    #[test]
    fn data_of_another_cluster_is_that_ones_unless_the_server_is_shared() {
        let (here, there) = (identity("here"), identity("there").stamp(State::Active));
        let mut spec = server("pg-1").spec;
        assert!(is_others(&there, &here, &spec));
        assert!(!is_others(&here.stamp(State::Retained), &here, &spec), "its own");
        for state in [State::Archived, State::Deleting] {
            assert!(!is_others(&Stamp { state, ..there.clone() }, &here, &spec), "{state:?} is found by no one");
        }
        spec.shared_with_clusters = vec![there.cluster.clone()];
        assert!(!is_others(&there, &here, &spec));
    }

    #[test]
    fn what_is_taken_over_is_retained_data_of_this_cluster() {
        let here = identity("here");
        let former = Stamp {
            full: true,
            extensions: Some(["citext".to_owned()].into()),
            ..identity("there").stamp(State::Active)
        };
        let stamp = taken_over(&here, former);
        assert_eq!((&stamp.cluster, &stamp.object, stamp.uid.as_str()), (&here.cluster, &here.object, "new"));
        assert_eq!(
            (stamp.state, stamp.full, stamp.extensions),
            (State::Retained, true, Some(["citext".to_owned()].into()))
        );
    }

    #[test]
    fn messages_say_how_old_the_data_is_and_what_to_do() {
        let time = |text: &str| text.parse::<Timestamp>().unwrap();
        let names = Names::of("c_3f2504e04f89");
        insta::assert_snapshot!(refusal("pg-1", &names, Some(time("2026-01-02T03:04:05.5Z"))), @"DatabaseServer pg-1 keeps database c_3f2504e04f89, which an earlier customer of this name left at 2026-01-02T03:04:05Z, and adoptionPolicy is Refuse: set spec.adoptionPolicy of the Customer to Automatic to give it the data, or purge the data as docs/restore.md says");
        let data = AdoptedData {
            retained_since: Some(Time(time("2026-01-02T03:04:05.5Z"))),
            at: Time(time("2026-02-02T03:04:05Z")),
            cluster: Some("9577416226f80000".into()),
        };
        insta::assert_snapshot!(explain(&data), @"adopted at 2026-02-02T03:04:05Z the data that an earlier Database of this name of cluster 9577416226f80000 left, kept since 2026-01-02T03:04:05Z");
        assert_eq!(
            [in_words(30), in_words(300), in_words(86_400), in_words(864_000)],
            ["30 seconds", "5 minutes", "24 hours", "10 days"]
        );
    }

    #[test]
    fn a_server_with_data_of_another_cluster_is_waited_for() {
        let mut away = server("pg-1");
        assert!(!may_keep(&away, None, "object"));
        let other = ahoi_api::OtherCluster { id: "9577416226f80000".into(), databases: 1 };
        away.status.get_or_insert_default().other_clusters = vec![other];
        assert!(may_keep(&away, None, "object"));
    }
}
