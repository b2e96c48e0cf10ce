//! Carries out the effects of the five machines, as the shells of `actors` do.

use super::{Via, World};
use crate::check::Seen;
use crate::dice::MS;
use crate::engine::{Answer, NUMERICS, Running, STEP, count, without_logits, word_of};
use crate::event::{Event, NodeIx, UserAction};
use crate::faults::PeerFault;
use crate::node::AnyEffect;
use crate::profile::TEMPLATE;
use crate::users::End;
use crate::wallet::Wallet;
use protocol::crypto::tagged_hash;
use protocol::ids::{Digest, ModelDigest, OrderId, RequestId};
use protocol::message;
use protocol::message::inference::{
    BuyerEvent, Effect as OrderEffect, Input as OrderInput, InputCount, InputFacts,
};
use protocol::message::validator::{Effect as CheckEffect, Input as CheckInput, Replay};
use protocol::money::Meter;
use protocol::route::Delivery;
use protocol::wire::chain::ChainedToken;
use protocol::wire::order::Finish;
use protocol::work::Job;

/// What counting a prompt takes a buyer: less than terms take to come. Milliseconds.
const COUNT_MS: u64 = 2;
/// What a vocabulary takes to come, for each step of a lot of 192. Milliseconds.
const FETCH_MS: u64 = 300;
/// A pause longer than this is no pause, it is the end of a custom. Milliseconds.
const SHUNNED_MS: u64 = 600_000;

impl World {
    pub(super) fn perform(&mut self, node: NodeIx, effect: AnyEffect) {
        match effect {
            AnyEffect::Inference(effect) => self.perform_order(node, effect),
            AnyEffect::Payment(effect) => self.perform_payment(node, effect),
            AnyEffect::Discovery(effect) => self.perform_listing(node, effect),
            AnyEffect::Validator(effect) => self.perform_check(node, effect),
            AnyEffect::Reputation(_) => {}
        }
    }

    fn perform_order(&mut self, node: NodeIx, effect: OrderEffect) {
        match effect {
            OrderEffect::OpenStream { id, addresses, .. } => self.dial(node, id, &addresses),
            OrderEffect::Send { stream, frame } => self.send(node, stream, &frame),
            OrderEffect::Close { stream } => self.close_stream(stream),
            OrderEffect::CountPrompt {
                id,
                buyer,
                job,
                salt,
                ..
            } => {
                let mut facts = count(&job, &salt);
                if !self.nodes[node].engine.cached.insert(buyer) {
                    facts.cached = facts.tokens / 2;
                }
                let result = Ok(facts);
                let wait = self.dice.ms(1, 30);
                self.post(
                    node,
                    Via::Engine,
                    Delivery::Inference(OrderInput::Counted { id, result }),
                    wait,
                );
            }
            OrderEffect::CountInput { id, model, job } => {
                let count = match self.has_vocabulary(node, model) {
                    true => InputCount::Counted(InputFacts {
                        tokens: count(&job, &[0; 16]).tokens,
                        tokenizer: Digest(model.0),
                        template: TEMPLATE,
                        numerics: Some(NUMERICS.to_owned()),
                    }),
                    false => InputCount::Absent,
                };
                let counted = Delivery::Inference(OrderInput::InputCounted { id, count });
                self.post_in(node, Via::Vocabulary, counted, COUNT_MS * MS);
            }
            OrderEffect::CheckPieces {
                order,
                host,
                from,
                tokens,
                ..
            } => {
                let wrong = tokens
                    .iter()
                    .position(|token| token.piece.bytes != word_of(token.id).as_bytes());
                if let Some(at) = wrong {
                    let position = from + at as u64;
                    let wrong = OrderInput::WrongPiece {
                        order,
                        host,
                        position,
                    };
                    self.post_in(node, Via::Vocabulary, Delivery::Inference(wrong), MS);
                }
            }
            OrderEffect::FetchVocabulary { model, .. } => self.fetch_vocabulary(node, model),
            OrderEffect::StartEngine {
                order,
                model,
                job,
                allowed,
                ..
            } => {
                self.start_engine(node, order, model, &job, allowed);
            }
            OrderEffect::AllowTokens { order, total } => {
                if let Some(run) = self.nodes[node].engine.running.get_mut(&order) {
                    run.allowed = run.allowed.max(total);
                }
                self.schedule_step(node, order);
            }
            OrderEffect::CancelEngine { order } => {
                self.nodes[node].engine.running.remove(&order);
            }
            OrderEffect::Deliver { request, event } => self.delivered(node, request, event),
            // It is counted all the same, and comes to nothing.
            OrderEffect::CancelCount { .. } | OrderEffect::Persist(_) | OrderEffect::Tell(_) => {}
        }
    }

