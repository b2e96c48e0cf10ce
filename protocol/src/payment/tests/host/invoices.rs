//! Invoices of a host: made, paid, late, expired, forgotten.

use super::*;

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
    let id = rig.ask_invoice(1, 0, 1_000);
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
    let id = rig.ask_invoice(1, 1, 1_000);
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
