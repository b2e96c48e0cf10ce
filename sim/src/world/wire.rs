//! Dials, frames, closes, audit questions, listings and pulses.

use super::{Question, Via, World};
use crate::callers;
use crate::check::Seen;
use crate::dice::MS;
use crate::event::{Event, NodeIx};
use crate::faults::PeerFault;
use crate::node::lane_of;
use crate::relay::{HANDOVER_MS, relays_of, share_relay};
use protocol::codec;
use protocol::ids::{Caller, EffectId, ModelDigest, NodeKey, StreamId};
use protocol::limits::MAX_AUDIT_FRAME_BYTES;
use protocol::message::discovery::{Input as ListInput, Pulse};
use protocol::message::inference::Input as OrderInput;
use protocol::message::validator::Input as CheckInput;
use protocol::route::{Actor, Delivery};
use protocol::time::WallTime;
use protocol::wire::bundle::{AuditFrame, Bundle};
use protocol::wire::manifest::Manifest;
use protocol::wire::order::Frame;
use std::sync::Arc;

/// How long a transport waits before it declares a silent peer gone. Milliseconds.
const KEEPALIVE_MS: u64 = 60_000;
/// How long a dial that gets no answer takes. Milliseconds.
const DIAL_MS: u64 = 25_000;
/// Relays take nothing from further in the future, as strfry does. Milliseconds.
const FUTURE_MS: u64 = 900_000;
/// How long another validator's verdict is waited for. Milliseconds.
const VERDICT_MS: u64 = 120_000;

impl World {
    pub(super) fn latency(&mut self) -> u64 {
        self.dice.ms(1, self.plan.latency_ms)
    }

    pub(super) fn node_at(&self, addresses: &[String]) -> Option<NodeIx> {
        let text = addresses.first()?.strip_prefix("sim/")?;
        text.parse().ok().filter(|node| *node < self.nodes.len())
    }

    pub(super) fn dial(&mut self, node: NodeIx, id: EffectId, addresses: &[String]) {
        let epoch = self.nodes[node].epoch;
        let target = self.node_at(addresses).filter(|to| {
            self.net.blocked(node, *to, self.now).is_none()
                && self.net.blocked(*to, node, self.now).is_none()
        });
        let wait = if target.is_some() {
            2 * self.latency()
        } else {
            DIAL_MS * MS
        };
        self.queue.push(
            self.now + wait,
            Event::Dialed {
                node,
                epoch,
                id,
                target,
            },
        );
    }

    pub(super) fn dialed(
        &mut self,
        node: NodeIx,
        epoch: u32,
        id: EffectId,
        target: Option<NodeIx>,
    ) {
        if !self.is_run(node, epoch) {
            return;
        }
        let Some(to) = target.filter(|to| self.up(*to)) else {
            let reason = "no answer at this address".to_owned();
            let ours = false;
            let failed = Delivery::Inference(OrderInput::OpenFailed { id, reason, ours });
            return self.post(node, Via::Net, failed, 0);
        };
        let caller = self.nodes[node].participant.caller;
        let (ours, theirs) = self.net.connect((node, epoch), (to, self.nodes[to].epoch));
        self.inbound(to, theirs, caller);
        self.post(
            node,
            Via::Net,
            Delivery::Inference(OrderInput::Opened { id, stream: ours }),
            0,
        );
    }

    /// Somebody opened a stream to a node.
    fn inbound(&mut self, to: NodeIx, stream: StreamId, caller: Caller) {
        let adversary = self.nodes[to].adversary.as_ref();
        if adversary.is_some_and(|adversary| adversary.takes_streams()) {
            self.raw.insert(stream);
            return;
        }
        let input = OrderInput::Inbound { stream, caller };
        self.post(to, Via::Net, Delivery::Inference(input), 0);
    }

    /// An adversary opens a stream of its own.
    pub(crate) fn dial_raw(&mut self, node: NodeIx, to: NodeIx) -> Option<StreamId> {
        let cut = |from, to| self.net.blocked(from, to, self.now).is_some();
        if !self.up(to) || cut(node, to) || cut(to, node) {
            return None;
        }
        let (here, there) = (self.nodes[node].epoch, self.nodes[to].epoch);
        let (ours, theirs) = self.net.connect((node, here), (to, there));
        let caller = callers::of_stream(self.options.seed, (node, &self.nodes[node]), theirs);
        self.raw.insert(ours);
        self.inbound(to, theirs, caller);
        Some(ours)
    }

