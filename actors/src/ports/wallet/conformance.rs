//! What every wallet must do, as one suite over a payer and a payee.
//!
//! Not a benchmark, and not a test of channels: the two wallets must already be
//! able to pay each other's way (payer to payee). Called by the tests of each
//! implementation, with real wallets over a real or regtest network.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bitcoin::hashes::{Hash as _, sha256};
use futures::StreamExt as _;
use protocol::ids::{PaymentHash, Preimage};
use protocol::money::Msat;

use super::{Delivery, Invoice, PayOutcome, Payment, Wallet, WalletEvent};

mod events;
mod holds;
mod payments;

/// What the suite may spend and how long it waits.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Amount of an ordinary payment.
    pub msat: Msat,
    /// The most paid to routers per payment.
    pub max_fee: Msat,
    /// Payments made at once in the burst: at least what a stream has in flight.
    pub burst: usize,
    /// Whether the wallets know how to hold payments.
    pub holds: bool,
    /// How long anything may take.
    pub patience: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            msat: Msat(10_000),
            max_fee: Msat(1_000),
            burst: 8,
            holds: true,
            patience: Duration::from_secs(30),
        }
    }
}

/// What came of the suite.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Cases that held.
    pub passed: Vec<&'static str>,
    /// Cases that did not, and what was seen.
    pub failed: Vec<(&'static str, String)>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in &self.passed {
            writeln!(f, "pass  {name}")?;
        }
        for (name, seen) in &self.failed {
            writeln!(f, "FAIL  {name}: {seen}")?;
        }
        write!(
            f,
            "{} of {} cases pass",
            self.passed.len(),
            self.passed.len() + self.failed.len()
        )
    }
}

impl Report {
    async fn case(&mut self, name: &'static str, case: impl Future<Output = Seen>) {
        match case.await {
            Ok(()) => self.passed.push(name),
            Err(seen) => self.failed.push((name, seen)),
        }
    }
}

/// `Err` says what was seen in place of what must be.
type Seen = Result<(), String>;

/// Fails a case with a message unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}
use ensure;

/// Runs every case. The payer needs `terms.msat` some thirty times over.
pub async fn run(payer: Arc<dyn Wallet>, payee: Arc<dyn Wallet>, terms: Terms) -> Report {
    let pair = Pair {
        payer,
        payee,
        terms,
    };
    let mut report = Report::default();
    payments::run(&pair, &mut report).await;
    if terms.holds {
        holds::run(&pair, &mut report).await;
    }
    events::run(&pair, &mut report).await;
    report
}

/// Two wallets and what the cases share.
struct Pair {
    payer: Arc<dyn Wallet>,
    payee: Arc<dyn Wallet>,
    terms: Terms,
}

impl Pair {
    async fn invoice(&self, msat: Msat) -> Result<Invoice, String> {
        let made = self.payee.create_invoice(msat, [0x5a; 32], 600).await;
        made.map_err(|error| format!("no invoice: {error}"))
    }

    async fn hold_invoice(&self, preimage: &Preimage) -> Result<Invoice, String> {
        let hash = hash_of(preimage);
        let made = self
            .payee
            .create_hold_invoice(hash, self.terms.msat, [0x5b; 32], 600)
            .await;
        made.map_err(|error| format!("no hold invoice: {error}"))
    }

    fn payment(&self, invoice: &Invoice) -> Payment {
        Payment {
            bolt11: invoice.bolt11.clone(),
            hash: invoice.hash,
            msat: invoice.msat,
            max_fee: self.terms.max_fee,
        }
    }

    async fn pay(&self, invoice: &Invoice) -> PayOutcome {
        self.payer.pay(self.payment(invoice)).await
    }

    /// Pays and demands success; returns preimage and fee.
    async fn must_pay(&self, invoice: &Invoice) -> Result<(Preimage, Msat), String> {
        match self.pay(invoice).await {
            PayOutcome::Settled { preimage, fee } => {
                ensure!(
                    hash_of(&preimage) == invoice.hash,
                    "the preimage does not hash to the payment hash"
                );
                ensure!(
                    fee <= self.terms.max_fee,
                    "fee {fee} is above the limit {}",
                    self.terms.max_fee
                );
                Ok((preimage, fee))
            }
            other => Err(format!("not settled: {other:?}")),
        }
    }

    /// Waits for the event that `wanted` picks, acknowledges and returns it.
    async fn event(
        &self,
        wallet: &Arc<dyn Wallet>,
        what: &str,
        wanted: impl Fn(&WalletEvent) -> bool,
    ) -> Result<Delivery, String> {
        let mut stream = wallet
            .events()
            .await
            .map_err(|error| format!("no events: {error}"))?;
        let find = async {
            while let Some(delivery) = stream.next().await {
                if wanted(&delivery.event) {
                    return Some(delivery);
                }
            }
            None
        };
        let found = tokio::time::timeout(self.terms.patience, find).await;
        let delivery = found
            .map_err(|_| format!("no event `{what}` within {:?}", self.terms.patience))?
            .ok_or_else(|| format!("events ended before `{what}`"))?;
        wallet
            .ack(delivery.id)
            .await
            .map_err(|error| format!("not acknowledged: {error}"))?;
        Ok(delivery)
    }

    /// Asks `question` again and again until it answers `Some`.
    async fn until<T, F: Future<Output = Option<T>>>(
        &self,
        what: &str,
        mut question: impl FnMut() -> F,
    ) -> Result<T, String> {
        let ask = async {
            // A poll of a condition that has no event; bounded below.
            let mut pace = tokio::time::interval(Duration::from_millis(20));
            loop {
                pace.tick().await;
                if let Some(answer) = question().await {
                    return answer;
                }
            }
        };
        tokio::time::timeout(self.terms.patience, ask)
            .await
            .map_err(|_| format!("not within {:?}: {what}", self.terms.patience))
    }
}

fn hash_of(preimage: &Preimage) -> PaymentHash {
    PaymentHash(sha256::Hash::hash(preimage.as_bytes()).to_byte_array())
}

fn fresh_preimage() -> Preimage {
    Preimage(rand::random())
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}
