//! Channels and coins on chain.
//!
//! One channel is opened at a time, and the wallet must have seen its funding
//! transaction before the next: otherwise both spend the same coin and one of
//! the channels, already in use if the peer trusts us, never exists (ldk-node
//! issue 41).

use std::sync::Arc;
use std::time::Duration;

use bitcoin::hashes::Hash as _;
use bitcoin::{Address, OutPoint, Txid};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use ldk_node::config::ChannelConfig;
use ldk_node::lightning::ln::channelmanager::PaymentId;
use ldk_node::{
    BalanceDetails, ChannelDetails, LightningBalance, NodeError, PendingSweepBalance, UserChannelId,
};
use protocol::ids::LightningId;
use protocol::money::Msat;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::{Inner, LdkWallet, convert};
use crate::ports::wallet::{
    Balance, ChannelId, ChannelInfo, Channels, OpenChannel, OpenedChannel, Peer, WalletError,
};

/// How long the wallet may take to see its own funding transaction. A minute
/// covers the slowest chain source, which is asked again and again.
const SEE_FUNDING: Duration = Duration::from_secs(60);
/// How long a look at the chain may take before its source is called silent.
const SYNC: Duration = Duration::from_secs(60);

/// Pause between two looks at the chain while waiting for that.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A funding transaction that the wallet is to see.
#[derive(Debug, Clone, Copy)]
pub(super) struct Funding {
    txid: Txid,
    /// At most this is left on chain once it counts.
    left_sat: u64,
}

/// What an open in progress waits for.
#[derive(Debug, Clone)]
pub(super) struct ChannelNews {
    id: UserChannelId,
    what: News,
}

#[derive(Debug, Clone)]
enum News {
    Pending(OutPoint),
    Closed(String),
}

impl ChannelNews {
    pub fn pending(id: UserChannelId, funding: OutPoint) -> Self {
        Self {
            id,
            what: News::Pending(funding),
        }
    }

    pub fn closed(id: UserChannelId, reason: String) -> Self {
        Self {
            id,
            what: News::Closed(reason),
        }
    }
}

/// Our channels charge nothing per forwarded payment: LDK's 1,000 msat would
/// exceed the price of what is bought.
fn channel_config() -> ChannelConfig {
    ChannelConfig {
        forwarding_fee_base_msat: 0,
        ..ChannelConfig::default()
    }
}

/// Sets that for a channel that a peer opened.
pub(super) fn drop_base_fee(inner: &Inner, id: UserChannelId) {
    let channels = inner.node.list_channels();
    let Some(channel) = channels.iter().find(|c| c.user_channel_id == id) else {
        return;
    };
    if channel.config.forwarding_fee_base_msat == 0 {
        return;
    }
    let config = ChannelConfig {
        forwarding_fee_base_msat: 0,
        ..channel.config
    };
    let changed = inner
        .node
        .update_channel_config(&id, channel.counterparty_node_id, config);
    if let Err(error) = changed {
        tracing::warn!(channel = %convert::channel_id(id), %error, "forwarding fee not changed");
    }
}

pub(super) fn balance(inner: &Inner) -> Balance {
    let all = inner.node.list_balances();
    let channels = inner.node.list_channels();
    let usable = || channels.iter().filter(|channel| channel.is_usable);
    Balance {
        spendable: Msat(usable().map(|c| c.outbound_capacity_msat).sum()),
        largest_part: Msat(
            usable()
                .map(|c| c.next_outbound_htlc_limit_msat)
                .max()
                .unwrap_or(0),
        ),
        receivable: Msat(usable().map(|c| c.inbound_capacity_msat).sum()),
        channels_sat: all.total_lightning_balance_sats,
        onchain_sat: all.spendable_onchain_balance_sats,
        onchain_total_sat: all.total_onchain_balance_sats,
        returning_sat: returning(&all),
    }
}

/// What comes back from closed channels: first it waits for blocks, then it is swept.
fn returning(all: &BalanceDetails) -> u64 {
    let waiting = all.lightning_balances.iter().map(|balance| match balance {
        LightningBalance::ClaimableAwaitingConfirmations {
            amount_satoshis, ..
        } => *amount_satoshis,
        _ => 0,
    });
    let swept = all
        .pending_balances_from_channel_closures
        .iter()
        .map(|pending| match pending {
            PendingSweepBalance::PendingBroadcast {
                amount_satoshis, ..
            }
            | PendingSweepBalance::BroadcastAwaitingConfirmation {
                amount_satoshis, ..
            }
            | PendingSweepBalance::AwaitingThresholdConfirmations {
                amount_satoshis, ..
            } => *amount_satoshis,
        });
    waiting.chain(swept).sum()
}

