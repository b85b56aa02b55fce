//! Writes GGUF headers that a reader accepts; the tensor data is a hole of the right size.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

/// A tensor type as a writer needs it.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Its number in the file.
    pub number: u32,
    /// Weights per block.
    pub weights: u64,
    /// Bytes per block.
    pub bytes: u64,
}

/// 32-bit floats.
pub const F32: Kind = Kind { number: 0, weights: 1, bytes: 4 };
/// 16-bit floats.
pub const F16: Kind = Kind { number: 1, weights: 1, bytes: 2 };
/// 8-bit integers in blocks of 32.
pub const Q8_0: Kind = Kind { number: 8, weights: 32, bytes: 34 };
/// 4-bit integers in blocks of 256.
pub const Q4_K: Kind = Kind { number: 12, weights: 256, bytes: 144 };
/// 6-bit integers in blocks of 256.
pub const Q6_K: Kind = Kind { number: 14, weights: 256, bytes: 210 };

/// A metadata value.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A 32-bit count.
    U32(u32),
    /// A 16-bit count.
    U16(u16),
    /// A 64-bit count.
    U64(u64),
    /// A signed integer.
    I32(i32),
    /// A float.
    F32(f32),
    /// A flag.
    Bool(bool),
    /// A text.
    Text(String),
    /// An array of texts.
    Texts(Vec<String>),
    /// An array of counts.
    Counts(Vec<u32>),
    /// Anything: the type's number and the bytes behind it.
    Raw(u32, Vec<u8>),
}

/// A GGUF file to be.
#[derive(Clone, Debug)]
pub struct Gguf {
    /// 2 or 3.
    pub version: u32,
    /// `general.alignment`, which is written when it is not 32.
    pub alignment: u64,
    /// Metadata in order.
    pub entries: Vec<(String, Entry)>,
    /// Names, dimensions (innermost first) and types, in order.
    pub tensors: Vec<(String, Vec<u64>, Kind)>,
}

impl Gguf {
    /// A file of that architecture without tensors.
    pub fn new(architecture: &str) -> Self {
        let name = Entry::Text(architecture.to_owned());
        Self {
            version: 3,
            alignment: 32,
            entries: vec![("general.architecture".to_owned(), name)],
            tensors: Vec::new(),
        }
    }

    /// With one more metadata entry.
    #[must_use]
    pub fn with(mut self, key: &str, entry: Entry) -> Self {
        self.entries.push((key.to_owned(), entry));
        self
    }

    /// With one more tensor.
    #[must_use]
    pub fn tensor(mut self, name: &str, shape: &[u64], kind: Kind) -> Self {
        self.tensors.push((name.to_owned(), shape.to_vec(), kind));
        self
    }

    /// The header, padded to where the tensor data begins.
    pub fn header(&self) -> Vec<u8> {
        let mut entries = self.entries.clone();
        if self.alignment != 32 {
            entries.push(("general.alignment".to_owned(), Entry::U32(self.alignment as u32)));
        }
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((entries.len() as u64).to_le_bytes());
        for (key, entry) in &entries {
            text(&mut out, key);
            value(&mut out, entry);
        }
        let mut offset = 0_u64;
        for (name, shape, kind) in &self.tensors {
            text(&mut out, name);
            out.extend((shape.len() as u32).to_le_bytes());
            shape.iter().for_each(|n| out.extend(n.to_le_bytes()));
            out.extend(kind.number.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset = (offset + bytes(shape, *kind)).next_multiple_of(self.alignment);
        }
        out.resize(out.len().next_multiple_of(self.alignment as usize), 0);
        out
    }

    /// Size of the file in bytes, of which [`Gguf::header`] is the beginning.
    pub fn size(&self) -> u64 {
        let data = self
            .tensors
            .iter()
            .fold(0, |at: u64, (_, shape, kind)| (at + bytes(shape, *kind)).next_multiple_of(self.alignment));
        self.header().len() as u64 + data
    }
}

fn bytes(shape: &[u64], kind: Kind) -> u64 {
    shape.iter().product::<u64>() / kind.weights * kind.bytes
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn value(out: &mut Vec<u8>, entry: &Entry) {
    let mut put = |kind: u32, bytes: &[u8]| {
        out.extend(kind.to_le_bytes());
        out.extend(bytes);
    };
    match entry {
        Entry::U16(n) => put(2, &n.to_le_bytes()),
        Entry::U32(n) => put(4, &n.to_le_bytes()),
        Entry::I32(n) => put(5, &n.to_le_bytes()),
        Entry::F32(n) => put(6, &n.to_le_bytes()),
        Entry::Bool(flag) => put(7, &[u8::from(*flag)]),
        Entry::U64(n) => put(10, &n.to_le_bytes()),
        Entry::Raw(kind, bytes) => put(*kind, bytes),
        Entry::Text(line) => {
            put(8, &[]);
            text(out, line);
        }
        Entry::Texts(lines) => {
            put(9, &8_u32.to_le_bytes());
            out.extend((lines.len() as u64).to_le_bytes());
            lines.iter().for_each(|line| text(out, line));
        }
        Entry::Counts(counts) => {
            put(9, &4_u32.to_le_bytes());
            out.extend((counts.len() as u64).to_le_bytes());
            counts.iter().for_each(|n| out.extend(n.to_le_bytes()));
        }
    }
}
