//! Orders of strangers at a host, and hosts' answers at a buyer, frame by frame.

mod buyer;
mod host;

use super::{ENTRY_GRACE_MS, HostState, Inference, MAX_UNPAID, Sender};
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
use crate::machine::{Machine, Outbox, Record, Table};
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

#[test]
fn input_that_was_invoiced_is_booked_though_no_token_came() {
    let mut machine = host();
    let signed = order(1);
    let order = OrderId::of(&signed.digest());
    let effects = arrives_with(&mut machine, 0, 1, 1, &signed, Msat(4_000));
    accepts(&mut machine, 1, 1, &effects);
    // The buyer wants no more before there is anything, and then does not pay in time.
    let (stream, frame) = (StreamId(1), Box::new(Frame::Stop));
    let effects = feed(&mut machine, 2, Input::Received { stream, frame });
    let invoiced = |effect: &Effect| matches!(effect, Effect::Tell(Message::MakeInvoice { seq: 1, msat, .. }) if *msat == Msat(800));
    assert!(effects.iter().any(invoiced), "{effects:?}");
    let result = Ok(("invoice".to_owned(), PaymentHash([1; 32])));
    let seq = 1;
    feed(&mut machine, 3, Input::InvoiceMade { order, seq, result });
    let mut out = Outbox::default();
    machine.expire(at(600_000), &mut out);
    let effects: Vec<_> = out.drain().collect();
    assert_eq!(accounts(&effects), [(counts(0), Msat(800))]);
}

#[test]
fn free_answers_are_no_unpaid_orders() {
    let free = ModelOffer {
        prices: Prices::chat(0, 0),
        ..offer()
    };
    let mut machine = host_of(free);
    for n in 0..2 * MAX_VOID_PER_MINUTE as u16 {
        let (ms, stream) = (u64::from(n) * 10, u64::from(n));
        let signed = order(n);
        let effects = arrives(&mut machine, ms, stream, 1, &signed);
        assert_eq!(refusals(&effects), [], "order {n}");
        accepts(&mut machine, ms, stream, &effects);
        let produced = Input::Produced {
            order: OrderId::of(&signed.digest()),
            tokens: vec![token(1)],
            finish: Some(Finish::Stop),
            attached: Default::default(),
        };
        feed(&mut machine, ms + 1, produced);
        let stream = StreamId(stream);
        feed(&mut machine, ms + 2, Input::Closed { stream });
        assert_eq!(machine.active(), 0);
    }
}

#[test]
fn a_peer_that_never_pays_is_soon_refused_and_others_are_not() {
    let mut machine = host();
    let mut taken = 0;
    for n in 0..200 {
        let effects = arrives(&mut machine, 0, u64::from(n), 1, &order(n));
        taken += usize::from(refusals(&effects).is_empty());
        let (stream, frame) = (StreamId(u64::from(n)), Box::new(Frame::Cancel));
        feed(&mut machine, 0, Input::Received { stream, frame });
    }
    assert_eq!(taken, MAX_VOID_PER_MINUTE as usize);
    let other = arrives(&mut machine, 0, 500, 2, &order(500));
    assert_eq!(refusals(&other), []);
    // A minute later it may try again.
    let mut out = Outbox::default();
    machine.expire(at(61_000), &mut out);
    let again = arrives(&mut machine, 61_000, 501, 1, &order(501));
    assert_eq!(refusals(&again), []);
}

#[test]
fn an_order_that_is_sent_again_is_not_served_again() {
    let mut machine = host();
    let signed = order(1);
    let terms = arrives_with(&mut machine, 0, 1, 1, &signed, WINDOW);
    assert!(begins(&accepts(&mut machine, 0, 1, &terms)));
    // While it is under way, and when it is over.
    let again = arrives(&mut machine, 1, 2, 2, &signed);
    assert_eq!(refusals(&again), [Code::BadOrder]);
    feed(
        &mut machine,
        2,
        Input::Closed {
            stream: StreamId(1),
        },
    );
    let again = arrives(&mut machine, 3, 3, 2, &signed);
    assert_eq!(refusals(&again), [Code::BadEnvelope]);
}

#[test]
fn nothing_is_written_for_who_has_not_paid() {
    let mut machine = host();
    let mut all = arrives(&mut machine, 0, 1, 1, &order(1));
    all.extend(accepts(&mut machine, 1, 1, &all));
    all.extend(cancels(&mut machine, 2, 1));
    assert_eq!(writes(&all), []);
    // The order is told to Payment, which has nothing to book.
    assert_eq!(machine.active(), 0);
}

#[test]
fn orders_without_a_payment_leave_no_nonce_and_those_on_credit_half_of_them() {
    let mut machine = host();
    let mut written = 0;
    for n in 0..200 {
        let stream = u64::from(n);
        let effects = arrives(&mut machine, 0, stream, n, &order(n));
        written += writes(&effects).len() + writes(&cancels(&mut machine, 0, stream)).len();
    }
    assert_eq!(written, 0);
    let credit = limits::MAX_NONCES / 2;
    for n in 0..credit as u64 {
        let mut key = [0; 48];
        key[..8].copy_from_slice(&n.to_be_bytes());
        let forget = crate::codec::encode(&at(700_000).wall);
        machine.replay.restore(&key, &forget);
    }
    let terms = arrives_with(&mut machine, 1, 900, 1, &order(900), WINDOW);
    let full = accepts(&mut machine, 1, 900, &terms);
    assert_eq!(refusals(&full), [Code::TooManyUnpaid]);
    // Whoever pays is served.
    let signed = order(901);
    let terms = arrives(&mut machine, 2, 901, 2, &signed);
    accepts(&mut machine, 2, 901, &terms);
    let effects = entry_paid(&mut machine, 3, &signed);
    assert!(begins(&effects));
    assert_eq!(writes(&effects)[0].table, Table::OpenOrders);
    assert!(
        writes(&effects)
            .iter()
            .any(|record| record.table == Table::Nonces)
    );
}

#[test]
fn a_known_key_holds_no_place_before_it_accepts() {
    let mut machine = host();
    let first = arrives_with(&mut machine, 0, 1, 1, &order(1), WINDOW);
    let second = arrives_with(&mut machine, 0, 2, 2, &order(2), WINDOW);
    assert_eq!(refusals(&second), []);
    assert!(begins(&accepts(&mut machine, 1, 2, &second)));
    // Now the only place is taken.
    let third = arrives_with(&mut machine, 1, 3, 3, &order(3), WINDOW);
    assert_eq!(refusals(&third), [Code::Busy]);
    // Who accepted late waits.
    assert!(!begins(&accepts(&mut machine, 2, 1, &first)));
    assert_eq!(machine.active(), 2);
}

#[test]
fn known_keys_that_pay_nothing_are_counted_as_void() {
    let mut machine = host();
    let mut taken = 0;
    for n in 0..200 {
        let stream = u64::from(n);
        // Another peer each time, always the same key.
        let effects = arrives_with(&mut machine, 0, stream, n, &order(n), WINDOW);
        taken += usize::from(refusals(&effects).is_empty());
        cancels(&mut machine, 0, stream);
    }
    assert_eq!(taken, MAX_VOID_PER_MINUTE as usize);
}

#[test]
fn a_prefill_that_is_cancelled_is_owed_and_one_that_failed_is_not() {
    let owed = |effects: &[Effect]| {
        effects.iter().find_map(|effect| match effect {
            Effect::Tell(Message::CloseOrder { account, unpaid }) => {
                Some((account.counts.input_tokens, *unpaid))
            }
            _ => None,
        })
    };
    let mut machine = host();
    let terms = arrives_with(&mut machine, 0, 1, 1, &order(1), WINDOW);
    accepts(&mut machine, 1, 1, &terms);
    // Eight tokens at a hundred msat.
    let cancelled = cancels(&mut machine, 2, 1);
    assert_eq!(owed(&cancelled), Some((8, Msat(800))));
    let signed = order(2);
    let terms = arrives_with(&mut machine, 3, 2, 1, &signed, WINDOW);
    accepts(&mut machine, 4, 2, &terms);
    let failed = Input::EngineFailed {
        order: OrderId::of(&signed.digest()),
        reason: "a fault".into(),
    };
    let failed = feed(&mut machine, 5, failed);
    assert_eq!(owed(&failed), Some((0, Msat::ZERO)));
}

#[test]
fn an_order_whose_cap_ends_at_the_input_is_refused_before_it_is_paid() {
    let mut machine = host();
    machine.config.modes = vec![PaymentMode::Metered, PaymentMode::Before];
    for (n, cap) in [(1, 700), (2, 800), (3, 1_049)] {
        let signed = order_with(n, PaymentMode::Before, Msat(cap));
        let effects = arrives(&mut machine, 0, u64::from(n), n, &signed);
        assert_eq!(refusals(&effects), [Code::CapTooLow], "a cap of {cap}");
    }
    let signed = order_with(4, PaymentMode::Before, Msat(1_050));
    assert_eq!(refusals(&arrives(&mut machine, 0, 4, 4, &signed)), []);
}

#[test]
fn an_accepted_order_gives_way_only_when_its_payment_should_have_come() {
    let mut machine = host();
    for n in 0..MAX_UNPAID as u16 {
        let stream = u64::from(n);
        let effects = arrives(&mut machine, 0, stream, n, &order(n));
        accepts(&mut machine, 0, stream, &effects);
    }
    let refused = arrives(&mut machine, 1, 900, 900, &order(900));
    assert_eq!(refusals(&refused), [Code::TooManyUnpaid]);
    let looks = |effect: &Effect| matches!(effect, Effect::CountPrompt { .. });
    assert!(
        !refused.iter().any(looks),
        "it is the newcomer that is refused"
    );
    assert_eq!(machine.active(), MAX_UNPAID);
    let later = arrives(&mut machine, ENTRY_GRACE_MS, 901, 901, &order(901));
    // One was told that it gave way, the newcomer has its terms.
    assert_eq!(refusals(&later), [Code::TooManyUnpaid]);
    assert_eq!(machine.active(), MAX_UNPAID);
    let effects =
        |effect: &Effect| matches!(effect, Effect::Send { frame, .. } if frame.name() == "terms");
    assert!(later.iter().any(effects));
}

#[test]
fn orders_that_cost_less_than_a_msat_stand_one_at_a_time_and_are_void() {
    let mut machine = machine(1);
    let limits = HostLimits {
        concurrent_orders: 4,
        queued_orders: 8,
        prompt_tokens: 1_024,
        output_tokens: 512,
    };
    let mut offer = offer();
    // Eight tokens of input and 64 of output: 0.1 msat.
    offer.prices = Prices::chat(1_000, 1_500);
    feed(
        &mut machine,
        0,
        Input::Serve(vec![Served { offer, limits }]),
    );
    assert_eq!(refusals(&arrives(&mut machine, 0, 1, 1, &order(1))), []);
    let second = arrives(&mut machine, 0, 2, 2, &order(2));
    assert_eq!(refusals(&second), [Code::TooManyUnpaid]);
    // Who has credit is none of them.
    let known = arrives_with(&mut machine, 0, 4, 4, &order(4), WINDOW);
    assert_eq!(refusals(&known), []);
    cancels(&mut machine, 1, 1);
    assert_eq!(refusals(&arrives(&mut machine, 1, 3, 3, &order(3))), []);
}

#[test]
fn twelve_orders_of_one_peer_at_once_get_terms() {
    let mut machine = host();
    for n in 0..12 {
        let effects = arrives(&mut machine, 0, u64::from(n), 1, &order(n));
        assert_eq!(refusals(&effects), [], "order {n}");
        terms_of(&effects);
    }
    let more = arrives(&mut machine, 0, 12, 1, &order(12));
    assert_eq!(refusals(&more), [Code::TooManyUnpaid]);
}

#[test]
fn a_refused_order_leaves_no_nonce() {
    let mut machine = host();
    for n in 0..MAX_UNPAID_PER_PEER as u16 {
        arrives(&mut machine, 0, u64::from(n), 1, &order(n));
    }
    let refused = arrives(&mut machine, 0, 99, 1, &order(99));
    assert_eq!(refusals(&refused), [Code::TooManyUnpaid]);
    assert_eq!(writes(&refused), []);
}

