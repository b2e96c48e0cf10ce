//! The payment actor: carries out the effects of the payment machine on the wallet.
//!
//! - Started by [`crate::node::Node::start`] around a recovered machine; stops after its last write.
//! - Its inputs come from
//!   - the inference machine: reservations, payments, invoices, orders that are closed;
//!   - [`follow`], one task per node: events of the wallet, in order, repeated until the machine
//!     acknowledges them. Events of channels concern no order: they are logged and acknowledged there;
//!   - one task for each call of the wallet. A late completion is matched by effect id or payment
//!     hash;
//!   - the operator, by [`crate::node::Node::report`].
//! - A wallet whose disk takes nothing, or that stopped, stops the node (`Alive`).
//!
//! Decides nothing about money: caps, credit windows and retries are those of [`protocol::payment`].

use super::ask::Asks;
use super::{ActorPorts, Carried, Parts, Perform, Shared};
use crate::driver::{Driver, Fatal, Performed};
use crate::ports::wallet::{
    EventId, Incoming, Outgoing, PayOutcome as WalletOutcome, Payment as Pay, Wallet, WalletError,
    WalletEvent,
};
use futures::StreamExt;
use protocol::ids::PaymentHash;
use protocol::message::payment::{Effect, Input, LookupOutcome, PayOutcome, Report, Side};
use protocol::money::Msat;
use protocol::payment::Payment;
use std::sync::Arc;

/// The actor.
pub type PaymentActor = Driver<Payment, ActorPorts<PaymentPorts>>;

/// What to do about a disk that takes nothing.
const FREE_SPACE: &str =
    "make sure that the data folder's disk is writable and has space, then start again";

/// What PaymentActor touches.
pub struct PaymentPorts {
    /// Addresses, runtime, storage.
    pub shared: Shared,
    /// The wallet.
    pub wallet: Arc<dyn Wallet>,
    /// Operators that wait for the books.
    pub reports: Asks<Report>,
}

impl Carried for Payment {
    type Ports = PaymentPorts;

    fn ports(parts: &Parts) -> PaymentPorts {
        PaymentPorts {
            shared: parts.shared.clone(),
            wallet: parts.wallet.clone(),
            reports: parts.reports.clone(),
        }
    }
}

impl Perform<Payment> for PaymentPorts {
    fn perform(&mut self, effect: Effect) -> Performed {
        match effect {
            Effect::Persist(records) => return self.shared.persist(records),
            Effect::Tell(message) => return self.shared.tell(message),
            Effect::CheckBalance { id } => self.run(move |wallet, alive| async move {
                let balance = alive.check(wallet.balance().await).ok();
                // Nothing is known of what can be spent while no peer is there: that is not zero.
                let known = balance.filter(|balance| !balance.peers_are_away());
                if balance.is_some() && known.is_none() {
                    tracing::warn!(
                        "no channel of the wallet can be used now: their peers are away. Nothing can \
                         be bought until one is back (`freehold wallet channels`)"
                    );
                }
                let spendable = known.map(|balance| balance.spendable);
                Input::BalanceChecked { id, spendable }
            }),
            Effect::CreateInvoice {
                id,
                msat,
                description_hash,
                expiry_s,
            } => self.run(move |wallet, alive| async move {
                let made = wallet
                    .create_invoice(msat, description_hash, expiry_s)
                    .await;
                let result = alive
                    .check(made)
                    .map(|invoice| (invoice.bolt11, invoice.hash))
                    .map_err(|error| error.to_string());
                Input::InvoiceCreated { id, result }
            }),
            Effect::Pay {
                id,
                bolt11,
                hash,
                msat,
                max_fee,
            } => self.run(move |wallet, alive| async move {
                let outcome = wallet
                    .pay(Pay {
                        bolt11,
                        hash,
                        msat,
                        max_fee,
                    })
                    .await;
                if matches!(outcome, WalletOutcome::Unknown { .. }) {
                    alive.try_disk().await;
                }
                Input::PayDone {
                    id,
                    hash,
                    outcome: outcome_of(outcome),
                }
            }),
            Effect::Lookup { id, hash, side } => self.run(move |wallet, alive| async move {
                let outcome = look_up(wallet.as_ref(), &alive, hash, side).await;
                Input::LookedUp { id, hash, outcome }
            }),
            Effect::Acknowledge { event } => {
                let wallet = self.wallet.clone();
                self.shared.runtime.spawn(async move {
                    // Not acknowledged means repeated later: nothing is lost.
                    if let Err(error) = wallet.ack(EventId(event)).await {
                        tracing::debug!(%error, "a wallet event could not be acknowledged");
                    }
                });
            }
            Effect::ForgetPayments { hashes } => {
                let (wallet, shared) = (self.wallet.clone(), self.shared.clone());
                self.shared.runtime.spawn(async move {
                    for needed in forget(wallet.as_ref(), hashes).await {
                        shared.send(needed).await;
                    }
                });
            }
            Effect::Reply { id, report } => self.reports.answer(id, *report),
        }
        Performed::Done
    }

