//! The data folder: where each thing lies, who may read it, and the lock.
//!
//! ```text
//! freehold.toml   settings (mode 0600)     seed     the words (mode 0600)
//! lock            pid of the owner         db/      ledger, orders, listings
//! wallet/         channel state            models/  GGUF files
//! control.sock    where the running node answers its operator
//! control.json    address and token of that (mode 0600)
//! names.json      which models were bought by name (mode 0600)
//! ```
//! The folder belongs to one user alone (mode 0700): whoever could write to it could take
//! the place of the node, and of its settings.
//!
//! Not the contents: those are `config`, `actors` and the wallet. Used by every
//! command.

use crate::config::{Config, ConfigError};
use crate::server::ControlListener;
use crate::service::Needs;
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
    /// Others may do to it what its owner alone must be able to do.
    #[error("{} may be {what} by other users of this machine (mode {mode:03o}): {fix}", path.display())]
    Open {
        /// The file or folder.
        path: PathBuf,
        /// `read` or `changed`.
        what: &'static str,
        /// Its permissions.
        mode: u32,
        /// What to do.
        fix: String,
    },
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
    /// `unix:PATH` of a socket, or `http://127.0.0.1:PORT` where there are no such sockets.
    pub address: String,
    /// Bearer token of `/control`.
    pub token: String,
    /// The process.
    pub pid: u32,
    /// What was started: a node for one command may lack what another command needs.
    pub serves: Needs,
}

