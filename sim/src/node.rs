//! A node: its machines, their lanes of effects, a disk, a clock, an engine.
//!
//! The driver's contract as `actors::driver` keeps it: one turn is what is due,
//! one input, then the effects in order, and nothing behind a write before it is
//! durable. No decisions here.

use crate::adversary::{Adversary, Strategy};
use crate::crypto::{SimCrypto, lightning_id, lightning_proof};
use crate::dice::{Dice, MS};
use crate::engine::Engine;
use crate::faults::PeerFault;
use crate::profile::Profile;
use crate::relay::Subscription;
use crate::store::Store;
use protocol::crypto::{Crypto, DerivedOrderKeys};
use protocol::ids::{Caller, LightningId, ModelDigest, NodeKey};
use protocol::machine::{Machine, Outbox, Record, Secrets};
use protocol::message::inference::Served;
use protocol::message::sibling::Message;
use protocol::money::{Meter, Msat, Prices};
use protocol::route::{Actor, Common, Configs, Delivery, Routed, SharedEffect};
use protocol::time::{Now, Tick, WallTime};
use protocol::wire::envelope::Network;
use protocol::wire::manifest::{HostLimits, Manifest, PaymentMode, Role, lightning_statement};
use protocol::{message, payment};
use std::collections::{BTreeMap, VecDeque};

/// The network of the simulated world.
pub const NETWORK: Network = Network::Regtest;
/// The node that replays orders wherever anybody is byzantine: the attack is too rare otherwise.
const REPLAYER: usize = 7;
/// The host that answers wrongly wherever anybody is byzantine.
const LIAR: usize = 8;
/// The node that has the peer fault which shows a planted bug.
const SHOWING: usize = 9;
/// The day's limit of whoever has not a tight one.
pub const RICH: Msat = Msat(5_000_000);
/// Part of the hosts that let a key never seen before begin without paying. Per million.
const QUOTA_PPM: u32 = 100_000;
/// What they give it. Msat.
const FREE_QUOTA: u64 = 3_000;
/// Part of the hosts that may be paid before and after an answer. Per million.
const MODES_PPM: [(PaymentMode, u32); 2] = [
    (PaymentMode::Before, 750_000),
    (PaymentMode::After, 600_000),
];

fn first<M: Machine>(
    machine: &mut M,
    now: Now,
    wrap: fn(M::Effect) -> AnyEffect,
) -> Vec<AnyEffect> {
    let mut out = Outbox::default();
    machine.expire(now, &mut out);
    out.drain().map(wrap).collect()
}

fn turn<M: Machine>(
    machine: &mut M,
    now: Now,
    input: Option<M::Input>,
    wrap: fn(M::Effect) -> AnyEffect,
) -> Vec<AnyEffect> {
    let mut out = Outbox::default();
    if machine.deadline().is_some_and(|due| due <= now.tick) {
        machine.expire(now, &mut out);
    }
    if let Some(input) = input {
        machine.handle(now, input, &mut out);
    }
    out.drain().map(wrap).collect()
}

