//! Every way in which an event is not a listing, each by its own error.

use super::*;
use crate::ports::relay::signer::SecretSigner;
use proptest::prelude::*;

const NOW: WallTime = WallTime(1_800_000_000_000);

fn signer() -> SecretSigner {
    SecretSigner::from_secret(&[0x42; 32]).unwrap()
}

fn draft() -> ListingDraft {
    ListingDraft {
        content: br#"{"v":1}"#.to_vec(),
        network: "regtest".into(),
        models: vec![ModelDigest([1; 32]), ModelDigest([2; 32])],
        topics: vec!["inference".into()],
        created_at: NOW,
        expires: NOW.after_ms(1_200_000),
    }
}

/// Mines and signs whatever `change` makes of a good listing.
async fn changed(change: impl FnOnce(&mut UnsignedEvent)) -> Event {
    let mut unsigned = draft().unsigned(&signer()).unwrap();
    change(&mut unsigned);
    let mined = pow::mine(unsigned, REQUIRED_BITS, 1).await.unwrap();
    sign_event(mined, &signer()).unwrap()
}

fn replace(event: &mut UnsignedEvent, tag: &str, with: Option<Tag>) {
    let kept = event.tags.iter().filter(|t| t.kind() != tag).cloned();
    let tags: Vec<_> = kept.chain(with).collect();
    event.tags = nostr::event::Tags::from_list(tags);
}

async fn error_of(change: impl FnOnce(&mut UnsignedEvent)) -> ListingError {
    ListingEvent::verify(&changed(change).await, NOW).unwrap_err()
}

