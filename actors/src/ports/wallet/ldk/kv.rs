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
//! - **The log is synced outside the lock**, so that a manager's row does not wait behind
//!   a monitor's disk. A checkpoint, every thousand pages or so, still waits inside.
//! - **A write is done when the call returns**, also the asynchronous one: it waits for
//!   no thread of a pool, which beside a busy model may be long in coming.
//! - **A sync that failed once ends all writing**: the system tells of lost pages once and
//!   then calls them written, so nothing after them can be trusted before a restart.
//!
//! Not for other databases.

use std::fs::File;
use std::future::{Future, ready};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;

use ldk_node::io::sqlite_store::{KV_TABLE_NAME, SQLITE_DB_FILE_NAME};
use ldk_node::lightning::io;
use ldk_node::lightning::util::persist::{
    CHANNEL_MONITOR_PERSISTENCE_PRIMARY_NAMESPACE,
    CHANNEL_MONITOR_UPDATE_PERSISTENCE_PRIMARY_NAMESPACE, KVStore, KVStoreSync,
};
use parking_lot::{FairMutex, Mutex};
use rusqlite::{Connection, OptionalExtension, params};

/// Version of the table that ldk-node's store writes.
const SCHEMA: u16 = 2;

/// See the module.
pub(super) struct Kv {
    // Fair: writers come in the order of their calls, and the last one's row stays.
    connection: FairMutex<Connection>,
    /// What monitors wait for: the write-ahead log, or the file itself where there is none.
    /// One wait at a time, as each failure is told to one of them alone.
    log: Mutex<File>,
    broken: Arc<AtomicBool>,
    /// Asks for a sync that nobody waits for.
    later: SyncSender<()>,
}

impl Kv {
    /// Opens the file in a folder, or creates it.
    pub fn open(dir: &Path) -> Result<Self, io::Error> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join(SQLITE_DB_FILE_NAME);
        let connection = Connection::open(&path).map_err(failed("open"))?;
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
        create(&connection)?;
        // Writable: Windows syncs nothing else. Two, because each learns of failures by itself.
        let open = || {
            let path = dir.join(&log);
            File::options().read(true).write(true).open(path)
        };
        let kv = Self::over(connection, open()?, open()?)?;
        kv.sync()?;
        #[cfg(unix)]
        File::open(dir)?.sync_all()?;
        Ok(kv)
    }

    fn over(connection: Connection, log: File, background: File) -> Result<Self, io::Error> {
        let broken = Arc::new(AtomicBool::new(false));
        let (later, asked) = std::sync::mpsc::sync_channel(1);
        let flag = broken.clone();
        std::thread::Builder::new()
            .name("wallet-sync".to_owned())
            .spawn(move || {
                // Ends with the store. The next write tells of a failure.
                while asked.recv().is_ok() {
                    sync_or_mark(&background, &flag);
                }
            })?;
        Ok(Self {
            connection: FairMutex::new(connection),
            log: Mutex::new(log),
            broken,
            later,
        })
    }

    /// Waits until all that was written is on disk.
    pub fn sync(&self) -> Result<(), io::Error> {
        let log = self.log.lock();
        sync_or_mark(&log, &self.broken);
        self.check()
    }

    /// Has all that was written synced, and does not wait for it.
    fn sync_soon(&self) {
        // Full: a sync is asked for already, and begins after what was written.
        let _ = self.later.try_send(());
    }

    fn check(&self) -> Result<(), io::Error> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(other(format!(
                "{SQLITE_DB_FILE_NAME} could not be synced to the disk: look at the disk, then restart"
            )));
        }
        Ok(())
    }

    fn with<T>(
        &self,
        act: impl FnOnce(&Connection) -> rusqlite::Result<T>,
        what: &'static str,
    ) -> Result<T, io::Error> {
        // What is done under the lock is one statement: nothing is left half done.
        act(&self.connection.lock()).map_err(failed(what))
    }
}

fn sync_or_mark(file: &File, broken: &AtomicBool) {
    if let Err(error) = file.sync_data() {
        broken.store(true, Ordering::SeqCst);
        tracing::error!(%error, "the wallet's file cannot be synced");
    }
}

fn create(connection: &Connection) -> Result<(), io::Error> {
    let version: u16 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(failed("read the version of"))?;
    match version {
        0 => connection
            .pragma_update(None, "user_version", SCHEMA)
            .map_err(failed("set the version of"))?,
        SCHEMA => {}
        unknown => {
            return Err(other(format!(
                "its tables are of version {unknown}, this build knows {SCHEMA}"
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
             PRIMARY KEY (primary_namespace, secondary_namespace, key))"
        ))
        .map_err(failed("create the table of"))
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
        self.check()?;
        self.with(
            |connection| {
                connection
                    .prepare_cached(&format!(
                        "INSERT OR REPLACE INTO {KV_TABLE_NAME} \
                         (primary_namespace, secondary_namespace, key, value) \
                         VALUES (?1, ?2, ?3, ?4)"
                    ))?
                    .execute(params![primary, secondary, key, value])
            },
            "write",
        )?;
        match primary {
            CHANNEL_MONITOR_PERSISTENCE_PRIMARY_NAMESPACE
            | CHANNEL_MONITOR_UPDATE_PERSISTENCE_PRIMARY_NAMESPACE => self.sync(),
            _ => {
                self.sync_soon();
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
        self.check()?;
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
        self.sync_soon();
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

    #[test]
    #[cfg(unix)]
    fn after_a_sync_that_failed_nothing_more_is_written() {
        let dir = tempfile::tempdir().unwrap();
        // A device that cannot be synced in place of the log.
        let null = || File::options().write(true).open("/dev/null").unwrap();
        let connection = Connection::open(dir.path().join(SQLITE_DB_FILE_NAME)).unwrap();
        create(&connection).unwrap();
        let kv = Kv::over(connection, null(), null()).unwrap();
        let error = KVStoreSync::write(&kv, "monitors", "", "m", vec![1]).unwrap_err();
        assert!(error.to_string().contains("look at the disk"), "{error}");
        assert!(KVStoreSync::write(&kv, "", "", "manager", vec![1]).is_err());
        assert!(KVStoreSync::remove(&kv, "monitors", "", "m", true).is_err());
        let found = KVStoreSync::read(&kv, "", "", "manager").unwrap_err();
        assert_eq!(found.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    #[cfg(unix)]
    fn a_sync_that_failed_in_the_background_is_told_to_the_next_writer() {
        let dir = tempfile::tempdir().unwrap();
        let connection = Connection::open(dir.path().join(SQLITE_DB_FILE_NAME)).unwrap();
        create(&connection).unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        let null = File::options().write(true).open("/dev/null").unwrap();
        let kv = Kv::over(connection, log, null).unwrap();
        KVStoreSync::write(&kv, "payments", "", "p", vec![1]).unwrap();
        while !kv.broken.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        assert!(KVStoreSync::write(&kv, "monitors", "", "m", vec![1]).is_err());
    }
}