macro_rules! define {
    ($(
        $(#[$doc:meta])*
        $machine:ident: $module:ident hears $heard:tt
    )*) => {
        /// An effect of any machine.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum AnyEffect {
            $(
                #[doc = concat!("Of ", stringify!($machine), ".")]
                $machine(message::$module::Effect),
            )*
        }

        impl AnyEffect {
            /// What there is to do.
            pub fn duty(self) -> Duty {
                match self {
                    $(AnyEffect::$machine(effect) => match effect.into_common() {
                        Ok(Common::Persist(records)) => Duty::Write(records),
                        Ok(Common::Tell(message)) => Duty::Tell(Box::new(message)),
                        Err(effect) => Duty::Perform(AnyEffect::$machine(effect)),
                    },)*
                }
            }

            /// The message to a sibling; `None` for any other effect.
            pub fn tell(&self) -> Option<&Message> {
                match self {
                    $(AnyEffect::$machine(effect) => effect.message(),)*
                }
            }
        }

        /// The machines of a node.
        pub struct Machines {
            $($(#[$doc])* pub $module: protocol::$module::$machine,)*
        }

        impl Machines {
            /// All of them, each with its settings and its seed.
            fn recover(start: &Start<'_>, configs: Configs) -> Self {
                Machines {
                    $($module: start.recover(configs.$module),)*
                }
            }

            /// One turn of the machine that `delivery` is for.
            pub fn handle(&mut self, now: Now, delivery: Delivery) -> Vec<AnyEffect> {
                match delivery {
                    $(Delivery::$machine(input) => {
                        turn(&mut self.$module, now, Some(input), AnyEffect::$machine)
                    })*
                }
            }

            /// What is due at one machine.
            pub fn expire(&mut self, now: Now, actor: Actor) -> Vec<AnyEffect> {
                match actor {
                    $(Actor::$machine => turn(&mut self.$module, now, None, AnyEffect::$machine),)*
                }
            }

            /// The first turn after a start: as the driver does, `expire` whatever the deadline.
            pub fn start(&mut self, now: Now, actor: Actor) -> Vec<AnyEffect> {
                match actor {
                    $(Actor::$machine => first(&mut self.$module, now, AnyEffect::$machine),)*
                }
            }

            /// When a machine must run again.
            pub fn deadline(&self, actor: Actor) -> Option<Tick> {
                match actor {
                    $(Actor::$machine => self.$module.deadline(),)*
                }
            }
        }
    };
}

protocol::machines!(define);

/// An effect by what a driver does with it.
pub enum Duty {
    /// A write, which holds back what is behind it.
    Write(Vec<Record>),
    /// A message to a sibling.
    Tell(Box<Message>),
    /// Anything else.
    Perform(AnyEffect),
}

impl AnyEffect {
    /// A write of listings, which no checker looks at.
    pub fn lists(&self) -> bool {
        matches!(
            self,
            AnyEffect::Discovery(message::discovery::Effect::Persist(_))
        )
    }
}

/// Effects of one machine that are not carried out yet.
#[derive(Debug, Default)]
pub struct Lane {
    /// In order.
    pub pending: VecDeque<AnyEffect>,
    /// A write is under way; what it writes is not durable.
    pub syncing: Option<Vec<Record>>,
    /// The wake-up that is scheduled, in world time.
    pub armed: Option<u64>,
    /// Inputs in the mailbox.
    pub mail: usize,
}

/// Who somebody is and what may be expected of them: known to the checkers.
#[derive(Debug, Clone)]
pub struct Participant {
    /// Node key.
    pub key: NodeKey,
    /// Who its connections come from.
    pub caller: Caller,
    /// Each stream that it opens by itself, as an adversary, comes from another peer.
    pub changes_peers: bool,
    /// Lightning node.
    pub lightning: LightningId,
    /// Malformed misbehaviour.
    pub peer_fault: PeerFault,
    /// Well-formed attack.
    pub strategy: Option<Strategy>,
    /// Its own step of payment as a host. Msat.
    pub quantum: u64,
    /// What its channel takes for each payment that comes in. Msat.
    pub base_fee: u64,
    /// What it sells.
    pub served: Vec<Served>,
    /// How it may be paid.
    pub modes: Vec<PaymentMode>,
    /// Serves audits.
    pub validator: bool,
    /// Owner's limits on spending.
    pub limits: payment::Config,
    /// Difference of its wall clock. Milliseconds.
    pub skew_ms: i64,
    /// How much faster its wall clock runs, in parts per million.
    pub drift_ppm: i64,
}

impl Participant {
    /// Keeps to the protocol.
    pub fn honest(&self) -> bool {
        self.peer_fault == PeerFault::None && self.strategy.is_none_or(Strategy::is_honest)
    }

    /// Lists a tenth of its prices.
    pub fn undercut(&mut self) {
        let prices = self
            .served
            .iter_mut()
            .flat_map(|model| &mut model.offer.prices.0);
        for price in prices {
            price.msat_per_million /= 10;
        }
    }

    /// What one unit of output costs at most, rounded up. Msat.
    pub fn unit(&self) -> u64 {
        let models = self.served.iter().map(|model| &model.offer.prices);
        let dearest = |prices: &Prices| {
            let unit = prices.of(Meter::OutputToken).max(prices.of(Meter::Item));
            unit.div_ceil(1_000_000)
        };
        models.map(dearest).max().unwrap_or(1).max(1)
    }

    /// Sells answers.
    pub fn sells(&self) -> bool {
        !self.served.is_empty()
    }
}

/// A node.
pub struct Node {
    /// Who it is.
    pub participant: Participant,
    pub(crate) secret: [u8; 32],
    order_secret: [u8; 32],
    real_crypto: bool,
    /// Its machines, while it runs.
    pub machines: Option<Machines>,
    /// Counts runs.
    pub epoch: u32,
    /// World time of the start of this run; ticks count from it.
    pub booted: u64,
    /// Gone for good.
    pub dead: bool,
    /// The owner took the listing back.
    pub withdrawn: bool,
    /// Disk.
    pub store: Store,
    /// By [`lane_of`].
    pub lanes: [Lane; Actor::COUNT],
    /// Listings on their way from each of its relays.
    pub(crate) subscriptions: [Subscription; 2],
    /// FIFO per (sender, receiver): the last arrival.
    pub fifo: BTreeMap<(u8, u8), u64>,
    /// Generations.
    pub engine: Engine,
    /// Crash before this many more effects.
    pub cut: Option<u32>,
    /// State of planted bugs.
    pub bug: crate::plant::Memory,
    /// What it does beside or instead of its machines.
    pub adversary: Option<Box<dyn Adversary>>,
    /// Wall time at tick 0. Milliseconds since the epoch.
    pub epoch_ms: u64,
}

/// What is drawn at a start for the randomness of machines.
pub type Seeds = [[u8; 32]; 4];

/// The seed of one machine. Those past the fourth have one that is made of another's, so that a
/// machine more changes no trace.
fn seed_of(seeds: &Seeds, actor: Actor) -> [u8; 32] {
    let (round, at) = (actor.index() / seeds.len(), actor.index() % seeds.len());
    let mut seed = seeds[at];
    seed[0] = seed[0].wrapping_add(u8::try_from(round).unwrap_or(u8::MAX));
    seed
}

/// What the machines of a node have in common at a start.
struct Start<'a> {
    node: &'a Node,
    now: Now,
    seeds: Seeds,
    plant: Option<crate::plant::Plant>,
}

impl Start<'_> {
    /// A machine as it comes out of what is on disk.
    fn recover<M: Routed>(&self, config: M::Config) -> M {
        let records = self.node.store.load(M::TABLES);
        let records = crate::plant::recovered(self.plant, records);
        let secrets = Secrets {
            node: Box::new(self.node.crypto()),
            orders: Box::new(self.node.order_keys()),
            seed: seed_of(&self.seeds, M::ACTOR),
        };
        M::recover(config, secrets, records.into_iter(), self.now)
    }
}