    /// Whether a node has a model's vocabulary: half of them from the beginning, by lot, and
    /// whoever fetched it.
    fn has_vocabulary(&self, node: NodeIx, model: ModelDigest) -> bool {
        let from = match self.vocabularies.get(&(node, model)) {
            Some(from) => *from,
            None if self.lot("sim/vocabulary/1", node, model) < 128 => 0,
            None => return false,
        };
        from <= self.now
    }

    /// It comes within a minute, or, one time in four, never.
    fn fetch_vocabulary(&mut self, node: NodeIx, model: ModelDigest) {
        let lot = u64::from(self.lot("sim/fetch/1", node, model));
        if lot < 192 {
            let at = self.now + lot * FETCH_MS * MS;
            self.vocabularies.entry((node, model)).or_insert(at);
        }
    }

    /// A number of the seed that takes nothing from its dice: worlds without a liar about
    /// prompts go as they would without this.
    fn lot(&self, tag: &'static str, node: NodeIx, model: ModelDigest) -> u8 {
        let seed = self.options.seed.to_le_bytes();
        let node = (node as u64).to_le_bytes();
        tagged_hash(tag, &[&seed, &node, &model.0]).0[0]
    }

    fn start_engine(
        &mut self,
        node: NodeIx,
        order: OrderId,
        model: ModelDigest,
        job: &Job,
        allowed: u64,
    ) {
        let answer = Answer::new(&model, job);
        let lies =
            self.nodes[node].participant.peer_fault == PeerFault::WrongAnswers && !self.healed;
        let most = job.most_delivered();
        let served = &self.nodes[node].participant.served;
        let offer = served.iter().find(|served| served.offer.digest == model);
        let plain = offer.is_some_and(|served| served.offer.numerics.is_none())
            && job.meter() == Meter::OutputToken;
        let bad_from = lies.then(|| {
            self.dice
                .between(0, answer.length.min(most).saturating_sub(1))
        });
        if let Some(from) = bad_from {
            self.see(Seen::Lies { order, from });
        }
        let run = Running {
            answer,
            most,
            produced: 0,
            allowed,
            busy: false,
            bad_from,
            model,
            plain,
        };
        let running = &mut self.nodes[node].engine.running;
        running.insert(order, run);
        let count = running.values().filter(|run| run.model == model).count();
        self.see(Seen::Running { node, model, count });
        self.schedule_step(node, order);
    }

    fn schedule_step(&mut self, node: NodeIx, order: OrderId) {
        let pace = self.dice.ms(30, 130) * self.plan.engine_slow;
        let epoch = self.nodes[node].epoch;
        let Some(run) = self.nodes[node].engine.running.get_mut(&order) else {
            return;
        };
        if !run.busy && run.produced < run.allowed {
            run.busy = true;
            self.queue
                .push(self.now + pace, Event::Step { node, epoch, order });
        }
    }

