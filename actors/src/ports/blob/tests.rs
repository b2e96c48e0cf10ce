//! Hosts and readers over real sockets on loopback: honest, lying, silent and greedy ones.

use super::fetch::{FetchError, Limits, fetch};
use super::{Blobs, Bounds, Cache, Vocabularies};
use crate::ports::compute::{Compute, Output};
use crate::ports::network::{
    self, ApartStream, FramedStream, Identity, Network, NetworkEvent, NetworkHandle, Protocol,
    open_apart,
};
use kernels::gguf::Gguf;
use kernels::gguf::write::{Value, Writer};
use kernels::{Model, OpenOptions};
use protocol::ids::{Digest, ModelDigest, NodeKey, OrderId};
use protocol::message::inference::{InputCount, VocabularySource};
use protocol::refusal::{Code, Refusal};
use protocol::wire::blob::{self, BlobFrame, SliceRequest};
use protocol::wire::chain::ChainedToken;
use protocol::work::{ChatMessage, Job, Work};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Far above what anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn job(text: &str) -> Job {
    let message = ChatMessage {
        role: "user".to_owned(),
        content: text.to_owned(),
    };
    Job {
        work: Work::Chat {
            messages: vec![message],
        },
        max_output: 1,
        sampling: Default::default(),
        seed: 0,
        stop: Vec::new(),
        date: "2026-11-20".to_owned(),
        steering: Default::default(),
        prefix: Vec::new(),
        extensions: Vec::new(),
    }
}

/// A host that does with each stream what `serve` does.
struct Host {
    swarm: NetworkHandle,
    key: NodeKey,
    streams: Arc<AtomicUsize>,
}

impl Host {
    async fn start<F, S>(number: u8, serve: F) -> Self
    where
        F: Fn(FramedStream) -> S + Send + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        let config = network::Config::serving("regtest", listen);
        let identity = Identity::from_secret([number; 32]).unwrap();
        let (swarm, mut events) = Network::start(config, identity).await.unwrap();
        let streams = Arc::new(AtomicUsize::new(0));
        let count = streams.clone();
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                if let NetworkEvent::Stream(stream) = event {
                    count.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(serve(stream));
                }
            }
        });
        Host {
            key: swarm.node_key().unwrap(),
            swarm,
            streams,
        }
    }

    /// One that answers each request with a frame of its own making.
    async fn answering(number: u8, answer: fn(SliceRequest) -> BlobFrame) -> Self {
        Self::start(number, move |mut stream| async move {
            while let Ok(Some(bytes)) = stream.next().await {
                let Ok(BlobFrame::Get(request)) = BlobFrame::decode(&bytes) else {
                    return;
                };
                if stream.send(&answer(request).encode()).await.is_err() {
                    return;
                }
            }
        })
        .await
    }

    fn source(&self) -> VocabularySource {
        let addresses = self.swarm.local_addresses();
        VocabularySource {
            host: self.key,
            addresses: addresses.iter().map(ToString::to_string).collect(),
        }
    }

    async fn open(&self) -> ApartStream {
        let config = network::Config::client("regtest");
        let addresses = self.swarm.local_addresses();
        open_apart(&config, Protocol::Blob, addresses, PATIENCE)
            .await
            .unwrap()
    }
}

fn pocket() -> (Compute, ModelDigest) {
    let compute = Compute::new();
    let pocket = kernels::pocket::pocket().to_vec();
    let model = Model::from_bytes(pocket, &OpenOptions::default()).unwrap();
    let digest = compute.add(model);
    (compute, digest)
}

async fn honest(number: u8, bounds: Bounds) -> (Host, Compute, ModelDigest) {
    let (compute, model) = pocket();
    let blobs = Blobs::new(compute.clone(), [model].into(), bounds);
    let host = Host::start(number, move |stream| blobs.clone().serve(stream)).await;
    (host, compute, model)
}

fn buyer(cache: Cache) -> Vocabularies {
    let dial = network::Config::client("regtest");
    Vocabularies::new(Compute::new(), cache, dial)
}

fn kept_in(folder: &std::path::Path) -> Cache {
    Cache {
        folder: Some(folder.to_owned()),
        bytes: 16 << 20,
    }
}

fn tokens(count: InputCount) -> u64 {
    match count {
        InputCount::Counted(facts) => facts.tokens,
        other => panic!("not counted: {other:?}"),
    }
}

/// A file whose metadata fills several groups, and the slices of it.
fn long_file() -> Arc<Vec<u8>> {
    let mut writer = Writer::new("none");
    for n in 0..8 {
        let text = "x".repeat(128 << 10);
        writer.key(&format!("test.{n}"), Value::Text(text));
    }
    Arc::new(writer.finish())
}

