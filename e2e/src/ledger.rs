//! A ledger: clients that book continuously and record which bookings were confirmed. Afterwards their records are compared with
//! PostgreSQL.
//!
//! A client behaves like a connection of an application's pool: it lives for some seconds, is tested before use, and is replaced
//! between two transactions. It reads the Secret when it connects, as from a mounted file. All other failures are counted.

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

/// Minimum lifetime of a connection, and the jitter added to it.
const LIFETIME: (Duration, Duration) = (Duration::from_secs(8), Duration::from_secs(2));
/// Pause between two bookings of a connection, so that clients do not saturate a small machine.
const BOOKING_INTERVAL: Duration = Duration::from_millis(20);
/// Pause after a failed attempt to connect.
const RETRY: Duration = Duration::from_millis(100);
/// Longest wait for an answer. A longer one is a failure.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Number of failures that are listed. All are counted.
const LISTED: usize = 12;

/// Ids are not unique in the table, so that a booking that was made twice can be found.
const TABLES: &str = "CREATE TABLE ledger (id bigint NOT NULL, account bigint NOT NULL); CREATE INDEX ON ledger (id); \
     CREATE TABLE balance (account bigint PRIMARY KEY, total bigint NOT NULL)";
const INSERT: &str = "INSERT INTO ledger VALUES ($1, $2)";
const UPDATE: &str = "UPDATE balance SET total = total + 1 WHERE account = $1";
/// Waits for a transaction of this account that may still commit.
const LOCK: &str = "SELECT total FROM balance WHERE account = $1 FOR UPDATE";
const FIND: &str = "SELECT count(*) FROM ledger WHERE id = $1";

/// Clients of several customers that book.
pub struct Ledger {
    customers: Vec<String>,
    confirmed: Vec<watch::Receiver<u64>>,
    stop: watch::Sender<bool>,
    clients: JoinSet<Client>,
    latencies: Latencies,
    /// Tasks that keep the mounted Secrets up to date.
    _mounts: JoinSet<()>,
    opened: Instant,
}

impl Ledger {
    /// Creates the `customers` and starts `connections` clients for each.
    pub async fn open(cluster: &Cluster, customers: &[&str], connections: usize) -> Result<Ledger> {
        Ledger::open_with(cluster, customers, connections, json!({"database": {"enabled": true}})).await
    }

    /// Creates the `customers` with these `features` and starts `connections` clients for each.
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
                let (count, counted) = watch::channel(0);
                confirmed.push(counted);
                let driver = if account % 2 == 0 { Driver::TokioPostgres } else { Driver::Sqlx };
                let share = f64::from(u32::try_from(account)?) / f64::from(u32::try_from(connections)?);
                let client = Client {
                    customer: (*customer).to_owned(),
                    login: mounted.clone(),
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
                    count,
                };
                clients.spawn(client.run(stopped.clone()));
            }
        }
        let customers = customers.iter().map(|name| (*name).to_owned()).collect();
        let ledger = Ledger { customers, confirmed, stop, clients, latencies, _mounts: mounts, opened };
        ledger.progress(ANSWER_TIMEOUT).await?;
        Ok(ledger)
    }

    /// Names of the customers.
    #[must_use]
    pub fn customers(&self) -> &[String] {
        &self.customers
    }

    /// Latencies of the bookings, including connecting.
    #[must_use]
    pub fn latencies(&self) -> Latencies {
        self.latencies.clone()
    }

    /// Waits until each client has another confirmed booking.
    pub async fn progress(&self, within: Duration) -> Result<()> {
        let mut clients = self.confirmed.clone();
        clients.iter_mut().for_each(watch::Receiver::mark_unchanged);
        let all = futures::future::try_join_all(clients.iter_mut().map(watch::Receiver::changed));
        let all = timeout(within, all).await.with_context(|| format!("a client has booked nothing for {within:?}"))?;
        all.context("a client has ended").map(drop)
    }

    /// Ends the clients, compares their records with PostgreSQL, and deletes the customers.
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

/// Connection of either driver.
enum Session {
    TokioPostgres { client: tokio_postgres::Client, insert: Statement, update: Statement },
    Sqlx(PgConnection),
}

