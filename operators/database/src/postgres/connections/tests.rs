use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// AuthenticationOk and ReadyForQuery.
const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";

fn of(port: u16, limits: Limits) -> Connections {
    let options = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(port).username("u").password("p");
    let options = options.ssl_mode(sqlx::postgres::PgSslMode::Disable);
    Connections { limits, ..Connections::new(options, &[SELF_GRANT]) }
}

fn quick() -> Limits {
    let ms = Duration::from_millis;
    Limits { check: ms(100), recheck: ms(50), answer: ms(100), statement: ms(2000) }
}

/// A server that accepts every client and then sends nothing, like one whose packets are dropped.
async fn silent(connections: Arc<AtomicUsize>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            connections.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let mut startup = [0; 512];
                let _ = stream.read(&mut startup).await;
                let _ = stream.write_all(WELCOME).await;
                std::future::pending::<()>().await;
            });
        }
    });
    port
}

#[tokio::test]
async fn a_statement_on_a_dead_connection_ends_and_the_pool_is_replaced() {
    let accepted = Arc::new(AtomicUsize::new(0));
    let connections = of(silent(accepted.clone()).await, quick());
    let (pool, begun) = (connections.pool(), Instant::now());
    let mut session = PgConnection::connect_with(connections.options()).await.unwrap();
    let error = connections.wait_for(session.execute("SELECT 1")).await.unwrap_err();
    assert!(matches!(error, sqlx::Error::Io(_)), "{error}");
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
    assert!(accepted.load(Ordering::Relaxed) >= 3, "two checks");
    assert!(!std::ptr::eq(&raw const *pool.options(), &raw const *connections.pool().options()), "another pool");
}

#[tokio::test]
async fn a_statement_that_is_answered_is_not_checked() {
    let accepted = Arc::new(AtomicUsize::new(0));
    let connections = of(silent(accepted.clone()).await, quick());
    let answered = async { Ok::<_, sqlx::Error>(7) };
    assert_eq!(connections.wait_for(answered).await.unwrap(), 7);
    assert_eq!(accepted.load(Ordering::Relaxed), 0);
}
