//! Shell conformance: what the simulator's nodes do, the real driver does.
//!
//! A node of a faulty simulated world is recorded; each of its machines then
//! runs under the actix driver with the same inputs at the same times, and must have
//! the same effects carried out in the same order, writes before what is behind them.

use actors::driver::scripted::{Turn, drive};
use anyhow::{Context, Result, ensure};
use protocol::machine::Machine;
use protocol::route::{Actor, Delivery, SharedEffect};
use protocol::time::Now;
use sim::node::AnyEffect;
use sim::record::{Life, Turn as Recorded};
use sim::{Options, World};

/// One machine of a recorded life under the real driver.
fn conforms<M>(
    name: &str,
    machine: M,
    start: Now,
    turns: &[Recorded],
    input: fn(Delivery) -> Option<M::Input>,
    wrap: fn(M::Effect) -> AnyEffect,
    is_write: fn(&M::Effect) -> bool,
) -> Result<usize>
where
    M: Machine + Unpin + 'static,
    M::Input: Send + Unpin + 'static,
    M::Effect: Unpin + 'static,
{
    let mut script = Vec::new();
    // The first turn is the start, which the driver makes by itself.
    for turn in turns.iter().skip(1) {
        let input = match &turn.input {
            Some(delivery) => Some(input(delivery.clone()).context("another machine's input")?),
            None => None,
        };
        script.push(Turn {
            now: turn.now,
            input,
        });
    }
    let done: Vec<AnyEffect> = drive(machine, start, script, is_write)?
        .into_iter()
        .map(wrap)
        .collect();
    let wanted: Vec<&AnyEffect> = turns.iter().flat_map(|turn| &turn.effects).collect();
    let differs = done.iter().zip(&wanted).position(|(a, b)| a != *b);
    ensure!(
        differs.is_none() && done.len() == wanted.len(),
        "{name}: {} effects for {}, the first that differs: {:?}",
        done.len(),
        wanted.len(),
        differs.map(|at| (at, &done[at], wanted[at]))
    );
    Ok(done.len())
}

fn replay(life: Life) -> Result<[usize; Actor::COUNT]> {
    let of = |actor: Actor| -> Vec<Recorded> {
        let turns = life.turns.iter().filter(|turn| turn.actor == actor);
        turns.cloned().collect()
    };
    let all = Actor::ALL.map(of);
    let turns = |actor: Actor| &all[actor.index()];
    macro_rules! each {
        ($(
            $(#[$doc:meta])*
            $machine:ident: $module:ident hears $heard:tt
        )*) => {
            Ok([$(conforms(
                stringify!($module),
                life.machines.$module,
                life.start,
                turns(Actor::$machine),
                |delivery| match delivery {
                    Delivery::$machine(input) => Some(input),
                    _ => None,
                },
                AnyEffect::$machine,
                |effect| effect.records().is_some(),
            )?),*])
        };
    }
    protocol::machines!(each)
}

#[test]
fn a_turn_that_is_left_out_is_noticed() -> Result<()> {
    let mut world = World::new(Options {
        nodes: 12,
        ..Options::new(1)
    });
    world.record(0);
    world.run(|_, _| {});
    let mut life = world.lives().into_iter().next().context("no run")?;
    let last = life
        .turns
        .iter()
        .rposition(|turn| turn.input.is_some() && !turn.effects.is_empty());
    life.turns[last.context("no turn")?].input = None;
    assert!(replay(life).is_err());
    Ok(())
}

#[test]
fn the_real_driver_carries_out_what_the_simulated_node_did_in_the_same_order() -> Result<()> {
    // A host (0) and a validator that sells (1), in worlds with crashes and liars.
    for (seed, node) in [(1, 0), (2, 1)] {
        let mut world = World::new(Options {
            nodes: 12,
            safety_ms: 60 * 60_000,
            purchases_per_hour: 20,
            ..Options::new(seed)
        });
        world.record(node);
        let violations = world.run(|_, _| {});
        ensure!(violations.is_empty(), "seed {seed}: {violations:?}");
        let mut effects = [0; Actor::COUNT];
        for (at, life) in world.lives().into_iter().enumerate() {
            let found = replay(life).with_context(|| format!("seed {seed}, run {at}"))?;
            for (sum, more) in effects.iter_mut().zip(found) {
                *sum += more;
            }
        }
        println!("seed {seed}, node {node}: effects per machine {effects:?}");
        // An idle node would prove nothing.
        ensure!(
            effects.iter().all(|count| *count > 0) && effects.iter().sum::<usize>() > 500,
            "seed {seed}: too little happened: {effects:?}"
        );
    }
    Ok(())
}
