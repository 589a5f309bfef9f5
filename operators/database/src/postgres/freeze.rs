//! Keeps a database from growing while its storage is used up, and reverts that.
//!
//! The customer stays the owner of its tables: it must be able to DELETE, DROP and VACUUM FULL without an administrator. Everything
//! else that an owner may do is revoked in such a way that the owner cannot grant it again:
//! - the customer's roles may not create objects in any schema, nor schemas or temporary tables in the database;
//! - a trigger on each table refuses INSERT and UPDATE, whichever of the customer's roles owns the table;
//! - if the admin role is a superuser, an event trigger refuses every DDL command that frees no space, which protects the triggers
//!   and the privileges, and EXECUTE on the functions that write large objects is revoked.
//!
//! The names have a random part, so that no object of the customer can conflict. A table beside the functions lists what was
//! revoked. Measurements find a database that grows nevertheless, see [`crate::growth`].

use postgres_protocol::escape::escape_literal as literal;

use super::names::Names;

/// 53100 is disk_full, which clients and people understand. Logins other than the customer's may write.
const REFUSE: &str = "BEGIN IF session_user = ANY (TG_ARGV::name[]) THEN RAISE EXCEPTION USING ERRCODE = '53100', \
     MESSAGE = 'the storage quota of this database is used up: INSERT and UPDATE are refused', \
     HINT = 'DELETE rows, TRUNCATE or DROP tables, and VACUUM FULL until less than 90 % of the storage is used, or have it \
     raised.'; END IF; RETURN NULL; END";

/// The DDL commands that reduce the size of a database. DELETE, TRUNCATE and VACUUM are no DDL to PostgreSQL and fire no event
/// trigger.
const SHRINKING: &str = "'DROP TABLE', 'DROP INDEX', 'DROP MATERIALIZED VIEW', 'DROP VIEW', 'DROP SEQUENCE', 'DROP SCHEMA', \
     'DROP FOREIGN TABLE', 'REINDEX'";

/// Functions that write large objects or WAL without a table.
const WRITERS: &str = "'lo_creat', 'lo_create', 'lo_from_bytea', 'lo_import', 'lo_put', 'lo_truncate', 'lo_truncate64', \
     'lowrite', 'pg_logical_emit_message'";

/// The schemas that are created here. No tenant can create one that the admin role owns.
const OURS: &str = "nspname ~ '^ahoi_quota_[0-9a-f]{32}$' AND nspowner = current_user::regrole";

fn array(names: &[&String]) -> String {
    format!("ARRAY[{}]", names.iter().map(|name| literal(name)).collect::<Vec<_>>().join(", "))
}

/// The schema of an earlier freeze, if there is one.
fn find() -> String {
    format!("SELECT nspname INTO quota FROM pg_namespace WHERE {OURS} ORDER BY oid LIMIT 1;")
}

fn block(declarations: &str, body: &str) -> String {
    format!("DO {}", literal(&format!("DECLARE quota name; made record; {declarations}BEGIN {body} END")))
}

/// Revokes what could remove the triggers or write without a table. Idempotent.
pub fn seal(names: &Names) -> String {
    let logins = array(&[&names.login, &names.other]);
    let roles = array(&[&names.owner, &names.login, &names.other]);
    let refuse_ddl = format!(
        "BEGIN IF session_user = ANY ({logins}) AND tg_tag NOT IN ({SHRINKING}) THEN RAISE EXCEPTION USING ERRCODE = '53100', \
         MESSAGE = 'the storage quota of this database is used up: ' || tg_tag || ' is refused', \
         HINT = 'DELETE rows, TRUNCATE or DROP tables, and VACUUM FULL until less than 90 % of the storage is used, or have \
         it raised.'; END IF; END"
    );
    let body = format!(
        "{find} \
         IF quota IS NULL THEN \
         quota := 'ahoi_quota_' || replace(gen_random_uuid()::text, '-', ''); \
         EXECUTE format('CREATE SCHEMA %I', quota); \
         EXECUTE format('CREATE TABLE %I.undo (statement text NOT NULL)', quota); \
         EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', quota, {owner}); \
         EXECUTE format('GRANT SELECT ON %I.undo TO %I', quota, {owner}); END IF; \
         EXECUTE format('CREATE OR REPLACE FUNCTION %I.refuse() RETURNS trigger LANGUAGE plpgsql \
         SET search_path = pg_catalog AS %L', quota, {refuse}); \
         EXECUTE format('REVOKE ALL ON FUNCTION %I.refuse() FROM PUBLIC', quota); \
         FOR made IN SELECT n.oid::regnamespace AS name, coalesce(quote_ident(r.rolname), 'PUBLIC') AS grantee, \
         CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' END AS options \
         FROM pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a \
         LEFT JOIN pg_roles r ON r.oid = a.grantee \
         WHERE a.privilege_type = 'CREATE' AND (a.grantee = 0 OR r.rolname = ANY ({roles})) \
         AND pg_has_role(n.nspowner, 'USAGE') AND n.nspname !~ '^pg_(toast|temp)' LOOP \
         undo := undo || format('GRANT CREATE ON SCHEMA %s TO %s%s', made.name, made.grantee, made.options); \
         EXECUTE format('REVOKE CREATE ON SCHEMA %s FROM %s CASCADE', made.name, made.grantee); END LOOP; \
         IF current_setting('is_superuser')::bool THEN \
         EXECUTE format('CREATE OR REPLACE FUNCTION %I.refuse_ddl() RETURNS event_trigger LANGUAGE plpgsql \
         SET search_path = pg_catalog AS %L', quota, {refuse_ddl}); \
         EXECUTE format('REVOKE ALL ON FUNCTION %I.refuse_ddl() FROM PUBLIC', quota); \
         IF NOT EXISTS (SELECT FROM pg_event_trigger WHERE evtname = quota) THEN \
         EXECUTE format('CREATE EVENT TRIGGER %I ON ddl_command_start EXECUTE FUNCTION %I.refuse_ddl()', quota, quota); \
         EXECUTE format('ALTER EVENT TRIGGER %I ENABLE ALWAYS', quota); END IF; \
         FOR made IN SELECT oid::regprocedure AS name FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace \
         AND proname IN ({WRITERS}) AND has_function_privilege('public', oid, 'EXECUTE') LOOP \
         undo := undo || format('GRANT EXECUTE ON FUNCTION %s TO PUBLIC', made.name); \
         EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', made.name); END LOOP; END IF; \
         EXECUTE format('INSERT INTO %I.undo SELECT unnest($1)', quota) USING undo;",
        find = find(),
        owner = literal(&names.owner),
        refuse = literal(REFUSE),
        refuse_ddl = literal(&refuse_ddl),
    );
    block("undo text[] := '{}'; ", &body)
}

