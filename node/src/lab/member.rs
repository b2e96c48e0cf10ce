//! One node of a lab: its folder, its process, its control client.

use crate::control::Client;
use crate::folder::Folder;
use crate::service::Needs;
use ::lab::rpc::RpcAccess;
use actors::keys::NodeKeys;
use actors::ports::wallet::Peer;
use anyhow::{Context, Result, bail};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// How often a starting node is asked whether it is ready.
const POLL: Duration = Duration::from_millis(50);
/// How long a node may take to stop in good order.
const STOP: Duration = Duration::from_secs(30);

/// What a node of a lab is for.
#[derive(Debug, Clone)]
pub struct MemberPlan {
    /// Its name and the name of its folder.
    pub name: String,
    /// Roles in its configuration.
    pub roles: Vec<&'static str>,
    /// Whether it loads the pocket model.
    pub model: bool,
    /// Whether it sells, and so needs a channel from the first node.
    pub sells: bool,
}

impl MemberPlan {
    /// A node that buys.
    pub fn buyer(name: &str) -> Self {
        MemberPlan {
            name: name.to_owned(),
            roles: vec!["client"],
            model: false,
            sells: false,
        }
    }

    /// A node that sells the pocket model.
    pub fn host(name: &str) -> Self {
        MemberPlan {
            name: name.to_owned(),
            roles: vec!["client", "host"],
            model: true,
            sells: true,
        }
    }

    /// A node that checks answers.
    pub fn validator(name: &str) -> Self {
        MemberPlan {
            name: name.to_owned(),
            roles: vec!["client", "validator"],
            model: true,
            sells: false,
        }
    }
}

/// Settings of all nodes of a lab.
#[derive(Debug, Clone)]
pub struct MemberOptions {
    /// Price of a million output tokens in sat. 250,000 is 250 msat a token.
    pub output_price: u64,
    /// Price of a million input tokens in sat.
    pub input_price: u64,
    /// Tokens a second; 0: as fast as it goes.
    pub pace: u32,
    /// Hosts damage their model: `weight`.
    pub cheat: Option<String>,
    /// Lines added to the buyer's configuration.
    pub buyer_config: String,
    /// Binary to start; this one if left out.
    pub exe: Option<PathBuf>,
}

impl Default for MemberOptions {
    fn default() -> Self {
        MemberOptions {
            output_price: 250_000,
            input_price: 25_000,
            pace: 60,
            cheat: None,
            buyer_config: String::new(),
            exe: None,
        }
    }
}

/// A node of a lab.
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its data folder.
    pub dir: PathBuf,
    /// Base address of its HTTP server.
    pub gateway: String,
    /// Whether it sells.
    pub sells: bool,
    lightning: String,
    child: Option<Child>,
    client: Option<Client>,
}

/// A loopback port that is free now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

