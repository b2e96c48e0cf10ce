//! How long a node with a long history takes to answer, and what memory it holds then.
//!
//! A store of finished orders is made by the machines and the storage that a node has: each
//! order is given credit, invoiced and paid by the payment machine, closed by it, and kept as
//! evidence as the order machine keeps it, over sixty days. Then a real node (this program,
//! started again as `up`, without any network) is started on it, and on an empty folder.
//! "Answers" is the first answer of the gateway, by the clock and in processor time, which does
//! not depend on what else the machine does; memory is `VmRSS` at that moment, and the most
//! there ever was (`VmHWM`).
//!
//! `cargo bench --workspace --bench start` takes about two minutes;
//! `FREEHOLD_BENCH_ORDERS` sets how many orders there are.

use actors::keys::NodeKeys;
use actors::ports::storage::Storage;
use anyhow::{Context, Result, bail};
use freehold::folder::Folder;
use protocol::crypto::{Crypto, Secp, tagged_hash};
use protocol::ids::{Caller, Digest, EffectId, ModelDigest, NodeKey, PaymentHash, PeerTag};
use protocol::machine::{Machine, Outbox, Record};
use protocol::message::inference::OrderAccount;
use protocol::message::payment::{Effect, Input, Side};
use protocol::money::{Counts, Msat};
use protocol::order::record::{OrderRecord, Retained};
use protocol::payment::{Config, Payment};
use protocol::time::{Now, Tick, WallTime};
use protocol::wire::envelope::{Network, Signed};
use protocol::wire::manifest::PaymentMode;
use protocol::wire::order::{Handling, Order, Path as Way, Retention, Status};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tests::question;

/// Finished orders in the store.
const ORDERS: u64 = 100_000;
/// Buyers who made them.
const BUYERS: u64 = 2_000;
/// What each of an order's payments was, in msat.
const PAYMENTS: [u64; 4] = [1_500, 1_500, 3_000, 2_400];
/// The days over which the orders are spread.
const DAYS: u64 = 60;
const DAY_MS: u64 = 86_400_000;
/// Records in one write to the store.
const BATCH: usize = 4_096;
/// How long a node may take to answer at all.
const BOUND: Duration = Duration::from_secs(120);
/// Starts of each node; all are told.
const STARTS: usize = 3;

/// A number of 32 bytes that no other order, buyer or payment has.
fn unique(what: &'static str, number: u64) -> [u8; 32] {
    tagged_hash(what, &[&number.to_le_bytes()]).0
}

/// The payment machine of a host, and what it wants written.
struct Books {
    machine: Payment,
    out: Outbox<Effect>,
    now: Now,
    records: Vec<Record>,
}

impl Books {
    /// Gives the machine an input; returns the id of the invoice that it asks for, if it does.
    fn give(&mut self, input: Input) -> Option<EffectId> {
        self.now.tick = self.now.tick.after_ms(5);
        self.now.wall = self.now.wall.after_ms(5);
        let due = self.machine.deadline();
        if due.is_some_and(|due| due <= self.now.tick) {
            self.machine.expire(self.now, &mut self.out);
        }
        self.machine.handle(self.now, input, &mut self.out);
        let mut asked = None;
        for effect in self.out.drain() {
            match effect {
                Effect::Persist(records) => self.records.extend(records),
                Effect::CreateInvoice { id, .. } => asked = Some(id),
                _ => {}
            }
        }
        asked
    }

