//! Why a relay refused an event or ended a subscription: NIP-01's machine-readable
//! prefixes of `OK` and `CLOSED`.
//!
//! Not the policy: `session` decides what each prefix means for a retry.

use std::fmt;

/// Longest text of a relay that is kept, in characters. Relays' sentences are shorter;
/// what is longer would only fill logs.
pub const MAX_REASON_CHARS: usize = 256;

/// The word before the colon of a relay's reason (NIP-01, NIP-42).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReasonKind {
    /// The relay has the event already.
    Duplicate,
    /// The event lacks proof of work (NIP-13).
    Pow,
    /// The author or the address is blocked.
    Blocked,
    /// Too many messages; try later.
    RateLimited,
    /// The event or filter breaks a rule of the relay.
    Invalid,
    /// The relay wants this key, but not for this action (NIP-42).
    Restricted,
    /// Nobody would receive the ephemeral event.
    Mute,
    /// The relay failed.
    Error,
    /// The relay wants AUTH first (NIP-42).
    AuthRequired,
    /// The relay does not support the filter.
    Unsupported,
    /// No known prefix.
    Other,
    /// Not the relay's word: this client did not send it, because of a published limit.
    Local,
}

/// A relay's reason, bounded in length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// What kind of reason it is.
    pub kind: ReasonKind,
    /// The whole sentence, control characters removed.
    pub text: String,
}

impl Reason {
    /// Reads a relay's sentence.
    pub fn parse(text: &str) -> Self {
        let kind = match text.split(':').next().unwrap_or_default().trim() {
            "duplicate" => ReasonKind::Duplicate,
            "pow" => ReasonKind::Pow,
            "blocked" => ReasonKind::Blocked,
            "rate-limited" => ReasonKind::RateLimited,
            "invalid" => ReasonKind::Invalid,
            "restricted" => ReasonKind::Restricted,
            "mute" => ReasonKind::Mute,
            "error" => ReasonKind::Error,
            "auth-required" => ReasonKind::AuthRequired,
            "unsupported" => ReasonKind::Unsupported,
            _ => ReasonKind::Other,
        };
        Self {
            kind,
            text: clean(text),
        }
    }

    /// States why this client did not even send it.
    pub fn local(text: impl Into<String>) -> Self {
        Self {
            kind: ReasonKind::Local,
            text: text.into(),
        }
    }

    /// Reports whether the same request may succeed later on the same connection.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.kind,
            ReasonKind::RateLimited | ReasonKind::Error | ReasonKind::Other
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Bounds a relay's text and removes what could disturb a terminal.
pub fn clean(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(MAX_REASON_CHARS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_read_and_anything_else_is_other() {
        assert_eq!(
            Reason::parse("auth-required: please").kind,
            ReasonKind::AuthRequired
        );
        assert_eq!(
            Reason::parse("rate-limited: slow down").kind,
            ReasonKind::RateLimited
        );
        assert_eq!(Reason::parse("duplicate:").kind, ReasonKind::Duplicate);
        assert_eq!(Reason::parse("no colon here").kind, ReasonKind::Other);
        assert_eq!(Reason::parse("").kind, ReasonKind::Other);
    }

    #[test]
    fn a_relays_text_is_bounded_and_cannot_move_the_cursor() {
        let reason = Reason::parse(&format!("error: \u{1b}[2J{}", "x".repeat(10_000)));
        assert_eq!(reason.text.chars().count(), MAX_REASON_CHARS);
        assert!(!reason.text.contains('\u{1b}'));
    }
}
