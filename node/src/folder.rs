//! The data folder: where each thing lies, who may read it, and the lock.
//!
//! ```text
//! freehold.toml   settings                 seed     the words (mode 0600)
//! lock            pid of the owner         db/      ledger, orders, listings
//! wallet/         channel state            models/  GGUF files
//! control.json    address and token of the running node (mode 0600)
//! ```
//! Not the contents: those are `config`, `actors` and the wallet. Used by every
//! command.

use crate::config::{Config, ConfigError};
use actors::keys::{KeyError, NodeKeys};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

/// A problem with the data folder.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// No node was made here.
    #[error("there is no node in {}: make one with `freehold init`, or name its folder with --dir", dir.display())]
    Missing {
        /// The folder.
        dir: PathBuf,
    },
    /// A node is here already.
    #[error("there is a node in {} already: nothing was changed", dir.display())]
    Exists {
        /// The folder.
        dir: PathBuf,
    },
    /// Another process has it.
    #[error("{} is in use by process {pid}: wait for it to end, or stop it with `kill {pid}`", dir.display())]
    Locked {
        /// The folder.
        dir: PathBuf,
        /// The process, as it wrote itself down.
        pid: String,
    },
    /// The home folder is not known.
    #[error("no home folder is known: name the data folder with --dir or FREEHOLD_DIR")]
    NoHome,
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The seed is not usable.
    #[error("{}: {source}", path.display())]
    Seed {
        /// The file.
        path: PathBuf,
        /// Why.
        source: KeyError,
    },
    /// The settings are not usable.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// A data folder. Naming it touches nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    dir: PathBuf,
}

/// Exclusive use of a folder, for as long as it lives.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

/// Where the running node of a folder answers, and the secret to show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlFile {
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    /// Bearer token of `/control`.
    pub token: String,
    /// The process.
    pub pid: u32,
}

impl std::fmt::Debug for ControlFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ControlFile({} of process {})", self.url, self.pid)
    }
}

impl Folder {
    /// Names a folder.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Folder { dir: dir.into() }
    }

    /// `~/.freehold`.
    ///
    /// # Errors
    /// Where no home folder is known.
    pub fn default_dir() -> Result<PathBuf, FolderError> {
        std::env::home_dir()
            .filter(|home| !home.as_os_str().is_empty())
            .map(|home| home.join(".freehold"))
            .ok_or(FolderError::NoHome)
    }

    /// The folder itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The settings file.
    pub fn config_path(&self) -> PathBuf {
        self.dir.join("freehold.toml")
    }

    /// The file with the words.
    pub fn seed_path(&self) -> PathBuf {
        self.dir.join("seed")
    }

    /// The database's folder.
    pub fn db_path(&self) -> PathBuf {
        self.dir.join("db")
    }

    /// The wallet's folder.
    pub fn wallet_path(&self) -> PathBuf {
        self.dir.join("wallet")
    }

    /// Where relative model paths begin.
    pub fn models_path(&self) -> PathBuf {
        self.dir.join("models")
    }

    fn control_path(&self) -> PathBuf {
        self.dir.join("control.json")
    }

    /// Makes a node: folder, words, settings.
    ///
    /// # Errors
    /// Where there is one already, or files cannot be written.
    pub fn create(&self, settings: &str, words: &str) -> Result<(), FolderError> {
        if self.seed_path().exists() || self.config_path().exists() {
            return Err(FolderError::Exists {
                dir: self.dir.clone(),
            });
        }
        for dir in [self.dir.clone(), self.models_path()] {
            std::fs::create_dir_all(&dir).map_err(|source| FolderError::Io {
                path: dir.clone(),
                source,
            })?;
        }
        only_owner(&self.dir, 0o700)?;
        write_secret(&self.seed_path(), format!("{words}\n").as_bytes())?;
        write_atomic(&self.config_path(), settings.as_bytes())
    }

    /// Reads the settings.
    ///
    /// # Errors
    /// Where there is no node here, or they are wrong.
    pub fn config(&self) -> Result<Config, FolderError> {
        if !self.config_path().exists() {
            return Err(FolderError::Missing {
                dir: self.dir.clone(),
            });
        }
        Ok(Config::load(&self.config_path())?)
    }

    /// Replaces the settings file; keeps the old one where the new one is not valid.
    ///
    /// # Errors
    /// Where the text is not a configuration, or cannot be written.
    pub fn write_config(&self, text: &str) -> Result<Config, FolderError> {
        let config = Config::parse(text, &self.config_path())?;
        write_atomic(&self.config_path(), text.as_bytes())?;
        Ok(config)
    }

    /// Derives the keys from the words.
    ///
    /// # Errors
    /// Where there is no node here, or the words are wrong.
    pub fn keys(&self) -> Result<NodeKeys, FolderError> {
        let path = self.seed_path();
        if !path.exists() {
            return Err(FolderError::Missing {
                dir: self.dir.clone(),
            });
        }
        let words = std::fs::read_to_string(&path).map_err(|source| FolderError::Io {
            path: path.clone(),
            source,
        })?;
        NodeKeys::from_words(&words).map_err(|source| FolderError::Seed { path, source })
    }

    /// Takes the folder for this process.
    ///
    /// # Errors
    /// [`FolderError::Locked`] names the process that has it.
    pub fn lock(&self) -> Result<FolderLock, FolderError> {
        let path = self.dir.join("lock");
        let io = |source| FolderError::Io {
            path: path.clone(),
            source,
        };
        if !self.dir.is_dir() {
            return Err(FolderError::Missing {
                dir: self.dir.clone(),
            });
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(source)) => return Err(io(source)),
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // The owner may be about to write it.
                let _ = file.read_to_string(&mut pid);
                let pid = pid.trim();
                let pid = if pid.is_empty() { "(unknown)" } else { pid }.to_owned();
                return Err(FolderError::Locked {
                    dir: self.dir.clone(),
                    pid,
                });
            }
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(io)?;
        file.write_all(std::process::id().to_string().as_bytes())
            .map_err(io)?;
        Ok(FolderLock { _file: file })
    }

    /// Says where the running node answers.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn write_control(&self, control: &ControlFile) -> Result<(), FolderError> {
        let json = serde_json::to_vec_pretty(control).unwrap_or_default();
        write_secret(&self.control_path(), &json)
    }

    /// Where the running node answers, if it says so. It may have died since.
    pub fn control(&self) -> Option<ControlFile> {
        let text = std::fs::read(self.control_path()).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Takes the note about the running node away.
    pub fn remove_control(&self) {
        // Left behind it is only stale: readers check whether anybody answers.
        let _ = std::fs::remove_file(self.control_path());
    }
}

