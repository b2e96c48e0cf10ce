//! One whole honest order as a bundle, from fixed keys, and the same with one thing wrong each.
//!
//! Not a test of the order machines: the bundle is put together by hand, with real BOLT 11
//! strings. `golden/bundle.json` is what `freehold ask --save-bundle` would write of it. The
//! reader in `tests/thirdparty` must take it and refuse the altered ones: with
//! `FREEHOLD_BUNDLES=FOLDER` they are written there for it. Golden files are written anew as
//! `golden.rs` says, with `--test evidence`.

use lightning_invoice::{Currency, InvoiceBuilder, PaymentSecret};
use protocol::codec::{self, Extension};
use protocol::crypto::{Crypto, Secp};
use protocol::ids::{Digest, ModelDigest, NodeKey, OrderId, PaymentHash};
use protocol::money::{Counts, Msat, Prices};
use protocol::time::WallTime;
use protocol::validator::bookkeeping;
use protocol::wire::bundle::Bundle;
use protocol::wire::chain::{ChainedToken, Piece, TokenChain};
use protocol::wire::envelope::{Body, Envelope, Network, Signed};
use protocol::wire::manifest::PaymentMode;
use protocol::wire::order::{
    Countersigned, EntryInvoice, Finish, Handling, Invoice, Order, Path, PaymentEntry, Receipt,
    Retention, Status, Terms, description_hash, prompt_digest,
};
use protocol::wire::text;
use protocol::work::{ChatMessage, Job, Sampling, Steering, Work};
use secp256k1::{SECP256K1, SecretKey};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

const NETWORK: Network = Network::Regtest;
/// 1 January 2026, 00:00 UTC.
const TIME: WallTime = WallTime(1_767_225_600_000);
/// What is shown of the answer.
const TEXT: &str = "Ein Käse kostet 5 €.";

fn signer(secret: u8) -> Secp {
    Secp::from_secret(&[secret; 32]).expect("a secret below the group order")
}

fn buyer() -> Secp {
    signer(1)
}

fn host() -> Secp {
    signer(2)
}

fn seal<T: Body>(by: &Secp, to: NodeKey, nonce: u8, body: &T) -> Signed {
    Signed::seal(by, NETWORK, Some(to), TIME, [nonce; 16], body)
}

fn tokens() -> Vec<ChainedToken> {
    let pieces: [&[u8]; 10] = [
        b"Ein ",
        b"K",
        b"\xc3",
        b"\xa4se",
        b" kostet",
        b" 5",
        b" \xe2\x82",
        b"\xac",
        b".",
        b"<|im_end|>",
    ];
    (0u8..)
        .zip(pieces)
        .map(|(n, bytes)| ChainedToken {
            id: 1_000 + u32::from(n),
            logits: Digest([0xa0 + n; 32]),
            piece: Piece {
                control: n == 9,
                bytes: bytes.to_vec(),
            },
        })
        .collect()
}

