//! What a server's answers hold.

use mpp_wire::resp::Reply;

use super::keys::read_block_field;
use crate::record::{Bytes, Record, read_block_cell};
use crate::shared::remote::Trouble;

/// What was refused first.
pub(super) fn error_of(replies: &[Reply]) -> Option<&str> {
    replies.iter().find_map(|reply| match reply {
        Reply::Error(text) => Some(text.as_str()),
        _ => None,
    })
}

/// That nothing was refused.
pub(super) fn all_done(replies: &[Reply]) -> Result<(), Trouble> {
    error_of(replies).map_or(Ok(()), |text| Err(Trouble(text.to_owned())))
}

/// The reply to the only command.
pub(super) fn only(mut replies: Vec<Reply>) -> Result<Reply, Trouble> {
    all_done(&replies)?;
    Ok(replies.pop().unwrap_or(Reply::Nil))
}

/// An entry of the log: its number, and its fields.
pub(super) fn entry(reply: Reply) -> Option<(String, Vec<Reply>)> {
    let mut parts = list(reply).into_iter();
    let id = String::from_utf8(bytes(parts.next()?)?).ok()?;
    Some((id, list(parts.next()?)))
}

pub(super) fn news_record(fields: &[Reply]) -> Option<Record> {
    let [Reply::Text(name), Reply::Text(text), ..] = fields else { return None };
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

pub(super) fn list(reply: Reply) -> Vec<Reply> {
    if let Reply::List(list) = reply { list } else { Vec::new() }
}

pub(super) fn bytes(reply: Reply) -> Option<Vec<u8>> {
    if let Reply::Text(bytes) = reply { Some(bytes) } else { None }
}

pub(super) fn number(reply: Reply) -> Option<u64> {
    match reply {
        Reply::Number(number) => u64::try_from(number).ok(),
        Reply::Text(bytes) => std::str::from_utf8(&bytes).ok()?.parse().ok(),
        _ => None,
    }
}

/// A block of the table of blocks.
pub(super) fn block_record(field: &[u8], cell: &[u8]) -> Option<Record> {
    let (kind, key) = read_block_field(field)?;
    let (block, subject) = read_block_cell(cell)?;
    Some(Record::Block { kind, key, block, subject })
}
