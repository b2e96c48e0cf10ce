//! Our own listing: self-test, publish, publish again, take back; and our own pulses.
//!
//! Not other hosts' listings. A listing is published only after a self-test said
//! *reachable and payable*, and each renewal is tested again: otherwise it would
//! be a ghost. A node whose places others have taken is reached all the same: it
//! stays listed, or whoever takes them would choose who is. A listing names the
//! addresses of its last test, for a machine's may change.
//!
//! # States
//! `Waiting(until) → Testing → Publishing → Waiting(next) …`; a failure goes back
//! to `Waiting` with a growing pause.

use crate::ids::{EffectId, ModelDigest, NodeKey};
use crate::limits;
use crate::machine::{EffectIds, Outbox};
use crate::message::discovery::{Effect, Pulse, SelfTestError};
use crate::time::{Now, Tick, WallTime};
use crate::wire::manifest::Manifest;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// First pause after a failure. Milliseconds. Long enough for a relay or a channel to come up.
const BACKOFF_MS: u64 = 5_000;
/// How long a self-test or a publication may take. Milliseconds. Mining the proof of work included.
const STEP_TIMEOUT_MS: u64 = 120_000;
/// Renewals come earlier by up to a part of this size, so that hosts do not renew in step.
const JITTER_PART: u64 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting(Tick),
    Testing(EffectId, Tick),
    Publishing(EffectId, Tick),
}

#[derive(Debug, Clone, Copy, Default)]
struct Load {
    running: u32,
    queued: u32,
    slots: u32,
}

#[derive(Debug, Default)]
struct Reported {
    now: Load,
    sent: Option<Tick>,
    dirty: bool,
}

/// Our own listing, while we want one.
#[derive(Debug)]
pub struct Own {
    manifest: Manifest,
    phase: Phase,
    failures: u32,
    created: WallTime,
    /// A relay said that it took the listing.
    listed: bool,
    /// One may have it, whatever was said: it was sent and not taken back since.
    sent: bool,
    loads: BTreeMap<ModelDigest, Reported>,
}

impl Own {
    /// Begins with a self-test. `before` is the listing that this one replaces.
    pub fn new(
        mut manifest: Manifest,
        before: Option<Own>,
        now: Now,
        ids: &mut EffectIds,
        out: &mut Outbox<Effect>,
    ) -> Self {
        if let Some(old) = &before {
            // Until the next self-test.
            manifest.addresses.clone_from(&old.manifest.addresses);
        }
        let (created, listed, sent, loads) = before
            .map(|old| (old.created, old.listed, old.sent, old.loads))
            .unwrap_or_default();
        let mut own = Own {
            manifest,
            phase: Phase::Waiting(now.tick),
            failures: 0,
            created,
            listed,
            sent,
            loads,
        };
        own.test(now, ids, out);
        own
    }

    fn test(&mut self, now: Now, ids: &mut EffectIds, out: &mut Outbox<Effect>) {
        let id = ids.fresh();
        self.phase = Phase::Testing(id, now.tick.after_ms(STEP_TIMEOUT_MS));
        out.push(Effect::SelfTest {
            id,
            manifest: Box::new(self.manifest.clone()),
        });
    }

    /// The self-test is done.
    pub fn tested(
        &mut self,
        now: Now,
        id: EffectId,
        result: Result<Vec<String>, SelfTestError>,
        ids: &mut EffectIds,
        out: &mut Outbox<Effect>,
    ) {
        if !matches!(self.phase, Phase::Testing(waiting, _) if waiting == id) {
            return;
        }
        match result {
            Ok(addresses) => {
                self.manifest.addresses = addresses;
                self.publish(now, ids, out);
            }
            Err(SelfTestError::NoRoom) => self.crowded(now, ids, out),
            Err(SelfTestError::Failed(reason)) => self.not_ready(now, &reason, out),
        }
    }

    fn publish(&mut self, now: Now, ids: &mut EffectIds, out: &mut Outbox<Effect>) {
        // Relays count in seconds and keep the later one: a renewal must be at least one second younger.
        // One that was made under a clock that ran far ahead binds nobody: no relay took it.
        let before = self.created.after_ms(1_000);
        let future = before > now.wall.after_ms(limits::ENVELOPE_WINDOW_MS);
        let created = if future {
            now.wall
        } else {
            now.wall.max(before)
        };
        self.created = created;
        self.manifest.created = created;
        self.manifest.expires = created.after_ms(limits::LISTING_TTL_MS);
        let id = ids.fresh();
        self.sent = true;
        self.phase = Phase::Publishing(id, now.tick.after_ms(STEP_TIMEOUT_MS));
        out.push(Effect::Publish {
            id,
            manifest: Box::new(self.manifest.clone()),
        });
    }

    fn crowded(&mut self, now: Now, ids: &mut EffectIds, out: &mut Outbox<Effect>) {
        let what = "the self-test reached this node and found every place for connections taken";
        if self.listed {
            out.push(Effect::Notice(format!("Still listed, though {what}.")));
            return self.publish(now, ids, out);
        }
        // Not a failure of this node: no growing pause, which would outlast the crowd.
        self.phase = Phase::Waiting(now.tick.after_ms(BACKOFF_MS));
        out.push(Effect::Notice(format!(
            "Not listed yet: {what}; tested again in {} s.",
            BACKOFF_MS / 1_000
        )));
    }