    /// One order of a buyer, from its credit to its end.
    fn serve(&mut self, number: u64, record: &OrderRecord) -> Result<()> {
        let (order, buyer) = (record.id(), record.counterparty);
        self.give(Input::OpenCredit {
            order,
            buyer,
            caller: Caller::alone(PeerTag([1; 16])),
            quantum: Msat(1_000),
        });
        for (seq, msat) in (0u32..).zip(PAYMENTS.map(Msat)) {
            let making = Input::MakeInvoice {
                order,
                seq,
                msat,
                description_hash: [0; 32],
                expiry_s: 180,
            };
            let id = self.give(making).context("no invoice was asked for")?;
            let event = number * PAYMENTS.len() as u64 + u64::from(seq);
            let hash = PaymentHash(unique("bench/payment", event));
            let result = Ok((format!("lnbcrt{event}"), hash));
            self.give(Input::InvoiceCreated { id, result });
            self.give(Input::Received { event, hash, msat });
        }
        let account = OrderAccount {
            order,
            side: Side::Host,
            counterparty: buyer,
            model: record.model,
            counts: record.counts,
            cost: record.cost,
            carried: Msat::ZERO,
            unsure: Msat::ZERO,
            status: Status::Complete,
            receipt: Some(Digest(unique("bench/receipt", number))),
        };
        self.give(Input::CloseOrder {
            account: Box::new(account),
            unpaid: Msat::ZERO,
        });
        Ok(())
    }
}

/// A signed order; its bytes stand for every document of every order, which no start reads.
fn document() -> Result<Signed> {
    let buyer = Secp::from_secret(&[7; 32]).context("no key")?;
    let order = Order {
        model: ModelDigest([2; 32]),
        job: question("What is a sat, and why would one want to pay in it?", 256).job,
        max_cost: Msat(100_000),
        mode: PaymentMode::Metered,
        payment_grain: Msat(1),
        path: Way::Fast,
        retention: Retention::Keep,
        handling: Handling::Plain,
        salt: [3; 16],
        via: None,
        authority: Vec::new(),
        extensions: Vec::new(),
    };
    let to = Some(buyer.key());
    Ok(Signed::seal(
        &buyer,
        Network::Signet,
        to,
        WallTime(0),
        [4; 16],
        &order,
    ))
}

/// Writes the store of a host that served so many orders.
async fn fill(store: &Path, orders: u64) -> Result<()> {
    let storage = Storage::open(store)?;
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let today = u64::try_from(since.as_millis())?;
    let mut books = Books {
        machine: Payment::new(Config::default(), [5; 32]),
        out: Outbox::default(),
        now: Now {
            tick: Tick(0),
            wall: WallTime(today - DAYS * DAY_MS),
        },
        records: Vec::new(),
    };
    let (document, mut retained) = (document()?, Retained::default());
    let step = DAYS * DAY_MS / orders.max(1);
    for number in 0..orders {
        let cost = Msat(PAYMENTS.iter().sum());
        let record = OrderRecord {
            side: Side::Host,
            counterparty: NodeKey(unique("bench/buyer", number % BUYERS)),
            model: ModelDigest([2; 32]),
            digest: Digest(unique("bench/order", number)),
            order: Some(document.clone()),
            terms: Some(document.clone()),
            tokens: Vec::new(),
            invoices: vec![document.clone(); PAYMENTS.len() - 1],
            paid: vec![document.clone(); PAYMENTS.len()],
            receipt: Some(document.clone()),
            countersigned: Some(document.clone()),
            counts: Counts {
                input_tokens: 40,
                output_tokens: 30,
                ..Counts::default()
            },
            cost,
            carried: Msat::ZERO,
            status: Some(Status::Complete),
            started: books.now.wall,
        };
        books.serve(number, &record)?;
        books.records.extend(retained.keep(&record, books.now.wall));
        books.now.wall = books.now.wall.after_ms(step.saturating_sub(70));
        books.now.tick = books.now.tick.after_ms(step.saturating_sub(70));
        if books.records.len() >= BATCH {
            storage.commit(std::mem::take(&mut books.records)).await?;
        }
    }
    storage.commit(std::mem::take(&mut books.records)).await?;
    drop(storage);
    // Its writer lets go of it a moment later.
    let held = std::fs::File::open(store.join("db"))?;
    while held.try_lock().is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// A loopback port where nobody listens.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// The folder of a host that sells the pocket model and reaches nobody.
fn folder(dir: &Path, gateway: u16) -> Result<Folder> {
    let folder = Folder::new(dir);
    let nowhere = free_port()?;
    let settings = format!(
        "network = \"signet\"\nroles = [\"client\", \"host\"]\n\
         relays = [\"ws://127.0.0.1:{nowhere}\"]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n\
         [chain]\nkind = \"esplora\"\nurl = \"http://127.0.0.1:{nowhere}\"\n\
         [gateway]\nlisten = \"127.0.0.1:{gateway}\"\n[[models]]\npath = \"pocket\"\n",
    );
    folder.create(&settings, &NodeKeys::fresh_words())?;
    Ok(folder)
}

/// Ends a node at once, whatever happens to this program.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Memory of a process, by its name in `/proc`. KiB.
fn memory(pid: u32, figure: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(figure));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(number.context("no such figure")?.parse()?)
}

