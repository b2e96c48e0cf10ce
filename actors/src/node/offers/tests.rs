//! Offers behind an engine that breaks, with ears in place of the machines.

use super::*;
use crate::ports::compute::tests::{changed_file, large_file};
use crate::shell::tests::{Heard, with};
use kernels::{Model, OpenOptions};
use protocol::ids::{Digest, LightningId, NodeKey, OrderId};
use protocol::message::discovery::Input as Listed;
use protocol::message::inference::Input as Sold;
use protocol::money::{Msat, Prices};
use protocol::time::WallTime;
use protocol::wire::envelope::Network;
use protocol::wire::manifest::{ModelOffer, Role};

fn served(model: &Model) -> Served {
    let info = model.info();
    Served {
        offer: ModelOffer {
            name: info.name.clone(),
            digest: ModelDigest(model.digest()),
            tokenizer: Digest(info.tokenizer_digest),
            template: Digest(info.template_digest),
            architecture: info.architecture.clone(),
            quantisation: info.quantisation.clone(),
            context: info.context,
            numerics: info.numerics.clone(),
            prices: Prices::chat(1, 10),
        },
        limits: HostLimits {
            concurrent_orders: 2,
            queued_orders: 4,
            prompt_tokens: 512,
            output_tokens: 512,
        },
    }
}

fn listing() -> Manifest {
    Manifest {
        network: Network::Regtest,
        node: NodeKey([1; 32]),
        lightning: LightningId([2; 33]),
        lightning_proof: String::new(),
        roles: vec![Role::Host],
        software: String::new(),
        bands: Vec::new(),
        models: Vec::new(),
        limits: NO_LIMITS,
        payment_modes: Vec::new(),
        quantum: Msat(1_000),
        keep_days: 90,
        addresses: Vec::new(),
        created: WallTime(0),
        expires: WallTime(0),
        extensions: Vec::new(),
    }
}

/// What was told since the last time: models that are sold, and those that are listed. `None` in
/// place of either where nothing was told of it, an empty list where the listing was withdrawn.
type Told = (Option<Vec<ModelDigest>>, Option<Vec<ModelDigest>>);

fn told(heard: &mut Heard) -> Told {
    let sold = heard.inference.try_recv().ok().map(|input| match input {
        Sold::Serve(models) => models.iter().map(|model| model.offer.digest).collect(),
        other => panic!("{other:?}"),
    });
    let listed = heard.discovery.try_recv().ok().map(|input| match input {
        Listed::Announce(manifest) => manifest.models.iter().map(|offer| offer.digest).collect(),
        Listed::Withdraw => Vec::new(),
        other => panic!("{other:?}"),
    });
    (sold, listed)
}

fn both(models: &[ModelDigest]) -> Told {
    (Some(models.to_vec()), Some(models.to_vec()))
}

#[cfg(unix)]
#[test]
fn a_model_whose_engine_broke_is_neither_sold_nor_listed_until_it_is_added_anew() {
    with(|mut heard| async move {
        let dir = tempfile::tempdir().unwrap();
        let path = large_file(dir.path());
        let options = OpenOptions {
            at_once: true,
            ..OpenOptions::default()
        };
        let large = || Model::open(&path, &options).unwrap();
        let small = Model::from_bytes(kernels::pocket::pocket(), &options).unwrap();
        let compute = Compute::new();
        let (whole, other) = (large(), served(&small));
        let (first, second) = (served(&whole), other.offer.digest);
        let broken = first.offer.digest;
        compute.add(whole);
        compute.add(small);

        let offer = |models: Vec<Served>| {
            let (shared, compute) = (heard.shared.clone(), compute.clone());
            Offers::new(shared, compute, models, true, Some(listing()))
        };
        let (all, alone) = (offer(vec![first.clone(), other]), offer(vec![first]));
        all.tell().await;
        assert_eq!(told(&mut heard), both(&[broken, second]));
        all.look().await;
        assert_eq!(told(&mut heard), (None, None));

        // The same model, whose engine ends with its first step.
        assert_eq!(compute.add(changed_file(&path)), broken);
        let mut job = crate::ports::compute::tests::job("", 1);
        job.work = protocol::work::Work::Complete {
            prompt: "x".to_owned(),
        };
        let mut output = compute.start(OrderId([1; 16]), &broken, job, u64::MAX);
        while output.recv().await.is_some() {}
        assert!(compute.broken(&broken).is_some());
        all.look().await;
        assert_eq!(told(&mut heard), both(&[second]));
        all.look().await;
        assert_eq!(told(&mut heard), (None, None));
        alone.look().await;
        assert_eq!(told(&mut heard), both(&[]));

        compute.add(large());
        all.look().await;
        assert_eq!(told(&mut heard), both(&[broken, second]));
        alone.look().await;
        assert_eq!(told(&mut heard), both(&[broken]));

        // Behind the withdrawal at the node's end nothing is offered again.
        alone.withdraw().await;
        assert_eq!(told(&mut heard), (None, Some(Vec::new())));
        compute.add(changed_file(&path));
        alone.look().await;
        assert_eq!(told(&mut heard), (None, None));
    });
}

#[test]
fn whoever_looks_after_engines_leaves_with_the_listing() {
    with(|heard| async move {
        let listing = Some(listing());
        let offers = Offers::new(
            heard.shared.clone(),
            Compute::new(),
            Vec::new(),
            true,
            listing,
        );
        let attending = tokio::spawn(offers.attend());
        offers.withdraw().await;
        attending.await.unwrap();
        // And with a node that nobody stopped.
        let attending = tokio::spawn(offers.attend());
        drop(offers);
        attending.await.unwrap();
    });
}

#[test]
fn a_listing_shows_what_the_largest_of_its_models_takes_whatever_their_order() {
    let limits = |tokens| HostLimits {
        concurrent_orders: 4,
        queued_orders: 8,
        prompt_tokens: tokens,
        output_tokens: tokens,
    };
    for models in [[1_024, 4_096], [4_096, 1_024]] {
        assert_eq!(listed_limits(models.map(limits).into_iter()), limits(4_096));
    }
}
