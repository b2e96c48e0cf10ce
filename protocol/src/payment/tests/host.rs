//! The rules of the side that is paid, one test each.

use super::*;
use crate::ids::AddressTag;
use crate::limits::{FREE_QUOTAS, FREE_QUOTAS_PER_ADDRESS, MAX_UNPAID_PER_PEER};
use crate::payment::UNPAID_KEPT_MS;

const QUANTUM: u64 = 1_000;

fn open(rig: &mut Rig, n: u64, buyer: u8) -> (u64, bool, u64) {
    match asked(rig, n, buyer) {
        Ok(credit) => (credit.window.0, credit.prepay, credit.debt.0),
        Err(refusal) => panic!("refused: {refusal}"),
    }
}

fn asked(rig: &mut Rig, n: u64, buyer: u8) -> Result<Credit, Refusal> {
    let effects = rig.give(Input::OpenCredit {
        order: order(n),
        buyer: key(buyer),
        caller: caller(1),
        quantum: Msat(QUANTUM),
    });
    match effects.as_slice() {
        [Effect::Tell(Message::CreditOpened { result, .. })] => result.clone(),
        _ => panic!("no answer: {effects:?}"),
    }
}

/// Pays 1,000, 1,000, 2,000 and 4,000 for an order, which makes a window of 8,000.
fn pump(rig: &mut Rig, n: u64) {
    for (h, msat) in [(1, 1_000), (2, 1_000), (3, 2_000), (4, 4_000)] {
        paid(rig, n, h, msat, 50);
    }
}

fn make(rig: &mut Rig, n: u64, seq: u32, h: u64, msat: u64) {
    let effects = rig.give(Input::MakeInvoice {
        order: order(n),
        seq,
        msat: Msat(msat),
        description_hash: [0; 32],
        expiry_s: 600,
    });
    let [Effect::CreateInvoice { id, .. }] = effects[..] else {
        panic!("no invoice asked for: {effects:?}")
    };
    let result = Ok((format!("lnbcrt-{h}"), hash(h)));
    let effects = rig.turn(Some(Input::InvoiceCreated { id, result }));
    assert!(matches!(
        &effects[..],
        [
            Effect::Persist(_),
            Effect::Tell(Message::InvoiceMade { result: Ok(_), .. })
        ]
    ));
    rig.store(&effects);
}

/// Makes invoice `h` of order `n` and pays it `ms` later; returns the window.
fn paid(rig: &mut Rig, n: u64, h: u64, msat: u64, ms: u64) -> u64 {
    make(rig, n, u32::try_from(h).unwrap(), h, msat);
    rig.pass(ms);
    let effects = rig.received(h, hash(h), msat);
    granted(&effects).expect("credit is granted")
}

fn granted(effects: &[Effect]) -> Option<u64> {
    match effects {
        [
            Effect::Tell(Message::CreditGranted { window, .. }),
            Effect::Acknowledge { .. },
        ] => Some(window.0),
        [Effect::Acknowledge { .. }] => None,
        other => panic!("not acknowledged: {other:?}"),
    }
}

fn close(rig: &mut Rig, n: u64, buyer: u8, cost: u64, unpaid: u64) {
    rig.give(Input::Close {
        account: account(n, Side::Host, key(buyer), cost),
        unpaid: Msat(unpaid),
    });
}

#[test]
fn a_window_grows_by_what_was_paid_and_stops_at_the_cap() {
    let mut rig = Rig::new(Config {
        window_cap: Msat(7_000),
        ..Config::default()
    });
    assert_eq!(open(&mut rig, 1, 5), (0, true, 0));
    let payments = [(1, 1_000), (2, 1_000), (3, 2_500), (4, 4_000)];
    let windows = payments.map(|(h, msat)| paid(&mut rig, 1, h, msat, 50));
    assert_eq!(windows, [1_000, 2_000, 4_500, 7_000]);
    close(&mut rig, 1, 5, 8_500, 0);
    assert_eq!(open(&mut rig, 2, 5), (7_000, false, 0));
    assert_eq!(open(&mut rig, 3, 6), (0, true, 0));
}

#[test]
fn many_tiny_payments_open_no_more_than_their_sum() {
    let mut rig = Rig::new(Config::default());
    for n in 1..=6 {
        assert_eq!(open(&mut rig, n, 5), (0, true, 0));
        assert!(paid(&mut rig, n, n, 1, 50) <= n);
        close(&mut rig, n, 5, 1, 0);
    }
    assert_eq!(open(&mut rig, 7, 5), (0, true, 0));
}

#[test]
fn small_orders_that_are_prepaid_lead_to_a_window() {
    let mut rig = Rig::new(Config::default());
    for n in 1..=4 {
        assert_eq!(open(&mut rig, n, 5), (0, true, 0));
        paid(&mut rig, n, n, 300, 50);
        close(&mut rig, n, 5, 300, 0);
    }
    assert_eq!(open(&mut rig, 5, 5), (1_200, false, 0));
}

