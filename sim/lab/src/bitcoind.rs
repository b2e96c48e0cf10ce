//! A real `bitcoind -regtest` as the chain, for whoever has Core installed.
//!
//! What it is: start in a folder of its own on a free loopback port, check that
//! it really is regtest, stop. No wallet is needed: coinbases pay addresses.
//!
//! What it is not: a way to any other network. `-regtest` is on the command
//! line, no configuration file is read, and the answer of `getblockchaininfo`
//! is checked before anything else is asked.
//!
//! Called by `Chain` when a path is given (environment variable
//! `BITCOIND_EXE`).

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::LabError;
use crate::rpc::{RpcAccess, RpcClient};

/// How long Core may take to answer its first call; 0.3 s is usual.
const START_BOUND: Duration = Duration::from_secs(30);

/// Pause between two tries while it starts.
const START_PAUSE: Duration = Duration::from_millis(50);

/// How long it may take to flush and exit before it is killed.
const STOP_BOUND: Duration = Duration::from_secs(20);

/// A running bitcoind. Dropping it kills the process.
pub struct Bitcoind {
    child: Child,
    client: RpcClient,
}

impl Bitcoind {
    /// Starts `exe` with its data under `dir/bitcoind`.
    ///
    /// # Errors
    /// When it cannot be started, does not answer in time, or is not regtest.
    pub async fn start(exe: &Path, dir: &Path) -> Result<Self, LabError> {
        let data = dir.join("bitcoind");
        let failed = |reason: String| LabError::Bitcoind {
            exe: exe.to_path_buf(),
            reason,
        };
        std::fs::create_dir_all(&data).map_err(|e| failed(e.to_string()))?;
        let access = RpcAccess::on_loopback(free_port().map_err(|e| failed(e.to_string()))?);
        let child = command(exe, &data, &access)
            .spawn()
            .map_err(|e| failed(start_hint(&e)))?;
        let mut bitcoind = Self {
            child,
            client: RpcClient::new(access),
        };
        let info = bitcoind.first_answer().await.map_err(failed)?;
        let chain = info.get("chain").and_then(Value::as_str).unwrap_or("");
        if chain != "regtest" {
            // Dropping `bitcoind` kills it.
            return Err(LabError::NotRegtest {
                found: chain.to_owned(),
            });
        }
        Ok(bitcoind)
    }

    async fn first_answer(&mut self) -> Result<Value, String> {
        let until = Instant::now() + START_BOUND;
        loop {
            let last = match self.client.call("getblockchaininfo", json!([])).await {
                Ok(info) => return Ok(info),
                Err(error) => error.to_string(),
            };
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!(
                    "it ended at once ({status}); run it by hand to see why"
                ));
            }
            if Instant::now() >= until {
                return Err(format!(
                    "no answer within {} s: {last}",
                    START_BOUND.as_secs()
                ));
            }
            sleep(START_PAUSE).await;
        }
    }

    /// A client for it.
    pub fn client(&self) -> &RpcClient {
        &self.client
    }

    /// Asks it to stop and waits, then kills it.
    pub async fn shutdown(mut self) {
        if let Err(error) = self.client.call("stop", json!([])).await {
            tracing::debug!(%error, "bitcoind did not take the stop order");
        }
        if tokio::time::timeout(STOP_BOUND, self.child.wait())
            .await
            .is_err()
            && let Err(error) = self.child.kill().await
        {
            tracing::warn!(%error, "bitcoind could not be killed");
        }
    }
}

fn command(exe: &Path, data: &Path, access: &RpcAccess) -> Command {
    let mut command = Command::new(exe);
    command
        .arg("-regtest")
        .arg(format!("-datadir={}", data.display()))
        // A configuration file of the user's must not change the network.
        .arg("-noconf")
        .args(["-listen=0", "-server=1", "-dnsseed=0", "-fixedseeds=0"])
        .args(["-rpcbind=127.0.0.1", "-rpcallowip=127.0.0.1"])
        .arg(format!("-rpcport={}", access.port))
        .arg(format!("-rpcuser={}", access.user))
        .arg(format!("-rpcpassword={}", access.password))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    command
}

fn start_hint(error: &std::io::Error) -> String {
    if error.kind() == ErrorKind::NotFound {
        return "no such file: set BITCOIND_EXE to the bitcoind binary, or unset it for the \
                in-process chain"
            .to_owned();
    }
    error.to_string()
}

/// A port that was free a moment ago; bitcoind cannot choose one itself.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// The path in `BITCOIND_EXE`, when set and not empty.
pub fn exe_from_env() -> Option<PathBuf> {
    std::env::var_os("BITCOIND_EXE")
        .filter(|exe| !exe.is_empty())
        .map(PathBuf::from)
}
