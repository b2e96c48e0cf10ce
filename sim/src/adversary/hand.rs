//! What an adversary can do in the world: dial, send, sign, pay, list, ask for audits.
//!
//! Its own node only: it reaches others by what they would reach each other by.

use crate::check::Seen;
use crate::crypto::{SimCrypto, lightning_id, lightning_proof, read_invoice};
use crate::dice::{Dice, MS};
use crate::event::{Event, NodeIx};
use crate::node::{NETWORK, Node, embeds, models};
use crate::world::World;
use protocol::crypto::Crypto;
use protocol::ids::{ModelDigest, NodeKey, OrderId, PaymentHash, StreamId};
use protocol::limits::LISTING_TTL_MS;
use protocol::money::Msat;
use protocol::time::WallTime;
use protocol::wire::bundle::Bundle;
use protocol::wire::envelope::{Body, Signed};
use protocol::wire::manifest::{HostLimits, Manifest, PaymentMode, Role, lightning_statement};
use protocol::wire::order::Frame;

/// How long a payment of an adversary takes. Milliseconds.
const PAY_MS: u64 = 80;
/// How long it takes until a change is listed, at most: a test of its own, relays, a pause. Milliseconds.
const LISTED_MS: u64 = 60_000;
/// What an adversary pays for routing, at most. Msat.
const ANY_FEE: u64 = 1_000_000;

/// An adversary's hold on the world.
pub struct Hand<'a> {
    pub(crate) world: &'a mut World,
    pub(crate) node: NodeIx,
}

