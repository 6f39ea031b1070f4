//! The form of the store's files: a head, then frames with checksums.
//!
//! A journal's frame is one group commit, a snapshot's some pieces of the tables. The head of a
//! frame has a checksum of its own, so a flipped bit in a length is told from a frame cut short.

use crate::record::{Bytes, push_u32, push_u64};

/// The first four bytes of a file.
pub(crate) type Magic = [u8; 4];

pub(crate) const JOURNAL: Magic = *b"mppJ";
pub(crate) const SNAPSHOT: Magic = *b"mppS";
const FRAME: Magic = *b"mppF";

/// Version of both forms.
const VERSION: u32 = 1;
/// Bytes of a file's head. It has this form in all versions.
pub(crate) const HEAD_BYTES: usize = 40;
/// Bytes of a frame's head.
pub(crate) const FRAME_BYTES: usize = 24;

/// What the head of a file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The secret of the store that it belongs to.
    pub(crate) seed: u64,
    /// Its own number. Of a snapshot: also that of the first journal behind it.
    pub(crate) number: u64,
    /// Records that were made before it.
    pub(crate) records: u64,
    /// Of a journal: not all of those are in the journals before it.
    pub(crate) has_gap: bool,
}

/// What does not fit, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// It was written by a newer mpp, in this version.
    Newer(u32),
    /// It is damaged at this byte.
    Damage(u64, &'static str),
}

impl Head {
    pub(crate) fn to_bytes(self, magic: Magic) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES);
        bytes.extend_from_slice(&magic);
        push_u32(VERSION, &mut bytes);
        push_u64(self.seed, &mut bytes);
        push_u64(self.number, &mut bytes);
        push_u64(self.records, &mut bytes);
        push_u32(u32::from(self.has_gap), &mut bytes);
        let checksum = crc32fast::hash(&bytes);
        push_u32(checksum, &mut bytes);
        bytes
    }

    /// Reads the head of a file that has at least [`HEAD_BYTES`].
    pub(crate) fn from_bytes(magic: Magic, bytes: &[u8]) -> Result<Self, Bad> {
        let cut = Bad::Damage(0, "the head is cut short");
        let (head, _) = bytes.split_at_checked(HEAD_BYTES).ok_or(cut)?;
        let (covered, checksum) = head.split_at_checked(HEAD_BYTES - 4).ok_or(cut)?;
        let (mut rest, mut checksum) = (Bytes(covered), Bytes(checksum));
        let is_ours = rest.array() == Some(magic);
        if checksum.u32() != Some(crc32fast::hash(covered)) {
            let what =
                if is_ours { "the checksum of the head does not fit" } else { "not a store's" };
            return Err(Bad::Damage(0, what));
        }
        let mut read = || {
            let version = rest.u32()?;
            let head = Self {
                seed: rest.u64()?,
                number: rest.u64()?,
                records: rest.u64()?,
                has_gap: rest.u32()? != 0,
            };
            Some((version, head))
        };
        match read() {
            Some((version, _)) if version > VERSION => Err(Bad::Newer(version)),
            Some((_, head)) if is_ours => Ok(head),
            _ => Err(Bad::Damage(0, "another file has this name")),
        }
    }
}

/// Appends a frame. Its number is that of the first record in it, or of the first piece.
pub(crate) fn push_frame(number: u64, body: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&FRAME);
    push_u32(u32::try_from(body.len()).unwrap_or(u32::MAX), out);
    push_u64(number, out);
    push_u32(crc32fast::hash(body), out);
    let checksum = crc32fast::hash(out.get(start..).unwrap_or_default());
    push_u32(checksum, out);
    out.extend_from_slice(body);
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHead {
    pub(crate) length: usize,
    pub(crate) number: u64,
    checksum: u32,
}

impl FrameHead {
    /// Reads a head; nothing if it is none.
    pub(crate) fn take(bytes: &mut Bytes<'_>) -> Option<Self> {
        let head = bytes.slice(FRAME_BYTES)?;
        let (covered, checksum) = head.split_at_checked(FRAME_BYTES - 4)?;
        if Bytes(checksum).u32()? != crc32fast::hash(covered) {
            return None;
        }
        let mut rest = Bytes(covered);
        if rest.array() != Some(FRAME) {
            return None;
        }
        let length = usize::try_from(rest.u32()?).ok()?;
        Some(Self { length, number: rest.u64()?, checksum: rest.u32()? })
    }

    /// Whether that is the body it was written with.
    pub(crate) fn fits(&self, body: &[u8]) -> bool {
        body.len() == self.length && crc32fast::hash(body) == self.checksum
    }
}

/// The next whole frame: its number and its body.
pub(crate) fn take_frame<'b>(bytes: &mut Bytes<'b>) -> Option<(u64, &'b [u8])> {
    let mut rest = *bytes;
    let head = FrameHead::take(&mut rest)?;
    let body = rest.slice(head.length)?;
    head.fits(body).then(|| {
        *bytes = rest;
        (head.number, body)
    })
}

/// How many bytes lie before the next whole frame, if there is one.
pub(crate) fn find_frame(bytes: &[u8]) -> Option<usize> {
    let starts = bytes.windows(FRAME.len()).enumerate();
    starts
        .filter(|(_, window)| *window == FRAME)
        .map(|(at, _)| at)
        .find(|at| take_frame(&mut Bytes(bytes.get(*at..).unwrap_or_default())).is_some())
}
