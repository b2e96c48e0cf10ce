//! Orders that nobody paid for: how many a host holds, and which give way.

use super::*;

#[test]
fn free_answers_are_no_unpaid_orders() {
    let free = ModelOffer {
        prices: Prices::chat(0, 0),
        ..offer()
    };
    let mut machine = host_of(free);
    for n in 0..2 * MAX_VOID_PER_MINUTE as u16 {
        let (ms, stream) = (u64::from(n) * 10, u64::from(n));
        let signed = order(n);
        let effects = arrives(&mut machine, ms, stream, 1, &signed);
        assert_eq!(refusals(&effects), [], "order {n}");
        accepts(&mut machine, ms, stream, &effects);
        let produced = Input::Produced {
            order: OrderId::of(&signed.digest()),
            tokens: vec![token(1)],
            finish: Some(Finish::Stop),
            attached: Default::default(),
        };
        feed(&mut machine, ms + 1, produced);
        let stream = StreamId(stream);
        feed(&mut machine, ms + 2, Input::Closed { stream });
        assert_eq!(machine.active(), 0);
    }
}

#[test]
fn a_peer_that_never_pays_is_soon_refused_and_others_are_not() {
    let mut machine = host();
    let mut taken = 0;
    for n in 0..200 {
        let effects = arrives(&mut machine, 0, u64::from(n), 1, &order(n));
        taken += usize::from(refusals(&effects).is_empty());
        let (stream, frame) = (StreamId(u64::from(n)), Box::new(Frame::Cancel));
        feed(&mut machine, 0, Input::Received { stream, frame });
    }
    assert_eq!(taken, MAX_VOID_PER_MINUTE as usize);
    let other = arrives(&mut machine, 0, 500, 2, &order(500));
    assert_eq!(refusals(&other), []);
    // A minute later it may try again.
    let mut out = Outbox::default();
    machine.expire(at(61_000), &mut out);
    let again = arrives(&mut machine, 61_000, 501, 1, &order(501));
    assert_eq!(refusals(&again), []);
}

#[test]
fn nothing_is_written_for_who_has_not_paid() {
    let mut machine = host();
    let mut all = arrives(&mut machine, 0, 1, 1, &order(1));
    all.extend(accepts(&mut machine, 1, 1, &all));
    all.extend(cancels(&mut machine, 2, 1));
    assert_eq!(writes(&all), []);
    // The order is told to Payment, which has nothing to book.
    assert_eq!(machine.active(), 0);
}

#[test]
fn orders_without_a_payment_leave_no_nonce_and_those_on_credit_half_of_them() {
    let mut machine = host();
    let mut written = 0;
    for n in 0..200 {
        let stream = u64::from(n);
        let effects = arrives(&mut machine, 0, stream, n, &order(n));
        written += writes(&effects).len() + writes(&cancels(&mut machine, 0, stream)).len();
    }
    assert_eq!(written, 0);
    let credit = limits::MAX_NONCES / 2;
    for n in 0..credit as u64 {
        let mut key = [0; 48];
        key[..8].copy_from_slice(&n.to_be_bytes());
        let forget = crate::codec::encode(&at(700_000).wall);
        machine.replay.restore(&key, &forget);
    }
    let terms = arrives_with(&mut machine, 1, 900, 1, &order(900), WINDOW);
    let full = accepts(&mut machine, 1, 900, &terms);
    assert_eq!(refusals(&full), [Code::TooManyUnpaid]);
    // Whoever pays is served.
    let signed = order(901);
    let terms = arrives(&mut machine, 2, 901, 2, &signed);
    accepts(&mut machine, 2, 901, &terms);
    let effects = entry_paid(&mut machine, 3, &signed);
    assert!(begins(&effects));
    assert_eq!(writes(&effects)[0].table, Table::OpenOrders);
    assert!(
        writes(&effects)
            .iter()
            .any(|record| record.table == Table::Nonces)
    );
}

#[test]
fn known_keys_that_pay_nothing_are_counted_as_void() {
    let mut machine = host();
    let mut taken = 0;
    for n in 0..200 {
        let stream = u64::from(n);
        // Another peer each time, always the same key.
        let effects = arrives_with(&mut machine, 0, stream, n, &order(n), WINDOW);
        taken += usize::from(refusals(&effects).is_empty());
        cancels(&mut machine, 0, stream);
    }
    assert_eq!(taken, MAX_VOID_PER_MINUTE as usize);
}

