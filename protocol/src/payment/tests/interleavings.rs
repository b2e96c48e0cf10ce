//! Random interleavings of everything that can happen, with crashes between any two effects.
//!
//! The wallet here keeps its own books and shares no code with the machine. It
//! survives crashes, repeats events until they are acknowledged, may record a
//! payment late, and may answer late, wrongly timed, or not at all.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const PER_DAY: u64 = 60_000;
const EXPIRY_MS: u64 = 600_000;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    /// Asked for, and not yet in the wallet's own books.
    Unrecorded,
    Pending,
    Settled {
        fee: u64,
    },
    Failed,
    /// Not begun before the invoice expired, so never.
    Never,
}

#[derive(Debug)]
struct Paying {
    request: (u32, u64),
    day: u64,
    msat: u64,
    max_fee: u64,
    expires: WallTime,
    fate: Fate,
    /// The machine said that it failed.
    told_failed: bool,
}

/// One thing that happens: what, two numbers to choose with, and after how many effects a crash.
type Step = (u8, u16, u16, Option<u8>);

struct World {
    rig: Rig,
    run: u32,
    /// Requests of this run that are not released: the most they may cost.
    requests: BTreeMap<u64, u64>,
    paying: BTreeMap<PaymentHash, Paying>,
    invoices: BTreeMap<PaymentHash, u64>,
    received: BTreeMap<PaymentHash, u64>,
    events: BTreeMap<u64, PaymentHash>,
    next_event: u64,
    next_hash: u64,
    next_request: u64,
    /// Effects that the wallet has not answered.
    asked: Vec<Effect>,
    settled_told: BTreeSet<PaymentHash>,
    granted: BTreeSet<PaymentHash>,
}

impl World {
    fn new() -> World {
        let config = Config {
            per_order: Msat(20_000),
            per_day: Msat(PER_DAY),
            ..Config::default()
        };
        World {
            rig: Rig::new(config),
            run: 0,
            requests: BTreeMap::new(),
            paying: BTreeMap::new(),
            invoices: BTreeMap::new(),
            received: BTreeMap::new(),
            events: BTreeMap::new(),
            next_event: 1,
            next_hash: 1,
            next_request: 0,
            asked: Vec::new(),
            settled_told: BTreeSet::new(),
            granted: BTreeSet::new(),
        }
    }

    fn step(&mut self, (kind, a, b, cut): Step) {
        let input = match kind % 12 {
            0 => self.reserve(a, b),
            1..=3 => self.pay(a, b),
            4 => self.release(a),
            5 => Some(self.open_or_close(a, b)),
            6 => Some(self.make_invoice(a, b)),
            7 => return self.wallet_moves(a, b),
            8 => return self.money_arrives(a),
            9 => self.event(a),
            10 => self.answer(a, b),
            _ => {
                self.rig.pass(u64::from(a) * 4);
                self.begin_or_never();
                None
            }
        };
        self.turn(input, cut);
    }

    /// One turn of the machine, checked, and carried out up to the cut.
    fn turn(&mut self, input: Option<Input>, cut: Option<u8>) {
        let before = self.rig.report();
        let effects = self.rig.turn(input.clone());
        self.check_turn(&before, input.as_ref(), &effects);
        let most = cut.map_or(effects.len(), |cut| usize::from(cut) % (effects.len() + 1));
        for effect in effects.into_iter().take(most) {
            self.carry_out(effect);
        }
        if cut.is_some() {
            self.crash();
        }
    }

    fn crash(&mut self) {
        self.run += 1;
        self.requests.clear();
        self.asked.clear();
        self.rig.restart();
    }

    fn check_turn(&self, before: &Report, input: Option<&Input>, effects: &[Effect]) {
        let persists = effects.iter().filter(|e| matches!(e, Effect::Persist(_)));
        let first = matches!(effects.first(), Some(Effect::Persist(_)));
        assert_eq!(persists.count(), usize::from(first), "one write, in front");
        if let Some(Input::Received { event, .. }) = input {
            assert!(first, "money is written before it is acknowledged");
            assert!(effects.contains(&Effect::Acknowledge { event: *event }));
        }
        let after = self.rig.report();
        for entry in before.entries.iter().filter(|e| e.side == Side::Buyer) {
            let now = after
                .entries
                .iter()
                .find(|e| e.hash == entry.hash && e.side == entry.side);
            let state = now.expect("no entry is lost").state;
            if state == EntryState::Failed && entry.state != EntryState::Failed {
                self.check_failure(entry.expires, input);
            }
            assert!(
                entry.state != EntryState::Settled || state == EntryState::Settled,
                "settled is final"
            );
        }
    }

