//! Handlers of `/control/wallet`: manual wallet operations.
//!
//! Payments by hand are outside the budgets, which bound what programs spend.

use super::App;
use super::errors::ApiError;
use crate::control::{
    CloseRequest, InvoiceRequest, OpenRequest, Opened, PayRequest, PayResult, WithdrawRequest,
};
use actors::ports::wallet::{
    Balance, ChannelInfo, Channels, Invoice, OpenChannel, PayOutcome, Payment, Peer, Wallet,
    WalletError, read_invoice,
};
use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use std::sync::Arc;
use std::time::Duration;

/// How long a call waits for a wallet that is starting. Its chain source is given up after
/// five seconds or so.
const OPENING: Duration = Duration::from_secs(30);

type Answer<T> = Result<Json<T>, ApiError>;
type Body<T> = Result<Json<T>, JsonRejection>;

impl From<WalletError> for ApiError {
    fn from(error: WalletError) -> Self {
        let (status, fix) = match &error {
            WalletError::TooFewCoins { .. } => (402, "send coins to `freehold wallet address`"),
            WalletError::NoSuchChannel { .. } => {
                (404, "take an id from `freehold wallet channels`")
            }
            WalletError::InvoiceTerms { .. } => (400, "choose another amount or expiry"),
            WalletError::Connect { .. } => (502, "check the peer's address"),
            WalletError::Chain { .. } => (502, "check [chain] in freehold.toml"),
            WalletError::NotRunning => (503, "start the node again"),
            WalletError::NotReady { .. } => (
                503,
                "check the internet connection and [chain] in freehold.toml; it is tried again by itself",
            ),
            _ => (502, "look at wallet/ldk_node.log in the data folder"),
        };
        ApiError::new(status, error.to_string(), fix)
    }
}

/// The wallet, once it is known whether it can be used.
async fn wallet_of(app: &App) -> Result<&dyn Wallet, ApiError> {
    let wallet = app.node.wallet().as_ref();
    match tokio::time::timeout(OPENING, wallet.opened()).await {
        Ok(opened) => opened?,
        Err(_) => {
            let reason = format!("it is still starting after {} s", OPENING.as_secs());
            return Err(WalletError::NotReady { reason }.into());
        }
    }
    Ok(wallet)
}

async fn channels_of(app: &App) -> Result<&dyn Channels, ApiError> {
    wallet_of(app).await?.channels().ok_or_else(|| {
        ApiError::new(
            501,
            "this wallet has no channels of its own",
            "use the wallet's own program",
        )
    })
}

pub async fn balance(State(app): State<Arc<App>>) -> Answer<Balance> {
    Ok(Json(wallet_of(&app).await?.balance().await?))
}

pub async fn address(State(app): State<Arc<App>>) -> Answer<String> {
    Ok(Json(channels_of(&app).await?.address().await?))
}

pub async fn channels(State(app): State<Arc<App>>) -> Answer<Vec<ChannelInfo>> {
    Ok(Json(channels_of(&app).await?.list().await?))
}

pub async fn sync(State(app): State<Arc<App>>) -> Answer<()> {
    Ok(Json(channels_of(&app).await?.sync().await?))
}

pub async fn invoice(State(app): State<Arc<App>>, body: Body<InvoiceRequest>) -> Answer<Invoice> {
    let Json(request) = body?;
    let wallet = wallet_of(&app).await?;
    let made = wallet.create_described_invoice(request.msat, request.description, request.expiry_s);
    Ok(Json(made.await?))
}

pub async fn pay(State(app): State<Arc<App>>, body: Body<PayRequest>) -> Answer<PayResult> {
    let Json(request) = body?;
    let facts = read_invoice(&request.bolt11)
        .map_err(|error| ApiError::new(400, error.to_string(), "paste the whole invoice"))?;
    let msat = facts.msat.ok_or_else(|| {
        ApiError::new(
            400,
            "the invoice names no amount",
            "ask for an invoice over an amount",
        )
    })?;
    let payment = Payment {
        bolt11: request.bolt11,
        hash: facts.hash,
        msat,
        max_fee: request.max_fee,
    };
    Ok(Json(match wallet_of(&app).await?.pay(payment).await {
        PayOutcome::Settled { preimage, fee } => PayResult::Settled { preimage, fee },
        PayOutcome::Failed { reason, .. } => PayResult::Failed {
            reason: reason.to_string(),
        },
        PayOutcome::Unknown { why, .. } => PayResult::Unknown { why },
    }))
}

pub async fn connect(State(app): State<Arc<App>>, body: Body<Peer>) -> Answer<()> {
    let Json(peer) = body?;
    Ok(Json(channels_of(&app).await?.connect(peer).await?))
}

pub async fn open(State(app): State<Arc<App>>, body: Body<OpenRequest>) -> Answer<Opened> {
    let Json(request) = body?;
    let open = OpenChannel {
        peer: request.peer,
        sats: request.sats,
        push: request.push,
        announce: request.announce,
    };
    let opened = channels_of(&app).await?.open(open).await?;
    Ok(Json(Opened {
        id: opened.id,
        funding_txid: opened.funding_txid,
    }))
}

pub async fn close(State(app): State<Arc<App>>, body: Body<CloseRequest>) -> Answer<()> {
    let Json(request) = body?;
    Ok(Json(
        channels_of(&app)
            .await?
            .close(request.id, request.force)
            .await?,
    ))
}

pub async fn withdraw(State(app): State<Arc<App>>, body: Body<WithdrawRequest>) -> Answer<String> {
    let Json(request) = body?;
    Ok(Json(
        channels_of(&app)
            .await?
            .withdraw(request.address, request.sats)
            .await?,
    ))
}
