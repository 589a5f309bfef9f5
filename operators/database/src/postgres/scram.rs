//! Passwords and their SCRAM verifiers. Statements contain the verifier only, so that no log contains a password.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use rand::TryRngCore;
use rand::rngs::OsRng;
use sha2::{Digest, Sha256};

const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const LENGTH: usize = 32;

/// A password and its SCRAM verifier.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// For the client.
    pub password: String,
    /// `SCRAM-SHA-256$iterations:salt$keys`, for the server.
    pub verifier: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

impl Credentials {
    /// Generates a password from the randomness of the operating system.
    pub fn generate() -> anyhow::Result<Self> {
        Ok(Self::of(random_password()?))
    }

    /// Credentials with a new verifier for this password.
    pub fn of(password: String) -> Self {
        Credentials { verifier: postgres_protocol::password::scram_sha_256(password.as_bytes()), password }
    }
}

fn random_password() -> anyhow::Result<String> {
    let mut password = String::with_capacity(LENGTH);
    let mut bytes = [0_u8; 64];
    while password.len() < LENGTH {
        OsRng.try_fill_bytes(&mut bytes)?;
        // 248 is the largest multiple of 62 in a byte: taking the rest modulo 62 would favour some letters.
        let letters = bytes.iter().filter(|byte| **byte < 248).map(|byte| char::from(ALPHABET[usize::from(byte % 62)]));
        password.extend(letters.take(LENGTH - password.len()));
    }
    Ok(password)
}

/// Fingerprint of a verifier, stored where the verifier cannot be read back. Every login may read it; it reveals nothing about a
/// random password.
pub fn fingerprint(verifier: &str) -> String {
    let digest = Sha256::digest(verifier);
    let digits: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("password {digits}")
}

/// Whether a verifier or fingerprint that was read from a server is that of this verifier.
pub fn stands_for(read: Option<&str>, verifier: &str) -> bool {
    read.is_some_and(|read| read == verifier || read == fingerprint(verifier))
}

/// Whether a verifier was made from this password.
pub fn matches(password: &str, verifier: &str) -> bool {
    recompute(password, verifier).is_some_and(|again| again == verifier)
}

/// The verifier of the password with the iterations and the salt of another verifier (RFC 5803, and RFC 5802 for the keys).
fn recompute(password: &str, verifier: &str) -> Option<String> {
    let (iterations, salt) = verifier.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?.0.split_once(':')?;
    let (rounds, salt_bytes) = (iterations.parse::<u32>().ok()?, STANDARD.decode(salt).ok()?);
    // Our verifiers have 4096. One that a tenant wrote must not cost more than this.
    if !(1..=1_000_000).contains(&rounds) {
        return None;
    }
    let salted = salted_password(password.as_bytes(), &salt_bytes, rounds)?;
    let stored_key = STANDARD.encode(Sha256::digest(hmac(&salted, b"Client Key")?));
    let server_key = STANDARD.encode(hmac(&salted, b"Server Key")?);
    Some(format!("SCRAM-SHA-256${iterations}:{salt}${stored_key}:{server_key}"))
}

fn salted_password(password: &[u8], salt: &[u8], rounds: u32) -> Option<[u8; 32]> {
    let mut block = hmac(password, &[salt, &1_u32.to_be_bytes()].concat())?;
    let mut salted = block;
    for _ in 1..rounds {
        block = hmac(password, &block)?;
        salted.iter_mut().zip(block).for_each(|(sum, byte)| *sum ^= byte);
    }
    Some(salted)
}

fn hmac(key: &[u8], message: &[u8]) -> Option<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(message);
    Some(mac.finalize().into_bytes().into())
}

#[cfg(test)]
mod tests;
