//! Listings of others, and what is found among them.

use super::*;

#[test]
fn the_newest_listing_of_an_author_wins_and_relays_add_up() {
    let mut machine = machine();
    let old = manifest(key(2), 500, at(0));
    let new = manifest(key(2), 900, at(10));
    assert_eq!(seen(&mut machine, at(20), new.clone()).len(), 1);
    assert!(seen(&mut machine, at(30), old).is_empty());
    let again = Input::ListingSeen {
        relay: "ws://two".into(),
        author: key(2),
        created: new.created,
        expires: new.expires,
        manifest: new.into(),
    };
    assert_eq!(feed(&mut machine, at(40), again).len(), 1);
    let effects = feed(&mut machine, at(50), Input::List { id: EffectId(9) });
    let (id, subjects) = wanted(&effects).unwrap();
    let mut card = ScoreCard::blank(subjects[0].host, subjects[0].model);
    card.total_ppm = 77;
    let cards = vec![card];
    let effects = feed(&mut machine, at(60), Input::HostsScored { id, cards });
    let Some(Effect::Reply { id, hosts }) = effects.into_iter().next() else {
        panic!("no reply")
    };
    assert_eq!((id, hosts.len()), (EffectId(9), 1));
    assert_eq!(hosts[0].relays, ["ws://one", "ws://two"]);
    assert_eq!(
        hosts[0].manifest.models[0]
            .prices
            .of(crate::money::Meter::OutputToken),
        900_000_000
    );
    assert_eq!(hosts[0].score.total_ppm, 77);
}

#[test]
fn a_listing_without_proof_for_another_network_or_expired_is_ignored() {
    let mut machine = machine();
    let good = manifest(key(2), 500, at(0));
    let wrong = [
        Manifest {
            lightning_proof: "another statement".into(),
            ..good.clone()
        },
        Manifest {
            network: Network::Mainnet,
            ..good.clone()
        },
        Manifest {
            expires: at(0).wall,
            ..good.clone()
        },
        Manifest {
            expires: WallTime(u64::MAX),
            ..good.clone()
        },
        Manifest {
            created: at(3_600_000).wall,
            ..good.clone()
        },
        Manifest {
            models: vec![offer(1); limits::MAX_MODELS + 1],
            ..good.clone()
        },
    ];
    for (n, manifest) in wrong.into_iter().enumerate() {
        assert!(seen(&mut machine, at(1), manifest).is_empty(), "{n}");
    }
    let stolen = Input::ListingSeen {
        relay: "ws://one".into(),
        author: key(3),
        created: good.created,
        expires: good.expires,
        manifest: good.into(),
    };
    assert!(feed(&mut machine, at(1), stolen).is_empty());
    assert_eq!(machine.listed(), 0);
}

