//! A ledger: clients that book without pause, as applications do, and know of every booking whether it was confirmed.
//! Afterwards PostgreSQL itself is asked whether it knows the same.
//!
//! A client behaves as one connection of an application's pool: it lives for some seconds, is looked at before it is used,
//! and is replaced between two transactions; it reads the Secret anew when it connects, as from a mounted file. Whatever
//! fails beyond that is counted.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Statement;

use crate::Cluster;
use crate::latency::Latencies;
use crate::postgres::Login;
use crate::tls;

/// What a connection of a pool lives at least, and how much longer the longest-lived does: they do not all end at once.
const LIFETIME: (Duration, Duration) = (Duration::from_secs(8), Duration::from_secs(2));
/// Between two bookings of one connection. A small machine that is busy with clients alone would test itself.
const PACE: Duration = Duration::from_millis(20);
/// Between two attempts to connect after one that failed.
const RETRY: Duration = Duration::from_millis(100);
/// An answer that takes longer is a failure: no application waits for ever.
const PATIENCE: Duration = Duration::from_secs(60);
/// So many failures are told of; all are counted.
const TOLD: usize = 12;

/// There is nothing unique about an id: a booking that is there twice must be able to be.
const TABLES: &str = "CREATE TABLE ledger (id bigint NOT NULL, account bigint NOT NULL); CREATE INDEX ON ledger (id); \
     CREATE TABLE balance (account bigint PRIMARY KEY, total bigint NOT NULL)";
const INSERT: &str = "INSERT INTO ledger VALUES ($1, $2)";
const UPDATE: &str = "UPDATE balance SET total = total + 1 WHERE account = $1";
/// Waits for a transaction of this account that may still be about to commit.
const LOCK: &str = "SELECT total FROM balance WHERE account = $1 FOR UPDATE";
const FIND: &str = "SELECT count(*) FROM ledger WHERE id = $1";

/// Clients of several customers that are booking.
pub struct Ledger {
    customers: Vec<String>,
    confirmed: Vec<watch::Receiver<u64>>,
    stop: watch::Sender<bool>,
    clients: JoinSet<Client>,
    latencies: Latencies,
    /// What keeps the Secrets that clients have mounted up to date.
    _mounts: JoinSet<()>,
    opened: Instant,
}

impl Ledger {
    /// Makes the `customers`, and lets `connections` clients book for each.
    pub async fn open(cluster: &Cluster, customers: &[&str], connections: usize) -> Result<Ledger> {
        Ledger::open_with(cluster, customers, connections, json!({"database": {"enabled": true}})).await
    }

    /// The same for customers with these `features`.
    pub async fn open_with(
        cluster: &Cluster,
        customers: &[&str],
        connections: usize,
        features: Value,
    ) -> Result<Ledger> {
        for customer in customers {
            let spec = json!({"deletionPolicy": "Delete", "features": features});
            cluster.create_customer_with(customer, spec).await?;
        }
        let (stop, stopped) = watch::channel(false);
        let (mut clients, mut confirmed) = (JoinSet::new(), Vec::new());
        let latencies = Latencies::default();
        let (opened, mut mounts) = (Instant::now(), JoinSet::new());
        for customer in customers {
            cluster.ready(customer).await?;
            let direct = cluster.direct(customer).await?.connect().await?;
            direct.batch_execute(TABLES).await?;
            let (mount, mounted) = watch::channel(cluster.pooled(customer).await?);
            mounts.spawn(cluster.clone().mount(format!("{customer}-pool"), ahoi_api::namespace_of(customer), mount));
            for account in 0..i64::try_from(connections)? {
                direct.execute("INSERT INTO balance VALUES ($1, 0)", &[&account]).await?;
                let (told, heard) = watch::channel(0);
                confirmed.push(heard);
                let driver = if account % 2 == 0 { Driver::TokioPostgres } else { Driver::Sqlx };
                let share = f64::from(u32::try_from(account)?) / f64::from(u32::try_from(connections)?);
                let client = Client {
                    customer: (*customer).to_owned(),
                    way: mounted.clone(),
                    driver,
                    lifetime: LIFETIME.0 + LIFETIME.1.mul_f64(share),
                    connected: false,
                    in_flight: false,
                    account,
                    id: account << 32,
                    in_doubt: false,
                    confirmed: Vec::new(),
                    found: 0,
                    replaced: 0,
                    failures: Failures::since(opened),
                    wanted: Instant::now(),
                    stall: Duration::ZERO,
                    latencies: latencies.clone(),
                    told,
                };
                clients.spawn(client.run(stopped.clone()));
            }
        }
        let customers = customers.iter().map(|name| (*name).to_owned()).collect();
        let ledger = Ledger { customers, confirmed, stop, clients, latencies, _mounts: mounts, opened };
        ledger.progress(PATIENCE).await?;
        Ok(ledger)
    }

