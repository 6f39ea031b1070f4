//! Replies of an SMTP server that is out to do harm: read the same however they are cut, never
//! kept without bound, and no byte of one reply is ever part of another.

use mpp_wire::smtp::{Decoder, LINE_BYTES_MAX, LINES_MAX, Malformed, path};

/// The code and the number of lines of each reply, the fault at the end, bytes held.
type Decoded = (Vec<(u16, usize)>, Option<Malformed>, usize);

fn decoded<'b>(pieces: impl Iterator<Item = &'b [u8]>) -> Decoded {
    let mut decoder = Decoder::default();
    let mut seen = Vec::new();
    for piece in pieces {
        decoder.feed(piece);
        while let Some(reply) = decoder.next_reply() {
            match reply {
                Ok(reply) => {
                    assert!(!reply.text().chars().any(char::is_control));
                    seen.push((reply.code, reply.lines.len()));
                }
                Err(malformed) => return (seen, Some(malformed), 0),
            }
        }
        assert!(decoder.held() <= (LINE_BYTES_MAX + 2) * (LINES_MAX + 1), "an unbounded buffer");
    }
    (seen, None, decoder.held())
}

/// The same, the slow and simple way, of bytes without a fault: lines of replies, and what is left.
fn model(bytes: &[u8]) -> (Vec<(u16, usize)>, usize) {
    let mut seen = Vec::new();
    let (mut rest, mut unfinished, mut lines) = (bytes, bytes, 0);
    while let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
        let (line, behind) = rest.split_at(end);
        rest = behind.get(2..).unwrap_or_default();
        lines += 1;
        if line.get(3) != Some(&b'-') {
            let code = String::from_utf8_lossy(line.get(..3).unwrap_or_default());
            seen.push((code.parse().unwrap_or(0), lines));
            (unfinished, lines) = (rest, 0);
        }
    }
    (seen, unfinished.len())
}

/// The first byte says how the rest is cut; the rest is also tried as an address.
pub fn smtp(bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let whole = decoded(std::iter::once(bytes));
    let pieces = decoded(bytes.chunks(usize::from(*cut % 64) + 1));
    assert_eq!(pieces, whole, "cut into pieces of {}", cut % 64 + 1);
    if whole.1.is_none() {
        assert_eq!((whole.0, whole.2), model(bytes), "bytes were lost or made up");
    }
    let text = String::from_utf8_lossy(bytes);
    let (local, domain) = text.rsplit_once('@').unwrap_or((&text, "example.org"));
    if let Some(path) = path(local, domain) {
        assert!(path.text.starts_with('<') && path.text.ends_with('>'));
        assert!(!path.text.chars().any(char::is_control), "an address with a command in it");
    }
}
