//! The wrappers themselves; without a plant each passes everything through.

use super::{Memory, Plant, credit, frames};
use crate::adversary::Strategy;
use crate::crypto::SimCrypto;
use crate::faults::PeerFault;
use crate::node::{AnyEffect, Node};
use protocol::ids::Caller;
use protocol::limits::MAX_ORDER_FRAME_BYTES;
use protocol::machine::{Record, Table};
use protocol::message::discovery::Candidate;
use protocol::message::inference::{
    Effect as OrderEffect, Input as OrderInput, InputCount, PayRequest,
};
use protocol::message::payment::{Effect as PayEffect, Input as PayInput, PayOutcome};
use protocol::message::reputation::Input as Reputed;
use protocol::message::sibling::Message;
use protocol::message::validator::{Effect as CheckEffect, Input as CheckInput};
use protocol::money::{Msat, Prices};
use protocol::route::Delivery;
use protocol::wire::envelope::Envelope;
use protocol::wire::manifest::PaymentMode;
use protocol::wire::order::{Frame, Invoice};
use protocol::{codec, message, payment};

/// Acknowledged writes that a crash undoes.
const LOST_WRITES: usize = 8;

/// The input as the machine gets it, and effects that the bug adds.
pub fn inputs(
    plant: Option<Plant>,
    memory: &mut Memory,
    delivery: Delivery,
) -> (Option<Delivery>, Vec<AnyEffect>) {
    let pass = |delivery| (Some(delivery), Vec::new());
    let Some(plant) = plant else {
        return pass(delivery);
    };
    match (plant, delivery) {
        (Plant::ForgetUnknown, Delivery::Payment(input)) => forget(memory, input),
        (
            Plant::ReplaceUnknown,
            Delivery::Payment(PayInput::PayDone {
                id,
                hash,
                outcome: PayOutcome::Unknown,
            }),
        ) => {
            let outcome = PayOutcome::Failed {
                reason: "no answer".to_owned(),
            };
            pass(Delivery::Payment(PayInput::PayDone { id, hash, outcome }))
        }
        (Plant::ConvictHonest, Delivery::Validator(CheckInput::Replayed { id, result })) => {
            let result = result.map(|mut replay| {
                if let Some(token) = replay.expected.first_mut() {
                    token.id ^= 1;
                }
                replay
            });
            pass(Delivery::Validator(CheckInput::Replayed { id, result }))
        }
        (Plant::AcquitCheat, Delivery::Validator(CheckInput::Replayed { id, result })) => {
            let believed = memory.asked.remove(&id);
            let result = result.map(|mut replay| {
                replay.expected = believed.unwrap_or(replay.expected);
                replay
            });
            pass(Delivery::Validator(CheckInput::Replayed { id, result }))
        }
        (Plant::Overcharge, Delivery::Inference(OrderInput::Serve(mut served))) => {
            for model in &mut served {
                double(&mut model.offer.prices);
            }
            pass(Delivery::Inference(OrderInput::Serve(served)))
        }
        (
            Plant::Overcharge,
            Delivery::Inference(OrderInput::CandidatesFound { request, mut hosts }),
        ) => {
            for host in &mut hosts {
                double(&mut host.offer.prices);
            }
            pass(Delivery::Inference(OrderInput::CandidatesFound {
                request,
                hosts,
            }))
        }
        (Plant::Overcommit, Delivery::Inference(OrderInput::Serve(mut served))) => {
            for model in &mut served {
                model.limits.concurrent_orders *= 4;
                model.limits.queued_orders *= 4;
            }
            pass(Delivery::Inference(OrderInput::Serve(served)))
        }
        (Plant::SkipInvoiceCheck, Delivery::Inference(OrderInput::Received { stream, frame })) => {
            match paid_blindly(&frame) {
                Some(pay) => (
                    None,
                    vec![AnyEffect::Inference(OrderEffect::Tell(Message::Pay(
                        Box::new(pay),
                    )))],
                ),
                None => pass(Delivery::Inference(OrderInput::Received { stream, frame })),
            }
        }
        (Plant::WideWindow, Delivery::Inference(input)) => {
            pass(Delivery::Inference(credit::widened(input)))
        }
        (Plant::StrangerCredit, Delivery::Inference(input)) => {
            pass(Delivery::Inference(credit::trusted(input)))
        }
        (Plant::ForgiveDebt | Plant::InventDebt, Delivery::Payment(input)) => {
            pass(Delivery::Payment(credit::closed(plant, input)))
        }
        (Plant::FeeForgotten, Delivery::Payment(input)) => {
            pass(Delivery::Payment(credit::without_fee(input)))
        }
        (Plant::CapIgnored, Delivery::Inference(OrderInput::Buy(mut wish))) => {
            wish.max_cost.0 *= 4;
            pass(Delivery::Inference(OrderInput::Buy(wish)))
        }
        (Plant::ModeMixup, Delivery::Inference(OrderInput::Buy(mut wish))) => {
            wish.mode = match wish.mode {
                PaymentMode::Before => PaymentMode::Metered,
                _ => PaymentMode::Before,
            };
            pass(Delivery::Inference(OrderInput::Buy(wish)))
        }
        (
            Plant::ModelMixup,
            Delivery::Inference(OrderInput::CandidatesFound { request, mut hosts }),
        ) => {
            let [one, other, _] = crate::node::models();
            for host in &mut hosts {
                let digest = &mut host.offer.digest;
                *digest = if *digest == one { other } else { one };
            }
            pass(Delivery::Inference(OrderInput::CandidatesFound {
                request,
                hosts,
            }))
        }
        (Plant::LiarForgiven, Delivery::Reputation(Reputed::Offended(_))) => (None, Vec::new()),
        (
            Plant::CountTwice,
            Delivery::Inference(OrderInput::Counted {
                id,
                result: Ok(mut facts),
            }),
        ) => {
            facts.tokens *= 2;
            let result = Ok(facts);
            pass(Delivery::Inference(OrderInput::Counted { id, result }))
        }
        // Buyers as well, or those who have the vocabulary would see it.
        (
            Plant::CountTwice,
            Delivery::Inference(OrderInput::InputCounted {
                id,
                count: InputCount::Counted(mut facts),
            }),
        ) => {
            facts.tokens *= 2;
            let count = InputCount::Counted(facts);
            pass(Delivery::Inference(OrderInput::InputCounted { id, count }))
        }
        (Plant::AddressDropped, Delivery::Inference(OrderInput::Inbound { stream, caller })) => {
            let caller = Caller::alone(caller.peer);
            pass(Delivery::Inference(OrderInput::Inbound { stream, caller }))
        }
        (
            Plant::AddressDropped,
            Delivery::Validator(CheckInput::AuditAsked {
                stream,
                caller,
                frame,
            }),
        ) => {
            let caller = Caller::alone(caller.peer);
            pass(Delivery::Validator(CheckInput::AuditAsked {
                stream,
                caller,
                frame,
            }))
        }
        (Plant::BelieveDebt, Delivery::Payment(PayInput::Pay(mut pay))) => {
            pay.carried = Msat::ZERO;
            pass(Delivery::Payment(PayInput::Pay(pay)))
        }
        (_, delivery) => pass(delivery),
    }
}

