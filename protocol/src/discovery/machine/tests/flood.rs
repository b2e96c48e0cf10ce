//! A market full of listings that nobody knows.

use super::*;
use std::sync::Arc;

/// `count` listings at `price`, from the key `first` on.
fn flood(machine: &mut Discovery, now: Now, relay: &str, keys: std::ops::Range<u16>, price: u64) {
    for n in keys {
        seen_at(machine, now, relay, manifest(many(n), price, now));
    }
}

fn find_with(machine: &mut Discovery, now: Now, served: &[NodeKey]) -> Vec<NodeKey> {
    let effects = feed(machine, now, find(query()));
    let effects = scored(machine, now, &effects, served);
    let hosts = found(effects).unwrap();
    hosts.iter().map(|one| one.host).collect()
}

#[test]
fn cheap_listings_do_not_hide_hosts_that_served() {
    for price in [0, 1] {
        let mut machine = machine();
        flood(&mut machine, at(0), "ws://one", 0..300, price);
        flood(&mut machine, at(0), "ws://one", 1_000..1_020, 500);
        let good: Vec<NodeKey> = (1_000..1_020).map(many).collect();
        let hosts = find_with(&mut machine, at(1), &good);
        assert_eq!(hosts.len(), limits::MAX_CANDIDATES);
        let kept = hosts.iter().filter(|host| good.contains(host)).count();
        assert_eq!(kept, limits::MAX_CANDIDATES / 2);
        assert!(good.contains(&hosts[0]), "by score, not by price");
    }
}

#[test]
fn few_strangers_leave_the_places_to_hosts_that_served() {
    let mut machine = machine();
    flood(&mut machine, at(0), "ws://one", 0..5, 1);
    flood(&mut machine, at(0), "ws://one", 1_000..1_040, 500);
    let good: Vec<NodeKey> = (1_000..1_040).map(many).collect();
    let hosts = find_with(&mut machine, at(1), &good);
    let kept = hosts.iter().filter(|host| good.contains(host)).count();
    assert_eq!((hosts.len(), kept), (limits::MAX_CANDIDATES, 27));
}

#[test]
fn half_of_the_strangers_are_the_cheapest_and_half_are_drawn() {
    let mut machine = machine();
    flood(&mut machine, at(0), "ws://one", 0..100, 1);
    flood(&mut machine, at(0), "ws://one", 1_000..1_100, 500);
    let mut dear = std::collections::BTreeSet::new();
    for n in 1..20 {
        let hosts = find_with(&mut machine, at(n), &[]);
        assert_eq!(hosts.len(), limits::MAX_CANDIDATES);
        let more: Vec<NodeKey> = hosts
            .into_iter()
            .filter(|host| *host >= many(1_000))
            .collect();
        assert!(more.len() <= limits::MAX_CANDIDATES / 2);
        dear.extend(more);
    }
    assert!(dear.len() > 40, "{} of 100 had a chance", dear.len());
}

#[test]
fn a_host_with_many_models_takes_one_place() {
    let mut machine = machine();
    let models = (0..limits::MAX_MODELS as u64)
        .map(|n| ModelOffer {
            digest: ModelDigest([n as u8; 32]),
            ..offer(64 - n)
        })
        .collect();
    let wide = Manifest {
        models,
        ..manifest(key(2), 1, at(0))
    };
    seen(&mut machine, at(0), wide);
    seen(&mut machine, at(0), manifest(key(3), 500, at(0)));
    let effects = feed(&mut machine, at(1), find(query()));
    let hosts = found(scored(&mut machine, at(1), &effects, &[])).unwrap();
    assert_eq!(hosts.len(), 2);
    assert_eq!(hosts[0].offer.digest, ModelDigest([63; 32]), "its cheapest");
}

#[test]
fn hosts_that_only_failed_come_behind_those_that_nobody_tried() {
    let mut machine = machine();
    seen(&mut machine, at(0), manifest(key(2), 1, at(0)));
    seen(&mut machine, at(0), manifest(key(3), 500, at(0)));
    let effects = feed(&mut machine, at(1), find(query()));
    let (id, subjects) = wanted(&effects).unwrap();
    let cards = subjects
        .iter()
        .map(|one| {
            let mut card = ScoreCard::blank(one.host, one.model);
            if one.host == key(2) {
                (card.standing, card.total_ppm) = (Standing::Failed, 900_000);
            }
            card
        })
        .collect();
    let hosts = found(feed(&mut machine, at(2), Input::HostsScored { id, cards })).unwrap();
    assert_eq!(hosts[0].host, key(3));
}

