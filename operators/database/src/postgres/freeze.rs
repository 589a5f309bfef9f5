//! How a database is kept from growing while its storage is used up, and how that is undone.
//!
//! The customer stays the owner of its tables: it must be able to delete, drop and VACUUM FULL without an administrator. What
//! an owner could do instead is taken away where the owner cannot give it back:
//! - no schema lets the customer's roles create anything, and its database no schemas and no temporary tables;
//! - INSERT and UPDATE are refused by a trigger on each table, whoever of the customer's roles owns it;
//! - where the admin role is a superuser, an event trigger refuses every DDL command that frees nothing, which protects the
//!   triggers and the privileges, and the functions that write large objects may not be called.
//!
//! The names carry a random part, so that an object of the customer cannot be in the way. What was revoked is written
//! down in a table beside the functions. What still gets past all this is found by measuring, see `server::measure`.

use postgres_protocol::escape::escape_literal as literal;

use super::names::Names;

/// 53100 is disk_full, which is what clients, and people, take it for. Others than the customer's logins may write.
const REFUSE: &str = "BEGIN IF session_user = ANY (TG_ARGV::name[]) THEN RAISE EXCEPTION USING ERRCODE = '53100', \
     MESSAGE = 'the storage quota of this database is used up: INSERT and UPDATE are refused', \
     HINT = 'DELETE rows, TRUNCATE or DROP tables, and VACUUM FULL until less than 90 % of the storage is used, or have it \
     raised.'; END IF; RETURN NULL; END";

/// The commands that make a database smaller. Those that are no DDL to PostgreSQL (DELETE, TRUNCATE, VACUUM) are not asked
/// about.
const SHRINKING: &str = "'DROP TABLE', 'DROP INDEX', 'DROP MATERIALIZED VIEW', 'DROP VIEW', 'DROP SEQUENCE', 'DROP SCHEMA', \
     'DROP FOREIGN TABLE', 'REINDEX'";

/// What writes large objects, and to the WAL, without a table.
const WRITERS: &str = "'lo_creat', 'lo_create', 'lo_from_bytea', 'lo_import', 'lo_put', 'lo_truncate', 'lo_truncate64', \
     'lowrite', 'pg_logical_emit_message'";

/// Which schemas are made here. No tenant can make one that the admin role owns.
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

/// Takes away what would undo the triggers, or do without a table. Whatever was done before stays done.
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

/// Ends the customer's sessions, which may have passed what [`seal`] did, and then has every table refuse INSERT and UPDATE.
/// Each table is a transaction of its own: one that is locked, or very many of them, do not undo what is done.
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

/// Gives back what [`seal`] took, and has the triggers refuse nothing. This waits for no lock on a table.
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

/// Takes away what is left then, table by table, and what a release before this one made.
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
