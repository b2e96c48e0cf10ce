//! `freehold lab`: a regtest chain, a relay, and real nodes with funded channels.
//!
//! The chain and the relay run in this process (crate `lab`, which refuses any
//! network but regtest); every node is a process of its own, started from this
//! very binary, as a user would start it. Also the stage of `freehold demo` and
//! of the end-to-end tests.

pub mod member;

use crate::control::OpenRequest;
use ::lab::{Lab, LabOptions, Miner, MinerOptions};
use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use futures::StreamExt;
use member::{Member, MemberOptions, MemberPlan};
use protocol::money::Msat;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// On-chain coins of each node. Sat.
const COINS_SATS: u64 = 10_000_000;
/// Size of each channel. Sat. Far more than a demonstration spends, and below the coins.
const CHANNEL_SATS: u64 = 2_000_000;
/// Given to the other side of each channel, so that its balance lies above the reserve
/// (1 % of the channel) and every sat it earns shows as spendable at once.
const PUSH: Msat = Msat(100_000_000);
/// Most nodes of one lab: each is a process of some 60 MB.
const MAX_NODES: usize = 24;
/// How long a step of the set-up may take. A loaded two-core machine needs most of it.
const STEP: Duration = Duration::from_secs(120);
/// How often `lab up` looks for the order to stop.
const POLL: Duration = Duration::from_millis(200);

/// A regtest chain, a relay and funded nodes on this machine.
#[derive(Debug, Args)]
pub struct LabArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: LabCommand,
}

/// `up` or `down`.
#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// Start a lab and keep it running until Ctrl-C or `lab down`
    ///
    /// Everything is kept in `--dir`, or in a new temporary folder.
    /// Prints each node's gateway address and data folder. The first node is a
    /// buyer with a channel to every other one, the second a host, the third a
    /// validator, further ones are hosts.
    Up(UpArgs),
    /// Stop the lab that runs on `--dir`
    Down,
}

/// Arguments of `lab up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// How many nodes.
    #[arg(long, default_value_t = 3)]
    pub nodes: usize,
    /// Fund the nodes and open their channels, then stop them: start them by hand
    /// with `freehold --dir FOLDER up`.
    #[arg(long)]
    pub leave_stopped: bool,
}

/// What `lab.json` says while a lab runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LabState {
    /// The process that runs chain and relay.
    pub pid: u32,
    /// The relay.
    pub relay: String,
    /// bitcoind JSON-RPC of the chain, `host:port`.
    pub chain: String,
    /// The nodes.
    pub nodes: Vec<NodeState>,
}

/// A node of a lab.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeState {
    /// `buyer`, `host`, `validator`, `host-2` …
    pub name: String,
    /// Data folder.
    pub dir: PathBuf,
    /// Base address of the OpenAI-compatible gateway.
    pub gateway: String,
    /// Whether it runs.
    pub running: bool,
}

/// Runs `freehold lab`.
///
/// # Errors
/// The first step that fails, with its fix.
pub async fn run(args: LabArgs, dir: Option<PathBuf>, json: bool) -> Result<ExitCode> {
    match args.command {
        LabCommand::Up(up) => run_up(up, dir, json).await,
        LabCommand::Down => {
            run_down(&dir.context("name the lab's folder: freehold lab down --dir FOLDER")?).await
        }
    }
}

/// A lab with its nodes.
pub struct Stage {
    /// Chain and relay.
    pub lab: Lab,
    /// The nodes, in the order of their plans.
    pub members: Vec<Member>,
    miner: Miner,
}

