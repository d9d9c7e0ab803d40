//! The walker: checks every length and count of a message against the bytes that are there, before anything is decoded.
//!
//! The codec crate takes memory for as many elements as an array claims to have, so that five hostile bytes would abort
//! the process. The walker goes over the same bytes first, by tables of layouts ([`requests`], [`responses`]), takes no memory
//! at all, and lets through only what the codec can decode with memory in proportion to the message.
//!
//! Invariants: a message that passes has no length beyond its end, at most [`MAX_ELEMENTS`] array elements and tagged
//! fields (a response [`MAX_RESPONSE_ELEMENTS`]), and nothing null where null is not allowed. Deliberately absent: meaning. UTF-8 is the codec's to check,
//! values are the handlers'.

pub(crate) mod requests;
pub(crate) mod responses;

/// Most array elements and tagged fields of one request, all arrays together. Each becomes at most some 200 bytes when
/// decoded, so that a decoded request stays below about 50 MiB whatever it claims.
pub const MAX_ELEMENTS: usize = 1 << 18;

/// The same of one response: a cluster of half a million partitions is described in this many.
pub const MAX_RESPONSE_ELEMENTS: usize = 1 << 22;

const NEVER: i16 = i16::MAX;

/// The layout of a request in all its versions.
#[derive(Debug)]
pub(crate) struct Schema {
    /// First flexible version: compact lengths, tagged fields.
    pub(crate) flexible_since: i16,
    pub(crate) fields: &'static [Field],
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) ty: Type,
    pub(crate) since: i16,
    pub(crate) until: i16,
    pub(crate) nullable_since: i16,
    pub(crate) tag: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Type {
    Bool,
    Int8,
    Int16,
    Int32,
    Int64,
    Uuid,
    String,
    Records,
    Array(&'static Type),
    Struct(&'static [Field]),
}

impl Field {
    pub(crate) const fn new(name: &'static str, ty: Type) -> Self {
        Field { name, ty, since: 0, until: i16::MAX, nullable_since: NEVER, tag: None }
    }

    pub(crate) const fn since(mut self, version: i16) -> Self {
        self.since = version;
        self
    }

    /// Last version that has the field.
    pub(crate) const fn until(mut self, version: i16) -> Self {
        self.until = version;
        self
    }

    /// First version in which it may be null.
    pub(crate) const fn nullable(mut self, since: i16) -> Self {
        self.nullable_since = since;
        self
    }

    /// Goes among the tagged fields.
    pub(crate) const fn tag(mut self, tag: u32) -> Self {
        self.tag = Some(tag);
        self
    }

    pub(crate) fn exists_in(&self, version: i16) -> bool {
        (self.since..=self.until).contains(&version)
    }
}

/// Why bytes are not the message that they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BoundsError {
    /// A field, or what its length or count claims, reaches beyond the end.
    #[error("{field} at byte {position_bytes} reaches beyond the end of the message")]
    BeyondEnd {
        /// Name of the field.
        field: &'static str,
        /// Where it begins.
        position_bytes: usize,
    },
    /// A negative length or a null where none is allowed.
    #[error("{field} at byte {position_bytes} must not be null or negative")]
    NullOrNegative {
        /// Name of the field.
        field: &'static str,
        /// Where it begins.
        position_bytes: usize,
    },
    /// A variable-length number of more than 32 bits.
    #[error("{field} at byte {position_bytes} has an overlong length")]
    Overlong {
        /// Name of the field.
        field: &'static str,
        /// Where it begins.
        position_bytes: usize,
    },
    /// A known tagged field that is not as long as it says, or does not exist in this version.
    #[error("tagged field {tag} at byte {position_bytes} does not belong there or has a wrong length")]
    Tag {
        /// The tag.
        tag: u32,
        /// Where its content begins.
        position_bytes: usize,
    },
    /// More array elements and tagged fields than one message may have.
    #[error("the message has more than {limit} elements")]
    TooManyElements {
        /// The limit.
        limit: usize,
    },
}

/// What the walker found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Walked {
    /// Bytes that belong to the message.
    pub(crate) consumed: usize,
    /// Array elements and tagged fields.
    pub(crate) elements: usize,
}

/// Walks over the request body at the front of `bytes`.
pub(crate) fn walk(schema: &Schema, version: i16, bytes: &[u8]) -> Result<Walked, BoundsError> {
    walk_within(MAX_ELEMENTS, schema, version, bytes)
}

/// Walks over the response body at the front of `bytes`.
pub(crate) fn walk_response(schema: &Schema, version: i16, bytes: &[u8]) -> Result<Walked, BoundsError> {
    walk_within(MAX_RESPONSE_ELEMENTS, schema, version, bytes)
}

fn walk_within(limit: usize, schema: &Schema, version: i16, bytes: &[u8]) -> Result<Walked, BoundsError> {
    let flexible = version >= schema.flexible_since;
    let mut walker = Walker { bytes, at: 0, version, flexible, elements: 0, limit };
    walker.fields(schema.fields)?;
    Ok(Walked { consumed: walker.at, elements: walker.elements })
}

/// Walks over the tagged fields of a header, none of which is known.
pub(crate) fn walk_header_tags(bytes: &[u8]) -> Result<Walked, BoundsError> {
    let mut walker = Walker { bytes, at: 0, version: 0, flexible: true, elements: 0, limit: MAX_ELEMENTS };
    walker.tagged(&[])?;
    Ok(Walked { consumed: walker.at, elements: walker.elements })
}

