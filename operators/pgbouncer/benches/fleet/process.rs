//! One pgbouncer, its routes, and a client that sends queries all the time.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ahoi_api::Route;
use ahoi_pgbouncer::config::{Files, INI, Settings, render, validate};
use ahoi_pgbouncer::console::Console;
use anyhow::{Context, Result, anyhow, ensure};
use tokio::process::{Child, Command};
use tokio_util::task::AbortOnDropHandle;

use super::fixture::{ADDED, LOGIN, Place, REAL, connect, poolers, real, route};

/// A pgbouncer with routes.
pub struct Process {
    number: usize,
    port: u16,
    postgres: u16,
    directory: PathBuf,
    child: Child,
    console: Console,
    routes: Vec<Route>,
    added: usize,
    /// Start and duration of each query.
    queries: Arc<Mutex<Vec<(Instant, Duration)>>>,
    client: Option<AbortOnDropHandle<()>>,
    /// Time from the start of the process until it has proved its routes.
    pub started: Duration,
}

/// Times of adding a route, counted from the beginning.
pub struct Added {
    /// Until the files are written.
    pub written: Duration,
    /// Duration of `RELOAD`.
    pub reload: Duration,
    /// Duration of the proof by `SHOW CONFIG` and `SHOW DATABASES`.
    pub proof: Duration,
    /// Until a client gets the first answer through the new route.
    pub answered: Duration,
    /// Longest wait of a client of another route meanwhile.
    pub longest_wait: Duration,
}

impl Process {
    /// Starts pgbouncer, and waits until it has proved its routes.
    pub async fn start(place: &Place, number: usize, databases: Vec<String>) -> Result<Process> {
        let port = 16432 + u16::try_from(number)?;
        let directory = place.directory.join(number.to_string());
        fs::create_dir_all(&directory)?;
        let routes: Vec<Route> = databases.iter().map(|name| route(name, place.postgres)).collect();
        for route in &routes {
            validate(route).map_err(|problem| anyhow!("{}: {problem}", route.database))?;
        }
        let files = write(&routes, &directory, port)?;
        let begun = Instant::now();
        let child = Command::new(&place.pgbouncer)
            .arg(directory.join(INI))
            .stdout(Stdio::null())
            .stderr(fs::File::create(place.directory.join(format!("{number}.log")))?)
            .kill_on_drop(true)
            .spawn()
            .context("pgbouncer does not start")?;
        let console = loop {
            match Console::connect(&directory, port).await {
                Ok(console) => break console,
                Err(error) if begun.elapsed() > Duration::from_secs(20) => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        prove(&console, &files).await?;
        let started = begun.elapsed();
        let (postgres, queries) = (place.postgres, Arc::default());
        Ok(Process {
            number,
            port,
            postgres,
            directory,
            child,
            console,
            routes,
            added: 0,
            queries,
            client: None,
            started,
        })
    }

    /// Starts a client that sends a query after each answer.
    pub async fn begin(&mut self) -> Result<()> {
        let (client, asked) = (connect(self.port, LOGIN, &self.routes[0].database).await?, self.queries.clone());
        let client = tokio::spawn(async move {
            loop {
                let begun = Instant::now();
                if client.simple_query("SELECT 1").await.is_err() {
                    // `longest_wait` reports that there are no queries.
                    return;
                }
                if let Ok(mut asked) = asked.lock() {
                    asked.push((begun, begun.elapsed()));
                }
            }
        });
        self.client = Some(AbortOnDropHandle::new(client));
        Ok(())
    }

    /// Stops the client.
    pub fn end(&mut self) {
        self.client = None;
    }

    /// Longest wait of the client while nothing else happens.
    pub async fn longest_wait_at_rest(&self) -> Result<Duration> {
        let begun = Instant::now();
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.longest_wait(begun).await
    }

    /// Adds a route to an existing database, as an agent does.
    pub async fn add_a_route(&mut self) -> Result<Added> {
        let database = real(self.number * REAL + ADDED + self.added);
        self.added += 1;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let begun = Instant::now();
        self.routes.push(route(&database, self.postgres));
        let files = write(&self.routes, &self.directory, self.port)?;
        let written = begun.elapsed();
        self.console.reload().await?;
        let reload = begun.elapsed() - written;
        prove(&self.console, &files).await?;
        let proof = begun.elapsed() - written - reload;
        let client = connect(self.port, LOGIN, &database).await?;
        client.simple_query("SELECT 1").await?;
        let answered = begun.elapsed();
        let longest_wait = self.longest_wait(begun).await?;
        Ok(Added { written, reload, proof, answered, longest_wait })
    }

    /// Longest duration of a query since then, the current one included.
    async fn longest_wait(&self, since: Instant) -> Result<Duration> {
        let now = Instant::now();
        loop {
            let queries = std::mem::take(&mut *self.queries.lock().map_err(|_| anyhow!("a client panicked"))?);
            if queries.last().is_some_and(|(begun, _)| *begun > now) {
                let waits = queries.iter().filter(|(begun, took)| *begun + *took > since).map(|(_, took)| *took);
                return waits.max().context("the client sent no query");
            }
            self.queries.lock().map_err(|_| anyhow!("a client panicked"))?.splice(0..0, queries);
            ensure!(now.elapsed() < Duration::from_secs(10), "the client of process {} has no answers", self.number);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Resident memory in KiB.
    pub fn memory(&self) -> Result<u64> {
        resident(self.child.id().context("pgbouncer exited")?)
    }

    /// Stops pgbouncer.
    pub async fn stop(mut self) -> Result<()> {
        self.child.kill().await?;
        fs::remove_dir_all(&self.directory)?;
        Ok(())
    }
}

/// The resident memory of a process in KiB.
pub fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn write(routes: &[Route], directory: &std::path::Path, port: u16) -> Result<Files> {
    let settings = Settings { directory: directory.to_owned(), port, ..Settings::default() };
    let files = render(routes, &poolers(), &settings);
    for (name, content) in &files.files {
        fs::write(directory.join(name), content)?;
    }
    Ok(files)
}

/// Proves the loaded files, as the agent does.
async fn prove(console: &Console, files: &Files) -> Result<()> {
    ensure!(console.marker().await? == files.marker, "pgbouncer did not read its files to the end");
    ensure!(console.databases().await?.keys().eq(&files.databases), "pgbouncer has other databases than its files");
    Ok(())
}
