//! Questions of operators to a machine, and who waits for which answer.
//!
//! A question is an input with an id; its answer is an effect with the same id.

use parking_lot::Mutex;
use protocol::ids::EffectId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Those that wait for an answer of type `T`.
pub struct Asks<T> {
    waiting: Arc<Mutex<BTreeMap<EffectId, oneshot::Sender<T>>>>,
}

impl<T> Clone for Asks<T> {
    fn clone(&self) -> Self {
        Asks {
            waiting: self.waiting.clone(),
        }
    }
}

impl<T> Default for Asks<T> {
    fn default() -> Self {
        Asks {
            waiting: Arc::default(),
        }
    }
}

impl<T> Asks<T> {
    /// Asks by `question`, the input with this `id` on its way, and waits for its answer. `None`
    /// after `limit`, which bounds both, or where the machine is gone.
    pub async fn ask(
        &self,
        id: EffectId,
        limit: Duration,
        question: impl Future<Output = ()>,
    ) -> Option<T> {
        let (sender, answer) = oneshot::channel();
        self.waiting.lock().insert(id, sender);
        let _forget = Forget { asks: self, id };
        let both = async {
            question.await;
            answer.await.ok()
        };
        tokio::time::timeout(limit, both).await.ok().flatten()
    }

    /// Hands an answer to whoever still waits for it.
    pub fn answer(&self, id: EffectId, answer: T) {
        if let Some(waiting) = self.waiting.lock().remove(&id) {
            // Whoever asked may have given up.
            let _ = waiting.send(answer);
        }
    }
}

/// Forgets a question when nobody waits for it any more.
struct Forget<'a, T> {
    asks: &'a Asks<T>,
    id: EffectId,
}

impl<T> Drop for Forget<'_, T> {
    fn drop(&mut self) {
        self.asks.waiting.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn an_answer_reaches_who_asked_and_nobody_else() {
        let asks = Asks::default();
        let first = asks.ask(EffectId(1), LONG, async {});
        let second = asks.ask(EffectId(2), LONG, async { asks.answer(EffectId(1), "one") });
        let late = async {
            asks.answer(EffectId(3), "nobody's");
            asks.answer(EffectId(2), "two");
        };
        let (first, second, ()) = tokio::join!(first, second, late);
        assert_eq!((first, second), (Some("one"), Some("two")));
        assert!(asks.waiting.lock().is_empty());
    }

    #[tokio::test]
    async fn a_question_is_forgotten_with_who_asked_it() {
        let asks = Asks::<()>::default();
        let soon = Duration::from_millis(5);
        assert_eq!(asks.ask(EffectId(1), soon, async {}).await, None);
        assert!(asks.waiting.lock().is_empty());
        drop(asks.ask(EffectId(2), LONG, async {}));
        let given_up = tokio::time::timeout(soon, asks.ask(EffectId(3), LONG, async {}));
        assert!(given_up.await.is_err());
        assert!(asks.waiting.lock().is_empty());
    }
}