#[test]
fn an_accepted_order_gives_way_only_when_its_payment_should_have_come() {
    let mut machine = host();
    for n in 0..MAX_UNPAID as u16 {
        let stream = u64::from(n);
        let effects = arrives(&mut machine, 0, stream, n, &order(n));
        accepts(&mut machine, 0, stream, &effects);
    }
    let refused = arrives(&mut machine, 1, 900, 900, &order(900));
    assert_eq!(refusals(&refused), [Code::TooManyUnpaid]);
    let looks = |effect: &Effect| matches!(effect, Effect::CountPrompt { .. });
    assert!(
        !refused.iter().any(looks),
        "it is the newcomer that is refused"
    );
    assert_eq!(machine.active(), MAX_UNPAID);
    let later = arrives(&mut machine, ENTRY_GRACE_MS, 901, 901, &order(901));
    // One was told that it gave way, the newcomer has its terms.
    assert_eq!(refusals(&later), [Code::TooManyUnpaid]);
    assert_eq!(machine.active(), MAX_UNPAID);
    let effects =
        |effect: &Effect| matches!(effect, Effect::Send { frame, .. } if frame.name() == "terms");
    assert!(later.iter().any(effects));
}

#[test]
fn orders_that_cost_less_than_a_msat_stand_one_at_a_time_and_are_void() {
    let mut machine = machine(1);
    let limits = HostLimits {
        concurrent_orders: 4,
        queued_orders: 8,
        prompt_tokens: 1_024,
        output_tokens: 512,
    };
    let mut offer = offer();
    // Eight tokens of input and 64 of output: 0.1 msat.
    offer.prices = Prices::chat(1_000, 1_500);
    feed(
        &mut machine,
        0,
        Input::Serve(vec![Served { offer, limits }]),
    );
    assert_eq!(refusals(&arrives(&mut machine, 0, 1, 1, &order(1))), []);
    let second = arrives(&mut machine, 0, 2, 2, &order(2));
    assert_eq!(refusals(&second), [Code::TooManyUnpaid]);
    // Who has credit is none of them.
    let known = arrives_with(&mut machine, 0, 4, 4, &order(4), WINDOW);
    assert_eq!(refusals(&known), []);
    cancels(&mut machine, 1, 1);
    assert_eq!(refusals(&arrives(&mut machine, 1, 3, 3, &order(3))), []);
}

#[test]
fn twelve_orders_of_one_peer_at_once_get_terms() {
    let mut machine = host();
    for n in 0..12 {
        let effects = arrives(&mut machine, 0, u64::from(n), 1, &order(n));
        assert_eq!(refusals(&effects), [], "order {n}");
        terms_of(&effects);
    }
    let more = arrives(&mut machine, 0, 12, 1, &order(12));
    assert_eq!(refusals(&more), [Code::TooManyUnpaid]);
}

#[test]
fn unpaid_orders_hold_no_place_and_the_oldest_gives_way() {
    let mut machine = host();
    let mut evicted = 0;
    for n in 0..MAX_UNPAID as u16 + 10 {
        let effects = arrives(&mut machine, u64::from(n), u64::from(n), n, &order(n));
        let codes = refusals(&effects);
        // The newcomer has its terms; whoever gave way is told so.
        assert!(
            codes.iter().all(|code| *code == Code::TooManyUnpaid),
            "{codes:?}"
        );
        for effect in &effects {
            if let Effect::Send { stream, frame } = effect
                && frame.name() == "refusal"
            {
                assert_eq!(stream.0, evicted, "the one that came first");
                evicted += 1;
            }
        }
        let terms = |effect: &Effect| matches!(effect, Effect::Send { frame, .. } if frame.name() == "terms");
        assert_eq!(effects.iter().filter(|effect| terms(effect)).count(), 1);
    }
    assert_eq!((machine.active(), evicted), (MAX_UNPAID, 10));
}

#[test]
fn an_order_that_runs_on_credit_gives_way_to_nobody() {
    let mut machine = host_with_queue(4);
    let terms = arrives_with(&mut machine, 0, 900, 900, &order(900), WINDOW);
    assert!(begins(&accepts(&mut machine, 1, 900, &terms)));
    let later = ENTRY_GRACE_MS + 10;
    for n in 0..MAX_UNPAID as u16 {
        let stream = u64::from(n);
        let effects = arrives(&mut machine, later, stream, n, &order(n));
        assert_eq!(refusals(&effects), []);
        accepts(&mut machine, later, stream, &effects);
    }
    let refused = arrives(&mut machine, later, 901, 901, &order(901));
    assert_eq!(refusals(&refused), [Code::TooManyUnpaid]);
    assert_eq!(machine.active(), MAX_UNPAID + 1);
}

