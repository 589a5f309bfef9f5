//! pgbouncer's admin console, over its unix socket.
//!
//! pgbouncer accepts every process of its own operating system user, so there is no password. The console supports only the
//! simple query protocol.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::timeout;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, SimpleQueryRow};
use tokio_util::task::AbortOnDropHandle;

use crate::logins::Unfinished;

/// An open connection to the console.
#[derive(Debug)]
pub struct Console {
    directory: PathBuf,
    port: u16,
    client: Client,
    _connection: AbortOnDropHandle<()>,
}

/// A database in pgbouncer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Database {
    /// Whether new clients are refused.
    pub disabled: bool,
    /// Whether clients wait.
    pub paused: bool,
    /// Number of server connections.
    pub connections: i64,
}

/// Activity of the pools of one database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Clients with a server connection.
    pub clients_active: i64,
    /// Clients that wait for a server connection.
    pub clients_waiting: i64,
    /// Wait of the client that has waited longest, in microseconds.
    pub longest_wait: i64,
    /// Server connections with a client.
    pub servers_active: i64,
    /// Server connections without a client.
    pub servers_idle: i64,
    /// Server connections in all.
    pub servers: i64,
    /// Logged-in clients.
    pub clients: i64,
}

/// Number of clients of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clients {
    /// All clients.
    pub all: i64,
    /// Clients that have not finished their login.
    pub unfinished: i64,
}

/// Counters of a process since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Transactions.
    pub transactions: i64,
    /// Successful logins.
    pub logins: i64,
}

/// Activity of all pools together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Clients with a server connection.
    pub clients_active: i64,
    /// Clients that wait for a server connection.
    pub clients_waiting: i64,
    /// Server connections with a client.
    pub servers_active: i64,
    /// Server connections without a client.
    pub servers_idle: i64,
    /// Wait of the client that has waited longest, in microseconds.
    pub longest_wait: i64,
}

impl Load {
    /// The sum over these databases.
    #[must_use]
    pub fn of<'a>(usages: impl IntoIterator<Item = &'a Usage>) -> Load {
        let mut load = Load::default();
        for usage in usages {
            load.clients_active += usage.clients_active;
            load.clients_waiting += usage.clients_waiting;
            load.servers_active += usage.servers_active;
            load.servers_idle += usage.servers_idle;
            load.longest_wait = load.longest_wait.max(usage.longest_wait);
        }
        load
    }
}

/// A client's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    /// The id for [`Console::kill_client`]; newer clients have higher ones.
    pub id: u64,
    /// Database of the client.
    pub database: String,
    /// Whether it has a server connection.
    pub linked: bool,
    /// Whether it waits for a server connection.
    pub waiting: bool,
}

impl Connected {
    /// Whether it is in no transaction and waits for none.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !self.linked && !self.waiting
    }
}

/// Maximum time for an answer; a reload of thousands of routes takes less than a second.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A PAUSE without an answer for this long waits for transactions.
const PAUSE_TIMEOUT: Duration = Duration::from_millis(20);
/// Number of consoles that pause databases concurrently.
const LANES: usize = 8;
/// The same error for every kind of missing answer, as it is written into a status.
const NO_ANSWER: &str = "pgbouncer does not answer";

