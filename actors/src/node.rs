//! A whole node: five actors, their ports, and the handle that clients use.
//!
//! Wiring only. What is decided is decided in `protocol`; what is configured is
//! decided by the binary, which fills [`NodeConfig`].

mod announce;
mod config;
mod machines;
mod offers;
mod start;
mod stop;
pub(crate) mod streams;

pub use config::{NodeConfig, NodeError};

use crate::driver::{Fatal, Look};
use crate::ports::blob::Vocabularies;
use crate::ports::compute::Compute;
use crate::ports::network::NetworkHandle;
use crate::ports::relay::{RelayHandle, RelayStatus};
use crate::ports::storage::Storage;
use crate::ports::wallet::Wallet;
use crate::shell::Parts;
use crate::shell::inference::CLIENT_QUEUE;
use crate::shell::validator::VerdictNote;
use machines::Actors;
use offers::Offers;
use protocol::ids::{EffectId, NodeKey, RequestId};
use protocol::machine::Table;
use protocol::message::discovery::HostRow;
use protocol::message::inference::{Admission, BuyRequest, BuyerEvent};
use protocol::message::payment::Report;
use protocol::refusal::{Code, Refusal};
use protocol::wire::bundle::{Bundle, Verdict};
use protocol::wire::envelope::Network;
use protocol::wire::manifest::Role;
use protocol::{inference, message, payment};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, watch};

/// How long an operator's question may take.
const OPERATOR_QUERY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an operator's bundle may take to be judged: it is replayed.
const JUDGE_TIMEOUT: Duration = Duration::from_secs(300);

/// A running node. Cheap to clone; [`Node::shutdown`] stops it for all.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    key: NodeKey,
    roles: Vec<Role>,
    parts: Parts,
    actors: Actors,
    offers: Arc<Offers>,
    draining: AtomicBool,
    next: AtomicU64,
    system: parking_lot::Mutex<Option<SystemThread>>,
}

struct SystemThread {
    system: actix::System,
    thread: std::thread::JoinHandle<()>,
}

/// A purchase under way.
#[derive(Debug)]
pub struct Purchase {
    /// Its number, for [`Node::confirm`], [`Node::stop`] and [`Node::cancel`].
    pub request: RequestId,
    /// What happens, in order. Ends after `Finished` or `Failed`.
    pub events: mpsc::Receiver<BuyerEvent>,
}

impl Node {
    /// The node key.
    pub fn key(&self) -> NodeKey {
        self.inner.key
    }

    /// The network that money moves on.
    pub fn network(&self) -> Network {
        self.inner.parts.network
    }

    /// Roles enabled.
    pub fn roles(&self) -> &[Role] {
        &self.inner.roles
    }

    /// Where it can be reached; empty for a pure client.
    pub fn addresses(&self) -> Vec<String> {
        let serving = self.inner.parts.serving.iter();
        let listening = serving.flat_map(NetworkHandle::local_addresses);
        listening.map(|address| address.to_string()).collect()
    }

    /// The wallet.
    pub fn wallet(&self) -> &Arc<dyn Wallet> {
        &self.inner.parts.wallet
    }

    /// The engine.
    pub fn compute(&self) -> &Compute {
        &self.inner.parts.compute
    }

    /// The vocabularies of models that are bought from others.
    pub fn vocabularies(&self) -> &Vocabularies {
        &self.inner.parts.vocabularies
    }

    /// The machines' records, for reading.
    pub fn storage(&self) -> &Storage {
        &self.inner.parts.shared.storage
    }

    /// How the relays fare.
    pub fn relays(&self) -> Vec<RelayStatus> {
        self.inner
            .parts
            .relays
            .iter()
            .flat_map(RelayHandle::relays)
            .collect()
    }

    /// Tells when the node must stop, and why.
    pub fn fatal(&self) -> watch::Receiver<Option<Fatal>> {
        self.inner.parts.shared.fatal()
    }

    /// Verdicts from now on: ours and those of validators that were asked.
    pub fn verdicts(&self) -> broadcast::Receiver<VerdictNote> {
        self.inner.parts.notes.subscribe()
    }