impl Session {
    async fn open(driver: Driver, login: &Login) -> Result<Session> {
        match driver {
            Driver::TokioPostgres => {
                let client = login.connect().await?;
                let (insert, update) = (client.prepare(INSERT).await?, client.prepare(UPDATE).await?);
                Ok(Session::TokioPostgres { client, insert, update })
            }
            Driver::Sqlx => {
                let options = PgConnectOptions::new_without_pgpass()
                    .host(login.address())
                    .port(login.get("port").parse()?)
                    .username(login.get("username"))
                    .password(login.get("password"))
                    .database(login.get("database"));
                let options = tls::sqlx_options(options, login.get("sslmode"))?;
                Ok(Session::Sqlx(options.connect().await?))
            }
        }
    }

    /// Test that a pool makes before it hands out a connection.
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

    /// Makes a booking, without BEGIN and COMMIT.
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
        ensure!(rows == 1, "account {account} has {rows} rows");
        Ok(())
    }

    /// Returns whether a booking was committed although its COMMIT was not answered. Ends the transaction.
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
            // Sends Terminate. An error has no effect on the result.
            let _ = connection.close().await;
        }
    }
}

/// Connection slot of an application's pool, and its records.
struct Client {
    customer: String,
    login: watch::Receiver<Login>,
    driver: Driver,
    lifetime: Duration,
    connected: bool,
    /// BEGIN was answered.
    in_flight: bool,
    account: i64,
    /// Id of the current booking.
    id: i64,
    /// COMMIT was sent and not answered.
    in_doubt: bool,
    confirmed: Vec<i64>,
    /// Bookings that were committed although their COMMIT was not answered.
    found: u64,
    /// Idle connections that were closed and replaced before use.
    replaced: u64,
    failures: Failures,
    /// When the current booking was due.
    wanted: Instant,
    stall: Duration,
    latencies: Latencies,
    count: watch::Sender<u64>,
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

    /// Connects and books until the lifetime is over.
    async fn live(&mut self, stop: &watch::Receiver<bool>) -> Result<()> {
        (self.connected, self.in_flight) = (false, false);
        let login = self.login.borrow().clone();
        let mut session = answered("connecting", Session::open(self.driver, &login)).await?;
        self.connected = true;
        let born = Instant::now();
        while born.elapsed() < self.lifetime && !*stop.borrow() {
            if !answered("testing the connection", async { Ok(session.is_alive().await) }).await? {
                self.replaced += 1;
                return Ok(());
            }
            // The booking may have been committed.
            if self.in_doubt && self.find(&mut session).await? {
                self.found += 1;
            } else {
                self.in_doubt = false;
                self.begin(&mut session).await?;
                answered("booking", session.book(self.id, self.account)).await?;
                self.in_doubt = true;
                answered("COMMIT", session.command("COMMIT")).await?;
            }
            self.confirm();
            sleep(BOOKING_INTERVAL).await;
            self.wanted = Instant::now();
        }
        session.close().await;
        Ok(())
    }

    async fn begin(&mut self, session: &mut Session) -> Result<()> {
        answered("BEGIN", session.command("BEGIN")).await?;
        self.in_flight = true;
        Ok(())
    }

    async fn find(&mut self, session: &mut Session) -> Result<bool> {
        self.begin(session).await?;
        let found = answered("looking up the booking", session.find(self.id, self.account)).await?;
        self.in_flight = false;
        Ok(found)
    }

    fn confirm(&mut self) {
        (self.in_doubt, self.in_flight) = (false, false);
        self.confirmed.push(self.id);
        self.id += 1;
        self.stall = self.stall.max(self.wanted.elapsed());
        self.latencies.add(self.wanted.elapsed());
        self.count.send_modify(|confirmed| *confirmed += 1);
    }
}

async fn answered<T>(what: &str, doing: impl Future<Output = Result<T>>) -> Result<T> {
    let done =
        timeout(ANSWER_TIMEOUT, doing).await.with_context(|| format!("{what}: no answer within {ANSWER_TIMEOUT:?}"))?;
    done.with_context(|| what.to_owned())
}

/// Failures, with their times.
struct Failures {
    since: Instant,
    count: u64,
    /// Failures to connect.
    connecting: u64,
    /// Failures of clients that had no transaction in flight.
    needless: u64,
    listed: Vec<(Duration, String)>,
}

