//! Low-rank adapters (LoRA, Hu et al. 2021): a small trained product beside a frozen matrix.

use super::{DecoderConfig, LinearId, Parameters};
use crate::nn::ops::linear;
use crate::regular_file::{self, DATA_BYTES_MAX, Links, SETTINGS_BYTES_MAX};
use candle_core::{DType, Device, Error, Result, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Uniform};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

/// Highest rank of an adapter.
pub const RANK_MAX: usize = 1024;
/// PEFT's prefix of a weight's name.
const PREFIX: &str = "base_model.model.";
/// The tensors of a folder of adapters.
const WEIGHTS: &str = "adapter_model.safetensors";
/// PEFT's configuration file.
const DESCRIPTION: &str = "adapter_config.json";

/// The hyperparameters of adapters.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// The rank `r` of the update.
    pub rank: usize,
    /// The update is scaled by `alpha / rank`.
    pub alpha: f64,
    /// Dropout probability of the adapter's inputs in training.
    pub dropout: f32,
}

/// Adapters on some of a decoder's matrices: each adds `alpha / rank · B A rows`.
#[derive(Clone, Debug)]
pub struct Adapters {
    plan: LoraConfig,
    pairs: BTreeMap<String, LoraPair>,
    /// The dropout seed, in training.
    dropout_seed: Option<u64>,
}

/// `(rank, inputs)` and `(outputs, rank)`.
#[derive(Clone, Debug)]
struct LoraPair {
    down: Tensor,
    up: Tensor,
}

/// PEFT's `adapter_config.json`: the fields that are written, and those that are checked when read.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    peft_type: String,
    task_type: Option<String>,
    base_model_name_or_path: Option<String>,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: f32,
    #[serde(default)]
    target_modules: serde_json::Value,
    #[serde(default = "none")]
    bias: String,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    modules_to_save: Option<Vec<String>>,
    #[serde(default)]
    rank_pattern: BTreeMap<String, usize>,
    #[serde(default)]
    alpha_pattern: BTreeMap<String, f64>,
}

fn none() -> String {
    "none".into()
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { rank: 8, alpha: 16.0, dropout: 0.0 }
    }
}

// === impl Adapters ===

impl Adapters {
    /// New adapters on `matrices` with an update of zero: A is initialised as by Kaiming et al., and B is zero.
    pub fn new(
        config: &DecoderConfig,
        plan: LoraConfig,
        matrices: impl IntoIterator<Item = LinearId>,
        random: &mut impl Rng,
        device: &Device,
    ) -> Result<Self> {
        plan.check()?;
        let mut pairs = BTreeMap::new();
        for matrix in matrices {
            let (outputs, inputs) = matrix.dims(config);
            let bound = 1.0 / (inputs as f32).sqrt();
            let drawn = Uniform::new_inclusive(-bound, bound).map_err(Error::wrap)?;
            let down: Vec<f32> = drawn.sample_iter(&mut *random).take(plan.rank * inputs).collect();
            let down = Tensor::from_vec(down, (plan.rank, inputs), device)?;
            let up = Tensor::zeros((outputs, plan.rank), DType::F32, device)?;
            pairs.insert(matrix.name(), LoraPair::trained(&down, &up)?);
        }
        Ok(Self { plan, pairs, dropout_seed: None })
    }

    /// Their hyperparameters.
    pub fn plan(&self) -> &LoraConfig {
        &self.plan
    }

    /// Switches dropout on with a seed, or off. The same seed drops the same inputs, so that a recomputed layer gives
    /// the same output.
    pub fn drop_out(&mut self, seed: Option<u64>) {
        self.dropout_seed = seed;
    }

    /// The trained variables, for an optimiser.
    pub fn variables(&self) -> Result<Vec<Var>> {
        self.pairs.values().flat_map(|pair| [&pair.down, &pair.up]).map(Var::from_tensor).collect()
    }

    /// The adapters' tensors under the names that PEFT gives them.
    pub fn tensors(&self) -> impl Iterator<Item = (String, &Tensor)> {
        self.pairs.iter().flat_map(|(name, pair)| {
            let [down, up] = peft_names(name);
            [(down, &pair.down), (up, &pair.up)]
        })
    }

