//! The rules of the paying side, one test each.

mod poll;

use super::*;

fn limits(per_order: u64, per_day: u64) -> Config {
    Config {
        per_order: Msat(per_order),
        per_day: Msat(per_day),
        ..Config::default()
    }
}

#[test]
fn what_is_set_aside_counts_against_the_day_until_it_is_released() {
    let mut rig = Rig::new(limits(100_000, 150_000));
    assert_eq!(rig.reserve(1, "cli", 100_000, Some(1_000_000)), Ok(()));
    let refusal = rig.reserve(2, "cli", 100_000, Some(1_000_000)).unwrap_err();
    assert_eq!(refusal.code, Code::BudgetExhausted);
    assert!(
        refusal.message.contains("50.000 sat"),
        "{}",
        refusal.message
    );
    assert_eq!(refusal.retry_after_ms, Some(DAY_MS / 2));
    rig.give(Input::Release {
        request: RequestId(1),
    });
    assert_eq!(rig.reserve(3, "cli", 100_000, Some(1_000_000)), Ok(()));
}

fn closed(rig: &mut Rig, account: Box<OrderAccount>) {
    let unpaid = Msat::ZERO;
    rig.give(Input::CloseOrder { account, unpaid });
}

#[test]
fn a_debt_is_paid_only_where_the_books_know_one_and_once() {
    let mut rig = Rig::new(limits(100_000, 1_000_000));
    // Nothing was ever bought: a claimed debt is a lie.
    rig.reserved(1, 90_000);
    let mut claim = invoice(&rig, 1, 0, 1, 2_000);
    claim.carried = Msat(1_000);
    let refused_claim = rig.give(Input::Pay(Box::new(claim.clone())));
    assert_eq!(refused(&refused_claim), Code::DebtDisputed);
    assert_eq!(pays(&refused_claim), 0);
    // An order that cost 1,500 and was not paid; another that was paid ahead of its cost.
    closed(&mut rig, account(8, Side::Buyer, key(1), 1_500));
    closed(&mut rig, account(9, Side::Buyer, key(2), 9_000));
    claim.carried = Msat(1_501);
    let effects = rig.give(Input::Pay(Box::new(claim.clone())));
    assert_eq!(refused(&effects), Code::DebtDisputed);
    claim.carried = Msat(1_500);
    assert_eq!(pays(&rig.give(Input::Pay(Box::new(claim)))), 1);
    // The same debt in a second order at once.
    rig.reserved(2, 90_000);
    let mut again = invoice(&rig, 2, 0, 2, 2_000);
    again.carried = Msat(1);
    let effects = rig.give(Input::Pay(Box::new(again)));
    assert_eq!(refused(&effects), Code::DebtDisputed);
}

#[test]
fn a_payment_under_way_is_not_paid_again_as_a_debt() {
    let mut rig = Rig::new(limits(100_000, 1_000_000));
    rig.reserved(1, 90_000);
    let pay = invoice(&rig, 1, 1, 1, 1_200);
    assert_eq!(pays(&rig.give(Input::Pay(Box::new(pay)))), 1);
    rig.sent(1, hash(1), PayOutcome::Unknown);
    closed(&mut rig, account(1, Side::Buyer, key(1), 1_500));
    rig.reserved(2, 90_000);
    let mut claim = invoice(&rig, 2, 0, 2, 3_000);
    claim.carried = Msat(1_000);
    let effects = rig.give(Input::Pay(Box::new(claim.clone())));
    assert_eq!(refused(&effects), Code::DebtDisputed);
    // Another host is not concerned, and once the payment has failed all of it is owed.
    closed(&mut rig, account(7, Side::Buyer, key(2), 1_500));
    let mut other = claim.clone();
    (other.order, other.facts.hash, other.host) = (order(3), hash(3), key(2));
    assert_eq!(rig.reserve(3, "cli", 90_000, Some(u64::MAX)), Ok(()));
    rig.give(Input::Bind {
        request: RequestId(3),
        order: order(3),
        host: key(2),
    });
    assert_eq!(pays(&rig.give(Input::Pay(Box::new(other)))), 1);
    let reason = "no route".to_owned();
    rig.sent(2, hash(1), PayOutcome::Failed { reason });
    claim.carried = Msat(1_200);
    assert_eq!(pays(&rig.give(Input::Pay(Box::new(claim)))), 1);
}

