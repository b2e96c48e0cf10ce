//! Which of several hosts comes first.

use super::*;

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
