//! Orders on disk: read back, closed, retained.

use super::*;

fn record(number: u8) -> OrderRecord {
    OrderRecord {
        side: Side::Buyer,
        counterparty: NodeKey([1; 32]),
        model: ModelDigest([2; 32]),
        digest: Digest([number; 32]),
        order: None,
        terms: None,
        tokens: Vec::new(),
        invoices: Vec::new(),
        paid: Vec::new(),
        receipt: None,
        countersigned: None,
        counts: Counts::default(),
        cost: Msat::ZERO,
        carried: Msat::ZERO,
        status: None,
        started: WallTime(0),
    }
}

fn token(id: u32) -> ChainedToken {
    ChainedToken {
        id,
        logits: crate::wire::chain::NO_LOGITS,
        piece: crate::wire::chain::Piece::text(*b"x"),
    }
}

fn read(rows: &[Record]) -> Vec<Unfinished> {
    let mut disk = BTreeMap::new();
    for row in rows.iter().filter(|row| row.table == Table::OpenOrders) {
        match &row.value {
            Some(value) => disk.insert(row.key.clone(), value.clone()),
            None => disk.remove(&row.key),
        };
    }
    let mut reader = Reader::default();
    disk.iter().for_each(|(key, value)| reader.take(key, value));
    reader.finish()
}

#[test]
fn an_open_order_is_read_back_from_its_parts() {
    let mut order = record(1);
    let mut journal = Journal::new(Side::Buyer, order.id());
    let mut rows = journal.begin(&order);
    for id in 0..300 {
        order.tokens.push(token(id));
        order.counts.output_tokens += 1;
        rows.extend(journal.add(&order.tokens, &[], order.counts, order.cost));
    }
    let [Unfinished::Running { record, .. }] = &read(&rows)[..] else {
        panic!("one order ran");
    };
    assert_eq!(**record, order);
    // Each token was written once.
    let bytes: usize = rows
        .iter()
        .filter_map(|row| row.value.as_ref())
        .map(Vec::len)
        .sum();
    assert!(bytes < 300 * 60, "{bytes}");
}

#[test]
fn a_closed_order_leaves_only_what_payment_must_know() {
    let order = record(1);
    let mut journal = Journal::new(Side::Buyer, order.id());
    let mut rows = journal.begin(&order);
    rows.extend(journal.add(&[], &[], order.counts, order.cost));
    let closing = Closing {
        account: order.account(),
        unpaid: Msat::ZERO,
    };
    rows.extend(journal.close(&closing));
    let [Unfinished::Closing(found)] = &read(&rows)[..] else {
        panic!("one order is closing");
    };
    assert_eq!(**found, closing);
    rows.push(closed(Side::Buyer, &order.id()));
    assert!(read(&rows).is_empty());
}

#[test]
fn what_follows_no_order_or_does_not_decode_is_passed_over() {
    let mut order = record(1);
    let mut journal = Journal::new(Side::Buyer, order.id());
    let mut rows = journal.begin(&order);
    order.tokens.push(token(1));
    rows.extend(journal.add(&order.tokens, &[], order.counts, order.cost));
    order.tokens.push(token(2));
    rows.extend(journal.add(&order.tokens, &[], order.counts, order.cost));
    // Without the first row there is no order, without another a part of it.
    assert!(read(&rows[1..]).is_empty());
    let mut damaged = rows.clone();
    damaged[1].value = Some(vec![255]);
    let found = read(&damaged);
    let [Unfinished::Running { record, .. }] = &found[..] else {
        panic!("one order ran");
    };
    assert_eq!(record.tokens, [token(2)]);
    // It is ended with all of its rows, and those of another side are another order's.
    let other = OrderRecord {
        side: Side::Host,
        ..order.clone()
    };
    rows.extend(Journal::new(Side::Host, other.id()).begin(&other));
    let mut found = read(&rows);
    assert_eq!(found.len(), 2);
    let Unfinished::Running { record, journal } = &mut found[0] else {
        panic!("the buyer's side comes first");
    };
    assert!(journal.is_open() && record.side == Side::Buyer);
    let closing = Closing {
        account: record.account(),
        unpaid: Msat::ZERO,
    };
    let status = closing.account.status;
    assert_eq!(status, Status::Failed(Code::Interrupted));
    let ends = journal.close(&closing);
    assert!(!journal.is_open());
    rows.extend(ends);
    let left = read(&rows);
    assert!(matches!(
        &left[..],
        [Unfinished::Closing(_), Unfinished::Running { .. }]
    ));
    let open = rows.iter().filter(|row| row.value.is_none());
    assert_eq!(open.count(), 3, "each row that was written");
}

