//! Refusals: a code for programs, a sentence for people, and the fix.
//!
//! Travels from host to buyer, and from the local node to its HTTP clients.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Makes [`Code`]: each code with its number on the wire and its word in JSON.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal $word:literal,)*) => {
        /// Why an order is not served, or ended early. A number on the wire, a word in JSON;
        /// a number that this version does not know is kept as it is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $($(#[$doc])* $name,)*
            /// A code of a later version.
            Unknown(u16),
        }

        impl Code {
            /// Every code that this version knows.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// Returns the number on the wire.
            pub const fn number(self) -> u16 {
                match self {
                    $(Code::$name => $number,)*
                    Code::Unknown(number) => number,
                }
            }

            /// Returns the code of a number.
            pub const fn of_number(number: u16) -> Code {
                match number {
                    $($number => Code::$name,)*
                    number => Code::Unknown(number),
                }
            }

            /// Returns the word in JSON, `unknown` for a code of a later version.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Code::$name => $word,)*
                    Code::Unknown(_) => "unknown",
                }
            }

            /// Returns the code of a word.
            pub fn of_word(word: &str) -> Code {
                match word {
                    $($word => Code::$name,)*
                    _ => Code::Unknown(u16::MAX),
                }
            }
        }
    };
}

codes! {
    /// The order does not decode or breaks a limit.
    BadOrder = 0 "bad_order",
    /// Signature, recipient, network, time or nonce of the envelope.
    BadEnvelope = 1 "bad_envelope",
    /// The model is not served here.
    UnknownModel = 2 "unknown_model",
    /// Prompt and output do not fit the model's context or the host's limits.
    TooLong = 3 "too_long",
    /// All slots and the queue are full.
    Busy = 4 "busy",
    /// The owner of the machine needs it.
    OwnerActive = 5 "owner_active",
    /// The buyer's cap does not cover the entry payment.
    CapTooLow = 6 "cap_too_low",
    /// A budget of the local node is used up (HTTP 402).
    BudgetExhausted = 7 "budget_exhausted",
    /// No host offers what was asked for.
    NoHost = 8 "no_host",
    /// The wallet cannot pay: no channel or too little in it.
    WalletCannotPay = 9 "wallet_cannot_pay",
    /// A payment failed for good.
    PaymentFailed = 10 "payment_failed",
    /// A payment's fate is not known yet; it is being looked up.
    PaymentUnknown = 11 "payment_unknown",
    /// The buyer did not pay in time.
    NotPaid = 12 "not_paid",
    /// The other side went away.
    Disconnected = 13 "disconnected",
    /// Nothing arrived in time.
    Timeout = 14 "timeout",
    /// The other side broke the protocol.
    ProtocolViolation = 15 "protocol_violation",
    /// The buyer cancelled.
    Cancelled = 16 "cancelled",
    /// The engine failed.
    EngineFailed = 17 "engine_failed",
    /// The node was restarted during the order.
    Interrupted = 18 "interrupted",
    /// The host is shutting down.
    ShuttingDown = 19 "shutting_down",
    /// The wallet could not make an invoice.
    NoInvoice = 20 "no_invoice",
    /// This payment mode is not offered.
    ModeUnsupported = 21 "mode_unsupported",
    /// The disk does not take the ledger's entries.
    StorageFailed = 22 "storage_failed",
    /// The order asks for a handling of the prompt that this host does not offer.
    HandlingUnsupported = 23 "handling_unsupported",
    /// The settings of the host contradict each other.
    HostMisconfigured = 24 "host_misconfigured",
    /// A debt that the buyer's books do not know.
    DebtDisputed = 25 "debt_disputed",
    /// What was offered is not what was listed.
    NotAsListed = 26 "not_as_listed",
    /// This peer, or everybody together, asks for more than is given to those who have not paid.
    TooManyUnpaid = 27 "too_many_unpaid",
    /// This node's wallet is not open yet, or the peers of its channels are away (HTTP 503).
    WalletAway = 28 "wallet_away",
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(self.word())
        } else {
            serializer.serialize_u16(self.number())
        }
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer).map(|word| Code::of_word(&word))
        } else {
            u16::deserialize(deserializer).map(Code::of_number)
        }
    }
}

