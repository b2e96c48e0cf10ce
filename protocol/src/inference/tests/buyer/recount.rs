//! The buyer's own count of its prompt, and the vocabulary it is made with.

use super::*;

/// What our own vocabulary says of the prompt; the terms of these tests say 8.
fn counted(tokens: u64, numerics: &str) -> InputCount {
    InputCount::Counted(InputFacts {
        tokens,
        tokenizer: offer().tokenizer,
        template: offer().template,
        numerics: Some(numerics.into()),
    })
}

#[test]
fn a_count_above_our_own_is_not_accepted_and_convicts_where_the_rules_are_the_same() {
    for (numerics, kind) in [
        ("exact", OffenceKind::FalseInput),
        ("other", OffenceKind::TermsNotAsListed),
    ] {
        let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
        buyer.counts(counted(7, numerics));
        buyer.hears_terms();
        assert_eq!(buyer.offences(), [kind]);
        assert_eq!(buyer.payments(), 0);
        assert_eq!(buyer.dials, [keys(1).key(), keys(3).key()]);
        let accepted = |event: &BuyerEvent| matches!(event, BuyerEvent::Accepted { .. });
        assert!(!buyer.said.iter().any(accepted));
    }
}

#[test]
fn nothing_is_accepted_while_our_own_count_is_on_its_way() {
    let with_entry = || {
        let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
        buyer.counts_slowly = true;
        let terms = buyer.seal(&buyer.with_entry(buyer.terms(), 1_800));
        buyer.hears(Frame::Terms(terms));
        assert_eq!(
            (buyer.payments(), buyer.sent.contains(&"accept")),
            (0, false)
        );
        buyer
    };
    let mut buyer = with_entry();
    buyer.counts(counted(7, "exact"));
    assert_eq!(buyer.offences(), [OffenceKind::FalseInput]);
    assert_eq!(
        (buyer.payments(), buyer.dials.len()),
        (0, 2),
        "the next is asked"
    );
    for count in [counted(8, "exact"), InputCount::Absent, InputCount::Unknown] {
        let mut buyer = with_entry();
        buyer.counts(count);
        assert_eq!(
            (buyer.payments(), buyer.sent.contains(&"accept")),
            (1, true)
        );
        assert_eq!(buyer.offences(), []);
    }
}

#[test]
fn a_count_that_takes_too_long_is_not_waited_for_and_ends_the_order_where_the_hosts_is_above() {
    let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
    buyer.counts_slowly = true;
    buyer.hears_terms();
    assert!(!buyer.sent.contains(&"accept"));
    buyer.waits(Config::new(NETWORK).terms_timeout_ms);
    assert!(buyer.sent.contains(&"accept"));
    buyer.hears_word(0);
    buyer.counts(counted(7, "exact"));
    assert_eq!(buyer.offences(), [OffenceKind::FalseInput]);
    let failed = |event: &BuyerEvent| matches!(event, BuyerEvent::Failed(_));
    assert!(buyer.said.iter().any(failed));
    // Nothing more is paid.
    buyer.bills(2_800, Digest([1; 32]));
    assert_eq!(buyer.payments(), 0);
}

#[test]
fn a_count_that_agrees_is_told_once_whenever_it_comes() {
    for (early, tokens) in [(true, 8), (false, 8), (true, 9)] {
        let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
        buyer.counts_slowly = !early;
        if early {
            buyer.counts(counted(tokens, "exact"));
        }
        buyer.hears_terms();
        if !early {
            buyer.counts(counted(tokens, "exact"));
        }
        buyer.hears_word(0);
        buyer.hears_word(1);
        let told = buyer.said.iter().filter_map(|event| match event {
            BuyerEvent::InputCounted { tokens } => Some(*tokens),
            _ => None,
        });
        assert_eq!(told.collect::<Vec<_>>(), [tokens]);
        assert_eq!((buyer.offences(), buyer.sources), (vec![], vec![]));
    }
}

#[test]
fn what_tokens_stand_for_is_held_against_the_vocabulary_where_both_decode_alike() {
    for (numerics, late, checked) in [
        ("exact", false, vec![(0, 1), (1, 1)]),
        ("exact", true, vec![(0, 1), (1, 1)]),
        ("other", false, vec![]),
    ] {
        let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
        buyer.counts_slowly = true;
        if !late {
            buyer.counts(counted(8, numerics));
        }
        buyer.hears_terms();
        if late {
            buyer.waits(Config::new(NETWORK).terms_timeout_ms);
        }
        buyer.hears_word(0);
        if late {
            assert_eq!(buyer.checked, []);
            buyer.counts(counted(8, numerics));
        }
        buyer.hears_word(1);
        assert_eq!(buyer.checked, checked, "{numerics} {late}");
        assert_eq!(buyer.offences(), []);
    }
    // What comes of it ends the order, or is booked when that is over.
    for over in [false, true] {
        let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
        buyer.counts(counted(8, "exact"));
        buyer.hears_terms();
        buyer.hears_word(0);
        let order = OrderId::of(&buyer.order.as_ref().unwrap().digest());
        if over {
            buyer.feed(Input::Cancel(RequestId(1)));
        }
        let (host, position) = (keys(1).key(), 0);
        let wrong = Input::WrongPiece {
            order,
            host,
            position,
        };
        buyer.feed(wrong);
        assert_eq!(buyer.offences(), [OffenceKind::FalseText], "{over}");
        let by = buyer.told.iter().find_map(|message| match message {
            Message::Offended(offence) => Some(offence.by),
            _ => None,
        });
        assert_eq!(by, Some(host));
        let failed = |event: &BuyerEvent| matches!(event, BuyerEvent::Failed(_));
        assert!(buyer.said.iter().any(failed));
    }
}

