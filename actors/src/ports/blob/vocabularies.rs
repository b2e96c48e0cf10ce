//! The vocabularies of models that are not here: fetched in the background, kept on disk by
//! digest, and used to count the prompts that this node buys answers to.
//!
//! One fetch at a time, one file read at a time, one answer's pieces compared at a time: what hosts
//! send in small parts makes no line of threads. A fetch that a crash or a lost host ends begins anew with a later
//! order; failures are waited out for longer each time. Everything in a file is hostile: it is
//! read where a panic ends nothing else, and templates render under the same limits as a host's.

use super::fetch::{FetchError, Limits, fetch};
use crate::ports::compute::Compute;
use crate::ports::network::{self, ApartStream, Protocol, open_apart};
use crate::ports::runner::Vocabulary;
use kernels::NUMERICS;
use parking_lot::Mutex;
use protocol::ids::{ModelDigest, NodeKey};
use protocol::message::inference::{InputCount, InputFacts, VocabularySource};
use protocol::refusal::Refusal;
use protocol::wire::chain::ChainedToken;
use protocol::work::Job;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Longest dial.
const DIAL: Duration = Duration::from_secs(25);
/// Most vocabularies in memory at once.
const LOADED: usize = 64;
/// Most bytes of them, the one used last aside. The largest known takes some 20 MB, the largest that is read less than 160.
const LOADED_BYTES: usize = 256 << 20;
/// Models whose vocabularies wait to be fetched.
const WAITING: usize = 8;
/// The wait after a first failure; it doubles with each.
const RETRY: Duration = Duration::from_secs(60);
/// The longest such wait, and the one for a model whose metadata is of no use.
const RETRY_MAX: Duration = Duration::from_secs(6 * 3_600);
/// The longest wait that a host may ask for. Another one may have room sooner.
const BUSY_MAX: Duration = Duration::from_secs(600);
/// Hosts and models that failures are remembered of.
const REMEMBERED: usize = 1_024;
/// Bytes of the checksum in front of a file. A disk that alters a bit convicts nobody.
const CHECKSUM: usize = 32;
/// How the files are called.
const ENDING: &str = "head";

/// Where vocabularies are kept, and how many.
#[derive(Debug, Clone, Default)]
pub struct Cache {
    /// The folder; without one they are kept in memory alone.
    pub folder: Option<PathBuf>,
    /// Most bytes of it; 0: nothing is fetched.
    pub bytes: u64,
}

/// See the head of the file; clones share everything.
#[derive(Clone)]
pub struct Vocabularies(Arc<Inner>);

struct Inner {
    compute: Compute,
    cache: Cache,
    dial: network::Config,
    /// Used last stands first.
    loaded: Mutex<VecDeque<Loaded>>,
    /// Held while a file is read.
    reading: Mutex<()>,
    fetches: Mutex<Fetches>,
    turn: Semaphore,
    /// Held while pieces are compared.
    comparing: Semaphore,
}

struct Loaded {
    model: ModelDigest,
    vocabulary: Arc<Vocabulary>,
    /// What it takes in memory. Said once: it walks all of it.
    bytes: usize,
}

#[derive(Default)]
struct Fetches {
    waiting: BTreeSet<ModelDigest>,
    /// Failures in a row, and when to try again.
    failed: BTreeMap<ModelDigest, (u32, Instant)>,
    /// Hosts that sent what is not the model's.
    liars: BTreeSet<NodeKey>,
}

impl Vocabularies {
    /// Those of a node whose own models are `compute`'s; hosts are dialled as `dial` says,
    /// each from an identity that it has not seen.
    pub fn new(compute: Compute, cache: Cache, dial: network::Config) -> Self {
        Self(Arc::new(Inner {
            compute,
            cache,
            dial,
            loaded: Mutex::default(),
            reading: Mutex::default(),
            fetches: Mutex::default(),
            turn: Semaphore::new(1),
            comparing: Semaphore::new(1),
        }))
    }