    fn not_ready(&mut self, now: Now, reason: &str, out: &mut Outbox<Effect>) {
        let pause_ms = self.back_off(now);
        if std::mem::take(&mut self.sent) {
            self.listed = false;
            out.push(Effect::Unpublish);
        }
        out.push(Effect::Notice(format!(
            "Not listed: the self-test says \"{reason}\". Fix it (open the port, or set `announce` \
             in freehold.toml; for payments, `freehold wallet balance` must show inbound capacity, and \
             nobody can open a channel to a wallet with less than 25,000 sat on chain); \
             tested again in {} s.",
            pause_ms / 1_000
        )));
    }

    fn back_off(&mut self, now: Now) -> u64 {
        let pause_ms = (BACKOFF_MS << self.failures.min(16)).min(limits::REPUBLISH_MS);
        self.failures = self.failures.saturating_add(1);
        self.phase = Phase::Waiting(now.tick.after_ms(pause_ms));
        pause_ms
    }

    /// The publication is done.
    pub fn published(
        &mut self,
        now: Now,
        id: EffectId,
        accepted: &[String],
        refused: &[(String, String)],
        rng: &mut ChaCha8Rng,
        out: &mut Outbox<Effect>,
    ) {
        if !matches!(self.phase, Phase::Publishing(waiting, _) if waiting == id) {
            return;
        }
        if accepted.is_empty() {
            let why = refused
                .first()
                .map_or("no relay answered".to_owned(), |(relay, why)| {
                    format!("{relay}: {why}")
                });
            let pause_ms = self.back_off(now);
            out.push(Effect::Notice(format!(
                "Not listed: no relay took the listing ({why}). Check [relays] in freehold.toml; tried again in {} s.",
                pause_ms / 1_000
            )));
            return;
        }
        self.failures = 0;
        let early_ms = rng.gen_range(0..=limits::REPUBLISH_MS / JITTER_PART);
        self.phase = Phase::Waiting(now.tick.after_ms(limits::REPUBLISH_MS - early_ms));
        if !self.listed {
            self.listed = true;
            let relays = accepted.join(", ");
            out.push(Effect::News(format!("Listed on {relays}.")));
        }
    }

    /// The listing is taken back. A publication that is under way is deleted by the driver's
    /// order of effects: `Unpublish` comes after it.
    pub fn withdraw(self, out: &mut Outbox<Effect>) {
        if self.sent {
            out.push(Effect::Unpublish);
        }
        out.push(Effect::News("No longer listed.".to_owned()));
    }

    /// Our load changed; said at most once a minute for each model, the latest figure last.
    pub fn load(
        &mut self,
        now: Now,
        host: NodeKey,
        model: ModelDigest,
        load: (u32, u32, u32),
        out: &mut Outbox<Effect>,
    ) {
        if self.manifest.offer(&model).is_none() {
            return;
        }
        let (running, queued, slots) = load;
        let reported = self.loads.entry(model).or_default();
        let same = (
            reported.now.running,
            reported.now.queued,
            reported.now.slots,
        ) == load
            && reported.sent.is_some();
        if same {
            return;
        }
        reported.now = Load {
            running,
            queued,
            slots,
        };
        reported.dirty = true;
        self.send_due(now, host, out);
    }

    fn send_due(&mut self, now: Now, host: NodeKey, out: &mut Outbox<Effect>) {
        if !self.listed {
            return;
        }
        for (model, reported) in &mut self.loads {
            if !reported.dirty || next_pulse(reported) > now.tick {
                continue;
            }
            reported.dirty = false;
            reported.sent = Some(now.tick);
            out.push(Effect::SendPulse(Pulse {
                host,
                model: *model,
                running: reported.now.running,
                queued: reported.now.queued,
                slots: reported.now.slots,
                time: now.wall,
            }));
        }
    }

    /// Does what is due.
    pub fn expire(
        &mut self,
        now: Now,
        host: NodeKey,
        ids: &mut EffectIds,
        out: &mut Outbox<Effect>,
    ) {
        match self.phase {
            Phase::Waiting(until) if until <= now.tick => self.test(now, ids, out),
            Phase::Testing(_, until) if until <= now.tick => {
                self.not_ready(now, "no answer in time", out);
            }
            Phase::Publishing(_, until) if until <= now.tick => {
                let pause_ms = self.back_off(now);
                out.push(Effect::Notice(format!(
                    "The relays did not answer; the listing is sent again in {} s.",
                    pause_ms / 1_000
                )));
            }
            _ => {}
        }
        self.send_due(now, host, out);
    }

    /// When [`Own::expire`] must run.
    pub fn deadline(&self) -> Tick {
        let (Phase::Waiting(until) | Phase::Testing(_, until) | Phase::Publishing(_, until)) =
            self.phase;
        self.loads
            .values()
            .filter(|reported| self.listed && reported.dirty)
            .map(next_pulse)
            .fold(until, Tick::min)
    }
}

fn next_pulse(reported: &Reported) -> Tick {
    reported
        .sent
        .map_or(Tick(0), |sent| sent.after_ms(limits::PULSE_MIN_MS))
}
