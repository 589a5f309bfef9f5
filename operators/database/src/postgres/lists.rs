//! Parameters whose value is a list of names, such as search_path. PostgreSQL stores such a list in its own spelling, and takes one
//! literal for one name.

use postgres_protocol::escape::escape_literal as literal;

/// These parameters (`GUC_LIST_QUOTE` in PostgreSQL's source).
const LISTS: &[&str] = &["local_preload_libraries", "search_path", "session_preload_libraries", "temp_tablespaces"];

/// Whether the value of the parameter is a list of names.
pub fn is_list(parameter: &str) -> bool {
    LISTS.contains(&parameter)
}

/// The list in PostgreSQL's spelling: names without quotes are in lower case. None if it is not a list.
pub fn canonical(value: &str) -> Option<String> {
    let names = split(value, true)?;
    Some(names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", "))
}

/// The value of a parameter as SQL.
pub fn sql(parameter: &str, value: &str) -> String {
    let names = if is_list(parameter) { split(value, false) } else { None };
    let Some(names) = names else { return literal(value) };
    names.iter().map(|name| literal(name)).collect::<Vec<_>>().join(", ")
}

/// Whether a stored `name=value` sets the parameter to the value.
pub fn is_set(setting: &str, parameter: &str, value: &str) -> bool {
    let Some((name, stored)) = setting.split_once('=') else { return false };
    let is_same_list =
        || is_list(parameter) && split(stored, false).is_some_and(|names| Some(names) == split(value, false));
    name == parameter && (stored == value || is_same_list())
}

fn quoted(name: &str) -> String {
    let is_plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if is_plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// The names of a list; `folds` converts those without quotes to lower case.
fn split(value: &str, folds: bool) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut rest = value.trim();
    if rest.is_empty() {
        // PostgreSQL stores it as "": no schema.
        return Some(vec![String::new()]);
    }
    loop {
        let (name, after) = if let Some(inside) = rest.strip_prefix('"') {
            quoted_name(inside)?
        } else {
            let end = rest.find(|c: char| c == ',' || c == '"' || c.is_whitespace()).unwrap_or(rest.len());
            let (name, after) = rest.split_at_checked(end)?;
            if name.is_empty() {
                return None;
            }
            (if folds { name.to_ascii_lowercase() } else { name.to_owned() }, after)
        };
        names.push(name);
        let after = after.trim_start();
        if after.is_empty() {
            return Some(names);
        }
        rest = after.strip_prefix(',')?.trim_start();
    }
}

/// The name up to its closing quote, and the rest.
fn quoted_name(inside: &str) -> Option<(String, &str)> {
    let (mut name, mut rest) = (String::new(), inside);
    loop {
        let (before, after) = rest.split_once('"')?;
        name.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return Some((name, after)),
        }
    }
}

#[cfg(test)]
mod tests;