/// Finds where some hosts kept a payment and the others failed, with better scores for the former.
fn find_among(machine: &mut Discovery, now: Now, kept: &[NodeKey]) -> Vec<NodeKey> {
    let effects = feed(machine, now, find(query()));
    let (id, subjects) = wanted(&effects).unwrap();
    let cards = subjects
        .iter()
        .map(|one| {
            let mut card = ScoreCard::blank(one.host, one.model);
            (card.standing, card.total_ppm) = match kept.contains(&one.host) {
                true => (Standing::Kept, 300_000),
                false => (Standing::Failed, 200_000),
            };
            card
        })
        .collect();
    let hosts = found(feed(machine, now, Input::HostsScored { id, cards })).unwrap();
    hosts.iter().map(|one| one.host).collect()
}

#[test]
fn of_hosts_that_never_served_the_one_that_kept_a_payment_ranks_last() {
    let mut machine = machine();
    flood(&mut machine, at(0), "ws://one", 0..20, 1);
    let hosts = find_among(&mut machine, at(1), &[many(7), many(9)]);
    assert_eq!(hosts.len(), 20);
    assert!(hosts[18..].contains(&many(7)) && hosts[18..].contains(&many(9)));
}

#[test]
fn one_host_that_kept_a_payment_has_a_place_behind_any_flood() {
    let mut machine = machine();
    flood(&mut machine, at(0), "ws://one", 0..300, 1);
    let kept = [many(7), many(9)];
    for n in 1..20 {
        let hosts = find_among(&mut machine, at(n), &kept);
        assert_eq!(hosts.len(), limits::MAX_CANDIDATES);
        assert!(kept.contains(hosts.last().unwrap()), "the last place");
        let before = &hosts[..limits::MAX_CANDIDATES / 2];
        assert!(!before.iter().any(|host| kept.contains(host)));
    }
}

#[test]
fn a_table_that_is_too_long_still_names_every_host() {
    let mut machine = machine();
    let wide = |node| Manifest {
        models: (0..limits::MAX_MODELS)
            .map(|n| ModelOffer {
                digest: ModelDigest([n as u8; 32]),
                ..offer(1)
            })
            .collect(),
        ..manifest(node, 1, at(0))
    };
    for n in 0..80 {
        seen(&mut machine, at(0), wide(many(n)));
    }
    let last = many(79);
    find_with(&mut machine, at(1), &[last]);
    let rows = find::rows(&machine.listings, at(2));
    assert_eq!(rows.len(), limits::MAX_LISTINGS);
    let of = |host| {
        rows.iter()
            .filter(|(row, _)| row.manifest.node == host)
            .count()
    };
    assert_eq!(of(last), limits::MAX_MODELS, "it served this node");
    assert!((0..80).all(|n| of(many(n)) >= 50));
    let same = |pair: &[(HostRow, Subject)]| Arc::ptr_eq(&pair[0].0.manifest, &pair[1].0.manifest);
    assert!(
        rows.windows(2).any(same),
        "one manifest for all rows of a host"
    );
}

#[test]
fn a_full_book_gives_up_the_fullest_relays_listings_and_old_acquaintances_last() {
    let config = Config {
        max_listings: 40,
        ..Config::new(Network::Regtest)
    };
    let mut machine = Discovery::new(config, Box::new(scheme()), [7; 32]);
    flood(&mut machine, at(0), "ws://calm", 1_000..1_010, 500);
    seen_at(
        &mut machine,
        at(0),
        "ws://loud",
        manifest(many(2_000), 500, at(0)),
    );
    find_with(&mut machine, at(1), &[many(2_000)]);
    // The loud relay's copies do not put the calm relay's listings on its account.
    flood(&mut machine, at(0), "ws://loud", 1_000..1_010, 500);
    flood(&mut machine, at(2), "ws://loud", 0..200, 1);
    assert_eq!(machine.listed(), 40);
    let good: Vec<NodeKey> = (1_000..1_010).chain([2_000]).map(many).collect();
    let kept = |host: &&NodeKey| {
        let mut alive = machine.listings.alive(at(3).wall);
        alive.any(|one| one.manifest.node == **host)
    };
    assert_eq!(good.iter().filter(kept).count(), good.len());
}