    /// A and B of a matrix's adapter, if it has one: `(rank, inputs)` and `(outputs, rank)`.
    pub fn pair(&self, matrix: LinearId) -> Option<[&Tensor; 2]> {
        self.pairs.get(&matrix.name()).map(|LoraPair { down, up }| [down, up])
    }

    /// The update that a matrix's adapter, if it has one, adds to the output for `(rows, inputs)`.
    pub(super) fn forward(&self, matrix: LinearId, rows: &Tensor) -> Result<Option<Tensor>> {
        let Some(pair) = self.pairs.get(&matrix.name()) else { return Ok(None) };
        let rows = match self.dropout_seed {
            Some(seed) if self.plan.dropout > 0.0 => {
                (rows * self.dropout_mask(&matrix, seed, rows)?)?
            }
            _ => rows.clone(),
        };
        let down = pair.down.to_dtype(rows.dtype())?;
        let up = pair.up.to_dtype(rows.dtype())?;
        Ok(Some((linear(&linear(&rows, &down)?, &up)? * self.scale())?))
    }

    /// `alpha / rank · B A` of a matrix with an adapter, without dropout.
    pub(super) fn weight(&self, matrix: LinearId) -> Result<Option<Tensor>> {
        let Some(LoraPair { down, up }) = self.pairs.get(&matrix.name()) else { return Ok(None) };
        Ok(Some((up.matmul(down)? * self.scale())?))
    }

    /// The factor of each input: zero, or `1 / (1 - dropout)`, which keeps the mean.
    fn dropout_mask(&self, matrix: &LinearId, seed: u64, rows: &Tensor) -> Result<Tensor> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let place = self.pairs.keys().position(|name| *name == matrix.name());
        random.set_stream(place.unwrap_or_default() as u64);
        let dropout = self.plan.dropout;
        let kept = |_| if random.random::<f32>() < dropout { 0.0 } else { 1.0 / (1.0 - dropout) };
        let kept: Vec<f32> = (0..rows.elem_count()).map(kept).collect();
        Tensor::from_vec(kept, rows.shape(), rows.device())?.to_dtype(rows.dtype())
    }

    /// The scale of an update, `alpha / rank`.
    pub fn scale(&self) -> f64 {
        self.plan.alpha / self.plan.rank as f64
    }

    /// The decoder's weights with the adapters merged in.
    pub fn merge(&self, parameters: &Parameters) -> Result<Parameters> {
        let mut merged = parameters.clone();
        for (name, LoraPair { down, up }) in &self.pairs {
            let weight = parameters.get(name)?;
            let more = (up.matmul(down)?.detach() * self.scale())?;
            let sum = (weight.to_dtype(DType::F32)?.detach() + more)?;
            merged.insert(name, sum.to_dtype(weight.dtype())?);
        }
        Ok(merged)
    }

    /// Writes a folder in PEFT's format.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let tensors: HashMap<String, Tensor> =
            self.tensors().map(|(name, tensor)| (name, tensor.clone())).collect();
        let mut modules: Vec<&str> = self.pairs.keys().map(|name| module(name)).collect();
        modules.sort_unstable();
        modules.dedup();
        let description = Description {
            peft_type: "LORA".into(),
            task_type: Some("CAUSAL_LM".into()),
            base_model_name_or_path: None,
            r: self.plan.rank,
            lora_alpha: self.plan.alpha,
            lora_dropout: self.plan.dropout,
            target_modules: modules.into(),
            bias: none(),
            use_rslora: false,
            use_dora: false,
            modules_to_save: None,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
        };
        fs::create_dir_all(dir)?;
        let description = serde_json::to_string_pretty(&description).map_err(Error::wrap)?;
        fs::write(dir.join(DESCRIPTION), description)?;
        candle_core::safetensors::save(&tensors, dir.join(WEIGHTS))
    }

    /// Reads a folder in PEFT's format.
    pub fn load(config: &DecoderConfig, dir: &Path, device: &Device) -> Result<Self> {
        let read =
            |name: &str, bytes_max| regular_file::read(&dir.join(name), Links::Followed, bytes_max);
        let description = read(DESCRIPTION, SETTINGS_BYTES_MAX)?;
        let description: Description = serde_json::from_slice(&description).map_err(Error::wrap)?;
        let plan = description.plan()?;
        let weights = read(WEIGHTS, DATA_BYTES_MAX)?;
        let mut tensors = candle_core::safetensors::load_buffer(&weights, device)?;
        let mut pairs = BTreeMap::new();
        let layers = (0..config.layers).flat_map(LinearId::of_layer);
        for matrix in layers.chain([LinearId::Unembed]) {
            let [down, up] = peft_names(&matrix.name()).map(|name| tensors.remove(&name));
            let (down, up) = match (down, up) {
                (Some(down), Some(up)) => (down, up),
                (None, None) => continue,
                _ => return wrong(format!("`{}` has half an adapter", matrix.name())),
            };
            let (outputs, inputs) = matrix.dims(config);
            let dims = [down.dims(), up.dims()];
            if dims != [[plan.rank, inputs], [outputs, plan.rank]] {
                return wrong(format!(
                    "the adapter of `{}` has dimensions {dims:?}",
                    matrix.name()
                ));
            }
            let (down, up) = (down.to_dtype(DType::F32)?, up.to_dtype(DType::F32)?);
            pairs.insert(matrix.name(), LoraPair::trained(&down, &up)?);
        }
        if let Some(name) = tensors.keys().min() {
            return wrong(format!("`{name}` is no adapter of a matrix of this decoder"));
        }
        Ok(Self { plan, pairs, dropout_seed: None })
    }
}