#[tokio::test]
async fn a_listing_is_read_as_it_was_built_and_dies_at_its_expiration() {
    let event = draft()
        .build_with(&signer(), REQUIRED_BITS, 1)
        .await
        .unwrap();
    let listing = ListingEvent::verify(&event, NOW).unwrap();
    assert_eq!(listing.author, signer().author());
    assert_eq!(
        (&*listing.network, &*listing.content),
        ("regtest", r#"{"v":1}"#)
    );
    assert_eq!(
        (listing.models, listing.topics),
        (draft().models, draft().topics)
    );
    assert_eq!(
        (listing.created_at, listing.expires),
        (NOW, draft().expires)
    );
    assert_eq!(
        (listing.id, listing.committed_bits),
        (event.id, REQUIRED_BITS)
    );
    let late = ListingEvent::verify(&event, draft().expires);
    assert_eq!(late, Err(ListingError::Expired { ago_secs: 0 }));
}

#[tokio::test]
async fn a_forged_listing_is_refused() {
    let mut event = changed(|_| {}).await;
    event.sig = nostr::event::Signature::from_byte_array([1; 64]);
    assert_eq!(
        ListingEvent::verify(&event, NOW),
        Err(ListingError::Signature)
    );
}

#[tokio::test]
async fn each_missing_repeated_or_unreadable_tag_is_named() {
    for tag in ["d", "expiration"] {
        let error = error_of(|event| replace(event, tag, None)).await;
        assert_eq!(error, ListingError::Missing { tag });
        let again = |event: &mut UnsignedEvent| event.tags.push(Tag::custom(tag, ["1"]));
        assert_eq!(error_of(again).await, ListingError::Repeated { tag });
    }
    for tag in ["m", "expiration"] {
        let bad = |event: &mut UnsignedEvent| replace(event, tag, Some(Tag::custom(tag, ["x"])));
        assert_eq!(error_of(bad).await, ListingError::Malformed { tag });
    }
    let kind = error_of(|event| event.kind = Kind::TextNote).await;
    assert_eq!(kind, ListingError::Kind { kind: 1 });
}

#[tokio::test]
async fn dates_beyond_the_bounds_are_refused() {
    let expires = |secs: u64| {
        move |event: &mut UnsignedEvent| {
            replace(
                event,
                "expiration",
                Some(Tag::custom("expiration", [secs.to_string()])),
            );
        }
    };
    let now = NOW.secs();
    let ghost = error_of(expires(now + MAX_LIFE_SECS + 1)).await;
    assert_eq!(
        ghost,
        ListingError::BadLife {
            life_secs: MAX_LIFE_SECS + 1
        }
    );
    let dead = error_of(expires(now - 5)).await;
    assert_eq!(dead, ListingError::Expired { ago_secs: 5 });
    let ahead = error_of(|event| event.created_at = (now + MAX_AHEAD_SECS + 1).into()).await;
    assert_eq!(
        ahead,
        ListingError::FromTheFuture {
            ahead_secs: MAX_AHEAD_SECS + 1
        }
    );
}

#[tokio::test]
async fn work_counts_as_committed_and_luck_does_not() {
    let unsigned = draft().unsigned(&signer()).unwrap();
    let mut claimed = unsigned.clone();
    claimed.tags.push(Tag::custom("nonce", ["0", "255"]));
    let claimed = sign_event(claimed, &signer()).unwrap();
    let error = ListingEvent::verify(&claimed, NOW).unwrap_err();
    assert!(
        matches!(error, ListingError::WorkMissing { committed: 255, .. }),
        "{error}"
    );

    // Cheap tries until one is lucky enough: it still committed to little.
    let mut lucky = None;
    for number in 0u32.. {
        let mut unsigned = unsigned.clone();
        unsigned.content = number.to_string();
        let mined = pow::mine(unsigned, 8, 1).await.unwrap();
        if pow::leading_zero_bits(mined.compute_id().as_bytes()) >= u16::from(REQUIRED_BITS) {
            lucky = Some(sign_event(mined, &signer()).unwrap());
            break;
        }
    }
    let error = ListingEvent::verify(&lucky.unwrap(), NOW).unwrap_err();
    assert_eq!(
        error,
        ListingError::WeakCommitment {
            committed: 8,
            required: 16
        }
    );

    let none = sign_event(unsigned, &signer()).unwrap();
    let error = ListingEvent::verify(&none, NOW).unwrap_err();
    assert_eq!(error, ListingError::Missing { tag: "nonce" });
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_mining_and_on_reading() {
    let build = |draft: ListingDraft| async move { draft.build_with(&signer(), 1, 1).await };
    let large = ListingDraft {
        content: vec![b'x'; MAX_CONTENT_BYTES + 1],
        ..draft()
    };
    assert!(matches!(
        build(large).await,
        Err(ListingError::TooMuch { .. })
    ));
    let many = ListingDraft {
        models: vec![ModelDigest([0; 32]); MAX_MODELS + 1],
        ..draft()
    };
    assert!(matches!(
        build(many).await,
        Err(ListingError::TooMuch { .. })
    ));
    let binary = ListingDraft {
        content: vec![0xff],
        ..draft()
    };
    assert_eq!(build(binary).await, Err(ListingError::NotText));
    let dead = ListingDraft {
        expires: NOW,
        ..draft()
    };
    assert_eq!(
        build(dead).await,
        Err(ListingError::BadLife { life_secs: 0 })
    );

    let named = "n".repeat(MAX_NAME_BYTES + 1);
    let error = error_of(|event| replace(event, "d", Some(Tag::identifier(named)))).await;
    assert!(
        matches!(
            error,
            ListingError::TooMuch {
                have: 65,
                max: 64,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn an_author_withdraws_only_its_own_listings() {
    let own = ListingDeletion::build("regtest", NOW, &signer()).unwrap();
    let expected = ListingDeletion {
        author: signer().author(),
        network: "regtest".into(),
        created_at: NOW,
    };
    assert_eq!(ListingDeletion::read(&own), [expected]);
    let followed = |authors: &[NodeKey]| {
        let filters = deletion_filters(authors.iter().copied(), NOW);
        filters
            .iter()
            .any(|filter| filter.match_event(&own, Default::default()))
    };
    assert!(followed(&[signer().author()]));
    // Of nobody whose listing is not known, and that is nobody where none is.
    assert!(!followed(&[NodeKey([2; 32])]));

    let author = public_key(&signer()).unwrap();
    let strange = format!("{LISTING_KIND}:{}:regtest", "ab".repeat(32));
    let tags = [Tag::custom("a", [strange])];
    let kind = Kind::Custom(DELETION_KIND);
    let forged = UnsignedEvent::new(author, NOW.secs().into(), kind, tags, "");
    let forged = sign_event(forged, &signer()).unwrap();
    assert!(ListingDeletion::read(&forged).is_empty());
}

proptest! {
    #[test]
    fn no_tags_of_a_stranger_make_the_reader_panic_or_accept(
        tags in proptest::collection::vec(
            proptest::collection::vec("nonce|expiration|d|m|t|[0-9]{0,20}|.{0,8}", 1..4), 0..8),
        kind in prop_oneof![Just(LISTING_KIND), Just(DELETION_KIND), any::<u16>()],
        created in any::<u64>(),
    ) {
        let tags = tags.into_iter().filter_map(|tag| Tag::parse(tag).ok());
        let author = public_key(&signer()).unwrap();
        let unsigned = UnsignedEvent::new(author, created.into(), Kind::from(kind), tags, "x");
        let event = sign_event(unsigned, &signer()).unwrap();
        prop_assert!(ListingEvent::read(&event, NOW).is_err());
        prop_assert!(ListingDeletion::read(&event).is_empty());
    }
}
