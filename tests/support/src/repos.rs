//! Repositories as the hub has them, made from one row of `models.csv`: `config.json`, true safetensors headers in
//! shards of at most 5 GB, and their index. Nobody needs the weights: a file is its header and its size.

mod config;
mod quantised;
mod tensors;

use std::collections::BTreeMap;

pub use quantised::{Quant, quantised};
use serde_json::{Value, json};

/// The largest shard in bytes, as transformers writes them.
const SHARD: u64 = 5_000_000_000;

/// One model of `models.csv`. Fields that the table leaves open are `None`.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// `owner/name`.
    pub hf_id: String,
    /// `model_type` of the config.
    pub model_type: String,
    /// `torch_dtype` of the config, with remarks.
    pub torch_dtype: String,
    /// Whether the repo has safetensors files.
    pub safetensors: bool,
    /// `tie_word_embeddings`.
    pub tied: bool,
    numbers: BTreeMap<String, u64>,
}

impl Row {
    /// All rows of the table that describe a repo.
    ///
    /// # Errors
    /// The text is not such a table.
    pub fn all(table: &str) -> Result<Vec<Self>, csv::Error> {
        let mut reader = csv::Reader::from_reader(table.as_bytes());
        let names = reader.headers()?.clone();
        let mut rows = Vec::new();
        for record in reader.records() {
            let record = record?;
            let row: BTreeMap<&str, &str> = names.iter().zip(record.iter()).collect();
            let text = |name: &str| row.get(name).copied().unwrap_or_default();
            let number = |(name, value): (&&str, &&str)| Some(((*name).to_owned(), value.parse().ok()?));
            let row = Self {
                hf_id: text("hf_id").to_owned(),
                model_type: text("model_type").to_owned(),
                torch_dtype: text("torch_dtype").to_owned(),
                safetensors: text("safetensors").starts_with("yes"),
                tied: text("tie_word_embeddings") == "True",
                numbers: row.iter().filter_map(number).collect(),
            };
            if row.get("hidden").is_some() {
                rows.push(row);
            }
        }
        Ok(rows)
    }

    /// A numeric column.
    pub fn get(&self, column: &str) -> Option<u64> {
        self.numbers.get(column).copied()
    }

    /// A numeric column that the model's shape needs.
    fn need(&self, column: &str) -> u64 {
        self.get(column).unwrap_or_else(|| panic!("{} has no {column}", self.hf_id))
    }

    /// Elements in the files beyond the parameters: buffers, towers, drafts, copies.
    fn surplus(&self) -> u64 {
        self.get("hub_minus_params").unwrap_or(0)
    }

    /// Dtype of what is not quantised.
    fn dtype(&self) -> &'static str {
        if self.torch_dtype.starts_with("float32") {
            "F32"
        } else if self.torch_dtype.starts_with("float16") {
            "F16"
        } else {
            "BF16"
        }
    }
}

/// A tensor to be written.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its dtype as safetensors spells it.
    pub dtype: &'static str,
    /// Its dimensions.
    pub shape: Vec<u64>,
}

impl Tensor {
    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        let width = match self.dtype {
            "F32" | "I32" => 4,
            "F16" | "BF16" => 2,
            _ => 1,
        };
        self.shape.iter().product::<u64>() * width
    }
}

/// A file whose body is a hole.
#[derive(Clone, Debug)]
pub struct File {
    /// Path in the repo.
    pub path: String,
    /// Its first bytes.
    pub header: Vec<u8>,
    /// Size in bytes, header included.
    pub size: u64,
}

/// A repository without weights.
#[derive(Clone, Debug)]
pub struct Repo {
    /// `owner/name`.
    pub id: String,
    /// `config.json`.
    pub config: Value,
    /// The weight files.
    pub files: Vec<File>,
    /// `model.safetensors.index.json`, if there is more than one shard.
    pub index: Option<Value>,
}

impl Repo {
    /// The repo as the table describes it: pickled weights stay pickled.
    ///
    /// # Panics
    /// The row's `model_type` is not known here.
    pub fn from_row(row: &Row) -> Self {
        let tensors = tensors::of(row);
        let config = config::of(row);
        if row.safetensors {
            return Self::from_tensors(&row.hf_id, config, &tensors);
        }
        // A zip archive by its first bytes, which is what torch.save writes.
        let size = tensors.iter().map(Tensor::bytes).sum();
        let file = File { path: "pytorch_model.bin".to_owned(), header: b"PK\x03\x04".to_vec(), size };
        Self { id: row.hf_id.clone(), config, files: vec![file], index: None }
    }

    /// Any tensors in shards, for quantised variants and damaged repos.
    pub fn from_tensors(id: &str, config: Value, tensors: &[Tensor]) -> Self {
        let shards = shards(tensors);
        let name = |number: usize| match shards.len() {
            1 => "model.safetensors".to_owned(),
            count => format!("model-{number:05}-of-{count:05}.safetensors"),
        };
        let mut files = Vec::new();
        let mut weight_map = serde_json::Map::new();
        for (at, shard) in shards.iter().enumerate() {
            let path = name(at + 1);
            for tensor in *shard {
                weight_map.insert(tensor.name.clone(), path.clone().into());
            }
            let header = header(shard);
            let size = header.len() as u64 + shard.iter().map(Tensor::bytes).sum::<u64>();
            files.push(File { path, header, size });
        }
        let total: u64 = tensors.iter().map(Tensor::bytes).sum();
        let index = (files.len() > 1)
            .then(|| json!({ "metadata": { "total_size": total }, "weight_map": weight_map }));
        Self { id: id.to_owned(), config, files, index }
    }
}

/// The tensors of a row's model, as its files hold them.
pub fn tensors(row: &Row) -> Vec<Tensor> {
    tensors::of(row)
}

/// The header of a safetensors file with these tensors one after another.
pub fn header(tensors: &[Tensor]) -> Vec<u8> {
    let mut entries = vec![r#""__metadata__":{"format":"pt"}"#.to_owned()];
    let mut begin = 0;
    for tensor in tensors {
        let end = begin + tensor.bytes();
        let (name, dtype, shape) = (json!(tensor.name), tensor.dtype, &tensor.shape);
        let shape = json!(shape);
        entries
            .push(format!(r#"{name}:{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#));
        begin = end;
    }
    let mut json = format!("{{{}}}", entries.join(",")).into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    [&(json.len() as u64).to_le_bytes()[..], &json].concat()
}

/// Tensors in order, a new shard before one would grow beyond the limit.
fn shards(tensors: &[Tensor]) -> Vec<&[Tensor]> {
    let mut out = Vec::new();
    let (mut first, mut bytes) = (0, 0);
    for (at, tensor) in tensors.iter().enumerate() {
        if bytes > 0 && bytes + tensor.bytes() > SHARD {
            out.push(&tensors[first..at]);
            (first, bytes) = (at, 0);
        }
        bytes += tensor.bytes();
    }
    out.push(&tensors[first..]);
    out
}

impl Repo {
    /// The repo as a test hub serves it; nobody can fetch its weights whole.
    pub fn model(&self) -> crate::Model {
        let mut model = crate::Model::new(&self.id)
            .file("README.md", format!("# {}\n", self.id))
            .file("config.json", self.config.to_string());
        if let Some(index) = &self.index {
            model = model.file("model.safetensors.index.json", index.to_string());
        }
        for (seed, file) in (0..).zip(&self.files) {
            let body = file.size - file.header.len() as u64;
            let content = crate::Content::WithHead(file.header.clone().into(), body, seed);
            model = model.unread(&file.path, content);
        }
        model
    }
}
