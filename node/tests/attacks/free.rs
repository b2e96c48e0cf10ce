//! What a host and validator gives for nothing: the beginnings of its model's file, and checks of
//! bundles. All that is asked here is well formed.

use super::long;
use super::stranger::{AUDIT, BLOB, Stranger, Target, fresh_key, receive_bytes, send};
use super::wire::{IMPATIENCE, address};
use anyhow::{Context, Result, ensure};
use futures::AsyncReadExt;
use protocol::codec;
use protocol::crypto::{Crypto, Secp};
use protocol::ids::OrderId;
use protocol::limits::MAX_AUDIT_FRAME_BYTES;
use protocol::money::{Meter, Msat};
use protocol::time::WallTime;
use protocol::wire::blob::{BlobFrame, SliceRequest};
use protocol::wire::bundle::{AuditFrame, Bundle};
use protocol::wire::chain::TokenChain;
use protocol::wire::envelope::{Body, Network, Signed};
use protocol::wire::order::{Invoice, Order, Terms};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use tokio::task::JoinSet;

/// Strangers at once.
const STRANGERS: usize = 12;
/// Questions on one stream that nobody reads the answers of.
const UNREAD: usize = 64;

/// How questions were answered.
type Answers = BTreeMap<&'static str, u64>;

/// Strangers who ask, each in its own way, and come back when they are cut off.
async fn ask<A, F>(target: Target, asks: A) -> Result<Answers>
where
    A: Fn(Stranger, Target, usize) -> F + Clone + Send + 'static,
    F: Future<Output = Answers> + Send,
{
    let until = Instant::now() + long();
    let mut askers = JoinSet::new();
    for number in 0..STRANGERS {
        let (target, asks) = (target.clone(), asks.clone());
        askers.spawn(async move {
            let mut answers = Answers::new();
            while Instant::now() < until {
                let Ok(stranger) = Stranger::from(address(number), &target).await else {
                    continue;
                };
                add(&mut answers, asks(stranger, target.clone(), number).await);
            }
            answers
        });
    }
    let mut answers = Answers::new();
    while let Some(more) = askers.join_next().await {
        add(&mut answers, more?);
    }
    Ok(answers)
}

fn add(answers: &mut Answers, more: Answers) {
    for (name, count) in more {
        *answers.entry(name).or_default() += count;
    }
}

/// The beginning of the model's file, again and again: read whole, read by half, and not read.
pub async fn transfers(target: Target) -> Result<String> {
    let answers = ask(target, async |mut stranger, target, number| {
        let mut answers = Answers::new();
        for group in [0, 1, 1 << 40, 0] {
            let request = SliceRequest {
                model: target.model,
                part: 0,
                group,
            };
            let request = BlobFrame::Get(request).encode();
            let Ok(mut stream) = stranger.open(BLOB).await else {
                break;
            };
            let count = [1, UNREAD, UNREAD][number % 3];
            for _ in 0..count {
                let sending = tokio::time::timeout(IMPATIENCE, send(&mut stream, &request)).await;
                if !matches!(sending, Ok(Ok(()))) {
                    break;
                }
            }
            match number % 3 {
                0 => *answers.entry(sliced(&mut stream).await).or_default() += 1,
                1 => {
                    let mut half = [0; 8 << 10];
                    let reading = stream.read_exact(&mut half);
                    let read = tokio::time::timeout(IMPATIENCE, reading).await;
                    let name = match read {
                        Ok(Ok(())) => "half a slice",
                        _ => "less",
                    };
                    *answers.entry(name).or_default() += 1;
                }
                _ => {
                    *answers.entry("unread").or_default() += 1;
                    tokio::time::sleep(IMPATIENCE).await;
                }
            }
        }
        answers
    })
    .await?;
    let slices = answers.get("slice").copied().unwrap_or(0);
    ensure!(slices > 0, "no slice was given: {answers:?}");
    Ok(format!("{answers:?}"))
}

