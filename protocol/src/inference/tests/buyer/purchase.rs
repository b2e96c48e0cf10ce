//! What a purchase asks of which host, when it turns to the next, and what its client is told.

use super::*;

#[test]
fn whatever_a_host_refuses_with_the_next_one_is_asked() {
    for code in Code::ALL.iter().chain([&Code::Unknown(9_999)]) {
        let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
        buyer.hears(Frame::Refusal(Refusal::new(*code, "no")));
        assert_eq!(buyer.dials, [keys(1).key(), keys(3).key()], "{code:?}");
    }
}

#[test]
fn a_host_is_not_blamed_for_giving_no_credit_and_is_for_a_mode_that_it_lists() {
    let refused = |mode, code| {
        let mut buyer = Buyer::new(&[1, 3], mode);
        buyer.hears(Frame::Refusal(Refusal::new(code, "no")));
        assert_eq!(buyer.dials.len(), 2, "the next one is asked");
        buyer.blamed()
    };
    use PaymentMode::{After, Before, Metered};
    for (mode, code, blamed) in [
        (After, Code::ModeUnsupported, (0, 0)),
        (After, Code::Busy, (0, 1)),
        (Before, Code::ModeUnsupported, (0, 1)),
        (Metered, Code::ModeUnsupported, (0, 1)),
    ] {
        assert_eq!(refused(mode, code), blamed, "{mode:?} {code:?}");
    }
    // Once it spoke it failed, whatever it says.
    let (mut buyer, _) = Buyer::streaming(After);
    buyer.hears(Frame::Refusal(Refusal::new(Code::ModeUnsupported, "no")));
    assert_eq!(buyer.blamed(), (1, 0));
}

#[test]
fn where_no_host_offers_a_payment_mode_the_error_says_so() {
    let said = |mode| {
        let buyer = Buyer::new(&[], mode);
        let asked = buyer.told.iter().find_map(|message| match message {
            Message::FindCandidates { query, .. } => Some(query.mode),
            _ => None,
        });
        assert_eq!(asked, Some(mode));
        match buyer.said.last() {
            Some(BuyerEvent::Failed(refusal)) if refusal.code == Code::NoHost => {
                refusal.message.clone()
            }
            other => panic!("{other:?}"),
        }
    };
    assert!(said(PaymentMode::After).contains("in payment mode after"));
    assert!(said(PaymentMode::Before).contains("in payment mode before"));
    assert!(!said(PaymentMode::Metered).contains("payment mode"));
}

#[test]
fn hosts_are_ranked_by_what_they_may_bill() {
    let buyer = Buyer::new(&[1], PaymentMode::Metered);
    let query = buyer.told.iter().find_map(|message| match message {
        Message::FindCandidates { query, .. } => Some(query.clone()),
        _ => None,
    });
    let most = query.unwrap().input_tokens;
    // "What is a channel?" and what templates add.
    assert_eq!(most, 18 + 64 + 1_024);
    for (claimed, accepted) in [(most, 1), (most + 1, 0)] {
        let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
        let mut terms = buyer.terms();
        terms.input.input_tokens = claimed;
        buyer.hears_offer(&terms);
        let sent = buyer.sent.iter().filter(|name| **name == "accept");
        assert_eq!(sent.count(), accepted, "{claimed}");
    }
}

#[test]
fn a_host_with_larger_steps_than_this_node_agrees_to_is_passed_over() {
    let with = |n, quantum| Candidate {
        quantum: Msat(quantum),
        ..candidate(n)
    };
    let buyer = Buyer::among(vec![with(1, 10_001), with(3, 10_000)], PaymentMode::Metered);
    assert_eq!(buyer.dials, [keys(3).key()]);
    let buyer = Buyer::among(vec![with(1, 10_001)], PaymentMode::Metered);
    let said = buyer.said.last();
    let Some(BuyerEvent::Failed(refusal)) = said else {
        panic!("nobody is asked: {said:?}");
    };
    assert_eq!(refusal.code, Code::NotAsListed);
}

