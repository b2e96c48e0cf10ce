//! Our few keys in the store under LDK.
//!
//! Ours live beside LDK's, under the namespace `freehold`: events nobody has
//! acknowledged, payments we have set out to make (LDK writes its own record
//! only after the payment has left), and what is held. A write survives the process
//! when it returns, and a power cut as soon as anything of a channel does ([`super::kv`]).

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use ldk_node::DynStore;
use ldk_node::lightning::io;
use ldk_node::lightning::util::persist::KVStoreSync;
use protocol::ids::{PaymentHash, Preimage};
use protocol::money::Msat;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::kv::Kv;
use crate::ports::wallet::{FailReason, OutboxStore, WalletError};

const SPACE: &str = "freehold";
const OUTBOX: &str = "outbox";
const OUTGOING: &str = "outgoing";
const HELD: &str = "held";
const CLAIMED: &str = "claimed";
const CHANNELS: &str = "channels";

/// A payment that we have set out to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    pub msat: Msat,
    /// When its invoice expires.
    pub expires_ms: u64,
    /// When it was last handed to LDK.
    pub at_ms: u64,
    pub state: JournalState,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum JournalState {
    /// About to be handed over, or handed over: LDK's record tells more, where
    /// it has one.
    Started,
    /// Arrived, by an event for which LDK had no record any more.
    Settled { preimage: Preimage, fee: Msat },
    /// Came back, or never left.
    Failed { reason: FailReason },
}

/// A payment that waits for settle or cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    pub msat: Msat,
    /// Block height at which LDK gives it back.
    pub deadline: u32,
}

#[derive(Clone)]
pub(super) struct Store {
    kv: Arc<Kv>,
}

impl Store {
    pub fn open(dir: &Path) -> Result<Self, WalletError> {
        let kv = Kv::open(dir).map_err(|error| WalletError::Open {
            reason: error.to_string(),
        })?;
        Ok(Self { kv: Arc::new(kv) })
    }

    /// What ldk-node itself uses.
    pub fn kv(&self) -> Arc<DynStore> {
        self.kv.clone()
    }

    /// Waits until all that was written is on disk.
    pub fn sync(&self) -> Result<(), WalletError> {
        self.kv.sync().map_err(storage)
    }

    pub fn journal(&self, hash: PaymentHash) -> Result<Option<Journal>, WalletError> {
        self.get(OUTGOING, &hash.to_string())
    }

    pub fn write_journal(&self, hash: PaymentHash, entry: &Journal) -> Result<(), WalletError> {
        self.put(OUTGOING, &hash.to_string(), entry)
    }

    pub fn remove_journal(&self, hash: PaymentHash) -> Result<(), WalletError> {
        self.delete(OUTGOING, &hash.to_string())
    }

    pub fn write_held(&self, hash: PaymentHash, held: Held) -> Result<(), WalletError> {
        self.put(HELD, &hash.to_string(), &held)
    }

    pub fn remove_held(&self, hash: PaymentHash) -> Result<(), WalletError> {
        self.delete(HELD, &hash.to_string())
    }

    /// The preimage of a hold invoice that was claimed: LDK does not keep it.
    pub fn claimed(&self, hash: PaymentHash) -> Result<Option<Preimage>, WalletError> {
        self.get(CLAIMED, &hash.to_string())
    }

    pub fn write_claimed(&self, hash: PaymentHash, by: Preimage) -> Result<(), WalletError> {
        self.put(CLAIMED, &hash.to_string(), &by)
    }

    pub fn remove_claimed(&self, hash: PaymentHash) -> Result<(), WalletError> {
        self.delete(CLAIMED, &hash.to_string())
    }

    pub fn load_held(&self) -> Result<HashMap<PaymentHash, Held>, WalletError> {
        let mut all = HashMap::new();
        for name in self.names(HELD)? {
            let hash = name.parse().map_err(|error| WalletError::Storage {
                reason: format!("held payment `{name}`: {error}"),
            })?;
            if let Some(held) = self.get(HELD, &name)? {
                all.insert(hash, held);
            }
        }
        Ok(all)
    }

    /// Of each channel, by its number here, since when it cannot be used; none, it can.
    pub fn load_channels(&self) -> Result<HashMap<u128, Option<u64>>, WalletError> {
        let mut all = HashMap::new();
        for name in self.names(CHANNELS)? {
            let number = name.parse().map_err(|_| WalletError::Storage {
                reason: format!("channel `{name}` has no number"),
            })?;
            if let Some(since_ms) = self.get(CHANNELS, &name)? {
                all.insert(number, since_ms);
            }
        }
        Ok(all)
    }