#[test]
fn a_host_that_learned_something_new_stays_visible() {
    let listing = manifest(key(2), 500, at(0));
    let json = serde_json::to_string(&listing).unwrap();
    let newer = json
        .replace(r#""roles":["host"#, r#""roles":["oracle","host"#)
        .replace(r#""payment_modes":["#, r#""payment_modes":[{"barter":2},"#)
        .replace(
            r#""models":["#,
            r#""models":[{"name":"hologram","meter":"cubic"},"#,
        );
    assert!(newer.len() > json.len() + 50);
    let read: Manifest = serde_json::from_str(&newer).unwrap();
    assert_eq!(read, listing);
    let other = json.replace(r#""network":"regtest""#, r#""network":"mars""#);
    assert!(serde_json::from_str::<Manifest>(&other).is_err());
    let stored = crate::codec::encode(&listing);
    let back: Manifest = crate::codec::decode(&stored, limits::MAX_MANIFEST_BYTES).unwrap();
    assert_eq!(back, listing);
}

#[test]
fn a_deleted_listing_is_not_brought_back_by_another_relay() {
    let mut machine = machine();
    let listing = manifest(key(2), 500, at(0));
    seen(&mut machine, at(1), listing.clone());
    let deletion = Input::ListingDeleted {
        author: key(2),
        at: at(5).wall,
    };
    assert_eq!(feed(&mut machine, at(6), deletion).len(), 1);
    assert!(seen(&mut machine, at(7), listing).is_empty());
    assert_eq!(machine.listed(), 0);
    seen(&mut machine, at(8), manifest(key(2), 500, at(8)));
    assert_eq!(machine.listed(), 1);
}

#[test]
fn the_least_recently_seen_listing_makes_room() {
    let config = Config {
        max_listings: 3,
        ..Config::new(Network::Regtest)
    };
    let mut machine = Discovery::new(config, Box::new(scheme()), [7; 32]);
    for n in 2..7 {
        seen(&mut machine, at(u64::from(n)), manifest(key(n), 500, at(0)));
    }
    assert_eq!(machine.listed(), 3);
    let mut kept = hosts(&mut machine, at(10), query());
    kept.sort();
    assert_eq!(kept, [key(4), key(5), key(6)]);
}

#[test]
fn listings_survive_a_restart_until_they_expire() {
    let mut machine = machine();
    let mut records = Vec::new();
    for effect in seen(&mut machine, at(0), manifest(key(2), 500, at(0))) {
        if let Effect::Persist(more) = effect {
            records.extend(more);
        }
    }
    let restart = |now| {
        let config = Config::new(Network::Regtest);
        Discovery::recover(
            config,
            Secrets::for_test(scheme(), [7; 32]),
            records.clone().into_iter(),
            now,
        )
    };
    assert_eq!(restart(at(5)).listed(), 1);
    assert_eq!(restart(at(limits::LISTING_TTL_MS)).listed(), 0);
    let mut running = restart(at(5));
    assert!(hosts(&mut running, at(limits::LISTING_TTL_MS), query()).is_empty());
    let swept = wake(&mut running, at(limits::LISTING_TTL_MS));
    assert!(matches!(&swept[..], [Effect::Persist(gone)] if gone[0].value.is_none()));
}

#[test]
fn candidates_are_filtered_by_what_the_order_needs() {
    let mut machine = machine();
    seen(&mut machine, at(0), manifest(key(2), 500, at(0)));
    seen(&mut machine, at(0), manifest(key(3), 400, at(0)));
    let own = scheme().key();
    seen(&mut machine, at(0), manifest(own, 1, at(0)));
    let mut ask = |change: &dyn Fn(&mut Query)| {
        let mut query = query();
        change(&mut query);
        hosts(&mut machine, at(1), query)
    };
    assert_eq!(
        ask(&|_| {}),
        [key(3), key(2)],
        "cheapest first, never this node"
    );
    assert_eq!(ask(&|q| q.model = ModelSelector::Any), [key(3), key(2)]);
    assert_eq!(
        ask(&|q| q.model = ModelSelector::Digest(MODEL)),
        [key(3), key(2)]
    );
    assert_eq!(ask(&|q| q.host = Some(key(2))), [key(2)]);
    assert!(ask(&|q| q.model = ModelSelector::Name("other".into())).is_empty());
    assert!(ask(&|q| q.role = Role::Embedder).is_empty());
    assert!(ask(&|q| q.output_tokens = 513).is_empty());
    assert!(ask(&|q| q.input_bytes = 32 * 2_048).is_empty());
    assert!(
        !ask(&|q| q.input_bytes = 16 * 1_024).is_empty(),
        "a long prompt may be few tokens"
    );
    assert!(
        !ask(&|q| q.input_tokens = 1 << 20).is_empty(),
        "what may be billed excludes nobody"
    );
}

#[test]
fn hosts_are_found_by_the_payment_modes_that_they_list() {
    use PaymentMode::{After, Before, Metered};
    let mut machine = machine();
    let listed: [&[PaymentMode]; 4] = [&[Metered], &[Metered, After], &[Before], &[]];
    for (n, modes) in (2..).zip(listed) {
        let listing = Manifest {
            payment_modes: modes.to_vec(),
            ..manifest(key(n), 500, at(0))
        };
        seen(&mut machine, at(0), listing);
    }
    let mut found = |mode| {
        let mut found = hosts(&mut machine, at(1), Query { mode, ..query() });
        found.sort();
        found
    };
    let sorted = |ns: &[u8]| {
        let mut keys: Vec<NodeKey> = ns.iter().map(|n| key(*n)).collect();
        keys.sort();
        keys
    };
    assert_eq!(found(Metered), sorted(&[2, 3]));
    assert_eq!(found(After), sorted(&[3]));
    assert_eq!(found(Before), sorted(&[4]));
}

#[test]
fn better_scores_come_first_cooled_down_hosts_last_and_caught_ones_only_by_name() {
    let mut machine = machine();
    for n in 2..6 {
        seen(&mut machine, at(0), manifest(key(n), 500, at(0)));
    }
    let mut rank = |pinned: Option<NodeKey>| {
        let query = Query {
            host: pinned,
            ..query()
        };
        let effects = feed(&mut machine, at(1), find(query));
        let (id, subjects) = wanted(&effects).unwrap();
        let cards = subjects
            .iter()
            .map(|one| {
                let mut card = ScoreCard::blank(one.host, one.model);
                let n = one.host.0[0];
                card.total_ppm = u32::from(n) * 1_000;
                card.cooldown = match n {
                    4 => Some((at(90_000).wall, "3 failures in a row".into())),
                    5 => Some((at(9_000_000).wall, "caught".into())),
                    _ => None,
                };
                card
            })
            .collect();
        let effects = feed(&mut machine, at(2), Input::HostsScored { id, cards });
        let hosts = found(effects).unwrap();
        hosts.iter().map(|one| one.host).collect::<Vec<_>>()
    };
    assert_eq!(rank(None), [key(3), key(2), key(4)]);
    assert_eq!(rank(Some(key(5))), [key(5)]);
}

#[test]
fn nobody_is_chosen_without_scores_unless_asked_for_by_key() {
    let mut machine = machine();
    assert_eq!(
        found(feed(&mut machine, at(0), find(query()))),
        Some(Vec::new())
    );
    seen(&mut machine, at(0), manifest(key(2), 500, at(0)));
    let effects = feed(&mut machine, at(1), find(query()));
    let (asked, _) = wanted(&effects).unwrap();
    let named = Query {
        host: Some(key(2)),
        ..query()
    };
    feed(&mut machine, at(1), find(named));
    let id = EffectId(7);
    let effects = feed(&mut machine, at(1), Input::List { id });
    assert!(wanted(&effects).is_some());
    let effects = wake(&mut machine, at(2_001));
    assert!(matches!(&effects[..], [Effect::Reply { hosts, .. }] if hosts.len() == 1));
    // Its conviction may be what did not come.
    let effects = wake(&mut machine, at(10_001));
    assert!(effects.contains(&Effect::Follow(MODEL)));
    let all = effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Tell(Message::CandidatesFound { .. })));
    assert_eq!(all.count(), 1);
    assert_eq!(found(effects).unwrap().len(), 1);
    let late = Input::HostsScored {
        id: asked,
        cards: Vec::new(),
    };
    assert!(feed(&mut machine, at(10_002), late).is_empty());
}

#[test]
fn candidates_are_bounded_and_so_are_tickets() {
    let mut machine = machine();
    for n in 2..60 {
        seen(&mut machine, at(0), manifest(key(n), 500, at(0)));
    }
    assert_eq!(
        hosts(&mut machine, at(1), query()).len(),
        limits::MAX_CANDIDATES
    );
    for _ in 0..limits::MAX_TICKETS {
        assert!(found(feed(&mut machine, at(1), find(query()))).is_none());
    }
    let more = feed(&mut machine, at(1), find(query()));
    assert!(more.is_empty(), "nobody is chosen unseen: {more:?}");
}

#[test]
fn validators_that_have_the_model_come_first() {
    let mut machine = machine();
    let validator = |n| Manifest {
        roles: vec![Role::Validator],
        ..manifest(key(n), 500, at(0))
    };
    seen(
        &mut machine,
        at(0),
        Manifest {
            models: Vec::new(),
            ..validator(2)
        },
    );
    seen(&mut machine, at(0), validator(3));
    seen(&mut machine, at(0), manifest(key(4), 500, at(0)));
    let effects = feed(
        &mut machine,
        at(1),
        Input::FindValidators {
            id: EffectId(8),
            model: MODEL,
        },
    );
    let effects = scored(&mut machine, at(2), &effects, &[]);
    let [Effect::Tell(Message::ValidatorsFound { id, hosts })] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(*id, EffectId(8));
    assert_eq!(
        hosts.iter().map(|one| one.host).collect::<Vec<_>>(),
        [key(3), key(2)]
    );
}

#[test]
fn a_pulse_counts_only_from_the_host_itself_and_not_too_often() {
    let mut machine = machine();
    seen(&mut machine, at(0), manifest(key(2), 400, at(0)));
    seen(&mut machine, at(0), manifest(key(3), 500, at(0)));
    let full = |ms: u64, running| Pulse {
        host: key(2),
        model: MODEL,
        running,
        queued: 2 * running,
        slots: 1,
        time: at(ms).wall,
    };
    let pulse = |from, pulse| Input::PulseSeen { from, pulse };
    for from in [None, Some(key(3))] {
        feed(&mut machine, at(1), pulse(from, full(1, 1)));
        assert_eq!(hosts(&mut machine, at(2), query()), [key(2), key(3)]);
    }
    feed(&mut machine, at(3), pulse(Some(key(2)), full(3, 1)));
    assert_eq!(
        hosts(&mut machine, at(4), query()),
        [key(3), key(2)],
        "a full host comes last"
    );
    feed(&mut machine, at(5), pulse(Some(key(2)), full(5, 0)));
    assert_eq!(
        hosts(&mut machine, at(6), query()),
        [key(3), key(2)],
        "too soon"
    );
    feed(
        &mut machine,
        at(60_000),
        pulse(Some(key(2)), full(60_000, 0)),
    );
    assert_eq!(hosts(&mut machine, at(60_001), query()), [key(2), key(3)]);
    feed(
        &mut machine,
        at(120_000),
        pulse(Some(key(2)), full(120_000, 1)),
    );
    assert_eq!(hosts(&mut machine, at(120_001), query()), [key(3), key(2)]);
    assert_eq!(
        hosts(&mut machine, at(300_001), query()),
        [key(2), key(3)],
        "too old"
    );
}
