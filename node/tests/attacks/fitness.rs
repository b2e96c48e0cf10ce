//! What must hold behind every attack: an honest order goes through at once, memory and disk of
//! the host are back to what they were, and the host is still listed.
//!
//! Memory is the resident set (`VmRSS`) of the host's process, held against what it was before the
//! attack: at a host in the middle of its day, which has rendered, answered and followed grammars
//! ([`Range::warm`]). Disk is what its folder takes (blocks, its log included), held against what it
//! was before the first attack of a test, with [`LOGS`] more, and [`RECORDS`] of each honest order.
//! That nothing adds up in memory over many attacks either is held by [`DRIFT`]. Apart from memory is
//! that of the processes which the host starts to render templates: they have a bound of their own
//! ([`RENDERERS`]). [`SETTLE`] is allowed for what is under way to end.

use super::stranger::Target;
use anyhow::{Context, Result, bail, ensure};
use freehold::control::BuyOrder;
use freehold::lab::Stage;
use freehold::lab::member::{Member, MemberOptions, MemberPlan};
use protocol::ids::OrderId;
use protocol::message::inference::{BuyerEvent, ModelSelector};
use protocol::money::Msat;
use protocol::wire::bundle::Bundle;
use protocol::work::{ChatMessage, Work};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Within this long of an attack's end an honest order is served to its end, where the machine is
/// idle. On a machine that is busy with other work an order takes longer without any attack ...
const AT_ONCE: Duration = Duration::from_secs(1);
/// ... and then this many times what one took before it.
const SLOWER: u32 = 4;
/// Honest orders before the first attack; the slowest is the measure.
const WARM_UP: usize = 6;
/// Questions to the gateway beside each of them, every one with a schema of its own: more in all
/// than a host keeps compiled.
const AT_A_TIME: usize = 4;
/// What the warm-up left behind goes back within this long.
const CALM: Duration = Duration::from_secs(5);
/// How long memory and disk may take to be back.
const SETTLE: Duration = Duration::from_secs(10);
/// What an attack may leave behind, in hundredths.
const MARGIN: u64 = 110;
/// And all attacks of a test together in memory, a dozen of them: the grammars that were compiled
/// last are kept, sixteen of them, and the hostile ones are larger than those of the warm-up; and
/// the wallet keeps the entry invoices of some 2,000 orders for three hours, about 2 KB each.
const DRIFT: u64 = 125;
/// What the processes that render templates take together once all are there. KiB. How many are
/// there depends on how many requests happened to come at once.
const RENDERERS: u64 = 64 << 10;
/// What the log of the database (segments of 512 KiB) and that of the wallet's (4 MiB) take before
/// they are used again. KiB: much beside the folder of a host that has just begun.
const LOGS: u64 = 4 << 10;
/// What the records of an honest order take. KiB.
const RECORDS: u64 = 16;
/// Bound on every other wait.
pub const BOUND: Duration = Duration::from_secs(60);

/// A buyer and a host with a channel; the host is attacked.
pub struct Range {
    /// Chain, relay, buyer (0) and host (1).
    pub stage: Stage,
    /// How the nodes were started.
    pub options: MemberOptions,
    /// What strangers know of the host.
    pub target: Target,
    /// What an honest order took before any attack, at most.
    usual: Duration,
    /// Before any attack: memory and disk. KiB.
    before: Cell<(u64, u64)>,
    /// Honest orders since then.
    orders: Cell<u64>,
    /// What did not hold, behind which attack.
    broken: RefCell<Vec<String>>,
    _dir: tempfile::TempDir,
}

/// An honest order that went through.
struct Bought {
    took: Duration,
    order: OrderId,
    /// Why earlier ones did not, and when.
    refused: Vec<String>,
}

/// What the host takes of its machine. KiB.
struct Taken {
    memory: u64,
    /// Memory of the processes that it started.
    children: u64,
    files: BTreeMap<PathBuf, u64>,
}