impl Channels for LdkWallet {
    fn address(&self) -> BoxFuture<'_, Result<String, WalletError>> {
        self.inner
            .blocking(|inner| {
                let address = inner.node.onchain_payment().new_address();
                address
                    .map(|address| address.to_string())
                    .map_err(convert::node_error("drawing an address"))
            })
            .boxed()
    }

    fn connect(&self, peer: Peer) -> BoxFuture<'_, Result<(), WalletError>> {
        self.inner
            .blocking(move |inner| connect(inner, &peer))
            .boxed()
    }

    fn open(&self, open: OpenChannel) -> BoxFuture<'_, Result<OpenedChannel, WalletError>> {
        let inner = self.inner.clone();
        // On the wallet's runtime: an open that was begun is seen through.
        let opening = inner
            .runtime
            .handle()
            .spawn(async move { open_one(&inner, open).await });
        async move { opening.await.unwrap_or(Err(WalletError::NotRunning)) }.boxed()
    }

    fn close(&self, id: ChannelId, force: bool) -> BoxFuture<'_, Result<(), WalletError>> {
        self.inner
            .blocking(move |inner| close(inner, &id, force))
            .boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<ChannelInfo>, WalletError>> {
        self.inner
            .blocking(|inner| Ok(inner.node.list_channels().iter().map(info).collect()))
            .boxed()
    }

    fn sync(&self) -> BoxFuture<'_, Result<(), WalletError>> {
        let looking = self.inner.blocking(|inner| {
            let synced = inner.node.sync_wallets();
            synced.map_err(convert::node_error("looking at the chain"))
        });
        async move {
            let synced = tokio::time::timeout(SYNC, looking).await;
            synced.unwrap_or_else(|_| {
                Err(WalletError::Chain {
                    reason: format!("nothing was heard of it for {} s", SYNC.as_secs()),
                })
            })
        }
        .boxed()
    }

    fn withdraw(
        &self,
        address: String,
        sats: Option<u64>,
    ) -> BoxFuture<'_, Result<String, WalletError>> {
        self.inner
            .blocking(move |inner| {
                let to = address
                    .parse::<Address<_>>()
                    .ok()
                    .and_then(|address| address.require_network(inner.network).ok())
                    .ok_or_else(|| WalletError::Node {
                        doing: "sending coins",
                        reason: format!("`{address}` is not an address on {}", inner.network),
                    })?;
                let onchain = inner.node.onchain_payment();
                match sats {
                    Some(sats) => onchain.send_to_address(&to, sats, None),
                    None => onchain.send_all_to_address(&to, true, None),
                }
                .map(|txid| txid.to_string())
                .map_err(convert::node_error("sending coins"))
            })
            .boxed()
    }
}

fn dial(
    peer: &Peer,
) -> Result<
    (
        bitcoin::secp256k1::PublicKey,
        ldk_node::lightning::ln::msgs::SocketAddress,
    ),
    WalletError,
> {
    let bad = |reason: String| WalletError::Connect {
        peer: peer.id,
        address: peer.address.clone(),
        reason,
    };
    let key = convert::key(&peer.id).ok_or_else(|| bad("not a public key".to_string()))?;
    let address = convert::address(&peer.address).map_err(bad)?;
    Ok((key, address))
}

fn connect(inner: &Arc<Inner>, peer: &Peer) -> Result<(), WalletError> {
    let (key, address) = dial(peer)?;
    let connected = inner.node.connect(key, address, true);
    connected.map_err(|error| WalletError::Connect {
        peer: peer.id,
        address: peer.address.clone(),
        reason: error.to_string(),
    })
}

async fn open_one(inner: &Arc<Inner>, open: OpenChannel) -> Result<OpenedChannel, WalletError> {
    let mut unseen = inner.opening.lock().await;
    if let Some(funding) = *unseen {
        see_funding(inner, funding).await?;
        *unseen = None;
    }
    let mut news = inner.news.subscribe();
    let (peer, sats) = (open.peer.id, open.sats);
    let before_sat = inner.node.list_balances().total_onchain_balance_sats;
    let id = inner.blocking(move |inner| propose(inner, &open)).await?;
    let pending = async {
        loop {
            match news.recv().await {
                Ok(news) if news.id == id => match news.what {
                    News::Pending(funding) => return Ok(funding),
                    News::Closed(reason) => return Err(WalletError::NotOpened { reason }),
                },
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => {
                    // Missed it, perhaps; the list has it.
                    let channels = inner.node.list_channels();
                    let funding = channels
                        .iter()
                        .find(|channel| channel.user_channel_id == id)
                        .and_then(|channel| channel.funding_txo);
                    if let Some(funding) = funding {
                        return Ok(funding);
                    }
                }
                Err(RecvError::Closed) => return Err(WalletError::NotRunning),
            }
        }
    };
    let output = match tokio::time::timeout(inner.config.open_timeout, pending).await {
        Ok(output) => output?,
        Err(_) => return Err(give_up(inner, id, peer).await),
    };
    let funding = Funding {
        txid: output.txid,
        left_sat: before_sat.saturating_sub(sats),
    };
    *unseen = Some(funding);
    match see_funding(inner, funding).await {
        Ok(()) => *unseen = None,
        // The channel is on its way all the same; only the next has to wait.
        Err(error) => tracing::warn!(txid = %output.txid, %error, "funding not seen yet"),
    }
    Ok(OpenedChannel {
        id: convert::channel_id(id),
        funding_txid: output.txid.to_string(),
    })
}

