//! What the ledger keeps in memory, reads at a start, and counts.

use super::*;
use crate::ids::NodeKey;
use crate::machine::Outbox;
use crate::message::payment::Effect;
use crate::payment::turn::VERSION;
use crate::time::Tick;

fn entry(number: u8, state: EntryState) -> LedgerEntry {
    LedgerEntry {
        side: Side::Host,
        order: OrderId([number; 16]),
        counterparty: Some(NodeKey([9; 32])),
        seq: 0,
        hash: PaymentHash([number; 32]),
        msat: Msat(1_000),
        fee: Msat::ZERO,
        state,
        preimage: None,
        expires: WallTime(0),
        created: WallTime(u64::from(number)),
        changed: WallTime(0),
        note: String::new(),
    }
}

fn stored(row: u64, entry: LedgerEntry) -> Record {
    let budget = String::new();
    stored_row(row, &Row::Entry { entry, budget })
}

fn stored_row(row: u64, value: &Row) -> Record {
    let now = Now {
        wall: WallTime(0),
        tick: Tick(0),
    };
    let (mut turn, mut out) = (Turn::new(now), Outbox::default());
    turn.put(Table::Ledger, &key(row), value);
    turn.finish(&mut out);
    let effect = out.drain().next();
    match effect {
        Some(Effect::Persist(mut records)) => records.remove(0),
        other => panic!("{other:?} in place of a record"),
    }
}

#[test]
fn a_whole_report_has_rows_that_left_memory_and_the_newest_state_of_the_others() {
    let records = [
        stored(0, entry(1, EntryState::Settled)),
        stored(1, entry(2, EntryState::Invoiced)),
    ];
    let told = Report {
        entries: vec![
            entry(2, EntryState::Settled),
            entry(3, EntryState::Invoiced),
        ],
        earned: Msat(2_000),
        ..Report::default()
    };
    let whole = whole(told, &records);
    let states: Vec<_> = whole
        .entries
        .iter()
        .map(|entry| (entry.hash.0[0], entry.state))
        .collect();
    let settled = EntryState::Settled;
    assert_eq!(
        states,
        [(1, settled), (2, settled), (3, EntryState::Invoiced)]
    );
    assert_eq!(whole.earned, Msat(2_000));
}

fn account(number: u8, cost: u64) -> OrderAccount {
    OrderAccount {
        order: OrderId([number; 16]),
        side: Side::Buyer,
        counterparty: NodeKey([9; 32]),
        model: crate::ids::ModelDigest([3; 32]),
        counts: Default::default(),
        cost: Msat(cost),
        carried: Msat::ZERO,
        unsure: Msat::ZERO,
        status: crate::wire::order::Status::Complete,
        receipt: None,
    }
}

#[test]
fn a_whole_report_has_orders_and_notes_that_left_memory() {
    let note = |text: &str| Note {
        text: text.to_owned(),
        ..Note::default()
    };
    let at = WallTime(1);
    let records = [
        stored_row(0, &Row::Account(account(1, 100))),
        stored_row(
            1,
            &Row::Closed {
                account: account(2, 200),
                at,
            },
        ),
        stored_row(2, &Row::Note(note("first"))),
        stored_row(3, &Row::Note(note("second"))),
    ];
    let told = Report {
        orders: vec![account(2, 250), account(3, 300)],
        notes: vec![note("second"), note("third")],
        ..Report::default()
    };
    let whole = whole(told, &records);
    let costs: Vec<_> = whole.orders.iter().map(|order| order.cost.0).collect();
    assert_eq!(costs, [100, 250, 300]);
    let words: Vec<_> = whole.notes.iter().map(|note| note.text.as_str()).collect();
    assert_eq!(words, ["first", "second", "third"]);
}

