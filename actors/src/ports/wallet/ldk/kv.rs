//! The key-value store under LDK: one SQLite file, in the table that ldk-node's own
//! `SqliteStore` uses, so either can open the other's.
//!
//! It differs from that store for the sake of a crash in the middle of a payment. LDK
//! closes a channel for good when it finds its monitor ahead of its manager at start
//! (rust-lightning issue 4286), so the time between those two writes must be short:
//!
//! - **Only the monitors wait for the disk**; the peer holds us to what they say, and all
//!   that we tell the world about a payment leaves after such a write. Everything else is
//!   in the write-ahead log in the order of the calls and on the disk with the next write
//!   that waits, or a moment later. A power cut can take the last rows, never a row
//!   before a later one (SQLite, "Write-Ahead Logging": a log is recovered up to the
//!   first damaged frame).
//! - **Nobody waits for another's disk**: the file is synced outside the lock.
//! - **A monitor's row is staged** until it is on disk, and only then shown. What is
//!   found staged at a start was never confirmed to LDK if the machine has not been
//!   started since, so nobody was told and it is dropped; after a start of the machine
//!   the confirmation itself may be lost, and the row counts.
//! - **A write is done when the call returns**, also the asynchronous one: it waits for
//!   no thread of a pool, which beside a busy model may be long in coming.
//!
//! Not for other databases, and not for rows of more than some megabytes.

use std::fs::File;
use std::future::{Future, ready};
use std::path::Path;
use std::pin::Pin;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};

use ldk_node::io::sqlite_store::{KV_TABLE_NAME, SQLITE_DB_FILE_NAME};
use ldk_node::lightning::io;
use ldk_node::lightning::util::persist::{
    CHANNEL_MONITOR_PERSISTENCE_PRIMARY_NAMESPACE,
    CHANNEL_MONITOR_UPDATE_PERSISTENCE_PRIMARY_NAMESPACE, KVStore, KVStoreSync,
};
use rusqlite::{Connection, OptionalExtension, params};

/// Version of the table that ldk-node's store writes.
const SCHEMA: u16 = 2;

/// Where monitors wait for the disk.
const STAGED: &str = "freehold_staged";

/// See the module.
pub(super) struct Kv {
    connection: Mutex<Connection>,
    /// The write-ahead log, or the file itself where there is none; synced through here.
    log: Arc<File>,
    /// The start of the machine that this is, where the system tells.
    boot: String,
    /// Asks for a sync that nobody waits for.
    later: SyncSender<()>,
}

impl Kv {
    /// Opens the file in a folder, or creates it.
    pub fn open(dir: &Path) -> Result<Self, io::Error> {
        // Linux; elsewhere every start counts as one of the machine.
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        Self::open_at(dir, boot.unwrap_or_default().trim())
    }

