//! Messages of conditions.

use anyhow::{Result, ensure};

/// Fails unless the message contains each of these words.
pub fn contains_all(message: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(message.contains(word), "{word:?} is not in {message:?}");
    }
    Ok(())
}