impl Hand<'_> {
    /// The source of chance.
    pub fn dice(&mut self) -> &mut Dice {
        &mut self.world.dice
    }

    /// Its own node.
    pub fn own(&self) -> &Node {
        &self.world.nodes[self.node]
    }

    /// Its own node, to change what is known of it.
    pub(crate) fn own_mut(&mut self) -> &mut Node {
        &mut self.world.nodes[self.node]
    }

    /// Its wall clock.
    pub fn wall(&self) -> WallTime {
        self.own().now(self.world.now).wall
    }

    /// World time. Milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.world.now / MS
    }

    /// Shows the checkers something.
    pub(crate) fn see(&mut self, seen: Seen<'_>) {
        self.world.see(seen);
    }

    /// An honest host that is up, and a model of text that it sells.
    pub fn host(&mut self) -> Option<(NodeIx, ModelDigest)> {
        let listed = |node: &&Node| node.machines.is_some() && !node.withdrawn;
        let found: Vec<(NodeIx, ModelDigest)> = (0..self.world.nodes.len())
            .filter(|index| *index != self.node && listed(&&self.world.nodes[*index]))
            .filter(|index| self.world.nodes[*index].participant.honest())
            .flat_map(|index| {
                let served = self.world.nodes[index].participant.served.iter();
                let models = served.map(|one| one.offer.digest);
                models
                    .filter(|model| !embeds(model))
                    .map(move |model| (index, model))
                    .collect::<Vec<_>>()
            })
            .collect();
        let at = self.dice().below(found.len());
        found.get(at).copied()
    }

    /// A validator that is up.
    pub fn validator(&mut self) -> Option<NodeIx> {
        let found: Vec<NodeIx> = (0..self.world.nodes.len())
            .filter(|index| *index != self.node && self.world.up(*index))
            .filter(|index| self.world.nodes[*index].participant.validator)
            .collect();
        let at = self.dice().below(found.len());
        found.get(at).copied()
    }

    /// The node key of a node.
    pub fn key_of(&self, node: NodeIx) -> NodeKey {
        self.world.nodes[node].participant.key
    }

    /// The signer of a secret.
    pub fn signer(&self, secret: &[u8; 32]) -> SimCrypto {
        SimCrypto::new(secret, self.world.options.real_crypto)
    }

    /// The secret of its own node key.
    pub(crate) fn secret(&self) -> [u8; 32] {
        self.own().secret
    }

    /// Signs for somebody with a secret of its own.
    pub fn seal<T: Body>(&mut self, secret: &[u8; 32], to: Option<NodeKey>, body: &T) -> Signed {
        let nonce = self.id();
        let (signer, wall) = (self.signer(secret), self.wall());
        Signed::seal(&signer, NETWORK, to, wall, nonce, body)
    }

    /// Sixteen bytes that nobody drew before.
    pub fn id(&mut self) -> [u8; 16] {
        let mut id = [0; 16];
        id.copy_from_slice(&self.dice().bytes()[..16]);
        id
    }

    /// Opens a stream of its own to a node.
    pub fn dial(&mut self, to: NodeIx) -> Option<StreamId> {
        self.world.dial_raw(self.node, to)
    }

    /// Sends a frame on a stream.
    pub fn send(&mut self, stream: StreamId, frame: &Frame) {
        let bytes = frame.encode();
        self.world.trace.bytes(&bytes);
        self.world.send_bytes(stream, bytes);
    }

    /// Closes a stream.
    pub fn close(&mut self, stream: StreamId) {
        self.world.close_raw(stream);
    }

    /// Pays an invoice: really.
    pub fn pay(&mut self, bolt11: &str) -> Option<PaymentHash> {
        let facts = read_invoice(bolt11)?;
        let (node, now) = (self.node, self.world.now);
        let fee = Msat(ANY_FEE);
        self.world
            .wallets
            .begin(node, facts.hash, facts.msat?, fee, now)
            .ok()?;
        self.world.own_payments.insert(facts.hash);
        let hash = facts.hash;
        self.world
            .queue
            .push(now + PAY_MS * MS, Event::Resolve { payer: node, hash });
        Some(hash)
    }

    /// Has a validator judge a bundle.
    pub fn audit(&mut self, server: NodeIx, bundle: Box<Bundle>) {
        self.world.ask_audit(self.node, server, bundle);
    }

    /// Lists a host with a key of its own at every relay: all models, at these prices in msat for
    /// a million tokens.
    pub fn list(&mut self, secret: &[u8; 32], input: u64, output: u64) {
        let signer = self.signer(secret);
        let key = signer.key();
        let lightning = lightning_id(&key);
        let wall = self.wall();
        let expires = wall.after_ms(LISTING_TTL_MS);
        let limits = HostLimits {
            concurrent_orders: 8,
            queued_orders: 8,
            prompt_tokens: 4_096,
            output_tokens: 8_192,
        };
        let text = models().into_iter().filter(|model| !embeds(model));
        let manifest = Manifest {
            network: NETWORK,
            node: key,
            lightning,
            lightning_proof: lightning_proof(&lightning, &lightning_statement(&key, NETWORK)),
            roles: vec![Role::Client, Role::Host],
            software: "sim".to_owned(),
            bands: Vec::new(),
            models: text
                .map(|model| {
                    crate::profile::offer(model, protocol::money::Prices::chat(input, output))
                })
                .collect(),
            limits,
            payment_modes: vec![
                PaymentMode::Metered,
                PaymentMode::Before,
                PaymentMode::After,
            ],
            quantum: Msat(1_000),
            keep_days: 90,
            addresses: vec![format!("sim/{}", self.node)],
            created: wall,
            expires,
            extensions: Vec::new(),
        };
        for relay in 0..self.world.relays.len() {
            self.world.publish_raw(relay, manifest.clone());
        }
        self.see(Seen::Listed {
            author: key,
            expires,
        });
    }

    /// Its own node lists anew, as an operator does after a change.
    pub(crate) fn relist(&mut self) {
        let node = self.node;
        let participant = self.own().participant.clone();
        self.see(Seen::Changed {
            node,
            participant: &participant,
        });
        self.world.serve(node);
        let at = self.world.now + self.world.dice.ms(1, LISTED_MS);
        self.world.queue.push(at, Event::Announce { node });
    }

    /// Whether all faults have ended.
    pub(crate) fn healed(&self) -> bool {
        self.world.healed
    }

    /// Its own node is restarted after a change, under whatever orders there are; it lists anew
    /// when it is back.
    pub(crate) fn restart(&mut self) {
        let node = self.node;
        let participant = self.own().participant.clone();
        self.see(Seen::Changed {
            node,
            participant: &participant,
        });
        self.world.crash(node);
    }

    /// How long an answer under way would be, for the one who cuts it.
    pub(crate) fn running(&self, order: &OrderId) -> Option<&crate::engine::Running> {
        self.own().engine.running.get(order)
    }
}
