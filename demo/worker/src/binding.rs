//! Connection details of the database, as in the Service Binding specification: a folder for each binding, a file for each entry.

use std::path::Path;
use std::{env, fs};

use anyhow::Context;
use sqlx::postgres::PgConnectOptions;

/// The binding of the type postgresql in `SERVICE_BINDING_ROOT`, if there is one.
pub fn find() -> anyhow::Result<Option<PgConnectOptions>> {
    let Some(root) = env::var_os("SERVICE_BINDING_ROOT") else { return Ok(None) };
    let root = Path::new(&root);
    let folders = fs::read_dir(root).with_context(|| format!("cannot list {}", root.display()))?;
    for folder in folders {
        let folder = folder?.path();
        if entry(&folder, "type").is_ok_and(|kind| kind == "postgresql") {
            return read(&folder).map(Some);
        }
    }
    Ok(None)
}

fn read(folder: &Path) -> anyhow::Result<PgConnectOptions> {
    let port = entry(folder, "port")?;
    let options = PgConnectOptions::new_without_pgpass()
        .host(&entry(folder, "host")?)
        .port(port.parse().with_context(|| format!("the binding's port is {port:?}"))?)
        .database(&entry(folder, "database")?)
        .username(&entry(folder, "username")?)
        .password(&entry(folder, "password")?)
        // In the pool mode Transaction, each transaction may use another server connection, so nothing may stay prepared. pgbouncer
        // refuses unknown startup parameters.
        .statement_cache_capacity(0)
        .extra_float_digits(None);
    // The binding has a file with authorities if its sslmode verifies the server.
    let authorities = folder.join("ca.crt");
    let options = if authorities.exists() { options.ssl_root_cert(authorities) } else { options };
    Ok(match entry(folder, "sslmode") {
        Ok(mode) => options.ssl_mode(mode.parse()?),
        Err(_) => options,
    })
}

fn entry(folder: &Path, name: &str) -> anyhow::Result<String> {
    let file = folder.join(name);
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(text.trim_end_matches('\n').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incomplete_binding_is_an_error() {
        let folder = env::temp_dir().join(format!("ahoi-demo-worker-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let write = |name: &str, text: &str| fs::write(folder.join(name), text).expect("a file");
        for (name, text) in [("host", "pool.ahoi-system"), ("port", "6432"), ("database", "d\n"), ("username", "u")] {
            write(name, text);
        }
        let missing = read(&folder).expect_err("there is no password yet").to_string();
        assert!(missing.ends_with("password"), "{missing}");
        write("password", "s3cret");
        let options = read(&folder).expect("complete");
        assert_eq!((options.get_host(), options.get_port()), ("pool.ahoi-system", 6432));
        assert_eq!((options.get_database(), options.get_username()), (Some("d"), "u"));
        fs::remove_dir_all(&folder).expect("ours");
    }
}