    /// The customers that are booked for.
    #[must_use]
    pub fn customers(&self) -> &[String] {
        &self.customers
    }

    /// How long each booking of theirs takes, connecting included.
    #[must_use]
    pub fn latencies(&self) -> Latencies {
        self.latencies.clone()
    }

    /// Waits until every client has had another booking confirmed.
    pub async fn progress(&self, patience: Duration) -> Result<()> {
        let mut clients = self.confirmed.clone();
        clients.iter_mut().for_each(watch::Receiver::mark_unchanged);
        let all = futures::future::try_join_all(clients.iter_mut().map(watch::Receiver::changed));
        let all =
            timeout(patience, all).await.with_context(|| format!("a client has booked nothing for {patience:?}"))?;
        all.context("a client has ended").map(drop)
    }

    /// Ends the clients, compares what they were told with what PostgreSQL has, and removes the customers.
    pub async fn close(mut self, cluster: &Cluster) -> Result<Report> {
        self.stop.send(true)?;
        let mut report = Report { took: self.opened.elapsed(), ..Report::default() };
        let mut clients = Vec::new();
        while let Some(client) = self.clients.join_next().await {
            clients.push(client?);
        }
        for customer in &self.customers {
            let own: Vec<&Client> = clients.iter().filter(|client| client.customer == *customer).collect();
            report.verify(cluster, customer, &own).await?;
        }
        clients.iter().for_each(|client| report.add(client));
        for customer in &self.customers {
            cluster.delete_customer(customer).await?;
        }
        Ok(report)
    }
}

#[derive(Clone, Copy, Debug)]
enum Driver {
    TokioPostgres,
    Sqlx,
}

/// A connection, by either driver.
enum Session {
    TokioPostgres { client: tokio_postgres::Client, insert: Statement, update: Statement },
    Sqlx(PgConnection),
}

impl Session {
    async fn open(driver: Driver, way: &Login) -> Result<Session> {
        match driver {
            Driver::TokioPostgres => {
                let client = way.connect().await?;
                let (insert, update) = (client.prepare(INSERT).await?, client.prepare(UPDATE).await?);
                Ok(Session::TokioPostgres { client, insert, update })
            }
            Driver::Sqlx => {
                let options = PgConnectOptions::new_without_pgpass()
                    .host(way.address())
                    .port(way.get("port").parse()?)
                    .username(way.get("username"))
                    .password(way.get("password"))
                    .database(way.get("database"));
                let options = tls::sqlx_options(options, way.get("sslmode"))?;
                Ok(Session::Sqlx(options.connect().await?))
            }
        }
    }

    /// What a pool asks before it hands a connection out.
    async fn is_alive(&mut self) -> bool {
        match self {
            Session::TokioPostgres { client, .. } => !client.is_closed(),
            Session::Sqlx(connection) => connection.ping().await.is_ok(),
        }
    }

    async fn command(&mut self, command: &'static str) -> Result<()> {
        match self {
            Session::TokioPostgres { client, .. } => client.batch_execute(command).await?,
            Session::Sqlx(connection) => {
                connection.execute(command).await?;
            }
        }
        Ok(())
    }

    /// A booking, all but its BEGIN and its COMMIT.
    async fn book(&mut self, id: i64, account: i64) -> Result<()> {
        let rows = match self {
            Session::TokioPostgres { client, insert, update } => {
                client.execute(insert, &[&id, &account]).await?;
                client.execute(update, &[&account]).await?
            }
            Session::Sqlx(connection) => {
                sqlx::query(INSERT).bind(id).bind(account).execute(&mut *connection).await?;
                sqlx::query(UPDATE).bind(account).execute(&mut *connection).await?.rows_affected()
            }
        };
        ensure!(rows == 1, "account {account} is there {rows} times");
        Ok(())
    }

    /// Whether a booking whose COMMIT was not answered has been made all the same. Ends the transaction.
    async fn find(&mut self, id: i64, account: i64) -> Result<bool> {
        let found: i64 = match self {
            Session::TokioPostgres { client, .. } => {
                client.query_one(LOCK, &[&account]).await?;
                client.query_one(FIND, &[&id]).await?.get(0)
            }
            Session::Sqlx(connection) => {
                sqlx::query(LOCK).bind(account).execute(&mut *connection).await?;
                sqlx::query_scalar(FIND).bind(id).fetch_one(&mut *connection).await?
            }
        };
        self.command("COMMIT").await?;
        Ok(found > 0)
    }

