//! Probes a PostgreSQL server: an open connection whose end is the first sign that the server stops, and a login once a second,
//! as a graceful shutdown does not end connections.

use std::error::Error;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use ahoi_api::SERVER_STARTED;
use ahoi_pgbouncer::hold::{Endpoint, ServerState};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info};

use crate::server;

/// Maximum time for a login.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Time between two probes of an unreachable server.
const RETRY: Duration = Duration::from_millis(200);
/// Time between two probes while the server answers.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time between two attempts while it refuses the login of pgbouncer.
const REFUSED_RETRY: Duration = Duration::from_secs(5);
/// Age at which a connection without a login is replaced. PostgreSQL ends it after `authentication_timeout`, 60 s by default.
const RENEWAL: Duration = Duration::from_secs(20);

/// Why a login failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// The server is unreachable, starting or stopping.
    Unreachable,
    /// There was no answer in time.
    NoAnswer,
    /// The server answers and refuses the login. The database controller reports why.
    Refused,
}

/// Probes a server for ever and reports each state. `alarm` is notified when a server refused a login of pgbouncer. One failed
/// probe is enough: clients that wait a moment without need are better than clients that fail.
pub async fn watch(endpoint: Endpoint, alarm: Arc<Notify>, report: impl Fn(ServerState)) {
    // Whether the end of a connection is a sign that the server stops. A proxy may end connections for other reasons.
    let mut is_sign = true;
    let mut is_alarmed = false;
    loop {
        let begun = Instant::now();
        let held = match log_in(&endpoint).await {
            Ok((held, started)) => {
                is_sign = is_sign && !is_alarmed;
                report(ServerState::Answers { started });
                held
            }
            Err(Failure::Refused) => {
                is_sign = is_sign && !is_alarmed;
                report(ServerState::Answers { started: None });
                if is_sign { Held::open(&endpoint).await } else { Held::None }
            }
            Err(Failure::Unreachable | Failure::NoAnswer) => {
                is_sign = true;
                is_alarmed = false;
                report(ServerState::Unreachable);
                sleep(RETRY).await;
                continue;
            }
        };
        let end = watch_connection(&endpoint, held, &alarm).await;
        is_alarmed = end == End::Connection && is_sign;
        if is_alarmed || end == End::Unreachable {
            // At once, before the next login of pgbouncer is refused. The next probe shows whether it was right.
            report(ServerState::Unreachable);
        }
        if begun.elapsed() < RETRY {
            sleep(RETRY).await;
        }
    }
}

/// Why watching a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The connection has ended.
    Connection,
    /// A login was not answered, or the server is stopping.
    Unreachable,
    /// The refused login of pgbouncer is due for another attempt.
    Login,
}

/// Waits for the end of a connection, and tries a login once a second. Then the connection is closed, as a graceful shutdown
/// waits for it.
async fn watch_connection(endpoint: &Endpoint, mut held: Held, alarm: &Notify) -> End {
    let (begun, retries_login) = (Instant::now(), endpoint.login.is_some() && !held.is_session());
    let mut opened = Instant::now();
    loop {
        tokio::select! {
            () = held.ended() => {
                info!(server = endpoint.server, "connection to the server ended");
                return End::Connection;
            }
            () = sleep(INTERVAL) => {}
            () = async { sleep(RETRY).await; alarm.notified().await } => {}
        }
        match probe(endpoint).await {
            // Keepalives check a session. A busy server may be too slow for a new login.
            Err(Failure::NoAnswer) if held.is_session() => {}
            Err(Failure::Unreachable | Failure::NoAnswer) => return End::Unreachable,
            Err(Failure::Refused) | Ok(()) => {}
        }
        if retries_login && begun.elapsed() > REFUSED_RETRY {
            return End::Login;
        }
        if matches!(held, Held::Connection(_)) && opened.elapsed() > RENEWAL {
            // Opened before the old one is closed: one of them always shows the end of the server.
            held = Held::open(endpoint).await;
            opened = Instant::now();
        }
    }
}

/// An idle connection, which ends with the server.
enum Held {
    /// A session of pgbouncer's login.
    Session {
        /// Keeps the session open.
        _client: Client,
        connection: AbortOnDropHandle<()>,
    },
    /// A connection that has not logged in.
    Connection(TcpStream),
    /// No connection.
    None,
}