impl Range {
    /// Starts it, and buys until the host is warm.
    pub async fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let options = MemberOptions {
            exe: Some(PathBuf::from(env!("CARGO_BIN_EXE_freehold"))),
            pace: 0,
            ..MemberOptions::default()
        };
        let mut host = MemberPlan::host("host");
        host.roles.push("validator");
        let plans = [MemberPlan::buyer("buyer"), host];
        let stage = Stage::start(dir.path(), &plans, &options, &mut |_| {}).await?;
        let host = stage.members[1].client()?.status().await?;
        let model = host.models.first().context("the host has no model")?.digest;
        let target = Target::listed(&host.addresses, host.node, model)?;
        let mut range = Range {
            stage,
            options,
            target,
            usual: Duration::ZERO,
            before: Cell::default(),
            orders: Cell::default(),
            broken: RefCell::default(),
            _dir: dir,
        };
        range.warm().await?;
        Ok(range)
    }

    /// Buys and asks until the host is as it is in the middle of its day.
    pub async fn warm(&mut self) -> Result<()> {
        self.buy().await?;
        for round in 0..WARM_UP {
            // At once, so that every process that renders templates is there.
            let asks = (0..AT_A_TIME).map(|number| self.ask(Some(round * AT_A_TIME + number)));
            let (took, _) = tokio::try_join!(self.buy(), futures::future::try_join_all(asks))?;
            self.usual = self.usual.max(took);
        }
        tokio::time::sleep(CALM).await;
        let before = self.taken()?;
        self.before.set((before.memory, before.disk()));
        self.orders.set(0);
        Ok(())
    }

    /// Starts the host again with other settings; returns when its new listing is there.
    pub async fn restart_host(&mut self, change: impl FnOnce(&str) -> String) -> Result<()> {
        let host = &mut self.stage.members[1];
        host.stop().await;
        let config = host.dir.join("freehold.toml");
        let settings = std::fs::read_to_string(&config)?;
        let changed = change(&settings);
        ensure!(changed != settings, "nothing was changed");
        std::fs::write(&config, changed)?;
        // Its withdrawal may come after it is back.
        let buyer = self.stage.members[0].client()?.clone();
        let withdrawn = async {
            while !buyer.hosts().await?.is_empty() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(BOUND, withdrawn).await??;
        let host = &mut self.stage.members[1];
        host.spawn(&self.options)?;
        host.wait_ready(BOUND).await?;
        self.warm().await
    }

    /// The attacked node.
    pub fn host(&self) -> &Member {
        &self.stage.members[1]
    }

    /// Buys a short answer; again until one goes through. Returns what it took in all.
    pub async fn buy(&self) -> Result<Duration> {
        Ok(self.bought(self.honest()).await?.took)
    }

    /// The evidence of an honest order.
    pub async fn evidence(&self) -> Result<Bundle> {
        let order = self.bought(self.honest()).await?.order;
        Ok(self.stage.members[0].client()?.bundle(order).await?)
    }

    /// While an attack goes on somebody comes who was not there before, over a connection of its
    /// own, and is served at once.
    pub async fn serves_meanwhile(&self) -> Result<String> {
        let order = BuyOrder {
            private: true,
            ..self.honest()
        };
        let bought = self.bought(order).await.context("during the attack")?;
        let Bought { took, refused, .. } = bought;
        ensure!(
            took <= self.at_once(),
            "an honest order took {took:?} during the attack: {refused:?}"
        );
        Ok(format!("an order {} ms meanwhile", took.as_millis()))
    }

    fn at_once(&self) -> Duration {
        AT_ONCE.max(self.usual * SLOWER)
    }

    async fn bought(&self, order: BuyOrder) -> Result<Bought> {
        let began = Instant::now();
        let client = self.stage.members[0].client()?;
        let mut refused = Vec::new();
        while began.elapsed() < BOUND {
            let mut purchase = client.buy(&order).await?;
            while let Some(event) = purchase.next().await {
                let why = match event {
                    Ok(BuyerEvent::Finished { receipt, .. }) => {
                        self.orders.set(self.orders.get() + 1);
                        return Ok(Bought {
                            took: began.elapsed(),
                            order: receipt.id,
                            refused,
                        });
                    }
                    Ok(BuyerEvent::Failed(refusal)) => refusal.to_string(),
                    Ok(_) => continue,
                    Err(error) => error.to_string(),
                };
                refused.push(format!("{} ms: {why}", began.elapsed().as_millis()));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("no honest order went through: {:?}", refused.last())
    }

    /// An answer of some five sat.
    fn honest(&self) -> BuyOrder {
        let work = Work::Chat {
            messages: vec![ChatMessage {
                role: "user".to_owned(),
                content: "What is a relay?".to_owned(),
            }],
        };
        let mut order = BuyOrder::new(ModelSelector::Digest(self.target.model), work, "attack");
        order.max_output = Some(16);
        order.max_cost = Some(Msat(100_000));
        order
    }

    /// Has the host's gateway answer with the model of its machine, in the form of schema `form`.
    /// Returns what that took.
    async fn ask(&self, form: Option<usize>) -> Result<Duration> {
        let began = Instant::now();
        let model = self.target.model.to_string();
        let mut body = serde_json::json!({
            "model": model, "max_tokens": 4,
            "messages": [{"role": "user", "content": "What is a relay?"}],
        });
        if let Some(form) = form {
            body["response_format"] = serde_json::json!({
                "type": "json_schema", "json_schema": {"name": "answer", "schema": schema(form)},
            });
        }
        let answer = reqwest::Client::new()
            .post(format!("{}/v1/chat/completions", self.host().gateway))
            .timeout(BOUND)
            .json(&body)
            .send()
            .await?;
        answer.error_for_status()?;
        Ok(began.elapsed())
    }

    /// Runs an attack, then looks how the host is.
    pub async fn survives<F>(&self, name: &str, attack: impl FnOnce(Target) -> F) -> Result<()>
    where
        F: Future<Output = Result<String>>,
    {
        let pid = self.host().pid();
        let before = self.taken()?;
        let (least, disk) = self.before.get();
        let began = Instant::now();
        let did = attack(self.target.clone())
            .await
            .with_context(|| format!("the attack itself failed: {name}"))?;
        let (lasted, ended) = (began.elapsed(), Instant::now());
        let worst = self.taken()?;
        let (served, answered) = tokio::try_join!(self.buy(), self.ask(None))
            .with_context(|| format!("after {name} ({did})"))?;
        let mut after = self.taken()?;
        while !self.is_back(&after, &before) && ended.elapsed() < SETTLE {
            tokio::time::sleep(Duration::from_millis(100)).await;
            after = self.taken()?;
        }
        println!(
            "{name}: {did}; {:.1} s, an order {} ms and the gateway {} ms behind it (an order usually {} ms), memory {} -> {} -> {} KiB (at first {least}), disk {} -> {} KiB (at first {disk}), {:.1} s to settle",
            lasted.as_secs_f64(),
            served.as_millis(),
            answered.as_millis(),
            self.usual.as_millis(),
            before.memory,
            worst.memory,
            after.memory,
            before.disk(),
            after.disk(),
            ended.elapsed().as_secs_f64(),
        );
        let at_once = self.at_once();
        let listed = self.is_listed().await;
        let holds = [
            (
                served <= at_once,
                format!("an honest order took {served:?}"),
            ),
            (
                answered <= at_once,
                format!("the gateway took {answered:?}"),
            ),
            (self.is_back(&after, &before), after.more_than(&before)),
            (
                pid.is_some() && self.host().pid() == pid,
                "it ended".to_owned(),
            ),
            (listed.is_ok(), format!("{listed:?}")),
        ];
        let broken = holds.into_iter().filter(|(holds, _)| !holds);
        let mut all = self.broken.borrow_mut();
        all.extend(broken.map(|(_, what)| format!("{name}: {what}")));
        Ok(())
    }

    fn is_back(&self, after: &Taken, before: &Taken) -> bool {
        let (memory, disk) = self.before.get();
        let records = LOGS + RECORDS * self.orders.get();
        let most = (before.memory * MARGIN).min(memory * DRIFT);
        after.memory * 100 <= most
            && after.disk() * 100 <= disk * MARGIN + records * 100
            && after.children <= before.children.max(RENDERERS)
    }

    /// Stops everything; an error where something did not hold behind an attack.
    pub async fn end(self) -> Result<()> {
        self.stage.shutdown().await;
        let broken = self.broken.into_inner();
        ensure!(broken.is_empty(), "{}", broken.join("\n"));
        Ok(())
    }

    /// The relay has the host's listing, and the buyer shows it.
    pub async fn is_listed(&self) -> Result<()> {
        let author = self.target.node.to_string();
        let events = self.stage.lab.relay().events();
        let listed = |event: &&nostr::event::Event| event.pubkey.to_hex() == author;
        ensure!(
            events
                .iter()
                .filter(listed)
                .any(|event| event.kind.as_u16() == 38_717),
            "the relay has no listing of the host"
        );
        let rows = self.stage.members[0].client()?.hosts().await?;
        ensure!(
            rows.iter().any(|row| row.manifest.node == self.target.node),
            "the buyer does not show the host"
        );
        Ok(())
    }

    fn taken(&self) -> Result<Taken> {
        let pid = self.host().pid().context("the host does not run")?;
        let memory = resident(pid)?;
        // One that ended meanwhile takes nothing.
        let children = children(pid)?.into_iter();
        let children = children.map(|child| resident(child).unwrap_or(0)).sum();
        let mut files = BTreeMap::new();
        sizes(&self.host().dir, &mut files)?;
        Ok(Taken {
            memory,
            children,
            files,
        })
    }
}

impl Taken {
    fn disk(&self) -> u64 {
        self.files.values().sum()
    }

    /// What is more than it was.
    fn more_than(&self, before: &Taken) -> String {
        let mut text = format!(
            "memory {} -> {} KiB, its children's {} -> {} KiB",
            before.memory, self.memory, before.children, self.children
        );
        for (file, size) in &self.files {
            let old = before.files.get(file).copied().unwrap_or(0);
            if *size > old {
                text += &format!(", {} {old} -> {size} KiB", file.display());
            }
        }
        text
    }
}

/// A schema as large as that of a program's tools, and unlike those of other numbers.
fn schema(number: usize) -> serde_json::Value {
    let field = |field| {
        let name = format!("field_{number}_{field}");
        (name, serde_json::json!({"type": "string"}))
    };
    let fields: serde_json::Map<_, _> = (0..20).map(field).collect();
    serde_json::json!({"type": "object", "properties": fields, "additionalProperties": false})
}

/// Resident memory of a process. KiB.
fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let figure = line.and_then(|line| line.split_whitespace().next());
    Ok(figure.context("no VmRSS")?.parse()?)
}

/// The processes that a process started.
fn children(pid: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let children = task?.path().join("children");
        let text = std::fs::read_to_string(children).unwrap_or_default();
        found.extend(
            text.split_whitespace()
                .filter_map(|id| id.parse::<u32>().ok()),
        );
    }
    Ok(found)
}

/// What each file below a folder takes on disk. KiB.
fn sizes(folder: &Path, files: &mut BTreeMap<PathBuf, u64>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // Files come and go while one looks.
        let Ok(about) = entry.metadata() else {
            continue;
        };
        match about.is_dir() {
            true => sizes(&entry.path(), files)?,
            // Blocks are half a KiB each.
            false => drop(files.insert(entry.path(), about.blocks() / 2)),
        }
    }
    Ok(())
}
