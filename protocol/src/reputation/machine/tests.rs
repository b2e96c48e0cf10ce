//! Histories, decay, cool-down and scores, on a machine of its own.

use super::*;
use crate::ids::{EffectId, OrderId};
use crate::refusal::Code;
use crate::reputation::ScoreCard;
use proptest::prelude::*;

const DAY_MS: u64 = 86_400_000;

fn at(ms: u64) -> Now {
    Now {
        tick: Tick(ms * 1_000_000),
        wall: WallTime(1_700_000_000_000 + ms),
    }
}

fn key(n: u8) -> NodeKey {
    NodeKey([n; 32])
}

fn outcome(host: u8, failure: Option<Code>) -> Input {
    Input::Happened(Outcome {
        order: OrderId([1; 16]),
        host: key(host),
        model: ModelDigest([5; 32]),
        failure,
        first_token_ms: failure.is_none().then_some(200),
        tokens: 101,
        stream_ms: 2_000 * u64::from(host),
        price_kept: true,
    })
}

fn offence(host: u8, kind: OffenceKind) -> Input {
    Input::Offended(Offence {
        by: key(host),
        order: None,
        kind,
        detail: "seen".into(),
    })
}

fn judged(host: u8, finding: Finding) -> Input {
    Input::Judged {
        host: key(host),
        model: ModelDigest([5; 32]),
        order: OrderId([1; 16]),
        tier: Tier::ExactReplay,
        finding,
    }
}

fn feed(machine: &mut Reputation, now: Now, input: Input) -> Vec<Effect> {
    let mut out = Outbox::default();
    machine.handle(now, input, &mut out);
    out.drain().collect()
}

fn scores(machine: &mut Reputation, now: Now, hosts: &[(u8, u64)]) -> Vec<ScoreCard> {
    let subjects = hosts
        .iter()
        .map(|(host, cost)| Subject {
            host: key(*host),
            model: ModelDigest([5; 32]),
            expected_cost_msat: *cost,
        })
        .collect();
    let ticket = EffectId(3);
    let effects = feed(machine, now, Input::ScoresWanted { ticket, subjects });
    match effects.into_iter().next() {
        Some(Effect::Tell(Message::ScoresGiven { cards, .. })) => cards,
        other => panic!("{other:?}"),
    }
}

fn value(card: &ScoreCard, name: &str) -> u32 {
    card.terms
        .iter()
        .find(|term| term.name == name)
        .unwrap()
        .value_ppm
}

#[test]
fn a_stranger_stands_at_a_half_and_its_weights_sum_to_one() {
    let mut machine = Reputation::new(Config::default());
    let card = scores(&mut machine, at(0), &[(1, 100)]).remove(0);
    assert_eq!(value(&card, "reliability"), 500_000);
    assert_eq!(value(&card, "price"), 1_000_000);
    assert_eq!(
        card.terms.iter().map(|term| term.weight_ppm).sum::<u32>(),
        1_000_000
    );
    assert!(card.cooldown.is_none());
    assert!(card.terms.iter().all(|term| !term.why.is_empty()));
}

#[test]
fn the_cheaper_and_the_faster_host_score_higher_in_the_same_unit() {
    let mut machine = Reputation::new(Config::default());
    for host in [1, 2] {
        feed(&mut machine, at(0), outcome(host, None));
    }
    let cards = scores(&mut machine, at(1), &[(1, 400), (2, 100)]);
    assert_eq!(value(&cards[0], "price"), 250_000);
    assert_eq!(value(&cards[1], "price"), 1_000_000);
    assert_eq!(value(&cards[0], "speed"), 1_000_000);
    assert!(value(&cards[1], "speed") < 600_000);
    let why = &cards[0].terms[1].why;
    assert_eq!(why, "first token after 200 ms, then 50.0 tokens/s");
    assert_eq!(cards[0].terms[2].why, "served 1 of 1 recent orders");
}

#[test]
fn three_failures_in_a_row_cool_a_host_down_for_longer_each_time() {
    let mut machine = Reputation::new(Config::default());
    let mut rests = Vec::new();
    for n in 1..=8 {
        feed(&mut machine, at(n), outcome(1, Some(Code::Disconnected)));
        let card = scores(&mut machine, at(n), &[(1, 100)]).remove(0);
        rests.push(
            card.cooldown
                .map_or(0, |(until, _)| until.ms_since(at(n).wall)),
        );
    }
    assert_eq!(
        rests,
        [0, 0, 30_000, 60_000, 90_000, 120_000, 120_000, 120_000]
    );
    assert!(
        scores(&mut machine, at(130_000), &[(1, 100)])[0]
            .cooldown
            .is_none()
    );
    feed(&mut machine, at(130_001), outcome(1, None));
    feed(&mut machine, at(130_002), outcome(1, Some(Code::Timeout)));
    assert!(
        scores(&mut machine, at(130_003), &[(1, 100)])[0]
            .cooldown
            .is_none()
    );
}

