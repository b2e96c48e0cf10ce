//! What a buyer can take and leave, whatever it does with however many orders.
//!
//! The host here delivers all that a window allows, at once, and the buyer leaves with it.

use super::*;
use proptest::prelude::*;

const QUANTUM: u64 = 1_000;
const QUOTA: u64 = 700;

/// An open order, as a host that delivers all it may sees it.
#[derive(Debug, Default)]
struct Dealt {
    carried: u64,
    paid: u64,
    /// The most that may have been delivered, debt carried included.
    allowed: u64,
    prepays: bool,
}

struct Leaver {
    rig: Rig,
    open: BTreeMap<u64, Dealt>,
    next: u64,
    paid: u64,
    /// Delivered and not paid, also where the books forgave it.
    lost: u64,
}

impl Leaver {
    fn new(quota: u64) -> Leaver {
        let config = Config {
            free_quota: Msat(quota),
            window_cap: Msat(20_000),
            ..Config::default()
        };
        Leaver {
            rig: Rig::new(config),
            open: BTreeMap::new(),
            next: 1,
            paid: 0,
            lost: 0,
        }
    }

    fn begin(&mut self) {
        let n = self.next;
        self.next += 1;
        let effects = self.rig.give(Input::OpenCredit {
            order: order(n),
            buyer: key(5),
            caller: caller(1),
            quantum: Msat(QUANTUM),
        });
        let [
            Effect::Tell(Message::CreditOpened {
                result: Ok(credit), ..
            }),
        ] = effects[..]
        else {
            panic!("no credit: {effects:?}")
        };
        let dealt = Dealt {
            carried: credit.debt.0,
            allowed: credit.window.0,
            prepays: credit.prepay,
            ..Dealt::default()
        };
        self.open.insert(n, dealt);
    }

    fn pay(&mut self, a: u16, msat: u64, late: bool) {
        let Some(n) = self.pick(a) else { return };
        let dealt = self.open.get_mut(&n).unwrap();
        // The entry payment is the debt and a quantum of output; without one a host asks first
        // where output stands.
        let least = match (dealt.paid, dealt.prepays) {
            (0, true) => dealt.carried + QUANTUM,
            (0, false) => dealt.allowed.min(QUANTUM),
            _ => 1,
        };
        let msat = msat.max(least);
        let h = self.next;
        self.next += 1;
        let id = self.rig.ask_invoice(n, u32::try_from(h).unwrap(), msat);
        let result = Ok((format!("lnbcrt-{h}"), hash(h)));
        self.rig.give(Input::InvoiceCreated { id, result });
        self.rig.pass(if late { 30_001 } else { 50 });
        let effects = self.rig.received(h, hash(h), msat);
        let [Effect::Tell(Message::CreditGranted { window, .. }), ..] = effects[..] else {
            panic!("no credit granted: {effects:?}")
        };
        assert!(
            window.0 >= QUANTUM,
            "an order that was paid for stands still"
        );
        dealt.paid += msat;
        dealt.allowed = dealt.allowed.max(dealt.paid + window.0);
        self.paid += msat;
    }

    /// Delivers `share` of 255 parts of what is allowed, and ends the order.
    fn leave(&mut self, a: u16, share: u8) {
        let Some(n) = self.pick(a) else { return };
        let dealt = self.open.remove(&n).unwrap();
        let room = dealt.allowed.saturating_sub(dealt.carried);
        let cost = room * u64::from(share) / 255;
        let due = dealt.carried + cost;
        let unpaid = due.saturating_sub(dealt.paid);
        self.rig.give(Input::CloseOrder {
            account: account(n, Side::Host, key(5), cost),
            unpaid: Msat(unpaid),
        });
        // What it carried and did not pay was lost before.
        self.lost += unpaid;
        self.lost -= dealt.carried;
    }

    /// Lets time pass, in which every open order shows that it lives.
    fn pass(&mut self, mut ms: u64) {
        while ms > 0 {
            let step = ms.min(3 * 3_600_000);
            ms -= step;
            self.rig.pass(step);
            for n in self.open.keys() {
                let id = self.rig.ask_invoice(*n, 0, 1);
                let result = Err("not now".to_owned());
                self.rig.give(Input::InvoiceCreated { id, result });
            }
        }
    }

    fn pick(&self, a: u16) -> Option<u64> {
        let count = self.open.len();
        (count > 0).then(|| *self.open.keys().nth(usize::from(a) % count).unwrap())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_key_never_leaves_with_more_than_it_paid(
        quota in prop::sample::select(vec![0, QUOTA]),
        steps in prop::collection::vec(
            (0u8..16, any::<u16>(), prop::sample::select(vec![1, 400, 1_000, 3_000, 30_000]), any::<u8>()),
            1..80,
        ),
    ) {
        let mut leaver = Leaver::new(quota);
        for (kind, a, msat, b) in steps {
            match kind {
                0..=3 => leaver.begin(),
                4..=10 => leaver.pay(a, msat, b < 64),
                11 | 12 => leaver.leave(a, 255),
                13 | 14 => leaver.leave(a, b),
                _ => leaver.pass(u64::from(b) * DAY_MS / 128),
            }
            prop_assert!(
                leaver.lost <= leaver.paid + quota,
                "left with {} for {} paid", leaver.lost, leaver.paid
            );
        }
        for n in 0..leaver.open.len() {
            leaver.leave(u16::try_from(n).unwrap(), 255);
        }
        while !leaver.open.is_empty() {
            leaver.leave(0, 255);
        }
        prop_assert!(
            leaver.lost <= leaver.paid + quota,
            "left with {} for {} paid", leaver.lost, leaver.paid
        );
    }
}
