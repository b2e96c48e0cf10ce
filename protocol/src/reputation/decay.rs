//! Exponential decay in integers: a table of fractions of a half-life.
//!
//! Not a clock: callers say how much time went by. The result is the same on
//! every machine, which floats do not promise.

/// Steps into which a half-life is cut. 64 keeps a step below 1.1 % of the value.
pub const STEPS: u64 = 64;

/// 2^30 times 2^(-i/64), rounded.
const TABLE: [u64; STEPS as usize] = [
    1073741824, 1062175491, 1050733751, 1039415261, 1028218693, 1017142735, 1006186087, 995347464,
    984625594, 974019220, 963527098, 953147997, 942880699, 932724001, 922676710, 912737649,
    902905651, 893179563, 883558244, 874040567, 864625413, 855311680, 846098274, 836984114,
    827968132, 819049271, 810226483, 801498734, 792865000, 784324269, 775875538, 767517817,
    759250125, 751071493, 742980960, 734977579, 727060411, 719228525, 711481005, 703816941,
    696235434, 688735596, 681316545, 673977412, 666717336, 659535466, 652430958, 645402981,
    638450708, 631573326, 624770026, 618040012, 611382493, 604796689, 598281827, 591837143,
    585461881, 579155293, 572916640, 566745190, 560640218, 554601009, 548626854, 542717053,
];

/// Returns how many whole steps lie in `elapsed_ms`, and the milliseconds that they take.
///
/// Callers advance their clock by the second figure, so that many small steps
/// decay as much as one large one.
pub fn steps_in(elapsed_ms: u64, half_life_ms: u64) -> (u64, u64) {
    let step_ms = (half_life_ms / STEPS).max(1);
    let steps = elapsed_ms / step_ms;
    (steps, steps.saturating_mul(step_ms))
}

/// Returns `value` after `steps` steps of decay.
pub fn after(value: u64, steps: u64) -> u64 {
    let halvings = steps / STEPS;
    if halvings >= 64 {
        return 0;
    }
    let factor = TABLE
        .get((steps % STEPS) as usize)
        .copied()
        .unwrap_or(1 << 30);
    let scaled = (u128::from(value) * u128::from(factor)) >> 30;
    u64::try_from(scaled >> halvings).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_half_life_halves_and_seventy_leave_nothing() {
        assert_eq!(after(1_000_000, STEPS), 500_000);
        assert_eq!(after(1_000_000, 2 * STEPS), 250_000);
        assert_eq!(after(u64::MAX, 70 * STEPS), 0);
    }

    #[test]
    fn the_table_falls_by_the_same_ratio_at_each_step() {
        for pair in TABLE.windows(2) {
            let ppm = pair[1] * 1_000_000 / pair[0];
            assert!((989_227..=989_229).contains(&ppm), "{ppm}");
        }
    }

    proptest! {
        #[test]
        fn more_time_never_raises_a_value(value in any::<u64>(), steps in 0u64..5_000) {
            prop_assert!(after(value, steps + 1) <= after(value, steps));
        }
    }
}
