//! Watches a PostgreSQL server: a connection whose end is the first sign that the server stops, and a login that is tried once a
//! second, as a server that shuts down gracefully ends no connection.

use std::error::Error;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use ahoi_api::SERVER_STARTED;
use ahoi_pgbouncer::hold::{Heard, Way};
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

/// A login that takes longer is no login.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Between two attempts while the server is away.
const RETRY: Duration = Duration::from_millis(200);
/// Between two attempts to log in while the server answers.
const INTERVAL: Duration = Duration::from_secs(1);
/// Between two attempts while it refuses the login of the pooler.
const REFUSED: Duration = Duration::from_secs(5);
/// Age at which a connection without a login is replaced. PostgreSQL ends it after `authentication_timeout`, 60 s by default.
const RENEWAL: Duration = Duration::from_secs(20);

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// The server cannot be reached, or is starting or stopping.
    Away,
    /// Nothing has answered in time.
    Silent,
    /// It answers, and will not have this login. What is wrong with that is the database controller's to say.
    Refused,
}

/// Watches a server for ever, and tells what is heard of it; `alarm` is notified when pgbouncer was refused by a server. One
/// failed attempt is enough: clients that wait for a moment without need are better than clients that fail.
pub async fn watch(way: Way, alarm: Arc<Notify>, tell: impl Fn(Heard)) {
    // Whether the end of a connection is a sign that the server stops. Something between may end connections for less.
    let mut is_sign = true;
    let mut is_alarmed = false;
    loop {
        let begun = Instant::now();
        let held = match live(&way).await {
            Ok((held, started)) => {
                is_sign = is_sign && !is_alarmed;
                tell(Heard::Answers { started });
                held
            }
            Err(Trouble::Refused) => {
                is_sign = is_sign && !is_alarmed;
                tell(Heard::Answers { started: None });
                if is_sign { Held::open(&way).await } else { Held::None }
            }
            Err(Trouble::Away | Trouble::Silent) => {
                is_sign = true;
                is_alarmed = false;
                tell(Heard::Away);
                sleep(RETRY).await;
                continue;
            }
        };
        let end = outlive(&way, held, &alarm).await;
        is_alarmed = end == End::Connection && is_sign;
        if is_alarmed || end == End::Away {
            // At once, before pgbouncer's own next login is refused; the next attempt shows whether it was so.
            tell(Heard::Away);
        }
        if begun.elapsed() < RETRY {
            sleep(RETRY).await;
        }
    }
}

/// What ended the watch over a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The connection has ended.
    Connection,
    /// A login was not answered, or the server is stopping.
    Away,
    /// The pooler's login, which was refused, is to be tried again.
    Login,
}

/// Waits for the end of a connection, and tries a login once a second. The connection is closed by then: a server that shuts down
/// gracefully waits for it.
async fn outlive(way: &Way, mut held: Held, alarm: &Notify) -> End {
    let (begun, retries_login) = (Instant::now(), way.login.is_some() && !held.is_session());
    let mut opened = Instant::now();
    loop {
        tokio::select! {
            () = held.ended() => {
                info!(server = way.server, "the connection to the server has ended");
                return End::Connection;
            }
            () = sleep(INTERVAL) => {}
            () = async { sleep(RETRY).await; alarm.notified().await } => {}
        }
        match ask(way).await {
            // A session is asked by the kernel; a server may be too busy for a new login, and work.
            Err(Trouble::Silent) if held.is_session() => {}
            Err(Trouble::Away | Trouble::Silent) => return End::Away,
            Err(Trouble::Refused) | Ok(()) => {}
        }
        if retries_login && begun.elapsed() > REFUSED {
            return End::Login;
        }
        if matches!(held, Held::Connection(_)) && opened.elapsed() > RENEWAL {
            // The next one first: there is always one whose end is noticed.
            held = Held::open(way).await;
            opened = Instant::now();
        }
    }
}

/// A connection that does nothing but end when the server does.
enum Held {
    /// A session of the pooler's login.
    Session {
        /// With it the connection would end.
        _client: Client,
        connection: AbortOnDropHandle<()>,
    },
    /// A connection that has not logged in.
    Connection(TcpStream),
    /// There is none.
    None,
}

impl Held {
    /// A connection that does not log in. Nothing is sent on it: PostgreSQL logs nothing of such a connection when it is closed.
    async fn open(way: &Way) -> Held {
        match timeout(LOGIN_TIMEOUT, TcpStream::connect((way.host.as_str(), way.port))).await {
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
            // The server waits for the client's first words: whatever is read is the end.
            Held::Connection(stream) => {
                let _ = stream.read_u8().await;
            }
            Held::None => pending().await,
        }
    }
}

/// Logs in as the pooler does. The answer is the session, and when the server was started.
async fn live(way: &Way) -> Result<(Held, Option<String>), Trouble> {
    let Some(login) = &way.login else { return ask(way).await.and(Err(Trouble::Refused)) };
    let mut config = server::config(way);
    config.user(&login.name).password(&login.password);
    // A machine that vanishes says no goodbye; the kernel notices within five seconds, at no cost to the server.
    config.keepalives(true).keepalives_idle(Duration::from_secs(2));
    config.keepalives_interval(Duration::from_secs(1)).keepalives_retries(3);
    let tls = tls(way)?;
    let login = async {
        let (client, connection) = config.connect(tls).await?;
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            // Whatever ended it.
            let _ = connection.await;
        }));
        let answer = client.simple_query(SERVER_STARTED).await?;
        let started = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        Ok((Held::Session { _client: client, connection }, started))
    };
    attempt(way, login).await
}