#[test]
fn hosts_that_take_an_order_and_stay_silent_are_not_waited_for_one_by_one() {
    let mut buyer = Buyer::new(&[1, 2, 3, 4, 5, 6, 7, 8], PaymentMode::Metered);
    let mut waited = 0;
    while !matches!(buyer.said.last(), Some(BuyerEvent::Failed(_))) && waited < 3_600 {
        if buyer.sent.last() == Some(&"order") {
            let terms = Terms {
                starts_within_ms: 120_000,
                ..buyer.terms()
            };
            buyer.hears_offer(&terms);
        }
        buyer.waits(1_000);
        waited += 1;
    }
    // Three attempts of five minutes.
    assert_eq!((buyer.dials.len(), waited / 60), (3, 15));
    // So are those that think for long before they refuse; those that refuse at once are not.
    for (ms, dials) in [(9_000, 8), (10_000, 3)] {
        let mut buyer = Buyer::new(&[1, 2, 3, 4, 5, 6, 7, 8], PaymentMode::Metered);
        for _ in 0..8 {
            buyer.waits(ms);
            buyer.hears(Frame::Refusal(Refusal::new(Code::Busy, "no")));
        }
        assert_eq!(buyer.dials.len(), dials, "{ms} ms");
    }
}

#[test]
fn a_long_wait_that_terms_announce_is_not_waited_for() {
    let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
    let mut terms = buyer.terms();
    terms.starts_within_ms = 3_600_000;
    let terms = buyer.seal(&terms);
    buyer.hears(Frame::Terms(terms));
    assert_eq!((buyer.dials.len(), buyer.offences()), (2, Vec::new()));
}

#[test]
fn an_entry_that_cannot_be_paid_is_asked_of_the_next_host() {
    for code in [Code::PaymentFailed, Code::CapTooLow, Code::DebtDisputed] {
        let mut buyer = Buyer::owes_entry(&[1, 3]);
        assert_eq!((buyer.payments(), buyer.dials.len()), (1, 1));
        buyer.is_not_settled(buyer.id(), code);
        assert_eq!(buyer.dials, [keys(1).key(), keys(3).key()], "{code:?}");
        assert_eq!(buyer.refusals(), [(keys(1).key(), Some(code))]);
        assert_eq!((buyer.offences(), buyer.failures()), (vec![], vec![]));
        // The money set aside passes to the next order.
        let bound = buyer.told.iter().filter(|message| match message {
            Message::Bind { request, .. } => *request == RequestId(1),
            _ => false,
        });
        assert_eq!(bound.count(), 2);
        let released = |message: &Message| matches!(message, Message::Release { .. });
        assert!(!buyer.told.iter().any(released));
        // The account of the order that was left is closed.
        let closed = |message: &&Message| matches!(message, Message::CloseOrder { .. });
        assert_eq!(buyer.told.iter().filter(closed).count(), 1);
        buyer.hears_entry();
        assert_eq!(buyer.payments(), 2);
    }
}

#[test]
fn a_payment_of_unknown_fate_is_not_replaced() {
    let mut buyer = Buyer::owes_entry(&[1, 3]);
    let first = buyer.id();
    buyer.is_not_settled(first, Code::PaymentUnknown);
    assert_eq!((buyer.dials.len(), buyer.failures()), (1, vec![]));
    // Whatever else ends the order: no other host is asked while it may have been paid.
    let mut silent = Buyer::owes_entry(&[1, 3]);
    silent.is_not_settled(silent.id(), Code::PaymentUnknown);
    let stream = StreamId(silent.stream);
    silent.feed(Input::Closed { stream });
    assert_eq!(silent.dials.len(), 1);
    assert_eq!(silent.failures(), [Code::Disconnected]);
    // Once it is known to have failed, it is another matter.
    buyer.is_not_settled(first, Code::PaymentFailed);
    assert_eq!((buyer.dials.len(), buyer.failures()), (2, vec![]));
    // A success of it that comes late is none of the next order's.
    buyer.feed(Input::Settled {
        order: first,
        seq: 0,
        hash: PaymentHash([1; 32]),
        preimage: None,
        msat: Msat(1_800),
        fee: Msat::ZERO,
        ms: 1,
    });
    let paid = |event: &BuyerEvent| matches!(event, BuyerEvent::Paid { .. });
    assert!(!buyer.said.iter().any(paid));
}