/// Payments for `total` in the host's steps: half of the window, a quantum at least.
fn payments(rig: &mut Rig, n: u64, first: u64, total: u64) -> u64 {
    let (mut window, prepay, _) = open(rig, n, 5);
    let (mut sum, mut count) = (0, 0);
    while sum < total {
        let step = if prepay && count == 0 { 0 } else { window / 2 };
        let msat = step.max(QUANTUM).min(total - sum);
        window = paid(rig, n, first + count, msat, 50);
        sum += msat;
        count += 1;
    }
    close(rig, n, 5, total, 0);
    count
}

#[test]
fn a_stream_takes_eleven_payments_for_a_stranger_and_fewer_once_warm() {
    let mut rig = Rig::new(Config::default());
    // 256 tokens at 250 msat.
    let total = 256 * 250;
    assert_eq!(payments(&mut rig, 1, 1, total), 11);
    assert_eq!(payments(&mut rig, 2, 100, total), 2);
    let mut rig = Rig::new(Config::default());
    // Warm from an answer of 16 tokens.
    payments(&mut rig, 1, 1, 4_000);
    assert_eq!(payments(&mut rig, 2, 100, total), 7);
}

#[test]
fn a_late_payment_halves_the_window_and_a_running_order_keeps_a_quantum() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    pump(&mut rig, 1);
    let windows = [5, 6, 7, 8].map(|h| paid(&mut rig, 1, h, 1_000, 30_001));
    assert_eq!(windows, [4_000, 2_000, 1_000, 1_000]);
    close(&mut rig, 1, 5, 12_000, 0);
    assert_eq!(open(&mut rig, 2, 5), (0, true, 0));
    // A stranger whose first payment is late: the order goes on, the next one prepays.
    open(&mut rig, 3, 6);
    assert_eq!(paid(&mut rig, 3, 9, 1_500, 30_001), 1_000);
    close(&mut rig, 3, 6, 1_500, 0);
    assert_eq!(open(&mut rig, 4, 6), (0, true, 0));
}

#[test]
fn trust_is_remembered_over_a_restart_and_fades_by_the_day() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    pump(&mut rig, 1);
    close(&mut rig, 1, 5, 8_000, 0);
    rig.restart();
    assert_eq!(open(&mut rig, 2, 5), (8_000, false, 0));
    close(&mut rig, 2, 5, 0, 0);
    rig.pass(3 * DAY_MS);
    assert_eq!(open(&mut rig, 3, 5), (1_000, false, 0));
    close(&mut rig, 3, 5, 0, 0);
    rig.pass(DAY_MS);
    assert_eq!(open(&mut rig, 4, 5), (0, true, 0));
}

#[test]
fn open_orders_of_a_buyer_share_its_window() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    pump(&mut rig, 1);
    assert_eq!(open(&mut rig, 2, 5), (0, true, 0));
    // What the second pays for itself is its own part.
    assert_eq!(paid(&mut rig, 2, 9, 1_200, 50), 1_200);
    close(&mut rig, 1, 5, 8_000, 0);
    assert_eq!(open(&mut rig, 3, 5), (8_000, false, 0));
}

#[test]
fn an_order_beside_one_that_has_the_whole_window_still_goes_on_once_it_prepaid() {
    let mut rig = Rig::new(Config {
        window_cap: Msat(4_000),
        ..Config::default()
    });
    open(&mut rig, 1, 5);
    paid(&mut rig, 1, 1, 6_000, 50);
    close(&mut rig, 1, 5, 6_000, 0);
    assert_eq!(open(&mut rig, 2, 5), (4_000, false, 0));
    assert_eq!(open(&mut rig, 3, 5), (0, true, 0));
    assert_eq!(paid(&mut rig, 3, 2, 1_000, 50), 1_000);
}

#[test]
fn an_order_id_is_given_credit_once() {
    let mut rig = Rig::new(Config::default());
    let refused = |rig: &mut Rig, n, buyer| asked(rig, n, buyer).unwrap_err().code;
    open(&mut rig, 1, 5);
    pump(&mut rig, 1);
    assert_eq!(refused(&mut rig, 1, 5), Code::BadOrder, "while it is open");
    assert_eq!(refused(&mut rig, 1, 6), Code::BadOrder, "to anybody");
    close(&mut rig, 1, 5, 8_000, 0);
    assert_eq!(refused(&mut rig, 1, 5), Code::BadOrder, "once it is over");
    rig.restart();
    assert_eq!(refused(&mut rig, 1, 5), Code::BadOrder, "in a later run");
    open(&mut rig, 2, 5);
    close(&mut rig, 2, 5, 0, 0);
    assert_eq!(
        refused(&mut rig, 2, 5),
        Code::BadOrder,
        "though it was void"
    );
}

