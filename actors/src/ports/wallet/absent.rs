//! No wallet, behind the wallet port: for a node without a chain source, and for commands
//! that read books or listings and need none.
//!
//! Knows the id that the wallet would have. Every other call says why there is no wallet,
//! and nothing is ever said to have failed: a payment that an earlier run sent stays unknown.

use std::future::ready;

use bitcoin::NetworkKind;
use bitcoin::bip32::{ChildNumber, Xpriv};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use protocol::ids::{LightningId, PaymentHash, Preimage};
use protocol::money::Msat;

use super::{
    Balance, EventId, EventStream, Incoming, Invoice, Network, Outgoing, PayOutcome, Payment,
    Wallet, WalletError,
};

/// A wallet that is not there.
#[derive(Debug, Clone)]
pub struct AbsentWallet {
    node_id: LightningId,
    network: Network,
    why: String,
}

impl AbsentWallet {
    /// Stands in for the wallet of a seed.
    ///
    /// # Errors
    /// [`WalletError::Setting`] for a seed that gives no keys (one in 2^127).
    pub fn new(seed: &[u8; 64], network: Network, why: &str) -> Result<Self, WalletError> {
        Ok(AbsentWallet {
            node_id: node_id(seed).map_err(|error| WalletError::Setting {
                key: "seed",
                reason: error.to_string(),
            })?,
            network,
            why: why.to_owned(),
        })
    }

    fn error(&self) -> WalletError {
        WalletError::NotReady {
            reason: self.why.clone(),
        }
    }

    fn no<T: Send + 'static>(&self) -> BoxFuture<'_, Result<T, WalletError>> {
        ready(Err(self.error())).boxed()
    }
}

/// The Lightning node id that ldk-node derives from a seed.
fn node_id(seed: &[u8; 64]) -> Result<LightningId, bitcoin::bip32::Error> {
    let secp = bitcoin::secp256k1::Secp256k1::new();
    let outer = Xpriv::new_master(NetworkKind::Main, seed)?;
    let master = Xpriv::new_master(NetworkKind::Main, &outer.private_key.secret_bytes())?;
    let node = master.derive_priv(&secp, &[ChildNumber::Hardened { index: 0 }])?;
    Ok(LightningId(node.private_key.public_key(&secp).serialize()))
}

impl Wallet for AbsentWallet {
    fn node_id(&self) -> LightningId {
        self.node_id
    }

    fn network(&self) -> Network {
        self.network
    }

    fn create_invoice(
        &self,
        _: Msat,
        _: [u8; 32],
        _: u32,
    ) -> BoxFuture<'_, Result<Invoice, WalletError>> {
        self.no()
    }

    fn pay(&self, _: Payment) -> BoxFuture<'_, PayOutcome> {
        let why = self.error().to_string();
        ready(PayOutcome::Unknown {
            submitted: false,
            why,
        })
        .boxed()
    }

    fn lookup_outgoing(&self, _: PaymentHash) -> BoxFuture<'_, Result<Outgoing, WalletError>> {
        self.no()
    }

    fn lookup_incoming(&self, _: PaymentHash) -> BoxFuture<'_, Result<Incoming, WalletError>> {
        self.no()
    }

    fn create_hold_invoice(
        &self,
        _: PaymentHash,
        _: Msat,
        _: [u8; 32],
        _: u32,
    ) -> BoxFuture<'_, Result<Invoice, WalletError>> {
        self.no()
    }

    fn settle_hold(&self, _: Preimage) -> BoxFuture<'_, Result<(), WalletError>> {
        self.no()
    }

    fn cancel_hold(&self, _: PaymentHash) -> BoxFuture<'_, Result<(), WalletError>> {
        self.no()
    }

    fn balance(&self) -> BoxFuture<'_, Result<Balance, WalletError>> {
        self.no()
    }

    fn events(&self) -> BoxFuture<'_, Result<EventStream, WalletError>> {
        ready(Ok(futures::stream::StreamExt::boxed(
            futures::stream::empty(),
        )))
        .boxed()
    }

    fn ack(&self, _: EventId) -> BoxFuture<'_, Result<(), WalletError>> {
        self.no()
    }

    fn forget(&self, _: PaymentHash) -> BoxFuture<'_, Result<(), WalletError>> {
        self.no()
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        ready(()).boxed()
    }

    fn opened(&self) -> BoxFuture<'_, Result<(), WalletError>> {
        self.no()
    }
}

#[cfg(test)]
mod tests {
    use super::super::ldk::{ChainSource, LdkConfig, LdkWallet, WalletRuntime};
    use super::*;
    use std::sync::Arc;

    const SEED: [u8; 64] = [7; 64];

    /// A wallet whose chain source is a port where nobody listens.
    async fn without_a_chain(dir: &std::path::Path) -> LdkWallet {
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", gone.local_addr().unwrap());
        drop(gone);
        let chain = ChainSource::Esplora { url };
        let config = LdkConfig::new(dir.to_owned(), Network::Signet, SEED, chain);
        let runtime = Arc::new(WalletRuntime::new().unwrap());
        LdkWallet::open(config, runtime).await.unwrap()
    }

    fn payment(byte: u8) -> Payment {
        Payment {
            bolt11: "lntbs1".to_owned(),
            hash: PaymentHash([byte; 32]),
            msat: Msat(1),
            max_fee: Msat(1),
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_wallet_without_its_chain_opens_signs_and_says_what_it_waits_for() {
        let dir = tempfile::tempdir().unwrap();
        let wallet = without_a_chain(dir.path()).await;
        let error = wallet.opened().await.unwrap_err();
        assert!(
            error.to_string().contains("chain source (Esplora at"),
            "{error}"
        );
        assert_eq!(wallet.balance().await, Err(error.clone()));
        assert!(
            !wallet
                .signer()
                .unwrap()
                .sign_message(b"anything")
                .is_empty()
        );
        assert_eq!(
            wallet.pay(payment(1)).await,
            PayOutcome::not_sent(super::super::FailReason::NotRunning),
            "the wallet's records show that it was never asked to"
        );
        wallet.stop().await;
        assert_eq!(wallet.balance().await, Err(WalletError::NotRunning));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_absent_wallet_has_the_id_of_the_one_that_it_stands_for() {
        let dir = tempfile::tempdir().unwrap();
        let wallet = without_a_chain(dir.path()).await;
        let absent = AbsentWallet::new(&SEED, Network::Signet, "none is needed").unwrap();
        assert_eq!(absent.node_id(), wallet.node_id());
        wallet.stop().await;
    }

    #[tokio::test]
    async fn without_a_wallet_nothing_is_said_to_have_failed() {
        let absent = AbsentWallet::new(&SEED, Network::Signet, "none is needed").unwrap();
        let paid = absent.pay(payment(1)).await;
        assert!(matches!(paid, PayOutcome::Unknown { .. }), "{paid:?}");
        let error = absent.balance().await.unwrap_err();
        assert!(error.to_string().contains("none is needed"), "{error}");
    }
}