    /// An adversary closes a stream of its own.
    pub(crate) fn close_raw(&mut self, stream: StreamId) {
        self.close_stream(stream);
        if let Some(end) = self.net.ends.get_mut(&stream) {
            end.reading = false;
        }
        self.raw.remove(&stream);
    }

    /// A machine writes a frame.
    pub(super) fn send(&mut self, node: NodeIx, stream: StreamId, frame: &Frame) {
        let Some(end) = self.net.ends.get(&stream).filter(|end| !end.closed) else {
            let closed = Delivery::Inference(OrderInput::Closed { stream });
            return self.post(node, Via::Net, closed, 0);
        };
        let Some(to) = self.net.ends.get(&end.peer).map(|peer| peer.node) else {
            return;
        };
        let dialer = end.dialer;
        self.see(Seen::Sent {
            from: node,
            to,
            stream,
            frame,
        });
        let bytes = frame.encode();
        self.trace.bytes(&bytes);
        if let (true, Frame::Order(_)) = (dialer, frame) {
            self.remember_order(node, to, &bytes);
        }
        for bytes in self.altered(node, bytes) {
            self.send_bytes(stream, bytes);
        }
        if self.dice.chance(self.plan.break_ppm) {
            self.break_stream(stream);
        }
    }

    pub(crate) fn send_bytes(&mut self, stream: StreamId, bytes: Vec<u8>) {
        let Some((from, peer)) = self.net.ends.get(&stream).map(|end| (end.node, end.peer)) else {
            return;
        };
        let latency = self.latency();
        let now = self.now;
        let Some(to) = self
            .net
            .ends
            .get(&peer)
            .filter(|end| !end.lost)
            .map(|end| end.node)
        else {
            return;
        };
        let mut at = now + latency;
        if self.net.blocked(from, to, now).is_some() {
            self.see(Seen::Broken { stream });
        }
        if let Some(until) = self.net.blocked(from, to, now) {
            if until > now + KEEPALIVE_MS * MS {
                // The cut may end earlier after all, or a later one be shorter.
                if let Some(end) = self.net.ends.get_mut(&peer) {
                    end.lost = true;
                }
                let gone = now + KEEPALIVE_MS * MS;
                self.queue.push(gone, Event::Hangup { stream });
                self.queue.push(gone, Event::Hangup { stream: peer });
                return;
            }
            at = until + latency;
        }
        if let Some(end) = self.net.ends.get_mut(&peer) {
            at = at.max(end.last + 1);
            end.last = at;
            self.queue.push(
                at,
                Event::Arrive {
                    stream: peer,
                    bytes,
                },
            );
        }
    }

    /// Both ends lose the stream.
    fn break_stream(&mut self, stream: StreamId) {
        let Some(peer) = self.net.ends.get(&stream).map(|end| end.peer) else {
            return;
        };
        self.see(Seen::Broken { stream });
        let (a, b) = (self.now + self.latency(), self.now + self.latency());
        self.queue.push(a, Event::Hangup { stream });
        self.queue.push(b, Event::Hangup { stream: peer });
    }

    pub(super) fn arrive(&mut self, stream: StreamId, bytes: &[u8]) {
        let Some(end) = self.net.ends.get(&stream).filter(|end| end.reading) else {
            return;
        };
        let (node, epoch, peer) = (end.node, end.epoch, end.peer);
        let from = self.net.ends.get(&peer).map(|end| end.node);
        if !self.is_run(node, epoch) {
            return;
        }
        let raw = self.raw.contains(&stream);
        let input = match Frame::decode(bytes) {
            Ok(frame) => {
                if let Some(from) = from {
                    self.see(Seen::Arrived {
                        from,
                        to: node,
                        stream,
                        peer,
                        frame: &frame,
                    });
                }
                if raw {
                    return self.adversary(node, |adversary, hand| {
                        adversary.arrived(hand, stream, frame)
                    });
                }
                OrderInput::Received {
                    stream,
                    frame: Box::new(frame),
                }
            }
            Err(error) => {
                if let Some(end) = self.net.ends.get_mut(&stream) {
                    end.reading = false;
                }
                OrderInput::Garbled {
                    stream,
                    detail: error.to_string(),
                }
            }
        };
        self.post(node, Via::Net, Delivery::Inference(input), 0);
    }

