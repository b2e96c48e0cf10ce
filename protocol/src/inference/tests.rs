//! Orders of strangers at a host, and hosts' answers at a buyer, frame by frame.

mod admission;
mod buyer;
mod host;
mod unpaid;

use super::admit::{ENTRY_GRACE_MS, MAX_UNPAID, Sender};
use super::{HostState, Inference};
use crate::crypto::testing::{TestSigner, order_keys};
use crate::crypto::{Crypto, InvoiceFacts, Secp};
use crate::ids::{
    AddressTag, Caller, Digest, EffectId, LightningId, ModelDigest, NodeKey, OrderId, PaymentHash,
    PeerTag, RequestId, StreamId,
};
use crate::inference::Config;
use crate::limits::{
    self, MAX_UNPAID_PER_ADDRESS, MAX_UNPAID_PER_PEER, MAX_VOID_PER_ADDRESS, MAX_VOID_PER_MINUTE,
};
use crate::machine::{Machine, Outbox, Record, Secrets, Table};
use crate::message::discovery::Candidate;
use crate::message::inference::{
    BuyRequest, BuyerEvent, Effect, Input, InputCount, InputFacts, ModelSelector, PromptFacts,
    Served,
};
use crate::message::payment::Credit;
use crate::message::reputation::ScoreCard;
use crate::message::sibling::Message;
use crate::money::{Counts, Msat, Prices};
use crate::offence::OffenceKind;
use crate::order::host::HostOrder;
use crate::refusal::{Code, Refusal};
use crate::time::{Now, Tick, WallTime};
use crate::wire::attached::{Vector, vector_digest};
use crate::wire::chain::{ChainedToken, NO_LOGITS, Piece, TokenChain};
use crate::wire::envelope::{Body, Network, Signed};
use crate::wire::manifest::{HostLimits, ModelOffer, PaymentMode, Role};
use crate::wire::order::{
    Chunk, EntryInvoice, Finish, Frame, Handling, Invoice, Order, Path, Retention, Terms,
    description_hash,
};
use crate::work::{Job, Sampling, Steering, Work};

const NETWORK: Network = Network::Regtest;

const LIGHTNING: LightningId = LightningId([2; 33]);

const MODEL: ModelDigest = ModelDigest([5; 32]);

/// Credit for all that an order of these tests can cost.
const WINDOW: Msat = Msat(100_000);

fn keys(n: u8) -> TestSigner {
    TestSigner(Secp::from_secret(&[n; 32]).unwrap())
}

fn at(ms: u64) -> Now {
    Now {
        tick: Tick(ms * 1_000_000),
        wall: WallTime(1_700_000_000_000 + ms),
    }
}

fn machine(n: u8) -> Inference {
    machine_of(n, n)
}

fn machine_of(n: u8, seed: u8) -> Inference {
    let orders = order_keys([n; 32]);
    let config = Config::new(NETWORK);
    Inference::new(config, Box::new(keys(n)), Box::new(orders), [seed; 32])
}

fn offer() -> ModelOffer {
    ModelOffer {
        name: "pocket".into(),
        digest: MODEL,
        tokenizer: Digest([10; 32]),
        template: Digest([11; 32]),
        architecture: "qwen3".into(),
        quantisation: "Q8_0".into(),
        context: 2_048,
        numerics: Some("exact".into()),
        prices: Prices::chat(100_000_000, 250_000_000),
    }
}

fn job() -> Job {
    Job {
        work: Work::Complete {
            prompt: "What is a channel?".into(),
        },
        max_output: 64,
        sampling: Sampling::default(),
        seed: 4,
        stop: Vec::new(),
        date: "2026-01-02".into(),
        steering: Steering::default(),
        prefix: Vec::new(),
        extensions: Vec::new(),
    }
}

fn feed(machine: &mut Inference, ms: u64, input: Input) -> Vec<Effect> {
    let mut out = Outbox::default();
    machine.handle(at(ms), input, &mut out);
    out.drain().collect()
}