#[test]
fn unpaid_orders_hold_no_place_and_the_oldest_gives_way() {
    let mut machine = host();
    let mut evicted = 0;
    for n in 0..MAX_UNPAID as u16 + 10 {
        let effects = arrives(&mut machine, u64::from(n), u64::from(n), n, &order(n));
        let codes = refusals(&effects);
        // The newcomer has its terms; whoever gave way is told so.
        assert!(
            codes.iter().all(|code| *code == Code::TooManyUnpaid),
            "{codes:?}"
        );
        for effect in &effects {
            if let Effect::Send { stream, frame } = effect
                && frame.name() == "refusal"
            {
                assert_eq!(stream.0, evicted, "the one that came first");
                evicted += 1;
            }
        }
        let terms = |effect: &Effect| matches!(effect, Effect::Send { frame, .. } if frame.name() == "terms");
        assert_eq!(effects.iter().filter(|effect| terms(effect)).count(), 1);
    }
    assert_eq!((machine.active(), evicted), (MAX_UNPAID, 10));
}

#[test]
fn an_order_that_runs_on_credit_gives_way_to_nobody() {
    let mut machine = host_with_queue(4);
    let terms = arrives_with(&mut machine, 0, 900, 900, &order(900), WINDOW);
    assert!(begins(&accepts(&mut machine, 1, 900, &terms)));
    let later = ENTRY_GRACE_MS + 10;
    for n in 0..MAX_UNPAID as u16 {
        let stream = u64::from(n);
        let effects = arrives(&mut machine, later, stream, n, &order(n));
        assert_eq!(refusals(&effects), []);
        accepts(&mut machine, later, stream, &effects);
    }
    let refused = arrives(&mut machine, later, 901, 901, &order(901));
    assert_eq!(refusals(&refused), [Code::TooManyUnpaid]);
    assert_eq!(machine.active(), MAX_UNPAID + 1);
}

#[test]
fn an_unpaid_order_counts_with_all_its_bytes() {
    let mut machine = host();
    let orders = [order(1), order(2)];
    for (n, signed) in (1..).zip(&orders) {
        arrives(&mut machine, 0, n, n as u16, signed);
    }
    let held: usize = machine.hosts.values().map(HostOrder::bytes).sum();
    let sent: usize = orders.iter().map(|signed| signed.bytes.len()).sum();
    assert_eq!(held, sent);
}

#[test]
fn an_order_that_ends_while_its_prompt_is_counted_cancels_the_count() {
    let mut machine = host();
    let (stream, signed) = (StreamId(1), order(1));
    feed(
        &mut machine,
        0,
        Input::Inbound {
            stream,
            caller: caller(1),
        },
    );
    let frame = Box::new(Frame::Order(signed.clone()));
    let effects = feed(&mut machine, 0, Input::Received { stream, frame });
    let counting = effects.iter().find_map(|effect| match effect {
        Effect::CountPrompt { id, .. } => Some(*id),
        _ => None,
    });
    let id = counting.unwrap();
    let effects = feed(&mut machine, 1, Input::Closed { stream });
    assert!(effects.contains(&Effect::CancelCount { id }));
    // One that is counted has nothing to cancel.
    let mut machine = host();
    arrives(&mut machine, 0, 1, 1, &signed);
    let effects = feed(&mut machine, 1, Input::Closed { stream });
    let cancels = |effect: &Effect| matches!(effect, Effect::CancelCount { .. });
    assert!(!effects.iter().any(cancels));
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

#[test]
fn an_order_of_a_key_that_paid_stands_apart_from_strangers_before_credit_is_looked_up() {
    let mut machine = host_with_queue(4);
    let of_payer = |n| order_by(3, n, PaymentMode::Metered, Msat(1_000_000));
    let counted_first = |effects: &[Effect]| {
        let counts = |effect: &Effect| match effect {
            Effect::CountPrompt { payer, .. } => Some(*payer),
            _ => None,
        };
        effects.iter().find_map(counts)
    };
    // Its first order is a stranger's. It pays 1,800 msat: a step of 1,000, and not two.
    let terms = arrives(&mut machine, 0, 9_000, 9_000, &of_payer(1));
    assert_eq!(counted_first(&terms), Some(false));
    accepts(&mut machine, 0, 9_000, &terms);
    assert!(begins(&entry_paid(&mut machine, 0, &of_payer(1))));
    let stream = StreamId(9_000);
    feed(&mut machine, 1, Input::Closed { stream });
    // One peer has as many orders as a stranger may, and others fill the places of strangers.
    for n in 0..MAX_UNPAID_PER_PEER as u16 {
        let effects = comes(&mut machine, 2, u64::from(n), caller(1), &order(n));
        assert_eq!(refusals(&effects), []);
    }
    for n in 100..100 + MAX_UNPAID as u16 {
        comes(&mut machine, 3, u64::from(n), caller(n), &order(n));
    }
    for n in 0..MAX_UNPAID_PER_PEER as u16 {
        let n = 1_000 + n;
        comes(&mut machine, 4, u64::from(n), caller(1), &order(n));
    }
    assert_eq!(machine.active(), MAX_UNPAID);
    let refused = comes(&mut machine, 5, 2_000, caller(1), &order(2_000));
    assert_eq!(refusals(&refused), [Code::TooManyUnpaid]);
    // From that very peer an order of the key is taken, and nobody gives way to it.
    let taken = comes(&mut machine, 5, 9_001, caller(1), &of_payer(2));
    assert_eq!(counted_first(&taken), Some(true));
    assert_eq!(refusals(&taken), []);
    assert_eq!(machine.active(), MAX_UNPAID + 1);
    // It paid for no more at once.
    let second = comes(&mut machine, 5, 9_002, caller(9_002), &of_payer(3));
    assert_eq!(counted_first(&second), Some(false));
    // However many come, it stays, also where no credit is left for it.
    let order_id = OrderId::of(&of_payer(2).digest());
    let stands = |machine: &Inference| machine.hosts.contains_key(&order_id);
    for n in 3_000..3_000 + 2 * MAX_UNPAID as u16 {
        comes(&mut machine, 6, u64::from(n), caller(n), &order(n));
    }
    assert!(stands(&machine));
    let id = machine.hosts.get(&order_id).map(|order| order.state);
    let Some(HostState::Counting(id)) = id else {
        panic!("{id:?}");
    };
    let result = Ok(PromptFacts {
        tokens: 8,
        cached: 0,
        longest: 8,
        digest: Digest([3; 32]),
    });
    feed(&mut machine, 7, Input::Counted { id, result });
    let credit = Credit {
        window: Msat::ZERO,
        prepay: true,
        debt: Msat::ZERO,
    };
    let (order_of, result) = (order_id, Ok(credit));
    let opened = Input::CreditOpened {
        order: order_of,
        result,
    };
    feed(&mut machine, 7, opened);
    for n in 5_000..5_000 + 2 * MAX_UNPAID as u16 {
        comes(&mut machine, 8, u64::from(n), caller(n), &order(n));
    }
    assert!(stands(&machine));
    assert_eq!(machine.active(), MAX_UNPAID + 1);
}

#[test]
fn orders_of_keys_that_paid_give_way_to_each_other_and_are_bounded_for_each_peer() {
    let mut machine = host_with_queue(20);
    let of_payer = |n| order_by(3, n, PaymentMode::Metered, Msat(1_000_000));
    machine.payers.paid(keys(3).key(), Msat(1_000_000));
    let stranger = comes(&mut machine, 0, 1, caller(1), &order(1));
    assert_eq!(refusals(&stranger), []);
    // As many orders of one peer may be unpaid as there are places.
    let most = 21;
    for n in 0..most {
        let effects = comes(&mut machine, 0, 10 + u64::from(n), caller(2), &of_payer(n));
        assert_eq!(refusals(&effects), [], "{n}");
    }
    let over = comes(&mut machine, 0, 99, caller(2), &of_payer(99));
    assert_eq!(refusals(&over), [Code::TooManyUnpaid]);
    for n in 100..100 + MAX_UNPAID as u16 {
        comes(&mut machine, 1, u64::from(n), caller(n), &of_payer(n));
    }
    assert_eq!(machine.active(), MAX_UNPAID + 1);
    let stranger = OrderId::of(&order(1).digest());
    assert!(machine.hosts.contains_key(&stranger));
}

#[test]
fn a_model_that_leaves_the_offer_ends_the_orders_that_have_not_begun() {
    let mut machine = host_with_queue(4);
    let send = |machine: &mut Inference, stream: u64| {
        let effects = arrives(machine, 0, stream, stream as u16, &order(stream as u16));
        assert_eq!(refusals(&effects), [], "{stream}");
        effects
    };
    // One runs, one is paid for and waits, one is accepted, one has its terms, one is counted.
    for stream in [1, 2, 3] {
        let terms = send(&mut machine, stream);
        accepts(&mut machine, 0, stream, &terms);
    }
    assert!(begins(&entry_paid(&mut machine, 0, &order(1))));
    assert!(!begins(&entry_paid(&mut machine, 0, &order(2))));
    send(&mut machine, 4);
    comes(&mut machine, 0, 5, caller(5), &order(5));
    assert_eq!(machine.active(), 5);

    let effects = feed(&mut machine, 1, Input::Serve(Vec::new()));
    assert_eq!(refusals(&effects), [Code::EngineFailed; 4]);
    let ends = effects.iter().filter_map(|effect| match effect {
        Effect::Close { stream } => Some(stream.0),
        _ => None,
    });
    let mut ends: Vec<u64> = ends.collect();
    ends.sort();
    assert_eq!(ends, [2, 3, 4, 5]);
    assert_eq!(accounts(&effects).len(), 4);
    // No sender is blamed, and what runs is its engine's to end.
    assert_eq!(machine.active(), 1);
    let blamed = |sender: &Sender| !matches!(sender, Sender::Address(_));
    assert!(!machine.voids.keys().any(blamed), "{:?}", machine.voids);
    // A payment that was under way finds no order that would wait for ever.
    let late = entry_paid(&mut machine, 2, &order(3));
    assert!(!begins(&late));
    assert_eq!(machine.active(), 1);
    // Of a model that stays nothing ends.
    let served = served_with(offer(), 4);
    let back = |machine: &mut Inference| feed(machine, 3, Input::Serve(vec![served.clone()]));
    back(&mut machine);
    send(&mut machine, 6);
    assert_eq!(refusals(&back(&mut machine)), []);
    assert_eq!(machine.active(), 2);
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

#[test]
fn terms_announce_what_makes_a_buyer_wait_for_the_longest_answer_ahead() {
    let mut machine = host_with_queue(4);
    let starts_within = |effects: &[Effect], ms| {
        let buyer = keys(2);
        let terms = terms_of(effects).open::<Terms>(&buyer, NETWORK, &buyer.key(), at(ms).wall);
        terms.unwrap().body.starts_within_ms
    };
    let first = order(1);
    let effects = arrives(&mut machine, 0, 1, 1, &first);
    assert_eq!(starts_within(&effects, 0), 0);
    accepts(&mut machine, 1, 1, &effects);
    entry_paid(&mut machine, 2, &first);
    // Nothing is known of its pace: it is taken for a usual order.
    let effects = arrives(&mut machine, 2, 2, 2, &order(2));
    assert_eq!(starts_within(&effects, 2), 10_000);
    // Eight of 64 tokens in 80 s: the others may take 560 s and an eighth more, and a buyer waits
    // for 180 s and twice what was announced.
    let produced = Input::Produced {
        order: OrderId::of(&first.digest()),
        tokens: (0..8).map(token).collect(),
        finish: None,
        attached: Default::default(),
    };
    feed(&mut machine, 80_002, produced);
    let effects = arrives(&mut machine, 80_002, 3, 3, &order(3));
    assert_eq!(starts_within(&effects, 80_002), (630_000 - 180_000) / 2);
    // It ends there: an order takes some 19 s, its 64 tokens may take 640 s and an eighth more.
    let (stream, frame) = (StreamId(1), Box::new(Frame::Stop));
    feed(&mut machine, 80_002, Input::Received { stream, frame });
    let fourth = order(4);
    let effects = arrives(&mut machine, 80_002, 4, 4, &fourth);
    assert_eq!(starts_within(&effects, 80_002), 0);
    accepts(&mut machine, 80_003, 4, &effects);
    entry_paid(&mut machine, 80_003, &fourth);
    let effects = arrives(&mut machine, 80_003, 5, 5, &order(5));
    assert_eq!(starts_within(&effects, 80_003), (720_000 - 180_000) / 2);
}

#[test]
fn a_buyer_that_pays_late_does_not_lengthen_announced_waits() {
    // What is announced behind one order, after another whose buyer left `late_ms` after the
    // engine stood for want of payment.
    let announced = |late_ms: u64| {
        let mut machine = host_with_queue(4);
        let first = order(1);
        let effects = arrives(&mut machine, 0, 1, 1, &first);
        accepts(&mut machine, 1, 1, &effects);
        let effects = entry_paid(&mut machine, 2, &first);
        let allowed = effects.iter().find_map(|effect| match effect {
            Effect::StartEngine { allowed, .. } => Some(*allowed),
            _ => None,
        });
        let produced = Input::Produced {
            order: OrderId::of(&first.digest()),
            tokens: (0..allowed.unwrap() as u32).map(token).collect(),
            finish: None,
            attached: Default::default(),
        };
        feed(&mut machine, 1_002, produced);
        let stream = StreamId(1);
        feed(&mut machine, 1_002 + late_ms, Input::Closed { stream });
        let second = order(2);
        let effects = arrives(&mut machine, 70_000, 2, 2, &second);
        accepts(&mut machine, 70_001, 2, &effects);
        entry_paid(&mut machine, 70_002, &second);
        let effects = arrives(&mut machine, 70_002, 3, 3, &order(3));
        let buyer = keys(2);
        let terms =
            terms_of(&effects).open::<Terms>(&buyer, NETWORK, &buyer.key(), at(70_002).wall);
        terms.unwrap().body.starts_within_ms
    };
    assert!(announced(0) > 0);
    assert_eq!(announced(0), announced(50_000));
}

#[test]
fn who_gave_way_to_a_flood_is_not_counted_as_unpaid() {
    let mut machine = host();
    let mut number = 0;
    let mut arrive = |machine: &mut Inference, from: u16| {
        number += 1;
        let (ms, signed) = (u64::from(number), order(number));
        arrives_from(machine, ms, ms, neighbour(from), &signed, Msat::ZERO)
    };
    for _ in 0..=MAX_VOID_PER_MINUTE {
        let effects = arrive(&mut machine, 1);
        let looks = |effect: &Effect| matches!(effect, Effect::CountPrompt { .. });
        assert!(effects.iter().any(looks), "{:?}", refusals(&effects));
        // Others of its address push it out.
        for from in 0..MAX_UNPAID_PER_ADDRESS as u16 {
            arrive(&mut machine, 1_000 + from);
        }
    }
}

#[test]
fn an_order_whose_entry_payment_is_late_is_served_while_its_stream_lives() {
    let mut machine = host();
    let signed = order(1);
    let effects = arrives(&mut machine, 0, 1, 1, &signed);
    accepts(&mut machine, 1, 1, &effects);
    // Past the terms' life and the invoice's expiry.
    let late = 150_000;
    let mut out = Outbox::default();
    machine.expire(at(late), &mut out);
    let effects = entry_paid(&mut machine, late, &signed);
    let starts = |effect: &Effect| matches!(effect, Effect::StartEngine { .. });
    assert!(effects.iter().any(starts), "{effects:?}");
    // Money came: now it is written down.
    assert!(
        writes(&effects)
            .iter()
            .any(|record| record.table == Table::OpenOrders)
    );
}

#[test]
fn whoever_opens_many_streams_loses_its_own() {
    let mut machine = host();
    let open = |machine: &mut Inference, stream: u64, from: u16| {
        let (stream, caller) = (StreamId(stream), caller(from));
        let effects = feed(machine, 0, Input::Inbound { stream, caller });
        effects.iter().find_map(|effect| match effect {
            Effect::Close { stream } => Some(stream.0),
            _ => None,
        })
    };
    assert_eq!(open(&mut machine, 0, 7), None);
    for stream in 1..200 {
        let closed = open(&mut machine, stream, 1);
        assert_ne!(closed, Some(0), "the lone stream of another peer stays");
    }
}

#[test]
fn an_address_with_many_peers_loses_its_own_streams() {
    let mut machine = host();
    let open = |machine: &mut Inference, stream: u64, caller: Caller| {
        let stream = StreamId(stream);
        let effects = feed(machine, 0, Input::Inbound { stream, caller });
        effects.iter().find_map(|effect| match effect {
            Effect::Close { stream } => Some(stream.0),
            _ => None,
        })
    };
    // Two streams of one peer elsewhere, then one of each of many peers.
    assert_eq!(open(&mut machine, 0, caller(7)), None);
    assert_eq!(open(&mut machine, 1, caller(7)), None);
    for stream in 2..200 {
        let closed = open(&mut machine, stream, neighbour(stream as u16));
        assert!(!matches!(closed, Some(0 | 1)), "{closed:?}");
    }
}

#[test]
fn unpaid_orders_of_an_address_give_way_to_its_newer_ones_and_to_no_other_address() {
    let mut machine = host();
    let elsewhere = arrives(&mut machine, 0, 999, 999, &order(999));
    assert_eq!(refusals(&elsewhere), []);
    let mut evicted = Vec::new();
    for n in 0..3 * MAX_UNPAID_PER_ADDRESS as u16 {
        let (ms, stream) = (1 + u64::from(n), u64::from(n));
        let signed = order(n);
        let effects = arrives_from(&mut machine, ms, stream, neighbour(n), &signed, Msat::ZERO);
        evicted.extend(effects.iter().filter_map(|effect| match effect {
            Effect::Close { stream } => Some(stream.0),
            _ => None,
        }));
    }
    assert_eq!(machine.active(), MAX_UNPAID_PER_ADDRESS + 1);
    let first: Vec<u64> = (0..2 * MAX_UNPAID_PER_ADDRESS as u64).collect();
    assert_eq!(evicted, first, "the oldest go first");
    // Where all of them are accepted, their payments may be on their way.
    let mut machine = host();
    for n in 0..MAX_UNPAID_PER_ADDRESS as u16 {
        let stream = u64::from(n);
        let terms = arrives_from(&mut machine, 0, stream, neighbour(n), &order(n), Msat::ZERO);
        accepts(&mut machine, 0, stream, &terms);
    }
    let refused = arrives_from(&mut machine, 1, 99, neighbour(99), &order(99), Msat::ZERO);
    assert_eq!(refusals(&refused), [Code::TooManyUnpaid]);
    assert_eq!(
        refusals(&arrives(&mut machine, 1, 999, 999, &order(999))),
        []
    );
}

#[test]
fn an_address_that_never_pays_is_offered_nothing_for_a_while_and_who_has_credit_is() {
    let mut machine = host();
    let mut offered = 0;
    let offers = |effects: &[Effect]| {
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::Send { frame, .. } if frame.name() == "terms"))
    };
    for n in 0..2 * MAX_VOID_PER_ADDRESS as u16 {
        let stream = u64::from(n);
        let signed = order(n);
        let effects = arrives_from(&mut machine, 0, stream, neighbour(n), &signed, Msat::ZERO);
        offered += u32::from(offers(&effects));
        cancels(&mut machine, 0, stream);
    }
    assert_eq!(offered, MAX_VOID_PER_ADDRESS);
    let refused = arrives_from(
        &mut machine,
        1,
        700,
        neighbour(700),
        &order(700),
        Msat::ZERO,
    );
    assert_eq!(refusals(&refused), [Code::TooManyUnpaid]);
    let known = arrives_from(&mut machine, 1, 701, neighbour(701), &order(701), WINDOW);
    assert!(offers(&known));
    assert!(offers(&arrives(&mut machine, 1, 702, 702, &order(702))));
    // A minute later strangers of that address are strangers like others.
    let mut out = Outbox::default();
    machine.expire(at(61_000), &mut out);
    let again = arrives_from(
        &mut machine,
        61_000,
        703,
        neighbour(703),
        &order(703),
        Msat::ZERO,
    );
    assert!(offers(&again));
}