async fn sliced(stream: &mut libp2p::Stream) -> &'static str {
    let frame = receive_bytes(stream).await.ok().flatten();
    match frame.map(|frame| BlobFrame::decode(&frame)) {
        Some(Ok(BlobFrame::Slice(_))) => "slice",
        Some(Ok(_)) => "refusal",
        Some(Err(_)) => "garbled",
        None => "closed",
    }
}

/// Bundles that are worth a replay, each between two keys that nobody saw before: answered, left
/// alone, and left behind.
pub async fn audits(target: Target, honest: Bundle) -> Result<String> {
    // Signing takes longer than sending.
    let questions: Result<Vec<_>> = (0..UNREAD).map(|_| question(&honest)).collect();
    let questions = Arc::new(questions?);
    let answers = ask(target, move |mut stranger: Stranger, _, number| {
        let questions = questions.clone();
        async move {
            let (mut answers, mut held) = (Answers::new(), Vec::new());
            for (count, question) in questions.iter().skip(number).take(16).enumerate() {
                let Ok(mut stream) = stranger.open(AUDIT).await else {
                    break;
                };
                let sending = tokio::time::timeout(IMPATIENCE, send(&mut stream, question));
                if !matches!(sending.await, Ok(Ok(()))) {
                    break;
                }
                let name = match count % 4 {
                    0 | 1 => verdict(&mut stream).await,
                    2 => {
                        held.push(stream);
                        "held"
                    }
                    _ => "left",
                };
                *answers.entry(name).or_default() += 1;
            }
            answers
        }
    })
    .await?;
    let verdicts = answers.get("verdict").copied().unwrap_or(0);
    ensure!(verdicts > 0, "nothing was judged: {answers:?}");
    Ok(format!("{answers:?}"))
}

async fn verdict(stream: &mut libp2p::Stream) -> &'static str {
    let frame = receive_bytes(stream).await.ok().flatten();
    let frame = frame.map(|frame| codec::decode::<AuditFrame>(&frame, MAX_AUDIT_FRAME_BYTES));
    match frame {
        Some(Ok(AuditFrame::Verdict(_))) => "verdict",
        Some(Ok(_)) => "refusal",
        Some(Err(_)) => "garbled",
        None => "closed",
    }
}

/// The work of an honest order, signed by two keys of the attacker's own.
fn question(honest: &Bundle) -> Result<Vec<u8>> {
    let (buyer, host) = (fresh_key(), fresh_key());
    let order = honest
        .order
        .open_public::<Order>(&buyer, Network::Regtest)?;
    let terms = honest
        .terms
        .open_public::<Terms>(&buyer, Network::Regtest)?;
    let time = order.envelope.time;
    let order = seal(&buyer, &host, time, &order.body);
    let terms = Terms {
        order: order.digest(),
        carried_debt: Msat::ZERO,
        entry: None,
        ..terms.body
    };
    let (input, prices) = (terms.input, terms.prices.clone());
    let terms = seal(&host, &buyer, time, &terms);
    let mut chain = TokenChain::new(&order.digest(), &terms.digest());
    honest.tokens.iter().for_each(|token| chain.push(token));
    let covers = input.with_delivered(Meter::OutputToken, chain.len());
    let cost = prices.cost(&covers).context("no cost")?;
    let invoice = Invoice {
        order: OrderId::of(&order.digest()),
        seq: 1,
        bolt11: "none".to_owned(),
        msat: cost,
        covers,
        invoiced: cost,
        head: chain.head(),
        window: Msat::ZERO,
        extensions: Vec::new(),
    };
    let bundle = Bundle {
        invoices: vec![seal(&host, &buyer, time, &invoice)],
        order,
        terms,
        tokens: honest.tokens.clone(),
        receipt: None,
        countersigned: None,
    };
    Ok(codec::encode(&AuditFrame::Check(Box::new(bundle))))
}

fn seal<T: Body>(by: &Secp, to: &Secp, time: WallTime, body: &T) -> Signed {
    let to = Some(to.key());
    Signed::seal(by, Network::Regtest, to, time, rand::random(), body)
}