    async fn close(self) {
        if let Session::Sqlx(connection) = self {
            // Says goodbye; there is nobody to tell when that fails.
            let _ = connection.close().await;
        }
    }
}

/// One connection's place in an application's pool, and what it remembers.
struct Client {
    customer: String,
    way: watch::Receiver<Login>,
    driver: Driver,
    lifetime: Duration,
    connected: bool,
    /// Its BEGIN has been answered.
    in_flight: bool,
    account: i64,
    /// Of the booking that is being made.
    id: i64,
    /// Its COMMIT has been sent, and not been answered.
    in_doubt: bool,
    confirmed: Vec<i64>,
    /// Bookings that were found although the answer to their COMMIT was lost.
    found: u64,
    /// Connections that were ended while they were idle, and replaced before anything was asked of them.
    replaced: u64,
    failures: Failures,
    /// Since when the booking has been wanted.
    wanted: Instant,
    stall: Duration,
    latencies: Latencies,
    told: watch::Sender<u64>,
}

impl Client {
    async fn run(mut self, stop: watch::Receiver<bool>) -> Client {
        self.wanted = Instant::now();
        while !*stop.borrow() {
            if let Err(error) = self.live(&stop).await {
                self.failures.add(self.driver, self.connected, self.in_flight, &error);
                sleep(RETRY).await;
            }
        }
        if self.in_doubt {
            self.stall = self.stall.max(self.wanted.elapsed());
        }
        self
    }

    /// The life of one connection.
    async fn live(&mut self, stop: &watch::Receiver<bool>) -> Result<()> {
        (self.connected, self.in_flight) = (false, false);
        let way = self.way.borrow().clone();
        let mut session = patiently("connecting", Session::open(self.driver, &way)).await?;
        self.connected = true;
        let born = Instant::now();
        while born.elapsed() < self.lifetime && !*stop.borrow() {
            if !patiently("looking at the connection", async { Ok(session.is_alive().await) }).await? {
                self.replaced += 1;
                return Ok(());
            }
            // Never again blindly: it may have been made.
            if self.in_doubt && self.find(&mut session).await? {
                self.found += 1;
            } else {
                self.in_doubt = false;
                self.begin(&mut session).await?;
                patiently("booking", session.book(self.id, self.account)).await?;
                self.in_doubt = true;
                patiently("COMMIT", session.command("COMMIT")).await?;
            }
            self.confirm();
            sleep(PACE).await;
            self.wanted = Instant::now();
        }
        session.close().await;
        Ok(())
    }

    async fn begin(&mut self, session: &mut Session) -> Result<()> {
        patiently("BEGIN", session.command("BEGIN")).await?;
        self.in_flight = true;
        Ok(())
    }

    async fn find(&mut self, session: &mut Session) -> Result<bool> {
        self.begin(session).await?;
        let found = patiently("looking it up", session.find(self.id, self.account)).await?;
        self.in_flight = false;
        Ok(found)
    }

    fn confirm(&mut self) {
        (self.in_doubt, self.in_flight) = (false, false);
        self.confirmed.push(self.id);
        self.id += 1;
        self.stall = self.stall.max(self.wanted.elapsed());
        self.latencies.add(self.wanted.elapsed());
        self.told.send_modify(|confirmed| *confirmed += 1);
    }
}

async fn patiently<T>(what: &str, doing: impl Future<Output = Result<T>>) -> Result<T> {
    let done = timeout(PATIENCE, doing).await.with_context(|| format!("{what}: no answer within {PATIENCE:?}"))?;
    done.with_context(|| what.to_owned())
}

/// What went wrong, and when.
struct Failures {
    since: Instant,
    count: u64,
    /// Of them, those to connect.
    connecting: u64,
    /// Of them, those of somebody who had nothing at the server that could have been lost.
    needless: u64,
    told: Vec<(Duration, String)>,
}

/// How pgbouncer, and PostgreSQL through it, say that the connection ended which had just been given the query. The last two
/// are said where pgbouncer was using it on behalf of the client: to set the client's parameters (whatever PostgreSQL says
/// then is told as `invalid server parameter`: handle_server_work in pgbouncer's server.c), and to look its password up.
const CUT_OFF: [&str; 5] = [
    "server conn crashed?",
    "server closed the connection unexpectedly",
    "terminating connection",
    "invalid server parameter",
    "bouncer config error",
];

impl Failures {
    fn since(since: Instant) -> Failures {
        Failures { since, count: 0, connecting: 0, needless: 0, told: Vec::new() }
    }