#[test]
fn a_debt_that_was_taken_up_and_paid_is_gone() {
    let mut rig = Rig::new(limits(100_000, 1_000_000));
    closed(&mut rig, account(8, Side::Buyer, key(1), 1_500));
    rig.reserved(1, 90_000);
    let mut claim = invoice(&rig, 1, 0, 1, 3_500);
    claim.carried = Msat(1_000);
    assert_eq!(pays(&rig.give(Input::Pay(Box::new(claim.clone())))), 1);
    rig.sent(1, hash(1), settled(0));
    let mut taken_up = account(1, Side::Buyer, key(1), 2_500);
    taken_up.carried = Msat(1_000);
    closed(&mut rig, taken_up);
    // 1,500 were owed, 1,000 of it was paid: 500 are left.
    rig.reserved(2, 90_000);
    claim = invoice(&rig, 2, 0, 2, 900);
    claim.carried = Msat(501);
    let effects = rig.give(Input::Pay(Box::new(claim.clone())));
    assert_eq!(refused(&effects), Code::DebtDisputed);
    claim.carried = Msat(500);
    assert_eq!(pays(&rig.give(Input::Pay(Box::new(claim)))), 1);
}

#[test]
fn a_key_has_a_limit_of_its_own() {
    let mut config = limits(100_000, 1_000_000);
    config.per_key.insert("agent".to_owned(), Msat(30_000));
    let mut rig = Rig::new(config);
    let refusal = rig
        .reserve(1, "agent", 30_001, Some(1_000_000))
        .unwrap_err();
    assert_eq!(refusal.code, Code::BudgetExhausted);
    assert!(refusal.message.contains("\"agent\""), "{}", refusal.message);
    assert_eq!(rig.reserve(2, "agent", 30_000, Some(1_000_000)), Ok(()));
    assert_eq!(rig.reserve(3, "cli", 100_000, Some(1_000_000)), Ok(()));
}

#[test]
fn a_payment_that_ended_leaves_others_of_its_day_counted() {
    let mut rig = Rig::new(limits(100_000, 100_000));
    rig.reserved(1, 60_000);
    for (h, msat) in [(1, 20_000), (2, 30_000), (3, 5_000)] {
        let pay = invoice(&rig, 1, h, u64::from(h), msat);
        assert_eq!(pays(&rig.give(Input::Pay(Box::new(pay)))), 1);
    }
    // Nothing is set aside any more: what is under way counts, fee limits included.
    rig.give(Input::Release {
        request: RequestId(1),
    });
    let reason = "no route".to_owned();
    rig.sent(1, hash(1), PayOutcome::Failed { reason });
    rig.sent(2, hash(3), settled(10));
    let left = 100_000 - 30_050 - 5_010;
    let refusal = rig.reserve(2, "cli", left + 1, Some(u64::MAX)).unwrap_err();
    assert_eq!(refusal.code, Code::BudgetExhausted);
    assert_eq!(rig.reserve(3, "cli", left, Some(u64::MAX)), Ok(()));
}

#[test]
fn an_order_above_its_limit_or_above_the_wallet_is_refused_with_figures() {
    let mut rig = Rig::new(limits(100_000, 1_000_000));
    let code = |result: Result<(), Refusal>| result.unwrap_err().code;
    assert_eq!(code(rig.reserve(1, "cli", 0, None)), Code::CapTooLow);
    assert_eq!(
        code(rig.reserve(2, "cli", 100_001, None)),
        Code::BudgetExhausted
    );
    let refusal = rig.reserve(3, "cli", 9_000, Some(8_999)).unwrap_err();
    assert_eq!(refusal.code, Code::WalletCannotPay);
    assert!(refusal.message.contains("8.999 sat"), "{}", refusal.message);
    assert_eq!(code(rig.reserve(4, "cli", 9_000, None)), Code::WalletAway);
}

