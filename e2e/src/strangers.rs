//! Unauthenticated clients: floods of open connections, and malformed packets.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};

/// Messages that a client sends before it stays silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stranger {
    /// First byte of a startup packet.
    Byte,
    /// SSLRequest.
    Tls,
    /// Startup packet.
    Startup,
    /// Startup packet with an unknown user.
    UnknownUser,
    /// Startup packet for pgbouncer's console.
    Console,
    /// Startup packet and the first SCRAM message.
    Scram,
}

/// Connections that stay open until this is dropped. Connections that pgbouncer closes are reopened. They run on their own thread,
/// so that they do not delay the clients that the test measures.
#[derive(Debug)]
pub struct Flood {
    /// Some until this is dropped.
    clients: Option<Runtime>,
    open: Arc<AtomicUsize>,
    opened: Arc<AtomicUsize>,
}

impl Flood {
    /// Opens `count` connections to `address` for `user` and `database`.
    pub async fn start(
        count: usize,
        stranger: Stranger,
        address: (&str, u16),
        user: &str,
        database: &str,
    ) -> Result<Flood> {
        let (open, opened) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let clients = Builder::new_multi_thread().worker_threads(1).thread_name("flood").enable_all().build()?;
        for _ in 0..count {
            let client = Client {
                address: (address.0.to_owned(), address.1),
                messages: stranger.messages(user, database),
                open: open.clone(),
                opened: opened.clone(),
            };
            clients.spawn(client.run());
        }
        let flood = Flood { clients: Some(clients), open, opened };
        let all = async {
            while flood.opened() < count {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(30), all).await.context("not all connections are open within 30 s")?;
        Ok(flood)
    }

    /// Number of open connections.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Number of connections opened so far.
    #[must_use]
    pub fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        // A task may drop it, and tasks must not block.
        self.clients.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

struct Client {
    address: (String, u16),
    messages: Vec<Vec<u8>>,
    open: Arc<AtomicUsize>,
    opened: Arc<AtomicUsize>,
}

impl Client {
    async fn run(self) {
        loop {
            if let Ok(mut stream) = TcpStream::connect((self.address.0.as_str(), self.address.1)).await {
                self.open.fetch_add(1, Ordering::Relaxed);
                self.opened.fetch_add(1, Ordering::Relaxed);
                // pgbouncer may end the connection in any way.
                let _ = until_closed(&mut stream, &self.messages).await;
                self.open.fetch_sub(1, Ordering::Relaxed);
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn until_closed(stream: &mut TcpStream, messages: &[Vec<u8>]) -> std::io::Result<()> {
    let mut answer = [0; 512];
    for message in messages {
        stream.write_all(message).await?;
        if stream.read(&mut answer).await? == 0 {
            return Ok(());
        }
    }
    while stream.read(&mut answer).await? > 0 {}
    Ok(())
}

impl Stranger {
    fn messages(self, user: &str, database: &str) -> Vec<Vec<u8>> {
        match self {
            Stranger::Byte => vec![vec![0]],
            Stranger::Tls => vec![vec![0, 0, 0, 8, 4, 210, 22, 47]],
            Stranger::Startup => vec![startup(user, database, &[])],
            Stranger::UnknownUser => vec![startup("c_nobody_a", database, &[])],
            Stranger::Console => vec![startup(user, "pgbouncer", &[])],
            Stranger::Scram => vec![startup(user, database, &[]), first_message()],
        }
    }
}

/// Returns a startup packet of protocol version 3.0.
#[must_use]
pub fn startup(user: &str, database: &str, further: &[(&str, &str)]) -> Vec<u8> {
    let mut body = vec![0, 3, 0, 0];
    for (name, value) in [("user", user), ("database", database)].iter().chain(further) {
        body.extend([name.as_bytes(), &[0], value.as_bytes(), &[0]].concat());
    }
    body.push(0);
    [&length(&body), &body[..]].concat()
}

/// Returns the client-first-message of SCRAM-SHA-256.
#[must_use]
pub fn first_message() -> Vec<u8> {
    let message = b"n,,n=,r=rOprNGfwEbeRWgbNEkqO";
    let length = u32::try_from(message.len()).unwrap_or(0).to_be_bytes();
    password(&[b"SCRAM-SHA-256\0", &length[..], message].concat())
}

/// Returns a client-final-message of SCRAM-SHA-256 with these attributes and a wrong proof.
#[must_use]
pub fn final_message(attributes: &str) -> Vec<u8> {
    password(format!("{attributes},p={}=", "A".repeat(43)).as_bytes())
}

fn password(body: &[u8]) -> Vec<u8> {
    [b"p", &length(body)[..], body].concat()
}

fn length(body: &[u8]) -> [u8; 4] {
    u32::try_from(body.len() + 4).unwrap_or(0).to_be_bytes()
}

/// Sends the messages, each after the answer to the previous one, and fails unless pgbouncer refuses the last one.
pub async fn is_refused(address: (&str, u16), messages: &[Vec<u8>]) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    let mut answer = [0; 512];
    let (last, first) = messages.split_last().context("no message")?;
    for message in first {
        stream.write_all(message).await?;
        let length = timeout(Duration::from_secs(10), stream.read(&mut answer)).await.context("no answer")??;
        ensure!(answer[..length].first() == Some(&b'R'), "not an authentication request: {:?}", &answer[..length]);
    }
    stream.write_all(last).await?;
    let length =
        timeout(Duration::from_secs(10), stream.read(&mut answer)).await.context("no answer to the last")??;
    let code = answer[..length].windows(7).any(|bytes| bytes == b"C08P01\0");
    ensure!(code, "not a FATAL error with the code 08P01: {:?}", String::from_utf8_lossy(&answer[..length]));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_lengths() {
        let packet = startup("u", "d", &[("options", "-c=")]);
        assert_eq!(packet, b"\0\0\0\x27\0\x03\0\0user\0u\0database\0d\0options\0-c=\0\0");
        let first = first_message();
        assert_eq!(u32::from_be_bytes(first[1..5].try_into().unwrap()) as usize, first.len() - 1);
    }
}
