//! What a buyer left unpaid: who takes it up, and how it ages.

use super::*;

#[test]
fn a_crash_of_the_host_forgives_no_debt_of_earlier_orders() {
    for cost in [0, 3_000] {
        let mut rig = Rig::new(Config::default());
        open(&mut rig, 1, 5);
        paid(&mut rig, 1, 1, 1_000, 50);
        close(&mut rig, 1, 5, 1_700, 700);
        assert_eq!(open(&mut rig, 2, 5).2, 700);
        rig.restart();
        let mut account = account(2, Side::Host, key(5), cost);
        account.status = Status::Failed(Code::Interrupted);
        let unpaid = Msat::ZERO;
        rig.give(Input::CloseOrder { account, unpaid });
        assert_eq!(rig.report().owed_to_us, Msat(700));
    }
}

#[test]
fn a_debt_that_an_open_order_collected_is_not_owed_again_after_a_crash() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    paid(&mut rig, 1, 1, 1_000, 50);
    close(&mut rig, 1, 5, 1_700, 700);
    assert_eq!(open(&mut rig, 2, 5).2, 700);
    paid(&mut rig, 2, 2, 1_700, 50);
    rig.restart();
    close(&mut rig, 2, 5, 1_000, 0);
    assert_eq!(rig.report().owed_to_us, Msat::ZERO);
}

#[test]
fn an_order_that_ended_collects_nothing_after_a_restart() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    paid(&mut rig, 1, 1, 1_000, 50);
    close(&mut rig, 1, 5, 1_700, 700);
    assert_eq!(open(&mut rig, 2, 5).2, 700);
    close(&mut rig, 2, 5, 0, 700);
    rig.restart();
    assert_eq!(open(&mut rig, 3, 5), (1_000, false, 700));
}

#[test]
fn a_debt_ages_though_an_order_of_another_buyer_collects_one() {
    let mut rig = Rig::new(Config::default());
    for buyer in [5, 6] {
        let n = u64::from(buyer);
        open(&mut rig, n, buyer);
        paid(&mut rig, n, n, 8_000, 50);
        close(&mut rig, n, buyer, 9_800, 1_800);
    }
    rig.pass(DAY_MS - 1);
    assert_eq!(open(&mut rig, 1, 6).2, 1_000);
    rig.pass(1);
    // Half of it is tolerated, so it is written off, but for what is being collected.
    assert_eq!(open(&mut rig, 2, 6).2, 800);
    assert_eq!(open(&mut rig, 3, 5).2, 0);
}

#[test]
fn a_debt_halves_by_the_day_and_what_is_tolerated_of_it_is_written_off() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    paid(&mut rig, 1, 1, 4_000, 50);
    close(&mut rig, 1, 5, 7_000, 3_000);
    rig.pass(DAY_MS - 1);
    assert_eq!(open(&mut rig, 2, 5), (0, true, 1_000));
    close(&mut rig, 2, 5, 0, 1_000);
    rig.pass(1);
    assert_eq!(rig.report().owed_to_us, Msat(1_500));
    rig.pass(DAY_MS);
    assert_eq!(rig.report().owed_to_us, Msat::ZERO);
    rig.restart();
    assert_eq!(open(&mut rig, 3, 5), (0, true, 0));
    // Of the 4,000 that it paid 3,000 were lost by it: 1,000 are left, and what it pays now.
    assert_eq!(paid(&mut rig, 3, 2, 1_000, 50), 1_000);
    assert_eq!(paid(&mut rig, 3, 3, 900, 50), 1_900);
}

#[test]
fn a_debt_goes_into_one_next_order_and_is_gone_only_when_paid() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    paid(&mut rig, 1, 1, 1_000, 50);
    close(&mut rig, 1, 5, 1_700, 700);
    assert_eq!(rig.report().owed_to_us, Msat(700));
    assert_eq!(open(&mut rig, 2, 5), (1_000, false, 700));
    assert_eq!(open(&mut rig, 3, 5), (0, true, 0));
    rig.restart();
    close(&mut rig, 2, 5, 0, 700);
    assert_eq!(rig.report().owed_to_us, Msat(700));
    assert_eq!(open(&mut rig, 4, 5), (1_000, false, 700));
    paid(&mut rig, 4, 2, 1_700, 50);
    close(&mut rig, 4, 5, 1_000, 0);
    assert_eq!(rig.report().owed_to_us, Msat::ZERO);
}

#[test]
fn a_large_debt_is_asked_for_one_quantum_at_a_time_and_all_of_it_is_paid() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    paid(&mut rig, 1, 1, 1_000, 50);
    close(&mut rig, 1, 5, 3_500, 2_500);
    for (n, asked, left) in [(2, 1_000, 1_500), (3, 1_000, 500), (4, 500, 0)] {
        assert_eq!(open(&mut rig, n, 5).2, asked);
        paid(&mut rig, n, n, 1_000 + asked, 50);
        close(&mut rig, n, 5, 1_000, 0);
        assert_eq!(rig.report().owed_to_us, Msat(left));
    }
}

#[test]
fn a_payment_that_comes_after_the_end_pays_the_debt_it_left() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    make(&mut rig, 1, 0, 1, 1_500);
    close(&mut rig, 1, 5, 1_500, 1_500);
    assert_eq!(rig.report().owed_to_us, Msat(1_500));
    rig.received(1, hash(1), 1_500);
    assert_eq!(rig.report().owed_to_us, Msat::ZERO);
}