impl std::fmt::Debug for ControlFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ControlFile({} of process {})", self.address, self.pid)
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

    /// Where vocabularies of models that are bought from others are kept.
    pub fn vocabularies_path(&self) -> PathBuf {
        self.dir.join("vocabularies")
    }

    /// The wallet's folder.
    pub fn wallet_path(&self) -> PathBuf {
        self.dir.join("wallet")
    }

    /// Which models were bought by name.
    pub fn names_path(&self) -> PathBuf {
        self.dir.join("names.json")
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
    /// Where there is one already, where others may use the folder, or files cannot be
    /// written.
    pub fn create(&self, settings: &str, words: &str) -> Result<(), FolderError> {
        if self.seed_path().exists() || self.config_path().exists() {
            return Err(FolderError::Exists {
                dir: self.dir.clone(),
            });
        }
        let found = std::fs::read_dir(&self.dir).map(|mut entries| entries.next().is_some());
        match found {
            // Somebody's folder: its permissions are not ours to change.
            Ok(true) => {
                let fix = format!(
                    "name a new folder, or run `chmod 700 {}` if nothing in it is for others",
                    self.dir.display()
                );
                closed(&self.dir, 0o077, "read", fix)?;
            }
            Ok(false) => only_owner(&self.dir, 0o700)?,
            Err(_) => make_dir(&self.dir, 0o700)?,
        }
        self.make_private(&self.models_path())?;
        write_secret(&self.seed_path(), format!("{words}\n").as_bytes())?;
        // Its keys may be written into it later.
        write_secret(&self.config_path(), settings.as_bytes())
    }

    /// Makes a folder inside of this one, for its owner alone.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn make_private(&self, inside: &Path) -> Result<(), FolderError> {
        if inside.is_dir() {
            return only_owner(inside, 0o700);
        }
        make_dir(inside, 0o700)
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
        let mode = permissions(&self.config_path()).unwrap_or(0o600);
        write_with_mode(&self.config_path(), text.as_bytes(), mode)?;
        Ok(config)
    }

    /// Derives the keys from the words.
    ///
    /// # Errors
    /// Where there is no node here, others may read the words, or they are wrong.
    pub fn keys(&self) -> Result<NodeKeys, FolderError> {
        let path = self.seed_path();
        if !path.exists() {
            return Err(FolderError::Missing {
                dir: self.dir.clone(),
            });
        }
        let fix = format!("run `chmod 600 {}`", path.display());
        closed(&path, 0o077, "read", fix)?;
        let words = std::fs::read_to_string(&path).map_err(|source| FolderError::Io {
            path: path.clone(),
            source,
        })?;
        NodeKeys::from_words(&words).map_err(|source| FolderError::Seed { path, source })
    }

    /// Takes the folder for this process.
    ///
    /// # Errors
    /// [`FolderError::Locked`] names the process that has it; [`FolderError::Open`] where
    /// others may write to the folder.
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
        self.is_ours()?;
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

    /// Whether nobody else can put files here in the place of ours.
    fn is_ours(&self) -> Result<(), FolderError> {
        let fix = format!("run `chmod 700 {}`", self.dir.display());
        closed(&self.dir, 0o022, "changed", fix)
    }

    /// Listens for the control API, and says where: on a socket in this folder, which only
    /// its owner can open.
    ///
    /// # Errors
    /// Where the socket cannot be made.
    #[cfg(unix)]
    pub fn listen_for_control(&self) -> Result<(ControlListener, String), FolderError> {
        let mut path = self.dir.join("control.sock");
        if std::os::unix::net::SocketAddr::from_pathname(&path).is_err() {
            // Too long for the address of a socket: in a fresh folder of our own instead.
            let mut name = [0u8; 8];
            rand::RngCore::fill_bytes(&mut rand::rngs::OsRng, &mut name);
            let dir = std::env::temp_dir().join(format!("freehold-{}", hex::encode(name)));
            make_dir(&dir, 0o700)?;
            path = dir.join("control.sock");
        }
        let io = |source| FolderError::Io {
            path: path.clone(),
            source,
        };
        // Of a process that was killed: this one holds the lock.
        let _ = std::fs::remove_file(&path);
        let listener = ControlListener::bind(&path).map_err(io)?;
        only_owner(&path, 0o600)?;
        Ok((listener, format!("unix:{}", path.display())))
    }

    /// Listens for the control API, and says where: on the loopback, where the token keeps
    /// others out.
    ///
    /// # Errors
    /// Where no port is free.
    #[cfg(not(unix))]
    pub fn listen_for_control(&self) -> Result<(ControlListener, String), FolderError> {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let bound = crate::server::http::listen(address)
            .and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (address, listener) = bound.map_err(|source| FolderError::Io {
            path: self.dir.clone(),
            source,
        })?;
        Ok((listener, format!("http://{address}")))
    }

    /// Says where the running node answers.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn write_control(&self, control: &ControlFile) -> Result<(), FolderError> {
        let json = serde_json::to_vec_pretty(control).unwrap_or_default();
        write_secret(&self.control_path(), &json)
    }

    /// Where the running node answers, if it says so. It may have died since; but nobody
    /// else can answer in its place: where there are sockets in folders, a port is not believed.
    pub fn control(&self) -> Option<ControlFile> {
        self.is_ours().ok()?;
        let text = std::fs::read(self.control_path()).ok()?;
        let control: ControlFile = serde_json::from_slice(&text).ok()?;
        (cfg!(not(unix)) || control.address.starts_with("unix:")).then_some(control)
    }

    /// Takes the note about the running node away, and its socket.
    pub fn remove_control(&self) {
        let old = self.control();
        let socket = old
            .as_ref()
            .and_then(|old| old.address.strip_prefix("unix:"));
        if let Some(path) = socket.map(Path::new) {
            // Left behind they are only stale: readers check whether anybody answers.
            let _ = std::fs::remove_file(path);
            if let Some(dir) = path.parent().filter(|dir| *dir != self.dir) {
                let _ = std::fs::remove_dir(dir);
            }
        }
        let _ = std::fs::remove_file(self.control_path());
    }
}

/// Writes a file that only its owner may read, whole or not at all.
pub(crate) fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), FolderError> {
    write_with_mode(path, bytes, 0o600)
}