/// Processor time of a process, user and system. Seconds.
fn processor_s(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Behind the name, which stands in brackets and may hold anything.
    let (_, rest) = text.rsplit_once(')').context("no name")?;
    let fields = rest.split_whitespace().skip(11).take(2);
    let ticks: f64 = fields.filter_map(|field| field.parse::<f64>().ok()).sum();
    // Linux counts hundredths of a second here.
    Ok(ticks / 100.0)
}

/// Starts a node until its gateway answers, and prints what that took.
fn start(name: &str, dir: &Path, gateway: u16) -> Result<()> {
    let began = Instant::now();
    let log = std::fs::File::create(dir.join("node.log"))?;
    let child = Command::new(std::env::current_exe()?)
        .arg("--dir")
        .arg(dir)
        .arg("up")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let mut node = Node(child);
    while !answers(gateway) {
        if let Some(status) = node.0.try_wait()? {
            let log = std::fs::read_to_string(dir.join("node.log"))?;
            bail!("the node ended with {status}:\n{log}");
        }
        anyhow::ensure!(began.elapsed() < BOUND, "the node does not answer");
        std::thread::sleep(Duration::from_millis(5));
    }
    let took = began.elapsed();
    let pid = node.0.id();
    println!(
        "| {name} | {:.2} s | {:.2} s | {} MiB | {} MiB |",
        took.as_secs_f64(),
        processor_s(pid)?,
        memory(pid, "VmRSS")? >> 10,
        memory(pid, "VmHWM")? >> 10,
    );
    Ok(())
}

/// Whether the gateway lists its models.
fn answers(gateway: u16) -> bool {
    use std::io::{Read, Write};
    let asked = || {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", gateway))?;
        stream.set_read_timeout(Some(BOUND))?;
        stream.write_all(
            b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        std::io::Result::Ok(answer.starts_with("HTTP/1.1 200"))
    };
    asked().unwrap_or(false)
}

async fn all() -> Result<()> {
    let orders = std::env::var("FREEHOLD_BENCH_ORDERS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(ORDERS);
    let dir = tempfile::tempdir()?;
    println!(
        "| store | until the gateway answers | of that on a processor | resident | at most |\n|---|---|---|---|---|"
    );
    for (name, orders) in [("empty", 0), ("finished orders", orders)] {
        let (dir, gateway) = (dir.path().join(name), free_port()?);
        let folder = folder(&dir, gateway)?;
        let began = Instant::now();
        if orders > 0 {
            fill(&folder.db_path(), orders).await?;
            eprintln!(
                "{orders} orders written in {:.0} s",
                began.elapsed().as_secs_f64()
            );
        }
        for _ in 0..STARTS {
            start(&format!("{orders} {name}"), &dir, gateway)?;
        }
    }
    Ok(())
}

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    // `cargo test --benches` starts every bench with this: nothing to test here.
    if arguments.iter().any(|argument| argument == "--test") {
        return std::process::ExitCode::SUCCESS;
    }
    // Started by itself as a node, or by that node as the child that renders templates.
    if arguments.len() > 1 && !arguments.iter().any(|argument| argument == "--bench") {
        return freehold::main();
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{error}");
            return std::process::ExitCode::FAILURE;
        }
    };
    match runtime.block_on(all()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
