//! The rules of the side that is paid, one test each.

mod debt;
mod invoices;

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
    let id = rig.ask_invoice(n, seq, msat);
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
    rig.give(Input::CloseOrder {
        account: account(n, Side::Host, key(buyer), cost),
        unpaid: Msat(unpaid),
    });
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

/// Open orders on disk.
fn open_rows(rig: &Rig) -> usize {
    let rows = rig.disk.keys();
    let rows = rows.filter(|(table, key)| *table == Table::Credit && key[0] == b'o');
    rows.count()
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
            rig.give(Input::CloseOrder {
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
fn an_end_is_confirmed_behind_what_it_writes_each_time_and_booked_once() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    paid(&mut rig, 1, 1, 1_000, 50);
    let end = |side, cost| Input::CloseOrder {
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
fn the_end_of_a_strangers_order_with_nothing_in_it_writes_nothing() {
    let mut rig = Rig::new(Config::default());
    open(&mut rig, 1, 5);
    let effects = rig.turn(Some(Input::CloseOrder {
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