#[test]
fn an_order_that_was_paid_for_before_a_crash_is_given_no_credit_again() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    paid(&mut rig, 1, 1, 1_000, 50);
    open(&mut rig, 2, 5);
    make(&mut rig, 2, 0, 2, 1_000);
    rig.restart();
    // Neither is open any more, nor in the books as closed.
    assert_eq!(asked(&mut rig, 1, 5).unwrap_err().code, Code::BadOrder);
    assert_eq!(open(&mut rig, 2, 5), (1_000, false, 0));
}

#[test]
fn the_end_of_an_order_that_was_refused_for_its_id_leaves_the_other_open() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    asked(&mut rig, 1, 6).unwrap_err();
    close(&mut rig, 1, 6, 0, 0);
    assert_eq!(paid(&mut rig, 1, 1, 1_500, 50), 1_500);
    close(&mut rig, 1, 5, 2_000, 500);
    assert_eq!(rig.report().owed_to_us, Msat(500));
    assert_eq!(open(&mut rig, 2, 6), (0, true, 0));
}

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
        rig.give(Input::Close { account, unpaid });
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
fn trust_in_one_buyer_takes_nothing_from_another() {
    let mut rig = Rig::new(Config::default());
    for buyer in [5, 6] {
        let n = u64::from(buyer);
        open(&mut rig, n, buyer);
        paid(&mut rig, n, n, 1_000, 50);
        close(&mut rig, n, buyer, 1_000, 0);
    }
    assert_eq!(open(&mut rig, 1, 5), (1_000, false, 0));
    assert_eq!(open(&mut rig, 2, 6), (1_000, false, 0));
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
fn money_that_comes_for_an_order_that_ended_void_is_trust_and_no_balance() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    make(&mut rig, 1, 0, 1, 1_600);
    close(&mut rig, 1, 5, 0, 0);
    rig.received(1, hash(1), 1_600);
    assert_eq!(rig.report().earned, Msat(1_600));
    assert_eq!(open(&mut rig, 2, 5), (1_600, false, 0));
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
fn a_free_quota_is_given_once() {
    let mut rig = Rig::new(Config {
        free_quota: Msat(500),
        ..Config::default()
    });
    assert_eq!(open(&mut rig, 1, 5), (500, false, 0));
    close(&mut rig, 1, 5, 500, 0);
    assert_eq!(open(&mut rig, 2, 5), (0, true, 0));
}

#[test]
fn new_keys_of_one_address_and_all_together_get_the_hours_free_quotas_and_no_more() {
    let mut rig = Rig::new(Config {
        free_quota: Msat(500),
        ..Config::default()
    });
    let mut number: u64 = 0;
    let mut free = |rig: &mut Rig, address: u8, keys: u32| {
        let mut given = 0;
        for _ in 0..keys {
            number += 1;
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_be_bytes());
            let peer = PeerTag(key[..16].try_into().unwrap());
            let effects = rig.give(Input::OpenCredit {
                order: order(number),
                buyer: NodeKey(key),
                caller: Caller {
                    peer,
                    address: AddressTag([address; 16]),
                },
                quantum: Msat(QUANTUM),
            });
            let free = |effect: &Effect| {
                matches!(effect, Effect::Tell(Message::CreditOpened { result: Ok(credit), .. })
                    if credit.window == Msat(500))
            };
            given += u32::from(effects.iter().any(free));
            rig.give(Input::Close {
                account: account(number, Side::Host, NodeKey(key), 0),
                unpaid: Msat::ZERO,
            });
        }
        given
    };
    assert_eq!(free(&mut rig, 1, 200), FREE_QUOTAS_PER_ADDRESS);
    let others: u32 = (2..=40).map(|address| free(&mut rig, address, 70)).sum();
    assert_eq!(others, FREE_QUOTAS - FREE_QUOTAS_PER_ADDRESS);
    // An hour later there are as many again.
    rig.pass(3_600_000);
    assert_eq!(free(&mut rig, 1, 200), FREE_QUOTAS_PER_ADDRESS);
}

#[test]
fn a_second_payment_to_a_hash_is_noted_and_not_credited() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    paid(&mut rig, 1, 1, 1_000, 50);
    assert_eq!(granted(&rig.received(9, hash(1), 1_000)), None);
    let report = rig.report();
    assert_eq!(report.earned, Msat(1_000));
    assert!(report.entries[0].note.contains("again"));
}

