//! Reads little-endian fields from a prefix that may end anywhere, and keeps account of what is stored.

use super::{GgufError, HEADER_LIMIT, Value};
use crate::weights::cut;

/// Why reading stopped.
pub(super) enum Stop {
    /// The prefix ends; that many bytes of the file are needed at least.
    More(u64),
    /// The header is wrong.
    Wrong(GgufError),
}

impl From<GgufError> for Stop {
    fn from(error: GgufError) -> Self {
        Self::Wrong(error)
    }
}

/// The longest text that is kept, in bytes; longer ones (chat templates) are cut.
const TEXT_LIMIT: usize = 1024;
/// Arrays of numbers up to this length are kept (one entry per layer), others are counted.
const LIST_LIMIT: u64 = 1024;
/// Arrays within arrays up to this depth.
const NESTING_LIMIT: u32 = 4;
const TEXT: u32 = 8;
const ARRAY: u32 = 9;

/// A place in the prefix.
pub(super) struct Cursor<'a> {
    prefix: &'a [u8],
    /// Bytes read so far.
    pub(super) at: u64,
    /// Bytes of metadata that may still be kept.
    pub(super) budget: u64,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(prefix: &'a [u8], budget: u64) -> Self {
        Self { prefix, at: 0, budget }
    }

    /// The next `n` bytes.
    pub(super) fn take(&mut self, n: u64) -> Result<&'a [u8], Stop> {
        let end = self.at.checked_add(n).filter(|end| *end <= HEADER_LIMIT);
        let end = end.ok_or(GgufError::TooLong { at: self.at, bytes: n })?;
        let bytes = self.prefix.get(self.at as usize..end as usize).ok_or(Stop::More(end))?;
        self.at = end;
        Ok(bytes)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let mut field = [0; N];
        field.copy_from_slice(self.take(N as u64)?);
        Ok(field)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Stop> {
        self.fixed().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Stop> {
        self.fixed().map(u64::from_le_bytes)
    }

    /// A text of at most `limit` bytes; longer ones are an error.
    pub(super) fn name(&mut self, what: &'static str, limit: u64) -> Result<&'a str, Stop> {
        let at = self.at;
        let length = self.u64()?;
        if length > limit {
            return Err(GgufError::TooMany { what, count: length, limit }.into());
        }
        std::str::from_utf8(self.take(length)?).map_err(|_| GgufError::NotText { at }.into())
    }

    /// A value of that type; kept as far as the bounds allow, skipped otherwise.
    pub(super) fn value(&mut self, kind: u32) -> Result<Value, Stop> {
        let value = match kind {
            TEXT => {
                let length = self.u64()?;
                let text = self.take(length)?;
                // Texts are meant to be UTF-8; a broken one is shown as it is rather than refused, as llama.cpp does.
                let text = String::from_utf8_lossy(&text[..text.len().min(TEXT_LIMIT + 4)]);
                Value::Text(cut(&text, TEXT_LIMIT).0.to_owned())
            }
            ARRAY => self.array(0)?,
            _ => self.scalar(kind)?,
        };
        let size = match &value {
            Value::Text(text) => 32 + text.len() as u64,
            Value::List(list) => 32 * (1 + list.len() as u64),
            _ => 32,
        };
        match self.budget.checked_sub(size) {
            Some(rest) => {
                self.budget = rest;
                Ok(value)
            }
            None => Ok(Value::Skipped { elements: value.elements() }),
        }
    }

    fn array(&mut self, depth: u32) -> Result<Value, Stop> {
        if depth == NESTING_LIMIT {
            return Err(GgufError::TooDeep { at: self.at, limit: NESTING_LIMIT }.into());
        }
        let kind = self.u32()?;
        let elements = self.u64()?;
        match kind {
            TEXT => self.skip(elements, 8, |cursor| {
                let length = cursor.u64()?;
                cursor.take(length).map(drop)
            })?,
            ARRAY => self.skip(elements, 12, |cursor| cursor.array(depth + 1).map(drop))?,
            _ => {
                let size = super::types::scalar_bytes(kind)
                    .ok_or(GgufError::UnknownValue { kind, at: self.at })?
                    .checked_mul(elements)
                    .ok_or(GgufError::TooLong { at: self.at, bytes: elements })?;
                if depth > 0 || elements > LIST_LIMIT {
                    self.take(size)?;
                } else {
                    let list = (0..elements).map(|_| self.scalar(kind)).collect::<Result<_, _>>()?;
                    return Ok(Value::List(list));
                }
            }
        }
        Ok(Value::Skipped { elements })
    }

    /// Skips `elements` items of at least `smallest` bytes each.
    fn skip(
        &mut self,
        elements: u64,
        smallest: u64,
        mut one: impl FnMut(&mut Self) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let fits = elements.checked_mul(smallest).and_then(|bytes| bytes.checked_add(self.at));
        if fits.is_none_or(|end| end > HEADER_LIMIT) {
            return Err(GgufError::TooLong { at: self.at, bytes: elements.saturating_mul(smallest) }.into());
        }
        for done in 0..elements {
            one(self).map_err(|stop| match stop {
                Stop::More(bytes) => Stop::More(bytes.saturating_add((elements - done - 1) * smallest)),
                wrong @ Stop::Wrong(_) => wrong,
            })?;
        }
        Ok(())
    }

    fn scalar(&mut self, kind: u32) -> Result<Value, Stop> {
        let at = self.at;
        Ok(match kind {
            0 => Value::Unsigned(u8::from_le_bytes(self.fixed()?).into()),
            1 => Value::Signed(i8::from_le_bytes(self.fixed()?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.fixed()?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.fixed()?).into()),
            4 => Value::Unsigned(self.u32()?.into()),
            5 => Value::Signed(i32::from_le_bytes(self.fixed()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.fixed()?).into()),
            7 => Value::Bool(self.fixed::<1>()? != [0]),
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(i64::from_le_bytes(self.fixed()?)),
            12 => Value::Float(f64::from_le_bytes(self.fixed()?)),
            _ => return Err(GgufError::UnknownValue { kind, at }.into()),
        })
    }
}