    fn shared(&self) -> &Shared {
        &self.shared
    }
}

impl PaymentPorts {
    fn run<F>(&self, work: impl FnOnce(Arc<dyn Wallet>, Alive) -> F)
    where
        F: Future<Output = Input> + Send + 'static,
    {
        let shared = self.shared.clone();
        let work = work(self.wallet.clone(), Alive(self.shared.clone()));
        self.shared
            .runtime
            .spawn(async move { shared.send(work.await).await });
    }
}

/// Stops the node once its wallet turns out to be dead: a host that cannot be paid, or a
/// buyer that cannot pay, must not stay in the market.
struct Alive(Shared);

impl Alive {
    fn check<T>(&self, result: Result<T, WalletError>) -> Result<T, WalletError> {
        match &result {
            Err(WalletError::NotRunning) => self.stop(
                "the wallet stopped by itself".to_owned(),
                "the cause is at the end of `wallet/ldk_node.log` in the data folder; start again when \
                 it is gone",
            ),
            Err(error @ WalletError::Storage { .. }) => self.stop(error.to_string(), FREE_SPACE),
            _ => {}
        }
        result
    }

    /// A wallet that cannot write does not know what became of a payment.
    async fn try_disk(&self) {
        if let Err(error) = self.0.storage.try_disk().await {
            self.stop(error.to_string(), FREE_SPACE);
        }
    }

    fn stop(&self, what: String, fix: &str) {
        // At the node's own end its wallet stops too.
        if self.0.is_stopping() {
            return;
        }
        self.0.stop(Fatal {
            what,
            fix: format!("{fix}; payments under way are found by their hash"),
        });
    }
}

fn outcome_of(outcome: WalletOutcome) -> PayOutcome {
    match outcome {
        WalletOutcome::Settled { preimage, fee } => PayOutcome::Settled { preimage, fee },
        WalletOutcome::Failed { reason, .. } => PayOutcome::Failed {
            reason: reason.to_string(),
        },
        WalletOutcome::Unknown { .. } => PayOutcome::Unknown,
    }
}

async fn look_up(
    wallet: &dyn Wallet,
    alive: &Alive,
    hash: PaymentHash,
    side: Side,
) -> LookupOutcome {
    match side {
        Side::Buyer => match alive.check(wallet.lookup_outgoing(hash).await) {
            Ok(Outgoing::Settled {
                msat,
                fee,
                preimage,
            }) => LookupOutcome::Settled {
                preimage: Some(preimage),
                msat,
                fee,
            },
            Ok(Outgoing::Pending) => LookupOutcome::Pending,
            Ok(Outgoing::Failed { .. }) => LookupOutcome::Failed,
            Ok(Outgoing::NotFound) => LookupOutcome::NotFound,
            Err(_) => LookupOutcome::Unavailable,
        },
        Side::Host => match alive.check(wallet.lookup_incoming(hash).await) {
            Ok(Incoming::Settled { msat, preimage }) => LookupOutcome::Settled {
                preimage: Some(preimage),
                msat,
                fee: Msat::ZERO,
            },
            Ok(Incoming::Pending { .. } | Incoming::Held { .. }) => LookupOutcome::Pending,
            Ok(Incoming::Failed) => LookupOutcome::Failed,
            Ok(Incoming::NotFound) => LookupOutcome::NotFound,
            Err(_) => LookupOutcome::Unavailable,
        },
    }
}

/// Lets the wallet drop the records of payments that the books are done with. Of those that
/// it still needs, the machine is to be told.
pub async fn forget(wallet: &dyn Wallet, hashes: Vec<PaymentHash>) -> Vec<Input> {
    let mut needed = Vec::new();
    for hash in hashes {
        match wallet.forget(hash).await {
            Ok(()) => {}
            Err(WalletError::TooEarlyToForget { hash, wait_s }) => {
                let wait_ms = wait_s.saturating_mul(1_000);
                needed.push(Input::StillNeeded { hash, wait_ms });
            }
            Err(error) => {
                tracing::debug!(%error, "records of payments could not be dropped");
                break;
            }
        }
    }
    needed
}