#[test]
fn hosts_that_cannot_be_paid_are_few_and_the_reason_is_told() {
    let mut buyer = Buyer::owes_entry(&[1, 3, 4, 5, 6]);
    for _ in 0..3 {
        assert_eq!(buyer.failures(), []);
        buyer.is_not_settled(buyer.id(), Code::PaymentFailed);
        if buyer.failures().is_empty() {
            buyer.hears_entry();
        }
    }
    assert_eq!(buyer.dials.len(), 3);
    let Some(BuyerEvent::Failed(refusal)) = buyer.said.last() else {
        panic!("the purchase is over");
    };
    assert_eq!(refusal.code, Code::PaymentFailed);
    assert_eq!(
        refusal.message,
        "3 hosts could not be paid; the last: no route"
    );
    // What this node's own limits forbid, no other host can help with.
    let mut buyer = Buyer::owes_entry(&[1, 3]);
    buyer.is_not_settled(buyer.id(), Code::BudgetExhausted);
    assert_eq!(buyer.failures(), [Code::BudgetExhausted]);
}

#[test]
fn a_host_is_not_blamed_where_this_node_has_no_stream_left() {
    let mut buyer = Buyer::idle();
    buyer.no_dials = 1;
    buyer.wants(&[1, 3], false);
    assert_eq!(buyer.dials, [keys(1).key(), keys(3).key()]);
    assert_eq!((buyer.offences(), buyer.refusals()), (vec![], vec![]));
    let mut buyer = Buyer::idle();
    buyer.no_dials = 2;
    buyer.wants(&[1, 3], false);
    assert_eq!(buyer.failures(), [Code::Busy]);
    assert_eq!((buyer.offences(), buyer.refusals()), (vec![], vec![]));
}

#[test]
fn a_choice_that_nobody_agrees_to_ends_and_sets_the_money_free() {
    let mut buyer = Buyer::idle();
    buyer.wants(&[1, 3], true);
    assert_eq!(buyer.dials, []);
    let timeout_ms = Config::new(NETWORK).confirm_timeout_ms;
    let due = at(buyer.ms + timeout_ms).tick;
    assert!(buyer.machine.deadline().is_some_and(|tick| tick <= due));
    buyer.waits(timeout_ms);
    let released = |message: &Message| matches!(message, Message::Release { .. });
    assert_eq!(buyer.failures(), [Code::Timeout]);
    assert!(buyer.told.iter().any(released));
    assert_eq!((buyer.machine.active(), buyer.refusals()), (0, vec![]));
}

#[test]
fn of_several_refusals_the_one_that_helps_most_is_told() {
    for (first, second, told) in [
        (Code::Busy, Code::TooLong, Code::Busy),
        (Code::TooLong, Code::Busy, Code::Busy),
        (Code::TooLong, Code::BadOrder, Code::BadOrder),
        (Code::Busy, Code::TooManyUnpaid, Code::TooManyUnpaid),
    ] {
        let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
        for code in [first, second] {
            buyer.hears(Frame::Refusal(Refusal::new(code, "no")));
        }
        assert_eq!(buyer.failures(), [told], "{first:?} {second:?}");
    }
    // What our own wallet found goes before a host's "never", and behind its "later".
    for (second, told) in [
        (Code::TooLong, Code::PaymentFailed),
        (Code::Busy, Code::Busy),
    ] {
        let mut buyer = Buyer::owes_entry(&[1, 3]);
        buyer.is_not_settled(buyer.id(), Code::PaymentFailed);
        buyer.hears(Frame::Refusal(Refusal::new(second, "no")));
        assert_eq!(buyer.failures(), [told], "{second:?}");
    }
}