    pub fn write_channel(&self, number: u128, away_ms: Option<u64>) -> Result<(), WalletError> {
        self.put(CHANNELS, &number.to_string(), &away_ms)
    }

    pub fn remove_channel(&self, number: u128) -> Result<(), WalletError> {
        self.delete(CHANNELS, &number.to_string())
    }

    fn get<T: DeserializeOwned>(&self, space: &str, name: &str) -> Result<Option<T>, WalletError> {
        match KVStoreSync::read(&*self.kv, SPACE, space, name) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes)
                    .map(Some)
                    .map_err(|error| WalletError::Storage {
                        reason: format!("{space}/{name} is damaged: {error}"),
                    })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(storage(error)),
        }
    }

    fn put(&self, space: &str, name: &str, value: &impl Serialize) -> Result<(), WalletError> {
        let bytes = serde_json::to_vec(value).map_err(|error| WalletError::Storage {
            reason: format!("{space}/{name} cannot be written: {error}"),
        })?;
        KVStoreSync::write(&*self.kv, SPACE, space, name, bytes).map_err(storage)
    }

    fn delete(&self, space: &str, name: &str) -> Result<(), WalletError> {
        KVStoreSync::remove(&*self.kv, SPACE, space, name, false).map_err(storage)
    }

    fn names(&self, space: &str) -> Result<Vec<String>, WalletError> {
        KVStoreSync::list(&*self.kv, SPACE, space).map_err(storage)
    }
}

impl OutboxStore for Store {
    fn put(&self, id: u64, bytes: Vec<u8>) -> Result<(), WalletError> {
        KVStoreSync::write(&*self.kv, SPACE, OUTBOX, &id.to_string(), bytes).map_err(storage)
    }

    fn remove(&self, id: u64) -> Result<(), WalletError> {
        self.delete(OUTBOX, &id.to_string())
    }

    fn load(&self) -> Result<Vec<(u64, Vec<u8>)>, WalletError> {
        let mut all = Vec::new();
        for name in self.names(OUTBOX)? {
            let id = name.parse().map_err(|_| WalletError::Storage {
                reason: format!("event `{name}` has no number"),
            })?;
            let bytes = KVStoreSync::read(&*self.kv, SPACE, OUTBOX, &name).map_err(storage)?;
            all.push((id, bytes));
        }
        Ok(all)
    }
}

fn storage(error: io::Error) -> WalletError {
    WalletError::Storage {
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ldk_node::io::sqlite_store::SQLITE_DB_FILE_NAME;

    #[test]
    fn a_store_opened_again_has_what_was_written_and_stays_write_ahead() {
        let dir = tempfile::tempdir().unwrap();
        let hash = PaymentHash([7; 32]);
        let entry = Journal {
            msat: Msat(1_000),
            expires_ms: 5,
            at_ms: 4,
            state: JournalState::Settled {
                preimage: Preimage([9; 32]),
                fee: Msat(1),
            },
        };
        let held = Held {
            msat: Msat(2_000),
            deadline: 144,
        };
        {
            let store = Store::open(dir.path()).unwrap();
            store.write_journal(hash, &entry).unwrap();
            store.write_held(hash, held).unwrap();
            OutboxStore::put(&store, 3, vec![1, 2]).unwrap();
        }
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.journal(hash).unwrap(), Some(entry));
        assert_eq!(store.load_held().unwrap().get(&hash), Some(&held));
        assert_eq!(OutboxStore::load(&store).unwrap(), vec![(3, vec![1, 2])]);
        let connection = rusqlite::Connection::open(dir.path().join(SQLITE_DB_FILE_NAME)).unwrap();
        let mode: String = connection
            .query_row("PRAGMA journal_mode", [], |row| row.get(0))
            .unwrap();
        assert_eq!(mode, "wal");
        store.remove_journal(hash).unwrap();
        store.remove_held(hash).unwrap();
        OutboxStore::remove(&store, 3).unwrap();
        assert_eq!(store.journal(hash).unwrap(), None);
        assert!(store.load_held().unwrap().is_empty());
        assert!(OutboxStore::load(&store).unwrap().is_empty());
    }
}
