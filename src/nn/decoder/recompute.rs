//! Backpropagation that keeps one row per token and layer, and calculates the rest again.
//!
//! A plain pass keeps all that a layer calculated until the gradient comes back to it: some thirty
//! times what came into the layer, and the attention's shares besides. Here only what came in is
//! kept. On the way back a layer is calculated once more, from the last to the first, and forgotten
//! again, at the price of a second pass forward (Chen et al. 2016).

use super::{Adapters, Exact, NormId, UnfusedKernels, block};
use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};

/// The loss of a pass and the gradients of all that is trained.
///
/// `loss` says what the rows after the last norm are worth, as a single number.
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

/// What the pass trains.
fn trained(exact: &Exact<'_>) -> Result<Vec<Var>> {
    let mut trained = exact.parameters().variables()?;
    trained.extend(exact.adapters().map_or(Ok(Vec::new()), Adapters::variables)?);
    Ok(trained)
}

/// The kept input of the last layer that is not done yet.
fn input(inputs: &mut Vec<Tensor>) -> Result<Var> {
    Var::from_tensor(&inputs.pop().expect("each layer's input was kept"))
}

/// A number whose gradient with respect to `out` is `upstream`.
fn weighed(out: &Tensor, upstream: &Tensor) -> Result<Tensor> {
    (out * upstream)?.sum_all()
}

/// Adds the gradients of what is trained, and gives that of the rows that came in.
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