    fn check_failure(&self, expires: WallTime, input: Option<&Input>) {
        let grace = self.rig.config.unknown_grace_ms;
        let justified = match input {
            Some(Input::PayDone { outcome, .. } | Input::Sent { outcome, .. }) => {
                matches!(outcome, PayOutcome::Failed { .. })
            }
            Some(Input::LookedUp { outcome, .. }) => match outcome {
                LookupOutcome::Failed => true,
                LookupOutcome::NotFound => self.rig.now.wall > expires.after_ms(grace),
                _ => false,
            },
            _ => false,
        };
        assert!(justified, "failed by itself at {input:?}");
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Persist(_) => self.rig.store(std::slice::from_ref(&effect)),
            Effect::Acknowledge { event } => {
                self.events.remove(&event);
            }
            Effect::Pay { hash, .. } => {
                let planned = self
                    .rig
                    .disk
                    .contains_key(&(Table::Outgoing, hash.0.to_vec()));
                assert!(planned, "the plan is on disk before the wallet is asked");
                self.wallet_pays(&effect);
                self.asked.push(effect);
            }
            Effect::Tell(message) => self.told(message),
            Effect::Reply { .. } => {}
            _ => self.asked.push(effect),
        }
    }

    fn wallet_pays(&mut self, effect: &Effect) {
        let Effect::Pay {
            bolt11,
            hash,
            msat,
            max_fee,
            ..
        } = effect
        else {
            return;
        };
        let request: u64 = bolt11.parse().expect("the test wrote it");
        let paying = Paying {
            request: (self.run, request),
            day: self.rig.now.wall.0 / DAY_MS,
            msat: msat.0,
            max_fee: max_fee.0,
            expires: self.rig.now.wall.after_ms(EXPIRY_MS),
            fate: Fate::Unrecorded,
            told_failed: false,
        };
        assert!(
            self.paying.insert(*hash, paying).is_none(),
            "a second payment for one hash"
        );
        let cap = self.requests[&request];
        let used: u64 = self
            .paying
            .values()
            .filter(|p| p.request == (self.run, request) && !p.told_failed)
            .map(|p| match p.fate {
                Fate::Settled { fee } => p.msat + fee,
                _ => p.msat + p.max_fee,
            })
            .sum();
        assert!(used <= cap, "{used} of a cap of {cap}");
        self.check_day();
    }

    fn check_day(&self) {
        let today = self.rig.now.wall.0 / DAY_MS;
        let spent: u64 = self
            .paying
            .values()
            .filter(|p| p.day == today)
            .map(|p| match p.fate {
                Fate::Settled { fee } => p.msat + fee,
                Fate::Failed | Fate::Never => 0,
                Fate::Unrecorded | Fate::Pending => p.msat + p.max_fee,
            })
            .sum();
        assert!(spent <= PER_DAY, "{spent} in one day");
    }

    fn told(&mut self, message: Message) {
        match message {
            Message::Settled { hash, .. } => {
                assert!(self.settled_told.insert(hash), "told twice of one payment");
                let fate = self.paying[&hash].fate;
                assert!(matches!(fate, Fate::Settled { .. }), "told of {fate:?}");
            }
            Message::NotSettled {
                order,
                seq,
                refusal,
            } if refusal.code == Code::PaymentFailed => {
                let report = self.rig.report();
                let failed = report.entries.iter().filter(|entry| {
                    (entry.order, entry.seq, entry.state) == (order, seq, EntryState::Failed)
                });
                for entry in failed {
                    if let Some(paying) = self.paying.get_mut(&entry.hash) {
                        paying.told_failed = true;
                    }
                }
            }
            Message::InvoiceMade {
                result: Ok((text, hash)),
                ..
            } => {
                self.invoices
                    .insert(hash, text.parse().expect("the test wrote it"));
            }
            Message::CreditGranted { hash, .. } => {
                assert!(self.granted.insert(hash), "credited twice");
                assert!(self.received.contains_key(&hash), "credited for nothing");
            }
            _ => {}
        }
    }

    fn reserve(&mut self, a: u16, b: u16) -> Option<Input> {
        // At times one that was asked for before, which must change nothing.
        let known = pick(self.requests.keys(), a).copied();
        let request = known.filter(|_| a.is_multiple_of(5)).unwrap_or_else(|| {
            self.next_request += 1;
            self.next_request
        });
        let fresh = 1 + u64::from(b) % 25_000;
        let max_cost = self.requests.entry(request).or_insert(fresh);
        Some(Input::Reserve {
            request: RequestId(request),
            budget: format!("key {}", a % 2),
            max_cost: Msat(*max_cost),
        })
    }

    /// Pays for a request of this run; at times with a hash used before.
    fn pay(&mut self, a: u16, b: u16) -> Option<Input> {
        let request = *pick(self.requests.keys(), a)?;
        self.turn(
            Some(Input::Bind {
                request: RequestId(request),
                order: order(request),
                host: key(1),
            }),
            None,
        );
        let fresh = !b.is_multiple_of(8);
        if fresh {
            self.next_hash += 1;
        }
        let h = if fresh {
            self.next_hash
        } else {
            u64::from(a) % (self.next_hash + 1)
        };
        let seq = u32::from(b) % 64;
        let mut pay = invoice(&self.rig, request, seq, h, 1 + u64::from(b) % 6_000);
        pay.bolt11 = request.to_string();
        pay.facts.expires = self.rig.now.wall.after_ms(EXPIRY_MS);
        Some(Input::Pay(Box::new(pay)))
    }

    fn release(&mut self, a: u16) -> Option<Input> {
        let request = *pick(self.requests.keys(), a)?;
        self.requests.remove(&request);
        Some(Input::Release {
            request: RequestId(request),
        })
    }

    fn open_or_close(&mut self, a: u16, b: u16) -> Input {
        let n = u64::from(a % 4);
        let buyer = key((n % 2) as u8 + 5);
        if b.is_multiple_of(2) {
            Input::OpenCredit {
                order: order(n),
                buyer,
                caller: caller(1),
                quantum: Msat(1_000),
            }
        } else {
            Input::CloseOrder {
                account: account(n, Side::Host, buyer, u64::from(b)),
                unpaid: Msat(u64::from(b) % 3_000),
            }
        }
    }

    fn make_invoice(&mut self, a: u16, b: u16) -> Input {
        Input::MakeInvoice {
            order: order(u64::from(a % 4)),
            seq: u32::from(b),
            msat: Msat(1 + u64::from(b) % 5_000),
            description_hash: [0; 32],
            expiry_s: 600,
        }
    }

    /// The wallet records, settles or fails a payment of its own accord.
    fn wallet_moves(&mut self, a: u16, b: u16) {
        let Some(hash) = pick(self.paying.keys(), a).copied() else {
            return;
        };
        let Some(paying) = self.paying.get_mut(&hash) else {
            return;
        };
        let fate = match (paying.fate, b % 3) {
            (Fate::Unrecorded, 0 | 1) => Fate::Pending,
            (Fate::Pending, 0) => Fate::Failed,
            (Fate::Pending, _) => Fate::Settled {
                fee: u64::from(b) % (paying.max_fee + 1),
            },
            (same, _) => same,
        };
        if fate != paying.fate && fate != Fate::Pending {
            self.events.insert(self.next_event, hash);
            self.next_event += 1;
        }
        paying.fate = fate;
    }

    /// A wallet does not begin to pay an invoice that has expired.
    fn begin_or_never(&mut self) {
        for paying in self.paying.values_mut() {
            if paying.fate == Fate::Unrecorded && paying.expires < self.rig.now.wall {
                paying.fate = Fate::Never;
            }
        }
    }

    fn money_arrives(&mut self, a: u16) {
        let Some(hash) = pick(self.invoices.keys(), a).copied() else {
            return;
        };
        if let std::collections::btree_map::Entry::Vacant(entry) = self.received.entry(hash) {
            entry.insert(self.invoices[&hash]);
            self.events.insert(self.next_event, hash);
            self.next_event += 1;
        }
    }

    /// An event not yet acknowledged, perhaps for the tenth time.
    fn event(&self, a: u16) -> Option<Input> {
        let event = *pick(self.events.keys(), a)?;
        let hash = self.events[&event];
        if let Some(msat) = self.received.get(&hash) {
            let msat = Msat(*msat);
            return Some(Input::Received { event, hash, msat });
        }
        let outcome = self.outcome(&hash);
        Some(Input::Sent {
            event,
            hash,
            outcome,
        })
    }

    fn outcome(&self, hash: &PaymentHash) -> PayOutcome {
        match self.paying[hash].fate {
            Fate::Settled { fee } => settled(fee),
            Fate::Failed => PayOutcome::Failed {
                reason: "no route".to_owned(),
            },
            _ => PayOutcome::Unknown,
        }
    }

    /// The wallet answers something it was asked; `b` says how well.
    fn answer(&mut self, a: u16, b: u16) -> Option<Input> {
        if self.asked.is_empty() {
            return None;
        }
        let effect = self.asked.remove(usize::from(a) % self.asked.len());
        Some(match effect {
            Effect::CheckBalance { id } => Input::BalanceChecked {
                id,
                spendable: (!b.is_multiple_of(5)).then_some(Msat(100_000)),
            },
            Effect::CreateInvoice { id, msat, .. } => {
                self.next_hash += 1;
                let result = Ok((msat.0.to_string(), hash(1_000_000 + self.next_hash)));
                Input::InvoiceCreated { id, result }
            }
            Effect::Pay { id, hash, .. } => Input::PayDone {
                id,
                hash,
                outcome: self.outcome(&hash),
            },
            Effect::Lookup { id, hash, side } => Input::LookedUp {
                id,
                hash,
                outcome: match b % 4 {
                    0 => LookupOutcome::Unavailable,
                    _ => self.truth(side, &hash),
                },
            },
            other => panic!("nothing to answer: {other:?}"),
        })
    }

    fn truth(&self, side: Side, hash: &PaymentHash) -> LookupOutcome {
        if side == Side::Host {
            return match self.received.get(hash) {
                Some(msat) => LookupOutcome::Settled {
                    preimage: None,
                    msat: Msat(*msat),
                    fee: Msat::ZERO,
                },
                None => LookupOutcome::Pending,
            };
        }
        match self
            .paying
            .get(hash)
            .map(|paying| (paying.fate, paying.msat))
        {
            Some((Fate::Settled { fee }, msat)) => LookupOutcome::Settled {
                preimage: Some(Preimage([9; 32])),
                msat: Msat(msat),
                fee: Msat(fee),
            },
            Some((Fate::Pending, _)) => LookupOutcome::Pending,
            Some((Fate::Failed, _)) => LookupOutcome::Failed,
            Some((Fate::Unrecorded | Fate::Never, _)) | None => LookupOutcome::NotFound,
        }
    }

    /// Everything works from now on: the wallet decides, repeats, and answers.
    fn heal(&mut self) {
        for n in 0..self.paying.len() {
            for _ in 0..2 {
                self.wallet_moves(u16::try_from(n).unwrap_or(0), 1);
            }
        }
        for _ in 0..100 {
            let due = self.rig.machine.deadline();
            if let Some(due) = due {
                self.rig.pass(due.ms_since(self.rig.now.tick) + 1);
            }
            self.begin_or_never();
            self.turn(None, None);
            while let Some(input) = self.answer(0, 1).or_else(|| self.event(0)) {
                self.turn(Some(input), None);
            }
            if due.is_none() {
                return;
            }
        }
        panic!("still not at rest: {:#?}", self.rig.report().entries);
    }

    /// The books and the wallet say the same.
    fn agree(&self) {
        let report = self.rig.report();
        let paid = self.paying.values().filter_map(|p| match p.fate {
            Fate::Settled { fee } => Some((p.msat, fee)),
            _ => None,
        });
        let (spent, fees) = paid.fold((0, 0), |(s, f), (msat, fee)| (s + msat, f + fee));
        assert_eq!((report.spent, report.fees), (Msat(spent), Msat(fees)));
        assert_eq!(report.earned, Msat(self.received.values().sum()));
        assert!(self.events.is_empty(), "events nobody acknowledged");
        let open = |entry: &&LedgerEntry| {
            !matches!(
                entry.state,
                EntryState::Settled | EntryState::Failed | EntryState::Expired
            )
        };
        assert_eq!(report.entries.iter().filter(open).count(), 0);
        let open_tables = [Table::Outgoing, Table::Incoming];
        let left = self
            .rig
            .disk
            .keys()
            .filter(|(table, _)| open_tables.contains(table));
        assert_eq!(left.count(), 0, "open records of nothing");
    }
}

fn pick<T>(mut from: impl ExactSizeIterator<Item = T>, a: u16) -> Option<T> {
    let count = from.len();
    (count > 0)
        .then(|| from.nth(usize::from(a) % count))
        .flatten()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_happens_and_wherever_it_crashes_books_and_wallet_agree_in_the_end(
        steps in prop::collection::vec(
            (any::<u8>(), any::<u16>(), any::<u16>(), prop::option::weighted(0.08, any::<u8>())),
            1..160,
        ),
    ) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.heal();
        world.agree();
        let before = world.rig.report();
        world.rig.restart();
        let after = world.rig.report();
        prop_assert_eq!(before, after, "a restart forgets nothing");
        prop_assert_eq!(world.rig.machine.deadline(), None);
    }
}
