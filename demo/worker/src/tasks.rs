//! The table of tasks. All statements run in transactions, and none is prepared, so that pgbouncer may use another connection for each
//! transaction.

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
/// Advisory lock for the creation of the table: of two concurrent creations, one would fail.
const TABLE_LOCK: i64 = 0x61_68_6f_69;

/// A queued task.
#[derive(Debug)]
pub struct Task {
    pub id: i64,
    pub payload: String,
}

/// A pool of one connection, which is opened when it is needed and after it breaks.
pub fn connect(options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new().max_connections(1).acquire_timeout(Duration::from_secs(10)).connect_lazy_with(options)
}

/// Creates the table if it does not exist.
pub async fn create_table(database: &PgPool) -> sqlx::Result<()> {
    let mut transaction = database.begin().await?;
    // IF NOT EXISTS needs the privilege CREATE even if the table exists.
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

/// Processes the oldest task that no other worker has locked; `false` if there is none. Runs in one transaction, so a worker that dies
/// releases its task.
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

/// Number of tasks in each state.
pub async fn report(database: &PgPool) -> sqlx::Result<Vec<(String, i64)>> {
    create_table(database).await?;
    let mut transaction = database.begin().await?;
    let counts = sqlx::query("SELECT state, count(*) FROM tasks GROUP BY state ORDER BY state").persistent(false);
    let rows = counts.fetch_all(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
