//! Every kernel under emulation against the operations of the CPU, bit for bit; and
//! the same on a GPU, where there is one.

mod linear;
mod runtime;
mod sample;

use super::backend::{Backend, Buffer, Launch};
use super::emulated::Emulated;
use super::{CudaError, DeviceCache, DeviceModel, Driver};
use crate::gguf::write::Encoding;
use crate::gguf::{Gguf, TensorType};
use crate::model::{DeviceChoice, LoadError, Model, OpenOptions, Placement, Row, Scratch, zoo};
use crate::runtime::Cache;
use crate::synthetic::{Shape, qwen3};
use std::sync::Arc;

/// (sequence, number of tokens) of the rows of one batch.
type Batch = &'static [(usize, usize)];

/// A prompt, its continuation across a page, single tokens, two more sequences, many, and
/// the same again, whose launches are kept.
const BATCHES: &[Batch] = &[
    &[(0, 30)],
    &[(0, 37)],
    &[(0, 1)],
    &[(0, 1), (1, 70), (2, 3)],
    &[(0, 1), (1, 1), (2, 1)],
    &[(0, 1), (1, 1), (2, 1)],
];

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn cpu(bytes: Vec<u8>) -> Model {
    let options = OpenOptions {
        threads: 1,
        ..OpenOptions::default()
    };
    Model::from_bytes(bytes, &options).unwrap()
}

fn file(model: &Model) -> Arc<Gguf> {
    model.0.backing.file().unwrap()
}

fn upload(model: &Model, device: &Arc<dyn Backend>) -> DeviceModel {
    DeviceModel::upload(device, &file(model), &model.0.graph, Some(128 << 20)).unwrap()
}

/// The rows of a batch, given the tokens of each sequence so far.
fn rows(batch: Batch, done: &mut [usize]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (sequence, n) in batch {
        let from = done[*sequence];
        done[*sequence] += n;
        rows.extend((from..from + n).map(|i| Row {
            sequence: *sequence,
            position: i as u32,
            token: ((i * 57 + sequence * 31 + 11) % 256) as u32,
        }));
    }
    rows
}

/// Residual stream and logits of every batch, here and there.
fn check_model(bytes: Vec<u8>, device: &Arc<dyn Backend>) {
    let model = cpu(bytes);
    let inner = &model.0;
    let there = upload(&model, device);
    let mut work = there.work().unwrap();
    let mut caches = [(); 3].map(|()| Cache::default());
    let mut pages = [(); 3].map(|()| DeviceCache::default());
    let (mut done, mut here) = ([0; 3], Scratch::default());
    for batch in BATCHES {
        let rows = rows(batch, &mut done);
        for (cache, positions) in caches.iter_mut().zip(done) {
            cache.reserve(&inner.graph, positions);
        }
        inner.forward(&rows, &mut caches.each_mut(), &mut here);
        inner.logits(0, rows.len(), &mut here);
        let mut x = vec![0.0; rows.len() * inner.graph.width];
        for (row, x) in rows.iter().zip(x.chunks_exact_mut(inner.graph.width)) {
            inner.embed_token(row, x);
        }
        there
            .forward(&inner.graph, &rows, &mut pages.each_mut(), &x, &mut work)
            .unwrap();
        assert!(work.computed.iter().all(|finite| *finite));
        work.x.read(0..x.len(), &mut x).unwrap();
        assert!(bits(&x) == bits(&here.x), "residual stream of {batch:?}");
        let mut logits = vec![0.0; here.logits.len()];
        let all: Vec<usize> = (0..rows.len()).collect();
        there.logits(&inner.graph, &all, None, &mut work).unwrap();
        work.logits.read(0..logits.len(), &mut logits).unwrap();
        assert!(bits(&logits) == bits(&here.logits), "logits of {batch:?}");
    }
}