impl Member {
    /// Writes a node's folder: words, configuration.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn create(
        dir: &Path,
        plan: &MemberPlan,
        options: &MemberOptions,
        rpc: &RpcAccess,
        relay: &str,
    ) -> Result<Self> {
        let dir = dir.join(&plan.name);
        let gateway = format!("127.0.0.1:{}", free_port()?);
        let lightning = format!("127.0.0.1:{}", free_port()?);
        let settings = settings(plan, options, rpc, relay, &gateway, &lightning)?;
        Folder::new(&dir).create(&settings, &NodeKeys::fresh_words())?;
        Ok(Member {
            name: plan.name.clone(),
            dir,
            gateway: format!("http://{gateway}"),
            sells: plan.sells,
            lightning,
            child: None,
            client: None,
        })
    }

    /// Starts the node's process; its log goes to `node.log` in its folder.
    ///
    /// # Errors
    /// When the process does not start.
    pub fn spawn(&mut self, options: &MemberOptions) -> Result<()> {
        let exe = match &options.exe {
            Some(exe) => exe.clone(),
            None => std::env::current_exe().context("cannot find this program's own file")?,
        };
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.join("node.log"))?;
        let mut command = Command::new(exe);
        command.arg("--dir").arg(&self.dir).arg("up");
        if let Some(cheat) = options.cheat.as_ref().filter(|_| self.sells) {
            command.args(["--cheat", cheat]);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log))
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} does not start", self.name))?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until the node answers.
    ///
    /// # Errors
    /// When its process ends or the time is over.
    pub async fn wait_ready(&mut self, bound: Duration) -> Result<()> {
        let folder = Folder::new(&self.dir);
        let ready = async {
            loop {
                if let Some(client) = Client::find(&folder, Needs::All).await {
                    return Ok(client);
                }
                if let Some(status) = self
                    .child
                    .as_mut()
                    .and_then(|child| child.try_wait().ok().flatten())
                {
                    bail!(
                        "{} ended with {status}; its log is {}",
                        self.name,
                        self.dir.join("node.log").display()
                    );
                }
                tokio::time::sleep(POLL).await;
            }
        };
        let client = tokio::time::timeout(bound, ready).await.with_context(|| {
            format!(
                "{} did not become ready; its log is {}",
                self.name,
                self.dir.join("node.log").display()
            )
        })??;
        self.client = Some(client);
        Ok(())
    }

    /// The node's control client.
    ///
    /// # Errors
    /// When it does not run.
    pub fn client(&self) -> Result<&Client> {
        self.client
            .as_ref()
            .with_context(|| format!("{} does not run", self.name))
    }

    /// The node as a Lightning peer.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn lightning_peer(&self) -> Result<Peer> {
        let status = self.client()?.status().await?;
        Ok(Peer {
            id: status.lightning,
            address: self.lightning.clone(),
        })
    }

    /// Process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Waits until the process ends by itself.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn wait(&mut self) -> Result<std::process::ExitStatus> {
        let child = self.child.as_mut();
        let status = child
            .with_context(|| format!("{} does not run", self.name))?
            .wait()
            .await?;
        self.client = None;
        self.child = None;
        Ok(status)
    }

    /// Ends the process at once (`SIGKILL`), as a power cut would.
    pub async fn kill(&mut self) {
        self.client = None;
        if let Some(mut child) = self.child.take() {
            let _ = child.kill().await;
        }
    }

    /// Stops the node in good order.
    pub async fn stop(&mut self) {
        if let Some(client) = self.client.take() {
            let _ = client.shutdown().await;
        }
        if let Some(mut child) = self.child.take()
            && tokio::time::timeout(STOP, child.wait()).await.is_err()
        {
            let _ = child.kill().await;
        }
    }
}

/// The section of `freehold.toml` by which a node finds the lab's chain.
pub fn chain_section(rpc: &RpcAccess) -> String {
    format!(
        "[chain]\nkind = \"bitcoind_rpc\"\nhost = \"{}\"\nport = {}\nuser = \"{}\"\npassword = \"{}\"\n",
        rpc.host, rpc.port, rpc.user, rpc.password
    )
}

fn settings(
    plan: &MemberPlan,
    options: &MemberOptions,
    rpc: &RpcAccess,
    relay: &str,
    gateway: &str,
    lightning: &str,
) -> Result<String> {
    let listen = free_port()?;
    let chain = chain_section(rpc);
    let roles = plan
        .roles
        .iter()
        .map(|role| format!("\"{role}\""))
        .collect::<Vec<_>>()
        .join(", ");
    let models = if plan.model {
        "[[models]]\npath = \"pocket\"\n"
    } else {
        ""
    };
    let extra = if plan.sells || plan.model {
        ""
    } else {
        options.buyer_config.as_str()
    };
    Ok(format!(
        r#"# Written by `freehold lab`: a node on a private chain.
network = "regtest"
roles = [{roles}]
relays = ["{relay}"]
listen = ["/ip4/127.0.0.1/tcp/{listen}", "/ip4/127.0.0.1/udp/{listen}/quic-v1"]

{chain}
[lightning]
listen = ["{lightning}"]

[gateway]
listen = "{gateway}"

[host]
input_price = {input}
output_price = {output}
pace = {pace}

{models}
{extra}
"#,
        input = options.input_price,
        output = options.output_price,
        pace = options.pace,
    ))
}
