//! Which faults a seed has, and how bad they are (swarm testing).
//!
//! Each kind is on in about half of the seeds, so that no fault always hides
//! another. Probabilities are parts per million.

use crate::dice::Dice;

/// How a byzantine node misbehaves on its streams, or with its engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerFault {
    /// Keeps to the protocol.
    None,
    /// Flips bytes of its frames.
    MutatesFrames,
    /// Does not send some of its frames.
    WithholdsFrames,
    /// Sends its orders again, on new streams.
    ReplaysOrders,
    /// Signs invoices for twice what is due.
    DoublesInvoices,
    /// Signs terms with prices above its listing.
    RaisesPrices,
    /// Adds debts that there are not to its entry payments.
    InventsDebt,
    /// Answers with another model's tokens.
    WrongAnswers,
    /// Alters the evidence that it has others judge.
    TampersWithEvidence,
}

/// Every peer fault, for drawing.
pub const PEER_FAULTS: [PeerFault; 8] = [
    PeerFault::MutatesFrames,
    PeerFault::WithholdsFrames,
    PeerFault::ReplaysOrders,
    PeerFault::DoublesInvoices,
    PeerFault::RaisesPrices,
    PeerFault::InventsDebt,
    PeerFault::WrongAnswers,
    PeerFault::TampersWithEvidence,
];

/// The faults of one seed.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Largest one-way latency of the network. Milliseconds.
    pub latency_ms: u64,
    /// A frame sent breaks its stream.
    pub break_ppm: u32,
    /// Mean pause between partitions; `None`: never. Milliseconds.
    pub partition_ms: Option<u64>,
    /// Mean pause between crashes; `None`: never. Milliseconds.
    pub crash_ms: Option<u64>,
    /// A crash is for good (until after the run).
    pub dead_ppm: u32,
    /// Mean pause between a host's withdrawals; `None`: never. Milliseconds.
    pub withdraw_ms: Option<u64>,
    /// A message among siblings finds the mailbox full: the node stops.
    pub full_ppm: u32,
    /// Largest difference of a wall clock. Milliseconds.
    pub skew_ms: u64,
    /// A payment fails.
    pub pay_fail_ppm: u32,
    /// The wallet says "unknown" of a payment before its fate.
    pub pay_unknown_ppm: u32,
    /// The wallet says nothing about a payment.
    pub pay_silent_ppm: u32,
    /// The wallet writes a payment down late.
    pub pay_late_ppm: u32,
    /// A look-up gets no answer.
    pub lookup_fail_ppm: u32,
    /// The engine is slow: this many times.
    pub engine_slow: u64,
    /// The engine fails at a step.
    pub engine_fail_ppm: u32,
    /// A relay refuses or drops a publication or a delivery.
    pub relay_drop_ppm: u32,
    /// A relay serves an older version too.
    pub relay_stale_ppm: u32,
    /// A node is byzantine.
    pub byzantine_ppm: u32,
    /// Longest write to disk. Milliseconds.
    pub sync_ms: u64,
}

impl Plan {
    /// No faults: the healed phase.
    pub fn none() -> Self {
        Plan {
            latency_ms: 50,
            break_ppm: 0,
            partition_ms: None,
            crash_ms: None,
            dead_ppm: 0,
            withdraw_ms: None,
            full_ppm: 0,
            skew_ms: 0,
            pay_fail_ppm: 0,
            pay_unknown_ppm: 0,
            pay_silent_ppm: 0,
            pay_late_ppm: 0,
            lookup_fail_ppm: 0,
            engine_slow: 1,
            engine_fail_ppm: 0,
            relay_drop_ppm: 0,
            relay_stale_ppm: 0,
            byzantine_ppm: 0,
            sync_ms: 5,
        }
    }

    /// Draws the faults of a seed. Rates of crashes grow with the number of nodes.
    pub fn draw(dice: &mut Dice, nodes: usize) -> Self {
        let mut on = |value: u32| if dice.chance(500_000) { value } else { 0 };
        let mut plan = Plan {
            break_ppm: on(2_000),
            dead_ppm: on(150_000),
            full_ppm: on(2),
            pay_fail_ppm: on(20_000),
            pay_unknown_ppm: on(40_000),
            pay_silent_ppm: on(15_000),
            pay_late_ppm: on(20_000),
            lookup_fail_ppm: on(200_000),
            engine_fail_ppm: on(2_000),
            relay_drop_ppm: on(150_000),
            relay_stale_ppm: on(100_000),
            byzantine_ppm: on(200_000),
            ..Plan::none()
        };
        let per_node = |ms: u64| (ms / nodes.max(1) as u64).max(1_000);
        plan.partition_ms = dice.chance(500_000).then(|| per_node(1_800_000));
        plan.crash_ms = dice.chance(600_000).then(|| per_node(1_200_000));
        plan.withdraw_ms = dice.chance(400_000).then(|| per_node(3_000_000));
        plan.latency_ms = [20, 50, 200, 800][dice.below(4)];
        plan.skew_ms = [0, 1_000, 30_000, 140_000][dice.below(4)];
        plan.engine_slow = [1, 1, 4, 20][dice.below(4)];
        plan.sync_ms = [1, 5, 50][dice.below(3)];
        plan
    }
}
