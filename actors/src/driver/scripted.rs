//! Shell conformance: a machine driven by the real driver under a scripted clock.
//!
//! Takes the turns that the simulator gave a machine and tells in which order the
//! real driver had the effects carried out. The ports are stubs that write effects
//! down; a write to disk makes the driver wait, as a real one does. For tests.

use super::{Begin, Deliver, Driver, Fatal, Halt, Performed, Ports, Wake};
use crate::clock::Clock;
use actix::Actor;
use parking_lot::Mutex;
use protocol::machine::Machine;
use protocol::time::Now;
use std::sync::Arc;

/// One turn: the clocks, and the input or none where only what was due ran.
#[derive(Debug)]
pub struct Turn<I> {
    /// What both clocks showed.
    pub now: Now,
    /// The input.
    pub input: Option<I>,
}

/// Why a run under script did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// The actor ended before its script did.
    #[error("the actor ended after {turns} turns")]
    Ended {
        /// Turns that it took.
        turns: usize,
    },
    /// The driver stopped the node.
    #[error("the driver stopped the node: {0}")]
    Stopped(Fatal),
}

#[derive(Clone)]
struct Hands(Arc<Mutex<Now>>);

impl Clock for Hands {
    fn now(&self) -> Now {
        *self.0.lock()
    }
}

struct Notes<E> {
    effects: Arc<Mutex<Vec<E>>>,
    fatal: Arc<Mutex<Option<Fatal>>>,
    is_write: fn(&E) -> bool,
}

impl<M> Ports<M> for Notes<M::Effect>
where
    M: Machine,
    M::Effect: Unpin + 'static,
{
    fn perform(&mut self, effect: M::Effect) -> Performed {
        let write = (self.is_write)(&effect);
        self.effects.lock().push(effect);
        match write {
            // Back only in a later turn of the event loop: what follows must wait for it.
            true => Performed::Wait(Box::pin(async {
                tokio::task::yield_now().await;
                Ok(())
            })),
            false => Performed::Done,
        }
    }

    fn fatal(&mut self, fatal: Fatal) {
        *self.fatal.lock() = Some(fatal);
    }
}

/// Starts `machine` at `start`, gives it the turns, and returns every effect in the order
/// in which the driver had it carried out. `is_write` names the effects that must be durable
/// before the next. Runs an actix system on the calling thread.
///
/// # Errors
/// When the driver stops before the script ends.
pub fn drive<M>(
    machine: M,
    start: Now,
    turns: Vec<Turn<M::Input>>,
    is_write: fn(&M::Effect) -> bool,
) -> Result<Vec<M::Effect>, ScriptError>
where
    M: Machine + Unpin + 'static,
    M::Input: Send + Unpin + 'static,
    M::Effect: Unpin + 'static,
{
    let hands = Hands(Arc::new(Mutex::new(start)));
    let (effects, fatal) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(None)));
    let notes = Notes {
        effects: effects.clone(),
        fatal: fatal.clone(),
        is_write,
    };
    let clock = hands.clone();
    let ended = actix::System::new().block_on(async move {
        let actor = Driver::new(machine, notes, clock).start();
        for (at, turn) in turns.into_iter().enumerate() {
            // It recovers under the first clock.
            if at == 0 {
                let _ = actor.send(Begin).await;
            }
            *hands.0.lock() = turn.now;
            let taken = match turn.input {
                Some(input) => actor.send(Deliver::new(input)).await.is_ok(),
                None => actor.send(Wake).await.is_ok(),
            };
            if !taken {
                return Err(ScriptError::Ended { turns: at });
            }
        }
        // `Halt` ends the actor behind the last write.
        let _ = actor.send(Halt).await;
        while actor.connected() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        Ok(())
    });
    if let Some(fatal) = fatal.lock().take() {
        return Err(ScriptError::Stopped(fatal));
    }
    ended?;
    let effects = std::mem::take(&mut *effects.lock());
    Ok(effects)
}