#[test]
fn hosts_are_asked_for_room_for_what_was_ordered() {
    let asked = |work, max_output| {
        let job = Job {
            work,
            max_output,
            ..job()
        };
        let mode = PaymentMode::Metered;
        let buyer = Buyer::asking(vec![candidate(1)], mode, Msat(1_000_000), job);
        let query = buyer.told.iter().find_map(|message| match message {
            Message::FindCandidates { query, .. } => Some(query.clone()),
            _ => None,
        });
        let query = query.unwrap();
        assert_eq!((query.role, query.input_bytes), (Role::Host, 12));
        (query.input_tokens, query.output_tokens, query.items)
    };
    let says = |content: &str| ChatMessage {
        role: "user".into(),
        content: content.into(),
    };
    let messages = vec![says("ab"), says("cd")];
    assert_eq!(
        asked(Work::Chat { messages }, 40),
        (12 + 2 * 64 + 1_024, 40, 0)
    );
    let texts = vec!["abcd".to_owned(); 3];
    assert_eq!(asked(Work::Embed { texts }, 1), (12 + 3 * 64 + 1_024, 0, 3));
}

#[test]
fn a_payment_that_fails_once_words_came_ends_the_purchase() {
    for code in [Code::PaymentFailed, Code::CapTooLow, Code::BudgetExhausted] {
        let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
        buyer.bills_in_steps(1);
        let (order, seq) = (buyer.id(), 1);
        let refusal = Refusal::new(code, "no");
        buyer.feed(Input::NotSettled {
            order,
            seq,
            refusal,
        });
        assert_eq!((buyer.failures(), buyer.dials.len()), (vec![code], 1));
        assert_eq!(buyer.sent.last(), Some(&"cancel"));
        assert_eq!(buyer.outcomes().len(), 0, "it says nothing of the host");
    }
    // One for an invoice that there is not changes nothing.
    let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
    buyer.bills_in_steps(1);
    let (order, seq) = (buyer.id(), 2);
    let refusal = Refusal::new(Code::PaymentFailed, "no");
    buyer.feed(Input::NotSettled {
        order,
        seq,
        refusal,
    });
    assert_eq!(buyer.failures(), []);
    assert!(!buyer.sent.contains(&"cancel"));
}

#[test]
fn a_stop_is_passed_on_once_words_may_come_and_ends_a_purchase_before() {
    let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
    buyer.feed(Input::Stop(RequestId(1)));
    assert_eq!(
        (buyer.failures(), buyer.sent),
        (vec![Code::Cancelled], vec!["order"])
    );
    let (mut buyer, _) = Buyer::streaming(PaymentMode::Metered);
    assert_eq!(buyer.pause(), 90_000);
    buyer.feed(Input::Stop(RequestId(1)));
    assert_eq!((buyer.sent.last(), buyer.pause()), (Some(&"stop"), 10_000));
    // Behind the end there is nothing to hurry.
    let (mut buyer, _) = Buyer::streaming(PaymentMode::Metered);
    buyer.hears(Frame::Chunk(chunk(1, Vec::new(), 8, Some(Finish::Stop))));
    buyer.feed(Input::Stop(RequestId(1)));
    assert_eq!(buyer.pause(), 89_999);
    assert_eq!(buyer.failures(), []);
}

#[test]
fn a_purchase_that_is_cancelled_tells_the_host_and_sets_the_money_free() {
    let (mut buyer, _) = Buyer::streaming(PaymentMode::Metered);
    buyer.feed(Input::Cancel(RequestId(1)));
    assert_eq!(buyer.sent.last(), Some(&"cancel"));
    assert_eq!(buyer.failures(), [Code::Cancelled]);
    let request = RequestId(1);
    assert!(buyer.told.contains(&Message::Release { request }));
    assert_eq!(buyer.machine.active(), 0);
    // Once is enough.
    let said = buyer.said.len();
    buyer.feed(Input::Cancel(request));
    assert_eq!(buyer.said.len(), said);
}

