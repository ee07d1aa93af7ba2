//! Backpropagation with activation checkpointing (Chen et al. 2016): keeps each layer's input only.
//!
//! A plain backward pass needs all activations of a layer: some thirty times its input, and the attention weights. Here
//! the backward pass recomputes each layer, from the last to the first, at the cost of a second forward pass.

use super::{Adapters, Exact, NormId, UnfusedKernels, block};
use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};

/// The loss of a batch, and the gradients of all trained variables.
///
/// `loss` maps the rows after the last norm to a scalar.
pub fn backprop<'a>(
    exact: &mut Exact<'a>,
    loss: impl FnOnce(&mut Exact<'a>, &Tensor) -> Result<Tensor>,
) -> Result<(Tensor, GradStore)> {
    let trained = trained(exact)?;
    let mut gradients = GradStore::default();
    let embedded = exact.embedding()?;
    let mut inputs = vec![embedded.detach()];
    for layer in 0..exact.config().layers {
        let rows = block(exact.config(), exact, layer, inputs[layer].clone())?;
        inputs.push(rows.detach());
    }

    let rows = input(&mut inputs)?;
    let normed = exact.rms_norm(&rows, NormId::Last)?;
    let loss = loss(exact, &normed)?;
    let mut upstream = collect(&loss, &rows, &trained, &mut gradients)?;
    for layer in (0..exact.config().layers).rev() {
        let rows = input(&mut inputs)?;
        let out = block(exact.config(), exact, layer, rows.as_tensor().clone())?;
        upstream = collect(&weighed(&out, &upstream)?, &rows, &trained, &mut gradients)?;
    }
    if embedded.track_op() {
        keep(weighed(&embedded, &upstream)?.backward()?, &trained, &mut gradients)?;
    }
    Ok((loss.detach(), gradients))
}

/// The trained variables.
fn trained(exact: &Exact<'_>) -> Result<Vec<Var>> {
    let mut trained = exact.parameters().variables()?;
    trained.extend(exact.adapters().map_or(Ok(Vec::new()), Adapters::variables)?);
    Ok(trained)
}

/// Pops the input of the last layer that is left.
fn input(inputs: &mut Vec<Tensor>) -> Result<Var> {
    Var::from_tensor(&inputs.pop().expect("each layer's input was stored"))
}

/// A number whose gradient with respect to `out` is `upstream`.
fn weighed(out: &Tensor, upstream: &Tensor) -> Result<Tensor> {
    (out * upstream)?.sum_all()
}

/// Adds the gradients of the trained variables, and gives the gradient of the layer's input.
fn collect(out: &Tensor, rows: &Var, trained: &[Var], gradients: &mut GradStore) -> Result<Tensor> {
    let mut found = out.backward()?;
    let upstream = found.remove(rows).map_or_else(|| rows.zeros_like(), Ok)?;
    keep(found, trained, gradients)?;
    Ok(upstream.detach())
}

fn keep(mut found: GradStore, trained: &[Var], gradients: &mut GradStore) -> Result<()> {
    for variable in trained {
        let Some(more) = found.remove(variable) else { continue };
        let sum = match gradients.get(variable) {
            Some(sum) => (sum + more)?.detach(),
            None => more,
        };
        gradients.insert(variable, sum);
    }
    Ok(())
}