/// A buyer that has sent its order to the first of `hosts`.
struct Buyer {
    machine: Inference,
    order: Option<Signed>,
    /// Digest of the terms that the host sent last.
    offered: Option<Digest>,
    said: Vec<BuyerEvent>,
    told: Vec<Message>,
    dials: Vec<NodeKey>,
    /// Names of the frames sent.
    sent: Vec<&'static str>,
    /// How many of them find no stream of this node.
    no_dials: usize,
    /// How many of them find nobody there.
    ghosts: usize,
    written: Vec<Record>,
    /// Signatures under payments that it sent.
    paid: Vec<Signed>,
    /// Why its own wallet sets nothing aside.
    refuses: Option<Code>,
    /// The count of the prompt that was asked for last.
    counting: Option<EffectId>,
    /// From which position on how many tokens were held against the vocabulary.
    checked: Vec<(u64, usize)>,
    /// Otherwise it is over when the terms come.
    counts_slowly: bool,
    /// Hosts that the vocabulary is fetched from.
    sources: Vec<NodeKey>,
    stream: u64,
    ms: u64,
}

fn candidate(n: u8) -> Candidate {
    Candidate {
        host: keys(n).key(),
        lightning: LIGHTNING,
        offer: offer(),
        quantum: Msat(1_000),
        keep_days: 90,
        addresses: Vec::new(),
        score: ScoreCard::blank(keys(n).key(), MODEL),
    }
}

impl Buyer {
    fn new(hosts: &[u8], mode: PaymentMode) -> Self {
        Buyer::among(hosts.iter().map(|n| candidate(*n)).collect(), mode)
    }

    fn among(hosts: Vec<Candidate>, mode: PaymentMode) -> Self {
        Buyer::capped(hosts, mode, Msat(1_000_000))
    }

    fn capped(hosts: Vec<Candidate>, mode: PaymentMode, max_cost: Msat) -> Self {
        Buyer::asking(hosts, mode, max_cost, job())
    }

    fn asking(hosts: Vec<Candidate>, mode: PaymentMode, max_cost: Msat, job: Job) -> Self {
        let mut buyer = Buyer::idle();
        buyer.buys(hosts, (mode, max_cost, job), false);
        buyer
    }

    fn idle() -> Self {
        Buyer {
            machine: machine(9),
            order: None,
            offered: None,
            said: Vec::new(),
            told: Vec::new(),
            dials: Vec::new(),
            sent: Vec::new(),
            no_dials: 0,
            ghosts: 0,
            written: Vec::new(),
            paid: Vec::new(),
            refuses: None,
            counting: None,
            counts_slowly: false,
            checked: Vec::new(),
            sources: Vec::new(),
            stream: 0,
            ms: 0,
        }
    }

    /// Wants the usual of these hosts.
    fn wants(&mut self, hosts: &[u8], confirm: bool) {
        let hosts = hosts.iter().map(|n| candidate(*n)).collect();
        let usual = (PaymentMode::Metered, Msat(1_000_000), job());
        self.buys(hosts, usual, confirm);
    }

    fn buys(
        &mut self,
        hosts: Vec<Candidate>,
        (mode, max_cost, job): (PaymentMode, Msat, Job),
        confirm: bool,
    ) {
        let request = RequestId(1);
        self.feed(Input::Buy(Box::new(BuyRequest {
            request,
            model: ModelSelector::Any,
            job,
            max_cost,
            mode,
            path: Path::Fast,
            retention: Retention::Keep,
            handling: Handling::Plain,
            budget: "cli".into(),
            host: None,
            confirm,
            audit: false,
            private: false,
        })));
        let result = match self.refuses {
            Some(code) => Err(Refusal::new(code, "no")),
            None => Ok(()),
        };
        self.feed(Input::Reserved { request, result });
        self.feed(Input::Candidates { request, hosts });
    }

    /// Dials succeed at once, but for the first `no_dials` of them.
    fn feed(&mut self, input: Input) {
        self.ms += 1;
        let effects = feed(&mut self.machine, self.ms, input);
        self.perform(effects);
    }