#[test]
fn a_busy_host_and_a_buyer_who_cancels_are_nobodys_fault() {
    let mut machine = Reputation::new(Config::default());
    for n in 0..5 {
        feed(&mut machine, at(n), outcome(1, Some(Code::Busy)));
        feed(&mut machine, at(n), outcome(1, Some(Code::Cancelled)));
        feed(&mut machine, at(n), offence(1, OffenceKind::NotPaid));
    }
    let card = scores(&mut machine, at(9), &[(1, 100)]).remove(0);
    assert_eq!(value(&card, "reliability"), 500_000);
    assert!(card.cooldown.is_none());
}

#[test]
fn unreachable_hosts_cool_down_whatever_the_model() {
    let mut machine = Reputation::new(Config::default());
    for n in 0..3 {
        feed(&mut machine, at(n), offence(1, OffenceKind::GhostListing));
    }
    let card = scores(&mut machine, at(3), &[(1, 100)]).remove(0);
    assert!(card.cooldown.unwrap().1.contains("3 failures in a row"));
    feed(&mut machine, at(4), outcome(1, None));
    assert!(
        scores(&mut machine, at(5), &[(1, 100)])[0]
            .cooldown
            .is_none()
    );
}

#[test]
fn a_conviction_lasts_a_month_and_survives_a_restart() {
    let finding = Finding::WrongAnswer {
        position: 4,
        detail: "token 7 instead of 8".into(),
    };
    for input in [judged(1, finding), offence(1, OffenceKind::WrongReceipt)] {
        let mut machine = Reputation::new(Config::default());
        let effects = feed(&mut machine, at(0), input);
        let Some(Effect::Persist(records)) = effects.into_iter().next() else {
            panic!("not persisted")
        };
        let mut machine = Reputation::recover(Config::default(), records.into_iter(), at(1));
        let card = scores(&mut machine, at(29 * DAY_MS), &[(1, 100)]).remove(0);
        assert_eq!(value(&card, "verified"), 0);
        assert!(card.cooldown.unwrap().1.starts_with("caught: wrong"));
        let card = scores(&mut machine, at(31 * DAY_MS), &[(1, 100)]).remove(0);
        assert!(card.cooldown.is_none());
    }
}

#[test]
fn checks_passed_raise_the_verified_term_and_doubt_does_nothing() {
    let mut machine = Reputation::new(Config::default());
    feed(&mut machine, at(0), judged(1, Finding::Honest));
    let doubt = Finding::Inconclusive { detail: "?".into() };
    assert!(feed(&mut machine, at(0), judged(2, doubt)).is_empty());
    let cards = scores(&mut machine, at(0), &[(1, 100), (2, 100)]);
    assert_eq!(value(&cards[0], "verified"), 400_000);
    assert_eq!(value(&cards[1], "verified"), 250_000);
}

#[test]
fn history_fades_by_half_in_a_week_and_a_clock_set_back_changes_nothing() {
    let mut machine = Reputation::new(Config::default());
    for n in 0..10 {
        feed(&mut machine, at(DAY_MS + n), outcome(1, None));
    }
    let fresh = scores(&mut machine, at(DAY_MS + 10), &[(1, 100)]).remove(0);
    assert_eq!(value(&fresh, "reliability"), 11 * 1_000_000 / 12);
    let back = scores(&mut machine, at(0), &[(1, 100)]).remove(0);
    assert_eq!(value(&back, "reliability"), 11 * 1_000_000 / 12);
    let later = scores(&mut machine, at(8 * DAY_MS + 10), &[(1, 100)]).remove(0);
    assert_eq!(later.terms[2].why, "served 5 of 5 recent orders");
}

#[test]
fn the_book_is_bounded_and_convictions_go_last() {
    let config = Config {
        max_histories: 4,
        ..Config::default()
    };
    let mut machine = Reputation::new(config);
    feed(&mut machine, at(0), offence(1, OffenceKind::WrongCount));
    for host in 2..50 {
        feed(
            &mut machine,
            at(DAY_MS * u64::from(host)),
            offence(host, OffenceKind::NotServed),
        );
        feed(
            &mut machine,
            at(DAY_MS * u64::from(host)),
            outcome(host, None),
        );
    }
    assert_eq!(machine.histories(), (4, 4));
    assert!(
        scores(&mut machine, at(1), &[(1, 100)])[0]
            .cooldown
            .is_some()
    );
}

proptest! {
    #[test]
    fn every_term_and_total_stays_within_its_unit(
        costs in prop::collection::vec(any::<u64>(), 1..6),
        events in prop::collection::vec((1u8..6, any::<bool>(), any::<u64>(), any::<u64>()), 0..20),
    ) {
        let mut machine = Reputation::new(Config::default());
        for (n, (host, ok, ms, tokens)) in events.into_iter().enumerate() {
            let input = Input::Happened(Outcome {
                order: OrderId([1; 16]),
                host: key(host),
                model: ModelDigest([5; 32]),
                failure: (!ok).then_some(Code::EngineFailed),
                first_token_ms: Some(ms),
                tokens,
                stream_ms: ms,
                price_kept: ok,
            });
            feed(&mut machine, at(n as u64 * DAY_MS), input);
        }
        let hosts: Vec<(u8, u64)> = (1u8..).zip(costs).collect();
        for card in scores(&mut machine, at(20 * DAY_MS), &hosts) {
            prop_assert!(card.total_ppm <= 1_000_000);
            prop_assert!(card.terms.iter().all(|term| term.value_ppm <= 1_000_000));
        }
    }
}