    /// Counts a prompt as the model's hosts must. Blocks: call it from a blocking thread.
    pub fn count(&self, model: &ModelDigest, job: &Job) -> InputCount {
        if let Some(count) = self.0.compute.count_own(model, job) {
            return count;
        }
        let Some(vocabulary) = self.get(model) else {
            return InputCount::Absent;
        };
        match vocabulary.prompt(job) {
            Ok(tokens) => InputCount::Counted(InputFacts {
                tokens: tokens.len() as u64,
                tokenizer: vocabulary.tokenizer_digest(),
                template: vocabulary.template_digest,
                numerics: Some(NUMERICS.to_owned()),
            }),
            Err(reason) => {
                tracing::debug!(model = %model.short(), %reason, "a prompt was not counted");
                InputCount::Unknown
            }
        }
    }

    /// The first of these tokens of an answer whose piece is not what the model's vocabulary has.
    /// `None` also where that is not here any more.
    pub async fn wrong_piece(
        &self,
        model: ModelDigest,
        tokens: Vec<ChainedToken>,
    ) -> Option<usize> {
        // Whoever waits holds no thread.
        let _turn = self.0.comparing.acquire().await.ok()?;
        let own = self.clone();
        let compared = move || own.first_wrong(&model, &tokens);
        tokio::task::spawn_blocking(compared).await.ok()?
    }

    fn first_wrong(&self, model: &ModelDigest, tokens: &[ChainedToken]) -> Option<usize> {
        if let Some(wrong) = self.0.compute.wrong_piece(model, tokens) {
            return wrong;
        }
        let vocabulary = self.get(model)?;
        let differs = |token: &ChainedToken| vocabulary.piece(token.id) != token.piece;
        tokens.iter().position(differs)
    }

    /// Fetches a model's vocabulary from the first of these hosts that gives it, unless it is
    /// here or failed lately.
    pub async fn fetch(&self, model: ModelDigest, hosts: Vec<VocabularySource>) {
        if self.0.cache.bytes == 0 || !self.0.fetches.lock().begin(model, Instant::now()) {
            return;
        }
        let result = match self.0.turn.acquire().await {
            Ok(_turn) => self.fetch_from(model, &hosts).await,
            Err(_) => Ok(()),
        };
        if let Err(error) = &result {
            tracing::info!(model = %model.short(), %error, "no vocabulary: prompts are not counted here");
        }
        self.0.fetches.lock().end(model, result, Instant::now());
    }

    async fn fetch_from(
        &self,
        model: ModelDigest,
        hosts: &[VocabularySource],
    ) -> Result<(), FetchError> {
        let mut last = FetchError::Lost("no host is known".to_owned());
        for source in hosts {
            if self.0.fetches.lock().liars.contains(&source.host) {
                continue;
            }
            match self.fetch_one(model, source).await {
                Ok(bytes) => return self.take(model, bytes).await,
                Err(error @ FetchError::Useless(_)) => return Err(error),
                Err(error) => {
                    if matches!(error, FetchError::Wrong(_)) {
                        self.0.fetches.lock().lied(source.host);
                    }
                    last = error;
                }
            }
        }
        Err(last)
    }

    async fn fetch_one(
        &self,
        model: ModelDigest,
        source: &VocabularySource,
    ) -> Result<Arc<[u8]>, FetchError> {
        let addresses = source.addresses.iter();
        let addresses = addresses.filter_map(|text| text.parse().ok()).collect();
        let opened = open_apart(&self.0.dial, Protocol::Blob, addresses, DIAL).await;
        let ApartStream { mut stream, swarm } =
            opened.map_err(|error| FetchError::Lost(error.to_string()))?;
        let fetched = fetch(&mut stream, model, Limits::default()).await;
        swarm.shutdown().await;
        fetched
    }

    /// As if a long time had passed.
    #[cfg(test)]
    pub(super) fn forget_failures(&self) {
        self.0.fetches.lock().failed.clear();
    }

    /// Reads a head that was verified, and keeps it.
    async fn take(&self, model: ModelDigest, bytes: Arc<[u8]>) -> Result<(), FetchError> {
        let own = self.clone();
        let useless = |error: &dyn std::fmt::Display| FetchError::Useless(error.to_string());
        let taken = tokio::task::spawn_blocking(move || {
            let vocabulary = Vocabulary::from_head(bytes.clone(), model)
                .map_err(|error| FetchError::Useless(error.to_string()))?;
            own.load(model, Arc::new(vocabulary));
            if let Some(folder) = &own.0.cache.folder
                && let Err(error) = write(folder, own.0.cache.bytes, &model, &bytes)
            {
                tracing::warn!(%error, folder = %folder.display(), "a vocabulary is not kept on disk");
            }
            Ok(())
        });
        taken.await.map_err(|error| useless(&error))?
    }