#[test]
fn money_for_no_invoice_is_written_before_it_is_acknowledged() {
    let mut rig = Rig::new(Config::default());
    let effects = rig.turn(Some(Input::Received {
        event: 3,
        hash: hash(8),
        msat: Msat(5_000),
    }));
    assert!(matches!(
        &effects[..],
        [Effect::Persist(_), Effect::Acknowledge { event: 3 }]
    ));
    let report = rig.report();
    assert_eq!((report.earned, report.notes.len()), (Msat::ZERO, 1));
}

#[test]
fn an_invoice_that_cannot_be_made_is_said_so_and_a_late_one_is_dropped() {
    let mut rig = Rig::new(Config::default());
    let effects = rig.give(Input::MakeInvoice {
        order: order(1),
        seq: 0,
        msat: Msat(1_000),
        description_hash: [0; 32],
        expiry_s: 600,
    });
    let [Effect::CreateInvoice { id, .. }] = effects[..] else {
        panic!("no invoice asked for: {effects:?}")
    };
    let effects = rig.wait(30_000);
    assert!(matches!(
        &effects[..],
        [Effect::Tell(Message::InvoiceMade { result: Err(refusal), .. })] if refusal.code == Code::NoInvoice
    ));
    let result = Ok(("lnbcrt-1".to_owned(), hash(1)));
    assert_eq!(rig.give(Input::InvoiceCreated { id, result }), vec![]);
}

#[test]
fn an_unpaid_invoice_expires_only_after_the_wallet_was_asked() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    make(&mut rig, 1, 0, 1, 1_000);
    let effects = rig.wait(1_200_001);
    assert_eq!(rig.state(Side::Host, hash(1)), EntryState::Invoiced);
    rig.looked_up(lookup_id(&effects), hash(1), LookupOutcome::Unavailable);
    assert_eq!(rig.state(Side::Host, hash(1)), EntryState::Invoiced);
    let effects = rig.wait(10_000);
    rig.looked_up(lookup_id(&effects), hash(1), LookupOutcome::Pending);
    assert_eq!(rig.state(Side::Host, hash(1)), EntryState::Expired);
    assert_eq!(rig.machine.deadline(), None);
    assert!(granted(&rig.received(1, hash(1), 1_000)).is_some());
    assert_eq!(rig.report().earned, Msat(1_000));
}

#[test]
fn an_invoice_paid_while_the_host_was_down_is_found_at_restart() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    make(&mut rig, 1, 0, 1, 1_000);
    rig.restart();
    let effects = rig.wait(0);
    let found = LookupOutcome::Settled {
        preimage: None,
        msat: Msat(1_000),
        fee: Msat::ZERO,
    };
    let effects = rig.looked_up(lookup_id(&effects), hash(1), found);
    assert!(matches!(
        &effects[..],
        [Effect::Tell(Message::CreditGranted {
            window: Msat(1_000),
            ..
        })]
    ));
    assert_eq!(granted(&rig.received(1, hash(1), 1_000)), None);
}

#[test]
fn a_record_of_a_later_release_is_skipped_and_said_so() {
    let mut rig = Rig::new(Config::default());
    rig.disk.insert((Table::Ledger, vec![0; 8]), vec![2, 0]);
    rig.restart();
    let notes: Vec<_> = rig.report().notes;
    assert!(notes[0].text.contains("version"), "{}", notes[0].text);
}

#[test]
fn an_order_refused_before_anything_moved_leaves_nothing_in_the_books() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    close(&mut rig, 1, 5, 0, 0);
    assert!(rig.report().orders.is_empty());
    assert!(rig.disk.is_empty());
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
fn invoices_that_nobody_paid_do_not_pile_up_and_late_money_finds_them() {
    let mut rig = Rig::new(Config::default());
    let most = crate::payment::ledger::MAX_EXPIRED as u64;
    for round in 0..2 {
        for h in 0..=most / 2 {
            let n = round * 1_000 + h;
            open(&mut rig, n, u8::try_from(n % 251).unwrap());
            make(&mut rig, n, 0, n, 1_000);
        }
        for effect in rig.wait(1_200_001) {
            if let Effect::Lookup { id, hash, .. } = effect {
                rig.looked_up(id, hash, LookupOutcome::NotFound);
            }
        }
        for h in 0..=most / 2 {
            let n = round * 1_000 + h;
            close(&mut rig, n, u8::try_from(n % 251).unwrap(), 0, 0);
        }
    }
    assert_eq!(rig.report().entries.len() as u64, most);
    assert_eq!(rig.disk.len() as u64, most);
    assert!(granted(&rig.received(1, hash(0), 1_000)).is_some());
    assert_eq!(granted(&rig.received(2, hash(0), 1_000)), None, "once");
    assert_eq!(rig.report().earned, Msat(1_000));
    rig.restart();
    assert_eq!(granted(&rig.received(3, hash(1), 1_000)), None);
    assert_eq!(rig.report().earned, Msat(1_000));
    let last = rig.report().notes.pop().expect("a note");
    assert!(last.text.contains("no order"), "{}", last.text);
}

