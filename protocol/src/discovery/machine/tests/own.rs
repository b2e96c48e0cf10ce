//! Our own listing and load.

use super::*;
use crate::message::discovery::SelfTestError;

fn own_manifest() -> Manifest {
    manifest(scheme().key(), 500, Now::default())
}

/// Where the self-test found us.
fn here() -> Vec<String> {
    vec!["/ip4/192.0.2.1/tcp/9".to_owned()]
}

fn test_id(effects: &[Effect]) -> Option<EffectId> {
    effects.iter().find_map(|effect| match effect {
        Effect::SelfTest { id, .. } => Some(*id),
        _ => None,
    })
}

fn publication(effects: &[Effect]) -> Option<(EffectId, Manifest)> {
    effects.iter().find_map(|effect| match effect {
        Effect::Publish { id, manifest } => Some((*id, manifest.as_ref().clone())),
        _ => None,
    })
}

fn notices(effects: &[Effect]) -> Vec<String> {
    let text = |effect: &Effect| match effect {
        Effect::Notice(text) | Effect::News(text) => Some(text.clone()),
        _ => None,
    };
    effects.iter().filter_map(text).collect()
}

fn announce(machine: &mut Discovery, now: Now) -> EffectId {
    let effects = feed(machine, now, Input::Announce(Box::new(own_manifest())));
    assert!(
        publication(&effects).is_none(),
        "never before the self-test"
    );
    test_id(&effects).unwrap()
}

fn publish(machine: &mut Discovery, now: Now, id: EffectId) -> Manifest {
    let effects = feed(
        machine,
        now,
        Input::SelfTested {
            id,
            result: Ok(here()),
        },
    );
    let (id, manifest) = publication(&effects).unwrap();
    let accepted = vec!["ws://one".to_owned()];
    let input = Input::Published {
        id,
        accepted,
        refused: Vec::new(),
    };
    feed(machine, now, input);
    manifest
}

#[test]
fn a_listing_names_the_addresses_of_its_last_self_test() {
    let mut machine = machine();
    let id = announce(&mut machine, at(0));
    assert_eq!(publish(&mut machine, at(1_000), id).addresses, here());
    let due_ms = machine.deadline().unwrap().0 / 1_000_000;
    let later = at(due_ms + 1);
    let id = test_id(&wake(&mut machine, later)).unwrap();
    let moved = vec!["/ip4/198.51.100.7/tcp/9".to_owned()];
    let result = Ok(moved.clone());
    let effects = feed(&mut machine, later, Input::SelfTested { id, result });
    assert_eq!(publication(&effects).unwrap().1.addresses, moved);
}

#[test]
fn a_listing_is_published_after_the_self_test_and_again_before_it_expires() {
    let mut machine = machine();
    let id = announce(&mut machine, at(0));
    let first = publish(&mut machine, at(1_000), id);
    assert_eq!(first.created, at(1_000).wall);
    assert_eq!(first.expires, at(1_000 + limits::LISTING_TTL_MS).wall);
    let due = machine.deadline().unwrap();
    let due_ms = due.0 / 1_000_000;
    assert!(due_ms <= 1_000 + limits::REPUBLISH_MS);
    assert!(due_ms >= limits::REPUBLISH_MS * 9 / 10);
    let effects = wake(&mut machine, at(due_ms + 1));
    let second = publish(&mut machine, at(due_ms + 2), test_id(&effects).unwrap());
    assert!(second.created > first.created && second.created < first.expires);
}

#[test]
fn a_clock_that_ran_ahead_does_not_date_the_listings_after_it() {
    let mut machine = machine();
    let day_ms = 86_400_000;
    let ahead = |ms| Now {
        wall: at(ms + day_ms).wall,
        ..at(ms)
    };
    let id = announce(&mut machine, ahead(0));
    let early = publish(&mut machine, ahead(1_000), id);
    assert_eq!(early.created, ahead(1_000).wall);
    let due_ms = machine.deadline().unwrap().0 / 1_000_000;
    // Somebody set the clock.
    let effects = wake(&mut machine, at(due_ms + 1));
    let set = publish(&mut machine, at(due_ms + 2), test_id(&effects).unwrap());
    assert_eq!(set.created, at(due_ms + 2).wall);
}