    /// A machine closes its end.
    pub(super) fn close_stream(&mut self, stream: StreamId) {
        let latency = self.latency();
        let Some(end) = self.net.ends.get_mut(&stream).filter(|end| !end.closed) else {
            return;
        };
        end.closed = true;
        let peer = end.peer;
        let now = self.now;
        if let Some(other) = self.net.ends.get_mut(&peer) {
            let at = (now + latency).max(other.last + 1);
            other.last = at;
            self.queue.push(at, Event::Hangup { stream: peer });
        }
    }

    pub(super) fn hangup(&mut self, stream: StreamId) {
        let Some(end) = self.net.ends.get_mut(&stream) else {
            return;
        };
        let (node, epoch, peer, reading) = (end.node, end.epoch, end.peer, end.reading);
        end.reading = false;
        end.closed = true;
        let raw = self.raw.remove(&stream);
        if raw {
            self.adversary(node, |adversary, hand| adversary.closed(hand, stream));
        } else if reading && self.is_run(node, epoch) {
            self.post(
                node,
                Via::Net,
                Delivery::Inference(OrderInput::Closed { stream }),
                0,
            );
        }
        if self
            .net
            .ends
            .get(&peer)
            .is_none_or(|other| other.closed && !other.reading)
        {
            self.net.ends.remove(&stream);
            self.net.ends.remove(&peer);
        }
    }

    /// A validator's question to another.
    pub(super) fn ask_validator(
        &mut self,
        node: NodeIx,
        id: EffectId,
        addresses: &[String],
        bundle: Box<Bundle>,
    ) {
        let epoch = self.nodes[node].epoch;
        let late = Delivery::Validator(CheckInput::Answered {
            id,
            result: Err("no answer in time".to_owned()),
        });
        let target = self.node_at(addresses).filter(|to| self.up(*to));
        let Some(server) = target.filter(|to| self.net.blocked(node, *to, self.now).is_none())
        else {
            return self.post(node, Via::Sibling(Actor::Validator), late, DIAL_MS * MS);
        };
        let timeout = self.now + VERDICT_MS * MS;
        self.queue.push(
            timeout,
            Event::Deliver {
                node,
                epoch,
                delivery: Box::new(late),
            },
        );
        self.nodes[node].lanes[lane_of(Actor::Validator)].mail += 1;
        let mut bundle = bundle;
        if self.nodes[node].participant.peer_fault == PeerFault::TampersWithEvidence && !self.healed
        {
            let at = self.dice.below(bundle.tokens.len());
            if let Some(token) = bundle.tokens.get_mut(at) {
                token.id ^= 1;
            }
        }
        let bytes = codec::encode(&AuditFrame::Check(bundle));
        let stream = self.net.fresh();
        let question = Question {
            asker: node,
            caller: self.nodes[node].participant.caller,
            epoch,
            id,
            server,
            server_epoch: self.nodes[server].epoch,
        };
        self.questions.insert(stream, question);
        let at = self.now + 2 * self.latency();
        self.queue.push(at, Event::AuditArrives { stream, bytes });
    }

    /// An adversary has a validator judge a bundle; it does not wait for the answer.
    pub(crate) fn ask_audit(&mut self, node: NodeIx, server: NodeIx, bundle: Box<Bundle>) {
        if self.net.blocked(node, server, self.now).is_some() {
            return;
        }
        let bytes = codec::encode(&AuditFrame::Check(bundle));
        let stream = self.net.fresh();
        let question = Question {
            asker: node,
            caller: callers::of_stream(self.options.seed, (node, &self.nodes[node]), stream),
            // Of no run: nobody is told.
            epoch: u32::MAX,
            id: EffectId(0),
            server,
            server_epoch: self.nodes[server].epoch,
        };
        self.questions.insert(stream, question);
        let at = self.now + 2 * self.latency();
        self.queue.push(at, Event::AuditArrives { stream, bytes });
    }

    pub(super) fn audit_arrives(&mut self, stream: StreamId, bytes: &[u8]) {
        let Some(question) = self.questions.get(&stream) else {
            return;
        };
        let (server, epoch) = (question.server, question.server_epoch);
        let caller = question.caller;
        let Ok(frame) = codec::decode::<AuditFrame>(bytes, MAX_AUDIT_FRAME_BYTES) else {
            return;
        };
        if self.is_run(server, epoch) {
            let input = CheckInput::AuditAsked {
                stream,
                caller,
                frame: Box::new(frame),
            };
            self.post(server, Via::Net, Delivery::Validator(input), 0);
        }
    }