fn cannot_make(rig: &mut Rig, n: u64, seq: u32) -> bool {
    let effects = rig.give(Input::MakeInvoice {
        order: order(n),
        seq,
        msat: Msat(1_000),
        description_hash: [0; 32],
        expiry_s: 180,
    });
    match effects.as_slice() {
        [Effect::CreateInvoice { .. }] => false,
        [Effect::Tell(Message::InvoiceMade { result, .. })] => {
            assert_eq!(result.as_ref().unwrap_err().code, Code::NoInvoice);
            true
        }
        other => panic!("no answer: {other:?}"),
    }
}

#[test]
fn a_free_quota_that_was_used_up_makes_nobody_a_buyer_who_paid() {
    let mut rig = Rig::new(Config {
        free_quota: Msat(2_000),
        ..Config::default()
    });
    open(&mut rig, 1, 5);
    close(&mut rig, 1, 5, 2_000, 2_000);
    open(&mut rig, 2, 5);
    let refused = (0..32).filter(|seq| cannot_make(&mut rig, 2, *seq));
    assert_eq!(refused.count(), 12, "twenty are a stranger's");
}

#[test]
fn invoices_of_strangers_leave_room_for_buyers_who_paid() {
    use crate::payment::unpaid::{MAX_OF_STRANGER, MAX_STRANGERS};
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 0);
    pump(&mut rig, 1);
    let buyers = u8::try_from(MAX_STRANGERS / MAX_OF_STRANGER).unwrap();
    let mut h = 1_000;
    for buyer in 1..=buyers {
        let n = 10 + u64::from(buyer);
        open(&mut rig, n, buyer);
        for seq in 0..MAX_OF_STRANGER {
            make(&mut rig, n, u32::try_from(seq).unwrap(), h, 1_000);
            h += 1;
        }
        assert!(cannot_make(&mut rig, n, 9), "more than one stranger's");
    }
    open(&mut rig, 4_000, buyers + 1);
    for seq in 0..MAX_STRANGERS % MAX_OF_STRANGER {
        make(&mut rig, 4_000, u32::try_from(seq).unwrap(), h, 1_000);
        h += 1;
    }
    open(&mut rig, 5_000, buyers + 2);
    assert!(cannot_make(&mut rig, 5_000, 0), "more than all strangers'");
    assert!(!cannot_make(&mut rig, 1, 9), "a buyer who paid");
}

#[test]
fn a_new_key_gets_an_entry_invoice_for_each_order_that_its_peer_may_have_unpaid() {
    let mut rig = Rig::new(Config::default());
    for n in 0..MAX_UNPAID_PER_PEER as u64 {
        open(&mut rig, n, 5);
        assert!(!cannot_make(&mut rig, n, 0), "order {n}");
    }
}

#[test]
fn the_entry_invoice_of_a_void_order_no_longer_counts_and_is_not_asked_after() {
    let mut rig = Rig::new(Config::default());
    for n in 0..3_000 {
        open(&mut rig, n, 5);
        make(&mut rig, n, 0, n, 1_000);
        close(&mut rig, n, 5, 0, 0);
    }
    assert_eq!(rig.machine.deadline(), None);
    let tables = [Table::Incoming, Table::Credit];
    assert_eq!(
        rig.disk.keys().filter(|(t, _)| tables.contains(t)).count(),
        0
    );
    // Of the first ones the rows are deleted; of the last ones not.
    for n in [0, 2_999] {
        rig.pass(90_000);
        assert!(granted(&rig.received(n, hash(n), 1_000)).is_some());
        assert_eq!(rig.state(Side::Host, hash(n)), EntryState::Settled);
    }
    let report = rig.report();
    assert_eq!((report.earned, report.notes.len()), (Msat(2_000), 2));
    assert_eq!(open(&mut rig, 3_000, 5), (2_000, false, 0));
}

#[test]
fn an_invoice_that_is_made_when_its_order_is_over_is_dropped() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    let effects = rig.give(Input::MakeInvoice {
        order: order(1),
        seq: 0,
        msat: Msat(1_000),
        description_hash: [0; 32],
        expiry_s: 60,
    });
    let [Effect::CreateInvoice { id, .. }] = effects[..] else {
        panic!("no invoice asked for: {effects:?}")
    };
    close(&mut rig, 1, 5, 0, 0);
    let result = Ok(("lnbcrt-1".to_owned(), hash(1)));
    assert_eq!(rig.give(Input::InvoiceCreated { id, result }), vec![]);
    assert!(rig.disk.is_empty());
}

