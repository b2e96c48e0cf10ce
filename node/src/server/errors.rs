//! Errors as HTTP clients see them: an OpenAI error object with the fix in it.
//!
//! Before the first token it is the answer, with a status; after it, an event in
//! the stream that stock clients raise.

use crate::control::{ErrorBody, ErrorDetail, kind};
use actors::ports::wallet::{ChannelInfo, Wallet};
use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use protocol::money::Msat;
use protocol::refusal::{Code, Refusal};

/// When to ask again where peers of the wallet are away: they are called as often.
const AWAY_RETRY_MS: u64 = 30_000;

/// An error answer.
#[derive(Debug, Clone)]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// The error object.
    pub body: ErrorBody,
    /// When to try again, in milliseconds.
    pub retry_after_ms: Option<u64>,
}

impl ApiError {
    /// An error of this server's own.
    pub fn new(status: u16, message: impl Into<String>, fix: impl Into<String>) -> Self {
        let (message, fix) = (message.into(), fix.into());
        let detail = ErrorDetail {
            message: format!("{message} ({fix})"),
            kind: kind(status).to_owned(),
            code: None,
            param: None,
            fix: Some(fix),
        };
        ApiError {
            status,
            body: ErrorBody { error: detail },
            retry_after_ms: None,
        }
    }

    /// A bad request that names the parameter.
    pub fn parameter(param: &str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        let mut error = ApiError::new(400, message, fix);
        error.body.error.param = Some(param.to_owned());
        error
    }

    /// The event that ends a stream after its first token.
    pub fn event(&self) -> String {
        serde_json::to_string(&self.body).unwrap_or_default()
    }
}

/// The answer to a purchase that was refused. A wallet that cannot pay because it is not open
/// yet, or because the peers of its channels are away, is no empty wallet: later it can.
pub async fn of_purchase(wallet: &dyn Wallet, refusal: Refusal) -> ApiError {
    if !matches!(refusal.code, Code::WalletCannotPay | Code::WalletAway) {
        return refusal.into();
    }
    let (message, fix) = match wallet.opened().await {
        Err(error) => (
            error.to_string(),
            "try again later; check the internet connection and [chain] in freehold.toml",
        ),
        Ok(()) => {
            let channels = match wallet.channels() {
                Some(channels) => channels.list().await.unwrap_or_default(),
                None => Vec::new(),
            };
            let Some(message) = out_of_reach(&channels, &refusal) else {
                return refusal.into();
            };
            (
                message,
                "try again later: the peers are called every half minute; `freehold wallet channels` shows them",
            )
        }
    };
    let mut error = ApiError::new(503, message, fix);
    error.body.error.code = Some(Code::WalletAway.word().to_owned());
    error.retry_after_ms = Some(AWAY_RETRY_MS);
    error
}

/// Says what lies in channels whose peers are away, if anything does.
fn out_of_reach(channels: &[ChannelInfo], refusal: &Refusal) -> Option<String> {
    let away = channels.iter().filter(|one| one.ready && !one.usable);
    let (count, sum) = away.fold((0, Msat::ZERO), |(count, sum), one| {
        (count + 1, sum.saturating_add(one.spendable))
    });
    (sum > Msat::ZERO).then(|| {
        format!(
            "{}; {sum} more is in {count} channels whose peers are away just now",
            refusal.message
        )
    })
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        ApiError {
            status: refusal.code.http_status(),
            retry_after_ms: refusal.retry_after_ms,
            body: ErrorBody::of(&refusal),
        }
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        let fix = match rejection.status().as_u16() {
            413 => "send less, or raise gateway.max_body_bytes",
            415 => "send JSON with the header Content-Type: application/json",
            _ => "correct the request body",
        };
        // A field of the wrong type is a bad request to every client of this API.
        let status = match rejection.status().as_u16() {
            422 => 400,
            status => status,
        };
        ApiError::new(status, rejection.body_text(), fix)
    }
}

impl From<actors::node::NodeError> for ApiError {
    fn from(error: actors::node::NodeError) -> Self {
        ApiError::new(503, error.to_string(), "look at the node's log")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.body)).into_response();
        if let Some(ms) = self.retry_after_ms {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000)));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actors::ports::wallet::absent::AbsentWallet;
    use actors::ports::wallet::{ChannelId, Network};
    use protocol::ids::LightningId;

    fn cannot_pay() -> Refusal {
        Refusal::new(Code::WalletCannotPay, "the wallet can spend 0.000 sat")
    }

    #[tokio::test]
    async fn a_wallet_that_is_not_open_yet_is_503_and_not_402() {
        let wallet = AbsentWallet::new(&[7; 64], Network::Signet, "no chain").unwrap();
        let error = of_purchase(&wallet, cannot_pay()).await;
        assert_eq!(
            (error.status, error.retry_after_ms),
            (503, Some(AWAY_RETRY_MS))
        );
        assert!(error.body.error.message.contains("no chain"));
        let other = Refusal::new(Code::BudgetExhausted, "spent");
        assert_eq!(of_purchase(&wallet, other).await.status, 402);
        // Whatever the wallet says by then, a purchase that it was away for can be tried again.
        let away = ApiError::from(Refusal::new(Code::WalletAway, "no answer"));
        let word = away.body.error.code.as_deref();
        assert_eq!((away.status, word), (503, Some("wallet_away")));
    }

    #[test]
    fn money_in_a_channel_whose_peer_is_away_is_told_from_none() {
        let channel = |usable, spendable| ChannelInfo {
            id: ChannelId("00".to_owned()),
            peer: LightningId([2; 33]),
            sats: 2_000_000,
            spendable: Msat(spendable),
            receivable: Msat(0),
            ready: true,
            usable,
            announced: false,
            ours: true,
            funding_txid: None,
        };
        let said = out_of_reach(&[channel(false, 5_000), channel(true, 0)], &cannot_pay());
        assert!(said.is_some_and(|said| said.contains("5.000 sat more is in 1 channels")));
        assert_eq!(out_of_reach(&[channel(true, 0)], &cannot_pay()), None);
        assert_eq!(out_of_reach(&[channel(false, 0)], &cannot_pay()), None);
    }

    #[test]
    fn a_used_up_budget_is_402_with_the_fix_and_never_503() {
        let error = ApiError::from(Refusal::new(
            Code::BudgetExhausted,
            "today's 10.000 sat are spent",
        ));
        assert_eq!(error.status, 402);
        let detail = &error.body.error;
        assert_eq!(detail.code.as_deref(), Some("budget_exhausted"));
        assert_eq!(detail.kind, "insufficient_quota");
        assert!(
            detail
                .fix
                .as_deref()
                .is_some_and(|fix| fix.contains("[budget]"))
        );
        assert!(
            detail.message.contains("[budget]"),
            "clients show the message alone"
        );
    }

    #[test]
    fn an_error_event_is_an_object_that_stock_clients_raise() {
        let error = ApiError::from(Refusal::new(Code::Disconnected, "the host went away"));
        let event: serde_json::Value = serde_json::from_str(&error.event()).unwrap();
        assert_eq!(event["error"]["code"], "disconnected");
        assert!(event["error"]["message"].is_string());
    }
}
