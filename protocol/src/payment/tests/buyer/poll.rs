//! What became of a payment: polls, crashes, and a wallet that is silent or late.

use super::*;

#[test]
fn a_silent_wallet_makes_a_payment_unknown_and_a_look_up_settles_it_once() {
    let mut rig = Rig::new(Config::default());
    rig.reserved(1, 100_000);
    let pay = invoice(&rig, 1, 0, 1, 1_000);
    rig.give(Input::Pay(Box::new(pay)));
    let effects = rig.wait(60_000);
    assert_eq!(refused(&effects), Code::PaymentUnknown);
    let found = LookupOutcome::Settled {
        preimage: Some(Preimage([9; 32])),
        msat: Msat(1_000),
        fee: Msat(3),
    };
    let effects = rig.looked_up(lookup_id(&effects), hash(1), found);
    assert_eq!(told_settled(&effects), 1);
    let effects = rig.sent(5, hash(1), settled(3));
    assert_eq!(effects, vec![Effect::Acknowledge { event: 5 }]);
    let report = rig.report();
    assert_eq!((report.spent, report.fees), (Msat(1_000), Msat(3)));
    assert_eq!(report.spent_today, [("cli".to_owned(), Msat(1_003))].into());
}

#[test]
fn never_heard_of_is_believed_only_after_expiry_and_grace() {
    let mut rig = Rig::new(Config::default());
    rig.reserved(1, 100_000);
    let pay = invoice(&rig, 1, 0, 1, 1_000);
    let believed = pay.facts.expires.after_ms(rig.config.unknown_grace_ms);
    rig.give(Input::Pay(Box::new(pay)));
    let mut effects = rig.wait(60_000);
    while rig.now.wall <= believed {
        let id = lookup_id(&effects);
        assert_eq!(rig.looked_up(id, hash(1), LookupOutcome::NotFound), vec![]);
        assert_eq!(rig.state(Side::Buyer, hash(1)), EntryState::Unknown);
        effects = rig.wait(70_000);
    }
    let effects = rig.looked_up(lookup_id(&effects), hash(1), LookupOutcome::NotFound);
    assert_eq!(refused(&effects), Code::PaymentFailed);
    assert_eq!(rig.machine.deadline(), None);
}

#[test]
fn money_that_moved_after_a_failure_is_booked() {
    let mut rig = Rig::new(Config::default());
    rig.reserved(1, 100_000);
    let pay = invoice(&rig, 1, 0, 1, 1_000);
    rig.give(Input::Pay(Box::new(pay)));
    let reason = "gave up".to_owned();
    rig.sent(1, hash(1), PayOutcome::Failed { reason });
    assert_eq!(told_settled(&rig.sent(2, hash(1), settled(0))), 1);
    assert_eq!(rig.report().spent, Msat(1_000));
}

#[test]
fn after_a_crash_a_plan_is_looked_up_and_not_paid_again() {
    let mut rig = Rig::new(Config::default());
    rig.reserved(1, 100_000);
    let pay = invoice(&rig, 1, 0, 1, 1_000);
    let effects = rig.turn(Some(Input::Pay(Box::new(pay))));
    rig.store(&effects[..1]);
    rig.restart();
    assert_eq!(rig.machine.deadline(), Some(rig.now.tick));
    let effects = rig.wait(0);
    assert!(matches!(
        &effects[..],
        [Effect::Lookup {
            side: Side::Buyer,
            ..
        }]
    ));
}

#[test]
fn a_payment_under_way_at_a_crash_holds_its_fee_limit_afterwards() {
    let mut rig = Rig::new(limits(1_000, 1_000));
    rig.reserved(1, 600);
    let pay = invoice(&rig, 1, 0, 1, 500);
    assert_eq!(fee_limit(&rig.give(Input::Pay(Box::new(pay)))), 50);
    rig.restart();
    assert!(rig.reserve(2, "cli", 451, Some(u64::MAX)).is_err());
    assert_eq!(rig.reserve(3, "cli", 450, Some(u64::MAX)), Ok(()));
}

