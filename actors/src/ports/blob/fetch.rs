//! The reader's side: a model's metadata from one host, each group verified as it comes.

use crate::ports::network::FramedStream;
use kernels::gguf::{Gguf, GgufError};
use protocol::ids::ModelDigest;
use protocol::limits::MAX_METADATA_BYTES;
use protocol::refusal::Refusal;
use protocol::wire::blob::{BlobFrame, GROUP_BYTES, SliceRequest};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// What one host may make a reader wait for and hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long one group may take: 256 KiB at ten kilobytes a second.
    pub slice: Duration,
    /// How long all of it may take.
    pub whole: Duration,
    /// Most bytes of metadata.
    pub most: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            slice: Duration::from_secs(30),
            whole: Duration::from_secs(600),
            most: MAX_METADATA_BYTES,
        }
    }
}

/// Why a host did not give a model's metadata.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// What it sent is not the model's: it is not asked again.
    #[error("it sent something else: {0}")]
    Wrong(String),
    /// It refused.
    #[error("it refused: {0}")]
    Refused(Refusal),
    /// It went away, or is too slow.
    #[error("it did not answer: {0}")]
    Lost(String),
    /// The model has no metadata that is of use, whoever sends it.
    #[error("the model's metadata cannot be used: {0}")]
    Useless(String),
}

/// Reads the beginning of a model's file until its metadata is there, and proves every byte.
///
/// # Errors
/// See [`FetchError`].
pub async fn fetch(
    stream: &mut FramedStream,
    model: ModelDigest,
    limits: Limits,
) -> Result<Arc<[u8]>, FetchError> {
    let lost = |_| FetchError::Lost("it took too long".to_owned());
    let read = timeout(limits.whole, groups(stream, model, limits)).await;
    let bytes = read.map_err(lost)??;
    // Whether it listens or not: all is here.
    let _ = timeout(limits.slice, stream.finish()).await;
    Ok(bytes)
}

async fn groups(
    stream: &mut FramedStream,
    model: ModelDigest,
    limits: Limits,
) -> Result<Arc<[u8]>, FetchError> {
    let mut bytes: Vec<u8> = Vec::new();
    // Reading is tried again when a fourth more is there: all tries together cost five readings.
    let mut enough = 0;
    for group in 0..(limits.most as u64 / GROUP_BYTES) {
        let request = SliceRequest {
            model,
            part: 0,
            group,
        };
        let slice = timeout(limits.slice, one(stream, request)).await;
        let slice = slice.map_err(|_| FetchError::Lost("it took too long".to_owned()))??;
        let last = bytes.len() + slice.len() >= limits.most || (slice.len() as u64) < GROUP_BYTES;
        bytes.extend(slice);
        if bytes.len() < enough && !last {
            continue;
        }
        enough = bytes.len() + bytes.len() / 4;
        let whole: Arc<[u8]> = bytes.as_slice().into();
        let tried = whole.clone();
        let read = tokio::task::spawn_blocking(move || Gguf::from_head(tried).map(drop)).await;
        match read {
            Ok(Ok(())) => return Ok(whole),
            Ok(Err(error)) if error.is_short() && !last => {}
            // The digests of a split model's files, for one, are a file of the same digest.
            Ok(Err(error @ GgufError::BadMagic { .. })) => {
                return Err(FetchError::Wrong(error.to_string()));
            }
            Ok(Err(error)) => return Err(FetchError::Useless(error.to_string())),
            Err(error) => return Err(FetchError::Useless(error.to_string())),
        }
    }
    Err(FetchError::Useless(format!(
        "it is longer than {} bytes",
        limits.most
    )))
}

/// Asks for a group, and verifies what comes.
async fn one(stream: &mut FramedStream, request: SliceRequest) -> Result<Vec<u8>, FetchError> {
    let lost = |error: &dyn std::fmt::Display| FetchError::Lost(error.to_string());
    let frame = BlobFrame::Get(request).encode();
    stream.send(&frame).await.map_err(|error| lost(&error))?;
    let answer = stream.next().await.map_err(|error| lost(&error))?;
    let answer = answer.ok_or_else(|| lost(&"it closed the stream"))?;
    match BlobFrame::decode(&answer) {
        Ok(BlobFrame::Slice(slice)) => {
            let verified = slice.verify(&request);
            verified.map_err(|error| FetchError::Wrong(error.to_string()))?;
            Ok(slice.bytes)
        }
        Ok(BlobFrame::Refusal(refusal)) => Err(FetchError::Refused(refusal)),
        Ok(BlobFrame::Get(_)) => Err(FetchError::Wrong("a question".to_owned())),
        Err(error) => Err(FetchError::Wrong(error.to_string())),
    }
}