/// Writes a file that only its owner may read, whole or not at all.
fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), FolderError> {
    write_with_mode(path, bytes, 0o600)
}

fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), FolderError> {
    write_with_mode(path, bytes, 0o644)
}

fn write_with_mode(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FolderError> {
    let io = |source| FolderError::Io {
        path: path.to_owned(),
        source,
    };
    let next = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    // What a crash left behind may have another mode.
    let _ = std::fs::remove_file(&next);
    let mut file = options.open(&next).map_err(io)?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(io)?;
    std::fs::rename(&next, path).map_err(io)
}

#[cfg(unix)]
fn only_owner(path: &Path, mode: u32) -> Result<(), FolderError> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(|source| {
        FolderError::Io {
            path: path.to_owned(),
            source,
        }
    })
}

#[cfg(not(unix))]
fn only_owner(_: &Path, _: u32) -> Result<(), FolderError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::document;

    fn fresh() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path().join("node"));
        folder
            .create(&document::fresh("signet"), &NodeKeys::fresh_words())
            .unwrap();
        (dir, folder)
    }

    #[test]
    fn a_second_owner_is_refused_with_the_pid_of_the_first() {
        let (_dir, folder) = fresh();
        let lock = folder.lock().unwrap();
        let error = folder.lock().unwrap_err().to_string();
        assert!(
            error.contains(&format!("kill {}", std::process::id())),
            "{error}"
        );
        drop(lock);
        folder.lock().unwrap();
    }

    #[test]
    fn a_node_is_never_made_over_another() {
        let (_dir, folder) = fresh();
        let before = std::fs::read(folder.seed_path()).unwrap();
        let again = folder.create(&document::fresh("signet"), &NodeKeys::fresh_words());
        assert!(matches!(again, Err(FolderError::Exists { .. })));
        assert_eq!(std::fs::read(folder.seed_path()).unwrap(), before);
    }

    #[test]
    fn an_empty_folder_is_reported_with_the_fix() {
        let dir = tempfile::tempdir().unwrap();
        let error = Folder::new(dir.path()).config().unwrap_err();
        assert!(error.to_string().contains("freehold init"));
    }

    #[test]
    fn a_wrong_configuration_never_replaces_a_good_one() {
        let (_dir, folder) = fresh();
        assert!(folder.write_config("rolls = 1").is_err());
        assert_eq!(folder.config().unwrap(), Config::default());
    }

    #[cfg(unix)]
    #[test]
    fn secrets_are_readable_by_their_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let (_dir, folder) = fresh();
        folder
            .write_control(&ControlFile {
                url: "http://127.0.0.1:1".to_owned(),
                token: "t".to_owned(),
                pid: 1,
            })
            .unwrap();
        for path in [folder.seed_path(), folder.control_path()] {
            let mode = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", path.display());
        }
    }
}