#[test]
fn the_words_of_a_wallet_are_booked_as_far_as_they_fit() {
    let mut rig = Rig::new(Config::default());
    rig.reserved(1, 100_000);
    let pay = invoice(&rig, 1, 0, 1, 1_000);
    rig.give(Input::Pay(Box::new(pay)));
    let reason = "no route ".repeat(100);
    let words = reason[..300].to_owned();
    rig.sent(1, hash(1), PayOutcome::Failed { reason });
    assert_eq!(rig.report().entries[0].note, words);
}

#[test]
fn a_payment_outside_of_any_order_is_acknowledged() {
    let mut rig = Rig::new(Config::default());
    let effects = rig.sent(4, hash(1), settled(0));
    assert_eq!(effects, vec![Effect::Acknowledge { event: 4 }]);
}

#[test]
fn a_wall_clock_that_jumps_makes_no_payment_fail() {
    let mut rig = Rig::new(Config::default());
    rig.reserved(1, 100_000);
    let pay = invoice(&rig, 1, 0, 1, 1_000);
    rig.give(Input::Pay(Box::new(pay)));
    rig.now.wall = rig.now.wall.after_ms(DAY_MS);
    let mut effects = rig.wait(60_000);
    // The invoice lives for 600 s, and the wallet may be as late again.
    for _ in 0..16 {
        let id = lookup_id(&effects);
        assert_eq!(rig.looked_up(id, hash(1), LookupOutcome::NotFound), vec![]);
        effects = rig.wait(70_000);
    }
    effects = rig.wait(70_000);
    let effects = rig.looked_up(lookup_id(&effects), hash(1), LookupOutcome::NotFound);
    assert_eq!(refused(&effects), Code::PaymentFailed);
}

#[test]
fn a_wallet_that_has_no_preimage_is_believed_after_a_while() {
    let mut rig = Rig::new(Config::default());
    rig.reserved(1, 100_000);
    let pay = invoice(&rig, 1, 0, 1, 1_000);
    rig.give(Input::Pay(Box::new(pay)));
    let paid = LookupOutcome::Settled {
        preimage: None,
        msat: Msat(1_000),
        fee: Msat(2),
    };
    let mut effects = rig.wait(60_000);
    for _ in 1..crate::payment::saga::UNPROVED {
        let id = lookup_id(&effects);
        assert_eq!(rig.looked_up(id, hash(1), paid.clone()), vec![]);
        effects = rig.wait(70_000);
    }
    let effects = rig.looked_up(lookup_id(&effects), hash(1), paid);
    assert_eq!(told_settled(&effects), 1);
    assert_eq!(rig.machine.deadline(), None);
    assert_eq!(rig.report().fees, Msat(2));
    // The proof comes after all, with the wallet's event.
    let effects = rig.sent(1, hash(1), settled(2));
    assert_eq!(effects, vec![Effect::Acknowledge { event: 1 }]);
    assert_eq!(rig.report().entries[0].preimage, Some(Preimage([9; 32])));
}

fn forgotten(effects: &[Effect]) -> Vec<PaymentHash> {
    let hashes = effects.iter().map(|effect| match effect {
        Effect::ForgetPayments { hashes } => hashes.clone(),
        _ => Vec::new(),
    });
    hashes.flatten().collect()
}

