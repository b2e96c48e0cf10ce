//! Relays that lie, drop, hang up or fall silent: the lab relay's switches.

use crate::support::*;
use actors::ports::relay::{DisconnectReason, ReasonKind, RelayEvent, RelayOffence};
use lab::relay::{Forgery, Relay, RelayOptions};
use std::time::Duration;

fn offence(event: &RelayEvent) -> Option<RelayOffence> {
    match event {
        RelayEvent::Misbehaved { kind, .. } => Some(*kind),
        _ => None,
    }
}

/// One relay lies about what it serves, another does not.
async fn a_lie_is_dropped(forgery: Forgery, expected: RelayOffence) {
    let (liar, honest) = (lab_relay().await, lab_relay().await);
    let (key, topic) = (signer(), unique("lie"));
    let event = note(&key, &topic, "true");
    let writer = Pool::start(&[liar.url(), honest.url()]);
    assert_eq!(writer.handle.publish(event.clone()).await.accepted.len(), 2);

    liar.faults().set_forgery(forgery);
    let mut alone = Pool::start(&[liar.url()]);
    alone
        .handle
        .subscribe("notes", topic_filter(&topic))
        .await
        .unwrap();
    let seen = alone.eose("notes").await;
    assert!(
        seen.iter().any(|event| offence(event) == Some(expected)),
        "{seen:?}"
    );
    let lies = contents(&seen)
        .into_iter()
        .filter(|content| *content != "true");
    assert_eq!(lies.count(), 0, "{seen:?}");
    let status = &alone.handle.relays()[0];
    assert!(status.offences > 0 && status.score < 500);

    let mut both = Pool::start(&[liar.url(), honest.url()]);
    both.handle
        .subscribe("notes", topic_filter(&topic))
        .await
        .unwrap();
    both.event(&event).await;
}

#[tokio::test]
async fn an_event_with_a_broken_signature_is_dropped_and_reported() {
    a_lie_is_dropped(Forgery::BrokenSignature, RelayOffence::Forged).await;
}

#[tokio::test]
async fn an_event_with_altered_content_is_dropped_and_reported() {
    a_lie_is_dropped(Forgery::AlteredContent, RelayOffence::Forged).await;
}

#[tokio::test]
async fn an_event_that_nobody_asked_for_is_dropped_and_reported() {
    a_lie_is_dropped(Forgery::OffFilter, RelayOffence::NotMatched).await;
}

#[tokio::test]
async fn a_relay_that_keeps_lying_is_disconnected_and_then_left_alone() {
    let liar = lab_relay().await;
    let (key, topic) = (signer(), unique("liar"));
    let writer = Pool::start(&[liar.url()]);
    for number in 0..4 {
        assert!(
            writer
                .handle
                .publish(note(&key, &topic, &number.to_string()))
                .await
                .is_published()
        );
    }
    liar.faults().set_forgery(Forgery::BrokenSignature);
    let mut strict = config(&[liar.url()]);
    strict.limits.max_offences = 2;
    strict.limits.backoff_max = Duration::from_secs(3_600);
    let mut pool = Pool::with(strict);
    pool.handle
        .subscribe("notes", topic_filter(&topic))
        .await
        .unwrap();
    let ended = |event: &RelayEvent| matches!(event, RelayEvent::Disconnected { .. });
    let (end, before) = pool.until(ended).await;
    assert!(matches!(
        end,
        RelayEvent::Disconnected {
            reason: DisconnectReason::Misbehaved,
            ..
        }
    ));
    assert!(before.iter().filter_map(offence).count() >= 2);
    assert!(!pool.handle.relays()[0].connected);
}