/// Index of a machine's lane.
pub fn lane_of(actor: Actor) -> usize {
    actor.index()
}

/// The models that anybody sells; the last makes embeddings.
pub fn models() -> [ModelDigest; 3] {
    [
        ModelDigest([0xa1; 32]),
        ModelDigest([0xb2; 32]),
        ModelDigest([0xe3; 32]),
    ]
}

/// Whether a model makes embeddings.
pub fn embeds(model: &ModelDigest) -> bool {
    *model == models()[2]
}

impl Node {
    /// Draws a node. Every node buys; some sell, some check.
    pub fn draw(
        index: usize,
        dice: &mut Dice,
        plan: &crate::faults::Plan,
        profile: &Profile,
        (strategies, peer_fault): (&[Strategy], Option<PeerFault>),
        real_crypto: bool,
    ) -> Self {
        let (secret, order_secret) = (dice.bytes(), dice.bytes());
        let key = SimCrypto::new(&secret, real_crypto).key();
        let transport = SimCrypto::new(&order_secret, real_crypto).key();
        // The first few are honest hosts and validators, so that every world has a market.
        let core = index < profile.core().max(3);
        let strategy = crate::adversary::drawn(dice, strategies, index);
        let peer_fault = if strategy.is_some() {
            PeerFault::None
        } else if let Some(peer_fault) = peer_fault.filter(|_| index == SHOWING) {
            peer_fault
        } else if index == REPLAYER && plan.byzantine_ppm > 0 {
            PeerFault::ReplaysOrders
        } else if index == LIAR && plan.byzantine_ppm > 0 {
            PeerFault::WrongAnswers
        } else if !core && dice.chance(plan.byzantine_ppm) {
            crate::faults::PEER_FAULTS[dice.below(crate::faults::PEER_FAULTS.len())]
        } else {
            PeerFault::None
        };
        let needs_to_sell = matches!(
            peer_fault,
            PeerFault::DoublesInvoices
                | PeerFault::RaisesPrices
                | PeerFault::InventsDebt
                | PeerFault::WrongAnswers
        ) || strategy.is_some_and(Strategy::sells);
        let hosts = index < profile.core() || needs_to_sell;
        let served = if hosts || (!profile.storm && strategy.is_none() && dice.chance(250_000)) {
            profile.served(dice, index)
        } else {
            Vec::new()
        };
        let per_day = if dice.chance(200_000) {
            dice.between(5, 40) * 1_000
        } else {
            RICH.0
        };
        let mut limits = payment::Config {
            per_order: Msat(100_000),
            per_day: Msat(per_day),
            unknown_grace_ms: 120_000,
            ..payment::Config::default()
        };
        if dice.chance(QUOTA_PPM) {
            limits.free_quota = Msat(FREE_QUOTA);
        }
        if dice.chance(200_000) {
            limits
                .per_key
                .insert("agent".to_owned(), Msat(dice.between(5, 30) * 1_000));
        }
        let skew = i64::try_from(dice.between(0, 2 * plan.skew_ms)).unwrap_or(0);
        let drift = i64::try_from(dice.between(0, 2 * profile.drift_ppm)).unwrap_or(0);
        let mut participant = Participant {
            key,
            caller: crate::callers::own(&transport),
            changes_peers: false,
            lightning: lightning_id(&key),
            peer_fault,
            strategy,
            quantum: profile.quantum(dice),
            base_fee: 0,
            validator: index % 6 == 1 || index % 6 == 2,
            served,
            modes: vec![PaymentMode::Metered],
            limits,
            skew_ms: skew - i64::try_from(plan.skew_ms).unwrap_or(0),
            drift_ppm: drift - i64::try_from(profile.drift_ppm).unwrap_or(0),
        };
        // An adversary takes whatever it can get, and somebody sells in every mode.
        for (mode, ppm) in MODES_PPM {
            if strategy.is_some() || index == 0 || dice.chance(ppm) {
                participant.modes.push(mode);
            }
        }
        // Less than one unit of output is no step of payment.
        participant.quantum = participant.quantum.max(participant.unit());
        let adversary = strategy.map(|strategy| strategy.begin(dice, &mut participant));
        Node {
            participant,
            secret,
            order_secret,
            real_crypto,
            machines: None,
            epoch: 0,
            booted: 0,
            dead: false,
            withdrawn: false,
            store: Store::default(),
            lanes: Default::default(),
            subscriptions: Default::default(),
            fifo: BTreeMap::new(),
            engine: Engine::default(),
            cut: None,
            bug: crate::plant::Memory::default(),
            adversary,
            epoch_ms: profile.epoch_ms,
        }
    }