#[test]
fn a_wall_clock_that_jumps_makes_no_payment_late_and_no_invoice_dead() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    make(&mut rig, 1, 0, 1, 1_000);
    rig.now.wall = rig.now.wall.after_ms(3_600_000);
    rig.pass(50);
    assert_eq!(granted(&rig.received(1, hash(1), 1_000)), Some(1_000));
    make(&mut rig, 1, 1, 2, 1_000);
    rig.now.wall = rig.now.wall.after_ms(20_000_000);
    assert_eq!(
        rig.wait(600_000),
        vec![],
        "its life and the grace are not over"
    );
    let effects = rig.wait(600_001);
    rig.looked_up(lookup_id(&effects), hash(2), LookupOutcome::NotFound);
    assert_eq!(rig.state(Side::Host, hash(2)), EntryState::Expired);
}

#[test]
fn an_end_is_confirmed_behind_what_it_writes_each_time_and_booked_once() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    paid(&mut rig, 1, 1, 1_000, 50);
    let end = |side, cost| Input::Close {
        account: account(1, side, key(5), cost),
        unpaid: Msat(700),
    };
    for side in [Side::Host, Side::Buyer] {
        let confirmed = Effect::Tell(Message::OrderClosed {
            order: order(1),
            side,
        });
        let effects = rig.turn(Some(end(side, 1_700)));
        assert!(matches!(&effects[..], [Effect::Persist(_), last] if *last == confirmed));
        rig.store(&effects);
        rig.restart();
        // Told again, and it has changed meanwhile: what was booked stands.
        assert_eq!(rig.turn(Some(end(side, 9_000))), vec![confirmed]);
    }
    let report = rig.report();
    assert_eq!(report.owed_to_us, Msat(700));
    let costs: Vec<_> = report.orders.iter().map(|order| order.cost).collect();
    assert_eq!(costs, [Msat(1_700), Msat(1_700)]);
}

/// What the wallet is asked to forget.
fn forgotten(effects: Vec<Effect>) -> Vec<PaymentHash> {
    let hashes = effects.into_iter().map(|effect| match effect {
        Effect::ForgetPayments { hashes } => hashes,
        _ => Vec::new(),
    });
    hashes.flatten().collect()
}

#[test]
fn the_wallet_forgets_invoices_that_nobody_can_pay_any_more_and_none_that_was_paid() {
    let mut rig = Rig::new(Config {
        retention_days: 0,
        ..Config::default()
    });
    for n in 0..300 {
        open(&mut rig, n, 5);
        make(&mut rig, n, 0, n, 1_000);
        close(&mut rig, n, 5, 0, 0);
    }
    // Any wallet would refuse before.
    rig.pass(UNPAID_KEPT_MS);
    assert_eq!(forgotten(rig.received(1, hash(7), 1_000)), []);
    rig.pass(3_600_000);
    let mut told = forgotten(rig.wait(0));
    assert_eq!(told.len(), 256);
    told.extend(forgotten(rig.wait(10_000)));
    told.sort();
    let mut unpaid: Vec<PaymentHash> = (0..300).filter(|n| *n != 7).map(hash).collect();
    unpaid.sort();
    assert!(told == unpaid, "{} of {}", told.len(), unpaid.len());
}

#[test]
fn unpaid_invoices_are_forgotten_after_a_restart_too_and_again_where_it_was_too_early() {
    let mut rig = Rig::new(Config::default());
    for n in 0..2 {
        open(&mut rig, n, 5);
        make(&mut rig, n, 0, n, 1_000);
        close(&mut rig, n, 5, 0, 0);
        rig.pass(3_600_000);
    }
    rig.restart();
    assert_eq!(forgotten(rig.wait(UNPAID_KEPT_MS - 3_600_000)), [hash(0)]);
    let early = Input::StillNeeded {
        hash: hash(0),
        wait_ms: 7_000_000,
    };
    assert_eq!(rig.give(early), []);
    // The first one comes again when the wallet said so; after another restart it does not.
    assert_eq!(forgotten(rig.wait(3_600_000)), [hash(1)]);
    rig.restart();
    assert_eq!(forgotten(rig.wait(3_600_000)), []);
    let early = Input::StillNeeded {
        hash: hash(1),
        wait_ms: 7_000_000,
    };
    rig.give(early);
    assert_eq!(forgotten(rig.wait(3_600_000)), []);
    assert_eq!(forgotten(rig.wait(3_600_000)), [hash(1)]);
}