    /// So much time passes; what is due is done.
    fn waits(&mut self, ms: u64) {
        self.ms += ms;
        let mut out = Outbox::default();
        self.machine.expire(at(self.ms), &mut out);
        self.perform(out.drain().collect());
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        let mut turns = vec![effects];
        while let Some(effects) = turns.pop() {
            let mut inputs = Vec::new();
            for effect in effects {
                match effect {
                    Effect::OpenStream { id, host, .. } => {
                        self.dials.push(host);
                        if self.dials.len() <= self.no_dials.max(self.ghosts) {
                            let ours = self.dials.len() <= self.no_dials;
                            let reason = "no stream".to_owned();
                            inputs.push(Input::OpenFailed { id, reason, ours });
                            continue;
                        }
                        self.stream += 1;
                        let stream = StreamId(self.stream);
                        inputs.push(Input::Opened { id, stream });
                    }
                    Effect::Send { frame, .. } => {
                        self.sent.push(frame.name());
                        match *frame {
                            Frame::Order(signed) => self.order = Some(signed),
                            Frame::Paid(signed) => self.paid.push(signed),
                            _ => {}
                        }
                    }
                    Effect::CountInput { id, .. } => {
                        assert!(self.order.is_some(), "the order goes first");
                        self.counting = Some(id);
                    }
                    Effect::CheckPieces { from, tokens, .. } => {
                        self.checked.push((from, tokens.len()));
                    }
                    Effect::FetchVocabulary { hosts, .. } => {
                        self.sources.extend(hosts.iter().map(|source| source.host));
                    }
                    Effect::Deliver { event, .. } => self.said.push(event),
                    Effect::Tell(message) => self.told.push(message),
                    Effect::Persist(records) => self.written.extend(records),
                    _ => {}
                }
            }
            for input in inputs {
                turns.push(feed(&mut self.machine, self.ms, input));
            }
        }
    }

    /// Terms with an entry payment of `msat`, for input and one step of output.
    fn with_entry(&self, mut terms: Terms, msat: u64) -> Terms {
        let order = OrderId::of(&self.order.as_ref().unwrap().digest());
        let facts = InvoiceFacts {
            payee: LIGHTNING,
            hash: PaymentHash([self.stream as u8; 32]),
            msat: Some(Msat(msat)),
            description_hash: Some(description_hash(&order, 0, &terms.input)),
            expires: at(600_000).wall,
        };
        terms.entry = Some(EntryInvoice {
            bolt11: serde_json::to_string(&facts).unwrap(),
            msat: Msat(msat),
        });
        terms
    }

    fn hears_offer(&mut self, terms: &Terms) {
        let terms = self.seal(terms);
        self.offered = Some(terms.digest());
        self.hears(Frame::Terms(terms));
    }

    /// What the host's history was told: failures, refusals.
    fn blamed(&self) -> (usize, usize) {
        let told = self.told.iter().filter_map(|message| match message {
            Message::Happened(outcome) => Some(outcome),
            _ => None,
        });
        told.fold((0, 0), |(failed, refused), outcome| {
            match (outcome.refused, outcome.failure) {
                (Some(_), _) => (failed, refused + 1),
                (None, Some(code)) => (failed + usize::from(code.is_hosts_fault()), refused),
                (None, None) => (failed, refused),
            }
        })
    }

    fn pays_entry(&mut self) {
        let terms = self.with_entry(self.terms(), 1_800);
        self.hears_offer(&terms);
        assert_eq!(self.payments(), 1);
    }

    fn settles(&mut self, seq: u32) {
        let order = OrderId::of(&self.order.as_ref().unwrap().digest());
        self.feed(Input::Settled {
            order,
            seq,
            hash: PaymentHash([self.stream as u8; 32]),
            preimage: None,
            msat: Msat(1_800),
            fee: Msat::ZERO,
            ms: 1,
        });
    }

    fn hears(&mut self, frame: Frame) {
        if matches!(frame, Frame::Terms(_)) && self.counting.is_some() && !self.counts_slowly {
            self.counts(InputCount::Unknown);
        }
        let (stream, frame) = (StreamId(self.stream), Box::new(frame));
        self.feed(Input::Received { stream, frame });
    }

    fn offences(&self) -> Vec<OffenceKind> {
        let offences = self.told.iter().filter_map(|message| match message {
            Message::Offended(offence) => Some(offence.kind.clone()),
            _ => None,
        });
        offences.collect()
    }

    fn payments(&self) -> usize {
        let pays = |message: &&Message| matches!(message, Message::Pay(_));
        self.told.iter().filter(pays).count()
    }

    fn seal<T: Body>(&self, body: &T) -> Signed {
        let dialed = self.dials.last().unwrap();
        let by = (1..9).map(keys).find(|keys| keys.key() == *dialed).unwrap();
        let order = self.order.as_ref().unwrap();
        let envelope: crate::wire::envelope::Envelope =
            crate::codec::decode(&order.bytes, 1 << 20).unwrap();
        let nonce = [self.ms as u8; 16];
        Signed::seal(
            &by,
            NETWORK,
            Some(envelope.from),
            at(self.ms).wall,
            nonce,
            body,
        )
    }

    fn terms(&self) -> Terms {
        Terms {
            order: self.order.as_ref().unwrap().digest(),
            input: Counts {
                input_tokens: 8,
                ..Counts::default()
            },
            prices: offer().prices,
            window: Msat(4_000),
            quantum: Msat(1_000),
            carried_debt: Msat::ZERO,
            entry: None,
            numerics: Some("exact".into()),
            tokenizer: Digest([10; 32]),
            template: Digest([11; 32]),
            starts_within_ms: 0,
            expires: at(self.ms + 60_000).wall,
            extensions: Vec::new(),
        }
    }

    /// Terms are accepted, and eight tokens arrive.
    fn streaming(mode: PaymentMode) -> (Self, TokenChain) {
        Buyer::streaming_with(mode, Msat(900_000), Msat::ZERO)
    }

    /// The same where the host was told that it may ask for `cost`, and takes up a debt.
    fn streaming_with(mode: PaymentMode, cost: Msat, carried_debt: Msat) -> (Self, TokenChain) {
        let max_cost = Config::new(NETWORK).fees.cap_for(cost);
        let mut buyer = Buyer::capped(vec![candidate(1)], mode, max_cost);
        let terms = Terms {
            carried_debt,
            ..buyer.terms()
        };
        buyer.hears_offer(&terms);
        buyer.hears(Frame::Chunk(chunk(0, (0..8).map(token).collect(), 8, None)));
        let chain = buyer.chain((0..8).map(token));
        (buyer, chain)
    }

    /// The chain over these tokens under the terms that the host sent.
    fn chain(&self, tokens: impl Iterator<Item = ChainedToken>) -> TokenChain {
        let order = self.order.as_ref().unwrap().digest();
        let mut chain = TokenChain::new(&order, &self.offered.unwrap());
        tokens.for_each(|token| chain.push(&token));
        chain
    }

    fn head(&self, tokens: std::ops::Range<u32>) -> Digest {
        self.chain(tokens.map(token)).head()
    }

    /// Asks for `msat` after eight tokens, which with the input cost 2,800.
    fn bills(&mut self, msat: u64, head: Digest) {
        self.bills_as(msat, head, |_, _| {});
    }