#[test]
fn a_wallet_that_never_answers_refuses_the_reservation() {
    let mut rig = Rig::new(Config::default());
    let effects = rig.give(Input::Reserve {
        request: RequestId(1),
        budget: "cli".to_owned(),
        max_cost: Msat(1_000),
    });
    assert!(matches!(effects[..], [Effect::CheckBalance { .. }]));
    let effects = rig.wait(30_000);
    assert!(matches!(
        &effects[..],
        [Effect::Tell(Message::Reserved { result: Err(refusal), .. })] if refusal.code == Code::WalletAway
    ));
    assert_eq!(rig.machine.deadline(), None);
}

#[test]
fn the_plan_is_written_before_the_wallet_is_asked() {
    let mut rig = Rig::new(Config::default());
    rig.reserved(1, 100_000);
    let pay = invoice(&rig, 1, 0, 1, 1_000);
    let effects = rig.turn(Some(Input::Pay(Box::new(pay))));
    assert!(matches!(
        &effects[..],
        [Effect::Persist(_), Effect::Pay { .. }]
    ));
}

#[test]
fn no_payment_passes_the_cap_of_its_order_and_a_failed_one_frees_it() {
    let mut rig = Rig::new(Config::default());
    rig.reserved(1, 10_000);
    let pay = |rig: &mut Rig, seq, msat| {
        let pay = invoice(rig, 1, seq, u64::from(seq) + 1, msat);
        rig.give(Input::Pay(Box::new(pay)))
    };
    assert_eq!(pays(&pay(&mut rig, 0, 6_000)), 1);
    // Up to 50 of it may go into fees.
    assert_eq!(refused(&pay(&mut rig, 1, 3_951)), Code::CapTooLow);
    assert_eq!(pays(&pay(&mut rig, 1, 3_950)), 1);
    let reason = "no route".to_owned();
    let effects = rig.sent(1, hash(1), PayOutcome::Failed { reason });
    assert_eq!(refused(&effects), Code::PaymentFailed);
    assert_eq!(pays(&pay(&mut rig, 2, 6_051)), 0);
    assert_eq!(pays(&pay(&mut rig, 3, 6_050)), 1);
}

#[test]
fn at_most_eight_payments_of_an_order_are_under_way() {
    let mut rig = Rig::new(Config {
        max_in_flight_per_order: 100,
        ..Config::default()
    });
    rig.reserved(1, 100_000);
    for seq in 0..8 {
        let pay = invoice(&rig, 1, seq, u64::from(seq), 1_000);
        assert_eq!(pays(&rig.give(Input::Pay(Box::new(pay)))), 1);
    }
    let ninth = invoice(&rig, 1, 8, 8, 1_000);
    assert_eq!(
        refused(&rig.give(Input::Pay(Box::new(ninth.clone())))),
        Code::Busy
    );
    rig.sent(1, hash(0), settled(0));
    assert_eq!(pays(&rig.give(Input::Pay(Box::new(ninth)))), 1);
}

fn fee_limit(effects: &[Effect]) -> u64 {
    match effects {
        [Effect::Pay { max_fee, .. }] => max_fee.0,
        other => panic!("not paid: {other:?}"),
    }
}

#[test]
fn the_fee_limit_shrinks_to_what_the_cap_has_left() {
    let mut rig = Rig::new(limits(10_000, 10_000));
    rig.reserved(1, 10_000);
    let pay = invoice(&rig, 1, 0, 1, 9_980);
    assert_eq!(fee_limit(&rig.give(Input::Pay(Box::new(pay)))), 20);
    let more = invoice(&rig, 1, 1, 2, 1);
    let effects = rig.give(Input::Pay(Box::new(more)));
    assert_eq!(refused(&effects), Code::CapTooLow);
}