#[test]
fn a_payment_that_comes_after_the_end_is_not_collected_by_an_order_that_took_up_the_debt() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    make(&mut rig, 1, 0, 1, 1_500);
    close(&mut rig, 1, 5, 1_500, 1_500);
    assert_eq!(open(&mut rig, 2, 5).2, 1_000);
    assert_eq!(open(&mut rig, 3, 5).2, 500);
    rig.received(1, hash(1), 1_400);
    assert_eq!(rig.report().owed_to_us, Msat(100));
    rig.restart();
    // Neither was paid: both end with all that they were to collect.
    close(&mut rig, 2, 5, 0, 1_000);
    close(&mut rig, 3, 5, 0, 500);
    assert_eq!(rig.report().owed_to_us, Msat(100));
    assert_eq!(open(&mut rig, 4, 5).2, 100);
}

#[test]
fn a_payment_booked_before_the_end_is_not_claimed_again() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    paid(&mut rig, 1, 1, 1_000, 50);
    rig.restart();
    close(&mut rig, 1, 5, 1_200, 1_200);
    assert_eq!(rig.report().owed_to_us, Msat(200));
    close(&mut rig, 1, 5, 1_200, 1_200);
    assert_eq!(rig.report().owed_to_us, Msat(200));
}

#[test]
fn a_debt_paid_with_the_entry_of_a_refused_order_is_paid() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    paid(&mut rig, 1, 1, 1_000, 50);
    close(&mut rig, 1, 5, 1_700, 700);
    assert_eq!(open(&mut rig, 2, 5), (1_000, false, 700));
    make(&mut rig, 2, 0, 2, 1_700);
    close(&mut rig, 2, 5, 0, 700);
    assert_eq!(rig.report().owed_to_us, Msat(700));
    rig.received(2, hash(2), 1_700);
    assert_eq!(rig.report().owed_to_us, Msat::ZERO);
}

#[test]
fn an_open_order_is_on_disk_only_while_it_collects_a_debt() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    paid(&mut rig, 1, 1, 1_000, 50);
    assert_eq!(open_rows(&rig), 0);
    close(&mut rig, 1, 5, 1_700, 700);
    open(&mut rig, 2, 5);
    assert_eq!(open_rows(&rig), 1);
    close(&mut rig, 2, 5, 0, 700);
    assert_eq!(open_rows(&rig), 0);
}

#[test]
fn a_debt_that_stays_as_it_is_ages_and_one_that_grows_begins_anew() {
    // Half a day, an order that leaves as much of it, or more, and the other half.
    for (more, owed) in [(0, 1_500), (100, 3_100)] {
        let mut rig = Rig::new(Config::default());
        open(&mut rig, 1, 5);
        paid(&mut rig, 1, 1, 4_000, 50);
        close(&mut rig, 1, 5, 7_000, 3_000);
        rig.pass(DAY_MS / 2);
        open(&mut rig, 2, 5);
        close(&mut rig, 2, 5, more, 1_000 + more);
        rig.pass(DAY_MS / 2);
        assert_eq!(rig.report().owed_to_us, Msat(owed));
    }
}

#[test]
fn a_debt_as_large_as_is_tolerated_takes_no_trust() {
    for (debt, credit) in [(1_000, (3_000, false, 1_000)), (1_001, (0, true, 1_000))] {
        let mut rig = Rig::new(Config::default());
        open(&mut rig, 1, 5);
        paid(&mut rig, 1, 1, 3_000, 50);
        close(&mut rig, 1, 5, 3_000 + debt, debt);
        assert_eq!(open(&mut rig, 2, 5), credit);
    }
}

#[test]
fn a_debt_ages_beside_an_open_order_that_does_not_collect_it() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    open(&mut rig, 2, 5);
    paid(&mut rig, 2, 2, 8_000, 50);
    close(&mut rig, 2, 5, 9_800, 1_800);
    rig.pass(DAY_MS - 1);
    make(&mut rig, 1, 0, 1, 1_000);
    rig.pass(1);
    assert_eq!(open(&mut rig, 3, 5).2, 0);
}

#[test]
fn a_payment_for_an_order_that_is_not_over_pays_no_other_debt() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 2, 5);
    make(&mut rig, 2, 0, 2, 1_000);
    open(&mut rig, 1, 5);
    paid(&mut rig, 1, 1, 1_000, 50);
    close(&mut rig, 1, 5, 1_700, 700);
    // Nobody knows after it that the second one was open.
    rig.restart();
    rig.received(2, hash(2), 1_000);
    assert_eq!(rig.report().owed_to_us, Msat(700));
    close(&mut rig, 2, 5, 1_000, 1_000);
    assert_eq!(rig.report().owed_to_us, Msat(700));
}

#[test]
fn an_order_without_a_debt_is_forgotten_without_a_trace() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    rig.pass(4 * 3_600_000 + 1);
    let effects = rig.turn(Some(Input::OpenCredit {
        order: order(2),
        buyer: key(6),
        caller: caller(1),
        quantum: Msat(QUANTUM),
    }));
    assert!(matches!(
        effects[..],
        [Effect::Tell(Message::CreditOpened { .. })]
    ));
    assert!(!rig.machine.credits.is_open(&order(1)));
}

#[test]
fn a_buyer_that_leaves_too_much_unpaid_is_a_stranger_with_a_debt() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    paid(&mut rig, 1, 1, 1_000, 50);
    close(&mut rig, 1, 5, 2_001, 1_001);
    assert_eq!(open(&mut rig, 2, 5), (0, true, QUANTUM));
    assert_eq!(paid(&mut rig, 2, 2, 2_000, 50), 2_000);
    close(&mut rig, 2, 5, 1_000, 0);
    assert_eq!(open(&mut rig, 3, 5), (2_000, false, 1));
}