#[test]
fn each_wait_has_its_time_and_the_failure_says_what_was_waited_for() {
    let request = RequestId(1);
    let begun = || {
        let mut buyer = Buyer::idle();
        let wants = Input::Buy(Box::new(BuyRequest {
            request,
            model: ModelSelector::Any,
            job: job(),
            max_cost: Msat(1_000_000),
            mode: PaymentMode::Metered,
            path: Path::Fast,
            retention: Retention::Keep,
            handling: Handling::Plain,
            budget: "cli".into(),
            host: None,
            confirm: true,
            audit: false,
            private: false,
        }));
        buyer.feed(wants);
        buyer
    };
    let ends = |mut buyer: Buyer, ms: u64, said: &str| {
        assert_eq!(buyer.pause(), ms, "{said}");
        buyer.waits(ms - 1);
        assert_eq!(buyer.failures(), [], "{said}");
        buyer.waits(1);
        let (code, words) = buyer.last_words();
        assert_eq!((code, words), (Code::Timeout, said));
        assert!(buyer.told.contains(&Message::Release { request }));
    };
    ends(begun(), 30_000, "the wallet did not answer in time");
    let reserved = || {
        let mut buyer = begun();
        let result = Ok(());
        buyer.feed(Input::Reserved { request, result });
        buyer
    };
    ends(reserved(), 30_000, "no candidates were found in time");
    let found = || {
        let mut buyer = reserved();
        let hosts = vec![candidate(1)];
        buyer.feed(Input::CandidatesFound { request, hosts });
        buyer
    };
    ends(found(), 600_000, "nobody agreed to the choice in time");
    // The dial goes on for ever.
    let mut buyer = found();
    buyer.ms += 1;
    feed(&mut buyer.machine, buyer.ms, Input::Confirm(request));
    ends(buyer, 20_000, "the host could not be reached in time");
    let mut buyer = found();
    buyer.feed(Input::Confirm(request));
    ends(buyer, 30_000, "the host sent no terms in time");
    let (buyer, _) = Buyer::streaming(PaymentMode::Metered);
    ends(buyer, 90_000, "the host fell silent");
}

#[test]
fn what_comes_twice_or_too_late_changes_nothing() {
    let request = RequestId(1);
    let mut buyer = Buyer::idle();
    buyer.wants(&[1, 3], true);
    let considered = buyer.said.iter().find_map(|event| match event {
        BuyerEvent::Chosen { considered, .. } => Some(*considered),
        _ => None,
    });
    assert_eq!(considered, Some(2));
    buyer.feed(Input::Confirm(request));
    assert_eq!(buyer.dials.len(), 1);
    let told = buyer.told.len();
    buyer.feed(Input::Confirm(request));
    let result = Err(Refusal::new(Code::BudgetExhausted, "late"));
    buyer.feed(Input::Reserved { request, result });
    let hosts = vec![candidate(3)];
    buyer.feed(Input::CandidatesFound { request, hosts });
    assert_eq!((buyer.dials.len(), buyer.told.len()), (1, told));
    assert_eq!(buyer.failures(), []);
}

#[test]
fn money_that_is_not_set_aside_ends_the_purchase() {
    let mut buyer = Buyer::idle();
    buyer.refuses = Some(Code::BudgetExhausted);
    buyer.wants(&[1], false);
    assert_eq!(buyer.failures(), [Code::BudgetExhausted]);
    assert_eq!((buyer.dials.len(), buyer.machine.active()), (0, 0));
}

#[test]
fn hosts_that_are_not_there_are_ghosts_and_keep_nobody_from_those_behind_them() {
    let mut buyer = Buyer::idle();
    buyer.ghosts = 2;
    buyer.wants(&[1, 3, 4], false);
    assert_eq!(buyer.dials.len(), 3);
    assert_eq!(
        buyer.offences(),
        [OffenceKind::GhostListing, OffenceKind::GhostListing]
    );
    assert_eq!(buyer.blamed(), (2, 0));
    let mut buyer = Buyer::idle();
    buyer.ghosts = 8;
    buyer.wants(&[1, 3, 4, 5, 6], false);
    assert_eq!(
        (buyer.dials.len(), buyer.failures()),
        (5, vec![Code::Disconnected])
    );
}

