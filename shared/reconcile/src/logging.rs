//! Logging.
//!
//! Libraries log their data: the body of an answer that cannot be decoded, statements, frames. Such a text may contain every
//! password of a cluster, at any level. So only events of the operators' own crates are logged, and no option changes that.

use std::io::IsTerminal;

use anyhow::Context;
use clap::ValueEnum;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry;
use tracing_subscriber::util::SubscriberInitExt;

/// Format of log lines.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Starts logging.
pub(crate) fn start(directives: &str, format: LogFormat) -> anyhow::Result<()> {
    // A program that embeds this may have set up logging already.
    let _ = subscriber(directives, format, std::io::stdout)?.try_init();
    Ok(())
}

fn subscriber<W>(directives: &str, format: LogFormat, writer: W) -> anyhow::Result<impl Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let wanted = EnvFilter::try_new(directives).context("--log")?;
    let lines = tracing_subscriber::fmt::layer().with_ansi(std::io::stdout().is_terminal()).with_writer(writer);
    let lines = match format {
        LogFormat::Text => lines.with_target(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let program = program();
    let ours = filter_fn(move |event: &Metadata<'_>| is_ours(event.target(), &program));
    Ok(registry().with(lines.with_filter(ours).with_filter(wanted)))
}

/// Whether events of this target are logged: those of Ahoi's crates and of the program itself.
fn is_ours(target: &str, program: &str) -> bool {
    let root = target.split_once("::").map_or(target, |(root, _)| root);
    root == "ahoi" || root.starts_with("ahoi_") || root == program
}

/// The name of the program's crate.
fn program() -> String {
    let path = std::env::current_exe().unwrap_or_default();
    path.file_name().map(|name| name.to_string_lossy().replace('-', "_")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What kube and sqlx log of an answer or a statement, with everything turned on.
    #[test]
    fn libraries_log_nothing_at_any_level() {
        for (directives, format) in [("trace", LogFormat::Text), ("kube_client=trace,trace", LogFormat::Json)] {
            let lines = Lines::default();
            let written = lines.clone();
            let subscriber = subscriber(directives, format, move || written.clone()).unwrap();
            tracing::subscriber::with_default(subscriber, || {
                tracing::error!(target: "kube_client::client", "hunter2");
                tracing::warn!(target: "sqlx::query", statement = "hunter2");
                tracing::trace!(target: "rustls::conn", "hunter2");
                tracing::error!(target: "log", "hunter2");
                tracing::info!(target: "k8s_controller::leader_election", "hunter2");
                tracing::trace!("our own");
            });
            let text = String::from_utf8(lines.0.lock().clone()).unwrap();
            assert!(!text.contains("hunter2"), "{text}");
            assert!(text.contains("our own"), "{text}");
        }
    }

    #[test]
    fn a_target_belongs_to_a_crate() {
        for ours in ["ahoi_database::server", "ahoi_reconcile", "greeter::main"] {
            assert!(is_ours(ours, "greeter"), "{ours}");
        }
        for other in ["ahoihoi", "kube_runtime::watcher", "k8s_controller::leader_election", "log", "", "greeters"] {
            assert!(!is_ours(other, "greeter"), "{other}");
        }
    }
}