#[test]
fn a_vocabulary_is_asked_of_hosts_that_the_server_did_not_choose() {
    let mut asked = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let mut buyer = Buyer::idle();
        buyer.machine = machine_of(9, seed);
        let hosts: Vec<u8> = (1..=8).filter(|n| *n != 2).collect();
        buyer.wants(&hosts, false);
        buyer.counts(InputCount::Absent);
        buyer.hears_terms();
        buyer.hears_word(0);
        assert_eq!(buyer.sources[0], keys(1).key(), "who serves is asked first");
        assert_eq!(buyer.sources.len(), 4);
        asked.extend(buyer.sources);
    }
    assert_eq!(asked.len(), 7, "the last rank as well as the first");
}

#[test]
fn a_missing_vocabulary_is_fetched_once_and_never_before_the_first_word() {
    for early in [true, false] {
        let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
        buyer.counts_slowly = !early;
        if early {
            buyer.counts(InputCount::Absent);
        }
        buyer.hears_terms();
        assert_eq!(buyer.sources, []);
        if !early {
            buyer.counts(InputCount::Absent);
            assert_eq!(buyer.sources, []);
        }
        buyer.hears_word(0);
        buyer.hears_word(1);
        assert_eq!(buyer.sources, [keys(1).key(), keys(3).key()]);
    }
    let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
    buyer.counts(InputCount::Unknown);
    buyer.hears_terms();
    buyer.hears_word(0);
    assert_eq!((buyer.sources.len(), buyer.offences()), (0, vec![]));
}

#[test]
fn a_listing_whose_vocabulary_is_not_the_models_is_left_and_convicts_nobody() {
    let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
    let InputCount::Counted(facts) = counted(8, "exact") else {
        unreachable!("just made");
    };
    buyer.counts(InputCount::Counted(InputFacts {
        template: Digest([77; 32]),
        ..facts
    }));
    buyer.hears_terms();
    assert_eq!(buyer.offences(), [OffenceKind::TermsNotAsListed]);
    assert_eq!(buyer.dials, [keys(1).key(), keys(3).key()]);
}

#[test]
fn a_missing_vocabulary_is_asked_of_hosts_of_the_model_alone() {
    let other = |n| {
        let mut host = candidate(n);
        host.offer.digest = ModelDigest([6; 32]);
        host
    };
    let hosts = vec![candidate(1), other(2), candidate(3), candidate(4)];
    let mut buyer = Buyer::among(hosts, PaymentMode::Metered);
    buyer.counts(InputCount::Absent);
    buyer.hears_terms();
    buyer.hears_word(0);
    buyer.sources.sort();
    let mut same = [1, 3, 4].map(|n| keys(n).key());
    same.sort();
    assert_eq!(buyer.sources, same);
}

#[test]
fn a_count_convicts_nobody_where_no_rules_are_named() {
    let mut host = candidate(1);
    host.offer.numerics = None;
    let mut buyer = Buyer::among(vec![host, candidate(3)], PaymentMode::Metered);
    let InputCount::Counted(facts) = counted(7, "exact") else {
        unreachable!("just made");
    };
    let numerics = None;
    buyer.counts(InputCount::Counted(InputFacts { numerics, ..facts }));
    let numerics = None;
    let terms = Terms {
        numerics,
        ..buyer.terms()
    };
    buyer.hears_offer(&terms);
    assert_eq!(buyer.offences(), [OffenceKind::TermsNotAsListed]);
    // Another tokenizer than the model's is a listing that lies.
    let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
    let InputCount::Counted(facts) = counted(8, "exact") else {
        unreachable!("just made");
    };
    let tokenizer = Digest([77; 32]);
    buyer.counts(InputCount::Counted(InputFacts { tokenizer, ..facts }));
    buyer.hears_terms();
    assert_eq!(buyer.offences(), [OffenceKind::TermsNotAsListed]);
    assert_eq!(buyer.dials.len(), 2);
}

#[test]
fn a_count_is_awaited_by_the_order_that_asked_for_it() {
    let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
    buyer.counts_slowly = true;
    let stale = buyer.counting.unwrap();
    buyer.hears(Frame::Refusal(Refusal::new(Code::Busy, "no")));
    buyer.hears_terms();
    let count = counted(8, "exact");
    buyer.feed(Input::InputCounted { id: stale, count });
    assert!(!buyer.sent.contains(&"accept"), "it is the first order's");
    buyer.counts(counted(7, "exact"));
    assert_eq!(buyer.offences(), [OffenceKind::FalseInput]);
}