    fn open_at(dir: &Path, boot: &str) -> Result<Self, io::Error> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join(SQLITE_DB_FILE_NAME);
        let mut connection = Connection::open(&path).map_err(failed("open"))?;
        let mode: String = connection
            .query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0))
            .map_err(failed("set the journal of"))?;
        let (synchronous, log) = if mode == "wal" {
            ("NORMAL", format!("{SQLITE_DB_FILE_NAME}-wal"))
        } else {
            // Some file systems cannot; then every commit waits, and all is well but slow.
            tracing::warn!(mode, "SQLite keeps its slow journal in this folder");
            ("FULL", SQLITE_DB_FILE_NAME.to_owned())
        };
        connection
            .pragma_update(None, "synchronous", synchronous)
            .map_err(failed("set the durability of"))?;
        let version: u16 = connection
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .map_err(failed("read the version of"))?;
        match version {
            0 => connection
                .pragma_update(None, "user_version", SCHEMA)
                .map_err(failed("set the version of"))?,
            SCHEMA => {}
            newer => {
                return Err(other(format!(
                    "its tables are of version {newer}, this build knows {SCHEMA}"
                )));
            }
        }
        connection
            .execute_batch(&format!(
                "CREATE TABLE IF NOT EXISTS {KV_TABLE_NAME} (\
                 primary_namespace TEXT NOT NULL, \
                 secondary_namespace TEXT DEFAULT '' NOT NULL, \
                 key TEXT NOT NULL CHECK (key <> ''), \
                 value BLOB, \
                 PRIMARY KEY (primary_namespace, secondary_namespace, key)); \
                 CREATE TABLE IF NOT EXISTS {STAGED} (\
                 id INTEGER PRIMARY KEY, boot TEXT NOT NULL, \
                 primary_namespace TEXT NOT NULL, secondary_namespace TEXT NOT NULL, \
                 key TEXT NOT NULL, value BLOB)"
            ))
            .map_err(failed("create the tables of"))?;
        recover(&mut connection, boot)?;
        // Writable: Windows syncs nothing else.
        let log = File::options().read(true).write(true).open(dir.join(log))?;
        log.sync_data()?;
        #[cfg(unix)]
        File::open(dir)?.sync_all()?;
        let log = Arc::new(log);
        let (later, asked) = std::sync::mpsc::sync_channel(1);
        let shared = log.clone();
        std::thread::Builder::new()
            .name("wallet-sync".to_owned())
            .spawn(move || {
                // Ends with the store. A disk that fails is told to whoever waits for it.
                while asked.recv().is_ok() {
                    if let Err(error) = shared.sync_data() {
                        tracing::warn!(%error, "the wallet's file is not synced");
                    }
                }
            })?;
        Ok(Self {
            connection: Mutex::new(connection),
            log,
            boot: boot.to_owned(),
            later,
        })
    }

    fn with<T>(
        &self,
        act: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
        what: &'static str,
    ) -> Result<T, io::Error> {
        // What is done under the lock is one transaction: nothing is left half done.
        let mut connection = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        act(&mut connection).map_err(failed(what))
    }

    /// Puts a row on disk, and only then where LDK finds it.
    fn put_durably(&self, row: &Row<'_>) -> Result<(), io::Error> {
        let id = self.with(|connection| stage(connection, &self.boot, row), "write")?;
        self.log.sync_data()?;
        self.with(
            |connection| {
                let both = connection.transaction()?;
                put(&both, row)?;
                unstage(&both, id)?;
                both.commit()
            },
            "write",
        )
    }
}

/// Carries out or drops what was staged when the process ended.
fn recover(connection: &mut Connection, boot: &str) -> Result<(), io::Error> {
    let all = connection.transaction().map_err(failed("recover"))?;
    let rows: Vec<(String, String, String, String, Vec<u8>)> = {
        let mut statement = all
            .prepare(&format!(
                "SELECT boot, primary_namespace, secondary_namespace, key, value \
                 FROM {STAGED} ORDER BY id"
            ))
            .map_err(failed("recover"))?;
        let rows = statement
            .query_map([], |row| {
                Ok((
                    row.get(0)?,
                    row.get(1)?,
                    row.get(2)?,
                    row.get(3)?,
                    row.get(4)?,
                ))
            })
            .map_err(failed("recover"))?;
        rows.collect::<Result<_, _>>().map_err(failed("recover"))?
    };
    for (at, primary, secondary, key, value) in rows {
        let confirmed = boot.is_empty() || at != boot;
        if confirmed {
            let row = Row {
                primary: &primary,
                secondary: &secondary,
                key: &key,
                value: &value,
            };
            put(&all, &row).map_err(failed("recover"))?;
        }
        tracing::info!(primary, secondary, key, confirmed, "a staged row was found");
    }
    all.execute(&format!("DELETE FROM {STAGED}"), [])
        .map_err(failed("recover"))?;
    all.commit().map_err(failed("recover"))
}

struct Row<'a> {
    primary: &'a str,
    secondary: &'a str,
    key: &'a str,
    value: &'a [u8],
}

