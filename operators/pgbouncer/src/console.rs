//! pgbouncer's admin console, over its unix socket.
//!
//! pgbouncer lets in whoever runs as the user it runs as, so there is no password. The console understands the simple
//! query protocol alone.

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

/// A database as pgbouncer has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Database {
    /// New clients are refused.
    pub disabled: bool,
    /// Clients wait.
    pub paused: bool,
    /// Server connections it has.
    pub connections: i64,
}

/// What the pools of one database do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Clients with a server connection.
    pub clients_active: i64,
    /// Clients that wait for a server connection.
    pub clients_waiting: i64,
    /// How long the one that has waited longest waits, in microseconds.
    pub longest_wait: i64,
    /// Server connections with a client.
    pub servers_active: i64,
    /// Server connections without.
    pub servers_idle: i64,
    /// Server connections in all.
    pub servers: i64,
    /// Clients that are logged in.
    pub clients: i64,
}

/// How many clients a process has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clients {
    /// All of them.
    pub all: i64,
    /// Those that have not finished their login.
    pub unfinished: i64,
}

/// What a process has done since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Transactions.
    pub transactions: i64,
    /// Logins that succeeded.
    pub logins: i64,
}

/// What all pools together do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Clients with a server connection.
    pub clients_active: i64,
    /// Clients that wait for a server connection.
    pub clients_waiting: i64,
    /// Server connections with a client.
    pub servers_active: i64,
    /// Server connections without.
    pub servers_idle: i64,
    /// How long the client that has waited longest waits, in microseconds.
    pub longest_wait: i64,
}

impl Load {
    /// What these databases do together.
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
    /// What [`Console::kill_client`] calls it; the newer, the higher.
    pub id: u64,
    /// Its database.
    pub database: String,
    /// It has a server connection.
    pub linked: bool,
    /// It waits for a server connection.
    pub waiting: bool,
}

impl Connected {
    /// It is in no transaction, and asks for none.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !self.linked && !self.waiting
    }
}

/// How long pgbouncer may take to answer; a reload of thousands of routes takes less than a second.
const PATIENCE: Duration = Duration::from_secs(10);
/// A pause that has not been answered for so long waits for transactions.
const BUSY: Duration = Duration::from_millis(20);
/// Consoles that pause at the same time.
const LANES: usize = 8;
/// One sentence for every way of not answering: it ends up in a status, which is not to change with each try.
const SILENCE: &str = "pgbouncer does not answer";