    fn load(&self, model: ModelDigest, vocabulary: Arc<Vocabulary>) {
        let bytes = vocabulary.memory();
        let mut loaded = self.0.loaded.lock();
        loaded.retain(|known| known.model != model);
        loaded.push_front(Loaded {
            model,
            vocabulary,
            bytes,
        });
        let fit = fitting(loaded.iter().map(|known| known.bytes));
        loaded.truncate(fit);
    }

    fn loaded(&self, model: &ModelDigest) -> Option<Arc<Vocabulary>> {
        let mut loaded = self.0.loaded.lock();
        let at = loaded.iter().position(|known| known.model == *model)?;
        let known = loaded.remove(at)?;
        let vocabulary = known.vocabulary.clone();
        loaded.push_front(known);
        Some(vocabulary)
    }

    /// From memory, or from disk. Blocks.
    pub(super) fn get(&self, model: &ModelDigest) -> Option<Arc<Vocabulary>> {
        if let Some(vocabulary) = self.loaded(model) {
            return Some(vocabulary);
        }
        let folder = self.0.cache.folder.as_deref()?;
        let _reading = self.0.reading.lock();
        // Somebody else may have read it meanwhile.
        if let Some(vocabulary) = self.loaded(model) {
            return Some(vocabulary);
        }
        match Vocabulary::from_head(read(folder, model)?, *model) {
            Ok(vocabulary) => {
                let vocabulary = Arc::new(vocabulary);
                self.load(*model, vocabulary.clone());
                Some(vocabulary)
            }
            Err(error) => {
                tracing::warn!(%error, "a vocabulary on disk cannot be used");
                let _ = std::fs::remove_file(path(folder, model));
                None
            }
        }
    }
}

impl Fetches {
    /// Whether a fetch may begin now.
    fn begin(&mut self, model: ModelDigest, now: Instant) -> bool {
        let rests = self.failed.get(&model).is_some_and(|(_, at)| now < *at);
        !rests && self.waiting.len() < WAITING && self.waiting.insert(model)
    }

    fn end(&mut self, model: ModelDigest, result: Result<(), FetchError>, now: Instant) {
        self.waiting.remove(&model);
        let Err(error) = result else {
            self.failed.remove(&model);
            return;
        };
        if self.failed.len() >= REMEMBERED {
            self.failed.clear();
        }
        let (times, at) = self.failed.entry(model).or_insert((0, now));
        let wait = match error {
            FetchError::Useless(_) => RETRY_MAX,
            // A host without room says when there may be some, and has not failed.
            FetchError::Refused(Refusal {
                retry_after_ms: Some(ms),
                ..
            }) => Duration::from_millis(ms).clamp(RETRY, BUSY_MAX),
            _ => {
                *times = times.saturating_add(1);
                RETRY
                    .saturating_mul(1 << (*times - 1).min(16))
                    .min(RETRY_MAX)
            }
        };
        *at = now + wait;
    }

    fn lied(&mut self, host: NodeKey) {
        if self.liars.len() >= REMEMBERED {
            self.liars.clear();
        }
        self.liars.insert(host);
    }
}

/// How many of the vocabularies of these sizes stay in memory; the one used last always does.
fn fitting(sizes: impl Iterator<Item = usize>) -> usize {
    let mut sum = 0_usize;
    let fits = |bytes: &usize| {
        sum = sum.saturating_add(*bytes);
        sum <= LOADED_BYTES
    };
    sizes.take(LOADED).take_while(fits).count().max(1)
}

fn path(folder: &Path, model: &ModelDigest) -> PathBuf {
    folder.join(format!("{model}.{ENDING}"))
}

fn read(folder: &Path, model: &ModelDigest) -> Option<Arc<[u8]>> {
    let bytes = std::fs::read(path(folder, model)).ok()?;
    let (checksum, head) = bytes.split_at_checked(CHECKSUM)?;
    match blake3::hash(head).as_bytes() == checksum {
        true => Some(head.into()),
        false => {
            tracing::warn!(model = %model.short(), "a vocabulary on disk is damaged");
            let _ = std::fs::remove_file(path(folder, model));
            None
        }
    }
}