/// The names of A and B of the adapter of a weight.
fn peft_names(weight: &str) -> [String; 2] {
    let stem = weight.strip_suffix(".weight").unwrap_or(weight);
    ["lora_A", "lora_B"].map(|half| format!("{PREFIX}{stem}.{half}.weight"))
}

/// `q_proj` of `model.layers.0.self_attn.q_proj.weight`.
fn module(weight: &str) -> &str {
    weight.rsplit('.').nth(1).unwrap_or(weight)
}

fn wrong<T>(why: String) -> Result<T> {
    Err(Error::Msg(why))
}

// === impl LoraPair ===

impl LoraPair {
    fn trained(down: &Tensor, up: &Tensor) -> Result<Self> {
        let variable = |tensor| Ok::<_, Error>(Var::from_tensor(tensor)?.as_tensor().clone());
        Ok(Self { down: variable(down)?, up: variable(up)? })
    }
}

// === impl LoraConfig ===

impl LoraConfig {
    fn check(&self) -> Result<()> {
        if !(1..=RANK_MAX).contains(&self.rank) {
            return wrong(format!("an adapter's rank is {}, not from 1 to {RANK_MAX}", self.rank));
        }
        if !self.alpha.is_finite() || !(0.0..1.0).contains(&self.dropout) {
            return wrong(format!("no adapter has {self:?}"));
        }
        Ok(())
    }
}

// === impl Description ===

impl Description {
    /// Checks the settings; refuses those that are not implemented.
    fn plan(self) -> Result<LoraConfig> {
        let refused = [
            ("peft_type other than LORA", self.peft_type != "LORA"),
            ("bias", self.bias != "none"),
            ("use_rslora", self.use_rslora),
            ("use_dora", self.use_dora),
            ("modules_to_save", self.modules_to_save.is_some_and(|modules| !modules.is_empty())),
            ("rank_pattern", !self.rank_pattern.is_empty()),
            ("alpha_pattern", !self.alpha_pattern.is_empty()),
        ];
        if let Some((what, _)) = refused.iter().find(|(_, given)| *given) {
            return wrong(format!("adapters with {what} are not supported"));
        }
        let plan = LoraConfig { rank: self.r, alpha: self.lora_alpha, dropout: self.lora_dropout };
        plan.check().map(|()| plan)
    }
}