#[test]
fn payments_of_an_order_share_one_fee_budget_and_it_does_not_grow_with_their_number() {
    let mut rig = Rig::new(limits(1_000_000, 10_000_000));
    rig.reserved(1, 100_000);
    let budget = rig.config.fees.within(Msat(100_000)).0;
    assert_eq!(budget, 5_000);
    let (mut fees, mut limits) = (0, Vec::new());
    for n in 0..40 {
        let mut pay = invoice(&rig, 1, n, u64::from(n), 1);
        pay.max_fee = Msat(3_000);
        let limit = fee_limit(&rig.give(Input::Pay(Box::new(pay))));
        rig.sent(u64::from(n), hash(u64::from(n)), settled(limit));
        limits.push(limit);
        fees += limit;
    }
    assert_eq!(limits[..3], [2_500, 1_250, 625]);
    assert_eq!((fees, rig.report().fees), (budget, Msat(budget)));
}

#[test]
fn one_payment_per_hash_whatever_order_asks() {
    let mut rig = Rig::new(Config::default());
    rig.reserved(1, 100_000);
    rig.reserved(2, 100_000);
    let first = invoice(&rig, 1, 0, 1, 1_000);
    assert_eq!(pays(&rig.give(Input::Pay(Box::new(first.clone())))), 1);
    assert_eq!(rig.give(Input::Pay(Box::new(first.clone()))), vec![]);
    let other = invoice(&rig, 2, 0, 1, 1_000);
    assert_eq!(
        refused(&rig.give(Input::Pay(Box::new(other.clone())))),
        Code::PaymentFailed
    );
    let reason = "no route".to_owned();
    rig.sent(1, hash(1), PayOutcome::Failed { reason });
    rig.restart();
    rig.reserved(2, 100_000);
    assert_eq!(
        refused(&rig.give(Input::Pay(Box::new(other)))),
        Code::PaymentFailed
    );
}

#[test]
fn what_was_spent_today_survives_a_restart_and_ends_with_the_day() {
    let mut rig = Rig::new(limits(100_000, 100_000));
    rig.reserved(1, 100_000);
    let pay = invoice(&rig, 1, 0, 1, 60_000);
    rig.give(Input::Pay(Box::new(pay)));
    rig.sent(1, hash(1), settled(10));
    rig.restart();
    let refusal = rig.reserve(2, "cli", 39_991, Some(1_000_000)).unwrap_err();
    assert!(
        refusal.message.contains("60.010 sat spent"),
        "{}",
        refusal.message
    );
    assert_eq!(rig.reserve(3, "cli", 39_990, Some(1_000_000)), Ok(()));
    rig.give(Input::Release {
        request: RequestId(3),
    });
    rig.pass(DAY_MS / 2);
    assert_eq!(rig.reserve(4, "cli", 100_000, Some(1_000_000)), Ok(()));
}

#[test]
fn output_that_only_may_have_been_sent_is_owed_for_a_day() {
    for (age, most) in [(DAY_MS - 1, 1_300), (DAY_MS, 500)] {
        let mut rig = Rig::new(limits(100_000, 1_000_000));
        let mut broken = account(8, Side::Buyer, key(1), 500);
        broken.unsure = Msat(800);
        closed(&mut rig, broken);
        rig.pass(age);
        rig.restart();
        rig.reserved(1, 90_000);
        let mut claim = invoice(&rig, 1, 0, 1, 4_000);
        claim.carried = Msat(most + 1);
        let effects = rig.give(Input::Pay(Box::new(claim.clone())));
        assert_eq!(refused(&effects), Code::DebtDisputed);
        claim.carried = Msat(most);
        assert_eq!(pays(&rig.give(Input::Pay(Box::new(claim)))), 1);
    }
}