    /// The same with one thing changed in the invoice, or in its BOLT 11 string.
    fn bills_as(
        &mut self,
        msat: u64,
        head: Digest,
        change: impl FnOnce(&mut Invoice, &mut InvoiceFacts),
    ) {
        let order = OrderId::of(&self.order.as_ref().unwrap().digest());
        let mut invoice = Invoice {
            order,
            seq: self.payments() as u32 + 1,
            bolt11: String::new(),
            msat: Msat(msat),
            covers: counts(8),
            invoiced: Msat(msat),
            head,
            window: Msat(4_000),
            extensions: Vec::new(),
        };
        let mut facts = InvoiceFacts {
            payee: LIGHTNING,
            hash: PaymentHash([3 + invoice.seq as u8; 32]),
            msat: None,
            description_hash: None,
            expires: at(600_000).wall,
        };
        change(&mut invoice, &mut facts);
        facts.msat = facts.msat.or(Some(invoice.msat));
        let about = description_hash(&order, invoice.seq, &invoice.covers);
        facts.description_hash = facts.description_hash.or(Some(about));
        invoice.bolt11 = serde_json::to_string(&facts).unwrap();
        let signed = self.seal(&invoice);
        self.hears(Frame::Invoice(signed));
    }
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

fn embedded(id: u32, vector: &Vector) -> ChainedToken {
    ChainedToken {
        id,
        logits: vector_digest(vector),
        piece: Piece::default(),
    }
}

fn chunk(seq: u32, tokens: Vec<ChainedToken>, total: u64, finish: Option<Finish>) -> Chunk {
    Chunk {
        seq,
        tokens,
        totals: counts(total),
        finish,
        attached: Default::default(),
        extensions: Vec::new(),
    }
}

#[test]
fn whatever_a_host_refuses_with_the_next_one_is_asked() {
    for code in Code::ALL.iter().chain([&Code::Unknown(9_999)]) {
        let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
        buyer.hears(Frame::Refusal(Refusal::new(*code, "no")));
        assert_eq!(buyer.dials, [keys(1).key(), keys(3).key()], "{code:?}");
    }
}

#[test]
fn a_host_is_not_blamed_for_giving_no_credit_and_is_for_a_mode_that_it_lists() {
    let refused = |mode, code| {
        let mut buyer = Buyer::new(&[1, 3], mode);
        buyer.hears(Frame::Refusal(Refusal::new(code, "no")));
        assert_eq!(buyer.dials.len(), 2, "the next one is asked");
        buyer.blamed()
    };
    use PaymentMode::{After, Before, Metered};
    for (mode, code, blamed) in [
        (After, Code::ModeUnsupported, (0, 0)),
        (After, Code::Busy, (0, 1)),
        (Before, Code::ModeUnsupported, (0, 1)),
        (Metered, Code::ModeUnsupported, (0, 1)),
    ] {
        assert_eq!(refused(mode, code), blamed, "{mode:?} {code:?}");
    }
    // Once it spoke it failed, whatever it says.
    let (mut buyer, _) = Buyer::streaming(After);
    buyer.hears(Frame::Refusal(Refusal::new(Code::ModeUnsupported, "no")));
    assert_eq!(buyer.blamed(), (1, 0));
}

#[test]
fn where_no_host_offers_a_payment_mode_the_error_says_so() {
    let said = |mode| {
        let buyer = Buyer::new(&[], mode);
        let asked = buyer.told.iter().find_map(|message| match message {
            Message::CandidatesWanted { query, .. } => Some(query.mode),
            _ => None,
        });
        assert_eq!(asked, Some(mode));
        match buyer.said.last() {
            Some(BuyerEvent::Failed(refusal)) if refusal.code == Code::NoHost => {
                refusal.message.clone()
            }
            other => panic!("{other:?}"),
        }
    };
    assert!(said(PaymentMode::After).contains("in payment mode after"));
    assert!(said(PaymentMode::Before).contains("in payment mode before"));
    assert!(!said(PaymentMode::Metered).contains("payment mode"));
}

#[test]
fn whatever_a_host_refuses_with_once_it_was_paid_or_spoke_it_failed() {
    let refusal = |code| Frame::Refusal(Refusal::new(code, "no"));
    for code in Code::ALL.iter().chain([&Code::Unknown(9_999)]) {
        // The entry is under way, or settled.
        for settled in [false, true] {
            let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
            buyer.pays_entry();
            if settled {
                buyer.settles(0);
            }
            buyer.hears(refusal(*code));
            assert_eq!(buyer.blamed(), (1, 0), "{code:?} {settled}");
            assert_eq!(buyer.dials.len(), 1, "nobody else is paid for it");
        }
        // Words came, though nothing is paid yet.
        let (mut buyer, _) = Buyer::streaming(PaymentMode::Metered);
        buyer.hears(refusal(*code));
        assert_eq!(buyer.blamed(), (1, 0), "{code:?}");
    }
    // It took the order and did nothing for it: the next one is asked.
    let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
    let terms = buyer.terms();
    buyer.hears_offer(&terms);
    buyer.hears(refusal(Code::Busy));
    assert_eq!((buyer.blamed(), buyer.dials.len()), ((0, 1), 2));
}

#[test]
fn a_host_is_not_blamed_for_our_wallet_or_our_stop() {
    let refusal = |code| Frame::Refusal(Refusal::new(code, "no"));
    // Our payment is not there after half a minute: the host may well not have it.
    let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
    buyer.pays_entry();
    buyer.ms += 30_000;
    buyer.hears(refusal(Code::NotPaid));
    assert_eq!(buyer.blamed(), (0, 1));
    let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
    buyer.pays_entry();
    buyer.settles(0);
    buyer.ms += 30_000;
    buyer.hears(refusal(Code::NotPaid));
    assert_eq!(buyer.blamed(), (1, 0));
    let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
    buyer.pays_entry();
    buyer.feed(Input::Stop(RequestId(1)));
    buyer.hears(refusal(Code::Cancelled));
    assert_eq!(buyer.blamed(), (0, 0));
}

#[test]
fn output_that_may_be_under_way_is_a_window_and_no_more_than_was_ordered() {
    let unsure = |window: u64, paid: u64, tokens: u64| {
        let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
        let window = Msat(window);
        let terms = Terms {
            window,
            ..buyer.terms()
        };
        buyer.hears_offer(&terms);
        let words = (0..tokens as u32).map(token).collect();
        buyer.hears(Frame::Chunk(chunk(0, words, tokens, None)));
        if paid > 0 {
            let head = buyer.head(0..8);
            buyer.bills_as(paid, head, |invoice, _| invoice.window = window);
            buyer.settles(1);
        }
        let stream = StreamId(buyer.stream);
        buyer.feed(Input::Closed { stream });
        let accounts = buyer.told.iter().filter_map(|message| match message {
            Message::CloseOrder { account, .. } => Some(account.unsure),
            _ => None,
        });
        accounts.collect::<Vec<_>>()
    };
    assert_eq!(unsure(4_000, 0, 8), [Msat(4_000)]);
    // A payment widens it by its own amount.
    assert_eq!(unsure(4_000, 1_500, 8), [Msat(5_500)]);
    // 64 tokens were ordered: 56, or 4, are left.
    assert_eq!(unsure(1 << 60, 0, 8), [Msat(56 * 250)]);
    assert_eq!(unsure(4_000, 0, 60), [Msat(4 * 250)]);
    assert_eq!(unsure(4_000, 0, 64), [Msat::ZERO]);
}

#[test]
fn an_order_has_no_more_steps_than_its_evidence_holds_invoices() {
    // 64 tokens and the input cost 16,800, and 4,096 invoices are the most.
    for (quantum, dials) in [(4, 2), (5, 1)] {
        let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
        let quantum = Msat(quantum);
        let terms = Terms {
            quantum,
            ..buyer.terms()
        };
        buyer.hears_offer(&terms);
        assert_eq!(buyer.dials.len(), dials, "{quantum}");
        assert!(buyer.offences().iter().all(|kind| !kind.is_objective()));
    }
}

#[test]
fn an_order_whose_pieces_fill_its_evidence_ends_and_the_rest_is_kept() {
    let mut job = job();
    job.max_output = 4_096;
    let mut host = candidate(1);
    host.offer.context = 1 << 20;
    let mut buyer = Buyer::asking(vec![host], PaymentMode::Metered, Msat(10_000_000), job);
    let terms = buyer.terms();
    buyer.hears_offer(&terms);
    let long = |n| ChainedToken {
        piece: Piece::text(vec![b'x'; 4_096]),
        ..token(n)
    };
    let mut heard = 0;
    while !matches!(buyer.said.last(), Some(BuyerEvent::Failed(_))) && heard < 256 {
        let words = (16 * heard..16 * (heard + 1)).map(long).collect();
        heard += 1;
        buyer.hears(Frame::Chunk(chunk(
            heard - 1,
            words,
            u64::from(heard) * 16,
            None,
        )));
    }
    // A piece and what stands beside it are 4,168 bytes; 8 MiB but for 256 KiB are kept.
    assert_eq!(heard, (8_388_608 - 262_144) / (16 * 4_168) + 1);
    assert_eq!(buyer.offences(), [OffenceKind::MalformedFrame]);
    let bundle = buyer.told.iter().find_map(|message| match message {
        Message::OrderEnded(evidence) => Some(&evidence.bundle),
        _ => None,
    });
    let bytes = crate::codec::encode(bundle.unwrap()).len();
    assert!(bytes <= crate::limits::MAX_AUDIT_FRAME_BYTES, "{bytes}");
}

#[test]
fn a_host_that_goes_on_after_a_stop_is_left_and_paid_nothing_more() {
    // A window of 4,000 is its own word; a step of 1,000 is four tokens, and as much again as
    // was delivered, for 2,800, are eleven.
    let (mut buyer, _) = Buyer::streaming(PaymentMode::Metered);
    buyer.feed(Input::Stop(RequestId(1)));
    for n in 8..19 {
        buyer.hears(Frame::Chunk(chunk(
            n - 7,
            vec![token(n)],
            u64::from(n) + 1,
            None,
        )));
    }
    assert!(!buyer.sent.contains(&"cancel"));
    buyer.hears(Frame::Chunk(chunk(12, vec![token(19)], 20, None)));
    assert_eq!(buyer.sent.last(), Some(&"cancel"));
    let head = buyer.head(0..20);
    buyer.bills(2_800, head);
    assert_eq!((buyer.payments(), buyer.blamed()), (0, (1, 0)));
    assert_eq!(buyer.offences(), []);
    // Slowly, and without end.
    let (mut buyer, chain) = Buyer::streaming(PaymentMode::Metered);
    buyer.feed(Input::Stop(RequestId(1)));
    for n in 8..11 {
        buyer.waits(3_000);
        buyer.hears(Frame::Chunk(chunk(
            n - 7,
            vec![token(n)],
            u64::from(n) + 1,
            None,
        )));
    }
    // A second Stop gives it no more time, and neither does an invoice.
    buyer.feed(Input::Stop(RequestId(1)));
    buyer.bills(2_800, chain.head());
    assert_eq!(buyer.payments(), 1);
    buyer.waits(1_000);
    assert_eq!(
        (buyer.sent.last(), buyer.blamed()),
        (Some(&"cancel"), (1, 0))
    );
    // Once the last chunk came there is time to pay.
    let (mut buyer, chain) = Buyer::streaming(PaymentMode::Metered);
    buyer.feed(Input::Stop(RequestId(1)));
    buyer.hears(Frame::Chunk(chunk(1, Vec::new(), 8, Some(Finish::Stopped))));
    buyer.waits(60_000);
    buyer.bills(2_800, chain.head());
    assert_eq!((buyer.payments(), buyer.blamed()), (1, (0, 0)));
}

#[test]
fn nothing_before_the_acceptance_of_terms_convicts() {
    let lies: [fn(&mut Terms); 6] = [
        |terms| terms.tokenizer = Digest([9; 32]),
        |terms| terms.numerics = None,
        |terms| terms.input.input_tokens = 1_000_000,
        |terms| terms.carried_debt = Msat(1_001),
        |terms| terms.prices = Prices::chat(u64::MAX, u64::MAX),
        |terms| terms.quantum = Msat(1_001),
    ];
    for lie in lies {
        let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
        let mut terms = buyer.terms();
        lie(&mut terms);
        let terms = buyer.seal(&terms);
        buyer.hears(Frame::Terms(terms));
        assert_eq!(buyer.dials.len(), 2, "the next host is asked");
        let offences = buyer.offences();
        assert!(
            offences.iter().all(|kind| !kind.is_objective()),
            "{offences:?}"
        );
    }
}

#[test]
fn terms_that_leave_no_room_for_the_output_are_left() {
    let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
    let mut terms = buyer.terms();
    // As many bytes could be as many tokens, but the context is full.
    terms.input.input_tokens = 2_000;
    let terms = buyer.seal(&terms);
    buyer.hears(Frame::Terms(terms));
    assert_eq!(buyer.dials.len(), 2);
}

#[test]
fn hosts_are_ranked_by_what_they_may_bill() {
    let buyer = Buyer::new(&[1], PaymentMode::Metered);
    let query = buyer.told.iter().find_map(|message| match message {
        Message::CandidatesWanted { query, .. } => Some(query.clone()),
        _ => None,
    });
    let most = query.unwrap().input_tokens;
    // "What is a channel?" and what templates add.
    assert_eq!(most, 18 + 64 + 1_024);
    for (claimed, accepted) in [(most, 1), (most + 1, 0)] {
        let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
        let mut terms = buyer.terms();
        terms.input.input_tokens = claimed;
        buyer.hears_offer(&terms);
        let sent = buyer.sent.iter().filter(|name| **name == "accept");
        assert_eq!(sent.count(), accepted, "{claimed}");
    }
}

#[test]
fn a_host_with_larger_steps_than_this_node_agrees_to_is_passed_over() {
    let with = |n, quantum| Candidate {
        quantum: Msat(quantum),
        ..candidate(n)
    };
    let buyer = Buyer::among(vec![with(1, 10_001), with(3, 10_000)], PaymentMode::Metered);
    assert_eq!(buyer.dials, [keys(3).key()]);
    let buyer = Buyer::among(vec![with(1, 10_001)], PaymentMode::Metered);
    let said = buyer.said.last();
    let Some(BuyerEvent::Failed(refusal)) = said else {
        panic!("nobody is asked: {said:?}");
    };
    assert_eq!(refusal.code, Code::NotAsListed);
}

#[test]
fn hosts_that_take_an_order_and_stay_silent_are_not_waited_for_one_by_one() {
    let mut buyer = Buyer::new(&[1, 2, 3, 4, 5, 6, 7, 8], PaymentMode::Metered);
    let mut waited = 0;
    while !matches!(buyer.said.last(), Some(BuyerEvent::Failed(_))) && waited < 3_600 {
        if buyer.sent.last() == Some(&"order") {
            let terms = Terms {
                starts_within_ms: 120_000,
                ..buyer.terms()
            };
            buyer.hears_offer(&terms);
        }
        buyer.waits(1_000);
        waited += 1;
    }
    // Three attempts of five minutes.
    assert_eq!((buyer.dials.len(), waited / 60), (3, 15));
    // So are those that think for long before they refuse; those that refuse at once are not.
    for (ms, dials) in [(9_000, 8), (10_000, 3)] {
        let mut buyer = Buyer::new(&[1, 2, 3, 4, 5, 6, 7, 8], PaymentMode::Metered);
        for _ in 0..8 {
            buyer.waits(ms);
            buyer.hears(Frame::Refusal(Refusal::new(Code::Busy, "no")));
        }
        assert_eq!(buyer.dials.len(), dials, "{ms} ms");
    }
}

#[test]
fn a_long_wait_that_terms_announce_is_not_waited_for() {
    let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
    let mut terms = buyer.terms();
    terms.starts_within_ms = 3_600_000;
    let terms = buyer.seal(&terms);
    buyer.hears(Frame::Terms(terms));
    assert_eq!((buyer.dials.len(), buyer.offences()), (2, Vec::new()));
}

#[test]
fn an_invoice_below_the_step_is_paid_only_at_the_end() {
    let (mut buyer, chain) = Buyer::streaming(PaymentMode::Metered);
    buyer.bills(700, chain.head());
    assert_eq!(
        (buyer.payments(), buyer.offences()),
        (0, vec![OffenceKind::WrongInvoice])
    );
    // Less than one token short of a step, as where a window is just one.
    let (mut buyer, chain) = Buyer::streaming(PaymentMode::Metered);
    buyer.bills(751, chain.head());
    assert_eq!(buyer.payments(), 1);
    let (mut buyer, chain) = Buyer::streaming(PaymentMode::Metered);
    buyer.hears(Frame::Chunk(chunk(1, Vec::new(), 8, Some(Finish::Stop))));
    buyer.bills(1, chain.head());
    assert_eq!(buyer.payments(), 0, "not the remainder");
    // The remainder cut into one invoice a token, each the whole of what it covers.
    let (mut buyer, _) = Buyer::streaming(PaymentMode::Metered);
    buyer.hears(Frame::Chunk(chunk(1, Vec::new(), 8, Some(Finish::Stop))));
    for tokens in 6..=8 {
        let head = buyer.head(0..tokens);
        buyer.bills_as(250, head, |invoice, _| {
            invoice.covers = counts(u64::from(tokens));
            invoice.invoiced = Msat(800 + 250 * u64::from(tokens));
            if tokens == 6 {
                invoice.msat = invoice.invoiced;
            }
        });
    }
    assert_eq!(buyer.payments(), 1, "the first alone is a step or more");
    assert_eq!(buyer.offences(), [OffenceKind::WrongInvoice]);
    let (mut buyer, chain) = Buyer::streaming(PaymentMode::Metered);
    buyer.hears(Frame::Chunk(chunk(1, Vec::new(), 8, Some(Finish::Stop))));
    buyer.bills(2_800, chain.head());
    assert_eq!(buyer.payments(), 1);
}

#[test]
fn text_that_was_not_signed_is_not_paid_for() {
    // What the host signs commits to one other thing than it sent, in one token.
    let lies: [fn(&mut ChainedToken); 5] = [
        |_| {},
        |token| token.piece.bytes.push(b'!'),
        |token| token.piece.control = true,
        |token| token.logits = Digest([1; 32]),
        |token| token.id += 1,
    ];
    for (at, lie) in lies.into_iter().enumerate() {
        let (mut buyer, _) = Buyer::streaming(PaymentMode::Metered);
        let signed = (0..8).map(|n| {
            let mut token = token(n);
            if n == 5 {
                lie(&mut token);
            }
            token
        });
        let head = buyer.chain(signed).head();
        buyer.bills(2_000, head);
        let (paid, offences) = match at {
            0 => (1, Vec::new()),
            _ => (0, vec![OffenceKind::WrongInvoice]),
        };
        assert_eq!(
            (buyer.payments(), buyer.offences()),
            (paid, offences),
            "lie {at}"
        );
    }
}

#[test]
fn chunks_with_nothing_in_them_do_not_keep_an_order_alive() {
    let (mut buyer, _) = Buyer::streaming(PaymentMode::Metered);
    buyer.hears(Frame::Chunk(chunk(1, Vec::new(), 8, None)));
    assert_eq!(buyer.offences(), [OffenceKind::WrongCount]);
}

#[test]
fn an_end_that_was_not_asked_for_or_is_not_due_is_a_false_count() {
    for (finish, stop, honest) in [
        (Finish::Stop, false, true),
        (Finish::Length, false, true),
        (Finish::Budget, false, false),
        (Finish::Budget, true, false),
        (Finish::Stopped, false, false),
        (Finish::Stopped, true, true),
    ] {
        let (mut buyer, _) = Buyer::streaming(PaymentMode::Metered);
        if stop {
            buyer.feed(Input::Stop(RequestId(1)));
        }
        buyer.hears(Frame::Chunk(chunk(1, Vec::new(), 8, Some(finish))));
        let offences = match honest {
            true => Vec::new(),
            false => vec![OffenceKind::WrongCount],
        };
        assert_eq!(buyer.offences(), offences, "{finish:?} {stop}");
    }
    // A ninth token would cost more than what the host was told that it may ask for.
    for (cap, carried, honest) in [(3_049, 0, true), (3_050, 0, false), (3_050, 1, true)] {
        let (mut buyer, _) = Buyer::streaming_with(PaymentMode::Metered, Msat(cap), Msat(carried));
        buyer.hears(Frame::Chunk(chunk(1, Vec::new(), 8, Some(Finish::Budget))));
        assert_eq!(buyer.offences().is_empty(), honest, "{cap} {carried}");
    }
}

#[test]
fn an_empty_answer_says_nothing_of_a_hosts_speed() {
    for (tokens, timed) in [(0, false), (1, true)] {
        let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
        buyer.pays_entry();
        buyer.settles(0);
        let words = (0..tokens as u32).map(token).collect();
        buyer.hears(Frame::Chunk(chunk(0, words, tokens, Some(Finish::Stop))));
        let stream = StreamId(buyer.stream);
        buyer.feed(Input::Closed { stream });
        let first = buyer.told.iter().find_map(|message| match message {
            Message::Happened(outcome) => Some(outcome.first_token_ms),
            _ => None,
        });
        assert_eq!(first.unwrap().is_some(), timed, "{tokens}");
    }
}

#[test]
fn a_host_that_ends_an_order_keeps_a_payment_for_nothing_only_where_it_was_paid_ahead() {
    let took = |buyer: &Buyer| {
        buyer.told.iter().find_map(|message| match message {
            Message::Happened(outcome) => Some(outcome.took_payment),
            _ => None,
        })
    };
    let entered = || {
        let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
        buyer.pays_entry();
        buyer.settles(0);
        buyer
    };
    // Whatever it says, and if it says nothing.
    for code in [
        Code::Busy,
        Code::NotPaid,
        Code::Cancelled,
        Code::EngineFailed,
    ] {
        let mut buyer = entered();
        buyer.hears(Frame::Refusal(Refusal::new(code, "not today")));
        assert_eq!(took(&buyer), Some(true), "{code:?}");
    }
    let mut buyer = entered();
    let stream = StreamId(buyer.stream);
    buyer.feed(Input::Closed { stream });
    assert_eq!(took(&buyer), Some(true));
    // It served what was paid for, and its invoice says so.
    let serves = |buyer: &mut Buyer, tokens: u32| {
        let words = (0..tokens).map(token).collect();
        buyer.hears(Frame::Chunk(chunk(0, words, u64::from(tokens), None)));
    };
    let mut buyer = entered();
    serves(&mut buyer, 8);
    let head = buyer.head(0..8);
    buyer.bills_as(1_000, head, |invoice, _| invoice.invoiced = Msat(2_800));
    assert_eq!((buyer.payments(), buyer.offences()), (2, vec![]));
    buyer.hears(Frame::Refusal(Refusal::new(Code::NotPaid, "no")));
    assert_eq!(took(&buyer), Some(false));
    // Output that no signature covers can be anything.
    let mut buyer = entered();
    serves(&mut buyer, 8);
    buyer.hears(Frame::Refusal(Refusal::new(Code::NotPaid, "no")));
    assert_eq!(took(&buyer), Some(true));
    // The input alone was paid for, and no word came.
    let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
    let terms = buyer.with_entry(buyer.terms(), 800);
    buyer.hears_offer(&terms);
    buyer.settles(0);
    let stream = StreamId(buyer.stream);
    buyer.feed(Input::Closed { stream });
    assert_eq!(took(&buyer), Some(true));
    // The user cancels.
    let mut buyer = entered();
    buyer.feed(Input::Cancel(RequestId(1)));
    assert_eq!(took(&buyer), None);
}

#[test]
fn a_payment_that_settles_after_the_node_was_stopped_counts_as_taken_once() {
    for refused in [false, true] {
        let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
        buyer.pays_entry();
        let stream = StreamId(buyer.stream);
        match refused {
            true => {
                buyer.ms += 31_000;
                buyer.hears(Frame::Refusal(Refusal::new(Code::NotPaid, "no")));
            }
            false => buyer.feed(Input::Closed { stream }),
        }
        buyer.restarts();
        buyer.told.clear();
        buyer.settles(0);
        let taken = |message: &&Message| matches!(message, Message::PaymentTaken { host } if *host == keys(1).key());
        assert_eq!(buyer.told.iter().filter(taken).count(), 1, "{refused}");
        // Nothing is left to remember.
        buyer.restarts();
        buyer.settles(0);
        assert_eq!(buyer.told.iter().filter(taken).count(), 1, "{refused}");
        assert!(buyer.disk().iter().all(|row| row.table != Table::Late));
    }
}

impl Buyer {
    /// The rows that its writes leave.
    fn disk(&self) -> Vec<Record> {
        let mut rows = std::collections::BTreeMap::new();
        for row in &self.written {
            match row.value {
                Some(_) => rows.insert((row.table, row.key.clone()), row.clone()),
                None => rows.remove(&(row.table, row.key.clone())),
            };
        }
        rows.into_values().collect()
    }