#[test]
fn the_wallet_is_told_to_forget_what_ended_long_ago_part_by_part_and_each_once() {
    let mut rig = Rig::new(limits(1_000_000, 1_000_000_000));
    rig.reserved(1, 1_000_000);
    let count = 600;
    for h in 0..count {
        let pay = invoice(&rig, 1, u32::try_from(h).unwrap(), h, 1_000);
        rig.give(Input::Pay(Box::new(pay)));
        // One stays of open fate.
        if h > 0 {
            let effects = rig.sent(h, hash(h), settled(0));
            assert_eq!(forgotten(&effects), vec![]);
        }
    }
    let mut asked = Vec::new();
    for step in 0..5 {
        rig.pass(if step == 0 { 90 * DAY_MS } else { 3_600_000 });
        let hashes = forgotten(&rig.wait(0));
        assert!(hashes.len() <= 256);
        let hashes_full = hashes.len() == 256;
        asked.extend(hashes);
        let early = if hashes_full { 9_999 } else { 3_599_999 };
        assert_eq!(forgotten(&rig.wait(early)), vec![], "too soon");
        if step == 1 {
            rig.restart();
        }
    }
    let all: Vec<PaymentHash> = (1..count).map(hash).collect();
    assert_eq!(asked, all);
    assert_eq!(rig.report().entries.len() as u64, count);
    assert_eq!(rig.report().spent, Msat((count - 1) * 1_000));
}

#[test]
fn look_ups_become_rarer_and_are_spread_a_little() {
    let mut rig = Rig::new(Config::default());
    rig.reserved(1, 100_000);
    let pay = invoice(&rig, 1, 0, 1, 1_000);
    rig.give(Input::Pay(Box::new(pay)));
    let pause = |rig: &Rig| {
        let due = rig.machine.deadline().expect("it is looked up");
        due.ms_since(rig.now.tick)
    };
    assert_eq!(pause(&rig), 60_000);
    let effects = rig.wait(60_000);
    lookup_id(&effects);
    let entry = &rig.report().entries[0];
    assert_eq!(entry.note, "the wallet gave no result for 60 s");
    let mut spread = 0;
    for n in 0..12 {
        let least = (1_000 << n).min(60_000);
        let ms = pause(&rig);
        assert!(
            (least..=least + least / 8).contains(&ms),
            "{ms} for {least}"
        );
        spread += ms - least;
        assert_eq!(rig.wait(ms - 1), vec![]);
        lookup_id(&rig.wait(1));
    }
    assert!(spread > 1_000, "{spread}");
}

#[test]
fn never_heard_of_is_believed_after_a_restart_too_by_the_wall_clock() {
    let mut rig = Rig::new(Config::default());
    rig.reserved(1, 100_000);
    let pay = invoice(&rig, 1, 0, 1, 1_000);
    let life = 600_000 + rig.config.unknown_grace_ms;
    rig.give(Input::Pay(Box::new(pay)));
    for (ms, state) in [(life, EntryState::Unknown), (1, EntryState::Failed)] {
        rig.pass(ms);
        rig.restart();
        let effects = rig.wait(0);
        rig.looked_up(lookup_id(&effects), hash(1), LookupOutcome::NotFound);
        assert_eq!(rig.state(Side::Buyer, hash(1)), state);
    }
}

#[test]
fn an_answer_to_an_earlier_question_is_not_taken_for_one_to_the_last() {
    let mut rig = Rig::new(Config::default());
    rig.reserved(1, 100_000);
    let pay = invoice(&rig, 1, 0, 1, 1_000);
    rig.give(Input::Pay(Box::new(pay)));
    let early = lookup_id(&rig.wait(60_000));
    let late = lookup_id(&rig.wait(1_200_001));
    for (id, state) in [(early, EntryState::Unknown), (late, EntryState::Failed)] {
        rig.looked_up(id, hash(1), LookupOutcome::NotFound);
        assert_eq!(rig.state(Side::Buyer, hash(1)), state);
    }
}

#[test]
fn a_node_that_buys_from_itself_asks_after_both_sides_of_one_payment() {
    for first in [Side::Host, Side::Buyer] {
        bought_from_itself(first);
    }
}