fn put(connection: &Connection, row: &Row<'_>) -> rusqlite::Result<()> {
    connection
        .prepare_cached(&format!(
            "INSERT OR REPLACE INTO {KV_TABLE_NAME} \
             (primary_namespace, secondary_namespace, key, value) VALUES (?1, ?2, ?3, ?4)"
        ))?
        .execute(params![row.primary, row.secondary, row.key, row.value])?;
    Ok(())
}

fn stage(connection: &Connection, boot: &str, row: &Row<'_>) -> rusqlite::Result<i64> {
    connection
        .prepare_cached(&format!(
            "INSERT INTO {STAGED} \
             (boot, primary_namespace, secondary_namespace, key, value) \
             VALUES (?1, ?2, ?3, ?4, ?5)"
        ))?
        .execute(params![
            boot,
            row.primary,
            row.secondary,
            row.key,
            row.value
        ])?;
    Ok(connection.last_insert_rowid())
}

fn unstage(connection: &Connection, id: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached(&format!("DELETE FROM {STAGED} WHERE id = ?1"))?
        .execute(params![id])?;
    Ok(())
}

impl KVStoreSync for Kv {
    fn read(&self, primary: &str, secondary: &str, key: &str) -> Result<Vec<u8>, io::Error> {
        let found = self.with(
            |connection| {
                connection
                    .prepare_cached(&format!(
                        "SELECT value FROM {KV_TABLE_NAME} WHERE primary_namespace = ?1 \
                         AND secondary_namespace = ?2 AND key = ?3"
                    ))?
                    .query_row(params![primary, secondary, key], |row| row.get(0))
                    .optional()
            },
            "read",
        )?;
        found.ok_or_else(|| {
            let what = format!("{primary}/{secondary}/{key} is not there");
            io::Error::new(io::ErrorKind::NotFound, what)
        })
    }

    fn write(
        &self,
        primary: &str,
        secondary: &str,
        key: &str,
        value: Vec<u8>,
    ) -> Result<(), io::Error> {
        let row = Row {
            primary,
            secondary,
            key,
            value: &value,
        };
        match primary {
            CHANNEL_MONITOR_PERSISTENCE_PRIMARY_NAMESPACE
            | CHANNEL_MONITOR_UPDATE_PERSISTENCE_PRIMARY_NAMESPACE => self.put_durably(&row),
            _ => {
                self.with(|connection| put(connection, &row), "write")?;
                // Full: a sync is asked for already and begins after this row.
                let _ = self.later.try_send(());
                Ok(())
            }
        }
    }

    fn remove(
        &self,
        primary: &str,
        secondary: &str,
        key: &str,
        _lazy: bool,
    ) -> Result<(), io::Error> {
        // A row that comes back after a power cut is one more to remove, or to hear twice.
        self.with(
            |connection| {
                connection
                    .prepare_cached(&format!(
                        "DELETE FROM {KV_TABLE_NAME} WHERE primary_namespace = ?1 \
                         AND secondary_namespace = ?2 AND key = ?3"
                    ))?
                    .execute(params![primary, secondary, key])
            },
            "remove from",
        )?;
        Ok(())
    }

    fn list(&self, primary: &str, secondary: &str) -> Result<Vec<String>, io::Error> {
        self.with(
            |connection| {
                connection
                    .prepare_cached(&format!(
                        "SELECT key FROM {KV_TABLE_NAME} WHERE primary_namespace = ?1 \
                         AND secondary_namespace = ?2"
                    ))?
                    .query_map(params![primary, secondary], |row| row.get(0))?
                    .collect()
            },
            "list",
        )
    }
}

type Done<T> = Pin<Box<dyn Future<Output = Result<T, io::Error>> + Send>>;

impl KVStore for Kv {
    fn read(&self, primary: &str, secondary: &str, key: &str) -> Done<Vec<u8>> {
        Box::pin(ready(KVStoreSync::read(self, primary, secondary, key)))
    }

    fn write(&self, primary: &str, secondary: &str, key: &str, value: Vec<u8>) -> Done<()> {
        Box::pin(ready(KVStoreSync::write(
            self, primary, secondary, key, value,
        )))
    }