    /// A validator answers a question.
    pub(super) fn answer_audit(&mut self, stream: StreamId, frame: &AuditFrame) {
        let Some(question) = self.questions.remove(&stream) else {
            return;
        };
        let bytes = codec::encode(frame);
        self.trace.bytes(&bytes);
        let result = match codec::decode::<AuditFrame>(&bytes, MAX_AUDIT_FRAME_BYTES) {
            Ok(AuditFrame::Verdict(signed)) => Ok(signed),
            Ok(AuditFrame::Refusal(refusal)) => Err(refusal.to_string()),
            Ok(AuditFrame::Check(_)) => Err("a question for an answer".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        let (asker, epoch, latency) = (question.asker, question.epoch, self.latency());
        if self.is_run(asker, epoch) {
            let input = CheckInput::Answered {
                id: question.id,
                result,
            };
            self.post(asker, Via::Net, Delivery::Validator(input), latency);
        }
        if self.is_run(question.server, question.server_epoch) {
            let input = CheckInput::StreamClosed { stream };
            self.post(
                question.server,
                Via::Net,
                Delivery::Validator(input),
                2 * latency,
            );
        }
    }

    /// What a clock that is right shows.
    fn real_wall(&self) -> WallTime {
        WallTime(self.profile.epoch_ms + self.now / MS)
    }

    /// Our listing goes to our relays.
    pub(super) fn publish(&mut self, node: NodeIx, id: EffectId, manifest: &Manifest) {
        let (mut accepted, mut refused) = (Vec::new(), Vec::new());
        let shared = Arc::new(manifest.clone());
        for relay in self.relays_of(node) {
            let name = self.relays[relay].name.clone();
            if self.dice.chance(self.plan.relay_drop_ppm) {
                refused.push((name, "rate-limited".to_owned()));
                continue;
            }
            if manifest.created > self.real_wall().after_ms(FUTURE_MS) {
                refused.push((name, "created in the future".to_owned()));
                continue;
            }
            self.relays[relay].publish(shared.clone());
            accepted.push(name);
            self.spread(relay, &manifest.node);
        }
        if !accepted.is_empty() {
            self.see(Seen::Listed {
                author: manifest.node,
                expires: manifest.expires,
            });
        }
        let done = Delivery::Discovery(ListInput::Published {
            id,
            accepted,
            refused,
        });
        let wait = self.latency() * 2 + 500 * MS;
        self.post(node, Via::Relay, done, wait);
    }

    /// A listing that no machine stands behind.
    pub(crate) fn publish_raw(&mut self, relay: usize, manifest: Manifest) {
        let author = manifest.node;
        self.relays[relay].publish(Arc::new(manifest));
        self.spread(relay, &author);
    }

    fn relays_of(&self, node: NodeIx) -> [usize; 2] {
        relays_of(node, self.relays.len())
    }

    /// Which of a node's two relays one is.
    fn place_of(&self, node: NodeIx, relay: usize) -> usize {
        usize::from(self.relays_of(node)[0] != relay)
    }

    fn spread(&mut self, relay: usize, author: &NodeKey) {
        for node in 0..self.nodes.len() {
            if self.relays_of(node).contains(&relay) && self.up(node) {
                self.hand_listing(relay, node, author);
            }
        }
    }

    /// One listing from one relay to one node; a bad relay adds the one before.
    fn hand_listing(&mut self, relay: usize, node: NodeIx, author: &NodeKey) {
        if self.dice.chance(self.plan.relay_drop_ppm) {
            return;
        }
        let stale = self.dice.chance(self.plan.relay_stale_ppm);
        let fresh = self.relays[relay].listings.get(author).cloned();
        let old = self.relays[relay]
            .stale
            .get(author)
            .filter(|_| stale)
            .cloned();
        let place = self.place_of(node, relay);
        let one = &mut self.nodes[node];
        let subscription = &mut one.subscriptions[place];
        subscription.waiting.extend(fresh);
        subscription.waiting.extend(old);
        if std::mem::replace(&mut subscription.scheduled, true) {
            return;
        }
        let (epoch, next) = (one.epoch, subscription.next);
        let at = next.max(self.now) + self.latency() + self.dice.ms(1, 500);
        self.queue.push(at, Event::Listings { relay, node, epoch });
    }

    pub(super) fn listings_arrive(&mut self, relay: usize, node: NodeIx, epoch: u32) {
        if !self.is_run(node, epoch) {
            return;
        }
        let place = self.place_of(node, relay);
        let name = self.relays[relay].name.clone();
        let one = &mut self.nodes[node];
        let wall = one.now(self.now).wall;
        let subscription = &mut one.subscriptions[place];
        subscription.scheduled = false;
        subscription.next = self.now + HANDOVER_MS * MS;
        let waiting = std::mem::take(&mut subscription.waiting);
        // The relay port drops expired events.
        let fresh = waiting.into_iter().filter(|one| one.expires > wall);
        let seen = fresh.map(|manifest| {
            Delivery::Discovery(ListInput::ListingSeen {
                relay: name.clone(),
                author: manifest.node,
                created: manifest.created,
                expires: manifest.expires,
                manifest,
            })
        });
        self.list(node, seen);
    }

    /// A node connects to its relays and gets what they have.
    pub(super) fn subscribe(&mut self, node: NodeIx) {
        for relay in self.relays_of(node) {
            let authors: Vec<NodeKey> = self.relays[relay].listings.keys().copied().collect();
            for author in authors {
                self.hand_listing(relay, node, &author);
            }
            let deleted: Vec<(NodeKey, WallTime)> = self.relays[relay]
                .deleted
                .iter()
                .map(|(key, at)| (*key, *at))
                .collect();
            for (author, at) in deleted {
                let input = ListInput::ListingDeleted { author, at };
                self.post(node, Via::Relay, Delivery::Discovery(input), 10 * MS);
            }
        }
    }

    /// Our listing is deleted at our relays.
    pub(super) fn unpublish(&mut self, node: NodeIx) {
        let (author, at) = (
            self.nodes[node].participant.key,
            self.nodes[node].now(self.now).wall,
        );
        for relay in self.relays_of(node) {
            let future = at > self.real_wall().after_ms(FUTURE_MS);
            if self.dice.chance(self.plan.relay_drop_ppm) || future {
                continue;
            }
            self.relays[relay].delete(author, at);
            for other in 0..self.nodes.len() {
                let hears = self.relays_of(other).contains(&relay) && self.up(other);
                if hears && !self.dice.chance(self.plan.relay_drop_ppm) {
                    let wait = self.latency();
                    let input = ListInput::ListingDeleted { author, at };
                    self.post(other, Via::Relay, Delivery::Discovery(input), wait);
                }
            }
        }
    }

    /// A pulse to everybody who follows its model and may know its host.
    pub(super) fn gossip(&mut self, node: NodeIx, pulse: &Pulse) {
        let followers: Vec<NodeIx> = self
            .followers
            .get(&pulse.model)
            .map(|all| {
                let relays = self.relays.len();
                let hears = |other: &NodeIx| *other != node && share_relay(node, *other, relays);
                all.iter().copied().filter(hears).collect()
            })
            .unwrap_or_default();
        let from = Some(self.nodes[node].participant.key);
        for other in followers {
            if self.up(other) && self.net.blocked(node, other, self.now).is_none() {
                let wait = self.latency();
                let input = ListInput::PulseSeen {
                    from,
                    pulse: pulse.clone(),
                };
                self.post(other, Via::Net, Delivery::Discovery(input), wait);
            }
        }
    }

    pub(super) fn follow(&mut self, node: NodeIx, model: ModelDigest) {
        self.followers.entry(model).or_default().insert(node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::Options;

    #[test]
    fn a_stream_that_lost_bytes_delivers_none_that_come_after_them() {
        let mut world = World::new(Options::new(1));
        let (ours, theirs) = world.net.connect((0, 1), (1, 1));
        world.net.cuts.insert((0, true), 120_000 * MS);
        world.send_bytes(ours, vec![1]);
        world.net.cuts.clear();
        world.send_bytes(ours, vec![2]);
        let (mut arrivals, mut hangups) = (0, 0);
        while let Some((_, event)) = world.queue.pop() {
            match event {
                Event::Arrive { .. } => arrivals += 1,
                Event::Hangup { stream } if stream == ours || stream == theirs => hangups += 1,
                _ => {}
            }
        }
        assert_eq!((arrivals, hangups), (0, 2), "broken, not lossy");
    }
}
