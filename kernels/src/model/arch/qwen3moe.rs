//! `qwen3moe`: qwen3 with experts. The weights of the chosen are their softmax over
//! all experts, made to sum to one again: the softmax over the chosen.

use super::super::graph::Graph;
use super::super::loader::{self, Loader};
use super::{LoadError, RMS_EPSILON, Sizes, experts, qwen3};
use crate::ops::norm::Activation;

pub(super) fn build(l: &Loader<'_>) -> Result<Graph, LoadError> {
    let sizes = Sizes::read(l, RMS_EPSILON)?;
    let inner = match l.has("expert_feed_forward_length") {
        true => l.size("expert_feed_forward_length", loader::WIDTH)?,
        false => {
            let all = l.size("feed_forward_length", loader::WIDTH)?;
            let used = l.size("expert_used_count", loader::EXPERTS)?;
            l.within(
                "expert_feed_forward_length",
                (all / used) as u64,
                loader::WIDTH,
            )?
        }
    };
    qwen3::with(l, &sizes, |i| {
        experts(l, i, sizes.width, inner, Activation::Silu)
    })
}