#[tokio::test]
async fn an_event_that_a_relay_forgets_still_comes_from_another() {
    let (forgetful, honest) = (lab_relay().await, lab_relay().await);
    forgetful.faults().set_drop_events(true);
    let (key, topic) = (signer(), unique("drop"));
    let mut pool = Pool::start(&[forgetful.url(), honest.url()]);
    pool.handle
        .subscribe("notes", topic_filter(&topic))
        .await
        .unwrap();
    let event = note(&key, &topic, "kept");
    assert_eq!(pool.handle.publish(event.clone()).await.accepted.len(), 2);
    pool.event(&event).await;
    assert!(forgetful.events().is_empty());
}

#[tokio::test]
async fn after_a_hangup_the_pool_reconnects_and_brings_what_it_missed_once() {
    let relay = lab_relay().await;
    let (key, topic) = (signer(), unique("gap"));
    let mut pool = Pool::start(&[relay.url()]);
    pool.handle
        .subscribe("notes", topic_filter(&topic))
        .await
        .unwrap();
    pool.eose("notes").await;
    let first = note(&key, &topic, "before");
    assert!(pool.handle.publish(first.clone()).await.is_published());
    pool.event(&first).await;

    relay.faults().set_refuse_connections(true);
    relay.faults().close_connections();
    let refused = |event: &RelayEvent| {
        matches!(
            event,
            RelayEvent::Disconnected {
                reason: DisconnectReason::Unreachable { .. },
                ..
            }
        )
    };
    pool.until(refused).await;
    // Dated before the gap, as one that was mined for a while would be.
    let missed = dated_note(&key, &topic, "missed", now().secs() - 60);
    assert!(relay.inject(missed.clone()));
    relay.faults().set_refuse_connections(false);
    let before = pool.event(&missed).await;
    assert!(
        before
            .iter()
            .any(|event| matches!(event, RelayEvent::Connected { .. }))
    );
    assert!(contents(&before).is_empty(), "{before:?}");
    assert!(contents(&pool.eose("notes").await).is_empty());
}

#[tokio::test]
async fn an_event_published_during_a_gap_arrives_after_it() {
    let relay = lab_relay().await;
    relay.faults().set_refuse_connections(true);
    let mut pool = Pool::start(&[relay.url()]);
    pool.until(|event| matches!(event, RelayEvent::Disconnected { .. }))
        .await;
    let publishing = tokio::spawn({
        let (handle, event) = (pool.handle.clone(), note(&signer(), &unique("gap"), "x"));
        async move { handle.publish(event).await }
    });
    pool.until(|event| matches!(event, RelayEvent::Disconnected { .. }))
        .await;
    relay.faults().set_refuse_connections(false);
    assert!(publishing.await.unwrap().is_published());
}

#[tokio::test]
async fn a_relay_that_falls_silent_is_noticed_and_its_silence_is_no_acceptance() {
    let relay = lab_relay().await;
    relay.faults().set_silent_after_eose(true);
    let mut short = config(&[relay.url()]);
    short.limits.publish_timeout = Duration::from_millis(300);
    let mut pool = Pool::with(short);
    pool.handle
        .subscribe("notes", topic_filter(&unique("mute")))
        .await
        .unwrap();
    pool.eose("notes").await;
    let report = pool.handle.publish(note(&signer(), "x", "lost")).await;
    assert_eq!(
        (report.accepted.len(), report.timed_out),
        (0, vec![relay.url()])
    );
}

#[tokio::test]
async fn a_relay_that_wants_auth_gets_it_only_from_who_has_a_key() {
    let relay = Relay::start(RelayOptions {
        auth_for_writes: true,
    })
    .await
    .unwrap();
    let key = signer();
    let event = note(&key, &unique("auth"), "signed in");
    let without = Pool::start(&[relay.url()]);
    let report = without.handle.publish(event.clone()).await;
    assert_eq!(report.refused.len(), 1, "{report:?}");
    assert_eq!(report.refused[0].1.kind, ReasonKind::AuthRequired);

    let with = Pool::with(config(&[relay.url()]).with_auth(auth(&key)));
    let report = with.handle.publish(event).await;
    assert_eq!(report.accepted, [relay.url()], "{report:?}");
}