    /// The node is stopped, and starts from its disk.
    fn restarts(&mut self) {
        let tables = |row: &Record| Inference::TABLES.contains(&row.table);
        let rows: Vec<_> = self.disk().into_iter().filter(tables).collect();
        self.machine = Inference::recover(
            Config::new(NETWORK),
            Box::new(keys(9)),
            Box::new(order_keys([9; 32])),
            [8; 32],
            rows.into_iter(),
            at(self.ms),
        );
    }
}

#[test]
fn input_that_was_paid_for_is_taken_for_nothing_where_no_output_came() {
    let took = |buyer: &Buyer| {
        buyer.told.iter().find_map(|message| match message {
            Message::Happened(outcome) => Some((outcome.refused, outcome.took_payment)),
            _ => None,
        })
    };
    let taken_late = |buyer: &Buyer| {
        let taken = |message: &&Message| matches!(message, Message::PaymentTaken { .. });
        buyer.told.iter().filter(taken).count()
    };
    // An invoice for the input, before any word, in place of an entry.
    let invoiced = || {
        let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
        let terms = buyer.terms();
        buyer.hears_offer(&terms);
        let head = buyer.head(0..0);
        buyer.bills_as(800, head, |invoice, _| invoice.covers = counts(0));
        assert_eq!((buyer.payments(), buyer.offences()), (1, vec![]));
        buyer
    };
    let mut buyer = invoiced();
    buyer.settles(1);
    let stream = StreamId(buyer.stream);
    buyer.feed(Input::Closed { stream });
    assert_eq!(took(&buyer), Some((None, true)));
    // The same while the payment is under way, and held for half a minute.
    let mut buyer = invoiced();
    buyer.feed(Input::Closed { stream });
    assert_eq!(took(&buyer), Some((None, false)));
    buyer.settles(1);
    assert_eq!(taken_late(&buyer), 1);
    let mut buyer = invoiced();
    buyer.ms += 30_000;
    buyer.hears(Frame::Refusal(Refusal::new(Code::NotPaid, "no")));
    assert_eq!(took(&buyer), Some((Some(Code::NotPaid), false)));
    buyer.settles(1);
    assert_eq!(taken_late(&buyer), 1);
    // The user wanted no more, and the host said the end of it.
    let mut buyer = invoiced();
    buyer.settles(1);
    buyer.feed(Input::Stop(RequestId(1)));
    buyer.hears(Frame::Chunk(chunk(0, Vec::new(), 0, Some(Finish::Stopped))));
    buyer.feed(Input::Closed { stream });
    assert_eq!(took(&buyer), Some((None, false)));
    // One word came, and is covered.
    let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
    let terms = buyer.terms();
    buyer.hears_offer(&terms);
    buyer.hears(Frame::Chunk(chunk(0, vec![token(0)], 1, None)));
    let head = buyer.head(0..1);
    buyer.bills_as(1_050, head, |invoice, _| invoice.covers = counts(1));
    buyer.settles(1);
    buyer.feed(Input::Closed { stream });
    assert_eq!(took(&buyer), Some((None, false)));
}

#[test]
fn terms_under_which_no_unit_of_output_fits_are_left() {
    // Input costs 800, and a token 250.
    for (cap, carried, fits) in [
        (1_050, 0, true),
        (1_049, 0, false),
        (1_051, 1, true),
        (1_050, 1, false),
    ] {
        let max_cost = Config::new(NETWORK).fees.cap_for(Msat(cap));
        let hosts = vec![candidate(1), candidate(3)];
        let mut buyer = Buyer::capped(hosts, PaymentMode::Metered, max_cost);
        let terms = Terms {
            carried_debt: Msat(carried),
            ..buyer.terms()
        };
        buyer.hears_offer(&terms);
        assert_eq!(buyer.dials.len(), 2 - usize::from(fits), "{cap} {carried}");
    }
}

#[test]
fn a_payment_that_settles_after_its_order_broke_off_counts_as_taken_once() {
    let taken = |buyer: &Buyer| {
        let taken = |message: &&Message| matches!(message, Message::PaymentTaken { .. });
        buyer.told.iter().filter(taken).count()
    };
    let broken_off = |code: Option<Code>| {
        let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
        buyer.pays_entry();
        let stream = StreamId(buyer.stream);
        match code {
            Some(code) => buyer.hears(Frame::Refusal(Refusal::new(code, "no"))),
            None => buyer.feed(Input::Closed { stream }),
        }
        assert_eq!(taken(&buyer), 0);
        buyer
    };
    for code in [None, Some(Code::Busy), Some(Code::NotPaid)] {
        let mut buyer = broken_off(code);
        buyer.settles(0);
        buyer.settles(0);
        assert_eq!(taken(&buyer), 1, "{code:?}");
    }
    // It failed after all.
    let mut buyer = broken_off(None);
    let refusal = Refusal::new(Code::PaymentFailed, "no route");
    let order = OrderId::of(&buyer.order.as_ref().unwrap().digest());
    buyer.feed(Input::NotSettled {
        order,
        seq: 0,
        refusal,
    });
    buyer.settles(0);
    assert_eq!(taken(&buyer), 0);
    // We left ourselves.
    let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
    buyer.pays_entry();
    buyer.feed(Input::Cancel(RequestId(1)));
    buyer.settles(0);
    assert_eq!(taken(&buyer), 0);
}

#[test]
fn embeddings_that_end_before_the_last_text_are_no_complete_order() {
    for (texts, honest) in [(2, true), (3, false)] {
        let mut buyer = Buyer::idle();
        let work = Work::Embed {
            texts: vec!["a".to_owned(); texts],
        };
        let job = Job {
            work,
            max_output: 0,
            ..job()
        };
        let hosts = vec![candidate(1)];
        buyer.buys(hosts, (PaymentMode::Metered, Msat(1_000_000), job), false);
        buyer.hears_terms();
        let vector = Vector(vec![0; 4]);
        let mut last = chunk(0, Vec::new(), 0, Some(Finish::Stop));
        last.totals.items = 2;
        last.tokens = (0..2).map(|id| embedded(id, &vector)).collect();
        last.attached.vectors = vec![vector; 2];
        buyer.hears(Frame::Chunk(last));
        let offences = match honest {
            true => vec![],
            false => vec![OffenceKind::WrongCount],
        };
        assert_eq!(buyer.offences(), offences, "{texts}");
    }
}

#[test]
fn an_order_paid_at_its_end_takes_no_invoice_before() {
    let (mut buyer, chain) = Buyer::streaming(PaymentMode::After);
    buyer.bills(2_000, chain.head());
    assert_eq!(buyer.payments(), 0);
    let (mut buyer, chain) = Buyer::streaming(PaymentMode::After);
    buyer.hears(Frame::Chunk(chunk(1, Vec::new(), 8, Some(Finish::Stop))));
    buyer.bills(2_800, chain.head());
    assert_eq!(buyer.payments(), 1);
}

#[test]
fn a_wallet_that_changed_since_the_listing_convicts_nobody_and_is_not_paid() {
    let (mut buyer, chain) = Buyer::streaming(PaymentMode::Metered);
    let other = LightningId([3; 33]);
    buyer.bills_as(2_000, chain.head(), |_, facts| facts.payee = other);
    assert_eq!(buyer.payments(), 0);
    assert_eq!(buyer.offences(), [OffenceKind::TermsNotAsListed]);
    // Once something was paid, another payee is no accident.
    for (payee, paid, offences) in [
        (LIGHTNING, 2, Vec::new()),
        (other, 1, vec![OffenceKind::WrongInvoice]),
    ] {
        let (mut buyer, chain) = Buyer::streaming(PaymentMode::Metered);
        buyer.bills(1_000, chain.head());
        buyer.bills_as(1_800, chain.head(), |invoice, facts| {
            invoice.invoiced = Msat(2_800);
            facts.payee = payee;
        });
        assert_eq!((buyer.payments(), buyer.offences()), (paid, offences));
    }
}

#[test]
fn an_invoice_that_is_not_what_was_agreed_is_not_paid() {
    type Change = fn(&mut Invoice, &mut InvoiceFacts);
    let honest: Change = |_, _| {};
    let lies: [(&str, Change); 11] = [
        ("amount", |_, facts| facts.msat = Some(Msat(1_799))),
        ("no amount", |_, facts| facts.msat = Some(Msat(0))),
        ("description", |_, facts| {
            facts.description_hash = Some([0; 32])
        }),
        ("hash", |_, facts| facts.hash = PaymentHash([4; 32])),
        ("order", |invoice, _| invoice.order = OrderId([0; 16])),
        ("number", |invoice, _| invoice.seq = 1),
        ("output", |invoice, _| invoice.covers = counts(9)),
        ("input", |invoice, _| invoice.covers.input_tokens = 9),
        ("sum", |invoice, _| invoice.invoiced = Msat(2_799)),
        ("above the cost", |invoice, _| {
            (invoice.msat, invoice.invoiced) = (Msat(1_801), Msat(2_801));
        }),
        ("fewer tokens", |invoice, _| invoice.covers = counts(7)),
    ];
    for (what, lie) in [("nothing", honest)].into_iter().chain(lies) {
        let (mut buyer, chain) = Buyer::streaming(PaymentMode::Metered);
        buyer.bills(1_000, chain.head());
        buyer.bills_as(1_800, chain.head(), |invoice, facts| {
            invoice.invoiced = Msat(2_800);
            lie(invoice, facts);
        });
        let (paid, offences) = match what {
            "nothing" => (2, Vec::new()),
            _ => (1, vec![OffenceKind::WrongInvoice]),
        };
        assert_eq!(
            (buyer.payments(), buyer.offences()),
            (paid, offences),
            "{what}"
        );
    }
}

#[test]
fn an_entry_payment_above_input_and_one_step_is_not_paid() {
    // Input 800, a step of 1,000.
    for (msat, paid) in [(1_800, 1), (1_801, 0)] {
        let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
        let terms = buyer.with_entry(buyer.terms(), msat);
        buyer.hears_offer(&terms);
        assert_eq!(buyer.payments(), paid, "{msat}");
        assert_eq!(buyer.dials.len(), 2 - paid, "the next host is asked");
        assert!(buyer.offences().iter().all(|kind| !kind.is_objective()));
    }
    // One unit of output where that is dearer than a step; never more than all of it.
    let mut dear = candidate(1);
    dear.offer.prices = Prices::chat(100_000_000, 5_000_000_000);
    for (msat, paid) in [(5_800, 1), (5_801, 0)] {
        let mut buyer = Buyer::among(vec![dear.clone()], PaymentMode::Metered);
        let prices = dear.offer.prices.clone();
        let terms = buyer.with_entry(
            Terms {
                prices,
                ..buyer.terms()
            },
            msat,
        );
        buyer.hears_offer(&terms);
        assert_eq!(buyer.payments(), paid, "{msat}");
    }
    // A carried debt is added to it.
    let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
    let carried_debt = Msat(500);
    let terms = Terms {
        carried_debt,
        ..buyer.terms()
    };
    let terms = buyer.with_entry(terms, 2_300);
    buyer.hears_offer(&terms);
    assert_eq!(buyer.payments(), 1);
    // Before the acceptance nothing in its invoice convicts either.
    let lies: [fn(&mut InvoiceFacts); 3] = [
        |facts| facts.msat = Some(Msat(1_801)),
        |facts| facts.payee = LightningId([3; 33]),
        |facts| facts.description_hash = Some([0; 32]),
    ];
    for lie in lies {
        let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
        let mut terms = buyer.with_entry(buyer.terms(), 1_800);
        let entry = terms.entry.as_mut().unwrap();
        let mut facts: InvoiceFacts = serde_json::from_str(&entry.bolt11).unwrap();
        lie(&mut facts);
        entry.bolt11 = serde_json::to_string(&facts).unwrap();
        buyer.hears_offer(&terms);
        assert_eq!((buyer.payments(), buyer.dials.len()), (0, 2));
        assert_eq!(buyer.offences(), [OffenceKind::TermsNotAsListed]);
    }
}

impl Buyer {
    /// Terms with an entry payment are accepted; it is asked of Payment.
    fn owes_entry(hosts: &[u8]) -> Self {
        let mut buyer = Buyer::new(hosts, PaymentMode::Metered);
        buyer.hears_entry();
        buyer
    }

