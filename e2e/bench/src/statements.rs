//! SQL statements of one database, read from the log of PostgreSQL.

use std::collections::BTreeMap;

/// log_line_prefix: database and application_name of the session.
pub const PREFIX: &str = "@@%d@%a@ ";

/// Statement that was sent to PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Database of the session.
    pub database: String,
    /// Text, with its parameters as literals.
    pub sql: String,
}

/// Returns the statements of sessions with this application_name, in order.
pub fn read(log: &str, application: &str) -> Vec<Statement> {
    let mut statements: Vec<Statement> = Vec::new();
    // Whether lines that start with a tab continue the last statement.
    let mut continued = false;
    for line in log.lines() {
        if let Some(more) = line.strip_prefix('\t') {
            if let Some(last) = statements.last_mut().filter(|_| continued) {
                last.sql.push('\n');
                last.sql.push_str(more);
            }
            continue;
        }
        continued = false;
        let Some((database, who, what)) = split(line) else { continue };
        if who != application {
            continue;
        }
        if let Some(sql) = statement(what) {
            statements.push(Statement { database: database.to_owned(), sql: sql.to_owned() });
            continued = true;
        } else if let Some(values) = parameters(what)
            && let Some(last) = statements.last_mut()
        {
            last.sql = bind(&last.sql, &values);
        }
    }
    statements
}

fn split(line: &str) -> Option<(&str, &str, &str)> {
    let (database, rest) = line.strip_prefix("@@")?.split_once('@')?;
    let (application, rest) = rest.split_once("@ ")?;
    Some((database, application, rest))
}

/// Returns the text of a statement, simple or prepared.
fn statement(what: &str) -> Option<&str> {
    let what = what.strip_prefix("LOG:  ")?;
    if let Some(sql) = what.strip_prefix("statement: ") {
        return Some(sql);
    }
    Some(what.strip_prefix("execute ")?.split_once(": ")?.1)
}

/// Returns the parameters as literals, by number.
fn parameters(what: &str) -> Option<BTreeMap<usize, String>> {
    let what = what.strip_prefix("DETAIL:  ")?;
    let mut rest = what.strip_prefix("Parameters: ").or_else(|| what.strip_prefix("parameters: "))?;
    let mut values = BTreeMap::new();
    while let Some((number, after)) = rest.strip_prefix('$').and_then(|rest| rest.split_once(" = ")) {
        let end = literal_end(after);
        values.insert(number.parse().ok()?, after[..end].to_owned());
        rest = after[end..].trim_start_matches(", ");
    }
    Some(values)
}

/// Returns the length of the literal at the start: NULL, or a quoted text.
fn literal_end(text: &str) -> usize {
    let mut quotes = 0;
    for (at, character) in text.char_indices() {
        match character {
            '\'' => quotes += 1,
            ',' if quotes % 2 == 0 => return at,
            _ => {}
        }
    }
    text.len()
}

fn bind(sql: &str, values: &BTreeMap<usize, String>) -> String {
    // From the last, because $1 is a prefix of $10.
    values.iter().rev().fold(sql.to_owned(), |sql, (number, value)| sql.replace(&format!("${number}"), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_log_is_parsed() {
        let log = "@@postgres@ahoi-database@ LOG:  statement: CREATE ROLE \"a\";\n\tCREATE ROLE \"b\"\n\
            @@postgres@psql@ LOG:  statement: SELECT 0\n\tFROM nowhere\n\
            @@c_1@ahoi-database@ LOG:  execute sqlx_s_1: SELECT $1, $2\n\
            @@c_1@ahoi-database@ DETAIL:  Parameters: $1 = '{a,b''c}', $2 = NULL\n\
            @@c_1@ahoi-database@ ERROR:  no\n";
        let statement = |database: &str, sql: &str| Statement { database: database.into(), sql: sql.into() };
        assert_eq!(
            read(log, "ahoi-database"),
            [
                statement("postgres", "CREATE ROLE \"a\";\nCREATE ROLE \"b\""),
                statement("c_1", "SELECT '{a,b''c}', NULL"),
            ]
        );
    }
}