fn double(prices: &mut Prices) {
    for price in &mut prices.0 {
        price.msat_per_million *= 2;
    }
}

fn forget(memory: &mut Memory, input: PayInput) -> (Option<Delivery>, Vec<AnyEffect>) {
    match input {
        PayInput::PayDone {
            hash,
            outcome: PayOutcome::Unknown,
            ..
        } => {
            memory.forgotten.insert(hash);
            (None, Vec::new())
        }
        PayInput::Sent { event, hash, .. } if memory.forgotten.contains(&hash) => (
            None,
            vec![AnyEffect::Payment(PayEffect::Acknowledge { event })],
        ),
        other => (Some(Delivery::Payment(other)), Vec::new()),
    }
}

fn paid_blindly(frame: &Frame) -> Option<PayRequest> {
    let Frame::Invoice(signed) = frame else {
        return None;
    };
    let envelope: Envelope = codec::decode(&signed.bytes, MAX_ORDER_FRAME_BYTES).ok()?;
    let invoice: Invoice = codec::decode(&envelope.body, MAX_ORDER_FRAME_BYTES).ok()?;
    let facts = crate::crypto::read_invoice(&invoice.bolt11)?;
    Some(PayRequest {
        order: invoice.order,
        seq: invoice.seq,
        host: envelope.from,
        bolt11: invoice.bolt11,
        msat: facts.msat?,
        facts,
        max_fee: Msat(3_000),
        carried: Msat::ZERO,
    })
}

/// The effects as they are carried out.
pub fn effects(
    plant: Plant,
    memory: &mut Memory,
    crypto: &SimCrypto,
    effects: Vec<AnyEffect>,
) -> Vec<AnyEffect> {
    let effects = effects.into_iter();
    effects
        .flat_map(|effect| effect_of(plant, memory, crypto, effect))
        .collect()
}