fn refusals(effects: &[Effect]) -> Vec<Code> {
    let frames = effects.iter().filter_map(|effect| match effect {
        Effect::Send { frame, .. } => match frame.as_ref() {
            Frame::Refusal(refusal) => Some(refusal.code),
            _ => None,
        },
        _ => None,
    });
    frames.collect()
}

fn writes(effects: &[Effect]) -> Vec<Record> {
    let writes = effects.iter().filter_map(|effect| match effect {
        Effect::Persist(records) => Some(records.clone()),
        _ => None,
    });
    writes.flatten().collect()
}

/// A host of one model with one slot and no queue.
fn host() -> Inference {
    host_of(offer())
}

fn host_of(offer: ModelOffer) -> Inference {
    host_with(offer, 0)
}

fn host_with_queue(queued_orders: u32) -> Inference {
    host_with(offer(), queued_orders)
}

fn host_with(offer: ModelOffer, queued_orders: u32) -> Inference {
    let mut machine = machine(1);
    let served = served_with(offer, queued_orders);
    feed(&mut machine, 0, Input::Serve(vec![served]));
    machine
}

fn served_with(offer: ModelOffer, queued_orders: u32) -> Served {
    let limits = HostLimits {
        concurrent_orders: 1,
        queued_orders,
        prompt_tokens: 1_024,
        output_tokens: 512,
    };
    Served { offer, limits }
}

fn ordered() -> Order {
    Order {
        model: MODEL,
        job: job(),
        max_cost: Msat(1_000_000),
        mode: PaymentMode::Metered,
        payment_grain: Msat(1),
        path: Path::Fast,
        retention: Retention::Keep,
        handling: Handling::Plain,
        salt: [6; 16],
        via: None,
        authority: Vec::new(),
        extensions: Vec::new(),
    }
}

fn order(n: u16) -> Signed {
    order_with(n, PaymentMode::Metered, Msat(1_000_000))
}

fn order_with(n: u16, mode: PaymentMode, max_cost: Msat) -> Signed {
    order_by(2, n, mode, max_cost)
}

/// An order of key `by`.
fn order_by(by: u8, n: u16, mode: PaymentMode, max_cost: Msat) -> Signed {
    let mut nonce = [0; 16];
    nonce[..2].copy_from_slice(&n.to_be_bytes());
    let body = Order {
        max_cost,
        mode,
        ..ordered()
    };
    let to = Some(keys(1).key());
    Signed::seal(&keys(by), NETWORK, to, at(0).wall, nonce, &body)
}

fn caller(n: u16) -> Caller {
    let mut tag = [0; 16];
    tag[..2].copy_from_slice(&n.to_be_bytes());
    Caller::alone(PeerTag(tag))
}

/// Peers that share an address.
fn neighbour(n: u16) -> Caller {
    let address = AddressTag([9; 16]);
    Caller {
        address,
        ..caller(n)
    }
}

/// A stranger's order arrives, and goes as far as its terms.
fn arrives(
    machine: &mut Inference,
    ms: u64,
    stream: u64,
    from: u16,
    signed: &Signed,
) -> Vec<Effect> {
    arrives_with(machine, ms, stream, from, signed, Msat::ZERO)
}

/// An order of a key with a window of `window` arrives, and goes as far as its terms.
fn arrives_with(
    machine: &mut Inference,
    ms: u64,
    stream: u64,
    from: u16,
    signed: &Signed,
    window: Msat,
) -> Vec<Effect> {
    arrives_from(machine, ms, stream, caller(from), signed, window)
}