#[test]
fn a_code_that_is_not_a_hosts_to_say_is_an_offence() {
    for code in Code::ALL {
        let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
        buyer.hears(Frame::Refusal(Refusal::new(*code, "no")));
        let offences = match code.is_from_hosts() {
            true => vec![],
            false => vec![OffenceKind::UnexpectedFrame],
        };
        assert_eq!(buyer.offences(), offences, "{code:?}");
    }
}

#[test]
fn why_the_only_host_could_not_be_paid_is_told_as_it_is() {
    let mut buyer = Buyer::owes_entry(&[1]);
    buyer.is_not_settled(buyer.id(), Code::PaymentFailed);
    assert_eq!(buyer.last_words(), (Code::PaymentFailed, "no route"));
}

#[test]
fn a_host_that_is_paid_is_waited_for_twice_as_long_as_it_announced() {
    for (entry, announced) in [(false, 100_000), (true, 200_000)] {
        let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
        let mut terms = Terms {
            starts_within_ms: 100_000,
            ..buyer.terms()
        };
        if entry {
            terms = buyer.with_entry(terms, 1_800);
        }
        buyer.hears_offer(&terms);
        assert_eq!(buyer.pause(), announced + limits::FIRST_TOKEN_MS);
        if entry {
            // From when it was paid: places are given in the order of payment.
            buyer.ms += 54_000;
            buyer.settles(0);
            assert_eq!(buyer.pause(), announced + limits::FIRST_TOKEN_MS);
            buyer.hears(Frame::Chunk(chunk(0, (0..4).map(token).collect(), 4, None)));
            assert_eq!(buyer.pause(), 90_000);
        }
    }
}

#[test]
fn a_wait_that_is_too_long_is_told_in_seconds() {
    let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
    let starts_within_ms = 125_999;
    let terms = Terms {
        starts_within_ms,
        ..buyer.terms()
    };
    buyer.hears_offer(&terms);
    let said = "the host would begin in 125 s, which is longer than this node waits";
    assert_eq!(buyer.last_words(), (Code::Busy, said));
}

#[test]
fn bytes_that_are_no_frame_end_the_order_with_their_host() {
    let mut buyer = Buyer::new(&[1, 3], PaymentMode::Metered);
    let stream = StreamId(buyer.stream);
    let detail = "no frame".to_owned();
    buyer.feed(Input::Garbled { stream, detail });
    assert_eq!(buyer.offences(), [OffenceKind::MalformedFrame]);
    assert_eq!(buyer.dials.len(), 2);
}

#[test]
fn words_are_taken_from_the_host_that_was_asked_and_from_no_other() {
    let mut buyer = Buyer::new(&[1], PaymentMode::Metered);
    let order = buyer.order.clone().unwrap();
    let envelope: crate::wire::envelope::Envelope =
        crate::codec::decode(&order.bytes, 1 << 20).unwrap();
    let (to, wall) = (Some(envelope.from), at(buyer.ms).wall);
    let signed = Signed::seal(&keys(3), NETWORK, to, wall, [1; 16], &buyer.terms());
    buyer.hears(Frame::Terms(signed));
    assert_eq!(buyer.offences(), [OffenceKind::BadSignature]);
    assert_eq!(buyer.last_words().0, Code::ProtocolViolation);
}

#[test]
fn bytes_of_a_host_that_was_left_are_not_blamed_on_the_next_one() {
    for confirm in [false, true] {
        let mut buyer = Buyer::idle();
        buyer.wants(&[1, 3], confirm);
        buyer.feed(Input::Confirm(RequestId(1)));
        let stream = StreamId(buyer.stream);
        buyer.hears(Frame::Refusal(Refusal::new(Code::Busy, "no")));
        let detail = "no frame".to_owned();
        buyer.feed(Input::Garbled { stream, detail });
        buyer.feed(Input::Confirm(RequestId(1)));
        assert_eq!(buyer.dials, [keys(1).key(), keys(3).key()]);
        assert_eq!((buyer.offences(), buyer.failures()), (vec![], vec![]));
    }
}