impl Held {
    /// Opens a connection and sends nothing: PostgreSQL does not log the end of such a connection.
    async fn open(endpoint: &Endpoint) -> Held {
        match timeout(LOGIN_TIMEOUT, TcpStream::connect((endpoint.host.as_str(), endpoint.port))).await {
            Ok(Ok(stream)) => Held::Connection(stream),
            Ok(Err(_)) | Err(_) => Held::None,
        }
    }

    fn is_session(&self) -> bool {
        matches!(self, Held::Session { .. })
    }

    /// Returns when the server has ended it.
    async fn ended(&mut self) {
        match self {
            Held::Session { connection, .. } => {
                let _ = connection.await;
            }
            // The server sends nothing before the client does: any result of a read is the end.
            Held::Connection(stream) => {
                let _ = stream.read_u8().await;
            }
            Held::None => pending().await,
        }
    }
}

/// Logs in as pgbouncer does. Returns the session and the start time of the server.
async fn log_in(endpoint: &Endpoint) -> Result<(Held, Option<String>), Failure> {
    let Some(login) = &endpoint.login else { return probe(endpoint).await.and(Err(Failure::Refused)) };
    let mut config = server::config(endpoint);
    config.user(&login.name).password(&login.password);
    // A machine that vanishes closes no connection; the kernel detects it within five seconds, at no cost for the server.
    config.keepalives(true).keepalives_idle(Duration::from_secs(2));
    config.keepalives_interval(Duration::from_secs(1)).keepalives_retries(3);
    let tls = tls(endpoint)?;
    let login = async {
        let (client, connection) = config.connect(tls).await?;
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            // The reason does not matter.
            let _ = connection.await;
        }));
        let answer = client.simple_query(SERVER_STARTED).await?;
        let started = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        Ok((Held::Session { _client: client, connection }, started))
    };
    attempt(endpoint, login).await
}

/// Tries a login without a password. A refusal is an answer.
async fn probe(endpoint: &Endpoint) -> Result<(), Failure> {
    let mut config = server::config(endpoint);
    config.user("ahoi_pooler");
    let tls = tls(endpoint)?;
    attempt(endpoint, async { config.connect(tls).await.map(drop) }).await
}

fn tls(endpoint: &Endpoint) -> Result<MakeRustlsConnect, Failure> {
    server::tls(endpoint).map_err(|error| {
        debug!(server = endpoint.server, %error, "cannot connect");
        Failure::Refused
    })
}