impl Console {
    /// Connects to the pgbouncer whose socket is in `directory`.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn connect(directory: &Path, port: u16) -> Result<Console> {
        let mut config = Config::new();
        config.host_path(directory).port(port).user("pgbouncer").dbname("pgbouncer");
        config.connect_timeout(ANSWER_TIMEOUT);
        let connected = timeout(ANSWER_TIMEOUT, config.connect(NoTls)).await.context(NO_ANSWER)?;
        let (client, connection) = connected.context(NO_ANSWER)?;
        let connection = tokio::spawn(async move {
            // The next command returns the error.
            let _ = connection.await;
        });
        Ok(Console { directory: directory.to_owned(), port, client, _connection: AbortOnDropHandle::new(connection) })
    }

    /// Makes pgbouncer read its files. The answer does not show whether it could: see [`Console::marker`].
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn reload(&self) -> Result<()> {
        self.command("RELOAD").await
    }

    /// Value of the marker, which is the last setting of the file: proof that pgbouncer read it to the end.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn marker(&self) -> Result<String> {
        let settings = self.rows("SHOW CONFIG").await?;
        let found = settings.iter().find(|row| row.get("key") == Some("syslog_ident"));
        Ok(found.and_then(|row| row.get("value")).unwrap_or_default().to_owned())
    }

    /// All databases, the console included.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn databases(&self) -> Result<BTreeMap<String, Database>> {
        let rows = self.rows("SHOW DATABASES").await?;
        let databases = rows.iter().map(|row| {
            let database = Database {
                disabled: number(row, "disabled") != 0,
                paused: number(row, "paused") != 0,
                connections: number(row, "current_connections"),
            };
            (row.get("name").unwrap_or_default().to_owned(), database)
        });
        Ok(databases.collect())
    }

    /// Activity of the pools of each database, without the console.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn usage(&self) -> Result<BTreeMap<String, Usage>> {
        let mut usages: BTreeMap<String, Usage> = BTreeMap::new();
        let name = |row: &SimpleQueryRow, column| row.get(column).unwrap_or_default().to_owned();
        for row in &self.rows("SHOW DATABASES").await? {
            let usage = usages.entry(name(row, "name")).or_default();
            usage.servers = number(row, "current_connections");
        }
        for row in &self.rows("SHOW POOLS").await? {
            let usage = usages.entry(name(row, "database")).or_default();
            usage.clients_active += number(row, "cl_active");
            usage.clients_waiting += number(row, "cl_waiting");
            usage.clients += number(row, "cl_active") + number(row, "cl_waiting");
            usage.servers_idle += number(row, "sv_idle") + number(row, "sv_used");
            usage.servers_active += number(row, "sv_active");
            let wait = number(row, "maxwait") * 1_000_000 + number(row, "maxwait_us");
            usage.longest_wait = usage.longest_wait.max(wait);
        }
        usages.remove("pgbouncer");
        Ok(usages)
    }

    /// Counters of all databases together.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn totals(&self) -> Result<Totals> {
        let rows = self.rows("SHOW STATS_TOTALS").await?;
        let sum = |column| rows.iter().map(|row| number(row, column)).sum();
        Ok(Totals { transactions: sum("xact_count"), logins: sum("client_login_count") })
    }

    /// Number of clients. Cheap: pgbouncer maintains these numbers.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn count_clients(&self) -> Result<Clients> {
        let rows = self.rows("SHOW LISTS").await?;
        let of = |list| rows.iter().find(|row| row.get("list") == Some(list)).map_or(0, |row| number(row, "items"));
        Ok(Clients { all: of("used_clients"), unfinished: of("login_clients") })
    }

    /// Number of logged-in clients by database.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn logged_in(&self) -> Result<BTreeMap<String, i64>> {
        let mut counts = BTreeMap::new();
        for row in &self.rows("SHOW POOLS").await? {
            let database = row.get("database").unwrap_or_default().to_owned();
            *counts.entry(database).or_insert(0) += number(row, "cl_active") + number(row, "cl_waiting");
        }
        Ok(counts)
    }

    /// The clients that have not finished their login.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn unfinished_logins(&self) -> Result<Vec<Unfinished>> {
        let rows = self.rows("SHOW SOCKETS").await?;
        let rows = rows.iter().filter(|row| row.get("state") == Some("cl_login"));
        let text = |row: &SimpleQueryRow, column| row.get(column).unwrap_or_default().to_owned();
        let unfinished = rows.map(|row| {
            let user = text(row, "user");
            Unfinished { address: text(row, "addr"), user: if user == "(nouser)" { String::new() } else { user } }
        });
        Ok(unfinished.collect())
    }

    /// Changes a setting until the next reload.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn set(&self, name: &str, value: &str) -> Result<()> {
        self.command(&format!("SET {name} = '{value}'")).await
    }

    /// Replaces the server connections of a database, those in use when their transactions have ended.
    ///
    /// # Errors
    /// When it does not answer or has no such database.
    pub async fn reconnect(&self, database: &str) -> Result<()> {
        self.command(&format!("RECONNECT {}", quoted(database)?)).await
    }

    /// Refuses or admits new clients.
    ///
    /// # Errors
    /// When it does not answer or has no such database.
    pub async fn set_disabled(&self, database: &str, disabled: bool) -> Result<()> {
        let verb = if disabled { "DISABLE" } else { "ENABLE" };
        self.command(&format!("{verb} {}", quoted(database)?)).await
    }

    /// Makes the clients of these databases wait before their next transaction. Does not wait for running transactions to end:
    /// [`Database::connections`] shows that.
    ///
    /// # Errors
    /// When pgbouncer does not answer.
    pub async fn pause(&self, databases: &[String]) -> Result<()> {
        Self::pause_at(&self.directory, self.port, databases).await
    }

    /// [`Console::pause`] at the pgbouncer whose socket is in `directory`.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn pause_at(directory: &Path, port: u16, databases: &[String]) -> Result<()> {
        let lanes = (0..LANES.min(databases.len()))
            .map(|lane| pause_one_by_one(directory, port, databases.iter().skip(lane).step_by(LANES)));
        futures::future::try_join_all(lanes).await.map(drop)
    }

    /// Serves the clients of these databases again. Databases that are not paused or do not exist are no error.
    ///
    /// # Errors
    /// When pgbouncer does not answer.
    pub async fn resume(&self, databases: &[String]) -> Result<()> {
        for database in databases {
            let resume = format!("RESUME {}", quoted(database)?);
            let answer = timeout(ANSWER_TIMEOUT, self.client.simple_query(&resume)).await.context(NO_ANSWER)?;
            if self.client.is_closed() {
                answer.context(NO_ANSWER)?;
            }
        }
        Ok(())
    }

    /// Stops pgbouncer when its last client has disconnected. New clients are refused from now on.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn shut_down(&self) -> Result<()> {
        self.command("SHUTDOWN WAIT_FOR_CLIENTS").await
    }

    /// The connections of clients, without those to the console.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn clients(&self) -> Result<Vec<Connected>> {
        let rows = self.rows("SHOW CLIENTS").await?;
        let clients = rows.iter().filter(|row| row.get("database") != Some("pgbouncer"));
        let clients = clients.filter_map(|row| {
            Some(Connected {
                id: row.get("id")?.parse().ok()?,
                database: row.get("database")?.to_owned(),
                linked: row.get("link").is_some_and(|link| !link.is_empty()),
                waiting: row.get("state") == Some("waiting"),
            })
        });
        Ok(clients.collect())
    }

    /// The users of client and server connections.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn users(&self) -> Result<BTreeSet<String>> {
        let mut users = BTreeSet::new();
        for question in ["SHOW CLIENTS", "SHOW SERVERS"] {
            users.extend(self.rows(question).await?.iter().filter_map(|row| row.get("user").map(ToOwned::to_owned)));
        }
        Ok(users)
    }

    /// Disconnects a client.
    ///
    /// # Errors
    /// When it does not answer, or the client has disconnected.
    pub async fn kill_client(&self, id: u64) -> Result<()> {
        self.command(&format!("KILL_CLIENT {id}")).await
    }

    async fn command(&self, command: &str) -> Result<()> {
        self.ask(command).await.map(|_| ())
    }

    async fn rows(&self, query: &str) -> Result<Vec<SimpleQueryRow>> {
        let answer = self.ask(query).await?;
        Ok(answer
            .into_iter()
            .filter_map(|message| if let SimpleQueryMessage::Row(row) = message { Some(row) } else { None })
            .collect())
    }

    async fn ask(&self, command: &str) -> Result<Vec<SimpleQueryMessage>> {
        let answer = timeout(ANSWER_TIMEOUT, self.client.simple_query(command)).await.context(NO_ANSWER)?;
        answer.with_context(|| {
            let word = command.split(' ').next().unwrap_or_default();
            if self.client.is_closed() { NO_ANSWER.to_owned() } else { format!("pgbouncer refused {word}") }
        })
    }
}

/// A console waits until the transactions of the paused database have ended, so the next database gets another console.
async fn pause_one_by_one(directory: &Path, port: u16, databases: impl Iterator<Item = &String>) -> Result<()> {
    let mut console: Option<Console> = None;
    for database in databases {
        let open = match console.take() {
            Some(open) => open,
            None => Console::connect(directory, port).await?,
        };
        let pause = format!("PAUSE {}", quoted(database)?);
        // A refusal means that the database does not exist (any more).
        if timeout(PAUSE_TIMEOUT, open.client.simple_query(&pause)).await.is_ok() {
            console = Some(open);
        }
    }
    Ok(())
}

/// Routes are validated before they are loaded; this protects against other callers.
fn quoted(database: &str) -> Result<String> {
    if database.is_empty()
        || !database.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    {
        bail!("the name of the database is not valid: {database:?}");
    }
    Ok(format!("\"{database}\""))
}

fn number(row: &SimpleQueryRow, column: &str) -> i64 {
    row.try_get(column).ok().flatten().and_then(|text| text.parse().ok()).unwrap_or(0)
}