    fn id(&self) -> OrderId {
        OrderId::of(&self.order.as_ref().unwrap().digest())
    }

    fn hears_entry(&mut self) {
        let terms = self.with_entry(self.terms(), 1_800);
        self.hears_offer(&terms);
    }

    /// Payment says no to the entry payment.
    fn is_not_settled(&mut self, order: OrderId, code: Code) {
        let (seq, refusal) = (0, Refusal::new(code, "no route"));
        self.feed(Input::NotSettled {
            order,
            seq,
            refusal,
        });
    }

    fn failures(&self) -> Vec<Code> {
        let failures = self.said.iter().filter_map(|event| match event {
            BuyerEvent::Failed(refusal) => Some(refusal.code),
            _ => None,
        });
        failures.collect()
    }

    /// How the orders went, as Reputation is told.
    fn refusals(&self) -> Vec<(NodeKey, Option<Code>)> {
        let outcomes = self.told.iter().filter_map(|message| match message {
            Message::Happened(outcome) => Some((outcome.host, outcome.refused)),
            _ => None,
        });
        outcomes.collect()
    }
}

#[test]
fn an_entry_that_cannot_be_paid_is_asked_of_the_next_host() {
    for code in [Code::PaymentFailed, Code::CapTooLow, Code::DebtDisputed] {
        let mut buyer = Buyer::owes_entry(&[1, 3]);
        assert_eq!((buyer.payments(), buyer.dials.len()), (1, 1));
        buyer.is_not_settled(buyer.id(), code);
        assert_eq!(buyer.dials, [keys(1).key(), keys(3).key()], "{code:?}");
        assert_eq!(buyer.refusals(), [(keys(1).key(), Some(code))]);
        assert_eq!((buyer.offences(), buyer.failures()), (vec![], vec![]));
        // The money set aside passes to the next order.
        let bound = buyer.told.iter().filter(|message| match message {
            Message::Bind { request, .. } => *request == RequestId(1),
            _ => false,
        });
        assert_eq!(bound.count(), 2);
        let released = |message: &Message| matches!(message, Message::Release { .. });
        assert!(!buyer.told.iter().any(released));
        // The account of the order that was left is closed.
        let closed = |message: &&Message| matches!(message, Message::CloseOrder { .. });
        assert_eq!(buyer.told.iter().filter(closed).count(), 1);
        buyer.hears_entry();
        assert_eq!(buyer.payments(), 2);
    }
}

#[test]
fn a_payment_of_unknown_fate_is_not_replaced() {
    let mut buyer = Buyer::owes_entry(&[1, 3]);
    let first = buyer.id();
    buyer.is_not_settled(first, Code::PaymentUnknown);
    assert_eq!((buyer.dials.len(), buyer.failures()), (1, vec![]));
    // Whatever else ends the order: no other host is asked while it may have been paid.
    let mut silent = Buyer::owes_entry(&[1, 3]);
    silent.is_not_settled(silent.id(), Code::PaymentUnknown);
    let stream = StreamId(silent.stream);
    silent.feed(Input::Closed { stream });
    assert_eq!(silent.dials.len(), 1);
    assert_eq!(silent.failures(), [Code::Disconnected]);
    // Once it is known to have failed, it is another matter.
    buyer.is_not_settled(first, Code::PaymentFailed);
    assert_eq!((buyer.dials.len(), buyer.failures()), (2, vec![]));
    // A success of it that comes late is none of the next order's.
    buyer.feed(Input::Settled {
        order: first,
        seq: 0,
        hash: PaymentHash([1; 32]),
        preimage: None,
        msat: Msat(1_800),
        fee: Msat::ZERO,
        ms: 1,
    });
    let paid = |event: &BuyerEvent| matches!(event, BuyerEvent::Paid { .. });
    assert!(!buyer.said.iter().any(paid));
}

#[test]
fn hosts_that_cannot_be_paid_are_few_and_the_reason_is_told() {
    let mut buyer = Buyer::owes_entry(&[1, 3, 4, 5, 6]);
    for _ in 0..3 {
        assert_eq!(buyer.failures(), []);
        buyer.is_not_settled(buyer.id(), Code::PaymentFailed);
        if buyer.failures().is_empty() {
            buyer.hears_entry();
        }
    }
    assert_eq!(buyer.dials.len(), 3);
    let Some(BuyerEvent::Failed(refusal)) = buyer.said.last() else {
        panic!("the purchase is over");
    };
    assert_eq!(refusal.code, Code::PaymentFailed);
    assert_eq!(
        refusal.message,
        "3 hosts could not be paid; the last: no route"
    );
    // What this node's own limits forbid, no other host can help with.
    let mut buyer = Buyer::owes_entry(&[1, 3]);
    buyer.is_not_settled(buyer.id(), Code::BudgetExhausted);
    assert_eq!(buyer.failures(), [Code::BudgetExhausted]);
}

#[test]
fn a_host_is_not_blamed_where_this_node_has_no_stream_left() {
    let mut buyer = Buyer::idle();
    buyer.no_dials = 1;
    buyer.wants(&[1, 3], false);
    assert_eq!(buyer.dials, [keys(1).key(), keys(3).key()]);
    assert_eq!((buyer.offences(), buyer.refusals()), (vec![], vec![]));
    let mut buyer = Buyer::idle();
    buyer.no_dials = 2;
    buyer.wants(&[1, 3], false);
    assert_eq!(buyer.failures(), [Code::Busy]);
    assert_eq!((buyer.offences(), buyer.refusals()), (vec![], vec![]));
}

#[test]
fn a_choice_that_nobody_agrees_to_ends_and_sets_the_money_free() {
    let mut buyer = Buyer::idle();
    buyer.wants(&[1, 3], true);
    assert_eq!(buyer.dials, []);
    let timeout_ms = Config::new(NETWORK).confirm_timeout_ms;
    let due = at(buyer.ms + timeout_ms).tick;
    assert!(buyer.machine.deadline().is_some_and(|tick| tick <= due));
    buyer.waits(timeout_ms);
    let released = |message: &Message| matches!(message, Message::Release { .. });
    assert_eq!(buyer.failures(), [Code::Timeout]);
    assert!(buyer.told.iter().any(released));
    assert_eq!((buyer.machine.active(), buyer.refusals()), (0, vec![]));
}

/// How far an order went before both its buyer and the engine fell silent.
const SILENT_AFTER: [usize; 6] = [0, 1, 2, 3, 4, 5];

#[test]
fn an_order_with_a_silent_buyer_and_a_silent_engine_ends_and_closes_its_stream() {
    for steps in SILENT_AFTER {
        let mut machine = host();
        let signed = order(1);
        let (id, stream) = (OrderId::of(&signed.digest()), StreamId(1));
        let mut effects = Vec::new();
        if steps == 0 {
            let caller = caller(1);
            effects.extend(feed(&mut machine, 0, Input::Inbound { stream, caller }));
            let frame = Box::new(Frame::Order(signed.clone()));
            effects.extend(feed(&mut machine, 0, Input::Received { stream, frame }));
        } else {
            effects = arrives_with(&mut machine, 0, 1, 1, &signed, Msat(4_000));
        }
        if steps >= 2 {
            let accepted = accepts(&mut machine, 1, 1, &effects);
            effects.extend(accepted);
        }
        let finish = (steps >= 4).then_some(Finish::Stop);
        if steps >= 3 {
            let produced = Input::Produced {
                order: id,
                tokens: vec![token(1)],
                finish,
                attached: Default::default(),
            };
            effects.extend(feed(&mut machine, 2, produced));
        }
        if steps >= 5 {
            let (seq, hash) = (1, PaymentHash([1; 32]));
            let result = Ok(("invoice".to_owned(), hash));
            let made = Input::InvoiceMade {
                order: id,
                seq,
                result,
            };
            effects.extend(feed(&mut machine, 3, made));
            let (msat, window) = (Msat(1_050), Msat(5_000));
            let granted = Input::CreditGranted {
                order: id,
                seq,
                hash,
                msat,
                window,
            };
            effects.extend(feed(&mut machine, 4, granted));
        }
        assert_eq!(machine.active(), 1, "after {steps} steps");
        // Whatever the peer holds open: ten minutes later nothing of it is left.
        let mut out = Outbox::default();
        while let Some(due) = machine.deadline()
            && due <= at(600_000).tick
            && machine.active() > 0
        {
            machine.expire(at(due.0 / 1_000_000 + 1), &mut out);
        }
        effects.extend(out.drain());
        assert_eq!(machine.active(), 0, "after {steps} steps");
        let closed = |effect: &&Effect| **effect == Effect::Close { stream };
        assert_eq!(effects.iter().filter(closed).count(), 1);
    }
}

impl Buyer {
    fn counts(&mut self, count: InputCount) {
        let id = self.counting.take().unwrap();
        self.feed(Input::InputCounted { id, count });
    }

