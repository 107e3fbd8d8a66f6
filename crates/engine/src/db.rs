//! `engine.db`: what must not be forgotten, written by one thread.
//!
//! ```text
//! containers  id │ name (unique) │ record: what was asked, JSON │ state: where it is, JSON
//! volumes     name │ record
//! networks    id │ name (unique) │ record
//! facts       key │ value
//! ```
//!
//! WAL. Jobs that wait at the same moment are committed together, with `synchronous=FULL` when one
//! of them asks for it and `NORMAL` otherwise: a NORMAL commit survives the death of the process,
//! a FULL one that of the host. Each job has a savepoint of its own, so that one that fails takes
//! nobody along.

use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::oneshot;

/// What the host's death may take along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Nothing.
    Full,
    /// This write: a monitor can tell it again.
    Normal,
}

/// A write that did not happen.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DbError {
    /// One statement.
    #[error("write `{path}`")]
    Write {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: Arc<rusqlite::Error>,
    },
    /// The writing thread is gone: the engine is being shut down.
    #[error("`{0}` is closed")]
    Closed(PathBuf),
}

/// Why the database did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenDbError {
    /// It cannot be kept from others.
    #[error("make `{path}` its owner's alone")]
    Private {
        /// The database.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// SQLite refused it.
    #[error("open `{path}`")]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// A later berth wrote it.
    #[error(
        "`{path}` was written by a later version of berth (format {found}; this one reads {FORMAT})"
    )]
    Format {
        /// The database.
        path: PathBuf,
        /// Its format.
        found: i64,
    },
    /// The writing thread did not start.
    #[error("start the thread that writes `{path}`")]
    Thread {
        /// The database.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

const FORMAT: i64 = 1;

const SCHEMA: &str = "
CREATE TABLE containers (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE,
                         record TEXT NOT NULL, state TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE volumes (name TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE networks (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE,
                       record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
PRAGMA user_version = 1;
";

/// Jobs committed together at most.
const BATCH: usize = 64;

type Work = Box<dyn FnOnce(&Connection) -> rusqlite::Result<()> + Send>;

struct Job {
    work: Work,
    durability: Durability,
    done: oneshot::Sender<Result<(), Arc<rusqlite::Error>>>,
}

/// The database, and the thread that writes it.
#[derive(Debug)]
pub(crate) struct Db {
    path: PathBuf,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// Everything that was in it at open.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    /// Id, name, record, state.
    pub(crate) containers: Vec<(String, String, String, String)>,
    /// Name, record.
    pub(crate) volumes: Vec<(String, String)>,
    /// Id, name, record.
    pub(crate) networks: Vec<(String, String, String)>,
    /// Key, value.
    pub(crate) facts: Vec<(String, String)>,
}

/// The environments of containers are in it, and what is secret is often there: it is for its owner
/// alone, and so are the files that SQLite makes beside it.
fn keep_private(path: &Path) -> io::Result<()> {
    const PRIVATE: u32 = 0o600;
    let mut options = fs::File::options();
    options.create(true).append(true).mode(PRIVATE).open(path)?;
    for suffix in ["", "-wal", "-shm"] {
        let mut beside = path.as_os_str().to_owned();
        beside.push(suffix);
        match fs::set_permissions(&beside, fs::Permissions::from_mode(PRIVATE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

impl Db {
    /// Opens or makes it, and reads it whole. Blocks.
    pub(crate) fn open(path: &Path) -> Result<(Self, Rows), OpenDbError> {
        let sqlite = |source| OpenDbError::Sqlite {
            path: path.to_owned(),
            source,
        };
        keep_private(path).map_err(|source| OpenDbError::Private {
            path: path.to_owned(),
            source,
        })?;
        let connection = Connection::open(path).map_err(sqlite)?;
        let found = prepare(&connection).map_err(sqlite)?;
        if found > FORMAT {
            return Err(OpenDbError::Format {
                path: path.to_owned(),
                found,
            });
        }
        let rows = read(&connection).map_err(sqlite)?;
        let (jobs, queue) = channel();
        let thread = std::thread::Builder::new()
            .name("engine.db".to_owned())
            .spawn(move || write(&connection, &queue))
            .map_err(|source| OpenDbError::Thread {
                path: path.to_owned(),
                source,
            })?;
        let db = Self {
            path: path.to_owned(),
            jobs: Some(jobs),
            thread: Some(thread),
        };
        Ok((db, rows))
    }

    /// Queues a write; the order of calls is the order of writes. The answer comes once it is
    /// committed. Whoever does not wait for it still has it done.
    pub(crate) fn write<W>(
        &self,
        durability: Durability,
        work: W,
    ) -> impl Future<Output = Result<(), DbError>> + Send + use<W>
    where
        W: FnOnce(&Connection) -> rusqlite::Result<()> + Send + 'static,
    {
        let (done, answer) = oneshot::channel();
        let job = Job {
            work: Box::new(work),
            durability,
            done,
        };
        if let Some(jobs) = &self.jobs {
            // A closed queue drops the job and with it `done`, which the answer tells.
            let _ = jobs.send(job);
        }
        let path = self.path.clone();
        async move {
            match answer.await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(source)) => Err(DbError::Write { path, source }),
                Err(_) => Err(DbError::Closed(path)),
            }
        }
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was printed by the hook already.
            let _ = thread.join();
        }
    }
}

fn prepare(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found == 0 {
        connection.execute_batch(&format!("BEGIN;{SCHEMA}COMMIT;"))?;
    }
    Ok(found)
}

fn read(connection: &Connection) -> rusqlite::Result<Rows> {
    let containers = connection
        .prepare("SELECT id, name, record, state FROM containers")?
        .query_map([], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })?
        .collect::<Result<_, _>>()?;
    let volumes = connection
        .prepare("SELECT name, record FROM volumes")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let networks = connection
        .prepare("SELECT id, name, record FROM networks")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<Result<_, _>>()?;
    let facts = connection
        .prepare("SELECT key, value FROM facts")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    Ok(Rows {
        containers,
        volumes,
        networks,
        facts,
    })
}

fn write(connection: &Connection, queue: &Receiver<Job>) {
    let mut level = Durability::Normal;
    while let Ok(first) = queue.recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Ok(job) = queue.try_recv()
        {
            batch.push(job);
        }
        let wanted = if batch.iter().any(|job| job.durability == Durability::Full) {
            Durability::Full
        } else {
            Durability::Normal
        };
        commit(connection, batch, &mut level, wanted);
    }
}

fn commit(connection: &Connection, batch: Vec<Job>, level: &mut Durability, wanted: Durability) {
    let mut waiting = Vec::with_capacity(batch.len());
    let outcome = begin(connection, level, wanted).and_then(|()| {
        for job in batch {
            let outcome = savepoint(connection, job.work);
            waiting.push((job.done, outcome));
        }
        connection.execute_batch("COMMIT")
    });
    let outcome = outcome.map_err(Arc::new);
    if outcome.is_err() && !connection.is_autocommit() {
        // The answers tell; a rollback that fails too leaves nothing to roll back.
        let _ = connection.execute_batch("ROLLBACK");
    }
    for (done, own) in waiting {
        let answer = match &outcome {
            Ok(()) => own.map_err(Arc::new),
            Err(error) => Err(Arc::clone(error)),
        };
        // A caller that stopped waiting does not undo what it asked for.
        let _ = done.send(answer);
    }
}

fn begin(
    connection: &Connection,
    level: &mut Durability,
    wanted: Durability,
) -> rusqlite::Result<()> {
    if *level != wanted {
        let word = match wanted {
            Durability::Full => "FULL",
            Durability::Normal => "NORMAL",
        };
        connection.pragma_update(None, "synchronous", word)?;
        *level = wanted;
    }
    connection.execute_batch("BEGIN IMMEDIATE")
}

fn savepoint(connection: &Connection, work: Work) -> rusqlite::Result<()> {
    connection.execute_batch("SAVEPOINT job")?;
    let outcome = work(connection);
    if outcome.is_err() {
        connection.execute_batch("ROLLBACK TO job")?;
    }
    connection.execute_batch("RELEASE job")?;
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(db: &Db, key: &str) -> impl Future<Output = Result<(), DbError>> + use<> {
        let key = key.to_owned();
        db.write(Durability::Full, move |connection| {
            connection
                .execute("INSERT INTO facts VALUES (?1, '')", [key])
                .map(drop)
        })
    }

    #[tokio::test]
    async fn what_was_written_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("engine.db");
        let (db, rows) = Db::open(&path).unwrap();
        assert!(rows.facts.is_empty());
        insert(&db, "a").await.unwrap();
        // Not waited for, and still done.
        drop(insert(&db, "b"));
        drop(db);
        let (_, rows) = Db::open(&path).unwrap();
        assert_eq!(rows.facts.len(), 2);
    }

    #[tokio::test]
    async fn a_write_that_fails_takes_nobody_along() {
        let dir = tempfile::tempdir().unwrap();
        let (db, _) = Db::open(&dir.path().join("engine.db")).unwrap();
        let writes = ["a", "a", "b"].map(|key| insert(&db, key));
        let [first, twice, other] = futures_util::future::join_all(writes)
            .await
            .try_into()
            .unwrap();
        assert!(first.is_ok() && other.is_ok());
        let error = vocab::failure::chain(&twice.unwrap_err());
        assert!(error.contains("UNIQUE constraint"), "{error}");
    }
}