impl Code {
    /// Returns what a person can do about it.
    pub const fn fix(self) -> &'static str {
        match self {
            Code::BadOrder => "shorten the request, or update freehold on both sides",
            Code::BadEnvelope => "check this machine's clock and network setting",
            Code::UnknownModel => "choose a model that `freehold hosts` lists",
            Code::TooLong => "shorten the prompt or lower max_tokens",
            Code::Busy => "try again after the stated time, or choose another host",
            Code::OwnerActive => "try again later, or choose another host",
            Code::CapTooLow => {
                "raise the cap (--max-cost; over HTTP freehold.max_cost_msat), or ask for fewer tokens"
            }
            Code::BudgetExhausted => {
                "ask for less, or raise the limits in freehold.toml ([budget]); a day's limit renews at 0:00 UTC"
            }
            Code::NoHost => {
                "run `freehold hosts` to see what is listed, or check the relays in freehold.toml"
            }
            Code::WalletCannotPay => {
                "open a channel or fund it: `freehold wallet balance`, `freehold wallet open`"
            }
            Code::PaymentFailed => "check `freehold wallet balance` and the channel to this host",
            Code::PaymentUnknown => {
                "wait: it is looked up until its fate is known; `freehold ledger` shows it"
            }
            Code::NotPaid => "keep the wallet online while an answer streams",
            Code::Disconnected => {
                "ask again, or choose another host; `freehold ledger` shows what was paid"
            }
            Code::Timeout => "ask again, or choose another host",
            Code::ProtocolViolation => "choose another host; this one was noted",
            Code::Cancelled => "nothing to do",
            Code::EngineFailed => "choose another host, or look at this host's log",
            Code::Interrupted => "ask again; `freehold ledger` shows what was paid",
            Code::ShuttingDown => "choose another host",
            Code::NoInvoice => "the host's wallet needs attention: `freehold wallet balance` there",
            Code::ModeUnsupported => "use payment mode `metered`",
            Code::StorageFailed => "free some disk space, then restart the node",
            Code::HandlingUnsupported => "choose another host, or ask for no special handling",
            Code::HostMisconfigured => {
                "choose another host; its operator must raise host.free_quota or host.quantum"
            }
            Code::DebtDisputed => {
                "choose another host, or compare `freehold ledger` with the host's books"
            }
            Code::NotAsListed => "ask again: listings are read anew; or choose another host",
            Code::TooManyUnpaid => "pay for what is under way, or try again in a moment",
            Code::WalletAway => {
                "try again later; check the internet connection, [chain] in freehold.toml and `freehold wallet channels`"
            }
            Code::Unknown(_) => "update freehold, or choose another host",
        }
    }

    /// Returns whether the same request may succeed a little later.
    pub const fn is_retryable(self) -> bool {
        matches!(
            self,
            Code::Busy
                | Code::OwnerActive
                | Code::Timeout
                | Code::Disconnected
                | Code::NoInvoice
                | Code::TooManyUnpaid
                | Code::NotAsListed
                | Code::WalletAway
        )
    }

    /// Returns whether a host may say it. The others are a node's own findings about its
    /// wallet, budgets and disk: from a peer they mean nothing.
    pub const fn is_from_hosts(self) -> bool {
        !matches!(
            self,
            Code::BudgetExhausted
                | Code::NoHost
                | Code::WalletCannotPay
                | Code::PaymentFailed
                | Code::PaymentUnknown
                | Code::Interrupted
                | Code::DebtDisputed
                | Code::NotAsListed
                | Code::WalletAway
        )
    }

    /// Returns whether the host is to blame, for its reputation.
    pub const fn is_hosts_fault(self) -> bool {
        matches!(
            self,
            Code::Disconnected
                | Code::Timeout
                | Code::ProtocolViolation
                | Code::EngineFailed
                | Code::NoInvoice
                | Code::StorageFailed
        )
    }

    /// Returns the status for an HTTP client, before the first token.
    pub const fn http_status(self) -> u16 {
        match self {
            Code::BadOrder
            | Code::BadEnvelope
            | Code::ModeUnsupported
            | Code::HandlingUnsupported => 400,
            Code::BudgetExhausted | Code::CapTooLow | Code::WalletCannotPay => 402,
            Code::UnknownModel => 404,
            Code::TooLong => 413,
            Code::Cancelled => 499,
            Code::PaymentFailed | Code::PaymentUnknown | Code::NotPaid => 402,
            Code::Timeout => 504,
            Code::Disconnected
            | Code::ProtocolViolation
            | Code::EngineFailed
            | Code::HostMisconfigured
            | Code::DebtDisputed
            | Code::Unknown(_) => 502,
            Code::Busy
            | Code::OwnerActive
            | Code::NoHost
            | Code::Interrupted
            | Code::ShuttingDown
            | Code::NoInvoice
            | Code::StorageFailed
            | Code::NotAsListed
            | Code::TooManyUnpaid
            | Code::WalletAway => 503,
        }
    }
}

/// A refusal with its sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub code: Code,
    /// For people; says what happened.
    pub message: String,
    /// When to try again, in milliseconds.
    pub retry_after_ms: Option<u64>,
}

impl Refusal {
    /// Makes a refusal.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Refusal {
            code,
            message: message.into(),
            retry_after_ms: None,
        }
    }

    /// What a person can do about it.
    pub fn fix(&self) -> &'static str {
        self.code.fix()
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.fix())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn every_code_keeps_its_number_and_its_word() {
        for code in Code::ALL {
            assert_eq!(Code::of_number(code.number()), *code);
            assert_eq!(Code::of_word(code.word()), *code);
        }
    }

    #[test]
    fn a_code_of_a_later_version_is_kept() {
        let later = codec::encode(&9_999u16);
        let code: Code = codec::decode(&later, 8).unwrap();
        assert_eq!(code, Code::Unknown(9_999));
        assert_eq!(codec::encode(&code), later);
        let word: Code = serde_json::from_str("\"of_a_later_version\"").unwrap();
        assert!(matches!(word, Code::Unknown(_)));
    }
}