#[test]
fn what_only_the_host_vouches_for_is_owed_as_far_as_it_was_paid() {
    let broken = |n| {
        let mut account = account(n, Side::Buyer, key(1), 500);
        account.unsure = Msat(1 << 60);
        account
    };
    for paid in [0, 700] {
        let mut rig = Rig::new(limits(100_000, 1_000_000));
        if paid > 0 {
            rig.reserved(7, 90_000);
            let pay = invoice(&rig, 7, 0, 7, paid);
            rig.give(Input::Pay(Box::new(pay)));
            rig.sent(1, hash(7), settled(0));
            closed(&mut rig, account(7, Side::Buyer, key(1), paid));
        }
        // Two that broke off, 500 delivered and unpaid in each: a step and what it was paid is
        // believed beside that, once.
        closed(&mut rig, broken(8));
        closed(&mut rig, broken(9));
        rig.restart();
        rig.reserved(1, 90_000);
        let most = 1_000 + 1_000 + paid;
        let mut claim = invoice(&rig, 1, 0, 1, 4_000);
        claim.carried = Msat(most + 1);
        let effects = rig.give(Input::Pay(Box::new(claim.clone())));
        assert_eq!(refused(&effects), Code::DebtDisputed);
        claim.carried = Msat(most);
        assert_eq!(pays(&rig.give(Input::Pay(Box::new(claim)))), 1);
    }
}

#[test]
fn spending_of_a_day_is_counted_though_its_rows_have_left_memory() {
    let mut rig = Rig::new(limits(100_000, 1_000_000_000));
    rig.reserved(1, 100_000);
    let pay = invoice(&rig, 1, 0, 1, 60_000);
    rig.give(Input::Pay(Box::new(pay)));
    rig.sent(1, hash(1), settled(10));
    for h in 0..crate::payment::ledger::MAX_ROWS as u64 {
        rig.received(h, hash(1_000 + h), 1);
    }
    let spent = rig.report().spent_today;
    rig.restart();
    assert_eq!(rig.report().spent_today, spent);
    assert_eq!(spent, [("cli".to_owned(), Msat(60_010))].into());
    assert!(rig.report().entries.is_empty());
}

#[test]
fn an_invoice_that_lives_for_longer_than_an_hour_is_not_paid() {
    let mut rig = Rig::new(Config::default());
    rig.reserved(1, 100_000);
    let mut pay = invoice(&rig, 1, 0, 1, 1_000);
    pay.facts.expires = rig.now.wall.after_ms(3_600_001);
    let effects = rig.give(Input::Pay(Box::new(pay.clone())));
    assert_eq!(refused(&effects), Code::PaymentFailed);
    pay.facts.expires = rig.now.wall.after_ms(3_600_000);
    assert_eq!(pays(&rig.give(Input::Pay(Box::new(pay)))), 1);
}

#[test]
fn all_payments_of_an_order_take_up_its_debt_whatever_is_under_way_for_open_ones() {
    let mut rig = Rig::new(limits(100_000, 1_000_000));
    closed(&mut rig, account(8, Side::Buyer, key(1), 1_500));
    rig.reserved(3, 90_000);
    let open = invoice(&rig, 3, 0, 3, 2_000);
    assert_eq!(pays(&rig.give(Input::Pay(Box::new(open)))), 1);
    rig.reserved(1, 90_000);
    for seq in 0..3 {
        let mut claim = invoice(&rig, 1, seq, 10 + u64::from(seq), 2_000);
        claim.carried = Msat(1_500);
        assert_eq!(pays(&rig.give(Input::Pay(Box::new(claim)))), 1);
    }
    // An order that takes up none is paid beside it.
    let open = invoice(&rig, 3, 1, 4, 2_000);
    assert_eq!(pays(&rig.give(Input::Pay(Box::new(open)))), 1);
}