#[test]
fn a_failed_self_test_is_explained_and_repeated_ever_more_slowly() {
    let mut machine = machine();
    let mut id = announce(&mut machine, at(0));
    let (mut now, mut pauses) = (0, Vec::new());
    for _ in 0..9 {
        let result = Err(SelfTestError::Failed("port 4001 is closed".to_owned()));
        let effects = feed(&mut machine, at(now), Input::SelfTested { id, result });
        let notice = notices(&effects).remove(0);
        assert!(notice.contains("port 4001 is closed") && notice.contains("freehold.toml"));
        assert!(publication(&effects).is_none());
        let next = machine.deadline().unwrap().0 / 1_000_000;
        pauses.push(next - now);
        now = next;
        id = test_id(&wake(&mut machine, at(now))).unwrap();
    }
    let expected = [5, 10, 20, 40, 80, 160, 320, 600, 600].map(|s| s * 1_000);
    assert_eq!(pauses, expected);
}

#[test]
fn a_host_that_became_unreachable_takes_its_listing_back() {
    let mut machine = machine();
    let id = announce(&mut machine, at(0));
    publish(&mut machine, at(0), id);
    let due = machine.deadline().unwrap().0 / 1_000_000;
    let id = test_id(&wake(&mut machine, at(due))).unwrap();
    let result = Err(SelfTestError::Failed("no inbound capacity".to_owned()));
    let effects = feed(&mut machine, at(due), Input::SelfTested { id, result });
    assert!(effects.contains(&Effect::Unpublish));
}

#[test]
fn a_listing_whose_publication_was_not_answered_is_taken_back_like_any_other() {
    let sent = || {
        let mut machine = machine();
        let id = announce(&mut machine, at(0));
        let result = Ok(here());
        let effects = feed(&mut machine, at(1), Input::SelfTested { id, result });
        let (id, _) = publication(&effects).unwrap();
        (machine, id)
    };
    let fails = |machine: &mut Discovery, id| {
        let result = Err(SelfTestError::Failed("no inbound capacity".to_owned()));
        let effects = feed(machine, at(3), Input::SelfTested { id, result });
        effects.contains(&Effect::Unpublish)
    };
    // What is listed changes while the first publication is under way.
    let (mut machine, published) = sent();
    let id = announce(&mut machine, at(2));
    let input = Input::Published {
        id: published,
        accepted: vec!["ws://one".to_owned()],
        refused: Vec::new(),
    };
    feed(&mut machine, at(2), input);
    assert!(fails(&mut machine, id));
    let (mut machine, _) = sent();
    announce(&mut machine, at(2));
    let effects = feed(&mut machine, at(3), Input::Withdraw);
    assert!(effects.contains(&Effect::Unpublish));
    // The relays are silent.
    let (mut machine, _) = sent();
    let due = machine.deadline().unwrap().0 / 1_000_000;
    wake(&mut machine, at(due));
    let due = machine.deadline().unwrap().0 / 1_000_000;
    let id = test_id(&wake(&mut machine, at(due))).unwrap();
    assert!(fails(&mut machine, id));
    // It is taken back once.
    let due = machine.deadline().unwrap().0 / 1_000_000;
    let id = test_id(&wake(&mut machine, at(due))).unwrap();
    assert!(!fails(&mut machine, id));
}

#[test]
fn a_host_whose_places_are_all_taken_stays_listed() {
    let mut machine = machine();
    let mut id = announce(&mut machine, at(0));
    // Not before a self-test has succeeded once, and without a growing pause.
    let mut now = 0;
    for _ in 0..5 {
        let result = Err(SelfTestError::NoRoom);
        let effects = feed(&mut machine, at(now), Input::SelfTested { id, result });
        assert!(publication(&effects).is_none());
        assert!(notices(&effects)[0].contains("every place for connections taken"));
        now += 5_000;
        assert_eq!(machine.deadline(), Some(at(now).tick));
        id = test_id(&wake(&mut machine, at(now))).unwrap();
    }
    publish(&mut machine, at(now), id);
    let due = machine.deadline().unwrap().0 / 1_000_000;
    let id = test_id(&wake(&mut machine, at(due))).unwrap();
    let result = Err(SelfTestError::NoRoom);
    let effects = feed(&mut machine, at(due), Input::SelfTested { id, result });
    assert!(!effects.contains(&Effect::Unpublish));
    let (_, renewed) = publication(&effects).unwrap();
    assert_eq!(renewed.created, at(due).wall);
}

