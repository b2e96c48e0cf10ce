//! Tests of the payment machine, by rule and by random interleaving.
//!
//! [`Rig`] is a driver with two clocks and a disk, and no wallet: a test plays it.

mod buyer;
mod caps;
mod exits;
mod host;
mod interleavings;

use super::{Config, Payment};
use crate::crypto::{InvoiceFacts, Secp};
use crate::ids::{
    Caller, EffectId, LightningId, ModelDigest, NodeKey, OrderId, PaymentHash, PeerTag, Preimage,
    RequestId,
};
use crate::machine::{Machine, Outbox, Record, Secrets, Table};
use crate::message::inference::{OrderAccount, PayRequest};
use crate::message::payment::{
    Credit, Effect, EntryState, Input, LedgerEntry, LookupOutcome, PayOutcome, Report, Side,
};
use crate::message::sibling::Message;
use crate::money::{Counts, Msat};
use crate::refusal::{Code, Refusal};
use crate::time::{Now, Tick, WallTime};
use crate::wire::order::Status;
use std::collections::BTreeMap;

/// Noon of some day, so that a test of an hour stays within it.
const NOON_MS: u64 = 20_000 * 86_400_000 + 43_200_000;
const DAY_MS: u64 = 86_400_000;

struct Rig {
    config: Config,
    machine: Payment,
    now: Now,
    disk: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
}

impl Rig {
    fn new(config: Config) -> Rig {
        Rig {
            machine: Payment::new(config.clone(), [7; 32]),
            config,
            now: Now {
                tick: Tick(1),
                wall: WallTime(NOON_MS),
            },
            disk: BTreeMap::new(),
        }
    }

    /// One turn, everything durable; returns what is to be done besides.
    fn give(&mut self, input: Input) -> Vec<Effect> {
        let effects = self.turn(Some(input));
        self.store(&effects);
        without_persist(effects)
    }

    /// Asks for invoice `seq` of order `n`; the id is that of the question to the wallet.
    fn ask_invoice(&mut self, n: u64, seq: u32, msat: u64) -> EffectId {
        let effects = self.give(Input::MakeInvoice {
            order: order(n),
            seq,
            msat: Msat(msat),
            description_hash: [0; 32],
            expiry_s: 600,
        });
        let [Effect::CreateInvoice { id, .. }] = effects[..] else {
            panic!("no invoice asked for: {effects:?}")
        };
        id
    }

    fn turn(&mut self, input: Option<Input>) -> Vec<Effect> {
        let mut out = Outbox::default();
        match input {
            Some(input) => self.machine.handle(self.now, input, &mut out),
            None => self.machine.expire(self.now, &mut out),
        }
        out.drain().collect()
    }

