//! The host's side: group after group to whoever asks, within bounds.
//!
//! Only of models that the host lists, and only what their files hold before the weights.
//! A refusal is no offence, of either side.

use super::allowance::{Allowance, Bounds};
use super::transfers::Transfers;
use crate::ports::compute::Compute;
use crate::ports::network::{FrameError, FramedStream};
use kernels::gguf::Head;
use protocol::ids::{Digest, ModelDigest};
use protocol::refusal::{Code, Refusal};
use protocol::wire::blob::{self, BlobFrame, Slice, SliceRequest};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long the first question may take.
const FIRST: Duration = Duration::from_secs(5);
/// How long who asks may think between two groups: it reads what it has.
const PAUSE: Duration = Duration::from_secs(30);
/// How long a refusal may take to be heard.
const FAREWELL: Duration = Duration::from_secs(5);
/// When to try again where all transfers are taken. Milliseconds.
const BUSY_RETRY_MS: u64 = 30_000;

/// What is given away, and how much of it; clones share the bounds.
#[derive(Clone)]
pub struct Blobs {
    compute: Compute,
    listed: Arc<BTreeSet<ModelDigest>>,
    allowance: Arc<Allowance>,
    transfers: Transfers,
    life: Duration,
}

impl Blobs {
    /// Gives away the beginnings of these models.
    pub fn new(compute: Compute, listed: BTreeSet<ModelDigest>, bounds: Bounds) -> Self {
        Self {
            compute,
            listed: Arc::new(listed),
            allowance: Arc::new(Allowance::new(bounds)),
            transfers: Transfers::new(bounds.transfers),
            life: bounds.life,
        }
    }

    /// Serves one stream to its end.
    pub async fn serve(self, mut stream: FramedStream) {
        let Some(_place) = self.transfers.begin(stream.caller()) else {
            return turn_away(stream).await;
        };
        // What is cut off in the middle is reset.
        let served = timeout(self.life, self.answer_all(&mut stream)).await;
        tracing::debug!(peer = %stream.peer, ?served, "a transfer ended");
    }

    async fn answer_all(&self, stream: &mut FramedStream) -> Result<(), FrameError> {
        let caller = stream.caller();
        let mut patience = FIRST;
        while let Ok(asked) = timeout(patience, stream.next()).await {
            patience = PAUSE;
            let Some(bytes) = asked? else { break };
            let answer = match BlobFrame::decode(&bytes) {
                Ok(BlobFrame::Get(request)) => self.slice(request).await,
                _ => {
                    let text = "a blob stream takes requests for slices";
                    Err(Refusal::new(Code::ProtocolViolation, text))
                }
            };
            let answer = answer.and_then(|slice| {
                let taken = self.allowance.take(&caller, slice.bytes.len() as u64);
                taken.map(|()| slice).map_err(|left| Refusal {
                    retry_after_ms: u64::try_from(left.as_millis()).ok(),
                    ..Refusal::new(
                        Code::TooManyUnpaid,
                        "as much as is given away in an hour was given",
                    )
                })
            });
            let refused = answer.is_err();
            let frame = match answer {
                Ok(slice) => BlobFrame::Slice(Box::new(slice)),
                Err(refusal) => BlobFrame::Refusal(refusal),
            };
            stream.send(&frame.encode()).await?;
            if refused {
                break;
            }
        }
        stream.finish().await
    }

    async fn slice(&self, request: SliceRequest) -> Result<Slice, Refusal> {
        let unknown = || Refusal::new(Code::UnknownModel, "this model is not listed here");
        if !self.listed.contains(&request.model) {
            return Err(unknown());
        }
        let compute = self.compute.clone();
        let cut = move || {
            let head = compute.head(&request.model).ok_or_else(unknown)?;
            cut(&head, &request)
        };
        let failed = |_| {
            Err(Refusal::new(
                Code::EngineFailed,
                "the file could not be read",
            ))
        };
        tokio::task::spawn_blocking(cut)
            .await
            .unwrap_or_else(failed)
    }
}

/// Cuts a group out of a model's head, with its proof.
fn cut(head: &Head, request: &SliceRequest) -> Result<Slice, Refusal> {
    let beyond = || {
        let text = "only what a model's file holds before its weights is given away";
        Refusal::new(Code::BadOrder, text)
    };
    let extent = blob::extent(head.length, request.group).filter(|_| request.part == 0);
    let (start, length) = extent.ok_or_else(beyond)?;
    let start = usize::try_from(start).map_err(|_| beyond())?;
    let length = usize::try_from(length).map_err(|_| beyond())?;
    let end = start.checked_add(length).ok_or_else(beyond)?;
    let bytes = head.bytes.get(start..end).ok_or_else(beyond)?;
    let path = blob::path(head.length, &head.leaves, request.group).ok_or_else(beyond)?;
    Ok(Slice {
        parts: head.parts.iter().copied().map(Digest).collect(),
        length: head.length,
        bytes: bytes.to_vec(),
        path,
    })
}

/// Answers a stream beyond the bounds: not now.
pub async fn turn_away(mut stream: FramedStream) {
    let refusal = Refusal {
        retry_after_ms: Some(BUSY_RETRY_MS),
        ..Refusal::new(Code::Busy, "too many files are being read here")
    };
    let frame = BlobFrame::Refusal(refusal).encode();
    let answered = async {
        stream.send(&frame).await?;
        stream.finish().await
    };
    // Whoever does not listen is reset.
    let _ = timeout(FAREWELL, answered).await;
}