    fn add(&mut self, driver: Driver, connected: bool, in_flight: bool, error: &anyhow::Error) {
        let text = format!("{error:#}");
        // A login that gets the error of another has nothing at the server, whatever that error was.
        let is_cached = text.contains("cached error");
        let in_flight = !is_cached && (in_flight || CUT_OFF.iter().any(|words| text.contains(words)));
        self.count += 1;
        self.connecting += u64::from(!connected);
        self.needless += u64::from(!in_flight);
        if self.told.len() < TOLD {
            let what = if in_flight { "in flight" } else { "NEEDLESS" };
            self.told.push((self.since.elapsed(), format!("{what}: {driver:?}: {text}")));
        }
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// How long clients booked.
    pub took: Duration,
    /// Bookings that were confirmed.
    pub commits: usize,
    /// Of them, those whose COMMIT was not answered and that were looked up.
    pub found: u64,
    /// Connections that could not be made, and transactions that could not be finished.
    pub failed: u64,
    /// Of them, the connections.
    pub failed_to_connect: u64,
    /// Of them, the first queries of transactions, and logins: nothing of theirs was at the server when it went.
    pub needless: u64,
    /// The first of them.
    pub failures: Vec<(Duration, String)>,
    /// Idle connections that were ended, and replaced without a failure.
    pub replaced: u64,
    /// The longest time from wanting a booking to its confirmation, connecting included.
    pub stall: Duration,
    /// Bookings that were confirmed and are not there.
    pub lost: usize,
    /// Bookings that are there more than once.
    pub doubled: usize,
    /// Bookings that are there although they failed before their COMMIT was sent.
    pub ghosts: usize,
    /// Accounts whose balance is not the number of their bookings.
    pub unbalanced: i64,
}

impl Report {
    fn add(&mut self, client: &Client) {
        self.commits += client.confirmed.len();
        self.found += client.found;
        self.replaced += client.replaced;
        self.failed += client.failures.count;
        self.failed_to_connect += client.failures.connecting;
        self.needless += client.failures.needless;
        self.stall = self.stall.max(client.stall);
        self.failures.extend(client.failures.told.iter().cloned());
        self.failures.sort();
        self.failures.truncate(TOLD);
    }

    async fn verify(&mut self, cluster: &Cluster, customer: &str, clients: &[&Client]) -> Result<()> {
        let direct = cluster.direct(customer).await?.connect().await?;
        let rows = direct.query("SELECT id, count(*) FROM ledger GROUP BY id", &[]).await?;
        let there: HashMap<i64, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let confirmed: BTreeSet<i64> = clients.iter().flat_map(|client| client.confirmed.iter().copied()).collect();
        // The last booking of a client may have been cut off at its COMMIT: it may be there or not.
        let in_doubt: BTreeSet<i64> = clients.iter().filter(|c| c.in_doubt).map(|client| client.id).collect();
        self.lost += confirmed.iter().filter(|id| !there.contains_key(id)).count();
        self.doubled += there.values().filter(|count| **count > 1).count();
        self.ghosts += there.keys().filter(|id| !confirmed.contains(id) && !in_doubt.contains(id)).count();
        let unbalanced = "SELECT count(*) FROM balance b \
             WHERE total <> (SELECT count(*) FROM ledger l WHERE l.account = b.account)";
        self.unbalanced += direct.query_one(unbalanced, &[]).await?.get::<_, i64>(0);
        Ok(())
    }

    /// Every booking that was confirmed is there, once, and nothing else is.
    pub fn nothing_lost(&self) -> Result<()> {
        if self.lost > 0 || self.doubled > 0 || self.ghosts > 0 || self.unbalanced > 0 {
            bail!("the ledger is wrong:\n{self}");
        }
        ensure!(self.commits > 100, "only {} bookings: nothing is proved", self.commits);
        Ok(())
    }

    /// And no client saw an error.
    pub fn nothing_failed(&self) -> Result<()> {
        self.nothing_lost()?;
        ensure!(self.failed == 0, "queries failed:\n{self}");
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} commits in {:.0?}, {} failed ({} to connect; {} of all outside a transaction in flight), longest stall {:.2?}",
            self.commits, self.took, self.failed, self.failed_to_connect, self.needless, self.stall
        )?;
        write!(
            f,
            "  {} lost, {} doubled, {} without COMMIT, {} accounts wrong; {} looked up after a lost answer, \
             {} idle connections replaced",
            self.lost, self.doubled, self.ghosts, self.unbalanced, self.found, self.replaced
        )?;
        for (at, failure) in &self.failures {
            write!(f, "\n  {:7.2} s  {failure}", at.as_secs_f64())?;
        }
        Ok(())
    }
}
