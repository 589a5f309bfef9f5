//! A connection to a PostgreSQL server that does nothing but end when the server does.

use std::error::Error;
use std::io;
use std::time::Duration;

use ahoi_api::{SERVER_STARTED, TlsMode};
use ahoi_pgbouncer::hold::{Heard, Way};
use ahoi_pgbouncer::trust;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Config, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info};

/// A login that takes longer is no login.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two attempts while the server is away.
const RETRY: Duration = Duration::from_millis(200);
/// Between two attempts while it refuses the login.
const REFUSED: Duration = Duration::from_secs(5);
/// Between two attempts where there is no login, so that no connection stays open whose end would be the news.
const ASKING: Duration = Duration::from_secs(1);

/// Why there is no connection.
enum Trouble {
    /// The server cannot be reached, or is starting or stopping.
    Away,
    /// It answers, and will not have this login. What is wrong with that is the database controller's to say.
    Refused,
}

/// Watches a server for ever, and tells what is heard of it. One failed attempt is enough: clients that wait for a moment
/// without need are better than clients that fail.
pub async fn watch(way: Way, tell: impl Fn(Heard)) {
    loop {
        let begun = Instant::now();
        let pause = match live(&way, &tell).await {
            // A first attempt at once: somebody may have ended just this session.
            Ok(()) if begun.elapsed() > RETRY => Duration::ZERO,
            Ok(()) => RETRY,
            Err(Trouble::Away) => {
                tell(Heard::Away);
                RETRY
            }
            Err(Trouble::Refused) => {
                tell(Heard::Answers { started: None });
                if way.login.is_some() { REFUSED } else { ASKING }
            }
        };
        sleep(pause).await;
    }
}

/// The life of one connection.
async fn live(way: &Way, tell: &impl Fn(Heard)) -> Result<(), Trouble> {
    let mut config = Config::new();
    config.host(&way.host).port(way.port).dbname(&way.database).application_name("ahoi-pgbouncer-agent");
    match &way.login {
        Some(login) => config.user(&login.name).password(&login.password),
        None => config.user("ahoi_pooler"),
    };
    config.ssl_mode(match way.tls {
        TlsMode::Disable => SslMode::Disable,
        TlsMode::Prefer => SslMode::Prefer,
        _ => SslMode::Require,
    });
    let trusted = trust::server(way.tls, way.authorities.as_deref()).map_err(|error| {
        debug!(server = way.server, %error, "no connection");
        Trouble::Refused
    })?;
    // A machine that vanishes says no goodbye; the kernel notices within five seconds, at no cost to the server.
    config.keepalives(true).keepalives_idle(Duration::from_secs(2));
    config.keepalives_interval(Duration::from_secs(1)).keepalives_retries(3);
    let login = async {
        let (client, connection) = config.connect(MakeRustlsConnect::new(trusted)).await?;
        let connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let answer = client.simple_query(SERVER_STARTED).await?;
        let started = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        Ok((client, connection, started))
    };
    // The client is kept: with it the connection would end.
    let (_client, connection, started) = match timeout(PATIENCE, login).await {
        Ok(outcome) => outcome.map_err(|error: tokio_postgres::Error| {
            debug!(server = way.server, %error, "no connection");
            judge(&error)
        })?,
        Err(_) => return Err(Trouble::Away),
    };
    tell(Heard::Answers { started });
    let _ = connection.await;
    info!(server = way.server, "the connection to the server has ended");
    Ok(())
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
    use ahoi_api::PoolerLogin;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

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
            () = watch(way(port), move |news| drop(tell.send(news))) => unreachable!(),
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
            () = watch(way(port), move |news| drop(tell.send(news))) => unreachable!(),
            heard = heard.recv() => assert_eq!(heard, Some(Heard::Away)),
        }
    }
}