fn effect_of(
    plant: Plant,
    memory: &mut Memory,
    crypto: &SimCrypto,
    effect: AnyEffect,
) -> Vec<AnyEffect> {
    match (plant, effect) {
        (Plant::PayTwice, AnyEffect::Payment(pay @ PayEffect::Pay { .. })) => {
            vec![AnyEffect::Payment(pay.clone()), AnyEffect::Payment(pay)]
        }
        (
            Plant::ServeUnpaid,
            AnyEffect::Inference(OrderEffect::StartEngine {
                order,
                buyer,
                model,
                job,
                ..
            }),
        ) => {
            let allowed = u64::from(job.max_output);
            vec![AnyEffect::Inference(OrderEffect::StartEngine {
                order,
                buyer,
                model,
                job,
                allowed,
            })]
        }
        (Plant::StallCredit, AnyEffect::Inference(OrderEffect::AllowTokens { .. })) => Vec::new(),
        (Plant::ForgetUnknown, AnyEffect::Payment(PayEffect::Lookup { hash, .. }))
            if memory.forgotten.contains(&hash) =>
        {
            Vec::new()
        }
        (
            Plant::AcquitCheat,
            AnyEffect::Validator(CheckEffect::Replay {
                id,
                stranger,
                model,
                job,
                salt,
                tokens,
            }),
        ) => {
            memory.asked.insert(id, tokens.clone());
            vec![AnyEffect::Validator(CheckEffect::Replay {
                id,
                stranger,
                model,
                job,
                salt,
                tokens,
            })]
        }
        (
            Plant::GhostListingKept,
            AnyEffect::Discovery(message::discovery::Effect::Tell(Message::CandidatesFound {
                request,
                hosts,
            })),
        ) => {
            let hosts = with_ghosts(memory, hosts);
            vec![AnyEffect::Discovery(message::discovery::Effect::Tell(
                Message::CandidatesFound { request, hosts },
            ))]
        }
        (Plant::FeeUnbounded, AnyEffect::Payment(mut pay @ PayEffect::Pay { .. })) => {
            if let PayEffect::Pay { max_fee, .. } = &mut pay {
                *max_fee = Msat(u64::MAX / 4);
            }
            vec![AnyEffect::Payment(pay)]
        }
        (
            Plant::CreditEarly,
            AnyEffect::Payment(PayEffect::Tell(Message::InvoiceMade { order, seq, result })),
        ) => credit::early(order, seq, result),
        (
            Plant::ReceiptCost
            | Plant::ReceiptPayments
            | Plant::ReceiptHead
            | Plant::InvoiceHead
            | Plant::TokenAltered
            | Plant::ChunkLost,
            AnyEffect::Inference(OrderEffect::Send { stream, frame }),
        ) => match frames::altered(plant, memory, crypto, *frame) {
            Some(frame) => vec![AnyEffect::Inference(OrderEffect::Send {
                stream,
                frame: Box::new(frame),
            })],
            None => Vec::new(),
        },
        (
            Plant::WordsAltered | Plant::OutputLost,
            AnyEffect::Inference(OrderEffect::Deliver { request, event }),
        ) => match frames::shown(plant, memory, event) {
            Some(event) => vec![AnyEffect::Inference(OrderEffect::Deliver {
                request,
                event,
            })],
            None => Vec::new(),
        },
        (_, effect) => vec![effect],
    }
}

fn with_ghosts(memory: &mut Memory, mut hosts: Vec<Candidate>) -> Vec<Candidate> {
    for host in &hosts {
        memory.ghosts.insert(host.host, host.clone());
    }
    let missing: Vec<Candidate> = memory
        .ghosts
        .values()
        .filter(|ghost| hosts.iter().all(|host| host.host != ghost.host))
        .cloned()
        .collect();
    hosts.extend(missing);
    hosts
}

/// What a machine finds on disk at start.
pub fn recovered(plant: Option<Plant>, records: Vec<Record>) -> Vec<Record> {
    match plant {
        Some(Plant::AcceptReplay) => records
            .into_iter()
            .filter(|record| record.table != Table::Nonces)
            .collect(),
        Some(Plant::OrdersForgotten) => records
            .into_iter()
            .filter(|record| record.table != Table::OpenOrders)
            .collect(),
        _ => records,
    }
}

/// The owner's limits as the machine gets them.
pub fn limits(plant: Option<Plant>, limits: &payment::Config) -> payment::Config {
    let mut limits = limits.clone();
    if plant == Some(Plant::BudgetIgnored) {
        limits.per_day = Msat(u64::MAX / 4);
        limits.per_key.clear();
    }
    limits
}

/// What of a write gets to the disk now.
pub fn synced(plant: Option<Plant>, memory: &mut Memory, records: Vec<Record>) -> Vec<Record> {
    if plant == Some(Plant::NoncesKept) {
        let kept = |record: &Record| record.table != Table::Nonces || record.value.is_some();
        return records.into_iter().filter(kept).collect();
    }
    if plant != Some(Plant::LosePersist) {
        return records;
    }
    memory.journal.push_back(records);
    if memory.journal.len() > LOST_WRITES {
        memory.journal.pop_front().unwrap_or_default()
    } else {
        Vec::new()
    }
}

/// A node went down.
pub fn crashed(plant: Option<Plant>, node: &mut Node) {
    if plant == Some(Plant::LosePersist) {
        node.bug.journal.clear();
    }
}

/// The adversary that shows a bug, where nobody else does.
pub fn strategy(plant: Option<Plant>) -> Option<Strategy> {
    match plant? {
        Plant::WideWindow | Plant::ForgiveDebt => Some(Strategy::Deadbeat),
        Plant::AddressDropped => Some(Strategy::SlotSquatter),
        Plant::FeeUnbounded => Some(Strategy::InvoiceSplitter),
        _ => None,
    }
}

/// The peer fault that shows a bug, at a node of its own.
pub fn peer_fault(plant: Option<Plant>) -> Option<PeerFault> {
    match plant? {
        Plant::BelieveDebt => Some(PeerFault::InventsDebt),
        Plant::LiarForgiven | Plant::SkipInvoiceCheck => Some(PeerFault::DoublesInvoices),
        Plant::AcquitCheat => Some(PeerFault::WrongAnswers),
        _ => None,
    }
}
