//! One record in the bytes of its batch, borrowed.
//!
//! ```text
//! length           varint   of all that follows it
//! attributes       i8       0
//! timestamp delta  varlong  to the batch's base timestamp
//! offset delta     varint   to the batch's base offset
//! key              varint length (-1: null), bytes
//! value            varint length (-1: null), bytes
//! headers          varint count, then each: varint length, UTF-8 key; value as above
//! ```
//!
//! Source: Kafka's `DefaultRecord`.

use super::varint::Cursor;
use crate::{
    ids::{Offset, Timestamp},
    limits::RECORD_HEADERS_MAX,
};

/// A record. Everything in it is a slice of the (decompressed) batch.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its position in the partition.
    pub offset: Offset,
    /// When it was created or, if the batch says so, appended.
    pub timestamp: Timestamp,
    /// Its key; null is not the same as empty.
    pub key: Option<&'a [u8]>,
    /// Its value; null is not the same as empty.
    pub value: Option<&'a [u8]>,
    /// Its headers.
    pub headers: Headers<'a>,
}

/// A header of a record. Keys may repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// Its name.
    pub key: &'a str,
    /// Its value; null is not the same as empty.
    pub value: Option<&'a [u8]>,
}

/// The headers of a record, in their order. They were checked when the record was read.
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a> {
    cursor: Cursor<'a>,
    left: usize,
}

impl Headers<'_> {
    /// No headers.
    pub const EMPTY: Self = Self {
        cursor: Cursor::new(&[]),
        left: 0,
    };
}

impl<'a> Iterator for Headers<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        self.left = self.left.checked_sub(1)?;
        read_header(&mut self.cursor).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Headers<'_> {}

/// A record relative to its batch.
pub(super) struct Relative<'a> {
    pub(super) timestamp_delta: i64,
    pub(super) offset_delta: i32,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: Headers<'a>,
}

/// Reads the next record, or says why it is not one.
#[inline(always)]
pub(super) fn read_record<'a>(cursor: &mut Cursor<'a>) -> Result<Relative<'a>, &'static str> {
    let length = cursor.varint().ok_or("its length is not an integer")?;
    let length = usize::try_from(length).map_err(|_| "its length is negative")?;
    let body = cursor
        .take(length)
        .ok_or("its length exceeds what is left of the batch")?;
    let mut body = Cursor::new(body);
    // No attribute of a record is assigned; readers ignore them, as Kafka's do.
    body.byte().ok_or("it ends before its attributes")?;
    let timestamp_delta = body.varlong().ok_or("its timestamp is not an integer")?;
    let offset_delta = body.varint().ok_or("its offset is not an integer")?;
    let key = body.nullable().ok_or("its key exceeds the record")?;
    let value = body.nullable().ok_or("its value exceeds the record")?;
    let headers = read_headers(body)?;
    Ok(Relative {
        timestamp_delta,
        offset_delta,
        key,
        value,
        headers,
    })
}

/// Reads the count and checks every header, so that walking them later cannot fail.
#[inline]
fn read_headers(body: Cursor<'_>) -> Result<Headers<'_>, &'static str> {
    if let [0] = body.rest() {
        return Ok(Headers::EMPTY);
    }
    read_some_headers(body)
}

fn read_some_headers(mut body: Cursor<'_>) -> Result<Headers<'_>, &'static str> {
    let count = body
        .varint()
        .and_then(|count| usize::try_from(count).ok())
        .ok_or("its number of headers is not a number")?;
    if count > RECORD_HEADERS_MAX {
        return Err("it has more headers than are allowed");
    }
    let headers = Headers {
        cursor: body,
        left: count,
    };
    for _ in 0..count {
        read_header(&mut body)?;
    }
    if body.rest().is_empty() {
        Ok(headers)
    } else {
        Err("bytes are left over behind its headers")
    }
}

fn read_header<'a>(cursor: &mut Cursor<'a>) -> Result<Header<'a>, &'static str> {
    let key = cursor
        .nullable()
        .ok_or("a header's key exceeds the record")?
        .ok_or("a header's key is null")?;
    let key = str::from_utf8(key).map_err(|_| "a header's key is not UTF-8")?;
    let value = cursor
        .nullable()
        .ok_or("a header's value exceeds the record")?;
    Ok(Header { key, value })
}