/// Asks for a login without a password, whose refusal is an answer.
async fn ask(way: &Way) -> Result<(), Trouble> {
    let mut config = server::config(way);
    config.user("ahoi_pooler");
    let tls = tls(way)?;
    attempt(way, async { config.connect(tls).await.map(drop) }).await
}

fn tls(way: &Way) -> Result<MakeRustlsConnect, Trouble> {
    server::tls(way).map_err(|error| {
        debug!(server = way.server, %error, "no connection");
        Trouble::Refused
    })
}

async fn attempt<T>(way: &Way, login: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Trouble> {
    match timeout(LOGIN_TIMEOUT, login).await {
        Ok(outcome) => outcome.map_err(|error| {
            debug!(server = way.server, %error, "no connection");
            judge(&error)
        }),
        Err(_) => Err(Trouble::Silent),
    }
}

/// What a failed login says about the server: whoever gives a reason is there, and whoever shows a certificate is.
fn judge(error: &tokio_postgres::Error) -> Trouble {
    let stopping = [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW];
    let away = match error.code() {
        Some(code) => stopping.contains(code),
        None => error.is_closed() || error.source().and_then(|source| source.downcast_ref()).is_some_and(is_silence),
    };
    if away { Trouble::Away } else { Trouble::Refused }
}

/// Whether nobody answered. What is wrong with an answer to a TLS handshake comes as an error of the transport, too.
fn is_silence(error: &io::Error) -> bool {
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

    fn way(port: u16) -> Way {
        Way {
            server: "pg".into(),
            host: "127.0.0.1".into(),
            port,
            database: "postgres".into(),
            login: Some(PoolerLogin { name: "pooler".into(), password: "x".into() }),
            tls: TlsMode::Disable,
            authorities: None,
        }
    }

    /// A server that lets nobody in: what each answer to a login is heard as.
    async fn heard_of(answer: &'static [u8]) -> Heard {
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
        let (tell, mut heard) = mpsc::unbounded_channel();
        tokio::select! {
            () = server => unreachable!(),
            () = watch(way(port), Arc::default(), move |news| drop(tell.send(news))) => unreachable!(),
            heard = heard.recv() => heard.unwrap(),
        }
    }

    #[tokio::test]
    async fn a_server_that_gives_a_reason_is_there() {
        assert_eq!(heard_of(b"").await, Heard::Away, "it hangs up");
        assert_eq!(heard_of(b"E\0\0\0\x17SFATAL\0C57P03\0Mno\0\0").await, Heard::Away, "it is starting");
        let answers = Heard::Answers { started: None };
        assert_eq!(heard_of(b"E\0\0\0\x17SFATAL\0C28P01\0Mno\0\0").await, answers, "a wrong password");
        assert_eq!(heard_of(b"E\0\0\0\x17SFATAL\0C28000\0Mno\0\0").await, answers, "no entry in pg_hba");
        assert_eq!(heard_of(b"E\0\0\0\x17SFATAL\0C53300\0Mno\0\0").await, answers, "it is full");
        assert_eq!(heard_of(b"R\0\0\0\x08\0\0\0\x07").await, answers, "it wants what the agent cannot do");
    }

    #[tokio::test]
    async fn nobody_listens() {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let (tell, mut heard) = mpsc::unbounded_channel();
        tokio::select! {
            () = watch(way(port), Arc::default(), move |news| drop(tell.send(news))) => unreachable!(),
            heard = heard.recv() => assert_eq!(heard, Some(Heard::Away)),
        }
    }

    /// A server that answers each login with the next of these codes, or the last, and waits for clients that say nothing.
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

    /// Without a login, too, the end of the server is heard at once and not at the next attempt.
    #[tokio::test]
    async fn the_end_of_a_connection_is_heard_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, mut heard) = mpsc::unbounded_channel();
        let server = tokio::spawn(refusing(listener, &["28P01"]));
        let watched = watch(Way { login: None, ..way(port) }, Arc::default(), move |news| drop(tell.send(news)));
        let _watched = AbortOnDropHandle::new(tokio::spawn(watched));
        assert_eq!(heard.recv().await, Some(Heard::Answers { started: None }));
        sleep(RETRY).await;
        let stopped = Instant::now();
        server.abort();
        assert_eq!(heard.recv().await, Some(Heard::Away));
        assert!(stopped.elapsed() < RETRY, "{:?}", stopped.elapsed());
    }

    /// What pgbouncer was refused wakes the next attempt: a server that shuts down gracefully ends no connection.
    #[tokio::test]
    async fn an_alarm_is_followed_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, mut heard) = mpsc::unbounded_channel();
        let alarm = Arc::new(Notify::new());
        let _server = AbortOnDropHandle::new(tokio::spawn(refusing(listener, &["28P01", "57P03"])));
        let watched = watch(Way { login: None, ..way(port) }, alarm.clone(), move |news| drop(tell.send(news)));
        let _watched = AbortOnDropHandle::new(tokio::spawn(watched));
        assert_eq!(heard.recv().await, Some(Heard::Answers { started: None }));
        sleep(RETRY + Duration::from_millis(100)).await;
        let begun = Instant::now();
        alarm.notify_waiters();
        assert_eq!(heard.recv().await, Some(Heard::Away));
        assert!(begun.elapsed() < RETRY, "{:?}", begun.elapsed());
    }
}
