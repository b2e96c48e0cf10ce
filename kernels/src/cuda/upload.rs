//! From a graph to weights on a device, and what of a graph no kernel computes yet.

use super::CudaError;
use super::backend::{Backend, Buffer, SHARED_BYTES};
use super::linear::{Stack, Tensor};
use super::pack;
use super::steps::{self, HeadWeights};
use crate::gguf::Gguf;
use crate::model::Graph;
use crate::model::graph::{Attention, Experts, FeedForward, Head, Layer, Linear, Mlp, Norm, Norms};
use crate::ops::norm::Activation;
use std::sync::Arc;

/// One layer.
pub(crate) struct DeviceLayer {
    pub attention: DeviceAttention,
    pub feed_forward: DeviceFeedForward,
}

/// The feed-forward part of a layer.
pub(crate) enum DeviceFeedForward {
    Dense(DeviceMlp),
    Experts(DeviceExperts),
}

/// Norms around a part.
pub(crate) struct DeviceNorms {
    pub before: Buffer<f32>,
    pub after: Option<Buffer<f32>>,
}

/// An attention.
pub(crate) struct DeviceAttention {
    pub norms: DeviceNorms,
    /// Queries, keys, values.
    pub qkv: Stack,
    pub heads: HeadWeights,
    pub output: Stack,
}

/// A feed-forward network.
pub(crate) struct DeviceMlp {
    pub norms: DeviceNorms,
    /// Gate, then up.
    pub gate_up: Stack,
    pub activation: Activation,
    pub down: Stack,
}

/// A mixture of experts; matrices of all experts in one stack.
pub(crate) struct DeviceExperts {
    pub norms: DeviceNorms,
    pub router: Stack,
    pub gate_up: Stack,
    pub activation: Activation,
    pub down: Stack,
    /// Experts, and how many of them a row takes.
    pub count: usize,
    pub used: usize,
    pub scale: Option<f32>,
}

/// What makes logits.
pub(crate) struct Output {
    pub norm: Buffer<f32>,
    pub stack: Stack,
    pub cap: Option<f32>,
}

/// Refuse what no kernel computes, by name.
pub(crate) fn check(g: &Graph) -> Result<(), CudaError> {
    head(g)?;
    size("the embedding width", g.width, SHARED_BYTES / 4)?;
    for layer in &g.layers {
        let shape = &layer.attention.shape;
        size("the head width", shape.head_dim, 1024)?;
        let group = shape.heads / shape.kv_heads * shape.head_dim;
        size(
            "the width of heads that share keys",
            group,
            SHARED_BYTES / 4,
        )?;
        for norms in [&layer.attention_norms, &layer.feed_forward_norms] {
            before(norms)?;
            norms.after.as_ref().map_or(Ok(&[][..]), rms)?;
            require(norms.sum.is_none(), "norms of sums")?;
        }
        match &layer.feed_forward {
            FeedForward::Dense(mlp) => drop(gate(mlp)?),
            FeedForward::Experts(e) => experts_fit(e)?,
        }
    }
    Ok(())
}

/// Whether a mixture is one that the kernels compute.
fn experts_fit(e: &Experts) -> Result<(), CudaError> {
    size(
        "the number of experts",
        e.experts.len(),
        steps::MOST_EXPERTS,
    )?;
    size("the number of experts per token", e.used, steps::MOST_USED)?;
    for mlp in &e.experts {
        let whole = |l: &Linear| l.matrix.rows.is_multiple_of(pack::ROWS);
        let all = [gate(mlp)?, &mlp.up, &mlp.down];
        require(
            all.into_iter().all(whole),
            "experts of a width that sixteen does not divide",
        )?;
    }
    Ok(())
}

/// Bytes that the matrices of a graph take here.
pub(crate) fn bytes(file: &Gguf, g: &Graph) -> u64 {
    let of_layer = |l: &Layer| {
        let a = &l.attention;
        let mut all: Vec<u64> = [&a.query, &a.key, &a.value, &a.output]
            .map(|l| linear_bytes(file, l))
            .to_vec();
        let mlps = match &l.feed_forward {
            FeedForward::Dense(mlp) => std::slice::from_ref(mlp),
            FeedForward::Experts(e) => {
                all.push(linear_bytes(file, &e.router));
                &e.experts
            }
        };
        for mlp in mlps {
            let layers = mlp.gate.iter().chain([&mlp.up, &mlp.down]);
            all.extend(layers.map(|l| linear_bytes(file, l)));
        }
        all.iter().sum::<u64>()
    };
    let output = match &g.head {
        Head::Logits { output, .. } => matrix_bytes(file, output),
        Head::Pooled(_) => 0,
    };
    g.layers.iter().map(of_layer).sum::<u64>() + output
}

/// Upload one layer of a graph that [`check`] lets through.
pub(crate) fn layer(
    device: &Arc<dyn Backend>,
    file: &Gguf,
    l: &Layer,
) -> Result<DeviceLayer, CudaError> {
    let a = &l.attention;
    Ok(DeviceLayer {
        attention: DeviceAttention {
            norms: norms(device, &l.attention_norms)?,
            qkv: stack(device, file, &[&a.query, &a.key, &a.value])?,
            heads: heads(device, a)?,
            output: stack(device, file, &[&a.output])?,
        },
        feed_forward: match &l.feed_forward {
            FeedForward::Dense(m) => DeviceFeedForward::Dense(DeviceMlp {
                norms: norms(device, &l.feed_forward_norms)?,
                gate_up: stack(device, file, &[gate(m)?, &m.up])?,
                activation: m.activation,
                down: stack(device, file, &[&m.down])?,
            }),
            FeedForward::Experts(e) => {
                let norms = norms(device, &l.feed_forward_norms)?;
                DeviceFeedForward::Experts(experts(device, file, norms, e)?)
            }
        },
    })
}

