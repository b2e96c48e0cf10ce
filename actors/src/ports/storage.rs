//! The storage port: the machines' records in sled, durable before anything
//! that depends on them.
//!
//! One thread writes. Every commit waiting at that moment goes into one atomic
//! batch and one flush (group commit): sled's own timed flush is not durable.
//! sled 0.34 waits for ever in a flush whose write failed, on a full disk say. So
//! whoever waits long tries the disk with a file of its own, and is told.
//! Not a cache: machines keep their state and read storage only at start.

use protocol::machine::{Record, Table};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Commits that may wait for the writer. Beyond it the caller is told.
const QUEUE: usize = 4_096;
/// How long a commit may take before the disk is tried. A busy disk flushes within one.
const STALL: Duration = Duration::from_secs(3);
/// How long a commit may take on a disk that takes other writes.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Bytes of a trial write: a page of the file system at least.
const TRIAL_BYTES: usize = 16 << 10;
/// Where a trial write goes: as far into its file as the database may have grown, so that a limit on
/// the size of files is noticed as well. The file is sparse.
const TRIAL_ROOM: u64 = 1 << 20;

/// Why records could not be read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StorageError {
    /// The database cannot be opened.
    #[error(
        "cannot open the ledger in {dir}: {reason}; check that the folder is writable and the disk not full"
    )]
    Open {
        /// The folder.
        dir: String,
        /// What the database said.
        reason: String,
    },
    /// The database does not take or give records.
    #[error("the ledger on disk failed: {reason}; free some disk space, then start again")]
    Io {
        /// What the database said.
        reason: String,
    },
    /// The writer is gone or far behind.
    #[error("the ledger's writer is gone or overloaded")]
    Closed,
}

struct Commit {
    records: Vec<Record>,
    done: oneshot::Sender<Result<(), StorageError>>,
}

/// A handle to the store; clones share it.
#[derive(Debug, Clone)]
pub struct Storage {
    dir: PathBuf,
    db: sled::Db,
    commits: SyncSender<Commit>,
}

impl std::fmt::Debug for Commit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Commit({} records)", self.records.len())
    }
}

impl Storage {
    /// Opens or creates the database in `dir`.
    ///
    /// # Errors
    /// When the folder cannot be used or the database is damaged.
    pub fn open(dir: &Path) -> Result<Self, StorageError> {
        let open = |reason: String| StorageError::Open {
            dir: dir.display().to_string(),
            reason,
        };
        let db = sled::Config::new()
            .path(dir)
            .cache_capacity(16 << 20)
            .flush_every_ms(None)
            .open()
            .map_err(|error| open(error.to_string()))?;
        let (commits, queue) = sync_channel(QUEUE);
        let writer = db.clone();
        std::thread::Builder::new()
            .name("storage".to_owned())
            .spawn(move || write(&writer, &queue))
            .map_err(|error| open(error.to_string()))?;
        let dir = dir.to_path_buf();
        Ok(Storage { dir, db, commits })
    }

    /// Returns every record of `tables`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn load(&self, tables: &[Table]) -> Result<Vec<Record>, StorageError> {
        let mut failed = None;
        let records = self.records(tables, &mut failed).collect();
        failed.map_or(Ok(records), Err)
    }

    /// Reads the records of `tables` one by one, as a long history is more than memory should
    /// hold. Where the database cannot be read they end, and `failed` says so.
    pub fn records<'a>(
        &'a self,
        tables: &'a [Table],
        failed: &'a mut Option<StorageError>,
    ) -> impl Iterator<Item = Record> + 'a {
        let entries = tables.iter().flat_map(|table| {
            let entries = self.db.scan_prefix([table.tag()]);
            entries.map(|entry| (*table, entry))
        });
        entries.map_while(|(table, entry)| match entry {
            Ok((key, value)) => Some(Record {
                table,
                key: key.get(1..).unwrap_or_default().to_vec(),
                value: Some(value.to_vec()),
            }),
            Err(error) => {
                let reason = error.to_string();
                *failed = Some(StorageError::Io { reason });
                None
            }
        })
    }

    /// Returns the value of one record, if there is one.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        let found = self.db.get([&[table.tag()][..], key].concat());
        let value = found.map_err(|error| StorageError::Io {
            reason: error.to_string(),
        })?;
        Ok(value.map(|value| value.to_vec()))
    }

    /// Writes records, all or none, and returns when they are on disk.
    ///
    /// # Errors
    /// When they are not.
    pub async fn commit(&self, records: Vec<Record>) -> Result<(), StorageError> {
        let (done, mut answer) = oneshot::channel();
        self.commits
            .try_send(Commit { records, done })
            .map_err(|_| StorageError::Closed)?;
        let began = Instant::now();
        loop {
            if let Ok(result) = tokio::time::timeout(STALL, &mut answer).await {
                return result.unwrap_or(Err(StorageError::Closed));
            }
            self.try_disk().await?;
            if began.elapsed() > MAX_WAIT {
                return Err(StorageError::Io {
                    reason: format!("no write finished within {} s", MAX_WAIT.as_secs()),
                });
            }
        }
    }
}

