//! The wallet network: one channel per node to a routing hub, invoices, fates, events.
//!
//! It survives crashes of the nodes, repeats events until they are acknowledged,
//! and may say "unknown", nothing, or "never heard of it" while a payment is
//! under way. It keeps books of its own; the machines' books are held against
//! them at the end.

use protocol::ids::{PaymentHash, Preimage};
use protocol::message::payment::{Input, LookupOutcome, PayOutcome, Side};
use protocol::money::Msat;
use protocol::time::WallTime;
use std::collections::BTreeMap;

/// Where a payment of ours stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Under way.
    Pending,
    /// Paid.
    Settled,
    /// Not paid, for good.
    Failed,
}

/// A payment that a wallet was asked to make.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Amount.
    pub msat: Msat,
    /// Routing fee.
    pub fee: Msat,
    /// Where it stands.
    pub fate: Fate,
    /// In the wallet's own books from this world time on.
    pub recorded: u64,
    /// The effect to answer, if it is to be answered at its fate.
    pub answer: Option<(u32, protocol::ids::EffectId)>,
    /// The network decided to fail it.
    pub doomed: bool,
}

/// An invoice that a wallet issued.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Amount.
    pub msat: Msat,
    /// Its secret.
    pub preimage: Preimage,
    /// When it expires, by the payee's clock.
    pub expires: WallTime,
    /// The same in simulated nanoseconds: no clock that is set back revives it.
    pub until: u64,
    /// Whether it was paid.
    pub paid: bool,
}

/// One node's wallet.
#[derive(Debug, Default)]
pub struct Wallet {
    /// Ours in the channel to the hub.
    pub local: u64,
    /// The hub's in it: what we can receive.
    pub remote: u64,
    /// Both, as the channel was opened.
    pub opened: (u64, u64),
    /// What its last hop takes for each payment that comes in, in msat; the hub keeps it.
    pub base_fee: u64,
    /// By hash.
    pub outgoing: BTreeMap<PaymentHash, Outgoing>,
    /// By hash.
    pub issued: BTreeMap<PaymentHash, Issued>,
    /// Not acknowledged.
    pub events: BTreeMap<u64, Input>,
    /// A repetition is scheduled.
    pub repeating: bool,
}

/// All wallets and the hub.
#[derive(Debug, Default)]
pub struct Wallets {
    /// By node.
    pub of: Vec<Wallet>,
    /// What the hub earned.
    pub hub_fees: u64,
    /// Under way: amounts and fees.
    pub in_flight: u64,
    /// What people put into channels from elsewhere, less what they took out.
    pub brought: i64,
    payees: BTreeMap<PaymentHash, usize>,
    next_event: u64,
    next_secret: u64,
}

/// Why the network does not take a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoWay {
    /// The wallet was asked about this hash before.
    AskedBefore,
    /// Nobody issued it, too little money, or the fee limit is too low.
    CannotPay,
}

impl Wallets {
    /// Sum of all balances, fees and amounts under way, less what came from outside: constant.
    pub fn total(&self) -> u64 {
        let balances = self.of.iter().map(|wallet| wallet.local).sum::<u64>();
        (balances + self.hub_fees + self.in_flight).wrapping_add_signed(-self.brought)
    }

    /// Opens a node's channel.
    pub fn open(&mut self, local: u64, remote: u64, base_fee: u64) {
        self.of.push(Wallet {
            local,
            remote,
            opened: (local, remote),
            base_fee,
            ..Wallet::default()
        });
    }

    /// Moves every channel that has run half dry on one side back to where it was opened, as
    /// its owner does with a swap: payments here go mostly one way.
    pub fn rebalance(&mut self) {
        for wallet in &mut self.of {
            let (local, remote) = wallet.opened;
            if wallet.local >= local / 2 && wallet.remote >= remote / 2 {
                continue;
            }
            // Positive: into the channel. What is under way stays on the far side.
            let moved = local.cast_signed() - wallet.local.cast_signed();
            wallet.local = local;
            wallet.remote = wallet.remote.saturating_add_signed(-moved);
            self.brought += moved;
        }
    }

    /// Makes an invoice's secret and remembers it.
    pub fn issue(&mut self, node: usize, msat: Msat, expires: WallTime, until: u64) -> PaymentHash {
        use protocol::crypto::tagged_hash;
        self.next_secret += 1;
        let preimage = tagged_hash("sim/preimage/1", &[&self.next_secret.to_le_bytes()]).0;
        let hash = PaymentHash(tagged_hash("sim/hash/1", &[&preimage]).0);
        self.payees.insert(hash, node);
        let issued = Issued {
            msat,
            preimage: Preimage(preimage),
            expires,
            until,
            paid: false,
        };
        self.of[node].issued.insert(hash, issued);
        hash
    }

    /// Invoices of a node that are not paid and whose time is not over.
    pub fn payable(&self, node: usize, now: u64) -> usize {
        let open = |issued: &&Issued| !issued.paid && issued.until > now;
        self.of[node].issued.values().filter(open).count()
    }