#[test]
fn an_invoice_that_is_not_what_the_order_says_or_is_over_is_not_paid() {
    type Change = fn(&mut PayRequest, WallTime);
    let changes: [(Change, bool); 7] = [
        (|_, _| {}, true),
        (|pay, _| pay.facts.msat = None, true),
        (|pay, _| pay.facts.msat = Some(Msat(1_001)), false),
        (|pay, _| (pay.msat, pay.facts.msat) = (Msat(0), None), false),
        (|pay, now| pay.facts.expires = now, false),
        (|pay, now| pay.facts.expires = now.after_ms(1), true),
        (|pay, _| pay.host = key(2), false),
    ];
    for (number, (change, paid)) in changes.into_iter().enumerate() {
        let mut rig = Rig::new(Config::default());
        rig.reserved(1, 100_000);
        let mut pay = invoice(&rig, 1, 0, 1, 1_000);
        change(&mut pay, rig.now.wall);
        let effects = rig.give(Input::Pay(Box::new(pay)));
        assert_eq!(pays(&effects), usize::from(paid), "change {number}");
    }
    // Nothing is set aside for it, or the wallet has not said that it is there.
    let mut rig = Rig::new(Config::default());
    rig.give(Input::Reserve {
        request: RequestId(1),
        budget: "cli".to_owned(),
        max_cost: Msat(100_000),
    });
    let pay = invoice(&rig, 1, 0, 1, 1_000);
    for bound in [false, true] {
        if bound {
            rig.give(Input::Bind {
                request: RequestId(1),
                order: order(1),
                host: key(1),
            });
        }
        let effects = rig.give(Input::Pay(Box::new(pay.clone())));
        assert_eq!(refused(&effects), Code::BudgetExhausted);
    }
}

#[test]
fn as_few_payments_are_under_way_as_the_owner_says() {
    let mut rig = Rig::new(Config {
        max_in_flight_per_order: 2,
        ..Config::default()
    });
    rig.reserved(1, 100_000);
    for seq in 0..3 {
        let pay = invoice(&rig, 1, seq, u64::from(seq), 1_000);
        let effects = rig.give(Input::Pay(Box::new(pay)));
        assert_eq!(pays(&effects), usize::from(seq < 2));
    }
}

#[test]
fn an_invoice_that_failed_may_be_replaced_and_one_that_was_paid_after_all_may_not() {
    let mut rig = Rig::new(Config::default());
    rig.reserved(1, 100_000);
    let pay = |rig: &mut Rig, h| {
        let pay = invoice(rig, 1, 0, h, 1_000);
        rig.give(Input::Pay(Box::new(pay)))
    };
    let failed = || PayOutcome::Failed {
        reason: "no route".to_owned(),
    };
    for h in [1, 2] {
        assert_eq!(pays(&pay(&mut rig, h)), 1);
        rig.sent(h, hash(h), failed());
    }
    assert_eq!(told_settled(&rig.sent(3, hash(1), settled(0))), 1);
    assert_eq!(refused(&pay(&mut rig, 3)), Code::PaymentUnknown);
}

#[test]
fn money_that_moved_after_a_failure_counts_against_what_comes_next() {
    let mut rig = Rig::new(limits(100_000, 100_000));
    rig.reserved(1, 60_000);
    let pay = invoice(&rig, 1, 0, 1, 50_000);
    rig.give(Input::Pay(Box::new(pay)));
    let reason = "gave up".to_owned();
    rig.sent(1, hash(1), PayOutcome::Failed { reason });
    rig.give(Input::Release {
        request: RequestId(1),
    });
    rig.reserved(2, 100_000);
    let pay = invoice(&rig, 2, 0, 2, 1_000);
    assert_eq!(pays(&rig.give(Input::Pay(Box::new(pay)))), 1);
    rig.sent(2, hash(1), settled(0));
    // The day has less left than is set aside.
    let pay = invoice(&rig, 2, 1, 3, 1_000);
    let effects = rig.give(Input::Pay(Box::new(pay)));
    assert_eq!(refused(&effects), Code::BudgetExhausted);
    let refusal = rig.reserve(3, "cli", 1, Some(u64::MAX)).unwrap_err();
    assert_eq!(refusal.code, Code::BudgetExhausted);
}