/// The same from any caller.
fn arrives_from(
    machine: &mut Inference,
    ms: u64,
    stream: u64,
    caller: Caller,
    signed: &Signed,
    window: Msat,
) -> Vec<Effect> {
    let stream = StreamId(stream);
    let mut all = feed(machine, ms, Input::Inbound { stream, caller });
    let frame = Box::new(Frame::Order(signed.clone()));
    all.extend(feed(machine, ms, Input::Received { stream, frame }));
    let order = OrderId::of(&signed.digest());
    let counting = all.iter().find_map(|effect| match effect {
        Effect::CountPrompt { id, .. } => Some(*id),
        _ => None,
    });
    let Some(id) = counting else { return all };
    let facts = PromptFacts {
        tokens: 8,
        cached: 0,
        longest: 8,
        digest: Digest([3; 32]),
    };
    let result = Ok(facts);
    all.extend(feed(machine, ms, Input::Counted { id, result }));
    let credit = Credit {
        window,
        prepay: window == Msat::ZERO,
        debt: Msat::ZERO,
    };
    let result = Ok(credit);
    all.extend(feed(machine, ms, Input::CreditOpened { order, result }));
    let (seq, hash) = (0, PaymentHash([1; 32]));
    let result = Ok(("entry".to_owned(), hash));
    let made = Input::InvoiceMade { order, seq, result };
    all.extend(feed(machine, ms, made));
    all
}

/// The buyer accepts the terms that are among `effects`.
fn terms_of(effects: &[Effect]) -> &Signed {
    let terms = effects.iter().find_map(|effect| match effect {
        Effect::Send { frame, .. } => match frame.as_ref() {
            Frame::Terms(terms) => Some(terms),
            _ => None,
        },
        _ => None,
    });
    terms.expect("terms")
}

fn accepts(machine: &mut Inference, ms: u64, stream: u64, effects: &[Effect]) -> Vec<Effect> {
    let accept = Frame::Accept(terms_of(effects).digest());
    let (stream, frame) = (StreamId(stream), Box::new(accept));
    feed(machine, ms, Input::Received { stream, frame })
}

fn cancels(machine: &mut Inference, ms: u64, stream: u64) -> Vec<Effect> {
    let (stream, frame) = (StreamId(stream), Box::new(Frame::Cancel));
    feed(machine, ms, Input::Received { stream, frame })
}

fn begins(effects: &[Effect]) -> bool {
    let starts = |effect: &Effect| matches!(effect, Effect::StartEngine { .. });
    effects.iter().any(starts)
}

/// The accounts among `effects`, with what is owed.
fn accounts(effects: &[Effect]) -> Vec<(Counts, Msat)> {
    let closed = effects.iter().filter_map(|effect| match effect {
        Effect::Tell(Message::CloseOrder { account, unpaid }) => Some((account.counts, *unpaid)),
        _ => None,
    });
    closed.collect()
}

fn counts(output_tokens: u64) -> Counts {
    Counts {
        input_tokens: 8,
        output_tokens,
        ..Counts::default()
    }
}

fn token(n: u32) -> ChainedToken {
    ChainedToken {
        id: n,
        logits: NO_LOGITS,
        piece: Piece::text(format!(" {n}")),
    }
}

/// An order arrives, and its prompt is not counted yet.
fn comes(
    machine: &mut Inference,
    ms: u64,
    stream: u64,
    caller: Caller,
    signed: &Signed,
) -> Vec<Effect> {
    let stream = StreamId(stream);
    let mut all = feed(machine, ms, Input::Inbound { stream, caller });
    let frame = Box::new(Frame::Order(signed.clone()));
    all.extend(feed(machine, ms, Input::Received { stream, frame }));
    all
}

/// The entry of an order is settled.
fn entry_paid(machine: &mut Inference, ms: u64, signed: &Signed) -> Vec<Effect> {
    let granted = Input::CreditGranted {
        order: OrderId::of(&signed.digest()),
        seq: 0,
        hash: PaymentHash([1; 32]),
        msat: Msat(1_800),
        window: Msat(1_800),
    };
    feed(machine, ms, granted)
}