#[test]
fn evidence_needs_an_order_and_its_terms() {
    assert_eq!(record(1).bundle(), None);
    let whole = interrupted(2_000, None, &[(1_000, 3_000)]);
    let bundle = whole.clone().bundle().unwrap();
    assert_eq!(Some(bundle.order), whole.order);
    assert_eq!(
        (Some(bundle.terms), bundle.invoices),
        (whole.terms.clone(), whole.invoices.clone())
    );
    let forgotten = OrderRecord {
        order: None,
        ..whole
    };
    assert_eq!(forgotten.bundle(), None);
}

#[test]
fn a_start_finds_what_was_kept_and_a_sweep_deletes_some_at_a_time() {
    let keep = Keep {
        days: 10,
        bytes: 1 << 20,
    };
    let mut kept = Retained::default();
    let mut rows = Vec::new();
    for number in 0..SWEEP_ORDERS as u64 + 3 {
        let mut order = record(1);
        order.digest.0[..8].copy_from_slice(&number.to_be_bytes());
        rows.extend(kept.keep(&order, WallTime(5 * DAY_MS)));
        // Written again, as with its countersignature, it is one order.
        rows.extend(kept.keep(&order, WallTime(5 * DAY_MS)));
    }
    let mut found = Retained::default();
    assert!(found.is_empty());
    for row in rows.iter().filter(|row| row.table == Table::Retained) {
        found.restore(&row.key, row.value.as_ref().unwrap());
    }
    for retained in [&mut kept, &mut found] {
        assert_eq!(
            (retained.len(), retained.is_empty()),
            (SWEEP_ORDERS + 3, false)
        );
        // Ten days are not over yet.
        assert_eq!(retained.sweep(keep, WallTime(15 * DAY_MS)), []);
        let gone = retained.sweep(keep, WallTime(16 * DAY_MS));
        assert_eq!((gone.len(), retained.len()), (2 * SWEEP_ORDERS, 3));
        let pair = (gone[0].table, gone[1].table);
        assert_eq!(pair, (Table::Orders, Table::Retained));
        assert!(rows.iter().any(|row| row.key == gone[0].key));
        let rest = retained.sweep(keep, WallTime(16 * DAY_MS));
        assert_eq!((rest.len(), retained.len()), (6, 0));
    }
}

#[test]
fn no_more_bytes_are_kept_than_was_said() {
    let mut retained = Retained::default();
    let mut bytes = 0;
    for number in 0..4 {
        let rows = retained.keep(&record(number), WallTime(0));
        bytes = rows[0].value.as_ref().unwrap().len() as u64;
    }
    let keep = |bytes| Keep { days: 10, bytes };
    assert_eq!(retained.sweep(keep(4 * bytes), WallTime(0)), []);
    assert_eq!(retained.sweep(keep(4 * bytes - 1), WallTime(0)).len(), 2);
    assert_eq!(retained.sweep(keep(3 * bytes), WallTime(0)), []);
    assert_eq!(retained.sweep(keep(bytes), WallTime(0)).len(), 4);
    assert_eq!(retained.len(), 1);
}