/// Feeds the wallet's events to Payment until the wallet stops.
pub async fn follow(shared: Shared, wallet: Arc<dyn Wallet>) {
    let mut events = match wallet.events().await {
        Ok(events) => events,
        Err(error) => {
            return shared.stop(Fatal {
                what: format!("the wallet gives no events: {error}"),
                fix: "check the wallet's folder and restart the node".to_owned(),
            });
        }
    };
    while let Some(delivery) = events.next().await {
        let event = delivery.id.0;
        let input = match delivery.event {
            WalletEvent::Received { hash, msat } => Input::Received { event, hash, msat },
            WalletEvent::Sent {
                hash,
                fee,
                preimage,
            } => Input::Sent {
                event,
                hash,
                outcome: PayOutcome::Settled { preimage, fee },
            },
            WalletEvent::SendFailed { hash, reason } => Input::Sent {
                event,
                hash,
                outcome: PayOutcome::Failed {
                    reason: reason.to_string(),
                },
            },
            WalletEvent::ChannelClosed {
                channel,
                peer,
                reason,
            } => {
                let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
                tracing::warn!(
                    %channel,
                    %peer,
                    %reason,
                    "a channel is no more: what was ours in it will return on chain, where the peer \
                     did not agree to it after a delay (a day by default, two weeks at most; \
                     `freehold wallet balance`); open another with `freehold wallet open`"
                );
                let _ = wallet.ack(delivery.id).await;
                continue;
            }
            // Channels and holds concern no order: shown, and done with.
            other => {
                tracing::info!(event = ?other, "wallet");
                let _ = wallet.ack(delivery.id).await;
                continue;
            }
        };
        shared.send(input).await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::with;
    use super::*;
    use crate::ports::wallet::{Balance, EventStream, Invoice, Network};
    use futures::FutureExt;
    use futures::future::BoxFuture;
    use protocol::ids::{EffectId, LightningId, Preimage};
    use std::future::ready;

    /// A wallet that knows its balance and nothing else.
    struct Scripted(Result<Balance, WalletError>);

    impl Scripted {
        fn no<T: Send + 'static>(&self) -> BoxFuture<'_, Result<T, WalletError>> {
            let reason = "it is asked for its balance alone".to_owned();
            ready(Err(WalletError::NotReady { reason })).boxed()
        }
    }

    impl Wallet for Scripted {
        fn node_id(&self) -> LightningId {
            LightningId([2; 33])
        }

        fn network(&self) -> Network {
            Network::Regtest
        }

        fn create_invoice(
            &self,
            _: Msat,
            _: [u8; 32],
            _: u32,
        ) -> BoxFuture<'_, Result<Invoice, WalletError>> {
            self.no()
        }

        fn pay(&self, _: Pay) -> BoxFuture<'_, WalletOutcome> {
            let why = String::new();
            let submitted = false;
            ready(WalletOutcome::Unknown { submitted, why }).boxed()
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
            ready(self.0.clone()).boxed()
        }

        fn events(&self) -> BoxFuture<'_, Result<EventStream, WalletError>> {
            self.no()
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
            ready(Ok(())).boxed()
        }
    }

    /// What Payment hears of a wallet with this balance.
    fn spendable(balance: Result<Balance, WalletError>) -> Option<Msat> {
        let (told, hears) = std::sync::mpsc::sync_channel(1);
        with(|mut heard| async move {
            let mut ports = PaymentPorts {
                shared: heard.shared.clone(),
                wallet: Arc::new(Scripted(balance)),
                reports: Asks::default(),
            };
            ports.perform(Effect::CheckBalance { id: EffectId(7) });
            let input = heard.payment.recv().await.unwrap();
            let Input::BalanceChecked { id, spendable } = input else {
                panic!("{input:?}");
            };
            assert_eq!(id, EffectId(7));
            told.send(spendable).unwrap();
        });
        hears.recv().unwrap()
    }

    #[test]
    fn a_balance_whose_peers_are_away_is_unknown_and_an_empty_one_is_nothing() {
        let away = Balance {
            channels_sat: 50_000,
            returning_sat: 20_000,
            ..Balance::default()
        };
        assert!(away.peers_are_away());
        assert_eq!(spendable(Ok(away)), None);
        let zero = Some(Msat::ZERO);
        // No channels, and some that are closed and on their way to the chain.
        assert_eq!(spendable(Ok(Balance::default())), zero);
        let closed = Balance {
            returning_sat: away.channels_sat,
            ..away
        };
        assert_eq!(spendable(Ok(closed)), zero);
        // A peer is there; all is on its side, or some is here.
        let spent = Balance {
            receivable: Msat(1),
            ..away
        };
        assert_eq!(spendable(Ok(spent)), zero);
        let rich = Balance {
            spendable: Msat(9_000),
            ..away
        };
        assert_eq!(spendable(Ok(rich)), Some(Msat(9_000)));
        let silent = WalletError::NotReady {
            reason: "starting".to_owned(),
        };
        assert_eq!(spendable(Err(silent)), None);
    }
}