#[test]
fn a_row_that_is_not_read_is_said_and_hides_no_other() {
    let mut ledger = Ledger::default();
    let mut damaged = stored(0, entry(1, EntryState::Settled));
    damaged.value = Some(vec![VERSION + 1]);
    let whole = stored(1, entry(2, EntryState::Settled));
    for record in [&damaged, &whole] {
        let value = record.value.as_deref().unwrap();
        match ledger.read(&record.key, value) {
            Ok((row, value)) => ledger.load(row, value),
            Err(error) => ledger.complain(Now::default(), record, &error),
        }
    }
    ledger.loaded();
    let report = ledger.report();
    assert_eq!((report.notes.len(), report.entries.len()), (1, 1));
    assert!(report.notes[0].text.contains("version"));
    assert_eq!(report.earned, Msat(1_000));
}

#[test]
fn records_that_are_not_read_beyond_a_number_are_counted() {
    let mut ledger = Ledger::default();
    let record = stored(0, entry(1, EntryState::Settled));
    let error = RecordError::Key { bytes: 3 };
    for _ in 0..MAX_COMPLAINTS + 5 {
        ledger.complain(Now::default(), &record, &error);
    }
    let notes = ledger.report().notes;
    assert_eq!(notes.len(), MAX_COMPLAINTS + 1);
    let last = notes.last().map(|note| note.text.as_str());
    assert_eq!(last, Some("5 more records were not read"));
}

#[test]
fn an_order_that_an_older_release_closed_is_a_debt_of_ours() {
    let account = OrderAccount {
        unsure: Msat(500),
        ..account(1, 1_000)
    };
    let record = stored_row(0, &Row::Account(account));
    let mut ledger = Ledger::default();
    let value = record.value.as_deref().unwrap();
    let (row, value) = ledger.read(&record.key, value).unwrap();
    ledger.load(row, value);
    ledger.loaded();
    let now = WallTime(2 * DAY_MS);
    assert_eq!(ledger.owed_to(&NodeKey([9; 32]), now), Msat(1_000));
}

#[test]
fn loading_many_finished_rows_takes_bounded_memory_and_counts_all() {
    let mut ledger = Ledger::default();
    let rows = MAX_ROWS as u64 + 500;
    for row in 0..rows {
        let mut entry = entry(1, EntryState::Settled);
        entry.hash.0[..8].copy_from_slice(&row.to_be_bytes());
        entry.order.0[..8].copy_from_slice(&row.to_be_bytes());
        let record = stored(row, entry);
        let value = record.value.as_deref().unwrap();
        let (row, value) = ledger.read(&record.key, value).unwrap();
        ledger.load(row, value);
        assert!(ledger.loading.done.len() <= MAX_ROWS && ledger.rows.is_empty());
    }
    ledger.loaded();
    assert!(ledger.rows.len() == MAX_ROWS && ledger.settled.len() == MAX_ROWS);
    // The first is known by its hash alone, the last by its row.
    let mut hash = PaymentHash([1; 32]);
    hash.0[..8].copy_from_slice(&0u64.to_be_bytes());
    assert!(ledger.knows(Side::Host, &hash) && ledger.find(Side::Host, &hash).is_none());
    hash.0[..8].copy_from_slice(&(rows - 1).to_be_bytes());
    assert!(ledger.find(Side::Host, &hash).is_some());
    assert_eq!(ledger.report().earned, Msat(rows * 1_000));
    let mut last = OrderId([1; 16]);
    last.0[..8].copy_from_slice(&(rows - 1).to_be_bytes());
    assert_eq!(ledger.received_for(&last), Msat(1_000));
}

#[test]
fn after_a_start_the_oldest_invoices_that_nobody_paid_are_deleted_and_no_payment_is() {
    let mut ledger = Ledger::default();
    let states = [EntryState::Settled, EntryState::Expired];
    for row in 0..2 * (MAX_EXPIRED as u64 + 1) {
        let mut entry = entry(1, states[row as usize % 2]);
        entry.hash.0[..8].copy_from_slice(&row.to_be_bytes());
        let budget = String::new();
        ledger.load(row, Row::Entry { entry, budget });
        ledger.next = row + 1;
    }
    ledger.loaded();
    let (mut turn, mut out) = (Turn::new(Now::default()), Outbox::default());
    ledger.change(Some(&mut turn), 0, |entry| entry.note = "again".to_owned());
    turn.finish(&mut out);
    let Some(Effect::Persist(records)) = out.drain().next() else {
        panic!("it is written");
    };
    let gone = records.iter().filter(|record| record.value.is_none());
    let gone: Vec<_> = gone.map(|record| record.key.clone()).collect();
    assert_eq!(gone, [key(1).to_vec()]);
}