fn write_with_mode(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FolderError> {
    let io = |source| FolderError::Io {
        path: path.to_owned(),
        source,
    };
    let next = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
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
    std::fs::rename(&next, path).map_err(io)?;
    match path.parent() {
        // The new name is on disk once its folder is.
        Some(dir) if cfg!(unix) => File::open(dir).and_then(|dir| dir.sync_all()).map_err(io),
        _ => Ok(()),
    }
}

/// Makes a folder with its own permissions from the start, and those above it.
fn make_dir(path: &Path, mode: u32) -> Result<(), FolderError> {
    let io = |source| FolderError::Io {
        path: path.to_owned(),
        source,
    };
    if let Some(above) = path.parent() {
        std::fs::create_dir_all(above).map_err(io)?;
    }
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, mode);
    #[cfg(not(unix))]
    let _ = mode;
    builder.create(path).map_err(io)
}

/// The permissions of a file; `None` where there is none, or the system has no such thing.
#[cfg(unix)]
fn permissions(path: &Path) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt;
    let found = std::fs::metadata(path).ok()?;
    Some(found.permissions().mode() & 0o777)
}

#[cfg(not(unix))]
fn permissions(_: &Path) -> Option<u32> {
    None
}

/// Checks that others have none of the permissions in `mask`.
fn closed(path: &Path, mask: u32, what: &'static str, fix: String) -> Result<(), FolderError> {
    match permissions(path) {
        Some(mode) if mode & mask != 0 => Err(FolderError::Open {
            path: path.to_owned(),
            what,
            mode,
            fix,
        }),
        _ => Ok(()),
    }
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
        let before = folder.config().unwrap();
        assert!(folder.write_config("rolls = 1").is_err());
        assert_eq!(folder.config().unwrap(), before);
    }

    fn note(address: &str) -> ControlFile {
        ControlFile {
            address: address.to_owned(),
            token: "t".to_owned(),
            pid: 1,
            serves: Needs::All,
        }
    }

    #[cfg(unix)]
    #[test]
    fn secrets_are_readable_by_their_owner_alone() {
        let (_dir, folder) = fresh();
        folder.write_control(&note("unix:nowhere")).unwrap();
        folder.make_private(&folder.wallet_path()).unwrap();
        for path in [
            folder.seed_path(),
            folder.control_path(),
            folder.config_path(),
        ] {
            assert_eq!(permissions(&path), Some(0o600), "{}", path.display());
        }
        for path in [
            folder.dir().to_owned(),
            folder.models_path(),
            folder.wallet_path(),
        ] {
            assert_eq!(permissions(&path), Some(0o700), "{}", path.display());
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_others_use_keeps_its_permissions() {
        let dir = tempfile::tempdir().unwrap();
        only_owner(dir.path(), 0o755).unwrap();
        std::fs::write(dir.path().join("theirs"), "x").unwrap();
        let folder = Folder::new(dir.path());
        let made = folder.create(&document::fresh("signet"), &NodeKeys::fresh_words());
        let error = made.unwrap_err().to_string();
        assert!(error.contains("chmod 700"), "{error}");
        assert_eq!(permissions(dir.path()), Some(0o755));
        assert!(!folder.seed_path().exists());
    }

    #[cfg(unix)]
    #[test]
    fn a_seed_that_others_may_read_is_not_used() {
        let (_dir, folder) = fresh();
        only_owner(&folder.seed_path(), 0o644).unwrap();
        let error = folder.keys().unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_others_may_write_to_is_neither_locked_nor_believed() {
        let (_dir, folder) = fresh();
        folder.write_control(&note("unix:nowhere")).unwrap();
        assert!(folder.control().is_some());
        only_owner(folder.dir(), 0o777).unwrap();
        assert!(matches!(folder.lock(), Err(FolderError::Open { .. })));
        assert_eq!(folder.control(), None);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_deep_folder_has_its_socket_elsewhere_and_takes_it_away() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        let folder = Folder::new(&deep);
        folder
            .create(&document::fresh("signet"), &NodeKeys::fresh_words())
            .unwrap();
        let (_listener, address) = folder.listen_for_control().unwrap();
        let socket = PathBuf::from(address.strip_prefix("unix:").unwrap());
        assert_eq!(permissions(socket.parent().unwrap()), Some(0o700));
        folder.write_control(&note(&address)).unwrap();
        folder.remove_control();
        assert!(!socket.parent().unwrap().exists());
    }
}