/// Ends the customer's sessions, which may have begun before [`seal`], and then makes every table refuse INSERT and UPDATE. Each
/// table has its own transaction: a locked table, or a great number of them, does not roll back the others.
pub fn refuse_writes(names: &Names) -> String {
    let logins = array(&[&names.login, &names.other]);
    let arguments = format!("{}, {}", literal(&names.login), literal(&names.other));
    let body = format!(
        "{find} \
         PERFORM pg_terminate_backend(pid, 5000) FROM pg_stat_activity \
         WHERE datname = current_database() AND usename = ANY ({logins}) AND pid <> pg_backend_pid(); \
         FOR made IN SELECT c.oid::regclass::text AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND pg_has_role(c.relowner, 'USAGE') \
         AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', quota) \
         AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = quota AND t.tgenabled = 'A') LOOP \
         BEGIN \
         EXECUTE format('CREATE OR REPLACE TRIGGER %I BEFORE INSERT OR UPDATE ON %s FOR EACH STATEMENT \
         EXECUTE FUNCTION %I.refuse(%s)', quota, made.name, quota, {arguments}); \
         EXECUTE format('ALTER TABLE ONLY %s ENABLE ALWAYS TRIGGER %I', made.name, quota); \
         EXCEPTION WHEN undefined_table THEN NULL; END; \
         COMMIT; END LOOP;",
        find = find(),
        arguments = literal(&arguments),
    );
    block("", &body)
}

/// Grants again what [`seal`] revoked, and makes the triggers refuse nothing. Needs no lock on a table.
pub fn allow_writes(names: &Names) -> String {
    let body = format!(
        "FOR quota IN SELECT nspname FROM pg_namespace WHERE {OURS} LOOP \
         FOR made IN EXECUTE format('SELECT statement FROM %I.undo', quota) LOOP \
         BEGIN EXECUTE made.statement; \
         EXCEPTION WHEN invalid_schema_name OR undefined_object OR undefined_function THEN NULL; END; END LOOP; \
         IF current_setting('is_superuser')::bool THEN EXECUTE format('DROP EVENT TRIGGER IF EXISTS %I', quota); END IF; \
         EXECUTE format('CREATE OR REPLACE FUNCTION %I.refuse() RETURNS trigger LANGUAGE plpgsql AS %L', quota, \
         'BEGIN RETURN NULL; END'); END LOOP; \
         IF EXISTS (SELECT FROM pg_roles WHERE rolname = {frozen}) THEN \
         EXECUTE format('REASSIGN OWNED BY %I TO %I', {frozen}, {owner}); \
         EXECUTE format('DROP OWNED BY %I', {frozen}); END IF;",
        frozen = literal(&names.frozen),
        owner = literal(&names.owner),
    );
    block("", &body)
}

/// Drops the triggers table by table, the schema, and what an earlier release created.
pub fn thaw() -> String {
    let body = format!(
        "FOR made IN SELECT t.tgname AS name, t.tgrelid::regclass::text AS relation \
         FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace ON pg_namespace.oid = p.pronamespace \
         WHERE {OURS} LOOP \
         BEGIN EXECUTE format('DROP TRIGGER %I ON %s', made.name, made.relation); \
         EXCEPTION WHEN undefined_object OR undefined_table THEN NULL; END; \
         COMMIT; END LOOP; \
         FOR made IN SELECT nspname AS name FROM pg_namespace WHERE {OURS} LOOP \
         EXECUTE format('DROP SCHEMA %I CASCADE', made.name); END LOOP; \
         IF EXISTS (SELECT FROM pg_namespace WHERE nspname = 'ahoi_quota' AND nspowner = current_user::regrole) THEN \
         DROP FUNCTION IF EXISTS ahoi_quota.refuse() CASCADE; \
         BEGIN DROP SCHEMA ahoi_quota; EXCEPTION WHEN dependent_objects_still_exist THEN NULL; END; END IF;"
    );
    block("", &body)
}