    /// The node's signer.
    pub fn crypto(&self) -> SimCrypto {
        SimCrypto::new(&self.secret, self.real_crypto)
    }

    /// The keys that it orders with.
    pub fn order_keys(&self) -> DerivedOrderKeys {
        let make: fn(&[u8; 32]) -> Option<Box<dyn Crypto>> = match self.real_crypto {
            true => |secret| Some(Box::new(SimCrypto::new(secret, true))),
            false => |secret| Some(Box::new(SimCrypto::new(secret, false))),
        };
        DerivedOrderKeys::with(self.order_secret, make)
    }

    /// Both clocks at a world time.
    pub fn now(&self, world: u64) -> Now {
        let since = world / MS;
        let drift = i64::try_from(since).unwrap_or(0) * self.participant.drift_ppm / 1_000_000;
        let wall = (self.epoch_ms + since).saturating_add_signed(self.participant.skew_ms + drift);
        Now {
            tick: Tick(world.saturating_sub(self.booted)),
            wall: WallTime(wall),
        }
    }

    /// Starts the machines from what is on disk.
    pub fn boot(&mut self, world: u64, seeds: Seeds, plant: Option<crate::plant::Plant>) {
        self.epoch += 1;
        self.booted = world;
        self.lanes = Default::default();
        self.subscriptions = Default::default();
        self.fifo.clear();
        self.engine = Engine::default();
        self.cut = None;
        self.machines = Some(self.assemble(self.now(world), seeds, plant));
    }

    /// The machines as they come out of what is on disk; equal arguments give equal machines.
    pub fn assemble(&self, now: Now, seeds: Seeds, plant: Option<crate::plant::Plant>) -> Machines {
        let mut configs = Configs::new(NETWORK);
        configs.validator.can_replay = self.participant.validator;
        configs.validator.serve = self.participant.validator;
        configs.validator.share_sampled = true;
        configs.payment = crate::plant::limits(plant, &self.participant.limits);
        configs.inference.quantum = Msat(self.participant.quantum);
        configs.inference.modes.clone_from(&self.participant.modes);
        let start = Start {
            node: self,
            now,
            seeds,
            plant,
        };
        Machines::recover(&start, configs)
    }

    /// What it lists; `None` where it neither sells nor checks.
    pub fn manifest(&self, index: usize) -> Option<Manifest> {
        let participant = &self.participant;
        if !participant.sells() && !participant.validator {
            return None;
        }
        let mut roles = vec![Role::Client];
        if participant.sells() {
            roles.push(Role::Host);
        }
        if participant.validator {
            roles.push(Role::Validator);
        }
        let limits = participant.served.first().map_or(
            HostLimits {
                concurrent_orders: 0,
                queued_orders: 0,
                prompt_tokens: 0,
                output_tokens: 0,
            },
            |model| model.limits,
        );
        Some(Manifest {
            network: NETWORK,
            node: participant.key,
            lightning: participant.lightning,
            lightning_proof: lightning_proof(
                &participant.lightning,
                &lightning_statement(&participant.key, NETWORK),
            ),
            roles,
            software: "sim".to_owned(),
            bands: Vec::new(),
            models: participant
                .served
                .iter()
                .map(|model| model.offer.clone())
                .collect(),
            limits,
            payment_modes: participant.modes.clone(),
            quantum: Msat(participant.quantum),
            keep_days: 90,
            addresses: vec![format!("sim/{index}")],
            created: WallTime(0),
            expires: WallTime(0),
            extensions: Vec::new(),
        })
    }
}