/// The look-up of `first` is answered before the other.
fn bought_from_itself(first: Side) {
    let mut rig = Rig::new(Config::default());
    rig.give(Input::OpenCredit {
        order: order(1),
        buyer: key(1),
        caller: caller(1),
        quantum: Msat(1_000),
    });
    let id = rig.ask_invoice(1, 0, 1_000);
    let result = Ok(("lnbcrt-1".to_owned(), hash(1)));
    rig.give(Input::InvoiceCreated { id, result });
    rig.reserved(1, 100_000);
    let pay = invoice(&rig, 1, 0, 1, 1_000);
    rig.give(Input::Pay(Box::new(pay)));
    rig.restart();
    let asked = rig.wait(0);
    let asked: BTreeMap<_, _> = asked
        .iter()
        .filter_map(|effect| match effect {
            Effect::Lookup { id, side, .. } => Some((*side, *id)),
            _ => None,
        })
        .collect();
    let found = |msat| LookupOutcome::Settled {
        preimage: Some(Preimage([9; 32])),
        msat: Msat(msat),
        fee: Msat(3),
    };
    let second = match first {
        Side::Host => Side::Buyer,
        Side::Buyer => Side::Host,
    };
    for (n, side) in [first, second].into_iter().enumerate() {
        let told = rig.looked_up(asked[&side], hash(1), found(1_000));
        let credited = matches!(told[..], [Effect::Tell(Message::CreditGranted { .. })]);
        let expected = (side == Side::Host, usize::from(side == Side::Buyer));
        assert_eq!((credited, told_settled(&told)), expected);
        let other = rig.state([second, first][n], hash(1));
        assert_eq!(other == EntryState::Settled, n == 1, "one side at a time");
    }
    let report = rig.report();
    let sums = (report.earned, report.spent, report.fees);
    assert_eq!(sums, (Msat(1_000), Msat(1_000), Msat(3)));
}

#[test]
fn how_long_a_payment_took_is_told_by_the_clock_that_does_not_jump() {
    let mut rig = Rig::new(Config::default());
    rig.reserved(1, 100_000);
    let took = |effects: &[Effect]| {
        effects.iter().find_map(|effect| match effect {
            Effect::Tell(Message::Settled { ms, .. }) => Some(*ms),
            _ => None,
        })
    };
    for h in [1, 2] {
        let pay = invoice(&rig, 1, h, u64::from(h), 1_000);
        rig.give(Input::Pay(Box::new(pay)));
    }
    rig.pass(700);
    rig.now.wall = rig.now.wall.after_ms(5_000);
    assert_eq!(took(&rig.sent(1, hash(1), settled(0))), Some(700));
    rig.restart();
    assert_eq!(took(&rig.sent(2, hash(2), settled(0))), Some(5_700));
}

#[test]
fn a_look_up_that_finds_a_failure_ends_the_payment_and_frees_its_money() {
    let mut rig = Rig::new(limits(100_000, 100_000));
    rig.reserved(1, 100_000);
    let pay = invoice(&rig, 1, 0, 1, 60_000);
    rig.give(Input::Pay(Box::new(pay)));
    let asked = lookup_id(&rig.wait(60_000));
    let effects = rig.looked_up(asked, hash(1), LookupOutcome::Failed);
    assert_eq!(refused(&effects), Code::PaymentFailed);
    assert_eq!(rig.state(Side::Buyer, hash(1)), EntryState::Failed);
    assert_eq!(rig.machine.deadline(), None);
    rig.give(Input::Release {
        request: RequestId(1),
    });
    assert_eq!(rig.reserve(2, "cli", 100_000, Some(u64::MAX)), Ok(()));
}

#[test]
fn an_unknown_payment_is_never_replaced_by_another_invoice() {
    let mut rig = Rig::new(Config::default());
    rig.reserved(1, 100_000);
    let pay = invoice(&rig, 1, 0, 1, 1_000);
    rig.give(Input::Pay(Box::new(pay)));
    assert_eq!(
        refused(&rig.sent(1, hash(1), PayOutcome::Unknown)),
        Code::PaymentUnknown
    );
    let replacement = invoice(&rig, 1, 0, 2, 1_000);
    assert_eq!(
        refused(&rig.give(Input::Pay(Box::new(replacement)))),
        Code::PaymentUnknown
    );
}
