//! The table of tasks. Every statement is sent within a transaction, and none as a prepared statement: then a pooler may
//! give each transaction another connection.

use std::future::Future;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgRow};
use sqlx::{PgPool, Postgres, Row, Transaction};

const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS tasks (
        id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        payload     text NOT NULL,
        state       text NOT NULL DEFAULT 'queued',
        worker      text,
        created_at  timestamptz NOT NULL DEFAULT now(),
        finished_at timestamptz
    );
    CREATE INDEX IF NOT EXISTS tasks_queued ON tasks (id) WHERE state = 'queued';
";
/// The lock under which the table is created: of two that create it at once, one would fail.
const TABLE_LOCK: i64 = 0x61_68_6f_69;

/// A task that is to be done.
#[derive(Debug)]
pub struct Task {
    pub id: i64,
    pub payload: String,
}

/// One connection, made when it is needed and made again when it breaks.
pub fn connect(options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new().max_connections(1).acquire_timeout(Duration::from_secs(10)).connect_lazy_with(options)
}

/// Creates the table where there is none.
pub async fn create_table(database: &PgPool) -> sqlx::Result<()> {
    let mut transaction = database.begin().await?;
    // Asked first, since IF NOT EXISTS wants the right to create even where there is nothing to create.
    let exists = sqlx::query("SELECT to_regclass('tasks') IS NOT NULL").persistent(false);
    if !exists.fetch_one(&mut *transaction).await?.get::<bool, _>(0) {
        sqlx::query("SELECT pg_advisory_xact_lock($1)")
            .persistent(false)
            .bind(TABLE_LOCK)
            .execute(&mut *transaction)
            .await?;
        sqlx::raw_sql(TABLE).execute(&mut *transaction).await?;
    }
    transaction.commit().await
}

/// Takes the oldest task that nobody else has, does it, and says who did; `false` when there is none. All in one
/// transaction: a worker that dies gives its task back, and no other waits for it.
pub async fn take<F>(database: &PgPool, worker: &str, work: impl FnOnce(Task) -> F) -> sqlx::Result<bool>
where
    F: Future<Output = ()>,
{
    let mut transaction = database.begin().await?;
    let Some(task) = next(&mut transaction).await? else { return transaction.commit().await.map(|()| false) };
    let id = task.id;
    work(task).await;
    sqlx::query("UPDATE tasks SET state = 'done', worker = $1, finished_at = clock_timestamp() WHERE id = $2")
        .persistent(false)
        .bind(worker)
        .bind(id)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(true)
}

async fn next(transaction: &mut Transaction<'_, Postgres>) -> sqlx::Result<Option<Task>> {
    let next = "SELECT id, payload FROM tasks WHERE state = 'queued' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED";
    let row: Option<PgRow> = sqlx::query(next).persistent(false).fetch_optional(&mut **transaction).await?;
    Ok(row.map(|row| Task { id: row.get(0), payload: row.get(1) }))
}

/// Adds `count` tasks.
pub async fn enqueue(database: &PgPool, count: i64) -> sqlx::Result<()> {
    create_table(database).await?;
    let mut transaction = database.begin().await?;
    sqlx::query("INSERT INTO tasks (payload) SELECT 'task ' || n FROM generate_series(1, $1) AS n")
        .persistent(false)
        .bind(count)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}

/// How many tasks there are in each state.
pub async fn report(database: &PgPool) -> sqlx::Result<Vec<(String, i64)>> {
    create_table(database).await?;
    let mut transaction = database.begin().await?;
    let counts = sqlx::query("SELECT state, count(*) FROM tasks GROUP BY state ORDER BY state").persistent(false);
    let rows = counts.fetch_all(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