/// Writes a head, and makes room for it: the oldest go first.
fn write(folder: &Path, most: u64, model: &ModelDigest, head: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let size = (head.len() + CHECKSUM) as u64;
    if size > most {
        return Ok(());
    }
    let mut kept: Vec<_> = std::fs::read_dir(folder)?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let metadata = entry.metadata().ok()?;
            let modified = metadata.modified().ok()?;
            metadata
                .is_file()
                .then(|| (modified, metadata.len(), entry.path()))
        })
        .collect();
    kept.sort();
    let mut total: u64 = kept.iter().map(|(_, bytes, _)| bytes).sum();
    for (_, bytes, path) in kept {
        if total + size <= most {
            break;
        }
        std::fs::remove_file(path)?;
        total -= bytes;
    }
    let mut whole = blake3::hash(head).as_bytes().to_vec();
    whole.extend_from_slice(head);
    // Half a file is never read: the checksum says.
    std::fs::write(path(folder, model), whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::refusal::Code;

    fn model(n: u8) -> ModelDigest {
        ModelDigest([n; 32])
    }

    #[test]
    fn the_oldest_heads_make_room_and_a_damaged_one_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let (folder, most) = (folder.path(), 3 * 100 + 3 * CHECKSUM as u64);
        for n in 1..=5 {
            write(folder, most, &model(n), &[n; 100]).unwrap();
            let path = path(folder, &model(n));
            let at = std::time::UNIX_EPOCH + Duration::from_secs(u64::from(n));
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(at).unwrap();
        }
        let there: Vec<u8> = (1..=5)
            .filter(|n| read(folder, &model(*n)).is_some())
            .collect();
        assert_eq!(there, [3, 4, 5]);
        // One that is larger than all the room is not kept.
        write(folder, most, &model(9), &[9; 1_000]).unwrap();
        assert_eq!(read(folder, &model(9)), None);
        let damaged = path(folder, &model(4));
        let mut bytes = std::fs::read(&damaged).unwrap();
        bytes[50] ^= 1;
        std::fs::write(&damaged, bytes).unwrap();
        assert_eq!(read(folder, &model(4)), None);
        assert!(!damaged.exists());
    }

    #[test]
    fn the_vocabularies_used_last_stay_in_memory_as_far_as_they_fit() {
        let kept = |sizes: &[usize]| fitting(sizes.iter().copied());
        assert_eq!(kept(&[1; LOADED + 9]), LOADED);
        assert_eq!(kept(&[LOADED_BYTES / 2; 3]), 2);
        assert_eq!(kept(&[1, LOADED_BYTES, 1]), 1);
        assert_eq!(kept(&[LOADED_BYTES + 1, 1]), 1);
    }

    #[test]
    fn failures_are_waited_out_for_longer_each_time_and_success_forgets_them() {
        let (mut fetches, mut now) = (Fetches::default(), Instant::now());
        let lost = || Err(FetchError::Lost("away".to_owned()));
        for wait in [60, 120, 240] {
            assert!(fetches.begin(model(1), now));
            assert!(!fetches.begin(model(1), now), "one at a time");
            fetches.end(model(1), lost(), now);
            now += Duration::from_secs(wait - 1);
            assert!(!fetches.begin(model(1), now));
            now += Duration::from_secs(1);
        }
        assert!(fetches.begin(model(1), now));
        // A host without room cannot keep others from being asked for long.
        let busy = Refusal {
            retry_after_ms: Some(u64::MAX),
            ..Refusal::new(Code::Busy, "later")
        };
        fetches.end(model(1), Err(FetchError::Refused(busy)), now);
        now += BUSY_MAX;
        assert!(fetches.begin(model(1), now));
        fetches.end(model(1), Ok(()), now);
        assert!(fetches.begin(model(1), now));
        fetches.end(model(1), Err(FetchError::Useless("no".to_owned())), now);
        assert!(!fetches.begin(model(1), now + RETRY_MAX - Duration::from_secs(1)));
        // A queue of strangers' models is bounded.
        let begun = (2..100).filter(|n| fetches.begin(model(*n), now)).count();
        assert_eq!(begun, WAITING);
    }
}
