//! What a server's answers hold.

use redis::Value;

use super::keys::read_block_field;
use crate::record::{Bytes, Record, read_block_cell};

/// An entry of the log: its number, and its fields.
pub(super) fn entry(value: Value) -> Option<(String, Vec<Value>)> {
    let mut parts = list(value).into_iter();
    let id = String::from_utf8(bytes(parts.next()?)?).ok()?;
    Some((id, list(parts.next()?)))
}

pub(super) fn news_record(fields: &[Value]) -> Option<Record> {
    let [Value::BulkString(name), Value::BulkString(text), ..] = fields else { return None };
    match name.as_slice() {
        b"b" => {
            let (field, cell) = text.split_at_checked(9)?;
            block_record(field, cell)
        }
        b"u" => read_block_field(text).map(|(kind, key)| Record::Unblock { kind, key }),
        b"m" => Record::take(&mut Bytes(text)),
        _ => None,
    }
}

pub(super) fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(list) | Value::Set(list) => list,
        Value::Map(pairs) => pairs.into_iter().flat_map(|(name, value)| [name, value]).collect(),
        _ => Vec::new(),
    }
}

pub(super) fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text.into_bytes()),
        _ => None,
    }
}

pub(super) fn number(value: Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(number).ok(),
        Value::BulkString(bytes) => std::str::from_utf8(&bytes).ok()?.parse().ok(),
        _ => None,
    }
}

/// A block of the table of blocks.
pub(super) fn block_record(field: &[u8], cell: &[u8]) -> Option<Record> {
    let (kind, key) = read_block_field(field)?;
    let (block, subject) = read_block_cell(cell)?;
    Some(Record::Block { kind, key, block, subject })
}