    pub(super) fn engine_step(&mut self, node: NodeIx, epoch: u32, order: OrderId) {
        if !self.is_run(node, epoch) {
            return;
        }
        let fails = self.dice.chance(self.plan.engine_fail_ppm);
        let Some(run) = self.nodes[node].engine.running.get_mut(&order) else {
            return;
        };
        run.busy = false;
        if fails {
            self.nodes[node].engine.running.remove(&order);
            let reason = "the device is lost".to_owned();
            let failed = OrderInput::EngineFailed { order, reason };
            return self.post(node, Via::Engine, Delivery::Inference(failed), 0);
        }
        let end = run.answer.length.min(run.most);
        let until = (run.produced + STEP).min(run.allowed).min(end);
        let tokens: Vec<ChainedToken> = (run.produced..until)
            .map(|position| {
                let mut token = run.answer.token(position);
                if run.bad_from.is_some_and(|from| position >= from) {
                    token.id ^= 1;
                }
                if run.plain {
                    token = without_logits(token);
                }
                token
            })
            .collect();
        let attached = run.answer.attached(run.produced, until);
        run.produced = until;
        let last = if run.answer.length <= run.most {
            Finish::Stop
        } else {
            Finish::Length
        };
        let finish = (until >= end).then_some(last);
        if finish.is_some() {
            self.nodes[node].engine.running.remove(&order);
        }
        if !tokens.is_empty() || finish.is_some() {
            let produced = OrderInput::Produced {
                order,
                tokens,
                finish,
                attached,
            };
            self.post(node, Via::Engine, Delivery::Inference(produced), 0);
        }
        self.schedule_step(node, order);
    }

    fn delivered(&mut self, node: NodeIx, request: RequestId, event: BuyerEvent) {
        match event {
            BuyerEvent::Chosen { candidate, .. } => {
                if let Some(purchase) = self.purchases.get_mut(&(node, request)) {
                    purchase.host = Some(candidate.host);
                }
                let at = self.now + self.dice.ms(500, 5_000);
                // Harmless where no consent was asked for.
                self.schedule_reaction(at, node, request, UserAction::Confirm);
            }
            BuyerEvent::Accepted { order, .. } => {
                if let Some(purchase) = self.purchases.get_mut(&(node, request)) {
                    purchase.order = Some(order);
                }
            }
            BuyerEvent::Finished { .. } => self.ended(node, request, End::Finished, ""),
            BuyerEvent::Failed(refusal) => {
                self.ended(node, request, End::Failed(refusal.code), &refusal.message);
            }
            BuyerEvent::Output { .. }
            | BuyerEvent::Paid { .. }
            | BuyerEvent::InputCounted { .. } => {}
        }
    }

    fn perform_payment(&mut self, node: NodeIx, effect: message::payment::Effect) {
        use protocol::message::payment::{Effect, Input};
        match effect {
            Effect::CheckBalance { id } => {
                let spendable = Some(protocol::money::Msat(self.wallets.of[node].local));
                let wait = self.dice.ms(1, 20);
                self.post(
                    node,
                    Via::Wallet,
                    Delivery::Payment(Input::BalanceChecked { id, spendable }),
                    wait,
                );
            }
            Effect::CreateInvoice {
                id,
                msat,
                description_hash,
                expiry_s,
            } => {
                self.create_invoice(node, id, msat, description_hash, expiry_s);
            }
            Effect::Pay {
                id,
                bolt11,
                hash,
                msat,
                max_fee,
            } => {
                self.pay(node, id, &bolt11, hash, msat, max_fee);
            }
            Effect::Lookup { id, hash, side } => {
                let outcome = if self.dice.chance(self.plan.lookup_fail_ppm) {
                    message::payment::LookupOutcome::Unavailable
                } else {
                    self.wallets.look_up(node, &hash, side, self.now)
                };
                let wait = self.dice.ms(5, 200);
                self.post(
                    node,
                    Via::Wallet,
                    Delivery::Payment(Input::LookedUp { id, hash, outcome }),
                    wait,
                );
            }
            Effect::Acknowledge { event } => {
                self.wallets.of[node].events.remove(&event);
            }
            Effect::Reply { report, .. } => {
                let wallet: Wallet = std::mem::take(&mut self.wallets.of[node]);
                let stored = self.nodes[node].store.ledger();
                self.see(Seen::Books {
                    node,
                    report: &report,
                    stored: &stored,
                    wallet: &wallet,
                });
                self.wallets.of[node] = wallet;
            }
            Effect::ForgetPayments { .. } | Effect::Persist(_) | Effect::Tell(_) => {}
        }
    }