#[test]
fn an_unpaid_order_counts_with_all_its_bytes() {
    let mut machine = host();
    let orders = [order(1), order(2)];
    for (n, signed) in (1..).zip(&orders) {
        arrives(&mut machine, 0, n, n as u16, signed);
    }
    let held: usize = machine.hosts.values().map(HostOrder::bytes).sum();
    let sent: usize = orders.iter().map(|signed| signed.bytes.len()).sum();
    assert_eq!(held, sent);
}

#[test]
fn an_order_of_a_key_that_paid_stands_apart_from_strangers_before_credit_is_looked_up() {
    let mut machine = host_with_queue(4);
    let of_payer = |n| order_by(3, n, PaymentMode::Metered, Msat(1_000_000));
    let counted_first = |effects: &[Effect]| {
        let counts = |effect: &Effect| match effect {
            Effect::CountPrompt { payer, .. } => Some(*payer),
            _ => None,
        };
        effects.iter().find_map(counts)
    };
    // Its first order is a stranger's. It pays 1,800 msat: a step of 1,000, and not two.
    let terms = arrives(&mut machine, 0, 9_000, 9_000, &of_payer(1));
    assert_eq!(counted_first(&terms), Some(false));
    accepts(&mut machine, 0, 9_000, &terms);
    assert!(begins(&entry_paid(&mut machine, 0, &of_payer(1))));
    let stream = StreamId(9_000);
    feed(&mut machine, 1, Input::Closed { stream });
    // One peer has as many orders as a stranger may, and others fill the places of strangers.
    for n in 0..MAX_UNPAID_PER_PEER as u16 {
        let effects = comes(&mut machine, 2, u64::from(n), caller(1), &order(n));
        assert_eq!(refusals(&effects), []);
    }
    for n in 100..100 + MAX_UNPAID as u16 {
        comes(&mut machine, 3, u64::from(n), caller(n), &order(n));
    }
    for n in 0..MAX_UNPAID_PER_PEER as u16 {
        let n = 1_000 + n;
        comes(&mut machine, 4, u64::from(n), caller(1), &order(n));
    }
    assert_eq!(machine.active(), MAX_UNPAID);
    let refused = comes(&mut machine, 5, 2_000, caller(1), &order(2_000));
    assert_eq!(refusals(&refused), [Code::TooManyUnpaid]);
    // From that very peer an order of the key is taken, and nobody gives way to it.
    let taken = comes(&mut machine, 5, 9_001, caller(1), &of_payer(2));
    assert_eq!(counted_first(&taken), Some(true));
    assert_eq!(refusals(&taken), []);
    assert_eq!(machine.active(), MAX_UNPAID + 1);
    // It paid for no more at once.
    let second = comes(&mut machine, 5, 9_002, caller(9_002), &of_payer(3));
    assert_eq!(counted_first(&second), Some(false));
    // However many come, it stays, also where no credit is left for it.
    let order_id = OrderId::of(&of_payer(2).digest());
    let stands = |machine: &Inference| machine.hosts.contains_key(&order_id);
    for n in 3_000..3_000 + 2 * MAX_UNPAID as u16 {
        comes(&mut machine, 6, u64::from(n), caller(n), &order(n));
    }
    assert!(stands(&machine));
    let id = machine.hosts.get(&order_id).map(|order| order.state);
    let Some(HostState::Counting(id)) = id else {
        panic!("{id:?}");
    };
    let result = Ok(PromptFacts {
        tokens: 8,
        cached: 0,
        longest: 8,
        digest: Digest([3; 32]),
    });
    feed(&mut machine, 7, Input::Counted { id, result });
    let credit = Credit {
        window: Msat::ZERO,
        prepay: true,
        debt: Msat::ZERO,
    };
    let (order_of, result) = (order_id, Ok(credit));
    let opened = Input::CreditOpened {
        order: order_of,
        result,
    };
    feed(&mut machine, 7, opened);
    for n in 5_000..5_000 + 2 * MAX_UNPAID as u16 {
        comes(&mut machine, 8, u64::from(n), caller(n), &order(n));
    }
    assert!(stands(&machine));
    assert_eq!(machine.active(), MAX_UNPAID + 1);
}

#[test]
fn orders_of_keys_that_paid_give_way_to_each_other_and_are_bounded_for_each_peer() {
    let mut machine = host_with_queue(20);
    let of_payer = |n| order_by(3, n, PaymentMode::Metered, Msat(1_000_000));
    machine.payers.paid(keys(3).key(), Msat(1_000_000));
    let stranger = comes(&mut machine, 0, 1, caller(1), &order(1));
    assert_eq!(refusals(&stranger), []);
    // As many orders of one peer may be unpaid as there are places.
    let most = 21;
    for n in 0..most {
        let effects = comes(&mut machine, 0, 10 + u64::from(n), caller(2), &of_payer(n));
        assert_eq!(refusals(&effects), [], "{n}");
    }
    let over = comes(&mut machine, 0, 99, caller(2), &of_payer(99));
    assert_eq!(refusals(&over), [Code::TooManyUnpaid]);
    for n in 100..100 + MAX_UNPAID as u16 {
        comes(&mut machine, 1, u64::from(n), caller(n), &of_payer(n));
    }
    assert_eq!(machine.active(), MAX_UNPAID + 1);
    let stranger = OrderId::of(&order(1).digest());
    assert!(machine.hosts.contains_key(&stranger));
}

