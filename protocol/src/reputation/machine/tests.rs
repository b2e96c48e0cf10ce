//! Histories, decay, cool-down and scores, on a machine of its own.

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
    assert_eq!(value(&card, "price"), 750_000);
    assert_eq!(value(&card, "acceptance"), 1_000_000);
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
    assert_eq!(value(&cards[0], "price"), 300_000);
    assert_eq!(value(&cards[1], "price"), 750_000);
    assert_eq!(value(&cards[0], "speed"), 993_630);
    assert_eq!(value(&cards[1], "speed"), 750_000);
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

#[test]
fn what_a_third_party_can_cause_is_booked_against_nobody() {
    let mut machine = Reputation::new(Config::default());
    for kind in [
        OffenceKind::MalformedFrame,
        OffenceKind::UnexpectedFrame,
        OffenceKind::BadSignature,
        OffenceKind::Replay,
        OffenceKind::TermsNotAsListed,
        OffenceKind::Stale,
        OffenceKind::PriceAboveListing,
        OffenceKind::NotPaid,
    ] {
        assert!(!kind.is_objective());
        for n in 0..5 {
            let effects = feed(&mut machine, at(n), offence(1, kind.clone()));
            assert!(effects.is_empty(), "{kind:?}");
        }
    }
    assert_eq!(machine.histories(), (0, 0));
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

/// An order of few tokens that came in one chunk.
fn quick(host: u8, tokens: u64, failure: Option<Code>) -> Input {
    match outcome(host, failure) {
        Input::Happened(outcome) => Input::Happened(Outcome {
            first_token_ms: Some(1),
            tokens,
            stream_ms: 0,
            ..outcome
        }),
        other => other,
    }
}

#[test]
fn one_quick_order_does_not_sink_a_host_that_serves_well() {
    let junk = [
        // It failed, after one token and after many.
        vec![quick(3, 1, Some(Code::Timeout))],
        vec![quick(3, 400, Some(Code::Timeout))],
        // It served one token, or many, and so did another.
        vec![quick(3, 1, None)],
        vec![quick(3, 400, None)],
        vec![quick(3, 1, None), quick(4, 1, None)],
        // It was caught.
        vec![
            quick(3, 400, None),
            judged(
                3,
                Finding::FalseAccount {
                    detail: "no".into(),
                },
            ),
        ],
    ];
    for (number, junk) in junk.into_iter().enumerate() {
        let mut machine = Reputation::new(Config::default());
        for n in 0..10 {
            feed(&mut machine, at(n), outcome(1, None));
        }
        for input in junk {
            feed(&mut machine, at(10), input);
        }
        let cards = scores(
            &mut machine,
            at(11),
            &[(1, 1_000), (2, 500), (3, 500), (4, 500)],
        );
        let (good, unknown) = (&cards[0], &cards[1]);
        assert!(value(good, "speed") >= 730_000, "{number}: {good:?}");
        assert!(good.total_ppm > unknown.total_ppm, "{number}");
    }
}

#[test]
fn a_host_without_a_rate_is_measured_by_the_usual_one() {
    let one = |host: u8, first_ms, tokens| match outcome(host, None) {
        Input::Happened(outcome) => Input::Happened(Outcome {
            first_token_ms: Some(first_ms),
            tokens,
            stream_ms: 40 * (tokens - 1),
            ..outcome
        }),
        other => other,
    };
    let mut machine = Reputation::new(Config::default());
    feed(&mut machine, at(0), one(1, 200, 1));
    feed(&mut machine, at(0), one(2, 400, 1));
    let cards = scores(&mut machine, at(1), &[(1, 100), (2, 100)]);
    let speeds = [&cards[0], &cards[1]].map(|card| value(card, "speed"));
    assert_eq!(speeds, [1_000_000, 750_000]);
    assert_eq!(cards[0].terms[1].why, "first token after 200 ms");
    // A rate from eight tokens behind the first, here of 40 ms: between those of the others.
    for (tokens, speed) in [(8, 750_000), (9, 503_225)] {
        let mut machine = Reputation::new(Config::default());
        for host in [1, 4] {
            feed(&mut machine, at(0), outcome(host, None));
        }
        feed(&mut machine, at(0), one(3, 200, tokens));
        let cards = scores(&mut machine, at(1), &[(1, 100), (4, 100), (3, 100)]);
        assert_eq!(value(&cards[1], "speed"), speed, "{tokens}");
    }
}

#[test]
fn an_answer_without_a_word_is_no_success_and_no_failure() {
    let blank = |mut input: Input| {
        if let Input::Happened(outcome) = &mut input {
            (outcome.blank, outcome.tokens) = (true, 1);
        }
        input
    };
    let mut machine = Reputation::new(Config::default());
    let Input::Happened(mut taken) = outcome(1, Some(Code::Timeout)) else {
        unreachable!()
    };
    taken.took_payment = true;
    feed(&mut machine, at(0), Input::Happened(taken.clone()));
    let before = scores(&mut machine, at(130_000), &[(1, 100)]).remove(0);
    feed(&mut machine, at(130_000), blank(outcome(1, None)));
    let card = scores(&mut machine, at(130_000), &[(1, 100)]).remove(0);
    assert!(card.cooldown.is_none(), "the first is none");
    let reliability = value(&before, "reliability");
    assert_eq!(value(&card, "reliability"), reliability);
    assert_eq!(value(&card, "acceptance"), 333_333);
    assert_eq!(card.terms[1].why, "not measured yet");
    // The row of payments taken goes on: the second rest is an hour.
    feed(&mut machine, at(130_001), Input::Happened(taken));
    let card = scores(&mut machine, at(130_001), &[(1, 100)]).remove(0);
    let (until, _) = card.cooldown.unwrap();
    assert_eq!(until, at(130_001 + 3_600_000).wall);
}

#[test]
fn a_listing_at_no_price_does_not_outrank_a_host_that_serves_well() {
    for price in [0, 1, 499] {
        let mut machine = Reputation::new(Config::default());
        for n in 0..4 {
            feed(&mut machine, at(n), outcome(1, None));
        }
        let hosts: Vec<(u8, u64)> = (50..150)
            .map(|host| (host, price))
            .chain([(1, 1_000)])
            .collect();
        let cards = scores(&mut machine, at(5), &hosts);
        let good = cards.last().unwrap();
        assert_eq!(
            value(good, "price"),
            750_000,
            "measured against those that served"
        );
        assert!(
            cards[..100]
                .iter()
                .all(|card| card.total_ppm < good.total_ppm)
        );
        assert_eq!(value(&cards[0], "price"), 1_000_000);
    }
}

#[test]
fn who_kept_a_payment_and_never_served_has_a_standing_of_its_own() {
    let mut machine = Reputation::new(Config::default());
    let Input::Happened(mut taken) = outcome(2, Some(Code::Timeout)) else {
        unreachable!()
    };
    taken.took_payment = true;
    feed(&mut machine, at(0), Input::Happened(taken));
    feed(&mut machine, at(0), outcome(1, Some(Code::Disconnected)));
    // Behind its rest.
    let cards = scores(&mut machine, at(600_000), &[(1, 9_000), (2, 0)]);
    assert!(cards.iter().all(|card| card.cooldown.is_none()));
    assert_eq!(cards[0].standing, Standing::Failed);
    assert_eq!(cards[1].standing, Standing::Kept);
    assert_eq!(value(&cards[1], "price"), 0, "nothing was served at it");
    feed(&mut machine, at(600_001), outcome(2, None));
    let card = scores(&mut machine, at(600_002), &[(2, 0)]).remove(0);
    assert_eq!(card.standing, Standing::Served);
}

#[test]
fn of_hosts_that_never_served_the_one_that_said_no_ranks_before_the_one_that_failed() {
    let Input::Happened(mut refused) = outcome(1, None) else {
        unreachable!()
    };
    refused.refused = Some(Code::Busy);
    let failures = [
        outcome(2, Some(Code::Disconnected)),
        offence(2, OffenceKind::NotServed),
    ];
    for (number, failure) in failures.into_iter().enumerate() {
        let mut machine = Reputation::new(Config::default());
        feed(&mut machine, at(0), Input::Happened(refused.clone()));
        feed(&mut machine, at(0), failure.clone());
        let cards = scores(&mut machine, at(1), &[(1, 9_000), (2, 0)]);
        assert!(cards.iter().all(|card| card.standing == Standing::Failed));
        assert!(cards[0].total_ppm > cards[1].total_ppm, "{number}");
        // A dozen of refusals is more than a failure.
        for n in 2..14 {
            feed(&mut machine, at(n), Input::Happened(refused.clone()));
        }
        let cards = scores(&mut machine, at(9), &[(1, 0), (2, 9_000)]);
        assert!(cards[0].total_ppm < cards[1].total_ppm, "{number}");
    }
}

#[test]
fn a_price_at_which_nothing_was_served_ranks_nobody() {
    let mut machine = Reputation::new(Config::default());
    let Input::Happened(mut refused) = outcome(1, None) else {
        unreachable!()
    };
    refused.refused = Some(Code::Busy);
    feed(&mut machine, at(0), Input::Happened(refused));
    for n in 0..2 {
        let gone = outcome(2, Some(Code::Disconnected));
        feed(&mut machine, at(n), gone);
    }
    let cards = scores(&mut machine, at(9), &[(1, 9_000), (2, 0)]);
    assert!(cards.iter().all(|card| card.standing == Standing::Failed));
    assert!(
        cards[0].total_ppm > cards[1].total_ppm,
        "it failed less, and lists no price of 0"
    );
}

#[test]
fn sums_that_add_up_verify_nothing_and_neither_does_praise_by_others() {
    let mut machine = Reputation::new(Config::default());
    let cases = [
        (Tier::Bookkeeping, Witness::Own),
        (Tier::ExactReplay, Witness::Other(key(8))),
        (Tier::ExactReplay, Witness::Stranger),
    ];
    for (at_tier, by) in cases {
        let Input::Judged {
            host,
            model,
            order,
            finding,
            ..
        } = judged(1, Finding::Honest)
        else {
            unreachable!()
        };
        let input = Input::Judged {
            host,
            model,
            order,
            tier: at_tier,
            finding,
            witness: by,
        };
        assert!(
            feed(&mut machine, at(0), input).is_empty(),
            "{at_tier:?} {by:?}"
        );
    }
}

/// What `by` says of `host`.
fn says(by: u8, host: u8) -> Input {
    Input::Judged {
        host: key(host),
        model: ModelDigest([5; 32]),
        order: OrderId([1; 16]),
        tier: Tier::ExactReplay,
        finding: Finding::WrongAnswer {
            position: 1,
            detail: "differs".into(),
        },
        witness: Witness::Other(key(by)),
    }
}

#[test]
fn any_number_of_unknown_validators_convict_nobody() {
    let mut machine = Reputation::new(Config::default());
    for by in 10..40 {
        feed(&mut machine, at(u64::from(by)), says(by, 1));
    }
    feed(&mut machine, at(50), says(1, 1));
    let cards = scores(&mut machine, at(60), &[(1, 100), (2, 100)]);
    assert!(cards[0].cooldown.is_none());
    assert!(value(&cards[0], "verified") < value(&cards[1], "verified"));
    assert!(cards[0].terms[4].why.contains("unconfirmed"));
    let later = scores(&mut machine, at(8 * DAY_MS), &[(1, 100)]).remove(0);
    assert_eq!(value(&later, "verified"), 250_000, "a hint is forgotten");
}

/// What `by` say of one answer of `host`.
fn agree(by: [u8; AGREEING], host: u8) -> Input {
    let Input::Judged {
        host,
        model,
        order,
        tier,
        finding,
        ..
    } = says(1, host)
    else {
        unreachable!()
    };
    Input::Judged {
        host,
        model,
        order,
        tier,
        finding,
        witness: Witness::Agreed(by.map(key)),
    }
}

#[test]
fn validators_that_agree_on_one_answer_convict_where_one_of_them_served_this_node() {
    let mut machine = Reputation::new(Config::default());
    feed(&mut machine, at(0), outcome(8, None));
    let caught = |machine: &mut Reputation, ms| {
        let card = scores(machine, at(ms), &[(1, 100)]).remove(0);
        card.cooldown
            .is_some_and(|(_, why)| why.contains("by 3 validators"))
    };
    feed(&mut machine, at(1), agree([9, 10, 11], 1));
    assert!(!caught(&mut machine, 2), "nobody knows them");
    feed(&mut machine, at(3), agree([8, 1, 9], 1));
    assert!(!caught(&mut machine, 4), "one of them is the host");
    feed(&mut machine, at(5), agree([9, 8, 10], 1));
    assert!(caught(&mut machine, 6));
}

#[test]
fn words_on_different_answers_never_add_up_to_a_conviction() {
    let mut machine = Reputation::new(Config::default());
    for by in 8..20 {
        feed(&mut machine, at(0), outcome(by, None));
        feed(&mut machine, at(u64::from(by)), says(by, 1));
    }
    let card = scores(&mut machine, at(50), &[(1, 100)]).remove(0);
    assert!(card.cooldown.is_none() && card.standing == Standing::Unknown);
}

#[test]
fn strangers_convictions_flush_no_conviction_of_our_own() {
    let config = Config {
        max_histories: 8,
        ..Config::default()
    };
    let mut machine = Reputation::new(config);
    feed(&mut machine, at(0), offence(1, OffenceKind::WrongReceipt));
    feed(&mut machine, at(0), offence(2, OffenceKind::NotServed));
    for host in 10..200 {
        let Input::Judged {
            model, order, tier, ..
        } = says(1, host)
        else {
            unreachable!()
        };
        let finding = Finding::FalseAccount {
            detail: "sums".into(),
        };
        let (host, witness) = (key(host), Witness::Stranger);
        let input = Input::Judged {
            host,
            model,
            order,
            tier,
            finding,
            witness,
        };
        feed(&mut machine, at(DAY_MS), input);
    }
    assert_eq!(machine.histories().1, 8);
    assert!(machine.book.knows_host(&key(1)) && machine.book.knows_host(&key(2)));
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