    fn remove(&self, primary: &str, secondary: &str, key: &str, lazy: bool) -> Done<()> {
        Box::pin(ready(KVStoreSync::remove(
            self, primary, secondary, key, lazy,
        )))
    }

    fn list(&self, primary: &str, secondary: &str) -> Done<Vec<String>> {
        Box::pin(ready(KVStoreSync::list(self, primary, secondary)))
    }
}

fn failed(what: &'static str) -> impl Fn(rusqlite::Error) -> io::Error {
    move |error| other(format!("cannot {what} {SQLITE_DB_FILE_NAME}: {error}"))
}

fn other(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::Other, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ldk_node::io::sqlite_store::SqliteStore;

    #[test]
    fn ldk_nodes_own_store_reads_what_ours_wrote_and_the_other_way_round() {
        let dir = tempfile::tempdir().unwrap();
        {
            let ours = Kv::open(dir.path()).unwrap();
            KVStoreSync::write(&ours, "", "", "manager", vec![1]).unwrap();
            KVStoreSync::write(&ours, "monitors", "", "m", vec![9]).unwrap();
            KVStoreSync::write(&ours, "payments", "", "a", vec![2]).unwrap();
            KVStoreSync::write(&ours, "payments", "", "b", vec![3]).unwrap();
            KVStoreSync::remove(&ours, "payments", "", "b", true).unwrap();
        }
        {
            let theirs = SqliteStore::new(
                dir.path().to_path_buf(),
                Some(SQLITE_DB_FILE_NAME.to_owned()),
                Some(KV_TABLE_NAME.to_owned()),
            )
            .unwrap();
            assert_eq!(KVStoreSync::read(&theirs, "", "", "manager").unwrap(), [1]);
            assert_eq!(
                KVStoreSync::read(&theirs, "monitors", "", "m").unwrap(),
                [9]
            );
            assert_eq!(KVStoreSync::list(&theirs, "payments", "").unwrap(), ["a"]);
            KVStoreSync::write(&theirs, "payments", "", "a", vec![4]).unwrap();
        }
        let ours = Kv::open(dir.path()).unwrap();
        assert_eq!(KVStoreSync::read(&ours, "payments", "", "a").unwrap(), [4]);
        let error = KVStoreSync::read(&ours, "payments", "", "b").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(KVStoreSync::write(&ours, "payments", "", "", vec![]).is_err());
    }

    #[test]
    fn a_table_of_another_version_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let connection = Connection::open(dir.path().join(SQLITE_DB_FILE_NAME)).unwrap();
        connection.pragma_update(None, "user_version", 9).unwrap();
        let error = Kv::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains("version 9"), "{error}");
    }

    /// What is there after a start in `then`, of an update staged in `boot` and never shown.
    fn after_a_start(boot: &str, then: &str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        {
            let kv = Kv::open_at(dir.path(), boot).unwrap();
            KVStoreSync::write(&kv, "monitor_updates", "c", "1", vec![1]).unwrap();
            let row = Row {
                primary: "monitor_updates",
                secondary: "c",
                key: "2",
                value: &[2],
            };
            kv.with(|connection| stage(connection, boot, &row), "write")
                .unwrap();
        }
        let kv = Kv::open_at(dir.path(), then).unwrap();
        let staged: u32 = kv
            .with(
                |connection| {
                    connection.query_row(&format!("SELECT COUNT(*) FROM {STAGED}"), [], |row| {
                        row.get(0)
                    })
                },
                "read",
            )
            .unwrap();
        assert_eq!(staged, 0);
        KVStoreSync::list(&kv, "monitor_updates", "c").unwrap()
    }

    #[test]
    fn a_staged_update_counts_only_where_its_confirmation_may_have_been_lost() {
        assert_eq!(after_a_start("a", "a"), ["1"]);
        assert_eq!(after_a_start("a", "b"), ["1", "2"]);
        assert_eq!(after_a_start("", ""), ["1", "2"], "no telling: keep it");
    }
}
