//! What the discovery tests share: hosts, listings and a machine to feed them to.

use super::*;
use crate::crypto::{InvoiceError, InvoiceFacts, Secp};
use crate::ids::{Digest, LightningId, Signature};
use crate::message::discovery::{Candidate, Pulse};
use crate::message::inference::ModelSelector;
use crate::message::reputation::Standing;
use crate::money::{Msat, Prices};
use crate::wire::manifest::{HostLimits, ModelOffer, PaymentMode, Role, lightning_statement};

mod flood;
mod listing;
mod own;

const MODEL: ModelDigest = ModelDigest([5; 32]);

/// Real keys, and a Lightning node that "signs" by repeating the statement.
struct Scheme(Secp);

impl Crypto for Scheme {
    fn key(&self) -> NodeKey {
        self.0.key()
    }
    fn sign(&self, message: &[u8; 32]) -> Signature {
        self.0.sign(message)
    }
    fn verify(&self, key: &NodeKey, message: &[u8; 32], signature: &Signature) -> bool {
        self.0.verify(key, message, signature)
    }
    fn read_invoice(&self, bolt11: &str) -> Result<InvoiceFacts, InvoiceError> {
        self.0.read_invoice(bolt11)
    }
    fn verify_lightning(&self, _: &LightningId, message: &str, signature: &str) -> bool {
        message == signature
    }
}

fn scheme() -> Scheme {
    Scheme(Secp::from_secret(&[1; 32]).unwrap())
}

fn at(ms: u64) -> Now {
    Now {
        tick: Tick(ms * 1_000_000),
        wall: WallTime(1_700_000_000_000 + ms),
    }
}

fn key(n: u8) -> NodeKey {
    NodeKey([n; 32])
}

/// `price` in msat per token.
fn offer(price: u64) -> ModelOffer {
    ModelOffer {
        name: "pocket".into(),
        digest: MODEL,
        tokenizer: Digest([1; 32]),
        template: Digest([2; 32]),
        architecture: "qwen3".into(),
        quantisation: "Q8_0".into(),
        context: 2_048,
        numerics: Some("fh1".into()),
        prices: Prices::chat(price * 1_000_000, price * 1_000_000),
    }
}

fn manifest(node: NodeKey, price: u64, now: Now) -> Manifest {
    Manifest {
        network: Network::Regtest,
        node,
        lightning: LightningId([2; 33]),
        lightning_proof: lightning_statement(&node, Network::Regtest),
        roles: vec![Role::Host],
        software: "freehold/0.1".into(),
        bands: Vec::new(),
        models: vec![offer(price)],
        limits: HostLimits {
            concurrent_orders: 2,
            queued_orders: 2,
            prompt_tokens: 1_024,
            output_tokens: 512,
        },
        payment_modes: vec![PaymentMode::Metered],
        quantum: Msat(1_000),
        keep_days: 90,
        addresses: vec!["/ip4/192.0.2.1/tcp/1/p2p/x".into()],
        created: now.wall,
        expires: now.wall.after_ms(limits::LISTING_TTL_MS),
        extensions: Vec::new(),
    }
}

fn machine() -> Discovery {
    Discovery::new(Config::new(Network::Regtest), Box::new(scheme()), [7; 32])
}

fn feed(machine: &mut Discovery, now: Now, input: Input) -> Vec<Effect> {
    let mut out = Outbox::default();
    machine.handle(now, input, &mut out);
    out.drain().collect()
}

fn wake(machine: &mut Discovery, now: Now) -> Vec<Effect> {
    let mut out = Outbox::default();
    machine.expire(now, &mut out);
    out.drain().collect()
}

fn seen(machine: &mut Discovery, now: Now, manifest: Manifest) -> Vec<Effect> {
    seen_at(machine, now, "ws://one", manifest)
}

fn seen_at(machine: &mut Discovery, now: Now, relay: &str, manifest: Manifest) -> Vec<Effect> {
    let input = Input::ListingSeen {
        relay: relay.into(),
        author: manifest.node,
        created: manifest.created,
        expires: manifest.expires,
        manifest: manifest.into(),
    };
    feed(machine, now, input)
}

fn query() -> Query {
    Query {
        model: ModelSelector::Name("pocket".into()),
        role: Role::Host,
        mode: PaymentMode::Metered,
        host: None,
        input_tokens: 100,
        input_bytes: 100,
        output_tokens: 100,
        items: 0,
    }
}

fn find(query: Query) -> Input {
    Input::FindCandidates {
        request: RequestId(1),
        query,
    }
}

fn found(effects: Vec<Effect>) -> Option<Vec<Candidate>> {
    effects.into_iter().find_map(|effect| match effect {
        Effect::Tell(Message::CandidatesFound { hosts, .. }) => Some(hosts),
        _ => None,
    })
}

fn wanted(effects: &[Effect]) -> Option<(EffectId, Vec<Subject>)> {
    effects.iter().find_map(|effect| match effect {
        Effect::Tell(Message::ScoreHosts { id, subjects }) => Some((*id, subjects.clone())),
        _ => None,
    })
}

/// A key for each of many hosts.
fn many(n: u16) -> NodeKey {
    let mut key = [0; 32];
    key[..2].copy_from_slice(&n.to_be_bytes());
    NodeKey(key)
}

/// Answers the question to Reputation: `served` hosts score well, the others nothing.
fn scored(
    machine: &mut Discovery,
    now: Now,
    effects: &[Effect],
    served: &[NodeKey],
) -> Vec<Effect> {
    let (id, subjects) = wanted(effects).unwrap();
    let cards = subjects
        .iter()
        .map(|one| {
            let mut card = ScoreCard::blank(one.host, one.model);
            if served.contains(&one.host) {
                card.standing = Standing::Served;
                card.total_ppm = 600_000;
            }
            card
        })
        .collect();
    feed(machine, now, Input::HostsScored { id, cards })
}

/// Finds with scores that all say the same, so that price decides.
fn hosts(machine: &mut Discovery, now: Now, query: Query) -> Vec<NodeKey> {
    let effects = feed(machine, now, find(query));
    let Some((id, subjects)) = wanted(&effects) else {
        return found(effects).unwrap().iter().map(|one| one.host).collect();
    };
    let cards = subjects
        .iter()
        .map(|one| ScoreCard::blank(one.host, one.model))
        .collect();
    let effects = feed(machine, now, Input::HostsScored { id, cards });
    found(effects).unwrap().iter().map(|one| one.host).collect()
}
