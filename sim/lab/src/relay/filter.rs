//! NIP-01 filters: strict reading and matching.
//!
//! Written here on purpose and not taken from the `nostr` crate: clients under
//! test match with that crate, and a judge should not share their mistakes.

use std::collections::{BTreeMap, BTreeSet};

use nostr::event::Event;
use serde_json::Value;

use super::limits::{MAX_FILTER_VALUES, MAX_LIMIT};

/// One filter. Empty option = no condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    ids: Option<BTreeSet<String>>,
    authors: Option<BTreeSet<String>>,
    kinds: Option<BTreeSet<u16>>,
    /// Letter -> values, from `#x` fields.
    tags: BTreeMap<char, BTreeSet<String>>,
    since: Option<u64>,
    until: Option<u64>,
    limit: Option<usize>,
}

impl Filter {
    /// Reads a filter; the error text goes into a CLOSED message, with NIP-01's
    /// machine-readable prefix.
    pub(super) fn read(value: &Value) -> Result<Self, String> {
        let Some(fields) = value.as_object() else {
            return Err("invalid: a filter must be an object".to_owned());
        };
        let mut filter = Self::default();
        for (name, value) in fields {
            match name.as_str() {
                "ids" => filter.ids = Some(hex_list(name, value)?),
                "authors" => filter.authors = Some(hex_list(name, value)?),
                "kinds" => filter.kinds = Some(kind_list(value)?),
                "since" => filter.since = Some(number(name, value)?),
                "until" => filter.until = Some(number(name, value)?),
                "limit" => {
                    filter.limit = Some(usize::try_from(number(name, value)?).unwrap_or(MAX_LIMIT));
                }
                _ => {
                    let letter = tag_letter(name)?;
                    filter.tags.insert(letter, text_list(name, value)?);
                }
            }
        }
        Ok(filter)
    }

    /// How many stored events it may get, at most `most`.
    pub(super) fn bound(&self, most: usize) -> usize {
        self.limit.unwrap_or(most).min(most)
    }

    /// Whether `event` fulfils all conditions (`limit` is none).
    pub(super) fn matches(&self, event: &Event) -> bool {
        let created_at = event.created_at.as_secs();
        self.since.is_none_or(|since| created_at >= since)
            && self.until.is_none_or(|until| created_at <= until)
            && self
                .kinds
                .as_ref()
                .is_none_or(|k| k.contains(&u16::from(event.kind)))
            && self
                .ids
                .as_ref()
                .is_none_or(|ids| ids.contains(&event.id.to_hex()))
            && self
                .authors
                .as_ref()
                .is_none_or(|authors| authors.contains(&event.pubkey.to_hex()))
            && self
                .tags
                .iter()
                .all(|(letter, values)| has_tag(event, *letter, values))
    }
}

/// Whether a tag named by the one letter has one of the values first.
fn has_tag(event: &Event, letter: char, values: &BTreeSet<String>) -> bool {
    event.tags.iter().any(|tag| match tag.as_slice() {
        [name, value, ..] => {
            let mut letters = name.chars();
            letters.next() == Some(letter) && letters.next().is_none() && values.contains(value)
        }
        _ => false,
    })
}

fn list<'a>(name: &str, value: &'a Value) -> Result<&'a [Value], String> {
    let Some(list) = value.as_array() else {
        return Err(format!("invalid: '{name}' must be a list"));
    };
    if list.len() > MAX_FILTER_VALUES {
        return Err(format!(
            "invalid: '{name}' has more than {MAX_FILTER_VALUES} values"
        ));
    }
    Ok(list)
}

fn text_list(name: &str, value: &Value) -> Result<BTreeSet<String>, String> {
    list(name, value)?
        .iter()
        .map(|v| match v.as_str() {
            Some(text) => Ok(text.to_owned()),
            None => Err(format!("invalid: '{name}' must hold strings")),
        })
        .collect()
}

fn hex_list(name: &str, value: &Value) -> Result<BTreeSet<String>, String> {
    let texts = text_list(name, value)?;
    let is_hex = |text: &String| {
        text.len() == 64
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    if texts.iter().all(is_hex) {
        return Ok(texts);
    }
    Err(format!(
        "invalid: '{name}' must hold 64 lowercase hex characters each"
    ))
}

fn kind_list(value: &Value) -> Result<BTreeSet<u16>, String> {
    list("kinds", value)?
        .iter()
        .map(|v| {
            let kind = v.as_u64().and_then(|kind| u16::try_from(kind).ok());
            kind.ok_or_else(|| "invalid: 'kinds' must hold numbers from 0 to 65535".to_owned())
        })
        .collect()
}

fn number(name: &str, value: &Value) -> Result<u64, String> {
    value
        .as_u64()
        .ok_or_else(|| format!("invalid: '{name}' must be a whole number, not negative"))
}

fn tag_letter(name: &str) -> Result<char, String> {
    let mut chars = name.chars();
    match (chars.next(), chars.next(), chars.next()) {
        (Some('#'), Some(letter), None) if letter.is_ascii_alphabetic() => Ok(letter),
        _ => Err("unsupported: a filter field this relay does not know".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use nostr::prelude::{EventBuilder, FinalizeEvent, Keys, Kind, Tag, Timestamp};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn event(kind: u16, created_at: u64, tags: &[[&str; 2]]) -> Event {
        let tags = tags.iter().map(|tag| Tag::parse(*tag).unwrap());
        EventBuilder::new(Kind::from(kind), "x")
            .tags(tags)
            .custom_created_at(Timestamp::from(created_at))
            .finalize(&Keys::generate())
            .unwrap()
    }

    fn matches(filter: Value, event: &Event) -> bool {
        Filter::read(&filter).unwrap().matches(event)
    }

    #[test]
    fn conditions_are_joined_by_and_and_lists_by_or() {
        let event = event(1, 100, &[["t", "ai"], ["d", "x"]]);
        let author = event.pubkey.to_hex();
        assert!(matches(json!({}), &event));
        assert!(matches(json!({"kinds": [2, 1]}), &event));
        assert!(matches(
            json!({"#t": ["no", "ai"], "authors": [author]}),
            &event
        ));
        assert!(matches(json!({"ids": [event.id.to_hex()]}), &event));
        assert!(!matches(json!({"#t": ["ai"], "kinds": [2]}), &event));
        assert!(!matches(json!({"#t": []}), &event));
        assert!(!matches(json!({"#e": ["ai"]}), &event));
    }

    #[test]
    fn since_and_until_both_include_their_second() {
        let event = event(1, 100, &[]);
        assert!(matches(json!({"since": 100, "until": 100}), &event));
        assert!(!matches(json!({"since": 101}), &event));
        assert!(!matches(json!({"until": 99}), &event));
    }

    #[test]
    fn filters_out_of_form_are_refused_with_a_reason() {
        let many: Vec<u16> = vec![1; MAX_FILTER_VALUES + 1];
        for bad in [
            json!([]),
            json!({"ids": ["short"]}),
            json!({"ids": ["AA".repeat(32)]}),
            json!({"kinds": [70000]}),
            json!({"kinds": ["1"]}),
            json!({"kinds": many}),
            json!({"since": -1}),
            json!({"limit": "3"}),
            json!({"search": "x"}),
            json!({"#long": ["x"]}),
        ] {
            let reason = Filter::read(&bad).unwrap_err();
            assert!(reason.contains(": "), "{reason}");
        }
    }

    proptest! {
        #[test]
        fn any_json_text_is_read_or_refused_without_panic(text in ".{0,200}") {
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                let _ = Filter::read(&value);
            }
        }
    }
}
