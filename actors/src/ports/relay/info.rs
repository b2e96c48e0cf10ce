//! A relay's information document (NIP-11) and what its limits forbid us to send.
//!
//! Not the enforcement of our own bounds (`config`). The document is a stranger's:
//! every field is optional and one bad field does not spoil the others. Fetched by
//! `task` before the websocket is opened.

use super::reason::Reason;
use nostr::event::Event;
use nostr::filter::Filter;
use serde_json::Value;
use std::time::Duration;

/// Largest document read, in bytes: real ones are under 8 KiB.
const MAX_DOCUMENT_BYTES: usize = 64 * 1024;

/// Longest wait for the document; a relay without one still works.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// The limits a relay publishes; `None` where it states none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RelayInfo {
    /// Largest websocket message it reads, in bytes.
    pub max_message_length: Option<u64>,
    /// Subscriptions per connection.
    pub max_subscriptions: Option<u64>,
    /// What it clamps a filter's `limit` to.
    pub max_limit: Option<u64>,
    /// Tags per event.
    pub max_event_tags: Option<u64>,
    /// Characters in an event's content.
    pub max_content_length: Option<u64>,
    /// Leading zero bits it asks of an event id (NIP-13).
    pub min_pow_difficulty: Option<u64>,
    /// Seconds that `created_at` may lie in the past.
    pub created_at_lower_limit: Option<u64>,
    /// Seconds that `created_at` may lie in the future.
    pub created_at_upper_limit: Option<u64>,
    /// Whether AUTH (NIP-42) must come before anything else.
    pub auth_required: bool,
    /// NIPs it says it supports, at most 256 of them.
    pub supported_nips: Vec<u64>,
}

impl RelayInfo {
    /// Reads a document; what is missing or has the wrong type counts as not stated.
    pub fn parse(document: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(document).ok()?;
        let document = value.as_object()?;
        let limits = document.get("limitation");
        // A limit of zero would forbid everything: some relays mean "none" by it.
        let number = |name: &str| {
            limits
                .and_then(|limits| limits.get(name))
                .and_then(Value::as_u64)
                .filter(|&limit| limit > 0)
        };
        let auth = limits.and_then(|limits| limits.get("auth_required"));
        let nips = document.get("supported_nips").and_then(Value::as_array);
        Some(Self {
            max_message_length: number("max_message_length"),
            max_subscriptions: number("max_subscriptions"),
            max_limit: number("max_limit"),
            max_event_tags: number("max_event_tags"),
            max_content_length: number("max_content_length"),
            min_pow_difficulty: number("min_pow_difficulty"),
            created_at_lower_limit: number("created_at_lower_limit"),
            created_at_upper_limit: number("created_at_upper_limit"),
            auth_required: auth.and_then(Value::as_bool).unwrap_or(false),
            supported_nips: nips
                .map(|nips| nips.iter().filter_map(Value::as_u64).take(256).collect())
                .unwrap_or_default(),
        })
    }

    /// Says why this relay would refuse `event`, whose message is `message_bytes` long.
    pub fn refuses(&self, event: &Event, message_bytes: usize, now_secs: u64) -> Option<Reason> {
        let created = event.created_at.as_secs();
        let checks = [
            (
                "message is {} bytes, the relay's limit is {}",
                message_bytes as u64,
                self.max_message_length,
            ),
            (
                "content is {} characters, the relay's limit is {}",
                event.content.chars().count() as u64,
                self.max_content_length,
            ),
            (
                "event has {} tags, the relay's limit is {}",
                event.tags.len() as u64,
                self.max_event_tags,
            ),
            (
                "event is {} s old, the relay's limit is {}",
                now_secs.saturating_sub(created),
                self.created_at_lower_limit,
            ),
            (
                "event is dated {} s ahead, the relay's limit is {}",
                created.saturating_sub(now_secs),
                self.created_at_upper_limit,
            ),
        ];
        for (text, have, limit) in checks {
            if let Some(limit) = limit.filter(|&limit| have > limit) {
                let text = text.replacen("{}", &have.to_string(), 1);
                return Some(Reason::local(text.replacen("{}", &limit.to_string(), 1)));
            }
        }
        let bits = u64::from(super::pow::leading_zero_bits(event.id.as_bytes()));
        let wanted = self.min_pow_difficulty.filter(|&wanted| bits < wanted)?;
        Some(Reason::local(format!(
            "event has {bits} bits of proof of work, the relay asks for {wanted}; mine more"
        )))
    }

    /// Lowers the filters' `limit` to what the relay would clamp it to anyway.
    pub fn clamp(&self, filters: &mut [Filter]) {
        let Some(max) = self.max_limit.and_then(|max| usize::try_from(max).ok()) else {
            return;
        };
        for filter in filters {
            filter.limit = filter.limit.map(|limit| limit.min(max));
        }
    }
}

/// Fetches the document of the relay at `url` (`ws://` or `wss://`); `None` if it has none.
pub async fn fetch(client: &reqwest::Client, url: &str) -> Option<RelayInfo> {
    let http = url.replacen("ws", "http", 1);
    let request = client
        .get(http)
        .header("Accept", "application/nostr+json")
        .timeout(FETCH_TIMEOUT);
    let mut response = request.send().await.ok()?.error_for_status().ok()?;
    let mut document = Vec::new();
    while let Some(chunk) = response.chunk().await.ok()? {
        if document.len() + chunk.len() > MAX_DOCUMENT_BYTES {
            return None;
        }
        document.extend_from_slice(&chunk);
    }
    RelayInfo::parse(&document)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::relay::signer::{SecretSigner, public_key, sign_event};
    use nostr::event::{Kind, UnsignedEvent};
    use proptest::prelude::*;

    fn event(content: &str) -> Event {
        let signer = SecretSigner::from_secret(&[0x11; 32]).unwrap();
        let author = public_key(&signer).unwrap();
        let unsigned = UnsignedEvent::new(author, 1_000.into(), Kind::TextNote, [], content);
        sign_event(unsigned, &signer).unwrap()
    }

    #[test]
    fn a_limit_is_read_and_names_the_number_it_breaks() {
        let info = RelayInfo::parse(
            br#"{"limitation":{"max_content_length":3,"max_subscriptions":"many","auth_required":true}}"#,
        )
        .unwrap();
        assert_eq!(info.max_subscriptions, None);
        assert!(info.auth_required);
        assert_eq!(info.refuses(&event("abc"), 10, 1_000), None);
        assert_eq!(
            info.refuses(&event("abcd"), 10, 1_000).unwrap().text,
            "content is 4 characters, the relay's limit is 3"
        );
    }

    #[test]
    fn work_size_and_age_are_checked_before_publishing() {
        let refuses = |json: &str, bytes, now| {
            let info = RelayInfo::parse(json.as_bytes()).unwrap();
            info.refuses(&event("x"), bytes, now).is_some()
        };
        assert!(refuses(
            r#"{"limitation":{"min_pow_difficulty":60}}"#,
            10,
            1_000
        ));
        assert!(refuses(
            r#"{"limitation":{"max_message_length":9}}"#,
            10,
            1_000
        ));
        assert!(refuses(
            r#"{"limitation":{"created_at_lower_limit":5}}"#,
            10,
            1_006
        ));
        assert!(refuses(
            r#"{"limitation":{"created_at_upper_limit":5}}"#,
            10,
            994
        ));
        assert!(!refuses(
            r#"{"limitation":{"created_at_upper_limit":6}}"#,
            10,
            994
        ));
    }

    proptest! {
        #[test]
        fn no_document_makes_the_reader_panic(document in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = RelayInfo::parse(&document);
        }
    }
}