fn propose(inner: &Arc<Inner>, open: &OpenChannel) -> Result<UserChannelId, WalletError> {
    let (key, address) = dial(&open.peer)?;
    let push = (open.push > Msat::ZERO).then_some(open.push.0);
    let config = Some(channel_config());
    let proposed = if open.announce {
        inner
            .node
            .open_announced_channel(key, address, open.sats, push, config)
    } else {
        inner
            .node
            .open_channel(key, address, open.sats, push, config)
    };
    proposed.map_err(|error| match error {
        NodeError::ConnectionFailed | NodeError::InvalidSocketAddress => WalletError::Connect {
            peer: open.peer.id,
            address: open.peer.address.clone(),
            reason: error.to_string(),
        },
        NodeError::InsufficientFunds => {
            let reserve = ldk_node::config::AnchorChannelsConfig::default();
            WalletError::TooFewCoins {
                needed_sat: open.sats.saturating_add(reserve.per_channel_reserve_sats),
                have_sat: balance(inner).onchain_sat,
            }
        }
        NodeError::ChannelCreationFailed if open.announce => WalletError::NotOpened {
            reason: "announced channels need `alias` and `listen` to be set".to_string(),
        },
        _ => WalletError::NotOpened {
            reason: error.to_string(),
        },
    })
}

/// The peer does not answer: take the proposal back, so that a late answer
/// cannot fund a channel that nobody waits for.
async fn give_up(inner: &Arc<Inner>, id: UserChannelId, peer: LightningId) -> WalletError {
    let seconds = inner.config.open_timeout.as_secs();
    let taken_back = inner
        .unchecked(move |inner| {
            let key = convert::key(&peer).ok_or(WalletError::NotRunning)?;
            inner
                .node
                .force_close_channel(&id, key, Some("no answer".to_string()))
                .map_err(convert::node_error("taking a proposal back"))
        })
        .await;
    if let Err(error) = taken_back {
        tracing::warn!(%peer, %error, "a channel proposal could not be taken back");
    }
    WalletError::NotOpened {
        reason: format!("{peer} did not agree within {seconds} s"),
    }
}

/// Waits until the wallet counts the funding transaction's inputs as spent.
///
/// Its record appears with the first confirmation; before, with bitcoind as the
/// source, only the balance tells.
async fn see_funding(inner: &Arc<Inner>, funding: Funding) -> Result<(), WalletError> {
    let until = Instant::now() + SEE_FUNDING;
    let id = PaymentId(funding.txid.to_byte_array());
    loop {
        let seen = inner
            .blocking(move |inner| {
                let synced = inner.node.sync_wallets();
                synced.map_err(convert::node_error("looking for the funding transaction"))?;
                let left_sat = inner.node.list_balances().total_onchain_balance_sats;
                Ok(left_sat <= funding.left_sat || inner.node.payment(&id).is_some())
            })
            .await;
        match seen {
            Ok(true) => return Ok(()),
            Err(error @ (WalletError::NotRunning | WalletError::Storage { .. })) => {
                return Err(error);
            }
            Ok(false) | Err(_) if Instant::now() < until => {}
            Ok(false) => {
                return Err(WalletError::Chain {
                    reason: format!(
                        "funding transaction {} has not appeared; open no other channel before it has",
                        funding.txid
                    ),
                });
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn close(inner: &Arc<Inner>, id: &ChannelId, force: bool) -> Result<(), WalletError> {
    let channels = inner.node.list_channels();
    let channel = channels
        .iter()
        .find(|channel| convert::channel_id(channel.user_channel_id) == *id)
        .ok_or_else(|| WalletError::NoSuchChannel { id: id.0.clone() })?;
    let (id, peer) = (&channel.user_channel_id, channel.counterparty_node_id);
    let closed = if force {
        inner.node.force_close_channel(id, peer, None)
    } else {
        inner.node.close_channel(id, peer)
    };
    closed.map_err(convert::node_error("closing a channel"))
}

fn info(channel: &ChannelDetails) -> ChannelInfo {
    ChannelInfo {
        id: convert::channel_id(channel.user_channel_id),
        peer: convert::lightning_id(&channel.counterparty_node_id),
        sats: channel.channel_value_sats,
        spendable: Msat(channel.outbound_capacity_msat),
        receivable: Msat(channel.inbound_capacity_msat),
        ready: channel.is_channel_ready,
        usable: channel.is_usable,
        announced: channel.is_announced,
        ours: channel.is_outbound,
        funding_txid: channel.funding_txo.map(|funding| funding.txid.to_string()),
    }
}