#[test]
fn an_order_that_shows_no_sign_of_life_for_four_hours_holds_no_part_of_a_window() {
    const HOUR_MS: u64 = 3_600_000;
    let warm = || {
        let mut rig = Rig::new(Config::default());
        open(&mut rig, 1, 5);
        pump(&mut rig, 1);
        close(&mut rig, 1, 5, 8_000, 0);
        assert_eq!(open(&mut rig, 2, 5), (8_000, false, 0));
        rig
    };
    for (ms, window) in [(4 * HOUR_MS, 0), (4 * HOUR_MS + 1, 8_000)] {
        let mut rig = warm();
        rig.pass(ms);
        assert_eq!(open(&mut rig, 3, 5).0, window);
    }
    // An invoice that is asked for is a sign of life, and so is one that is paid.
    for pays in [false, true] {
        let mut rig = warm();
        rig.pass(3 * HOUR_MS);
        make(&mut rig, 2, 1, 9, 1_000);
        if pays {
            rig.pass(3 * HOUR_MS);
            rig.received(9, hash(9), 1_000);
        }
        rig.pass(3 * HOUR_MS);
        assert!(open(&mut rig, 3, 5).0 < 8_000);
    }
    // One that is forgotten collects no debt any more, in a later run neither.
    let mut rig = Rig::new(Config::default());
    for buyer in [5, 6] {
        let n = u64::from(buyer);
        open(&mut rig, n, buyer);
        paid(&mut rig, n, n, 1_000, 50);
        close(&mut rig, n, buyer, 1_700, 700);
    }
    assert_eq!(open(&mut rig, 1, 5).2, 700);
    rig.pass(4 * HOUR_MS + 1);
    assert_eq!(open(&mut rig, 2, 6).2, 700);
    assert_eq!(open_rows(&rig), 1);
    rig.restart();
    assert_eq!(open(&mut rig, 3, 5).2, 700);
    assert_eq!(open(&mut rig, 4, 6).2, 0, "the open one collects it");
}

#[test]
fn a_free_quota_is_for_one_order_at_a_time() {
    let mut rig = Rig::new(Config {
        free_quota: Msat(500),
        ..Config::default()
    });
    assert_eq!(open(&mut rig, 1, 5), (500, false, 0));
    assert_eq!(open(&mut rig, 2, 5), (0, true, 0));
    assert_eq!(open(&mut rig, 3, 6), (500, false, 0));
}

#[test]
fn a_payment_is_late_after_half_a_minute_and_not_before() {
    for (ms, window) in [(30_000, 9_000), (30_001, 4_000)] {
        let mut rig = Rig::new(Config::default());
        open(&mut rig, 1, 5);
        pump(&mut rig, 1);
        assert_eq!(paid(&mut rig, 1, 5, 1_000, ms), window);
    }
}

#[test]
fn a_late_payment_lowers_what_is_collected_of_its_own_buyer_alone() {
    let mut rig = Rig::new(Config::default());
    for buyer in [5, 6] {
        let n = u64::from(buyer);
        open(&mut rig, n, buyer);
        make(&mut rig, n, 0, n, 900);
        close(&mut rig, n, buyer, 900, 900);
    }
    assert_eq!(open(&mut rig, 1, 5).2, 900);
    assert_eq!(open(&mut rig, 2, 6).2, 900);
    assert_eq!(open_rows(&rig), 2);
    rig.received(5, hash(5), 900);
    assert_eq!(open_rows(&rig), 1, "the other has nothing more to collect");
    rig.restart();
    close(&mut rig, 2, 6, 0, 900);
    assert_eq!(rig.report().owed_to_us, Msat(900));
    close(&mut rig, 1, 5, 0, 900);
    assert_eq!(rig.report().owed_to_us, Msat(900));
}

/// Open orders on disk.
fn open_rows(rig: &Rig) -> usize {
    let rows = rig.disk.keys();
    let rows = rows.filter(|(table, key)| *table == Table::Credit && key[0] == b'o');
    rows.count()
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
fn another_amount_than_was_asked_for_is_booked_as_it_came_and_credited_at_most_as_asked() {
    for (msat, credited, note) in [
        (999, 999, "1.000 sat were asked for"),
        (1_000, 1_000, ""),
        (1_500, 1_000, "1.000 sat were asked for"),
    ] {
        let mut rig = Rig::new(Config::default());
        open(&mut rig, 1, 5);
        make(&mut rig, 1, 0, 1, 1_000);
        let effects = rig.received(1, hash(1), msat);
        let told = effects.iter().find_map(|effect| match effect {
            Effect::Tell(Message::CreditGranted { msat, .. }) => Some(msat.0),
            _ => None,
        });
        assert_eq!(told, Some(credited));
        let report = rig.report();
        assert_eq!(report.earned, Msat(msat));
        assert_eq!(report.entries[0].note, note);
    }
}

#[test]
fn a_hash_that_the_wallet_gives_out_twice_is_not_taken_for_a_new_invoice() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    make(&mut rig, 1, 0, 1, 1_000);
    let effects = rig.give(Input::MakeInvoice {
        order: order(1),
        seq: 1,
        msat: Msat(1_000),
        description_hash: [0; 32],
        expiry_s: 600,
    });
    let [Effect::CreateInvoice { id, .. }] = effects[..] else {
        panic!("no invoice asked for: {effects:?}")
    };
    let result = Ok(("lnbcrt-1".to_owned(), hash(1)));
    let effects = rig.give(Input::InvoiceCreated { id, result });
    assert!(matches!(
        &effects[..],
        [Effect::Tell(Message::InvoiceMade { result: Err(refusal), .. })]
            if refusal.code == Code::NoInvoice
    ));
    assert_eq!(rig.report().entries.len(), 1);
}

