//! The table: which roles a machine is eligible for, which are recommended, and why not.
//!
//! Pure. Thresholds say their reason.

use super::Facts;
use protocol::wire::manifest::Role;
use serde::Serialize;

/// Least memory for a model that people would pay for (4 billion weights in 8 bits, and
/// cache): bytes.
const USEFUL_MEMORY: u64 = 8 << 30;
/// Reads of weights a second at which such a model decodes ten tokens a second: bytes.
const USEFUL_KERNEL: u64 = 40_000_000_000;
/// Least threads for serving while the machine is used for something else.
const HOST_THREADS: usize = 4;
/// Least disk speed: a payment is on disk before it is sent, some tens of kB each. Bytes a second.
const LEAST_DISK: u64 = 5_000_000;

/// What is said about a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Advice {
    /// Suits this machine.
    Recommended,
    /// Works, with the reservation given.
    Eligible,
    /// Does not work, for the reason given.
    No,
}

/// A role and what is said about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RoleAdvice {
    /// The role.
    pub role: Role,
    /// The advice.
    pub advice: Advice,
    /// Why.
    pub why: String,
}

/// The table for a machine.
pub fn advise(facts: &Facts) -> Vec<RoleAdvice> {
    let all = [
        Role::Client,
        Role::Host,
        Role::Validator,
        Role::Embedder,
        Role::Router,
        Role::Trainer,
        Role::Coordinator,
        Role::Relay,
        Role::Lsp,
    ];
    all.map(|role| {
        let (advice, why) = match role {
            Role::Client => client(facts),
            Role::Host => host(facts),
            Role::Validator => validator(facts),
            _ => (
                Advice::No,
                "this version does not carry it out yet".to_owned(),
            ),
        };
        RoleAdvice { role, advice, why }
    })
    .into()
}

fn slow_disk(facts: &Facts) -> Option<String> {
    let speed = facts
        .disk_write_bytes_per_s
        .filter(|speed| *speed < LEAST_DISK)?;
    Some(format!(
        "the disk writes {:.1} MB/s; payments wait for it, and want {} MB/s",
        speed as f64 / 1e6,
        LEAST_DISK / 1_000_000
    ))
}

fn client(facts: &Facts) -> (Advice, String) {
    match slow_disk(facts) {
        Some(why) => (Advice::Eligible, why),
        None => (
            Advice::Recommended,
            "buying needs little: a wallet with a channel".to_owned(),
        ),
    }
}

fn host(facts: &Facts) -> (Advice, String) {
    if facts.pocket_tokens_per_s.is_none() {
        return (
            Advice::No,
            "the engine did not run the pocket model on this machine".to_owned(),
        );
    }
    if let Some(why) = slow_disk(facts) {
        return (Advice::Eligible, why);
    }
    if facts.threads < HOST_THREADS {
        return (
            Advice::Eligible,
            format!(
                "{} threads: small models only, and nothing else beside them",
                facts.threads
            ),
        );
    }
    if facts
        .memory_bytes
        .is_some_and(|bytes| bytes < USEFUL_MEMORY)
    {
        return (
            Advice::Eligible,
            "little memory: models under a billion weights".to_owned(),
        );
    }
    match facts.kernel_bytes_per_s {
        Some(speed) if speed < USEFUL_KERNEL => {
            let text = format!(
                "the kernels read {:.0} GB/s of weights; a model of 4 billion weights would make {:.1} tokens/s",
                speed as f64 / 1e9,
                speed as f64 / 4.25e9
            );
            (Advice::Eligible, text)
        }
        Some(_) => (
            Advice::Recommended,
            "fast enough for models of 4 billion weights".to_owned(),
        ),
        None => (Advice::Eligible, "the kernels were not measured".to_owned()),
    }
}

/// A replay is one prefill: far cheaper than the answer was, so a slower machine does.
fn validator(facts: &Facts) -> (Advice, String) {
    if facts.pocket_tokens_per_s.is_none() {
        return (
            Advice::No,
            "the engine did not run the pocket model on this machine".to_owned(),
        );
    }
    if facts.simd == "portable" {
        return (
            Advice::Eligible,
            "no AVX2: replays give the same bits, several times slower".to_owned(),
        );
    }
    if facts.threads < 2 {
        return (
            Advice::Eligible,
            "one thread: a replay takes as long as the answer".to_owned(),
        );
    }
    (
        Advice::Recommended,
        "a replay is one pass over prompt and answer; this machine is fast enough".to_owned(),
    )
}

/// The recommended roles.
pub fn recommended(table: &[RoleAdvice]) -> Vec<Role> {
    table
        .iter()
        .filter(|row| row.advice == Advice::Recommended)
        .map(|row| row.role)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workstation() -> Facts {
        Facts {
            threads: 16,
            simd: "avx2".to_owned(),
            memory_bytes: Some(64 << 30),
            disk_write_bytes_per_s: Some(500_000_000),
            kernel_bytes_per_s: Some(60_000_000_000),
            pocket_tokens_per_s: Some(900),
            ..Facts::default()
        }
    }

    fn of(facts: &Facts, role: Role) -> RoleAdvice {
        advise(facts)
            .into_iter()
            .find(|row| row.role == role)
            .unwrap()
    }

    #[test]
    fn a_workstation_is_recommended_to_buy_sell_and_check() {
        assert_eq!(
            recommended(&advise(&workstation())),
            [Role::Client, Role::Host, Role::Validator]
        );
    }

    #[test]
    fn each_weakness_is_named() {
        let weak: [(Facts, &str); 4] = [
            (
                Facts {
                    threads: 2,
                    ..workstation()
                },
                "2 threads",
            ),
            (
                Facts {
                    memory_bytes: Some(4 << 30),
                    ..workstation()
                },
                "memory",
            ),
            (
                Facts {
                    kernel_bytes_per_s: Some(8_000_000_000),
                    ..workstation()
                },
                "tokens/s",
            ),
            (
                Facts {
                    disk_write_bytes_per_s: Some(1_000_000),
                    ..workstation()
                },
                "disk",
            ),
        ];
        for (facts, word) in weak {
            let row = of(&facts, Role::Host);
            assert_eq!(row.advice, Advice::Eligible);
            assert!(row.why.contains(word), "{}", row.why);
        }
    }

    #[test]
    fn a_machine_that_runs_no_model_sells_and_checks_nothing() {
        let facts = Facts {
            pocket_tokens_per_s: None,
            ..workstation()
        };
        assert_eq!(of(&facts, Role::Host).advice, Advice::No);
        assert_eq!(of(&facts, Role::Validator).advice, Advice::No);
        assert_eq!(of(&facts, Role::Client).advice, Advice::Recommended);
    }

    #[test]
    fn roles_that_do_not_work_yet_are_never_recommended() {
        let table = advise(&workstation());
        assert_eq!(table.len(), 9);
        assert!(table[3..].iter().all(|row| row.advice == Advice::No));
    }
}