#[test]
fn who_gave_way_to_a_flood_is_not_counted_as_unpaid() {
    let mut machine = host();
    let mut number = 0;
    let mut arrive = |machine: &mut Inference, from: u16| {
        number += 1;
        let (ms, signed) = (u64::from(number), order(number));
        arrives_from(machine, ms, ms, neighbour(from), &signed, Msat::ZERO)
    };
    for _ in 0..=MAX_VOID_PER_MINUTE {
        let effects = arrive(&mut machine, 1);
        let looks = |effect: &Effect| matches!(effect, Effect::CountPrompt { .. });
        assert!(effects.iter().any(looks), "{:?}", refusals(&effects));
        // Others of its address push it out.
        for from in 0..MAX_UNPAID_PER_ADDRESS as u16 {
            arrive(&mut machine, 1_000 + from);
        }
    }
}

#[test]
fn unpaid_orders_of_an_address_give_way_to_its_newer_ones_and_to_no_other_address() {
    let mut machine = host();
    let elsewhere = arrives(&mut machine, 0, 999, 999, &order(999));
    assert_eq!(refusals(&elsewhere), []);
    let mut evicted = Vec::new();
    for n in 0..3 * MAX_UNPAID_PER_ADDRESS as u16 {
        let (ms, stream) = (1 + u64::from(n), u64::from(n));
        let signed = order(n);
        let effects = arrives_from(&mut machine, ms, stream, neighbour(n), &signed, Msat::ZERO);
        evicted.extend(effects.iter().filter_map(|effect| match effect {
            Effect::Close { stream } => Some(stream.0),
            _ => None,
        }));
    }
    assert_eq!(machine.active(), MAX_UNPAID_PER_ADDRESS + 1);
    let first: Vec<u64> = (0..2 * MAX_UNPAID_PER_ADDRESS as u64).collect();
    assert_eq!(evicted, first, "the oldest go first");
    // Where all of them are accepted, their payments may be on their way.
    let mut machine = host();
    for n in 0..MAX_UNPAID_PER_ADDRESS as u16 {
        let stream = u64::from(n);
        let terms = arrives_from(&mut machine, 0, stream, neighbour(n), &order(n), Msat::ZERO);
        accepts(&mut machine, 0, stream, &terms);
    }
    let refused = arrives_from(&mut machine, 1, 99, neighbour(99), &order(99), Msat::ZERO);
    assert_eq!(refusals(&refused), [Code::TooManyUnpaid]);
    assert_eq!(
        refusals(&arrives(&mut machine, 1, 999, 999, &order(999))),
        []
    );
}

#[test]
fn an_address_that_never_pays_is_offered_nothing_for_a_while_and_who_has_credit_is() {
    let mut machine = host();
    let mut offered = 0;
    let offers = |effects: &[Effect]| {
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::Send { frame, .. } if frame.name() == "terms"))
    };
    for n in 0..2 * MAX_VOID_PER_ADDRESS as u16 {
        let stream = u64::from(n);
        let signed = order(n);
        let effects = arrives_from(&mut machine, 0, stream, neighbour(n), &signed, Msat::ZERO);
        offered += u32::from(offers(&effects));
        cancels(&mut machine, 0, stream);
    }
    assert_eq!(offered, MAX_VOID_PER_ADDRESS);
    let refused = arrives_from(
        &mut machine,
        1,
        700,
        neighbour(700),
        &order(700),
        Msat::ZERO,
    );
    assert_eq!(refusals(&refused), [Code::TooManyUnpaid]);
    let known = arrives_from(&mut machine, 1, 701, neighbour(701), &order(701), WINDOW);
    assert!(offers(&known));
    assert!(offers(&arrives(&mut machine, 1, 702, 702, &order(702))));
    // A minute later strangers of that address are strangers like others.
    let mut out = Outbox::default();
    machine.expire(at(61_000), &mut out);
    let again = arrives_from(
        &mut machine,
        61_000,
        703,
        neighbour(703),
        &order(703),
        Msat::ZERO,
    );
    assert!(offers(&again));
}