impl Stage {
    /// Starts chain, relay and nodes, funds them, and opens a channel from the
    /// first node to each other one that sells.
    ///
    /// # Errors
    /// The first step that fails; every process started is stopped.
    pub async fn start(
        dir: &Path,
        plans: &[MemberPlan],
        options: &MemberOptions,
        say: &mut dyn FnMut(&str),
    ) -> Result<Self> {
        ensure!(
            (1..=MAX_NODES).contains(&plans.len()),
            "a lab has 1 to {MAX_NODES} nodes, not {}",
            plans.len()
        );
        for plan in plans {
            ensure!(
                !dir.join(&plan.name).exists(),
                "{} is left of an earlier lab, and a lab's chain ends with it, so its nodes cannot go on: remove {} or name another folder with --dir",
                dir.join(&plan.name).display(),
                dir.display()
            );
        }
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let lab = Lab::start(LabOptions::from_env(dir))
            .await
            .context("the lab's chain or relay does not start")?;
        say(&format!(
            "chain (regtest) and relay {} are up",
            lab.relay_url()
        ));
        let mut members = Vec::new();
        for plan in plans {
            members.push(Member::create(
                dir,
                plan,
                options,
                lab.rpc(),
                &lab.relay_url(),
            )?);
        }
        for member in &mut members {
            member.spawn(options)?;
        }
        for member in &mut members {
            member.wait_ready(STEP).await?;
            say(&format!(
                "{} is up, gateway {}/v1",
                member.name, member.gateway
            ));
        }
        let miner = lab.start_miner(MinerOptions::default());
        let stage = Stage {
            lab,
            members,
            miner,
        };
        stage.fund(say).await?;
        Ok(stage)
    }