/// Eight tokens of 64 came, at 250 msat each; the window is the host's.
fn interrupted(window: u64, entry: Option<u64>, invoices: &[(u64, u64)]) -> OrderRecord {
    use crate::crypto::{Crypto, Secp};
    use crate::wire::envelope::{Body, Network};
    use crate::wire::order::EntryInvoice;
    let key = Secp::from_secret(&[1; 32]).unwrap();
    fn seal<T: Body>(key: &Secp, body: &T) -> Signed {
        let to = Some(key.key());
        Signed::seal(key, Network::Regtest, to, WallTime(1), [1; 16], body)
    }
    let counts = Counts {
        output_tokens: 8,
        ..Counts::default()
    };
    let order = crate::wire::testing::order_body();
    let terms = Terms {
        order: Digest([0; 32]),
        input: Counts::default(),
        prices: crate::money::Prices::chat(0, 250_000_000),
        window: Msat(window),
        quantum: Msat(1_000),
        carried_debt: Msat::ZERO,
        entry: entry.map(|msat| EntryInvoice {
            bolt11: String::new(),
            msat: Msat(msat),
        }),
        numerics: None,
        tokenizer: Digest([0; 32]),
        template: Digest([0; 32]),
        starts_within_ms: 0,
        expires: WallTime(1),
        extensions: Vec::new(),
    };
    let invoices = (1..).zip(invoices).map(|(seq, (msat, window))| Invoice {
        order: OrderId([0; 16]),
        seq,
        bolt11: String::new(),
        msat: Msat(*msat),
        covers: counts,
        invoiced: Msat(*msat),
        head: Digest([0; 32]),
        window: Msat(*window),
        extensions: Vec::new(),
    });
    OrderRecord {
        order: Some(seal(&key, &order)),
        terms: Some(seal(&key, &terms)),
        invoices: invoices.map(|invoice| seal(&key, &invoice)).collect(),
        counts,
        ..record(1)
    }
}

#[test]
fn an_interrupted_order_may_owe_a_window_and_what_may_have_been_paid_since() {
    // A step may have been invoiced and paid that was not written down any more.
    assert_eq!(interrupted(2_000, None, &[]).unsure(), Msat(3_000));
    // So may the entry.
    assert_eq!(interrupted(2_000, Some(1_500), &[]).unsure(), Msat(3_500));
    // The window is the one of the last invoice; each may have been paid after it.
    let two = interrupted(2_000, None, &[(1_000, 3_000), (1_200, 4_000)]);
    assert_eq!(two.unsure(), Msat(4_000 + 2_200 + 1_000));
    // As many as can be under way at once, and no more than was ordered.
    let many = interrupted(0, None, &[(500, 0); 20]);
    assert_eq!(many.unsure(), Msat(8 * 500 + 1_000));
    let all = interrupted(1 << 60, None, &[]);
    assert_eq!(all.unsure(), Msat(56 * 250));
    // A host's own record, or one of an order that was forgotten, says nothing.
    let host = OrderRecord {
        side: Side::Host,
        ..interrupted(2_000, None, &[])
    };
    assert_eq!(host.unsure(), Msat::ZERO);
    assert_eq!(record(1).unsure(), Msat::ZERO);
}

#[test]
fn the_oldest_orders_are_deleted_by_age_and_by_bytes() {
    let keep = Keep {
        days: 10,
        bytes: 1 << 20,
    };
    let mut retained = Retained::default();
    for number in 0..20 {
        let order = record(number);
        let rows = retained.keep(&order, WallTime(u64::from(number) * DAY_MS));
        assert_eq!(rows[0].key, order_key(Side::Buyer, &order.id()));
    }
    let gone = retained.sweep(keep, WallTime(19 * DAY_MS));
    assert_eq!(retained.len(), 11);
    assert!(gone.iter().all(|row| row.value.is_none()));
    let none = Keep { bytes: 0, ..keep };
    retained.sweep(none, WallTime(19 * DAY_MS));
    assert!(retained.is_empty());
}
