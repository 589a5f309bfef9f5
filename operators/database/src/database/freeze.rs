//! What is made in a customer's database while its storage is exceeded, and taken away afterwards.
//!
//! PostgreSQL looks at privileges before it fires triggers, so a role without INSERT is told of a missing permission and
//! nothing of storage. The frozen role therefore has INSERT and UPDATE on just those tables that carry a trigger which
//! refuses both, by the reason: the frozen role owns nothing, so it can neither drop nor disable it. What runs with the
//! owner's rights, a SECURITY DEFINER function say, is refused, too.

use postgres_protocol::escape::{escape_identifier as id, escape_literal as literal};

/// The schema of the refusing function; its name is in the customer's database only while the storage is exceeded.
const SCHEMA: &str = "ahoi_quota";

/// 53100 is disk_full, which is what clients, and people, take it for.
const REFUSE: &str = "BEGIN RAISE EXCEPTION USING ERRCODE = '53100', \
     MESSAGE = 'the storage quota of this database is used up: INSERT and UPDATE are refused', \
     HINT = 'DELETE or TRUNCATE until less than 90 % is used, or have the storage of the database raised.'; END";

/// Every schema and table the owner role has, one by one: ALL TABLES would fail on the first that an extension owns.
/// Tables first get the trigger and then, in the same transaction, the privileges.
pub fn freezable(owner: &str, frozen: &str) -> String {
    let made = format!(
        "CREATE SCHEMA IF NOT EXISTS {SCHEMA};\n\
         CREATE OR REPLACE FUNCTION {SCHEMA}.refuse() RETURNS trigger LANGUAGE plpgsql AS {};\n",
        literal(REFUSE)
    );
    let body = format!(
        "DECLARE made record; BEGIN \
         FOR made IN SELECT oid::regnamespace AS name FROM pg_namespace WHERE nspowner = {owner}::regrole LOOP \
         EXECUTE format('GRANT USAGE ON SCHEMA %s TO %I', made.name, {frozen}); END LOOP; \
         FOR made IN SELECT oid::regclass AS name, relkind FROM pg_class \
         WHERE relowner = {owner}::regrole AND relkind IN ('r', 'p', 'v', 'm', 'S') LOOP \
         IF made.relkind IN ('r', 'p') THEN \
         EXECUTE format('CREATE OR REPLACE TRIGGER {SCHEMA} BEFORE INSERT OR UPDATE ON %s \
         FOR EACH STATEMENT EXECUTE FUNCTION {SCHEMA}.refuse()', made.name); \
         EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON %s TO %I', made.name, {frozen}); \
         ELSE EXECUTE format('GRANT SELECT ON %s TO %I', made.name, {frozen}); END IF; END LOOP; END",
        owner = literal(&id(owner)),
        frozen = literal(frozen),
    );
    format!("{made}DO {}", literal(&body))
}

/// The triggers go with the function that they call. The privileges go, too: a next time begins with the triggers.
pub fn thaw(owner: &str, frozen: &str) -> String {
    let body = format!(
        "DECLARE made record; BEGIN \
         FOR made IN SELECT oid::regclass AS name FROM pg_class \
         WHERE relowner = {owner}::regrole AND relkind IN ('r', 'p', 'v', 'm', 'S') LOOP \
         EXECUTE format('REVOKE ALL ON %s FROM %I', made.name, {frozen}); END LOOP; \
         FOR made IN SELECT oid::regnamespace AS name FROM pg_namespace WHERE nspowner = {owner}::regrole LOOP \
         EXECUTE format('REVOKE ALL ON SCHEMA %s FROM %I', made.name, {frozen}); END LOOP; END",
        owner = literal(&id(owner)),
        frozen = literal(frozen),
    );
    // Nothing but the function and its triggers: whatever else somebody has put there is not ours to drop.
    let schema = format!(
        "BEGIN IF EXISTS (SELECT FROM pg_namespace WHERE nspname = '{SCHEMA}' AND nspowner = current_user::regrole) THEN \
         DROP SCHEMA {SCHEMA}; END IF; EXCEPTION WHEN dependent_objects_still_exist THEN NULL; END"
    );
    format!("DROP FUNCTION IF EXISTS {SCHEMA}.refuse() CASCADE;\nDO {};\nDO {}", literal(&schema), literal(&body))
}