/// Every architecture, some of them in f32; and f16 with ragged sizes.
fn models() -> Vec<(String, Vec<u8>)> {
    let untied = Shape {
        tied: false,
        heads: 6,
        kv_heads: 3,
        vocab: 300,
        ..Shape::tiny()
    };
    let mut models = vec![("f16".to_owned(), qwen3(&untied, TensorType::F16, 4))];
    let capped = zoo::write("gemma3-capped", Encoding::F32, 3);
    models.push(("gemma3-capped in f32".to_owned(), capped));
    let mixed = zoo::write("gpt-oss", Encoding::F32, 4);
    models.push(("gpt-oss in f32".to_owned(), mixed));
    for kind in zoo::DECODERS.iter() {
        models.push(((*kind).to_owned(), zoo::write(kind, Encoding::Q8_0, 3)));
    }
    models
}

#[test]
fn every_architecture_has_the_same_bits_as_on_the_cpu() {
    for (order, (name, bytes)) in models().into_iter().enumerate() {
        println!("{name}");
        check_model(bytes, &Emulated::device(order as u32));
    }
}

/// What 64 threads leave, or what the emulation says.
fn emulated(kernel: &'static str, order: u32) -> Result<Vec<u32>, CudaError> {
    emulated_in(64, kernel, order)
}

/// The same in memory of so many words.
fn emulated_in(words: usize, kernel: &'static str, order: u32) -> Result<Vec<u32>, CudaError> {
    let device = Emulated::device(order);
    let out = Buffer::of(&device, &vec![u32::MAX; words])?;
    let launch = Launch {
        kernel,
        grid: [1, 1],
        threads: 64,
        shared: 0,
    };
    // SAFETY: the kernels of `emulated.cpp` for this test write 64 words.
    unsafe { device.launch(&launch, &[out.arg()]) }?;
    let mut found = vec![0; 64];
    out.read(0..64, &mut found)?;
    Ok(found)
}

#[test]
fn the_emulation_shows_a_missing_barrier_as_a_difference_between_orders() {
    let all = |kernel| [0, 1, 2, 3].map(|order| emulated(kernel, order).unwrap());
    let neighbours: Vec<u32> = (0..64).map(|i| (i + 1) % 64).collect();
    for found in all("emulation_waits") {
        assert_eq!(found, neighbours);
    }
    let wrong = all("emulation_does_not_wait");
    assert!(wrong.iter().all(|found| *found != neighbours));
    assert!(wrong[0] != wrong[1] && wrong[1] != wrong[2]);
    let error = emulated("emulation_parts_ways", 0).unwrap_err().to_string();
    assert!(error.contains("different barriers"), "{error}");
}