#[test]
fn an_invoice_lives_to_the_end_of_its_grace_also_over_a_restart() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    make(&mut rig, 1, 0, 1, 1_000);
    for (ms, state) in [(1_200_000, EntryState::Invoiced), (1, EntryState::Expired)] {
        rig.pass(ms);
        rig.restart();
        let effects = rig.wait(0);
        rig.looked_up(lookup_id(&effects), hash(1), LookupOutcome::Pending);
        assert_eq!(rig.state(Side::Host, hash(1)), state);
    }
    // Asked too early, it is asked again at its end.
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    make(&mut rig, 1, 0, 1, 1_000);
    rig.pass(200_000);
    rig.restart();
    let effects = rig.wait(0);
    rig.looked_up(lookup_id(&effects), hash(1), LookupOutcome::Pending);
    let due = rig.now.tick.after_ms(1_000_001);
    assert_eq!(rig.machine.deadline(), Some(due));
}

#[test]
fn nothing_is_kept_in_memory_of_an_entry_that_was_paid_or_died() {
    let mut rig = Rig::new(Config::default());
    for n in 1..=3 {
        open(&mut rig, n, 5);
        make(&mut rig, n, 0, n, 1_000);
    }
    assert_eq!(rig.machine.entries.len(), 3);
    make(&mut rig, 1, 1, 4, 1_000);
    rig.received(4, hash(4), 1_000);
    assert_eq!(rig.machine.entries.len(), 3, "a step is no entry");
    rig.received(1, hash(1), 1_000);
    close(&mut rig, 2, 5, 0, 0);
    for effect in rig.wait(1_200_001) {
        if let Effect::Lookup { id, hash, .. } = effect {
            rig.looked_up(id, hash, LookupOutcome::NotFound);
        }
    }
    assert!(rig.machine.entries.is_empty() && rig.machine.invoices.is_empty());
}

#[test]
fn an_order_is_booked_where_anything_was_given_or_taken() {
    for (cost, pays, booked) in [(0, false, 0), (700, false, 1), (0, true, 1)] {
        let mut rig = Rig::new(Config::default());
        open(&mut rig, 1, 5);
        if pays {
            paid(&mut rig, 1, 1, 1_000, 50);
        }
        close(&mut rig, 1, 5, cost, 0);
        assert_eq!(rig.report().orders.len(), booked, "{cost} {pays}");
    }
}

#[test]
fn as_many_orders_are_open_as_there_can_be() {
    let mut rig = Rig::new(Config::default());
    let most = crate::limits::MAX_ORDERS as u64;
    for n in 0..most {
        open(&mut rig, n, u8::try_from(n % 200).unwrap());
    }
    assert_eq!(asked(&mut rig, most, 201).unwrap_err().code, Code::Busy);
    close(&mut rig, 0, 0, 0, 0);
    open(&mut rig, most, 201);
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
fn the_end_of_a_strangers_order_with_nothing_in_it_writes_nothing() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    let effects = rig.turn(Some(Input::Close {
        account: account(1, Side::Host, key(5), 0),
        unpaid: Msat::ZERO,
    }));
    let (order, side) = (order(1), Side::Host);
    let confirmed = Effect::Tell(Message::OrderClosed { order, side });
    assert_eq!(effects, [confirmed]);
}

#[test]
fn records_of_credit_of_an_older_release_are_passed_over_and_strange_ones_are_said() {
    for (letter, notes) in [(b'b', 0), (b'x', 1)] {
        let mut rig = Rig::new(Config::default());
        let key = [&[letter][..], &[5; 32]].concat();
        rig.disk.insert((Table::Credit, key), vec![1, 0]);
        rig.restart();
        assert_eq!(rig.report().notes.len(), notes);
    }
}

#[test]
fn an_unpaid_invoice_is_named_once_its_time_is_over_and_not_before() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    make(&mut rig, 1, 0, 1, 1_000);
    close(&mut rig, 1, 5, 0, 0);
    // A minute is for the wallet, which may have made it so much later.
    rig.pass(UNPAID_KEPT_MS + 60_000);
    rig.restart();
    assert_eq!(forgotten(rig.wait(0)), []);
    rig.pass(1);
    rig.restart();
    assert_eq!(forgotten(rig.wait(0)), [hash(1)]);
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