fn slice_of(file: &[u8], request: &SliceRequest) -> BlobFrame {
    let (_, head) = Gguf::from_bytes(file).unwrap().digest_and_head();
    let Some((start, length)) = blob::extent(head.length, request.group) else {
        return BlobFrame::Refusal(Refusal::new(Code::BadOrder, "no such group"));
    };
    let (start, length) = (start as usize, length as usize);
    BlobFrame::Slice(Box::new(blob::Slice {
        parts: Vec::new(),
        length: head.length,
        bytes: file[start..start + length].to_vec(),
        path: blob::path(head.length, &head.leaves, request.group).unwrap(),
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_buyer_without_the_model_sees_which_token_stands_for_something_else() {
    let (host, compute, model) = honest(11, Bounds::default()).await;
    let vocabularies = buyer(Cache {
        folder: None,
        bytes: 64 << 20,
    });
    let produced = move |compute: Compute| {
        let job = Job {
            max_output: 32,
            ..job("What is a sat?")
        };
        let mut output = compute.start(OrderId([1; 16]), &model, job, 32);
        let mut tokens = Vec::new();
        while let Some(Output::Tokens { tokens: more, .. }) = output.blocking_recv() {
            tokens.extend(more);
        }
        assert!(tokens.len() > 2, "{} tokens", tokens.len());
        tokens
    };
    let other_words = compute.clone().with_other_words(true);
    let [tokens, others] =
        tokio::task::spawn_blocking(move || [produced(compute), produced(other_words)])
            .await
            .unwrap();
    let wrong = |tokens: &[ChainedToken]| vocabularies.wrong_piece(model, tokens.to_vec());
    assert_eq!(wrong(&others).await, None, "not here yet");
    vocabularies.fetch(model, vec![host.source()]).await;
    assert_eq!(wrong(&tokens).await, None);
    assert!(wrong(&others).await.is_some());
    let mut altered = tokens;
    altered[2].piece.bytes.push(b'!');
    assert_eq!(wrong(&altered).await, Some(2));
    altered[1].piece.control ^= true;
    assert_eq!(wrong(&altered).await, Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vocabulary_is_read_once_by_all_that_wait_for_it() {
    let (host, _, model) = honest(12, Bounds::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let first = buyer(kept_in(folder.path()));
    first.fetch(model, vec![host.source()]).await;
    let again = buyer(kept_in(folder.path()));
    let read = |_| {
        let again = again.clone();
        tokio::task::spawn_blocking(move || again.get(&model).unwrap())
    };
    let all = futures::future::try_join_all((0..32).map(read)).await;
    let all = all.unwrap();
    assert!(all.iter().all(|one| Arc::ptr_eq(one, &all[0])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_buyer_without_the_model_counts_as_its_host_does_also_after_a_restart() {
    let (host, compute, model) = honest(1, Bounds::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let job = job("What is a sat?");
    let vocabularies = buyer(kept_in(folder.path()));
    assert_eq!(vocabularies.count(&model, &job), InputCount::Absent);
    vocabularies.fetch(model, vec![host.source()]).await;
    let truth = compute.count(&model, &job, &[0; 16]).unwrap().tokens;
    assert_eq!(tokens(vocabularies.count(&model, &job)), truth);
    let again = buyer(kept_in(folder.path()));
    assert_eq!(tokens(again.count(&model, &job)), truth);
    assert_eq!(tokens(compute.count_own(&model, &job).unwrap()), truth);
    // Nothing else is given away: no weights, and no model that is not listed.
    let groups = compute.head(&model).unwrap().bytes.len() as u64 / blob::GROUP_BYTES;
    for (model, group, code) in [
        (model, groups, Code::BadOrder),
        (model, u64::MAX, Code::BadOrder),
        (ModelDigest([9; 32]), 0, Code::UnknownModel),
    ] {
        let ApartStream { mut stream, swarm } = host.open().await;
        let request = SliceRequest {
            model,
            part: 0,
            group,
        };
        stream
            .send(&BlobFrame::Get(request).encode())
            .await
            .unwrap();
        let answer = stream.next().await.unwrap().unwrap();
        match BlobFrame::decode(&answer).unwrap() {
            BlobFrame::Refusal(refusal) => assert_eq!(refusal.code, code),
            other => panic!("{other:?}"),
        }
        swarm.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_sends_what_is_not_the_models_is_not_asked_again() {
    let (host, _, model) = honest(2, Bounds::default()).await;
    let altered = Host::answering(3, |request| {
        let file = kernels::pocket::pocket();
        let BlobFrame::Slice(mut slice) = slice_of(file, &request) else {
            panic!("the first group is there");
        };
        slice.bytes[1_000] ^= 1;
        BlobFrame::Slice(slice)
    })
    .await;
    // A slice that is sound, of another model.
    let other = Host::answering(4, |_| {
        BlobFrame::Slice(Box::new(blob::Slice {
            parts: vec![Digest([7; 32])],
            length: 4,
            bytes: vec![7; 4],
            path: Vec::new(),
        }))
    })
    .await;
    let vocabularies = buyer(Cache {
        folder: None,
        bytes: 1,
    });
    let hosts = vec![altered.source(), other.source()];
    vocabularies.fetch(model, hosts).await;
    let job = job("What is a sat?");
    assert_eq!(vocabularies.count(&model, &job), InputCount::Absent);
    vocabularies.forget_failures();
    let hosts = vec![altered.source(), other.source(), host.source()];
    vocabularies.fetch(model, hosts).await;
    tokens(vocabularies.count(&model, &job));
    for liar in [&altered, &other] {
        assert_eq!(liar.streams.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_slow_and_endless_hosts_are_given_up_within_their_bounds() {
    let file = long_file();
    let model = ModelDigest(blake3::hash(&file).into());
    let honest = {
        let file = file.clone();
        move |pause: Duration| {
            let file = file.clone();
            move |mut stream: FramedStream| {
                let file = file.clone();
                async move {
                    while let Ok(Some(bytes)) = stream.next().await {
                        let Ok(BlobFrame::Get(request)) = BlobFrame::decode(&bytes) else {
                            return;
                        };
                        tokio::time::sleep(pause).await;
                        let frame = slice_of(&file, &request).encode();
                        if stream.send(&frame).await.is_err() {
                            return;
                        }
                    }
                }
            }
        }
    };
    let limits = Limits::default();
    let read = async |host: &Host, limits: Limits| {
        let ApartStream { mut stream, swarm } = host.open().await;
        let read = fetch(&mut stream, model, limits).await;
        swarm.shutdown().await;
        read
    };
    let quick = Host::start(5, honest(Duration::ZERO)).await;
    let head = read(&quick, limits).await.unwrap();
    assert!(Gguf::from_head(head.clone()).is_ok() && head[..] == file[..head.len()]);
    // What goes on beyond the bound of bytes.
    let most = 512 << 10;
    let endless = read(&quick, Limits { most, ..limits }).await;
    assert!(
        matches!(endless, Err(FetchError::Useless(_))),
        "{endless:?}"
    );
    // Each slice in time, and never an end of it.
    let slow = Host::start(6, honest(Duration::from_millis(200))).await;
    let whole = Duration::from_millis(300);
    let late = read(&slow, Limits { whole, ..limits }).await;
    assert!(matches!(late, Err(FetchError::Lost(_))), "{late:?}");
    let silent = Host::start(7, |stream| async move {
        tokio::time::sleep(PATIENCE).await;
        drop(stream);
    })
    .await;
    let slice = Duration::from_millis(100);
    let nothing = read(&silent, Limits { slice, ..limits }).await;
    assert!(matches!(nothing, Err(FetchError::Lost(_))), "{nothing:?}");
}

/// Asks for the first group until it is refused; returns the bytes that came, and the refusal.
async fn drain(host: &Host, model: ModelDigest) -> (u64, Refusal) {
    let ApartStream { mut stream, swarm } = host.open().await;
    let mut came = 0;
    let request = SliceRequest {
        model,
        part: 0,
        group: 0,
    };
    let refusal = loop {
        stream
            .send(&BlobFrame::Get(request).encode())
            .await
            .unwrap();
        let answer = stream.next().await.unwrap().unwrap();
        match BlobFrame::decode(&answer).unwrap() {
            BlobFrame::Slice(slice) => came += slice.bytes.len() as u64,
            BlobFrame::Refusal(refusal) => break refusal,
            BlobFrame::Get(_) => panic!("a question"),
        }
    };
    swarm.shutdown().await;
    (came, refusal)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_get_the_hours_bytes_and_no_more_however_many_they_are() {
    let group = blob::GROUP_BYTES;
    let bounds = Bounds {
        peer: 3 * group,
        all: 8 * group,
        ..Bounds::default()
    };
    let (host, _, model) = honest(8, bounds).await;
    let mut all = 0;
    for peer in 0..50 {
        let (came, refusal) = drain(&host, model).await;
        assert_eq!(refusal.code, Code::TooManyUnpaid);
        assert!(refusal.retry_after_ms.is_some_and(|ms| ms > 3_000_000));
        match peer {
            0 => assert_eq!(came, 3 * group, "one peer"),
            _ => assert!(came <= 3 * group),
        }
        all += came;
    }
    assert_eq!(all, 8 * group, "all together");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_are_few_at_once_and_end() {
    let bounds = Bounds {
        transfers: 1,
        ..Bounds::default()
    };
    let (host, _, model) = honest(9, bounds).await;
    let first = hold(&host, model).await;
    let (came, refusal) = drain(&host, model).await;
    assert_eq!((came, refusal.code), (0, Code::Busy));
    first.swarm.shutdown().await;
    // Whoever holds a place loses it.
    let life = Duration::from_millis(500);
    let (host, _, model) = honest(10, Bounds { life, ..bounds }).await;
    let mut held = hold(&host, model).await;
    let ended = tokio::time::timeout(PATIENCE, held.stream.next()).await;
    assert!(!matches!(ended, Ok(Ok(Some(_))) | Err(_)), "{ended:?}");
    held.swarm.shutdown().await;
}

/// Asks for one group and keeps the stream.
async fn hold(host: &Host, model: ModelDigest) -> ApartStream {
    let mut apart = host.open().await;
    let request = SliceRequest {
        model,
        part: 0,
        group: 0,
    };
    let frame = BlobFrame::Get(request).encode();
    apart.stream.send(&frame).await.unwrap();
    // Where its time is over before that, nothing comes.
    let _ = apart.stream.next().await;
    apart
}
