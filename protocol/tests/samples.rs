//! One sample of every wire type, from fixed keys, times and nonces.
//!
//! Used by the golden vectors and, as a starting point, by the decoder tests.

#![allow(dead_code, missing_docs)] // each test binary uses its part

use protocol::codec::Extension;
use protocol::crypto::{Crypto, Secp};
use protocol::ids::{Digest, LightningId, ModelDigest, NodeKey, OrderId, PaymentHash};
use protocol::message::discovery::Pulse;
use protocol::money::{Counts, Msat, Prices};
use protocol::refusal::{Code, Refusal};
use protocol::time::WallTime;
use protocol::wire::attached::{Attached, TokenLogprob, TokenLogprobs, Vector};
use protocol::wire::blob::{BlobFrame, Slice, SliceRequest, of_parts};
use protocol::wire::bundle::{AuditFrame, Bundle, Finding, Tier, Verdict};
use protocol::wire::chain::{ChainedToken, Piece, TokenChain};
use protocol::wire::envelope::{Body, Envelope, Network, Signed};
use protocol::wire::mandate::{Mandate, Revocation};
use protocol::wire::manifest::{
    HostLimits, Manifest, ModelOffer, PaymentMode, Role, lightning_statement,
};
use protocol::wire::order::{
    Chunk, Countersigned, EntryInvoice, Finish, Frame, Handling, Invoice, Order, Paid, Path,
    PaymentEntry, Receipt, Retention, Status, Terms, description_hash, prompt_digest,
};
use protocol::wire::quote::{HostQuote, QuoteFrame, QuoteRequest, RouterOffer};
use protocol::work::{ChatMessage, Constraint, Job, Sampling, Steering, TokenBias, Work};
use protocol::{codec, limits};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::OnceLock;

/// A wire type: its bytes, and a decoder that gives back what the decoded value encodes to.
pub struct Sample {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    pub decode: fn(&[u8]) -> Option<Vec<u8>>,
}

const NETWORK: Network = Network::Regtest;
/// 1 January 2026, 00:00 UTC.
const TIME: WallTime = WallTime(1_767_225_600_000);
/// The order's id: [`OrderId::of`] the sample order.
fn id() -> OrderId {
    OrderId::of(&signed_order().digest())
}
const MODEL: ModelDigest = ModelDigest([0x3d; 32]);

pub fn buyer() -> Secp {
    Secp::from_secret(&[1; 32]).expect("a secret below the group order")
}

fn host() -> Secp {
    Secp::from_secret(&[2; 32]).expect("a secret below the group order")
}

fn validator() -> Secp {
    Secp::from_secret(&[3; 32]).expect("a secret below the group order")
}

pub fn extensions() -> Vec<Extension> {
    vec![Extension {
        kind: 1,
        value: vec![0xee; 3],
    }]
}

fn seal<T: Body>(by: &Secp, to: Option<NodeKey>, nonce: u8, body: &T) -> Signed {
    Signed::seal(by, NETWORK, to, TIME, [nonce; 16], body)
}

fn counts(output_tokens: u64) -> Counts {
    Counts {
        input_tokens: 300,
        cached_input_tokens: 5,
        output_tokens,
        items: 1,
    }
}

fn prices() -> Prices {
    Prices::chat(50_000_000, 250_000_000)
}

