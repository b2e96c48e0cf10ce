//! What an order costs with all its fees, whatever its payments come to.

use super::*;
use crate::money::Fees;
use proptest::prelude::*;

/// A payment as the wallet knows it.
#[derive(Debug)]
struct Sent {
    msat: u64,
    max_fee: u64,
    /// Of a settled one.
    fee: Option<u64>,
    failed: bool,
}

impl Sent {
    fn most(&self) -> u64 {
        match (self.failed, self.fee) {
            (true, _) => 0,
            (_, Some(fee)) => self.msat + fee,
            _ => self.msat + self.max_fee,
        }
    }

    fn fees(&self) -> u64 {
        match (self.failed, self.fee) {
            (true, _) => 0,
            (_, Some(fee)) => fee,
            _ => self.max_fee,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_cap_for_a_cost_is_the_least_that_leaves_it(
        cost in prop_oneof![0u64..200_000, 0u64..1 << 62], ppm in 0u64..900_000, floor in 0u64..9_000,
    ) {
        let fees = Fees { ppm, floor: Msat(floor) };
        let cap = fees.cap_for(Msat(cost));
        prop_assert!(fees.cost_within(cap) >= Msat(cost));
        prop_assert!(cap == Msat(cost) || fees.cost_within(Msat(cap.0 - 1)) < Msat(cost));
        prop_assert!(fees.within(cap).0 <= cap.0 / 2);
    }

    #[test]
    fn cost_and_fees_of_an_order_never_pass_what_was_set_aside(
        cap in prop::sample::select(vec![1u64, 999, 4_000, 20_000, 1_000_000]),
        steps in prop::collection::vec(
            (0u8..6, any::<u16>(), 1u64..8_000, 0u64..6_000), 1..80,
        ),
    ) {
        let mut rig = Rig::new(Config::default());
        rig.reserved(1, cap);
        let budget = rig.config.fees.within(Msat(cap)).0;
        prop_assert!(budget <= cap / 2);
        let mut sent: BTreeMap<u64, Sent> = BTreeMap::new();
        for (n, (kind, a, msat, fee)) in steps.into_iter().enumerate() {
            let n = n as u64;
            let under_way = |sent: &Sent| sent.fee.is_none() && !sent.failed;
            let open: Vec<u64> = sent.iter().filter(|(_, s)| under_way(s)).map(|(h, _)| *h).collect();
            let picked = (!open.is_empty()).then(|| open[usize::from(a) % open.len()]);
            match (kind, picked) {
                (0..=2, _) => {
                    let mut pay = invoice(&rig, 1, u32::try_from(n).unwrap(), n, msat);
                    pay.max_fee = Msat(fee);
                    for effect in rig.give(Input::Pay(Box::new(pay))) {
                        if let Effect::Pay { max_fee, .. } = effect {
                            prop_assert!(max_fee.0 <= fee);
                            sent.insert(n, Sent { msat, max_fee: max_fee.0, fee: None, failed: false });
                        }
                    }
                }
                (3, Some(h)) => {
                    let reason = "no route".to_owned();
                    rig.sent(n, hash(h), PayOutcome::Failed { reason });
                    sent.get_mut(&h).unwrap().failed = true;
                }
                (4, Some(h)) => {
                    let fee = fee.min(sent[&h].max_fee);
                    rig.sent(n, hash(h), settled(fee));
                    sent.get_mut(&h).unwrap().fee = Some(fee);
                }
                (5, Some(h)) => drop(rig.sent(n, hash(h), PayOutcome::Unknown)),
                _ => {}
            }
            let most: u64 = sent.values().map(Sent::most).sum();
            let fees: u64 = sent.values().map(Sent::fees).sum();
            prop_assert!(most <= cap, "{most} of a cap of {cap}");
            prop_assert!(fees <= budget, "{fees} of a fee budget of {budget}");
        }
    }
}
