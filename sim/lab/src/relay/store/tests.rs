//! Tests of what is kept, what gives way, and what never comes back.

use nostr::event::EventId;
use nostr::prelude::{EventBuilder, FinalizeEvent, Keys, Kind, Tag, Timestamp};

use super::*;

const NOW: u64 = 1_000_000;

fn event(keys: &Keys, kind: u16, created_at: u64, tags: &[[&str; 2]]) -> Event {
    let tags = tags.iter().map(|tag| Tag::parse(*tag).unwrap());
    EventBuilder::new(Kind::from(kind), "x")
        .tags(tags)
        .custom_created_at(Timestamp::from(created_at))
        .finalize(keys)
        .unwrap()
}

fn taken(store: &mut Store, event: &Event) -> bool {
    matches!(store.insert(event.clone(), NOW), Outcome::Taken(_))
}

fn ids(store: &Store, now: u64) -> Vec<EventId> {
    let found = store.query(&[Filter::default()], usize::MAX, now);
    found.iter().map(|stored| stored.event.id).collect()
}

#[test]
fn a_newer_replaceable_event_takes_the_place_and_an_older_one_is_refused() {
    let keys = Keys::generate();
    let mut store = Store::default();
    let old = event(&keys, 10_002, 10, &[]);
    let new = event(&keys, 10_002, 20, &[]);
    assert!(taken(&mut store, &old));
    assert!(taken(&mut store, &new));
    assert!(!taken(&mut store, &old));
    assert_eq!(ids(&store, NOW), vec![new.id]);
}

#[test]
fn at_one_date_the_replaceable_event_with_the_lower_id_stands_in_either_order() {
    let keys = Keys::generate();
    let one = event(&keys, 30_000, 10, &[["d", "x"], ["n", "1"]]);
    let two = event(&keys, 30_000, 10, &[["d", "x"], ["n", "2"]]);
    let lower = one.id.min(two.id);
    for order in [[&one, &two], [&two, &one]] {
        let mut store = Store::default();
        for event in order {
            taken(&mut store, event);
        }
        assert_eq!(ids(&store, NOW), vec![lower]);
    }
}

#[test]
fn addressable_events_stand_side_by_side_when_their_d_tags_differ() {
    let keys = Keys::generate();
    let mut store = Store::default();
    assert!(taken(&mut store, &event(&keys, 38_717, 10, &[["d", "a"]])));
    assert!(taken(&mut store, &event(&keys, 38_717, 10, &[["d", "b"]])));
    assert!(taken(&mut store, &event(&keys, 38_717, 11, &[["d", "a"]])));
    assert_eq!(ids(&store, NOW).len(), 2);
}

#[test]
fn ephemeral_events_are_passed_on_and_not_kept() {
    let mut store = Store::default();
    assert!(taken(
        &mut store,
        &event(&Keys::generate(), 21_059, 10, &[])
    ));
    assert!(ids(&store, NOW).is_empty());
}

#[test]
fn a_deletion_by_id_removes_own_events_for_good_and_no_others() {
    let (keys, stranger) = (Keys::generate(), Keys::generate());
    let mut store = Store::default();
    let note = event(&keys, 1, 10, &[]);
    let id = note.id.to_hex();
    assert!(taken(&mut store, &note));
    let foreign = event(&stranger, 5, 20, &[["e", &id]]);
    assert!(taken(&mut store, &foreign));
    assert!(ids(&store, NOW).contains(&note.id));
    let own = event(&keys, 5, 20, &[["e", &id]]);
    assert!(taken(&mut store, &own));
    assert!(!ids(&store, NOW).contains(&note.id));
    assert!(!taken(&mut store, &note), "it must not come back");
    let undo = event(&keys, 5, 30, &[["e", &own.id.to_hex()]]);
    assert!(taken(&mut store, &undo));
    assert!(ids(&store, NOW).contains(&own.id), "a deletion stays");
}

#[test]
fn a_deletion_by_address_removes_versions_up_to_its_date() {
    let (keys, stranger) = (Keys::generate(), Keys::generate());
    let address = format!("38717:{}:a:b", keys.public_key().to_hex());
    let mut store = Store::default();
    let first = event(&keys, 38_717, 10, &[["d", "a:b"]]);
    assert!(taken(&mut store, &first));
    let foreign = event(&stranger, 5, 20, &[["a", &address]]);
    assert!(taken(&mut store, &foreign));
    assert!(ids(&store, NOW).contains(&first.id));
    assert!(taken(&mut store, &event(&keys, 5, 20, &[["a", &address]])));
    assert!(!ids(&store, NOW).contains(&first.id));
    assert!(!taken(
        &mut store,
        &event(&keys, 38_717, 15, &[["d", "a:b"]])
    ));
    let later = event(&keys, 38_717, 21, &[["d", "a:b"]]);
    assert!(taken(&mut store, &later));
    assert!(ids(&store, NOW).contains(&later.id));
}

#[test]
fn expired_events_are_refused_and_kept_ones_are_not_served_after_their_end() {
    let keys = Keys::generate();
    let mut store = Store::default();
    let gone = event(&keys, 1, 10, &[["expiration", &NOW.to_string()]]);
    assert!(!taken(&mut store, &gone));
    let end = (NOW + 5).to_string();
    assert!(taken(
        &mut store,
        &event(&keys, 1, 10, &[["expiration", &end]])
    ));
    assert_eq!(ids(&store, NOW + 4).len(), 1);
    assert!(ids(&store, NOW + 5).is_empty());
    let words = event(&keys, 1, 11, &[["expiration", "tomorrow"]]);
    assert!(!taken(&mut store, &words));
}

#[test]
fn an_answer_is_newest_first_and_each_filter_has_its_own_limit() {
    let keys = Keys::generate();
    let mut store = Store::default();
    for date in 1..=5 {
        taken(&mut store, &event(&keys, 1, date, &[]));
        taken(&mut store, &event(&keys, 7, date, &[]));
    }
    let read = |value| Filter::read(&value).unwrap();
    let filters = [
        read(serde_json::json!({"kinds": [1], "limit": 2})),
        read(serde_json::json!({"kinds": [7], "limit": 1})),
    ];
    let found = store.query(&filters, 500, NOW);
    let dates: Vec<u64> = found
        .iter()
        .map(|stored| stored.event.created_at.as_secs())
        .collect();
    assert_eq!(dates, vec![5, 5, 4]);
}