    /// The node of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn member(&self, name: &str) -> Result<&Member> {
        self.members
            .iter()
            .find(|member| member.name == name)
            .with_context(|| format!("this lab has no node `{name}`"))
    }

    async fn fund(&self, say: &mut dyn FnMut(&str)) -> Result<()> {
        let Some((first, others)) = self.members.split_first() else {
            return Ok(());
        };
        let payees: Vec<&Member> = others.iter().filter(|member| member.sells).collect();
        if payees.is_empty() {
            return Ok(());
        }
        let mut addresses = Vec::new();
        for member in std::iter::once(first).chain(payees.iter().copied()) {
            addresses.push(member.client()?.address().await?);
        }
        let wanted: Vec<(&str, u64)> = addresses
            .iter()
            .map(|address| (address.as_str(), COINS_SATS))
            .collect();
        self.lab.fund_all(&wanted).await?;
        for member in std::iter::once(first).chain(payees.iter().copied()) {
            member.client()?.sync().await?;
        }
        say(&format!(
            "{} nodes have {} sat each on chain",
            addresses.len(),
            COINS_SATS
        ));
        for payee in &payees {
            Self::open(first, payee).await?;
        }
        self.wait_usable(first, payees.len()).await?;
        for payee in &payees {
            self.wait_usable(payee, 1).await?;
        }
        say(&format!(
            "{} channels of {CHANNEL_SATS} sat are usable",
            payees.len()
        ));
        Ok(())
    }

    async fn open(from: &Member, payee: &Member) -> Result<()> {
        let open = OpenRequest {
            peer: payee.lightning_peer().await?,
            sats: CHANNEL_SATS,
            push: PUSH,
            announce: false,
        };
        let channel = from.client()?.open(&open).await;
        channel
            .map(|_| ())
            .with_context(|| format!("no channel to {}", payee.name))
    }

    /// Mines blocks and lets every node look at them.
    ///
    /// # Errors
    /// When the chain or a node does not answer.
    pub async fn mine(&self, blocks: u32) -> Result<()> {
        self.lab.mine(blocks).await?;
        for member in &self.members {
            member.client()?.sync().await?;
        }
        Ok(())
    }

    /// Opens another channel from the first node to one that sells, and waits until both
    /// can use it.
    ///
    /// # Errors
    /// When there is no such node, or the channel does not become usable.
    pub async fn reopen(&self, payee: &str) -> Result<()> {
        let first = self.members.first().context("this lab has no node")?;
        let payee = self.member(payee)?;
        Self::open(first, payee).await?;
        self.wait_usable(first, 1).await?;
        self.wait_usable(payee, 1).await
    }

    async fn wait_usable(&self, member: &Member, count: usize) -> Result<()> {
        let client = member.client()?;
        let usable = async {
            loop {
                client.sync().await?;
                let channels = client.channels().await?;
                if channels.iter().filter(|channel| channel.usable).count() >= count {
                    return Ok::<_, anyhow::Error>(());
                }
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(STEP, usable)
            .await
            .with_context(|| format!("the channels of {} did not become usable", member.name))?
    }

    /// Stops the nodes in good order, then relay and chain.
    pub async fn shutdown(self) {
        let Stage {
            lab,
            mut members,
            miner,
        } = self;
        for member in &mut members {
            member.stop().await;
        }
        miner.stop().await;
        lab.shutdown().await;
    }
}

/// Names and roles of a lab of `count` nodes.
pub fn plans(count: usize) -> Vec<MemberPlan> {
    (0..count)
        .map(|index| match index {
            0 => MemberPlan::buyer("buyer"),
            1 => MemberPlan::host("host"),
            2 => MemberPlan::validator("validator"),
            _ => MemberPlan::host(&format!("host-{}", index - 1)),
        })
        .collect()
}

fn state_path(dir: &Path) -> PathBuf {
    dir.join("lab.json")
}

fn stop_path(dir: &Path) -> PathBuf {
    dir.join("stop")
}

async fn run_up(args: UpArgs, dir: Option<PathBuf>, json: bool) -> Result<ExitCode> {
    let dir = match dir {
        Some(dir) => dir,
        None => std::env::temp_dir().join(format!("freehold-lab-{}", std::process::id())),
    };
    let _ = std::fs::remove_file(stop_path(&dir));
    let mut say = |line: &str| eprintln!("  {line}");
    let mut stage = Stage::start(
        &dir,
        &plans(args.nodes),
        &MemberOptions::default(),
        &mut say,
    )
    .await?;
    if args.leave_stopped {
        for member in &mut stage.members {
            member.stop().await;
        }
    }
    let state = LabState {
        pid: std::process::id(),
        relay: stage.lab.relay_url(),
        chain: format!("{}:{}", stage.lab.rpc().host, stage.lab.rpc().port),
        nodes: stage
            .members
            .iter()
            .map(|member| NodeState {
                name: member.name.clone(),
                dir: member.dir.clone(),
                gateway: format!("{}/v1", member.gateway),
                running: !args.leave_stopped,
            })
            .collect(),
    };
    std::fs::write(state_path(&dir), serde_json::to_vec_pretty(&state)?)?;
    if json {
        println!("{}", serde_json::to_string(&state)?);
    } else {
        print_state(&state, &dir);
        println!(
            "A node of your own joins with `freehold init --network regtest` and these lines:\n\nrelays = [\"{}\"]\n\n{}",
            state.relay,
            member::chain_section(stage.lab.rpc())
        );
    }
    tokio::select! {
        () = wait_for_stop(&dir) => {}
        () = report_ended(&mut stage.members, args.leave_stopped) => {}
    }
    eprintln!("  stopping");
    stage.shutdown().await;
    let _ = std::fs::remove_file(state_path(&dir));
    let _ = std::fs::remove_file(stop_path(&dir));
    Ok(ExitCode::SUCCESS)
}

fn print_state(state: &LabState, dir: &Path) {
    println!("lab in {}", dir.display());
    println!("  relay  {}", state.relay);
    println!("  chain  {} (bitcoind JSON-RPC, regtest)", state.chain);
    for node in &state.nodes {
        println!(
            "  {:<10} {}  folder {}",
            node.name,
            node.gateway,
            node.dir.display()
        );
        if !node.running {
            println!(
                "             start it with: freehold --dir {} up",
                node.dir.display()
            );
        }
    }
    println!(
        "Ctrl-C, or `freehold lab down --dir {}`, stops it.",
        dir.display()
    );
}

/// Says which node's process ended by itself; never comes to an end.
async fn report_ended(members: &mut [Member], left_stopped: bool) {
    if !left_stopped {
        let mut running: futures::stream::FuturesUnordered<_> = members
            .iter_mut()
            .map(|member| async {
                let status = member.wait().await;
                (member.name.clone(), member.dir.clone(), status)
            })
            .collect();
        while let Some((name, dir, status)) = running.next().await {
            let how = match status {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            };
            eprintln!(
                "  {name} ended ({how}): {} says why; start it again with `freehold --dir {} up`",
                dir.join("node.log").display(),
                dir.display()
            );
        }
    }
    std::future::pending().await
}

async fn wait_for_stop(dir: &Path) {
    let asked = async {
        while !stop_path(dir).exists() {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::select! {
        () = asked => {}
        _ = crate::signals::stop() => {}
    }
}

async fn run_down(dir: &Path) -> Result<ExitCode> {
    ensure!(
        state_path(dir).exists(),
        "no lab runs on {}: `freehold lab up` prints its folder",
        dir.display()
    );
    std::fs::write(stop_path(dir), b"stop")?;
    let gone = async {
        while state_path(dir).exists() {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(STEP, gone)
        .await
        .context("the lab did not stop: is its process still there? lab.json names it")?;
    println!("lab stopped");
    Ok(ExitCode::SUCCESS)
}