#[test]
fn invoices_that_may_still_be_paid_are_never_deleted() {
    let mut ledger = Ledger::default();
    let mut turn = Turn::new(Now::default());
    for number in 0..MAX_EXPIRED as u64 + 2 {
        let mut entry = entry(1, EntryState::Invoiced);
        entry.hash.0[..8].copy_from_slice(&number.to_be_bytes());
        ledger.append(&mut turn, entry, "");
    }
    ledger.change(Some(&mut turn), 0, |entry| entry.note = "seen".to_owned());
    assert_eq!(ledger.report().entries.len(), MAX_EXPIRED + 2);
}

#[test]
fn what_is_beside_a_row_leaves_memory_with_it_and_totals_stay() {
    let mut ledger = Ledger::default();
    let mut turn = Turn::new(Now::default());
    let mut bought = entry(1, EntryState::Settled);
    (bought.side, bought.fee) = (Side::Buyer, Msat(7));
    ledger.append(&mut turn, bought.clone(), "cli");
    ledger.close(&mut turn, account(1, 1_500));
    let host = NodeKey([9; 32]);
    assert_eq!(ledger.owed_to(&host, WallTime(0)), Msat(500));
    let open = entry(2, EntryState::Invoiced);
    let open_row = ledger.append(&mut turn, open.clone(), "");
    for _ in 0..MAX_ROWS {
        ledger.note(&mut turn, Note::default());
    }
    // An open row stays, whatever comes.
    assert_eq!(ledger.rows.len(), MAX_ROWS + 1);
    assert_eq!(ledger.owed_to(&host, WallTime(0)), Msat::ZERO);
    assert!(!ledger.is_closed(Side::Buyer, &bought.order));
    assert!(ledger.closed.is_empty() && ledger.bought.is_empty());
    assert!(ledger.settled.is_empty());
    assert!(ledger.knows(Side::Buyer, &bought.hash));
    assert!(ledger.find(Side::Buyer, &bought.hash).is_none());
    let report = ledger.report();
    assert_eq!((report.spent, report.fees), (Msat(1_000), Msat(7)));
    // Once it is done it is the oldest, and leaves too.
    ledger.change(Some(&mut turn), open_row, |entry| {
        entry.state = EntryState::Settled;
    });
    assert_eq!(ledger.rows.len(), MAX_ROWS);
    assert!(ledger.find(Side::Host, &open.hash).is_none());
    assert_eq!(ledger.report().earned, Msat(1_000));
}

#[test]
fn deleted_invoices_are_remembered_for_late_money_up_to_a_number() {
    let mut ledger = Ledger::default();
    let mut turn = Turn::new(Now::default());
    let hash = |number: u64| {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&number.to_be_bytes());
        PaymentHash(hash)
    };
    let count = (MAX_EXPIRED + MAX_LATE) as u64;
    for number in 0..=count {
        let mut entry = entry(1, EntryState::Invoiced);
        entry.hash = hash(number);
        let row = ledger.append(&mut turn, entry, "");
        ledger.change(Some(&mut turn), row, |entry| {
            entry.state = EntryState::Expired;
        });
    }
    assert_eq!(
        (ledger.expired.len(), ledger.late.len()),
        (MAX_EXPIRED, MAX_LATE)
    );
    for (number, found) in [(0, false), (1, true), (count, true)] {
        ledger.recall(&mut turn, &hash(number));
        let entry = ledger.find(Side::Host, &hash(number));
        assert_eq!(entry.is_some(), found, "{number}");
    }
}