    fn perform_listing(&mut self, node: NodeIx, effect: message::discovery::Effect) {
        use protocol::message::discovery::{Effect, Input, SelfTestError};
        match effect {
            Effect::SelfTest { id, manifest } => {
                let cut = [true, false].iter().any(|way| {
                    self.net
                        .cuts
                        .get(&(node, *way))
                        .is_some_and(|until| *until > self.now)
                });
                let result = if cut {
                    let reason = "this node cannot be reached".to_owned();
                    Err(SelfTestError::Failed(reason))
                } else {
                    Ok(manifest.addresses)
                };
                let wait = if cut { 15_000 * MS } else { self.latency() * 3 };
                self.post(
                    node,
                    Via::Net,
                    Delivery::Discovery(Input::SelfTested { id, result }),
                    wait,
                );
            }
            Effect::Publish { id, manifest } => self.publish(node, id, &manifest),
            Effect::Unpublish => self.unpublish(node),
            Effect::SendPulse(pulse) => self.gossip(node, &pulse),
            Effect::Follow(model) => self.follow(node, model),
            Effect::Reply { hosts, .. } => {
                let mut known: Vec<_> = hosts.iter().map(|row| row.manifest.node).collect();
                known.sort_unstable();
                known.dedup();
                let expected = self.expected_hosts(node);
                let wall = self.nodes[node].now(self.now).wall;
                let shuns = |row: &&message::discovery::HostRow| {
                    let until = row.score.cooldown.as_ref().map(|(until, _)| *until);
                    until.is_some_and(|until| until > wall.after_ms(SHUNNED_MS))
                };
                let shunned: Vec<_> = hosts
                    .iter()
                    .filter(shuns)
                    .map(|row| row.manifest.node)
                    .collect();
                self.see(Seen::Knows {
                    node,
                    wall,
                    hosts: &known,
                    expected: &expected,
                    shunned: &shunned,
                });
            }
            Effect::Notice(_) | Effect::News(_) | Effect::Persist(_) | Effect::Tell(_) => {}
        }
    }

    fn perform_check(&mut self, node: NodeIx, effect: CheckEffect) {
        match effect {
            CheckEffect::Replay {
                id,
                model,
                job,
                salt,
                tokens,
                ..
            } => {
                self.tally.replays += 1;
                let answer = Answer::new(&model, &job);
                let facts = count(&job, &salt);
                let replay = Replay {
                    prompt_tokens: facts.tokens,
                    prompt: facts.digest,
                    expected: (0..tokens.len() as u64)
                        .map(|at| answer.token(at))
                        .collect(),
                    numerics: Some(NUMERICS.to_owned()),
                };
                let wait = self.dice.ms(50, 3_000) * self.plan.engine_slow;
                let replayed = CheckInput::Replayed {
                    id,
                    result: Ok(Box::new(replay)),
                };
                self.post(node, Via::Engine, Delivery::Validator(replayed), wait);
            }
            // It has its answer already, which the machine no longer knows.
            CheckEffect::CancelReplay { .. } => {}
            CheckEffect::AskValidator {
                id,
                addresses,
                bundle,
                ..
            } => {
                self.ask_validator(node, id, &addresses, bundle);
            }
            CheckEffect::Answer { stream, frame } => self.answer_audit(stream, &frame),
            CheckEffect::Report { result, .. } => {
                if result.is_ok_and(|verdict| verdict.finding.convicts()) {
                    self.tally.convictions += 1;
                }
            }
            CheckEffect::Reply { .. } | CheckEffect::Persist(_) | CheckEffect::Tell(_) => {}
        }
    }
}
