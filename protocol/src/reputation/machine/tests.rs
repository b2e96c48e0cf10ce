//! Histories, decay, cool-down and scores, on a machine of its own.

mod rank;
mod verdicts;

use super::*;
use crate::ids::{EffectId, OrderId};
use crate::message::reputation::{ScoreCard, Standing};
use crate::refusal::Code;
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
        refused: None,
        first_token_ms: failure.is_none().then_some(200),
        tokens: 101,
        stream_ms: 2_000 * u64::from(host),
        price_kept: true,
        took_payment: false,
        blank: false,
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
        witness: Witness::Own,
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
    let id = EffectId(3);
    let effects = feed(machine, now, Input::ScoreHosts { id, subjects });
    match effects.into_iter().next() {
        Some(Effect::Tell(Message::HostsScored { cards, .. })) => cards,
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
fn a_payment_that_is_taken_after_its_order_failed_is_rested_for_like_any_other() {
    let mut machine = Reputation::new(Config::default());
    let until = |machine: &mut Reputation, now: u64| {
        let card = scores(machine, at(now), &[(1, 100)]).remove(0);
        card.cooldown.map(|(until, _)| until.ms_since(at(now).wall))
    };
    feed(&mut machine, at(0), outcome(1, Some(Code::Timeout)));
    assert_eq!(until(&mut machine, 0), None);
    let host = key(1);
    let effects = feed(&mut machine, at(0), Input::PaymentTaken { host });
    assert!(matches!(effects[..], [Effect::Persist(_)]), "{effects:?}");
    assert_eq!(until(&mut machine, 0), Some(120_000));
}

#[test]
fn a_clock_that_was_ahead_makes_no_rest_longer() {
    let mut machine = Reputation::new(Config::default());
    let host = key(1);
    let day = 86_400_000;
    feed(&mut machine, at(day), Input::PaymentTaken { host });
    let rests = |machine: &mut Reputation, now: u64| {
        let card = scores(machine, at(now), &[(1, 100)]).remove(0);
        card.cooldown.is_some()
    };
    assert!(rests(&mut machine, day));
    // The clock is set right: nothing is known of how much of the rest is over.
    assert!(!rests(&mut machine, 0));
    feed(&mut machine, at(0), Input::PaymentTaken { host });
    assert!(rests(&mut machine, 3_599_999) && !rests(&mut machine, 3_600_000));
}

#[test]
fn who_takes_payments_and_serves_nothing_is_left_alone_for_four_times_as_long_each_time() {
    let mut machine = Reputation::new(Config::default());
    let taken = |failure| match outcome(1, Some(failure)) {
        Input::Happened(mut taken) => {
            taken.took_payment = true;
            Input::Happened(taken)
        }
        other => other,
    };
    let rest = |machine: &mut Reputation, now: Now| {
        let card = scores(machine, now, &[(1, 100)]).remove(0);
        card.cooldown
            .map_or(0, |(until, _)| until.ms_since(now.wall))
    };
    let (mut now, mut rests) = (0, Vec::new());
    for code in [
        Code::Timeout,
        Code::Disconnected,
        Code::ProtocolViolation,
        Code::EngineFailed,
    ] {
        feed(&mut machine, at(now), taken(code));
        // An order that was begun before that was known.
        feed(&mut machine, at(now + 1), taken(code));
        rests.push(rest(&mut machine, at(now)));
        now += rests.last().unwrap();
        assert_eq!(rest(&mut machine, at(now)), 0);
    }
    let hour = 3_600_000;
    assert_eq!(rests, [120_000, hour, 4 * hour, 16 * hour]);
    // An order that its user stopped before the first token shows nothing.
    let Input::Happened(mut stopped) = outcome(1, None) else {
        unreachable!()
    };
    stopped.tokens = 0;
    feed(&mut machine, at(now), Input::Happened(stopped));
    feed(&mut machine, at(now), taken(Code::Timeout));
    now += 64 * hour;
    assert_eq!(rest(&mut machine, at(now - 1)), 1);
    // It is over once an order was served to its end.
    feed(&mut machine, at(now), outcome(1, None));
    feed(&mut machine, at(now), taken(Code::Timeout));
    assert_eq!(rest(&mut machine, at(now)), 120_000);
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
    feed(&mut machine, at(0), outcome(2, None));
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

#[test]
fn refusals_are_a_term_of_their_own_with_a_short_rest_and_no_failure() {
    let mut machine = Reputation::new(Config::default());
    let mut rests = Vec::new();
    for n in 0..7 {
        let Input::Happened(mut refused) = outcome(1, None) else {
            unreachable!()
        };
        refused.refused = Some(Code::UnknownModel);
        feed(&mut machine, at(n), Input::Happened(refused));
        let card = scores(&mut machine, at(n), &[(1, 100)]).remove(0);
        let rest = card.cooldown.clone();
        rests.push(rest.map_or(0, |(until, _)| until.ms_since(at(n).wall)));
        assert_eq!(value(&card, "reliability"), 500_000);
        assert_eq!(
            u64::from(value(&card, "acceptance")),
            1_000_000 / (n + 2),
            "after {n}"
        );
        assert_eq!(card.standing, Standing::Failed);
    }
    assert_eq!(rests, [0, 0, 5_000, 10_000, 15_000, 20_000, 20_000]);
    feed(&mut machine, at(9), outcome(1, None));
    let card = scores(&mut machine, at(9), &[(1, 100)]).remove(0);
    assert!(card.cooldown.is_none() && card.standing == Standing::Served);
    assert_eq!(card.terms[3].why, "left 7 recent orders without an answer");
}

#[test]
fn terms_above_an_old_listing_are_a_refusal_and_not_an_overcharge() {
    let mut machine = Reputation::new(Config::default());
    let Input::Happened(mut dearer) = outcome(1, Some(Code::ProtocolViolation)) else {
        unreachable!()
    };
    dearer.price_kept = false;
    dearer.tokens = 0;
    feed(&mut machine, at(0), Input::Happened(dearer.clone()));
    let card = scores(&mut machine, at(1), &[(1, 100)]).remove(0);
    assert_eq!(value(&card, "reliability"), 500_000);
    assert_eq!(value(&card, "acceptance"), 500_000);
    dearer.tokens = 5;
    feed(&mut machine, at(2), Input::Happened(dearer));
    let card = scores(&mut machine, at(3), &[(1, 100)]).remove(0);
    assert!(card.terms[2].why.contains("charged more than listed"));
}

#[test]
fn a_node_without_a_network_blames_no_host() {
    let mut machine = Reputation::new(Config::default());
    for n in 0..20 {
        let host = 1 + (n % 4) as u8;
        feed(
            &mut machine,
            at(n * 30_000),
            offence(host, OffenceKind::GhostListing),
        );
    }
    assert_eq!(machine.histories(), (0, 0));
    let hosts: Vec<(u8, u64)> = (1..6).map(|host| (host, 100)).collect();
    let cards = scores(&mut machine, at(599_000), &hosts);
    assert!(
        cards[..4]
            .iter()
            .all(|card| card.standing == Standing::Failed)
    );
    assert_eq!(cards[4].standing, Standing::Unknown, "is dialled first now");
    // Its own order with the same host proves nothing about the network.
    feed(&mut machine, at(600_000), outcome(1, None));
    feed(
        &mut machine,
        at(600_001),
        offence(1, OffenceKind::GhostListing),
    );
    assert_eq!(machine.histories(), (1, 1), "the dials of the last minute");
    assert!(!machine.book.knows_host(&key(1)));
    let cards = scores(&mut machine, at(600_002), &hosts);
    let forgiven = cards
        .iter()
        .filter(|card| card.standing == Standing::Unknown);
    assert_eq!(forgiven.count(), 3, "2, 3 and 5");
}

#[test]
fn an_unanswered_dial_counts_once_when_another_host_answers_within_a_minute() {
    let mut machine = Reputation::new(Config::default());
    for n in 0..3 {
        let order = OrderId([n as u8; 16]);
        let Input::Offended(mut ghost) = offence(1, OffenceKind::GhostListing) else {
            unreachable!()
        };
        ghost.order = Some(order);
        feed(&mut machine, at(n), Input::Offended(ghost));
        let Input::Happened(mut dead) = outcome(1, Some(Code::Disconnected)) else {
            unreachable!()
        };
        (dead.order, dead.tokens) = (order, 0);
        feed(&mut machine, at(n), Input::Happened(dead));
    }
    assert_eq!(machine.histories(), (0, 0), "not known yet");
    let Input::Happened(mut alive) = outcome(2, None) else {
        unreachable!()
    };
    alive.order = OrderId([77; 16]);
    feed(&mut machine, at(59_000), Input::Happened(alive.clone()));
    feed(&mut machine, at(59_001), Input::Happened(alive));
    let card = scores(&mut machine, at(59_002), &[(1, 100)]).remove(0);
    assert_eq!(card.terms[2].why, "served 0 of 3 recent orders");
    assert!(card.cooldown.unwrap().1.contains("3 failures in a row"));
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
                refused: None,
                first_token_ms: Some(ms),
                tokens,
                stream_ms: ms,
                price_kept: ok,
                took_payment: !ok,
                blank: false,
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
