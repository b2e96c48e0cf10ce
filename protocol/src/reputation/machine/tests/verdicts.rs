//! Verdicts, our own and of others: who is convicted by what, and for how long.

use super::*;
use crate::crypto::Secp;

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
        let mut machine = Reputation::recover(
            Config::default(),
            Secrets::for_test(Secp::from_secret(&[1; 32]).unwrap(), [1; 32]),
            records.into_iter(),
            at(1),
        );
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