async fn attempt<T>(
    endpoint: &Endpoint,
    login: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Failure> {
    match timeout(LOGIN_TIMEOUT, login).await {
        Ok(outcome) => outcome.map_err(|error| {
            debug!(server = endpoint.server, %error, "cannot connect");
            judge(&error)
        }),
        Err(_) => Err(Failure::NoAnswer),
    }
}

/// What a failed login shows about the server. A server that sends an error or a certificate is reachable.
fn judge(error: &tokio_postgres::Error) -> Failure {
    let stopping = [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW];
    let is_unreachable = match error.code() {
        Some(code) => stopping.contains(code),
        None => error.is_closed() || error.source().and_then(|source| source.downcast_ref()).is_some_and(is_no_answer),
    };
    if is_unreachable { Failure::Unreachable } else { Failure::Refused }
}

/// Whether there was no answer. A failed TLS handshake is an I/O error, too.
fn is_no_answer(error: &io::Error) -> bool {
    !error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ahoi_api::{PoolerLogin, TlsMode};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;
    use tokio::task::JoinSet;

    fn endpoint(port: u16) -> Endpoint {
        Endpoint {
            server: "pg".into(),
            host: "127.0.0.1".into(),
            port,
            database: "postgres".into(),
            login: Some(PoolerLogin { name: "pooler".into(), password: "x".into() }),
            tls: TlsMode::Disable,
            authorities: None,
        }
    }

    /// The reported state of a server that answers each login like this.
    async fn state_after(answer: &'static [u8]) -> ServerState {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = async {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut startup = [0; 256];
                let _ = stream.read(&mut startup).await;
                let _ = stream.write_all(answer).await;
            }
        };
        let (report, mut reported) = mpsc::unbounded_channel();
        tokio::select! {
            () = server => unreachable!(),
            () = watch(endpoint(port), Arc::default(), move |state| drop(report.send(state))) => unreachable!(),
            state = reported.recv() => state.unwrap(),
        }
    }

    #[tokio::test]
    async fn a_server_that_sends_an_error_is_reachable() {
        assert_eq!(state_after(b"").await, ServerState::Unreachable, "it closes the connection");
        assert_eq!(
            state_after(b"E\0\0\0\x17SFATAL\0C57P03\0Mno\0\0").await,
            ServerState::Unreachable,
            "it is starting"
        );
        let answers = ServerState::Answers { started: None };
        assert_eq!(state_after(b"E\0\0\0\x17SFATAL\0C28P01\0Mno\0\0").await, answers, "a wrong password");
        assert_eq!(state_after(b"E\0\0\0\x17SFATAL\0C28000\0Mno\0\0").await, answers, "no entry in pg_hba");
        assert_eq!(state_after(b"E\0\0\0\x17SFATAL\0C53300\0Mno\0\0").await, answers, "it is full");
        assert_eq!(
            state_after(b"R\0\0\0\x08\0\0\0\x07").await,
            answers,
            "it requires an unsupported authentication method"
        );
    }

    #[tokio::test]
    async fn a_closed_port_is_unreachable() {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let (report, mut reported) = mpsc::unbounded_channel();
        tokio::select! {
            () = watch(endpoint(port), Arc::default(), move |state| drop(report.send(state))) => unreachable!(),
            state = reported.recv() => assert_eq!(state, Some(ServerState::Unreachable)),
        }
    }

    /// A server that answers each login with the next of these codes, or the last, and waits for clients that send nothing.
    async fn refusing(listener: TcpListener, codes: &'static [&'static str]) {
        let (mut clients, logins) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let logins = logins.clone();
            clients.spawn(async move {
                if stream.read(&mut [0; 256]).await.is_ok_and(|read| read > 0) {
                    let login = logins.fetch_add(1, Ordering::Relaxed).min(codes.len() - 1);
                    let error = format!("SFATAL\0C{}\0Mno\0\0", codes[login]);
                    let _ = stream.write_all(b"E\0\0\0\x17").await;
                    let _ = stream.write_all(error.as_bytes()).await;
                }
            });
        }
    }

    /// Also without a login, the end of the server is reported at once and not at the next probe.
    #[tokio::test]
    async fn the_end_of_a_connection_is_reported_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (report, mut reported) = mpsc::unbounded_channel();
        let server = tokio::spawn(refusing(listener, &["28P01"]));
        let watched =
            watch(Endpoint { login: None, ..endpoint(port) }, Arc::default(), move |state| drop(report.send(state)));
        let _watched = AbortOnDropHandle::new(tokio::spawn(watched));
        assert_eq!(reported.recv().await, Some(ServerState::Answers { started: None }));
        sleep(RETRY).await;
        let stopped = Instant::now();
        server.abort();
        assert_eq!(reported.recv().await, Some(ServerState::Unreachable));
        assert!(stopped.elapsed() < RETRY, "{:?}", stopped.elapsed());
    }

    /// A refused login of pgbouncer triggers the next probe: a graceful shutdown does not end connections.
    #[tokio::test]
    async fn an_alarm_triggers_a_probe_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (report, mut reported) = mpsc::unbounded_channel();
        let alarm = Arc::new(Notify::new());
        let _server = AbortOnDropHandle::new(tokio::spawn(refusing(listener, &["28P01", "57P03"])));
        let watched =
            watch(Endpoint { login: None, ..endpoint(port) }, alarm.clone(), move |state| drop(report.send(state)));
        let _watched = AbortOnDropHandle::new(tokio::spawn(watched));
        assert_eq!(reported.recv().await, Some(ServerState::Answers { started: None }));
        sleep(RETRY + Duration::from_millis(100)).await;
        let begun = Instant::now();
        alarm.notify_waiters();
        assert_eq!(reported.recv().await, Some(ServerState::Unreachable));
        assert!(begun.elapsed() < RETRY, "{:?}", begun.elapsed());
    }
}