#[cfg(unix)]
#[test]
fn files_are_lost_beside_launches_that_leave_their_memory_and_each_hears_of_its_own() {
    use crate::gguf::Gguf;
    let path = std::env::temp_dir().join(format!("freehold-lost-{}", std::process::id()));
    let bytes = qwen3(&Shape::tiny(), TensorType::Q8_0, 3);
    let ended = std::sync::atomic::AtomicBool::new(false);
    let ended = &ended;
    std::thread::scope(|scope| {
        let launches = scope.spawn(move || {
            let mut launches = 0;
            while !ended.load(std::sync::atomic::Ordering::Relaxed) || launches < 100 {
                let error = emulated_in(4, "emulation_waits", 0)
                    .unwrap_err()
                    .to_string();
                assert!(error.contains("outside its memory"), "{error}");
                assert!(emulated("emulation_waits", 1).is_ok());
                launches += 1;
            }
        });
        for _ in 0..100 {
            std::fs::write(&path, &bytes).unwrap();
            let file = Gguf::open(&path).unwrap();
            let shorter = std::fs::File::options().write(true).open(&path).unwrap();
            shorter.set_len(100).unwrap();
            let last = file.file().len() - 1;
            assert_eq!(file.file()[last], 0);
        }
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
        launches.join().unwrap();
    });
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn no_order_of_threads_and_blocks_changes_a_bit_of_a_model() {
    // The others run in an order each.
    for order in [0, 1, 2] {
        check_model(
            zoo::write("gpt-oss", Encoding::Q8_0, 5),
            &Emulated::device(order),
        );
    }
}

#[test]
fn what_no_kernel_computes_is_refused_by_name() {
    let device = Emulated::device(0);
    let refused = |kind| {
        let model = cpu(zoo::write(kind, Encoding::Q8_0, 3));
        let there = DeviceModel::upload(&device, &file(&model), &model.0.graph, None);
        there.err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert!(refused("bert").starts_with("embedding models do not run"));
}

#[test]
fn a_gpu_has_the_same_bits_as_the_cpu_where_there_is_one() {
    match Driver::open(0) {
        Ok(device) => {
            println!("on {}", device.name());
            for (name, bytes) in models() {
                println!("{name}");
                check_model(bytes, &device);
            }
            linear::check_types(&device);
            sample::check_sampling(&device);
            runtime::check_runtime(&device);
        }
        Err(error) => {
            println!("not run: {error}");
            assert!(error.to_string().contains("use --device cpu"), "{error}");
        }
    }
}

#[test]
fn listing_devices_never_panics_and_explains_an_empty_list() {
    let found = super::devices();
    assert_eq!(found.devices.is_empty(), found.reason.is_some());
}

#[test]
fn without_a_gpu_a_model_says_so_and_runs_on_the_cpu() {
    let open = |device| {
        let placement = Placement {
            device,
            memory: None,
        };
        let bytes = qwen3(&Shape::tiny(), TensorType::Q8_0, 1);
        Model::from_bytes_on(bytes, &OpenOptions::default(), &placement)
    };
    assert_eq!(open(DeviceChoice::Cpu).unwrap().device(), "cpu");
    let model = open(DeviceChoice::Auto).unwrap();
    match super::devices().reason {
        None => println!("not run: this machine has a GPU, {}", model.device()),
        Some(reason) => {
            let expected = CudaError::NoDevice { reason };
            assert_eq!(model.device(), "cpu");
            assert_eq!(model.fallback(), Some(&expected));
            let refused = open(DeviceChoice::Cuda(0)).unwrap_err();
            assert!(matches!(refused, LoadError::Device(e) if e == expected));
        }
    }
    assert!(open(DeviceChoice::Cuda(999)).is_err());
}

#[test]
fn devices_are_chosen_by_name() {
    assert_eq!("cpu".parse(), Ok(DeviceChoice::Cpu));
    assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
    assert_eq!("cuda:3".parse(), Ok(DeviceChoice::Cuda(3)));
    assert_eq!("auto".parse(), Ok(DeviceChoice::Auto));
    for wrong in ["", "gpu", "cuda:", "cuda:-1", "cuda:x"] {
        assert!(wrong.parse::<DeviceChoice>().is_err(), "{wrong:?}");
    }
}

#[test]
fn pages_are_lent_within_the_budget_and_come_back() {
    let model = cpu(qwen3(&Shape::tiny(), TensorType::Q8_0, 1));
    let device = Emulated::device(0);
    let graph = &model.0.graph;
    let tight = |bytes| DeviceModel::upload(&device, &file(&model), graph, Some(bytes));
    let page = graph.page_len() as u64 * 2;
    assert!(matches!(tight(page), Err(CudaError::Memory { .. })));
    let there = tight(300_000).unwrap();
    let pages = there.free_pages();
    assert!((1..6).contains(&pages), "{pages}");
    let mut cache = DeviceCache::default();
    let row = |position| Row {
        sequence: 0,
        position,
        token: 1,
    };
    let run = |cache: &mut DeviceCache, positions: std::ops::Range<u32>| {
        let rows: Vec<Row> = positions.map(row).collect();
        let x = vec![0.5; rows.len() * graph.width];
        there.forward(graph, &rows, &mut [cache], &x, &mut there.work()?)
    };
    run(&mut cache, 0..1).unwrap();
    assert_eq!(there.free_pages(), pages - 1);
    let shared = cache.clone();
    run(&mut cache, 1..64 * pages as u32).unwrap();
    assert_eq!(there.free_pages(), 0);
    let error = run(&mut cache, 64 * pages as u32..64 * pages as u32 + 1).unwrap_err();
    assert_eq!(error, CudaError::Pages { pages });
    drop(cache);
    assert_eq!(there.free_pages(), pages - 1);
    drop(shared);
    assert_eq!(there.free_pages(), pages);
}