fn order_body() -> Order {
    Order {
        model: ModelDigest([5; 32]),
        job: Job {
            work: Work::Chat {
                messages: vec![ChatMessage {
                    role: "user".into(),
                    content: "Was kostet ein Käse?".into(),
                }],
            },
            max_output: 64,
            sampling: Sampling::default(),
            seed: 4,
            stop: vec!["\n\n".into()],
            date: "2026-01-01".into(),
            steering: Steering::default(),
            prefix: Vec::new(),
            extensions: Vec::new(),
        },
        max_cost: Msat(100_000),
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

fn counts(output_tokens: u64) -> Counts {
    Counts {
        input_tokens: 8,
        output_tokens,
        ..Counts::default()
    }
}

fn payment_hash(seq: u32) -> PaymentHash {
    PaymentHash([0x80 + seq as u8; 32])
}

/// A BOLT 11 string of the Lightning node with this secret.
fn bolt11(node: u8, order: &OrderId, seq: u32, msat: Msat, covers: &Counts) -> String {
    let key = SecretKey::from_slice(&[node; 32]).expect("a secret below the group order");
    let hash = payment_hash(seq).to_string();
    let about = hex::encode(description_hash(order, seq, covers));
    InvoiceBuilder::new(Currency::Regtest)
        .description_hash(about.parse().expect("32 bytes in hex"))
        .payment_hash(hash.parse().expect("32 bytes in hex"))
        .payment_secret(PaymentSecret([7; 32]))
        .duration_since_epoch(Duration::from_millis(TIME.0))
        .expiry_time(Duration::from_secs(180))
        .min_final_cltv_expiry_delta(144)
        .amount_milli_satoshis(msat.0)
        .basic_mpp()
        .build_signed(|message| SECP256K1.sign_ecdsa_recoverable(message, &key))
        .expect("an invoice with all that it needs")
        .to_string()
}

/// What may be changed before the host signs it, so that its own word is wrong.
struct Script {
    order: fn(&mut Order),
    terms: fn(&mut Terms),
    /// The tokens, before anything is signed over them.
    tokens: fn(&mut Vec<ChainedToken>),
    invoice: fn(&mut Invoice),
    finish: Finish,
    receipt: fn(&mut Receipt),
    /// Secret of the Lightning node that the last invoice pays.
    last_payee: u8,
}

impl Default for Script {
    fn default() -> Self {
        Script {
            order: |_| {},
            terms: |_| {},
            tokens: |_| {},
            invoice: |_| {},
            finish: Finish::Stop,
            receipt: |_| {},
            last_payee: 8,
        }
    }
}

/// Ten tokens: an entry of 1,900 msat, one step of 1,000 at the eighth, the rest at the end.
fn bundle(script: &Script) -> Bundle {
    let (buyer, host) = (buyer(), host());
    let mut order = order_body();
    (script.order)(&mut order);
    let order = seal(&buyer, host.key(), 0x11, &order);
    let id = OrderId::of(&order.digest());
    let mut said = Terms {
        order: order.digest(),
        input: counts(0),
        prices: Prices::chat(100_000_000, 250_000_000),
        window: Msat(2_000),
        quantum: Msat(1_000),
        carried_debt: Msat(100),
        entry: Some(EntryInvoice {
            bolt11: bolt11(8, &id, 0, Msat(1_900), &counts(0)),
            msat: Msat(1_900),
        }),
        numerics: Some("freehold/exact/3".into()),
        tokenizer: Digest([0x70; 32]),
        template: Digest([0x7e; 32]),
        starts_within_ms: 0,
        expires: TIME.after_ms(60_000),
        extensions: Vec::new(),
    };
    (script.terms)(&mut said);
    let terms = seal(&host, buyer.key(), 0x12, &said);
    let mut tokens = tokens();
    (script.tokens)(&mut tokens);
    let head = |units: usize| {
        let mut chain = TokenChain::new(&order.digest(), &terms.digest());
        tokens.iter().take(units).for_each(|t| chain.push(t));
        chain.head()
    };
    let invoice = |seq: u32, units: u64, msat, invoiced, node| {
        let covers = counts(units);
        let mut body = Invoice {
            order: id,
            seq,
            bolt11: bolt11(node, &id, seq, Msat(msat), &covers),
            msat: Msat(msat),
            covers,
            invoiced: Msat(invoiced),
            head: head(units as usize),
            window: Msat(2_000),
            extensions: Vec::new(),
        };
        (script.invoice)(&mut body);
        seal(&host, buyer.key(), 0x20 + seq as u8, &body)
    };
    let payment = |seq, msat| PaymentEntry {
        seq,
        hash: payment_hash(seq),
        msat: Msat(msat),
    };
    let mut receipt = Receipt {
        id,
        order: order.digest(),
        terms: terms.digest(),
        buyer: buyer.key(),
        host: host.key(),
        model: ModelDigest([5; 32]),
        tokenizer: said.tokenizer,
        template: said.template,
        numerics: said.numerics.clone(),
        prices: said.prices.clone(),
        prompt: prompt_digest(&[6; 16], &[1, 2, 3, 4, 5, 6, 7, 8]),
        head: head(10),
        finish: script.finish,
        counts: counts(10),
        cost: Msat(3_300),
        payments: vec![payment(0, 1_900), payment(1, 1_000), payment(2, 500)],
        debt: Msat(0),
        started: TIME.after_ms(500),
        ended: TIME.after_ms(1_500),
        status: Status::Complete,
        extensions: Vec::new(),
    };
    (script.receipt)(&mut receipt);
    let invoices = vec![
        invoice(1, 8, 1_000, 2_900, 8),
        invoice(2, 10, 500, 3_400, script.last_payee),
    ];
    let receipt = seal(&host, buyer.key(), 0x15, &receipt);
    let countersigned = Countersigned {
        receipt: receipt.digest(),
        extensions: Vec::new(),
    };
    Bundle {
        countersigned: Some(seal(&buyer, host.key(), 0x16, &countersigned)),
        order,
        terms,
        tokens,
        invoices,
        receipt: Some(receipt),
    }
}

/// The same receipt for another recipient or network, signed anew.
fn resealed(network: Network, to: NodeKey) -> Bundle {
    let mut bundle = bundle(&Script::default());
    let receipt = bundle.receipt.take().expect("an honest bundle has one");
    let envelope: Envelope = codec::decode(&receipt.bytes, 1 << 20).expect("our own");
    let body: Receipt = codec::decode(&envelope.body, 1 << 20).expect("our own");
    let signed = Signed::seal(&host(), network, Some(to), TIME, [0x15; 16], &body);
    Bundle {
        receipt: Some(signed),
        countersigned: None,
        ..bundle
    }
}

/// Takes an honest bundle; what is changed here was changed after all signatures.
fn changed(change: fn(&mut Bundle)) -> Bundle {
    let mut bundle = bundle(&Script::default());
    change(&mut bundle);
    bundle
}

fn said(script: Script) -> Bundle {
    bundle(&script)
}

fn receipt(change: fn(&mut Receipt)) -> Bundle {
    bundle(&Script {
        receipt: change,
        ..Script::default()
    })
}

fn invoice(change: fn(&mut Invoice)) -> Bundle {
    bundle(&Script {
        invoice: change,
        ..Script::default()
    })
}

/// Those of [`altered`] by which no third party convicts: the buyer could have made them.
const UNPROVED: [&str; 13] = [
    "receipt-extension-too-large",
    "flipped-text",
    "control-as-text",
    "other-token",
    "other-logits",
    "dropped-token",
    "swapped-tokens",
    "broken-signature",
    "other-countersignature",
    "invoice-twice",
    "receipt-for-another-network",
    "receipt-extension",
    "terms-of-another-order",
];

/// Bundles that every reader refuses, by name.
fn altered() -> Vec<(&'static str, Bundle)> {
    vec![
        ("flipped-text", changed(|b| b.tokens[4].piece.bytes[1] ^= 1)),
        (
            "control-as-text",
            changed(|b| b.tokens[9].piece.control = false),
        ),
        ("other-token", changed(|b| b.tokens[3].id += 1)),
        ("other-logits", changed(|b| b.tokens[3].logits.0[0] ^= 1)),
        ("dropped-token", changed(|b| b.tokens.truncate(9))),
        ("swapped-tokens", changed(|b| b.tokens.swap(1, 4))),
        (
            "broken-signature",
            changed(|b| b.terms.signature.0[40] ^= 1),
        ),
        (
            "other-countersignature",
            changed(|b| b.countersigned = b.invoices.first().cloned()),
        ),
        (
            "invoice-twice",
            changed(|b| b.invoices[1] = b.invoices[0].clone()),
        ),
        (
            "receipt-for-another-network",
            resealed(Network::Signet, buyer().key()),
        ),
        ("receipt-sum", receipt(|r| r.payments[2].msat = Msat(400))),
        ("receipt-cost", receipt(|r| r.cost = Msat(3_301))),
        ("receipt-debt", receipt(|r| r.debt = Msat(1))),
        ("receipt-count", receipt(|r| r.counts.output_tokens = 9)),
        (
            "receipt-order-of-payments",
            receipt(|r| r.payments.swap(1, 2)),
        ),
        (
            "receipt-payment-twice",
            receipt(|r| r.payments[2] = r.payments[1]),
        ),
        ("receipt-status", receipt(|r| r.status = Status::Stopped)),
        ("receipt-end", receipt(|r| r.finish = Finish::Length)),
        ("receipt-budget", receipt(|r| r.finish = Finish::Budget)),
        (
            // Neither a control token nor a stop string is at its end.
            "receipt-ended-by-nothing",
            said(Script {
                tokens: |tokens| {
                    if let Some(last) = tokens.last_mut() {
                        last.piece.control = false;
                    }
                },
                ..Script::default()
            }),
        ),
        (
            "receipt-prices",
            receipt(|r| r.prices = Prices::chat(100_000_000, 250_000_001)),
        ),
        ("receipt-head", receipt(|r| r.head.0[0] ^= 1)),
        (
            "receipt-extension",
            receipt(|r| {
                r.extensions = vec![Extension {
                    kind: 2,
                    value: Vec::new(),
                }];
            }),
        ),
        (
            "receipt-extension-too-large",
            receipt(|r| {
                r.extensions = vec![Extension {
                    kind: 1,
                    value: vec![0; 4_097],
                }];
            }),
        ),
        ("invoice-sum", invoice(|i| i.invoiced.0 += 1)),
        (
            "invoice-amount",
            invoice(|i| i.msat.0 += u64::from(i.seq == 1)),
        ),
        (
            "terms-of-another-order",
            said(Script {
                terms: |t| t.order.0[0] ^= 1,
                ..Script::default()
            }),
        ),
        (
            "entry-amount",
            said(Script {
                terms: |t| {
                    if let Some(entry) = &mut t.entry {
                        entry.msat.0 += 1;
                    }
                },
                ..Script::default()
            }),
        ),
    ]
}

/// Bundles by which no third party convicts, and that a strict reader refuses all the same: the
/// buyer would have gone elsewhere, or not paid.
fn altered_for_the_buyer() -> Vec<(&'static str, Bundle)> {
    vec![
        ("receipt-for-another-buyer", resealed(NETWORK, host().key())),
        (
            "invoice-below-a-step",
            said(Script {
                terms: |t| t.quantum = Msat(1_300),
                ..Script::default()
            }),
        ),
        (
            "steps-without-number",
            said(Script {
                order: |o| (o.job.max_output, o.max_cost) = (131_072, Msat(100_000_000)),
                ..Script::default()
            }),
        ),
        (
            "invoice-pays-another-node",
            said(Script {
                last_payee: 9,
                ..Script::default()
            }),
        ),
        (
            "order-too-large",
            said(Script {
                order: |o| o.job.stop = vec!["x".into(); 17],
                ..Script::default()
            }),
        ),
    ]
}

/// Compares `text` with the stored file, or stores it where that is asked for.
fn compare(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("FREEHOLD_WRITE_GOLDEN").is_some() {
        fs::write(&path, text).expect("the folder of golden vectors is writable");
    }
    assert_eq!(
        fs::read_to_string(&path).unwrap_or_default(),
        text,
        "{name}"
    );
}

#[test]
fn the_bundle_of_an_honest_order_is_the_one_on_file() {
    let json = serde_json::to_string(&bundle(&Script::default())).expect("a bundle is JSON");
    compare("bundle.json", &format!("{json}\n"));
}

/// Pieces with the stop strings of their job: what the rules of `protocol::wire::text` decide.
fn texts() -> Vec<(Vec<Piece>, Vec<&'static str>)> {
    let text = |parts: &[&[u8]]| parts.iter().map(|part| Piece::text(*part)).collect();
    let mark = Piece {
        control: true,
        bytes: b"<|end|>".to_vec(),
    };
    vec![
        (text(&[b"5 \xe2\x82", b"\xac."]), vec![]),
        (
            text(&[b"a\xffb\xf0\x9f\x98c", b"\xed\xa0\x80\xc0\xaf"]),
            vec![],
        ),
        (text(&[b"cut \xf0\x9f", b"\x98"]), vec![]),
        (text(&[b"one E", b"N", b"D two"]), vec!["END"]),
        (text(&[b"E", b"N", b"d", b"EN"]), vec!["END", ""]),
        (text(&[b"one two three"]), vec!["two three", "o t"]),
        (text(&[b"a stop"]), vec!["stop", "a stop", "top"]),
        (text(&[b"\xe2\x82"]), vec!["\u{fffd}"]),
        (
            [text(&[b"Hi"]), vec![mark.clone()], text(&[b"!"])].concat(),
            vec!["<|"],
        ),
        (vec![mark], vec![]),
    ]
}

#[test]
fn the_text_of_pieces_is_the_one_on_file() {
    let mut rows = Vec::new();
    for (pieces, stop) in texts() {
        let stop: Vec<String> = stop.into_iter().map(str::to_owned).collect();
        let mut rendering = text::Rendering::new(&stop);
        let mut shown: String = pieces.iter().map(|piece| rendering.push(piece)).collect();
        shown.push_str(&rendering.finish());
        let stopped = rendering.is_stopped();
        let row = serde_json::json!({
            "pieces": pieces, "stop": stop, "text": shown, "stopped": stopped,
        });
        rows.push(row.to_string());
    }
    compare("text.json", &format!("[\n{}\n]\n", rows.join(",\n")));
}

#[test]
fn the_honest_bundle_adds_up_and_shows_its_text() {
    let bundle = bundle(&Script::default());
    let facts = bookkeeping(&bundle, &buyer(), NETWORK).expect("an honest bundle");
    assert_eq!(facts.tokens, bundle.tokens);
    assert_eq!(text::render(&facts.tokens, &facts.job.stop), TEXT);
}

#[test]
fn every_altered_bundle_is_refused() {
    for (name, bundle) in altered() {
        let finding = bookkeeping(&bundle, &buyer(), NETWORK).expect_err(name);
        let convicts = !UNPROVED.contains(&name);
        assert_eq!(finding.convicts(), convicts, "{name}: {finding:?}");
    }
}

#[test]
fn an_end_of_each_kind_that_is_true_is_no_lie() {
    type End = (Finish, fn(&mut Order), fn(&mut Vec<ChainedToken>));
    let ends: [End; 4] = [
        (Finish::Stop, |_| {}, |_| {}),
        // 3,300 is the cost of ten tokens, one more is 250.
        (Finish::Budget, |o| o.max_cost = Msat(3_649), |_| {}),
        (Finish::Length, |o| o.job.max_output = 10, |_| {}),
        (
            Finish::Stop,
            |o| o.job.stop = vec!["5 €".to_owned()],
            |tokens| tokens[9].piece = Piece::text(*b" more"),
        ),
    ];
    for (finish, order, tokens) in ends {
        let script = Script {
            order,
            tokens,
            finish,
            ..Script::default()
        };
        let found = bookkeeping(&bundle(&script), &buyer(), NETWORK);
        assert!(found.is_ok(), "{finish:?}: {found:?}");
    }
}

#[test]
fn what_only_the_buyer_can_hold_against_a_host_convicts_nobody() {
    for (name, bundle) in altered_for_the_buyer() {
        if let Err(finding) = bookkeeping(&bundle, &buyer(), NETWORK) {
            assert!(!finding.convicts(), "{name}: {finding:?}");
        }
    }
}

#[test]
fn bundles_for_the_third_partys_reader_survive_their_json() {
    let folder = std::env::var_os("FREEHOLD_BUNDLES").map(PathBuf::from);
    let honest = ("honest", bundle(&Script::default()));
    let all = [vec![honest], altered(), altered_for_the_buyer()].concat();
    for (name, bundle) in all {
        let json = serde_json::to_vec(&bundle).expect("a bundle is JSON");
        let back: Bundle = serde_json::from_slice(&json).expect("our JSON is a bundle");
        assert_eq!(back, bundle, "{name}");
        if let Some(folder) = &folder {
            fs::write(folder.join(format!("{name}.json")), json).expect("the folder is writable");
        }
    }
}