fn job(work: Work) -> Job {
    Job {
        work,
        max_output: 256,
        sampling: Sampling::default(),
        seed: 0x0123_4567_89ab_cdef,
        stop: vec!["\n\n".into()],
        date: "2026-01-01".into(),
        steering: Steering {
            bias: vec![TokenBias {
                token: 9,
                milli: -1_500,
            }],
            constraint: Some(Constraint::JsonSchema(r#"{"type":"object"}"#.into())),
            logprobs: Some(1),
        },
        prefix: vec![100_000, 7],
        extensions: extensions(),
    }
}

fn attached() -> Attached {
    let logprob = |token, micro| TokenLogprob {
        token,
        bytes: vec![0xc3, 0xa4],
        micro,
    };
    let logprobs = |token| TokenLogprobs {
        chosen: logprob(token, -250_000),
        top: vec![logprob(5, -125_000)],
    };
    Attached {
        logprobs: tokens().iter().map(|token| logprobs(token.id)).collect(),
        vectors: vec![Vector(vec![0, 0, 128, 63, 0, 0, 0, 191]); tokens().len()],
    }
}

pub fn chat() -> Work {
    Work::Chat {
        messages: vec![ChatMessage {
            role: "user".into(),
            content: "Wie spät ist es?".into(),
        }],
    }
}

fn mandate() -> Mandate {
    Mandate {
        agent: buyer().key(),
        per_order: Msat(5_000),
        per_day: Msat(100_000),
        models: vec![MODEL],
        starts: TIME,
        expires: TIME.after_ms(86_400_000),
        extensions: extensions(),
    }
}

pub fn order(work: Work) -> Order {
    Order {
        model: MODEL,
        job: job(work),
        max_cost: Msat(100_000),
        mode: PaymentMode::Metered,
        payment_grain: Msat(1_000),
        path: Path::Onion,
        retention: Retention::Forget,
        handling: Handling::Confidential,
        salt: [0x5a; 16],
        via: Some(validator().key()),
        authority: vec![seal(&host(), Some(buyer().key()), 0x10, &mandate())],
        extensions: extensions(),
    }
}

fn signed_order() -> Signed {
    seal(&buyer(), Some(host().key()), 0x11, &order(chat()))
}

fn terms() -> Terms {
    Terms {
        order: signed_order().digest(),
        input: counts(0),
        prices: prices(),
        window: Msat(2_000),
        quantum: Msat(1_000),
        carried_debt: Msat(7),
        entry: Some(EntryInvoice {
            bolt11: "lnbcrt20n1example".into(),
            msat: Msat(2_000),
        }),
        numerics: Some("freehold/exact/1".into()),
        tokenizer: Digest([0x70; 32]),
        template: Digest([0x7e; 32]),
        starts_within_ms: 2_500,
        expires: TIME.after_ms(60_000),
        extensions: extensions(),
    }
}

fn signed_terms() -> Signed {
    seal(&host(), Some(buyer().key()), 0x12, &terms())
}

fn tokens() -> Vec<ChainedToken> {
    (0..3u32)
        .map(|id| ChainedToken {
            id: 100_000 + id,
            logits: Digest([0xa0 + id as u8; 32]),
            piece: Piece {
                control: id == 2,
                bytes: vec![0xc3, 0xa4 + id as u8],
            },
        })
        .collect()
}

fn head() -> Digest {
    let mut chain = TokenChain::new(&signed_order().digest(), &signed_terms().digest());
    for token in &tokens() {
        chain.push(token);
    }
    chain.head()
}

fn invoice() -> Invoice {
    Invoice {
        order: id(),
        seq: 1,
        bolt11: "lnbcrt10n1example".into(),
        msat: Msat(1_000),
        covers: counts(3),
        invoiced: Msat(3_000),
        head: head(),
        window: Msat(4_000),
        extensions: extensions(),
    }
}

fn paid() -> Paid {
    Paid {
        order: id(),
        seq: 1,
        hash: PaymentHash([0x8a; 32]),
        head: head(),
        extensions: extensions(),
    }
}

fn receipt() -> Receipt {
    Receipt {
        id: id(),
        order: signed_order().digest(),
        terms: signed_terms().digest(),
        buyer: buyer().key(),
        host: host().key(),
        model: MODEL,
        tokenizer: Digest([0x70; 32]),
        template: Digest([0x7e; 32]),
        numerics: Some("freehold/exact/1".into()),
        prices: prices(),
        prompt: prompt_digest(&[0x5a; 16], &[1, 2, 3]),
        head: head(),
        finish: Finish::Length,
        counts: counts(3),
        cost: Msat(15_750),
        payments: vec![PaymentEntry {
            seq: 0,
            hash: PaymentHash([0x8b; 32]),
            msat: Msat(2_000),
        }],
        debt: Msat(13_750),
        started: TIME.after_ms(500),
        ended: TIME.after_ms(1_500),
        status: Status::Failed(Code::NotPaid),
        extensions: extensions(),
    }
}

fn countersigned() -> Countersigned {
    Countersigned {
        receipt: seal(&host(), Some(buyer().key()), 0x15, &receipt()).digest(),
        extensions: extensions(),
    }
}

fn verdict(finding: Finding) -> Verdict {
    Verdict {
        id: id(),
        evidence: Digest([0xed; 32]),
        host: host().key(),
        model: MODEL,
        validator: validator().key(),
        tier: Tier::ExactReplay,
        finding,
        numerics: Some("freehold/exact/1".into()),
        tokens: 3,
        time: TIME,
        extensions: extensions(),
    }
}

/// The manifest of a host with one model.
pub fn manifest() -> Manifest {
    Manifest {
        network: NETWORK,
        node: host().key(),
        lightning: LightningId([2; 33]),
        lightning_proof: "d9tibyexample".into(),
        roles: vec![Role::Host, Role::Validator],
        software: "freehold/0.1.0".into(),
        bands: vec!["cpu:avx2".into(), "ram:16-32".into()],
        models: vec![ModelOffer {
            name: "pocket".into(),
            digest: MODEL,
            tokenizer: Digest([0x70; 32]),
            template: Digest([0x7e; 32]),
            architecture: "qwen3".into(),
            quantisation: "Q8_0".into(),
            context: 512,
            numerics: Some("freehold/exact/1".into()),
            prices: prices(),
        }],
        limits: HostLimits {
            concurrent_orders: 2,
            queued_orders: 4,
            prompt_tokens: 400,
            output_tokens: 256,
        },
        payment_modes: vec![
            PaymentMode::Metered,
            PaymentMode::Before,
            PaymentMode::After,
        ],
        quantum: Msat(1_000),
        keep_days: 90,
        addresses: vec!["/ip4/127.0.0.1/udp/4001/quic-v1".into()],
        created: TIME,
        expires: TIME.after_ms(limits::LISTING_TTL_MS),
        extensions: extensions(),
    }
}

fn quote_request() -> QuoteRequest {
    QuoteRequest {
        model: MODEL,
        expected: counts(256),
        max_cost: Msat(100_000),
        extensions: extensions(),
    }
}

fn host_quote() -> HostQuote {
    HostQuote {
        request: pick_request(),
        model: MODEL,
        prices: prices(),
        quantum: Msat(1_000),
        starts_within_ms: 2_500,
        expires: TIME.after_ms(60_000),
        extensions: extensions(),
    }
}

fn signed_host_quote() -> Signed {
    seal(&host(), Some(buyer().key()), 0x1a, &host_quote())
}

fn router_offer() -> RouterOffer {
    RouterOffer {
        request: pick_request(),
        quotes: vec![signed_host_quote().digest()],
        fee: Msat(10),
        bolt11: Some("lnbcrt100p1example".into()),
        expires: TIME.after_ms(60_000),
        extensions: extensions(),
    }
}

fn pick_request() -> Digest {
    seal(&buyer(), Some(host().key()), 0x19, &quote_request()).digest()
}

fn revocation() -> Revocation {
    Revocation {
        mandate: seal(&host(), Some(buyer().key()), 0x10, &mandate()).digest(),
        extensions: extensions(),
    }
}

/// Every signed body in its envelope, with the key that signed it.
pub fn signed() -> Vec<(&'static str, Signed, NodeKey)> {
    let (buyer, host, validator) = (buyer(), host(), validator());
    let (to_buyer, to_host) = (Some(buyer.key()), Some(host.key()));
    vec![
        ("signed-order", signed_order(), buyer.key()),
        ("signed-terms", signed_terms(), host.key()),
        (
            "signed-invoice",
            seal(&host, to_buyer, 0x13, &invoice()),
            host.key(),
        ),
        (
            "signed-paid",
            seal(&buyer, to_host, 0x14, &paid()),
            buyer.key(),
        ),
        (
            "signed-receipt",
            seal(&host, to_buyer, 0x15, &receipt()),
            host.key(),
        ),
        (
            "signed-countersigned",
            seal(&buyer, to_host, 0x16, &countersigned()),
            buyer.key(),
        ),
        (
            "signed-verdict",
            seal(&validator, None, 0x17, &verdict(Finding::Honest)),
            validator.key(),
        ),
        (
            "signed-manifest",
            seal(&host, None, 0x18, &manifest()),
            host.key(),
        ),
        (
            "signed-quote-request",
            seal(&buyer, to_host, 0x19, &quote_request()),
            buyer.key(),
        ),
        ("signed-host-quote", signed_host_quote(), host.key()),
        (
            "signed-router-offer",
            seal(&validator, to_buyer, 0x1d, &router_offer()),
            validator.key(),
        ),
        (
            "signed-mandate",
            seal(&host, to_buyer, 0x10, &mandate()),
            host.key(),
        ),
        (
            "signed-revocation",
            seal(&host, None, 0x1b, &revocation()),
            host.key(),
        ),
    ]
}

fn pick(name: &str) -> Signed {
    let found = signed().into_iter().find(|(found, ..)| *found == name);
    found.expect("a sample of this name").1
}

fn bundle() -> Bundle {
    Bundle {
        order: signed_order(),
        terms: signed_terms(),
        tokens: tokens(),
        invoices: vec![pick("signed-invoice")],
        receipt: Some(pick("signed-receipt")),
        countersigned: Some(pick("signed-countersigned")),
    }
}

fn refusal() -> Refusal {
    Refusal {
        code: Code::Busy,
        message: "both slots are taken".into(),
        retry_after_ms: Some(2_000),
    }
}

fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<Vec<u8>> {
    let value: T = codec::decode(bytes, limits::MAX_AUDIT_FRAME_BYTES).ok()?;
    Some(codec::encode(&value))
}

fn decode_frame(bytes: &[u8]) -> Option<Vec<u8>> {
    Some(Frame::decode(bytes).ok()?.encode())
}

fn sample<T: Serialize + DeserializeOwned>(name: &'static str, value: &T) -> Sample {
    Sample {
        name,
        bytes: codec::encode(value),
        decode: decode::<T>,
    }
}

pub fn chunk() -> Chunk {
    Chunk {
        seq: 7,
        tokens: tokens(),
        totals: counts(3),
        finish: Some(Finish::Length),
        attached: attached(),
        extensions: extensions(),
    }
}

fn frames() -> Vec<Sample> {
    let frames = [
        ("frame-order", Frame::Order(signed_order())),
        ("frame-terms", Frame::Terms(signed_terms())),
        ("frame-refusal", Frame::Refusal(refusal())),
        ("frame-accept", Frame::Accept(signed_terms().digest())),
        ("frame-chunk", Frame::Chunk(chunk())),
        ("frame-invoice", Frame::Invoice(pick("signed-invoice"))),
        ("frame-paid", Frame::Paid(pick("signed-paid"))),
        ("frame-stop", Frame::Stop),
        ("frame-cancel", Frame::Cancel),
        ("frame-receipt", Frame::Receipt(pick("signed-receipt"))),
        (
            "frame-countersigned",
            Frame::Countersigned(pick("signed-countersigned")),
        ),
    ];
    let sampled = frames.into_iter().map(|(name, frame)| Sample {
        name,
        bytes: frame.encode(),
        decode: decode_frame,
    });
    sampled.collect()
}

fn bodies() -> Vec<Sample> {
    let complete = Work::Complete {
        prompt: "Once".into(),
    };
    let embed = Work::Embed {
        texts: vec!["a".into(), "b".into()],
    };
    let false_account = Finding::FalseAccount {
        detail: "the cost is not that of the totals".into(),
    };
    let wrong_answer = Finding::WrongAnswer {
        position: 2,
        detail: "another logit digest".into(),
    };
    let inconclusive = Finding::Inconclusive {
        detail: "no such model here".into(),
    };
    vec![
        sample("order-chat", &order(chat())),
        sample("order-complete", &order(complete)),
        sample("order-embed", &order(embed)),
        sample("terms", &terms()),
        sample("invoice", &invoice()),
        sample("paid", &paid()),
        sample("receipt", &receipt()),
        sample("countersigned", &countersigned()),
        sample("verdict-honest", &verdict(Finding::Honest)),
        sample("verdict-false-account", &verdict(false_account)),
        sample("verdict-wrong-answer", &verdict(wrong_answer)),
        sample("verdict-inconclusive", &verdict(inconclusive)),
        sample("manifest", &manifest()),
        sample("quote-request", &quote_request()),
        sample("host-quote", &host_quote()),
        sample("router-offer", &router_offer()),
        sample("mandate", &mandate()),
        sample("revocation", &revocation()),
    ]
}

fn others() -> Vec<Sample> {
    let pulse = Pulse {
        host: host().key(),
        model: MODEL,
        running: 1,
        queued: 2,
        slots: 3,
        time: TIME,
    };
    let envelope: Envelope =
        codec::decode(&signed_order().bytes, limits::MAX_ORDER_FRAME_BYTES).expect("our own");
    vec![
        sample("envelope", &envelope),
        sample("pulse", &pulse),
        sample("bundle", &bundle()),
        sample("audit-check", &AuditFrame::Check(Box::new(bundle()))),
        sample(
            "audit-verdict",
            &AuditFrame::Verdict(pick("signed-verdict")),
        ),
        sample("audit-refusal", &AuditFrame::Refusal(refusal())),
        sample(
            "quote-frame-request",
            &QuoteFrame::Request(pick("signed-quote-request")),
        ),
        sample(
            "quote-frame-offers",
            &QuoteFrame::Offers {
                offer: pick("signed-router-offer"),
                quotes: vec![pick("signed-host-quote")],
            },
        ),
        sample("quote-frame-refusal", &QuoteFrame::Refusal(refusal())),
        sample("blob-frame-get", &BlobFrame::Get(slice_request())),
        sample("blob-frame-slice", &BlobFrame::Slice(Box::new(slice()))),
        sample("blob-frame-refusal", &BlobFrame::Refusal(refusal())),
    ]
}

/// The second file of a model that is split into two of 40 bytes.
fn slice() -> Slice {
    let digest = |byte| Digest(*blake3::hash(&[byte; 40]).as_bytes());
    Slice {
        parts: vec![digest(1), digest(2)],
        length: 40,
        bytes: vec![2; 40],
        path: Vec::new(),
    }
}

fn slice_request() -> SliceRequest {
    SliceRequest {
        model: of_parts(&slice().parts),
        part: 1,
        group: 0,
    }
}

/// A sample of every type that travels; made once, as most of it is signing.
pub fn wire() -> &'static [Sample] {
    static WIRE: OnceLock<Vec<Sample>> = OnceLock::new();
    WIRE.get_or_init(|| {
        let envelopes = signed();
        let envelopes = envelopes.iter();
        let mut all: Vec<Sample> = envelopes
            .map(|(name, signed, _)| sample(name, signed))
            .collect();
        all.extend(bodies());
        all.extend(frames());
        all.extend(others());
        all
    })
}

/// Every hash that two nodes must compute alike.
pub fn hashes() -> Vec<(&'static str, Vec<u8>)> {
    let (order, terms) = (signed_order().digest(), signed_terms().digest());
    let mut chain = TokenChain::new(&order, &terms);
    let start = chain.head();
    let mut hashes = vec![
        ("key-buyer", buyer().key().0.to_vec()),
        ("key-host", host().key().0.to_vec()),
        ("key-validator", validator().key().0.to_vec()),
        ("digest-order", order.0.to_vec()),
        ("digest-terms", terms.0.to_vec()),
        ("chain-0", start.0.to_vec()),
    ];
    for (name, token) in ["chain-1", "chain-2", "chain-3"].into_iter().zip(tokens()) {
        chain.push(&token);
        hashes.push((name, chain.head().0.to_vec()));
    }
    let statement = lightning_statement(&host().key(), NETWORK).into_bytes();
    hashes.extend([
        (
            "description-hash",
            description_hash(&id(), 1, &counts(3)).to_vec(),
        ),
        (
            "prompt-digest",
            prompt_digest(&[0x5a; 16], &[1, 2, 3]).0.to_vec(),
        ),
        ("lightning-statement-text", statement),
    ]);
    hashes
}
