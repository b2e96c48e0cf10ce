//! `mistral3`: Ministral 3, Mistral Small and Medium of 2025-26. As `llama`, usually
//! with YaRN, and with queries that grow with the logarithm of their position.

use super::super::graph::{Graph, Temperature};
use super::super::loader::Loader;
use super::{LoadError, RMS_EPSILON, Sizes, llama, original_context};

pub(super) fn build(l: &Loader<'_>) -> Result<Graph, LoadError> {
    let mut graph = llama::build(l)?;
    if let Some(scale) = l.optional("attention.temperature_scale")? {
        let every = original_context(l, &Sizes::read(l, RMS_EPSILON)?)?;
        for layer in &mut graph.layers {
            layer.attention.shape.temperature = Some(Temperature { scale, every });
        }
    }
    Ok(graph)
}