struct Walker<'a> {
    bytes: &'a [u8],
    at: usize,
    version: i16,
    flexible: bool,
    elements: usize,
    limit: usize,
}

/// A length or count that was read.
enum Length {
    Null,
    Of(usize),
}

impl Walker<'_> {
    fn skip(&mut self, field: &'static str, len: usize) -> Result<(), BoundsError> {
        if len > self.bytes.len() - self.at {
            return Err(BoundsError::BeyondEnd { field, position_bytes: self.at });
        }
        self.at += len;
        Ok(())
    }

    fn take<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], BoundsError> {
        let position_bytes = self.at;
        let taken = self.bytes[self.at..]
            .first_chunk::<N>()
            .copied()
            .ok_or(BoundsError::BeyondEnd { field, position_bytes })?;
        self.at += N;
        Ok(taken)
    }

    fn unsigned_varint(&mut self, field: &'static str) -> Result<u32, BoundsError> {
        let position_bytes = self.at;
        let mut value = 0;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.take::<1>(field)?;
            if shift == 28 && byte > 0x0f {
                break;
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(BoundsError::Overlong { field, position_bytes })
    }

    /// A signed length as read, where −1 stands for null.
    fn signed(&self, field: &'static str, length: i32, position_bytes: usize) -> Result<Length, BoundsError> {
        match usize::try_from(length) {
            Ok(length) => Ok(Length::Of(length)),
            Err(_) if length == -1 => Ok(Length::Null),
            Err(_) => Err(BoundsError::NullOrNegative { field, position_bytes }),
        }
    }

    fn compact_length(&mut self, field: &'static str) -> Result<Length, BoundsError> {
        Ok(match self.unsigned_varint(field)?.checked_sub(1) {
            Some(length) => Length::Of(length as usize),
            None => Length::Null,
        })
    }

    fn length(&mut self, field: &'static str, ty: Type) -> Result<Length, BoundsError> {
        let position_bytes = self.at;
        if self.flexible {
            return self.compact_length(field);
        }
        let length = match ty {
            Type::String => i16::from_be_bytes(self.take(field)?).into(),
            _ => i32::from_be_bytes(self.take(field)?),
        };
        self.signed(field, length, position_bytes)
    }

    fn count_element(&mut self) -> Result<(), BoundsError> {
        self.elements += 1;
        if self.elements > self.limit {
            return Err(BoundsError::TooManyElements { limit: self.limit });
        }
        Ok(())
    }

    fn fields(&mut self, fields: &'static [Field]) -> Result<(), BoundsError> {
        let version = self.version;
        for field in fields.iter().filter(|field| field.tag.is_none() && field.exists_in(version)) {
            self.value(field.name, field.ty, version >= field.nullable_since)?;
        }
        if self.flexible { self.tagged(fields) } else { Ok(()) }
    }

    fn tagged(&mut self, fields: &'static [Field]) -> Result<(), BoundsError> {
        for _ in 0..self.unsigned_varint("tagged fields")? {
            self.count_element()?;
            let tag = self.unsigned_varint("tag")?;
            let size = self.unsigned_varint("size of a tagged field")? as usize;
            let start = self.at;
            let Some(field) = fields.iter().find(|field| field.tag == Some(tag)) else {
                self.skip("tagged field", size)?;
                continue;
            };
            // The codec decodes a known field by its layout, not by its size: they must agree.
            if !field.exists_in(self.version) {
                return Err(BoundsError::Tag { tag, position_bytes: start });
            }
            self.value(field.name, field.ty, self.version >= field.nullable_since)?;
            if self.at - start != size {
                return Err(BoundsError::Tag { tag, position_bytes: start });
            }
        }
        Ok(())
    }

    fn value(&mut self, field: &'static str, ty: Type, nullable: bool) -> Result<(), BoundsError> {
        let position_bytes = self.at;
        match ty {
            Type::Bool | Type::Int8 => self.skip(field, 1),
            Type::Int16 => self.skip(field, 2),
            Type::Int32 => self.skip(field, 4),
            Type::Int64 => self.skip(field, 8),
            Type::Uuid => self.skip(field, 16),
            Type::String | Type::Records => match self.length(field, ty)? {
                Length::Of(length) => self.skip(field, length),
                Length::Null if nullable => Ok(()),
                Length::Null => Err(BoundsError::NullOrNegative { field, position_bytes }),
            },
            Type::Array(element) => match self.length(field, ty)? {
                Length::Of(count) => self.array(field, *element, count),
                Length::Null if nullable => Ok(()),
                Length::Null => Err(BoundsError::NullOrNegative { field, position_bytes }),
            },
            // A struct that may be null has a byte before it: −1 for null, 1 for present.
            Type::Struct(fields) if nullable => match i8::from_be_bytes(self.take(field)?) {
                -1 => Ok(()),
                1 => self.fields(fields),
                _ => Err(BoundsError::NullOrNegative { field, position_bytes }),
            },
            Type::Struct(fields) => self.fields(fields),
        }
    }

    fn array(&mut self, field: &'static str, element: Type, count: usize) -> Result<(), BoundsError> {
        // Every element has at least one byte, which bounds the loop and the codec's memory.
        if count > self.bytes.len() - self.at {
            return Err(BoundsError::BeyondEnd { field, position_bytes: self.at });
        }
        for _ in 0..count {
            self.count_element()?;
            self.value(field, element, false)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
