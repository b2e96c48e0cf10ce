//! One order of embeddings: its texts in turn, each when it is paid for.

use super::job::encode;
use super::order::Steering;
use super::{Output, Owner, insist};
use kernels::{CancelFlag, Engine};
use protocol::limits;
use protocol::wire::attached::{Attached, Vector, vector_digest};
use protocol::wire::chain::{ChainedToken, Piece};
use protocol::wire::order::Finish;
use protocol::work::Job;
use tokio::sync::mpsc;

/// Most embeddings handed on at once: a chunk of the network, at the widest models.
const BATCH: usize = limits::MAX_CHUNK_VECTOR_BYTES / limits::MAX_VECTOR_BYTES;

/// Runs a job to its end. Blocks.
pub(super) fn serve(
    engine: &Engine,
    owner: Owner,
    job: &Job,
    steering: &Steering,
    out: &mpsc::Sender<Output>,
) -> Result<(), String> {
    let texts = encode(engine.model(), job).map_err(|refusal| refusal.message)?;
    let owner = super::order::turn(&owner);
    let cancel = CancelFlag::new();
    steering.cancels(&cancel);
    let mut batch = Batch::default();
    for (text, id) in texts.iter().zip(0..) {
        if steering.is_spent(u64::from(id)) {
            batch.flush(None, out)?;
        }
        if !steering.wait_for(u64::from(id)) {
            return Ok(());
        }
        let vector = match insist(|| Some(engine.embed(owner, text, &cancel))) {
            Some(Ok(vector)) => bytes(&vector),
            Some(Err(error)) => return Err(error.to_string()),
            None => return Ok(()),
        };
        let token = ChainedToken {
            id,
            logits: vector_digest(&vector),
            piece: Piece::default(),
        };
        batch.tokens.push(token);
        batch.vectors.push(vector);
        if batch.tokens.len() == BATCH {
            batch.flush(None, out)?;
        }
    }
    batch.flush(Some(Finish::Stop), out)
}

/// The form that travels.
pub(super) fn bytes(elements: &[f32]) -> Vector {
    Vector(elements.iter().flat_map(|x| x.to_le_bytes()).collect())
}

#[derive(Default)]
struct Batch {
    tokens: Vec<ChainedToken>,
    vectors: Vec<Vector>,
}

impl Batch {
    fn flush(&mut self, finish: Option<Finish>, out: &mpsc::Sender<Output>) -> Result<(), String> {
        if self.tokens.is_empty() && finish.is_none() {
            return Ok(());
        }
        let attached = Attached {
            vectors: std::mem::take(&mut self.vectors),
            ..Attached::default()
        };
        out.blocking_send(Output::Tokens {
            tokens: std::mem::take(&mut self.tokens),
            finish,
            attached,
        })
        .map_err(|_| "nobody takes the output".to_owned())
    }
}