    fn store(&mut self, effects: &[Effect]) {
        for effect in effects {
            if let Effect::Persist(records) = effect {
                for record in records {
                    let key = (record.table, record.key.clone());
                    match &record.value {
                        Some(value) => self.disk.insert(key, value.clone()),
                        None => self.disk.remove(&key),
                    };
                }
            }
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now.tick = self.now.tick.after_ms(ms);
        self.now.wall = self.now.wall.after_ms(ms);
    }

    /// Lets time pass and runs what is due at its end.
    fn wait(&mut self, ms: u64) -> Vec<Effect> {
        self.pass(ms);
        let effects = self.turn(None);
        self.store(&effects);
        without_persist(effects)
    }

    fn restart(&mut self) {
        let records: Vec<Record> = self
            .disk
            .iter()
            .map(|((table, key), value)| Record {
                table: *table,
                key: key.clone(),
                value: Some(value.clone()),
            })
            .collect();
        self.now.tick = Tick(1);
        let node = Secp::from_secret(&[7; 32]).unwrap();
        self.machine = Payment::recover(
            self.config.clone(),
            Secrets::for_test(node, [7; 32]),
            records.into_iter(),
            self.now,
        );
    }

    fn report(&self) -> Report {
        self.machine.report(self.now)
    }

    fn state(&self, side: Side, hash: PaymentHash) -> EntryState {
        let report = self.report();
        let entry = report
            .entries
            .iter()
            .find(|entry| entry.side == side && entry.hash == hash);
        entry.expect("the hash has an entry").state
    }

    /// Reserves `max` for request `n` and binds it to order `n` at host 1.
    fn reserved(&mut self, n: u64, max: u64) {
        assert_eq!(self.reserve(n, "cli", max, Some(u64::MAX)), Ok(()));
        self.give(Input::Bind {
            request: RequestId(n),
            order: order(n),
            host: key(1),
        });
    }

    fn reserve(
        &mut self,
        n: u64,
        budget: &str,
        max: u64,
        spendable: Option<u64>,
    ) -> Result<(), Refusal> {
        let mut effects = self.give(Input::Reserve {
            request: RequestId(n),
            budget: budget.to_owned(),
            max_cost: Msat(max),
        });
        if let [Effect::CheckBalance { id }] = effects[..] {
            let spendable = spendable.map(Msat);
            effects = self.give(Input::BalanceChecked { id, spendable });
        }
        match effects.as_slice() {
            [Effect::Tell(Message::Reserved { request, result })] => {
                assert_eq!(*request, RequestId(n));
                result.clone()
            }
            other => panic!("no answer: {other:?}"),
        }
    }

    fn sent(&mut self, event: u64, hash: PaymentHash, outcome: PayOutcome) -> Vec<Effect> {
        self.give(Input::Sent {
            event,
            hash,
            outcome,
        })
    }

    fn looked_up(
        &mut self,
        id: EffectId,
        hash: PaymentHash,
        outcome: LookupOutcome,
    ) -> Vec<Effect> {
        self.give(Input::LookedUp { id, hash, outcome })
    }

    fn received(&mut self, event: u64, hash: PaymentHash, msat: u64) -> Vec<Effect> {
        let msat = Msat(msat);
        self.give(Input::Received { event, hash, msat })
    }
}

fn without_persist(effects: Vec<Effect>) -> Vec<Effect> {
    effects
        .into_iter()
        .filter(|effect| !matches!(effect, Effect::Persist(_)))
        .collect()
}

fn key(n: u8) -> NodeKey {
    NodeKey([n; 32])
}

fn caller(n: u8) -> Caller {
    Caller::alone(PeerTag([n; 16]))
}

fn order(n: u64) -> OrderId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&n.to_be_bytes());
    OrderId(id)
}

fn hash(n: u64) -> PaymentHash {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&n.to_be_bytes());
    PaymentHash(id)
}

fn invoice(rig: &Rig, n: u64, seq: u32, h: u64, msat: u64) -> PayRequest {
    PayRequest {
        order: order(n),
        seq,
        host: key(1),
        bolt11: format!("lnbcrt-{h}"),
        facts: InvoiceFacts {
            payee: LightningId([2; 33]),
            hash: hash(h),
            msat: Some(Msat(msat)),
            description_hash: None,
            expires: rig.now.wall.after_ms(600_000),
        },
        msat: Msat(msat),
        max_fee: Msat(50),
        carried: Msat::ZERO,
    }
}

fn settled(fee: u64) -> PayOutcome {
    PayOutcome::Settled {
        preimage: Preimage([9; 32]),
        fee: Msat(fee),
    }
}

fn account(n: u64, side: Side, counterparty: NodeKey, cost: u64) -> Box<OrderAccount> {
    Box::new(OrderAccount {
        order: order(n),
        side,
        counterparty,
        model: ModelDigest([3; 32]),
        counts: Counts {
            output_tokens: cost,
            ..Counts::default()
        },
        cost: Msat(cost),
        carried: Msat::ZERO,
        unsure: Msat::ZERO,
        status: Status::Complete,
        receipt: None,
    })
}

fn lookup_id(effects: &[Effect]) -> EffectId {
    match effects {
        [.., Effect::Lookup { id, .. }] => *id,
        other => panic!("no look-up: {other:?}"),
    }
}

fn refused(effects: &[Effect]) -> Code {
    match effects {
        [Effect::Tell(Message::NotSettled { refusal, .. }), ..] => refusal.code,
        other => panic!("not refused: {other:?}"),
    }
}

fn pays(effects: &[Effect]) -> usize {
    effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Pay { .. }))
        .count()
}

fn told_settled(effects: &[Effect]) -> usize {
    effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Tell(Message::Settled { .. })))
        .count()
}