    fn fresh(&self) -> u64 {
        self.inner.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Buys. `request.request` is filled in.
    pub async fn buy(&self, mut request: BuyRequest) -> Purchase {
        let id = RequestId(self.fresh());
        let (sender, events) = mpsc::channel(CLIENT_QUEUE);
        if self.inner.draining.load(Ordering::Acquire) {
            let refusal = Refusal::new(Code::ShuttingDown, "this node is shutting down");
            // The queue is empty: there is room.
            let _ = sender.try_send(BuyerEvent::Failed(refusal));
            return Purchase {
                request: id,
                events,
            };
        }
        self.inner.parts.clients.lock().insert(id, sender);
        request.request = id;
        self.inner
            .parts
            .shared
            .send(message::inference::Input::Buy(Box::new(request)))
            .await;
        Purchase {
            request: id,
            events,
        }
    }

    /// Agrees to the choice that was shown.
    pub async fn confirm(&self, request: RequestId) {
        self.inner
            .parts
            .shared
            .send(message::inference::Input::Confirm(request))
            .await;
    }

    /// Wants no more output; what was delivered is paid.
    pub async fn stop(&self, request: RequestId) {
        self.inner
            .parts
            .shared
            .send(message::inference::Input::Stop(request))
            .await;
    }

    /// Ends a purchase at once.
    pub async fn cancel(&self, request: RequestId) {
        self.inner
            .parts
            .shared
            .send(message::inference::Input::Cancel(request))
            .await;
    }

    /// Whether new orders are taken.
    pub async fn admit(&self, admission: Admission) {
        self.inner
            .parts
            .shared
            .send(message::inference::Input::Admit(admission))
            .await;
    }

    /// The hosts known, with the reasons for their rank.
    ///
    /// # Errors
    /// When the node does not answer in time.
    pub async fn hosts(&self) -> Result<Vec<HostRow>, NodeError> {
        let id = EffectId(self.fresh());
        let asked = self
            .inner
            .parts
            .shared
            .send(message::discovery::Input::List { id });
        let answer = self
            .inner
            .parts
            .lists
            .ask(id, OPERATOR_QUERY_TIMEOUT, asked)
            .await;
        answer.ok_or(NodeError::Silent)
    }

    /// The books.
    ///
    /// # Errors
    /// When the node does not answer in time.
    pub async fn report(&self) -> Result<Report, NodeError> {
        let id = EffectId(self.fresh());
        let asked = self
            .inner
            .parts
            .shared
            .send(message::payment::Input::Report { id });
        let answer = self
            .inner
            .parts
            .reports
            .ask(id, OPERATOR_QUERY_TIMEOUT, asked)
            .await;
        answer.ok_or(NodeError::Silent)
    }

    /// The books with every payment ever: [`Node::report`] has the newest some thousands. It
    /// reads the whole ledger from disk.
    ///
    /// # Errors
    /// When the node does not answer in time, or storage cannot be read.
    pub async fn whole_report(&self) -> Result<Report, NodeError> {
        // The disk first: what the machine tells afterwards is newer.
        let storage = self.inner.parts.shared.storage.clone();
        let stored = tokio::task::spawn_blocking(move || storage.load(&[Table::Ledger]));
        let stored = stored.await.map_err(|_| NodeError::Silent)??;
        let report = self.report().await?;
        Ok(payment::ledger::whole(report, &stored))
    }

    /// Judges a bundle by recomputation.
    ///
    /// # Errors
    /// When the node does not answer in time.
    pub async fn judge(&self, bundle: Bundle) -> Result<Verdict, NodeError> {
        let id = EffectId(self.fresh());
        let input = message::validator::Input::Judge {
            id,
            bundle: Box::new(bundle),
        };
        let asked = self.inner.parts.shared.send(input);
        let answer = self
            .inner
            .parts
            .judgements
            .ask(id, JUDGE_TIMEOUT, asked)
            .await;
        answer.ok_or(NodeError::Silent)
    }

    /// Orders that run or wait, on both sides, their settlement included.
    pub async fn active_orders(&self) -> usize {
        let look = Look(inference::Inference::active);
        // An actor that is gone has none.
        self.inner
            .actors
            .inference
            .send(look)
            .await
            .unwrap_or_default()
    }
}