/// Messages of pgbouncer and PostgreSQL for a query whose server connection ended. pgbouncer sends the last two when the connection
/// ended while it set the parameters of the client (`invalid server parameter`: handle_server_work in pgbouncer's server.c) or
/// looked up its password.
const CUT_OFF: [&str; 5] = [
    "server conn crashed?",
    "server closed the connection unexpectedly",
    "terminating connection",
    "invalid server parameter",
    "bouncer config error",
];

impl Failures {
    fn since(since: Instant) -> Failures {
        Failures { since, count: 0, connecting: 0, needless: 0, listed: Vec::new() }
    }

    fn add(&mut self, driver: Driver, connected: bool, in_flight: bool, error: &anyhow::Error) {
        let text = format!("{error:#}");
        // A login that gets a cached error had nothing in flight.
        let is_cached = text.contains("cached error");
        let in_flight = !is_cached && (in_flight || CUT_OFF.iter().any(|words| text.contains(words)));
        self.count += 1;
        self.connecting += u64::from(!connected);
        self.needless += u64::from(!in_flight);
        if self.listed.len() < LISTED {
            let what = if in_flight { "in flight" } else { "NEEDLESS" };
            self.listed.push((self.since.elapsed(), format!("{what}: {driver:?}: {text}")));
        }
    }
}

/// Result of a ledger.
#[derive(Debug, Default)]
pub struct Report {
    /// How long clients booked.
    pub took: Duration,
    /// Confirmed bookings.
    pub commits: usize,
    /// Confirmed bookings whose COMMIT was not answered and that were looked up.
    pub found: u64,
    /// Failed connections and transactions.
    pub failed: u64,
    /// Failed connections.
    pub failed_to_connect: u64,
    /// Failed logins and first queries of transactions: they had nothing in flight.
    pub needless: u64,
    /// First failures.
    pub failures: Vec<(Duration, String)>,
    /// Idle connections that were closed and replaced without a failure.
    pub replaced: u64,
    /// Longest time of a booking, including connecting.
    pub stall: Duration,
    /// Confirmed bookings that do not exist.
    pub lost: usize,
    /// Bookings that exist more than once.
    pub doubled: usize,
    /// Bookings that exist although they failed before COMMIT.
    pub ghosts: usize,
    /// Accounts whose balance differs from the number of their bookings.
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
        self.failures.extend(client.failures.listed.iter().cloned());
        self.failures.sort();
        self.failures.truncate(LISTED);
    }

    async fn verify(&mut self, cluster: &Cluster, customer: &str, clients: &[&Client]) -> Result<()> {
        let direct = cluster.direct(customer).await?.connect().await?;
        let rows = direct.query("SELECT id, count(*) FROM ledger GROUP BY id", &[]).await?;
        let stored: HashMap<i64, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let confirmed: BTreeSet<i64> = clients.iter().flat_map(|client| client.confirmed.iter().copied()).collect();
        // The last COMMIT of a client may be unanswered: its booking may exist or not.
        let in_doubt: BTreeSet<i64> = clients.iter().filter(|c| c.in_doubt).map(|client| client.id).collect();
        self.lost += confirmed.iter().filter(|id| !stored.contains_key(id)).count();
        self.doubled += stored.values().filter(|count| **count > 1).count();
        self.ghosts += stored.keys().filter(|id| !confirmed.contains(id) && !in_doubt.contains(id)).count();
        let unbalanced = "SELECT count(*) FROM balance b \
             WHERE total <> (SELECT count(*) FROM ledger l WHERE l.account = b.account)";
        self.unbalanced += direct.query_one(unbalanced, &[]).await?.get::<_, i64>(0);
        Ok(())
    }

    /// Fails unless exactly the confirmed bookings exist, each once.
    pub fn nothing_lost(&self) -> Result<()> {
        if self.lost > 0 || self.doubled > 0 || self.ghosts > 0 || self.unbalanced > 0 {
            bail!("the ledger is wrong:\n{self}");
        }
        ensure!(self.commits > 100, "only {} bookings, too few for a result", self.commits);
        Ok(())
    }

    /// Fails if a booking was lost or a query failed.
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