impl Storage {
    /// Tells whether the disk takes a little more, by writing it.
    ///
    /// # Errors
    /// When it does not.
    pub async fn try_disk(&self) -> Result<(), StorageError> {
        let dir = self.dir.clone();
        match tokio::task::spawn_blocking(move || try_disk(&dir)).await {
            Ok(Err(error)) => Err(StorageError::Io {
                reason: error.to_string(),
            }),
            _ => Ok(()),
        }
    }
}

/// Writes a little into a file of its own beside the database.
fn try_disk(dir: &Path) -> std::io::Result<()> {
    let grown = std::fs::metadata(dir.join("db")).map_or(0, |db| db.len());
    let path = dir.join("trial");
    let written = File::create(&path).and_then(|mut file| {
        file.seek(SeekFrom::Start(grown + TRIAL_ROOM))?;
        file.write_all(&[0x5a; TRIAL_BYTES])?;
        file.sync_all()
    });
    // Where nothing can be written there may be nothing to remove.
    let _ = std::fs::remove_file(path);
    written
}

fn write(db: &sled::Db, queue: &Receiver<Commit>) {
    while let Ok(first) = queue.recv() {
        let mut commits = vec![first];
        commits.extend(queue.try_iter());
        let result = apply(db, &commits);
        for commit in commits {
            // The caller may have gone; the records are written all the same.
            let _ = commit.done.send(result.clone());
        }
    }
}

fn apply(db: &sled::Db, commits: &[Commit]) -> Result<(), StorageError> {
    let mut batch = sled::Batch::default();
    for record in commits.iter().flat_map(|commit| &commit.records) {
        let key = [&[record.table.tag()][..], &record.key].concat();
        match &record.value {
            Some(value) => batch.insert(key, value.as_slice()),
            None => batch.remove(key),
        }
    }
    let io = |error: sled::Error| StorageError::Io {
        reason: error.to_string(),
    };
    db.apply_batch(batch).map_err(io)?;
    db.flush().map_err(io)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(table: Table, key: u8, value: Option<u8>) -> Record {
        Record {
            table,
            key: vec![key],
            value: value.map(|value| vec![value]),
        }
    }

    #[tokio::test]
    async fn records_survive_a_reopen_and_tables_do_not_mix() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(dir.path()).unwrap();
        let writes = vec![
            record(Table::Ledger, 1, Some(7)),
            record(Table::Credit, 1, Some(8)),
            record(Table::Ledger, 2, Some(9)),
        ];
        storage.commit(writes).await.unwrap();
        storage
            .commit(vec![record(Table::Ledger, 2, None)])
            .await
            .unwrap();
        assert_eq!(storage.get(Table::Credit, &[1]).unwrap(), Some(vec![8]));
        assert_eq!(storage.get(Table::Ledger, &[2]).unwrap(), None);
        drop(storage);
        let storage = loop {
            // The writer thread lets go of the database when its queue closes.
            if let Ok(storage) = Storage::open(dir.path()) {
                break storage;
            }
        };
        assert_eq!(
            storage.load(&[Table::Ledger]).unwrap(),
            vec![record(Table::Ledger, 1, Some(7))]
        );
        assert_eq!(
            storage.load(&[Table::Credit]).unwrap(),
            vec![record(Table::Credit, 1, Some(8))]
        );
    }
}