#[test]
fn the_limit_that_leaves_least_is_the_one_that_is_told() {
    let mut config = limits(100_000, 20_000);
    config.per_key.insert("agent".to_owned(), Msat(15_000));
    let mut rig = Rig::new(config);
    let told = |rig: &mut Rig, n, budget: &str, max| {
        let refusal = rig.reserve(n, budget, max, Some(u64::MAX)).unwrap_err();
        refusal.message
    };
    assert!(told(&mut rig, 1, "agent", 20_001).contains("\"agent\""));
    assert!(told(&mut rig, 1, "cli", 20_001).contains("the day"));
    assert_eq!(rig.reserve(2, "cli", 10_000, Some(u64::MAX)), Ok(()));
    // 10,000 of the day are left, and 15,000 of the key.
    assert!(told(&mut rig, 3, "agent", 10_001).contains("the day"));
    assert_eq!(rig.reserve(4, "agent", 2_000, Some(u64::MAX)), Ok(()));
    // Where both leave as much it is the day's.
    let mut even = limits(100_000, 15_000);
    even.per_key.insert("agent".to_owned(), Msat(15_000));
    assert!(told(&mut Rig::new(even), 1, "agent", 15_001).contains("the day"));
    // Of another budget's money none is the key's.
    let words = told(&mut rig, 5, "agent", 8_001);
    assert!(
        words.contains("8.000 sat of the limit of 20.000 sat"),
        "{words}"
    );
}

#[test]
fn the_wallet_must_have_what_all_open_orders_together_may_cost() {
    let mut rig = Rig::new(Config::default());
    assert_eq!(rig.reserve(1, "cli", 9_000, Some(9_000)), Ok(()));
    let refusal = rig.reserve(2, "cli", 1_000, Some(9_999)).unwrap_err();
    assert_eq!(refusal.code, Code::WalletCannotPay);
    assert_eq!(rig.reserve(3, "cli", 1_000, Some(10_000)), Ok(()));
    // Asked again, the same is said, and no wallet is asked.
    assert_eq!(rig.reserve(3, "cli", 1_000, None), Ok(()));
}

#[test]
fn a_request_that_is_released_is_not_answered_any_more() {
    let mut rig = Rig::new(limits(100_000, 100_000));
    let request = RequestId(1);
    let ask = || Input::Reserve {
        request,
        budget: "cli".to_owned(),
        max_cost: Msat(100_000),
    };
    let effects = rig.give(ask());
    let [Effect::CheckBalance { id }] = effects[..] else {
        panic!("the wallet is asked: {effects:?}");
    };
    assert_eq!(rig.give(ask()), vec![], "one answer is on its way");
    rig.give(Input::Release { request });
    assert_eq!(rig.machine.deadline(), None);
    let spendable = Some(Msat(u64::MAX));
    assert_eq!(rig.give(Input::BalanceChecked { id, spendable }), vec![]);
    assert_eq!(rig.reserve(2, "cli", 100_000, Some(100_000)), Ok(()));
}

#[test]
fn as_many_requests_are_open_as_there_can_be_orders() {
    let most = crate::limits::MAX_ORDERS as u64;
    let mut rig = Rig::new(limits(1, 1_000_000));
    for n in 0..most {
        assert_eq!(rig.reserve(n, "cli", 1, Some(u64::MAX)), Ok(()));
    }
    let refusal = rig.reserve(most, "cli", 1, Some(u64::MAX)).unwrap_err();
    assert_eq!(refusal.code, Code::Busy);
}
