//! The safetensors format: eight bytes of length, a JSON header, the tensors back to back.

use serde_json::{Map, Value, json};

/// A tensor of the model to be made.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Name.
    pub name: String,
    /// Type as safetensors writes it: `F32`, `BF16`, `F16`, `I8`, `U8`.
    pub dtype: String,
    /// Dimensions.
    pub shape: Vec<u64>,
}

impl Tensor {
    /// A tensor of 32-bit floats.
    pub fn f32(name: &str, shape: &[u64]) -> Self {
        Self { name: name.into(), dtype: "F32".into(), shape: shape.to_vec() }
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Length in bytes.
    pub fn bytes(&self) -> u64 {
        let width = match self.dtype.as_str() {
            "F64" | "I64" => 8,
            "F32" | "I32" => 4,
            "F16" | "BF16" | "I16" => 2,
            _ => 1,
        };
        self.elements() * width
    }
}

/// A file with these tensors: small random floats, random bytes for the other types.
pub fn safetensors(tensors: &[Tensor], seed: u64) -> Vec<u8> {
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({ "format": "pt" }));
    let mut end = 0;
    for tensor in tensors {
        let (start, next) = (end, end + tensor.bytes());
        let value = json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, next] });
        header.insert(tensor.name.clone(), value);
        end = next;
    }
    let mut file = framed(&Value::Object(header));
    for (index, tensor) in tensors.iter().enumerate() {
        let from = file.len();
        file.resize(from + usize::try_from(tensor.bytes()).expect("a small model"), 0);
        crate::hub::fill_pattern(seed ^ ((index as u64) << 32), 0, &mut file[from..]);
        if tensor.dtype == "F32" {
            file[from..].chunks_exact_mut(4).for_each(small_float);
        }
    }
    file
}

/// Turns four random bytes into a float between -0.02 and 0.02, so that a loaded model computes without overflow.
fn small_float(bytes: &mut [u8]) {
    let random = u32::from_le_bytes(bytes.try_into().expect("four bytes"));
    let value = (random as f32 / u32::MAX as f32 - 0.5) * 0.04;
    bytes.copy_from_slice(&value.to_le_bytes());
}

/// The header of a file with one tensor `data` of that many bytes.
pub(super) fn byte_header(bytes: u64) -> Vec<u8> {
    framed(&json!({ "data": { "dtype": "U8", "shape": [bytes], "data_offsets": [0, bytes] } }))
}

fn framed(header: &Value) -> Vec<u8> {
    let mut text = header.to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut file = (text.len() as u64).to_le_bytes().to_vec();
    file.append(&mut text);
    file
}

/// The header of a safetensors file and the offset where its data begin; `None` when it is not one.
pub fn parse_header(file: &[u8]) -> Option<(Value, u64)> {
    let length = u64::from_le_bytes(file.get(..8)?.try_into().ok()?);
    let end = usize::try_from(length).ok()?.checked_add(8)?;
    Some((serde_json::from_slice(file.get(8..end)?).ok()?, end as u64))
}
