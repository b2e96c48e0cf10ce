//! Refusals: a code for programs, a sentence for people, and the fix.
//!
//! Travels from host to buyer, and from the local node to its HTTP clients.

use serde::{Deserialize, Serialize};

/// Why an order is not served, or ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The order does not decode or breaks a limit.
    BadOrder,
    /// Signature, recipient, network, time or nonce of the envelope.
    BadEnvelope,
    /// The model is not served here.
    UnknownModel,
    /// Prompt and output do not fit the model's context or the host's limits.
    TooLong,
    /// All slots and the queue are full.
    Busy,
    /// The owner of the machine needs it.
    OwnerActive,
    /// The buyer's cap does not cover the entry payment.
    CapTooLow,
    /// A budget of the local node is used up (HTTP 402).
    BudgetExhausted,
    /// No host offers what was asked for.
    NoHost,
    /// The wallet cannot pay: no channel or too little in it.
    WalletCannotPay,
    /// A payment failed for good.
    PaymentFailed,
    /// A payment's fate is not known yet; it is being looked up.
    PaymentUnknown,
    /// The buyer did not pay in time.
    NotPaid,
    /// The other side went away.
    Disconnected,
    /// Nothing arrived in time.
    Timeout,
    /// The other side broke the protocol.
    ProtocolViolation,
    /// The buyer cancelled.
    Cancelled,
    /// The engine failed.
    EngineFailed,
    /// The node was restarted during the order.
    Interrupted,
    /// The host is shutting down.
    ShuttingDown,
    /// The wallet could not make an invoice.
    NoInvoice,
    /// This payment mode is not offered.
    ModeUnsupported,
    /// The disk does not take the ledger's entries.
    StorageFailed,
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
        }
    }

    /// Returns whether asking the same host again may help.
    pub const fn is_retryable(self) -> bool {
        matches!(
            self,
            Code::Busy | Code::OwnerActive | Code::Timeout | Code::Disconnected | Code::NoInvoice
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
            Code::BadOrder | Code::BadEnvelope | Code::ModeUnsupported => 400,
            Code::BudgetExhausted | Code::CapTooLow | Code::WalletCannotPay => 402,
            Code::UnknownModel => 404,
            Code::TooLong => 413,
            Code::Cancelled => 499,
            Code::PaymentFailed | Code::PaymentUnknown | Code::NotPaid => 402,
            Code::Timeout => 504,
            Code::Disconnected | Code::ProtocolViolation | Code::EngineFailed => 502,
            Code::Busy
            | Code::OwnerActive
            | Code::NoHost
            | Code::Interrupted
            | Code::ShuttingDown
            | Code::NoInvoice
            | Code::StorageFailed => 503,
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