#[test]
fn a_listing_that_a_second_relay_serves_is_safe_from_a_flood_of_the_first() {
    let config = Config {
        max_listings: 40,
        ..Config::new(Network::Regtest)
    };
    let mut machine = Discovery::new(config, Box::new(scheme()), [7; 32]);
    flood(&mut machine, at(0), "ws://loud", 0..20, 1);
    let listing = manifest(many(1_000), 500, at(1));
    seen_at(&mut machine, at(1), "ws://loud", listing.clone());
    seen_at(&mut machine, at(2), "ws://calm", listing);
    flood(&mut machine, at(3), "ws://loud", 100..300, 1);
    let mut alive = machine.listings.alive(at(4).wall);
    assert!(alive.any(|one| one.manifest.node == many(1_000)));
}

#[test]
fn who_served_is_asked_for_after_a_restart() {
    let mut machine = machine();
    seen(&mut machine, at(0), manifest(key(2), 500, at(0)));
    let effects = wake(&mut machine, at(60_000));
    let (_, subjects) = wanted(&effects).unwrap();
    assert_eq!(subjects.len(), 1);
    let effects = scored(&mut machine, at(60_000), &effects, &[key(2)]);
    assert!(effects.is_empty(), "nobody waits for it");
    assert!(machine.listings.has_served(&key(2)));
    assert!(
        wanted(&wake(&mut machine, at(120_001))).is_none(),
        "once, where there is room"
    );
}

#[test]
fn strangers_models_take_half_of_the_topics_at_most() {
    let mut machine = machine();
    let mut followed = 0;
    for n in 0..200u16 {
        let digest = ModelDigest(many(n).0);
        let listing = Manifest {
            models: vec![ModelOffer { digest, ..offer(1) }],
            ..manifest(many(n), 1, at(0))
        };
        seen(&mut machine, at(0), listing);
        let query = Query {
            model: ModelSelector::Digest(digest),
            ..query()
        };
        let effects = feed(&mut machine, at(1), find(query));
        let served = if n >= 180 { vec![many(n)] } else { Vec::new() };
        let effects = scored(&mut machine, at(1), &effects, &served);
        followed += effects
            .iter()
            .filter(|e| matches!(e, Effect::Follow(_)))
            .count();
        if n == 179 {
            assert_eq!(followed, limits::MAX_TOPICS / 2);
        }
    }
    assert_eq!(followed, limits::MAX_TOPICS / 2 + 20);
}

#[test]
fn a_pulse_that_is_sent_again_says_nothing() {
    let mut machine = machine();
    seen(&mut machine, at(0), manifest(key(2), 400, at(0)));
    let pulse = |ms: u64| Pulse {
        host: key(2),
        model: MODEL,
        running: 9,
        queued: 9,
        slots: 1,
        time: at(ms).wall,
    };
    let from = Some(key(2));
    feed(
        &mut machine,
        at(1),
        Input::PulseSeen {
            from,
            pulse: pulse(1),
        },
    );
    feed(
        &mut machine,
        at(40_000),
        Input::PulseSeen {
            from,
            pulse: pulse(40_000),
        },
    );
    // Too old to be used, and swept; a gossip network may bring it back all the same.
    for ms in [230_000, 290_000] {
        wake(&mut machine, at(ms));
        for old in [1, 40_000] {
            feed(
                &mut machine,
                at(ms),
                Input::PulseSeen {
                    from,
                    pulse: pulse(old),
                },
            );
        }
        assert!(
            machine
                .listings
                .pulse(&key(2), &MODEL, at(ms).tick)
                .is_none(),
            "{ms}"
        );
    }
}

#[test]
fn validators_are_drawn_afresh_and_acquaintances_come_first() {
    let mut machine = machine();
    for n in 0..100 {
        let validator = Manifest {
            roles: vec![Role::Validator],
            ..manifest(many(n), 500, at(0))
        };
        seen(&mut machine, at(0), validator);
    }
    let mut ask = |served: &[NodeKey]| {
        let input = Input::FindValidators {
            id: EffectId(8),
            model: MODEL,
        };
        let effects = feed(&mut machine, at(1), input);
        let effects = scored(&mut machine, at(1), &effects, served);
        let [Effect::Tell(Message::ValidatorsFound { hosts, .. })] = &effects[..] else {
            panic!("{effects:?}")
        };
        hosts.iter().map(|one| one.host).collect::<Vec<_>>()
    };
    let (first, second) = (ask(&[]), ask(&[]));
    assert_eq!(first.len(), limits::MAX_CANDIDATES);
    assert_ne!(first, second);
    let low = first.iter().filter(|host| **host < many(32)).count();
    assert!(low < 25, "{low} of the 32 lowest keys");
    assert_eq!(ask(&[many(99)])[0], many(99));
}
