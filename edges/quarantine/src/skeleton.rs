//! What is left of a message when what nobody reads is left out: a text of bounded size, whatever the
//! message is, that a parser of MIME may safely take apart.
//!
//! Long runs of base64 are counted and left out, and a message that is built to exhaust a parser (parts
//! in parts, a million headers) ends where it goes too far.

use std::io::{self, BufRead as _, BufReader, Read};

/// Bytes that are kept.
const KEPT_MAX: usize = 2 << 20;
/// Lines that are kept: each may be a header, which takes a hundred bytes and more.
const LINES_MAX: usize = 40_000;
/// Lines that may be the beginning of a part.
const BOUNDARIES_MAX: usize = 500;
/// Words that may be a message within a message: a parser goes one step down for each.
const NESTED_MAX: usize = 50;
/// Lines of base64 that are kept of a run: enough for a text.
const RUN_MAX: usize = 1_000;
/// Lines are looked at in pieces of this size.
const PIECE_BYTES: u64 = 4096;
/// A line of base64 is at least so long, but for the last.
const BASE64_LINE_MIN: usize = 56;

/// A message without its bulk.
#[derive(Debug, Default)]
pub(crate) struct Skeleton {
    pub(crate) text: Vec<u8>,
    /// Where in the text something was left out, and how many bytes of base64.
    left_out: Vec<(usize, u64)>,
    /// Whether the message goes on.
    pub(crate) is_cut: bool,
}

impl Skeleton {
    /// Reads a message.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn read(text: impl Read) -> io::Result<Self> {
        let mut text = BufReader::new(text);
        let mut skeleton = Self::default();
        let (mut lines, mut boundaries, mut nested, mut run) = (0, 0, 0, 0);
        let mut piece = Vec::new();
        loop {
            piece.clear();
            if text.by_ref().take(PIECE_BYTES).read_until(b'\n', &mut piece)? == 0 {
                return Ok(skeleton);
            }
            run = if is_base64(&piece) { run + 1 } else { 0 };
            if run > RUN_MAX {
                skeleton.leave_out(piece.trim_ascii_end().len() as u64);
                continue;
            }
            lines += 1;
            boundaries += usize::from(piece.starts_with(b"--"));
            nested += usize::from(may_nest(&piece));
            let is_too_much = skeleton.text.len() + piece.len() > KEPT_MAX
                || lines > LINES_MAX
                || boundaries > BOUNDARIES_MAX
                || nested > NESTED_MAX;
            if is_too_much {
                skeleton.is_cut = true;
                return Ok(skeleton);
            }
            skeleton.text.extend_from_slice(&piece);
        }
    }

    fn leave_out(&mut self, bytes: u64) {
        let here = self.text.len();
        match self.left_out.last_mut() {
            Some((place, count)) if *place == here => *count += bytes,
            _ => self.left_out.push((here, bytes)),
        }
    }

    /// Bytes that what was left out of a part would be, decoded.
    pub(crate) fn left_out(&self, from: usize, to: usize) -> u64 {
        let within = self.left_out.iter().filter(|(place, _)| (from..=to).contains(place));
        within.map(|(_, bytes)| bytes / 4 * 3).sum()
    }
}

fn is_base64(line: &[u8]) -> bool {
    let line = line.trim_ascii_end();
    let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    line.len() >= BASE64_LINE_MIN && line.iter().all(is_letter)
}

/// Whether a line may say that a message within this one follows.
fn may_nest(line: &[u8]) -> bool {
    let has = |word: &[u8]| line.windows(word.len()).any(|it| it.eq_ignore_ascii_case(word));
    has(b"rfc822") || has(b"digest") || has(b"global")
}