impl Console {
    /// Connects to the pgbouncer whose socket is in `directory`.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn connect(directory: &Path, port: u16) -> Result<Console> {
        let mut config = Config::new();
        config.host_path(directory).port(port).user("pgbouncer").dbname("pgbouncer");
        config.connect_timeout(PATIENCE);
        let connected = timeout(PATIENCE, config.connect(NoTls)).await.context(SILENCE)?;
        let (client, connection) = connected.context(SILENCE)?;
        let connection = tokio::spawn(async move {
            // Its end is noticed by the next command.
            let _ = connection.await;
        });
        Ok(Console { directory: directory.to_owned(), port, client, _connection: AbortOnDropHandle::new(connection) })
    }

    /// Makes pgbouncer read its files. The answer says nothing about whether it could: see [`Console::marker`].
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn reload(&self) -> Result<()> {
        self.command("RELOAD").await
    }

    /// The last setting of the file that was last read to its end.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn marker(&self) -> Result<String> {
        let settings = self.rows("SHOW CONFIG").await?;
        let found = settings.iter().find(|row| row.get("key") == Some("syslog_ident"));
        Ok(found.and_then(|row| row.get("value")).unwrap_or_default().to_owned())
    }

    /// Every database, the console included.
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

    /// What the pools of each database do, the console aside.
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

    /// What it has done for all databases together.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn totals(&self) -> Result<Totals> {
        let rows = self.rows("SHOW STATS_TOTALS").await?;
        let sum = |column| rows.iter().map(|row| number(row, column)).sum();
        Ok(Totals { transactions: sum("xact_count"), logins: sum("client_login_count") })
    }

    /// How many clients there are; pgbouncer has these numbers at hand.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn count_clients(&self) -> Result<Clients> {
        let rows = self.rows("SHOW LISTS").await?;
        let of = |list| rows.iter().find(|row| row.get("list") == Some(list)).map_or(0, |row| number(row, "items"));
        Ok(Clients { all: of("used_clients"), unfinished: of("login_clients") })
    }

    /// How many clients are logged in, by database.
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

    /// Changes a setting until the files are read again.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn set(&self, name: &str, value: &str) -> Result<()> {
        self.command(&format!("SET {name} = '{value}'")).await
    }

    /// Replaces the server connections of a database; those in use when their transactions have ended.
    ///
    /// # Errors
    /// When it does not answer or has no such database.
    pub async fn reconnect(&self, database: &str) -> Result<()> {
        self.command(&format!("RECONNECT {}", quoted(database)?)).await
    }

    /// Lets new clients in, or no longer.
    ///
    /// # Errors
    /// When it does not answer or has no such database.
    pub async fn set_disabled(&self, database: &str, disabled: bool) -> Result<()> {
        let verb = if disabled { "DISABLE" } else { "ENABLE" };
        self.command(&format!("{verb} {}", quoted(database)?)).await
    }

    /// Lets the clients of these databases wait: they begin nothing new at once. That the transactions which run have ended
    /// is not waited for here: [`Database::connections`] says it.
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

    /// Serves the clients of these databases again; one that is not paused, or not there, is none of the trouble.
    ///
    /// # Errors
    /// When pgbouncer does not answer.
    pub async fn resume(&self, databases: &[String]) -> Result<()> {
        for database in databases {
            let resume = format!("RESUME {}", quoted(database)?);
            let answer = timeout(PATIENCE, self.client.simple_query(&resume)).await.context(SILENCE)?;
            if self.client.is_closed() {
                answer.context(SILENCE)?;
            }
        }
        Ok(())
    }

    /// Ends pgbouncer when its last client has gone; new ones are refused from now on.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn shut_down(&self) -> Result<()> {
        self.command("SHUTDOWN WAIT_FOR_CLIENTS").await
    }

    /// The clients' connections, those to the console aside.
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

    /// Whom clients and server connections are logged in as.
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

    /// Ends one client's connection.
    ///
    /// # Errors
    /// When it does not answer or the client has gone.
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
        let answer = timeout(PATIENCE, self.client.simple_query(command)).await.context(SILENCE)?;
        answer.with_context(|| {
            let word = command.split(' ').next().unwrap_or_default();
            if self.client.is_closed() { SILENCE.to_owned() } else { format!("pgbouncer refused {word}") }
        })
    }
}

/// A database whose transactions still run keeps its console busy until they have ended; the next one takes another.
async fn pause_one_by_one(directory: &Path, port: u16, databases: impl Iterator<Item = &String>) -> Result<()> {
    let mut console: Option<Console> = None;
    for database in databases {
        let open = match console.take() {
            Some(open) => open,
            None => Console::connect(directory, port).await?,
        };
        let pause = format!("PAUSE {}", quoted(database)?);
        // A refusal means that there is no such database (any more).
        if timeout(BUSY, open.client.simple_query(&pause)).await.is_ok() {
            console = Some(open);
        }
    }
    Ok(())
}

/// The names have been checked when their routes were; this is for whoever forgets.
fn quoted(database: &str) -> Result<String> {
    if database.is_empty()
        || !database.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    {
        bail!("the name of the database needs quoting");
    }
    Ok(format!("\"{database}\""))
}

fn number(row: &SimpleQueryRow, column: &str) -> i64 {
    row.try_get(column).ok().flatten().and_then(|text| text.parse().ok()).unwrap_or(0)
}