fn experts(
    device: &Arc<dyn Backend>,
    file: &Gguf,
    norms: DeviceNorms,
    e: &Experts,
) -> Result<DeviceExperts, CudaError> {
    let of = |pick: fn(&Mlp) -> Option<&Linear>| {
        let each = e.experts.iter().filter_map(pick);
        each.map(|l| tensor(file, &l.matrix, l.bias.as_deref()))
            .collect::<Result<Vec<_>, _>>()
    };
    let first = &e.experts[0];
    let (gates, ups, downs) = (
        of(|m| m.gate.as_ref())?,
        of(|m| Some(&m.up))?,
        of(|m| Some(&m.down))?,
    );
    Ok(DeviceExperts {
        norms,
        router: stack(device, file, &[&e.router])?,
        gate_up: Stack::upload_experts(device, first.up.matrix.k, &[gates, ups])?,
        activation: first.activation,
        down: Stack::upload_experts(device, first.down.matrix.k, &[downs])?,
        count: e.experts.len(),
        used: e.used,
        scale: e.scale,
    })
}

/// Upload the head of a graph that [`check`] lets through.
pub(crate) fn output(
    device: &Arc<dyn Backend>,
    file: &Gguf,
    g: &Graph,
) -> Result<Output, CudaError> {
    let (norm, matrix, cap) = head(g)?;
    let tensor = tensor(file, matrix, None)?;
    Ok(Output {
        norm: Buffer::of(device, norm)?,
        stack: Stack::upload(device, g.width, &[tensor])?,
        cap,
    })
}

fn require(good: bool, part: &'static str) -> Result<(), CudaError> {
    match good {
        true => Ok(()),
        false => Err(CudaError::Part { part }),
    }
}

fn size(what: &'static str, size: usize, most: usize) -> Result<(), CudaError> {
    match size <= most {
        true => Ok(()),
        false => Err(CudaError::Size { what, size, most }),
    }
}

fn head(g: &Graph) -> Result<(&[f32], &crate::ops::weights::Matrix, Option<f32>), CudaError> {
    match &g.head {
        Head::Logits { norm, output, cap } => Ok((rms(norm)?, output, *cap)),
        Head::Pooled(_) => Err(CudaError::Part {
            part: "embedding models",
        }),
    }
}

fn rms(norm: &Norm) -> Result<&[f32], CudaError> {
    match norm {
        Norm::Rms(weight) => Ok(weight),
        Norm::Layer { .. } => Err(CudaError::Part {
            part: "norms by mean and variance",
        }),
    }
}

fn before(norms: &Norms) -> Result<&[f32], CudaError> {
    let norm = norms.before.as_ref().ok_or(CudaError::Part {
        part: "layers without a norm before them",
    })?;
    rms(norm)
}

fn gate(mlp: &Mlp) -> Result<&Linear, CudaError> {
    mlp.gate.as_ref().ok_or(CudaError::Part {
        part: "feed-forward parts without a gate",
    })
}

fn norms(device: &Arc<dyn Backend>, norms: &Norms) -> Result<DeviceNorms, CudaError> {
    let after = norms.after.as_ref().map(rms).transpose()?;
    Ok(DeviceNorms {
        before: Buffer::of(device, before(norms)?)?,
        after: after.map(|w| Buffer::of(device, w)).transpose()?,
    })
}

fn heads(device: &Arc<dyn Backend>, a: &Attention) -> Result<HeadWeights, CudaError> {
    let vector = |w: &Option<Vec<f32>>| w.as_ref().map(|w| Buffer::of(device, w)).transpose();
    Ok(HeadWeights {
        query_norm: vector(&a.query_norm)?,
        key_norm: vector(&a.key_norm)?,
        sinks: vector(&a.sinks)?,
    })
}

/// Linear layers that read the same rows.
fn stack(device: &Arc<dyn Backend>, file: &Gguf, layers: &[&Linear]) -> Result<Stack, CudaError> {
    let tensors = layers
        .iter()
        .map(|l| tensor(file, &l.matrix, l.bias.as_deref()))
        .collect::<Result<Vec<_>, _>>()?;
    Stack::upload(device, layers[0].matrix.k, &tensors)
}

/// The rows of the file that a matrix was made of.
fn tensor<'a>(
    file: &'a Gguf,
    matrix: &crate::ops::weights::Matrix,
    bias: Option<&'a [f32]>,
) -> Result<Tensor<'a>, CudaError> {
    let source = &matrix.source;
    let found = file
        .tensor(&source.tensor)
        .filter(|t| t.row_len() == matrix.k && source.from + matrix.rows <= t.rows());
    let tensor = found.ok_or_else(|| CudaError::Driver {
        operation: "packing weights",
        cause: format!("{:?} is not in the file as it was loaded", source.tensor),
    })?;
    let row = tensor.len / tensor.rows();
    Ok(Tensor {
        name: &tensor.name,
        ty: tensor.ty,
        bytes: &file.bytes(tensor)[source.from * row..(source.from + matrix.rows) * row],
        rows: matrix.rows,
        bias,
    })
}

fn linear_bytes(file: &Gguf, linear: &Linear) -> u64 {
    matrix_bytes(file, &linear.matrix)
}

fn matrix_bytes(file: &Gguf, matrix: &crate::ops::weights::Matrix) -> u64 {
    tensor(file, matrix, None).map_or(0, |t| pack::bytes(t.ty, matrix.k, t.rows))
}
