//! A wallet whose payments take longer, as over a route of several hops.
//!
//! Everything but [`Wallet::pay`] passes straight through to a real wallet.

use actors::ports::wallet::{
    Balance, Channels, EventId, EventStream, Incoming, Invoice, NodeSigner, Outgoing, PayOutcome,
    Payment, Wallet, WalletError,
};
use futures::future::BoxFuture;
use protocol::ids::{LightningId, PaymentHash, Preimage};
use protocol::money::Msat;
use std::sync::Arc;
use std::time::Duration;

/// The wallet within, and how much longer it takes.
pub struct SlowWallet {
    inner: Arc<dyn Wallet>,
    delay: Duration,
}

impl SlowWallet {
    /// Slows `inner` down; no delay gives it back as it is.
    pub fn around(inner: Arc<dyn Wallet>, delay: Duration) -> Arc<dyn Wallet> {
        match delay.is_zero() {
            true => inner,
            false => Arc::new(SlowWallet { inner, delay }),
        }
    }
}

impl Wallet for SlowWallet {
    fn node_id(&self) -> LightningId {
        self.inner.node_id()
    }

    fn network(&self) -> actors::ports::wallet::Network {
        self.inner.network()
    }

    fn create_invoice(
        &self,
        msat: Msat,
        description_hash: [u8; 32],
        expiry_s: u32,
    ) -> BoxFuture<'_, Result<Invoice, WalletError>> {
        self.inner.create_invoice(msat, description_hash, expiry_s)
    }

    fn pay(&self, payment: Payment) -> BoxFuture<'_, PayOutcome> {
        Box::pin(async move {
            tokio::time::sleep(self.delay).await;
            self.inner.pay(payment).await
        })
    }

    fn lookup_outgoing(&self, hash: PaymentHash) -> BoxFuture<'_, Result<Outgoing, WalletError>> {
        self.inner.lookup_outgoing(hash)
    }

    fn lookup_incoming(&self, hash: PaymentHash) -> BoxFuture<'_, Result<Incoming, WalletError>> {
        self.inner.lookup_incoming(hash)
    }

    fn create_hold_invoice(
        &self,
        hash: PaymentHash,
        msat: Msat,
        description_hash: [u8; 32],
        expiry_s: u32,
    ) -> BoxFuture<'_, Result<Invoice, WalletError>> {
        self.inner
            .create_hold_invoice(hash, msat, description_hash, expiry_s)
    }

    fn settle_hold(&self, preimage: Preimage) -> BoxFuture<'_, Result<(), WalletError>> {
        self.inner.settle_hold(preimage)
    }

    fn cancel_hold(&self, hash: PaymentHash) -> BoxFuture<'_, Result<(), WalletError>> {
        self.inner.cancel_hold(hash)
    }

    fn balance(&self) -> BoxFuture<'_, Result<Balance, WalletError>> {
        self.inner.balance()
    }

    fn events(&self) -> BoxFuture<'_, Result<EventStream, WalletError>> {
        self.inner.events()
    }

    fn ack(&self, id: EventId) -> BoxFuture<'_, Result<(), WalletError>> {
        self.inner.ack(id)
    }

    fn forget(&self, hash: PaymentHash) -> BoxFuture<'_, Result<(), WalletError>> {
        self.inner.forget(hash)
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        self.inner.stop()
    }

    fn channels(&self) -> Option<&dyn Channels> {
        self.inner.channels()
    }

    fn signer(&self) -> Option<&dyn NodeSigner> {
        self.inner.signer()
    }
}