    fn hears_terms(&mut self) {
        let terms = self.seal(&self.terms());
        self.hears(Frame::Terms(terms));
    }

    fn hears_word(&mut self, seq: u32) {
        let frame = chunk(seq, vec![token(seq)], u64::from(seq) + 1, None);
        self.hears(Frame::Chunk(frame));
    }
}

/// What our own vocabulary says of the prompt; the terms of these tests say 8.
fn counted(tokens: u64, numerics: &str) -> InputCount {
    InputCount::Counted(InputFacts {
        tokens,
        tokenizer: offer().tokenizer,
        template: offer().template,
        numerics: Some(numerics.into()),
    })
}

#[test]
fn a_count_above_our_own_is_not_accepted_and_convicts_where_the_rules_are_the_same() {
    for (numerics, kind) in [
        ("exact", OffenceKind::FalseInput),
        ("other", OffenceKind::TermsNotAsListed),
    ] {
        let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
        buyer.counts(counted(7, numerics));
        buyer.hears_terms();
        assert_eq!(buyer.offences(), [kind]);
        assert_eq!(buyer.payments(), 0);
        assert_eq!(buyer.dials, [keys(1).key(), keys(3).key()]);
        let accepted = |event: &BuyerEvent| matches!(event, BuyerEvent::Accepted { .. });
        assert!(!buyer.said.iter().any(accepted));
    }
}

#[test]
fn nothing_is_accepted_while_our_own_count_is_on_its_way() {
    let with_entry = || {
        let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
        buyer.counts_slowly = true;
        let terms = buyer.seal(&buyer.with_entry(buyer.terms(), 1_800));
        buyer.hears(Frame::Terms(terms));
        assert_eq!(
            (buyer.payments(), buyer.sent.contains(&"accept")),
            (0, false)
        );
        buyer
    };
    let mut buyer = with_entry();
    buyer.counts(counted(7, "exact"));
    assert_eq!(buyer.offences(), [OffenceKind::FalseInput]);
    assert_eq!(
        (buyer.payments(), buyer.dials.len()),
        (0, 2),
        "the next is asked"
    );
    for count in [counted(8, "exact"), InputCount::Absent, InputCount::Unknown] {
        let mut buyer = with_entry();
        buyer.counts(count);
        assert_eq!(
            (buyer.payments(), buyer.sent.contains(&"accept")),
            (1, true)
        );
        assert_eq!(buyer.offences(), []);
    }
}

#[test]
fn a_count_that_takes_too_long_is_not_waited_for_and_ends_the_order_where_the_hosts_is_above() {
    let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
    buyer.counts_slowly = true;
    buyer.hears_terms();
    assert!(!buyer.sent.contains(&"accept"));
    buyer.waits(Config::new(NETWORK).terms_timeout_ms);
    assert!(buyer.sent.contains(&"accept"));
    buyer.hears_word(0);
    buyer.counts(counted(7, "exact"));
    assert_eq!(buyer.offences(), [OffenceKind::FalseInput]);
    let failed = |event: &BuyerEvent| matches!(event, BuyerEvent::Failed(_));
    assert!(buyer.said.iter().any(failed));
    // Nothing more is paid.
    buyer.bills(2_800, Digest([1; 32]));
    assert_eq!(buyer.payments(), 0);
}

#[test]
fn a_count_that_agrees_is_told_once_whenever_it_comes() {
    for (early, tokens) in [(true, 8), (false, 8), (true, 9)] {
        let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
        buyer.counts_slowly = !early;
        if early {
            buyer.counts(counted(tokens, "exact"));
        }
        buyer.hears_terms();
        if !early {
            buyer.counts(counted(tokens, "exact"));
        }
        buyer.hears_word(0);
        buyer.hears_word(1);
        let told = buyer.said.iter().filter_map(|event| match event {
            BuyerEvent::InputCounted { tokens } => Some(*tokens),
            _ => None,
        });
        assert_eq!(told.collect::<Vec<_>>(), [tokens]);
        assert_eq!((buyer.offences(), buyer.sources), (vec![], vec![]));
    }
}

#[test]
fn what_tokens_stand_for_is_held_against_the_vocabulary_where_both_decode_alike() {
    for (numerics, late, checked) in [
        ("exact", false, vec![(0, 1), (1, 1)]),
        ("exact", true, vec![(0, 1), (1, 1)]),
        ("other", false, vec![]),
    ] {
        let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
        buyer.counts_slowly = true;
        if !late {
            buyer.counts(counted(8, numerics));
        }
        buyer.hears_terms();
        if late {
            buyer.waits(Config::new(NETWORK).terms_timeout_ms);
        }
        buyer.hears_word(0);
        if late {
            assert_eq!(buyer.checked, []);
            buyer.counts(counted(8, numerics));
        }
        buyer.hears_word(1);
        assert_eq!(buyer.checked, checked, "{numerics} {late}");
        assert_eq!(buyer.offences(), []);
    }
    // What comes of it ends the order, or is booked when that is over.
    for over in [false, true] {
        let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
        buyer.counts(counted(8, "exact"));
        buyer.hears_terms();
        buyer.hears_word(0);
        let order = OrderId::of(&buyer.order.as_ref().unwrap().digest());
        if over {
            buyer.feed(Input::Cancel(RequestId(1)));
        }
        let (host, position) = (keys(1).key(), 0);
        let wrong = Input::WrongPiece {
            order,
            host,
            position,
        };
        buyer.feed(wrong);
        assert_eq!(buyer.offences(), [OffenceKind::FalseText], "{over}");
        let by = buyer.told.iter().find_map(|message| match message {
            Message::Offended(offence) => Some(offence.by),
            _ => None,
        });
        assert_eq!(by, Some(host));
        let failed = |event: &BuyerEvent| matches!(event, BuyerEvent::Failed(_));
        assert!(buyer.said.iter().any(failed));
    }
}

#[test]
fn a_vocabulary_is_asked_of_hosts_that_the_server_did_not_choose() {
    let mut asked = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let mut buyer = Buyer::idle();
        buyer.machine = machine_of(9, seed);
        let hosts: Vec<u8> = (1..=8).filter(|n| *n != 2).collect();
        buyer.wants(&hosts, false);
        buyer.counts(InputCount::Absent);
        buyer.hears_terms();
        buyer.hears_word(0);
        assert_eq!(buyer.sources[0], keys(1).key(), "who serves is asked first");
        assert_eq!(buyer.sources.len(), 4);
        asked.extend(buyer.sources);
    }
    assert_eq!(asked.len(), 7, "the last rank as well as the first");
}

#[test]
fn a_missing_vocabulary_is_fetched_once_and_never_before_the_first_word() {
    for early in [true, false] {
        let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
        buyer.counts_slowly = !early;
        if early {
            buyer.counts(InputCount::Absent);
        }
        buyer.hears_terms();
        assert_eq!(buyer.sources, []);
        if !early {
            buyer.counts(InputCount::Absent);
            assert_eq!(buyer.sources, []);
        }
        buyer.hears_word(0);
        buyer.hears_word(1);
        assert_eq!(buyer.sources, [keys(1).key(), keys(3).key()]);
    }
    let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
    buyer.counts(InputCount::Unknown);
    buyer.hears_terms();
    buyer.hears_word(0);
    assert_eq!((buyer.sources.len(), buyer.offences()), (0, vec![]));
}

#[test]
fn a_listing_whose_vocabulary_is_not_the_models_is_left_and_convicts_nobody() {
    let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
    let InputCount::Counted(facts) = counted(8, "exact") else {
        unreachable!("just made");
    };
    buyer.counts(InputCount::Counted(InputFacts {
        template: Digest([77; 32]),
        ..facts
    }));
    buyer.hears_terms();
    assert_eq!(buyer.offences(), [OffenceKind::TermsNotAsListed]);
    assert_eq!(buyer.dials, [keys(1).key(), keys(3).key()]);
}