    /// Who is paid by a hash.
    pub fn payee(&self, hash: &PaymentHash) -> Option<usize> {
        self.payees.get(hash).copied()
    }

    /// Takes the money out of the payer's channel.
    ///
    /// # Errors
    /// When nothing was begun.
    pub fn begin(
        &mut self,
        payer: usize,
        hash: PaymentHash,
        msat: Msat,
        max_fee: Msat,
        recorded: u64,
    ) -> Result<(), NoWay> {
        if self.of[payer].outgoing.contains_key(&hash) {
            return Err(NoWay::AskedBefore);
        }
        // The hub's fee: one sat in a thousand, and what the payee's channel takes; at most what is allowed.
        let base = self.payee(&hash).map_or(0, |payee| self.of[payee].base_fee);
        let fee = Msat(msat.0 / 1_000 + base);
        let whole = msat.0 + fee.0;
        if !self.payees.contains_key(&hash) || fee > max_fee || self.of[payer].local < whole {
            return Err(NoWay::CannotPay);
        }
        self.of[payer].local -= whole;
        self.of[payer].remote += whole;
        self.in_flight += whole;
        let outgoing = Outgoing {
            msat,
            fee,
            fate: Fate::Pending,
            recorded,
            answer: None,
            doomed: false,
        };
        self.of[payer].outgoing.insert(hash, outgoing);
        Ok(())
    }

    /// Settles or fails a payment under way; returns its fate, or `None` where it had one.
    pub fn resolve(
        &mut self,
        payer: usize,
        hash: &PaymentHash,
        payee_up: bool,
        payee_wall: WallTime,
    ) -> Option<Fate> {
        let payee = self.payee(hash)?;
        let outgoing = self.of.get_mut(payer)?.outgoing.get_mut(hash)?;
        if outgoing.fate != Fate::Pending {
            return None;
        }
        let (msat, whole) = (outgoing.msat, outgoing.msat.0 + outgoing.fee.0);
        let doomed = outgoing.doomed;
        let issued = self.of[payee].issued.get(hash)?;
        let takes = !issued.paid && issued.expires > payee_wall && issued.msat == msat;
        let room = self.of[payee].remote >= msat.0;
        self.in_flight -= whole;
        let fate = if payee_up && takes && room && !doomed {
            self.of[payee].local += msat.0;
            self.of[payee].remote -= msat.0;
            self.hub_fees += whole - msat.0;
            if let Some(issued) = self.of[payee].issued.get_mut(hash) {
                issued.paid = true;
            }
            Fate::Settled
        } else {
            self.of[payer].local += whole;
            self.of[payer].remote -= whole;
            Fate::Failed
        };
        if let Some(outgoing) = self.of[payer].outgoing.get_mut(hash) {
            outgoing.fate = fate;
        }
        Some(fate)
    }

    /// The outcome of a payment that has its fate.
    pub fn outcome(&self, payer: usize, hash: &PaymentHash) -> PayOutcome {
        let preimage = self
            .payee(hash)
            .and_then(|payee| self.of[payee].issued.get(hash))
            .map(|issued| issued.preimage);
        match (self.of[payer].outgoing.get(hash), preimage) {
            (
                Some(Outgoing {
                    fate: Fate::Settled,
                    fee,
                    ..
                }),
                Some(preimage),
            ) => PayOutcome::Settled {
                preimage,
                fee: *fee,
            },
            (
                Some(Outgoing {
                    fate: Fate::Pending,
                    ..
                }),
                _,
            ) => PayOutcome::Unknown,
            _ => PayOutcome::Failed {
                reason: "no route".to_owned(),
            },
        }
    }

    /// What the wallet says of a hash at a world time.
    pub fn look_up(
        &self,
        node: usize,
        hash: &PaymentHash,
        side: Side,
        world: u64,
    ) -> LookupOutcome {
        match side {
            Side::Buyer => match self.of[node].outgoing.get(hash) {
                None => LookupOutcome::NotFound,
                Some(out) if out.recorded > world => LookupOutcome::NotFound,
                Some(out) => match (out.fate, self.outcome(node, hash)) {
                    (_, PayOutcome::Settled { preimage, fee }) => LookupOutcome::Settled {
                        preimage: Some(preimage),
                        msat: out.msat,
                        fee,
                    },
                    (Fate::Pending, _) => LookupOutcome::Pending,
                    _ => LookupOutcome::Failed,
                },
            },
            Side::Host => match self.of[node].issued.get(hash) {
                None => LookupOutcome::NotFound,
                Some(issued) if issued.paid => LookupOutcome::Settled {
                    preimage: Some(issued.preimage),
                    msat: issued.msat,
                    fee: Msat::ZERO,
                },
                Some(_) => LookupOutcome::Pending,
            },
        }
    }

    /// Remembers an event until it is acknowledged.
    pub fn event(&mut self, node: usize, make: impl FnOnce(u64) -> Input) -> Input {
        self.next_event += 1;
        let input = make(self.next_event);
        self.of[node].events.insert(self.next_event, input.clone());
        input
    }
}