#[test]
fn relays_that_refuse_are_named_and_tried_again() {
    let mut machine = machine();
    let id = announce(&mut machine, at(0));
    let effects = feed(
        &mut machine,
        at(0),
        Input::SelfTested {
            id,
            result: Ok(here()),
        },
    );
    let (id, _) = publication(&effects).unwrap();
    let refused = vec![("ws://one".to_owned(), "pow: 16 bits needed".to_owned())];
    let input = Input::Published {
        id,
        accepted: Vec::new(),
        refused,
    };
    let notice = notices(&feed(&mut machine, at(0), input)).remove(0);
    assert!(notice.contains("ws://one: pow: 16 bits needed"));
    assert!(test_id(&wake(&mut machine, at(5_000))).is_some());
}

#[test]
fn steps_that_never_end_are_tried_again() {
    let mut machine = machine();
    announce(&mut machine, at(0));
    let effects = wake(&mut machine, at(120_000));
    assert!(notices(&effects)[0].contains("no answer in time"));
    let id = test_id(&wake(&mut machine, at(125_000))).unwrap();
    feed(
        &mut machine,
        at(125_000),
        Input::SelfTested {
            id,
            result: Ok(here()),
        },
    );
    let effects = wake(&mut machine, at(245_000));
    assert_eq!(notices(&effects).len(), 1);
    let due = machine.deadline().unwrap().0 / 1_000_000;
    assert!(test_id(&wake(&mut machine, at(due))).is_some());
}

#[test]
fn withdrawing_deletes_the_listing_even_one_that_is_on_its_way() {
    let mut machine = machine();
    let id = announce(&mut machine, at(0));
    let effects = feed(
        &mut machine,
        at(0),
        Input::SelfTested {
            id,
            result: Ok(here()),
        },
    );
    let (id, _) = publication(&effects).unwrap();
    assert!(feed(&mut machine, at(1), Input::Withdraw).contains(&Effect::Unpublish));
    let accepted = vec!["ws://one".to_owned()];
    let late = Input::Published {
        id,
        accepted,
        refused: Vec::new(),
    };
    assert_eq!(feed(&mut machine, at(2), late), [Effect::Unpublish]);
    assert!(machine.deadline().is_none());
}

#[test]
fn a_manifest_of_another_key_or_network_is_not_announced() {
    let mut machine = machine();
    let wrong = [
        manifest(key(9), 500, at(0)),
        Manifest {
            network: Network::Signet,
            ..own_manifest()
        },
    ];
    for manifest in wrong {
        let effects = feed(&mut machine, at(0), Input::Announce(Box::new(manifest)));
        assert_eq!(notices(&effects).len(), 1);
        assert_eq!(effects.len(), 1);
    }
}

#[test]
fn load_is_told_on_change_and_at_most_once_a_minute() {
    let mut machine = machine();
    let id = announce(&mut machine, at(0));
    publish(&mut machine, at(0), id);
    let load = |running| Input::LoadChanged {
        model: MODEL,
        running,
        queued: 0,
        slots: 2,
    };
    let sent = |effects: Vec<Effect>| {
        let running = |effect: &Effect| match effect {
            Effect::SendPulse(pulse) => Some(pulse.running),
            _ => None,
        };
        effects.iter().filter_map(running).collect::<Vec<_>>()
    };
    assert_eq!(sent(feed(&mut machine, at(1), load(1))), [1]);
    assert!(sent(feed(&mut machine, at(2), load(1))).is_empty());
    assert!(sent(feed(&mut machine, at(3), load(2))).is_empty());
    assert!(sent(feed(&mut machine, at(4), load(0))).is_empty());
    assert_eq!(machine.deadline(), Some(at(60_001).tick));
    assert_eq!(
        sent(wake(&mut machine, at(60_001))),
        [0],
        "the latest figure"
    );
    let other = Input::LoadChanged {
        model: ModelDigest([1; 32]),
        running: 1,
        queued: 0,
        slots: 1,
    };
    assert!(sent(feed(&mut machine, at(200_000), other)).is_empty());
}

#[test]
fn load_before_the_listing_is_told_once_listed() {
    let mut machine = machine();
    let id = announce(&mut machine, at(0));
    let load = Input::LoadChanged {
        model: MODEL,
        running: 1,
        queued: 0,
        slots: 2,
    };
    assert!(feed(&mut machine, at(1), load).is_empty());
    publish(&mut machine, at(2), id);
    let effects = wake(&mut machine, at(3));
    assert!(matches!(
        effects[..],
        [Effect::SendPulse(Pulse { running: 1, .. })]
    ));
}
