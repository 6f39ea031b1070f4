//! The mark of a message that was released: who carries it passes our filters again.
//!
//! It names the text that was released and those it was released for, and is signed with a key that only
//! this quarantine has: a copy of the mark on another text, for somebody else, or a week later opens
//! nothing.

use std::borrow::Cow;
use std::fs;
use std::io::{self, Read, Write as _};
use std::path::Path;

use mpp_hub::hex::{hex, unhex};
use mpp_hub::id::Id;
use mpp_hub::spool::Spooled;
use mpp_wire::header::{Line, Lines};
use ring::digest;
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::files::private;

const KEY_BYTES: usize = 32;
/// So long a released message may be under way.
pub(crate) const HOLDS_MS: u64 = 7 * 24 * 3600 * 1000;
const PIECE_BYTES: usize = 64 * 1024;
/// Letters of the signature of a recipient: 64 bits.
const RECIPIENT_LETTERS: usize = 16;
/// Recipients of a value that are looked at.
const RECIPIENTS_MAX: usize = 10_000;

/// What signs.
pub(crate) struct Seal {
    key: hmac::Key,
}

impl Seal {
    /// With a secret that other nodes have too; without, with the key of a folder, which is drawn if it
    /// is not there.
    pub(crate) fn open(folder: &Path, secret: Option<&str>) -> io::Result<Self> {
        if let Some(secret) = secret {
            return Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()) });
        }
        let path = folder.join("key");
        let mut bytes = Vec::new();
        match fs::File::open(&path) {
            Ok(file) => drop(file.take(1024).read_to_end(&mut bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        if bytes.len() != KEY_BYTES {
            bytes = vec![0; KEY_BYTES];
            let drawn = SystemRandom::new().fill(&mut bytes);
            drawn.map_err(|_| io::Error::other("the system gives no random bytes"))?;
            let new = folder.join("key.new");
            let mut file = private().write(true).create(true).truncate(true).open(&new)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(new, path)?;
        }
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, &bytes) })
    }

    /// The value of the field: id, time, text and signature, and then a signature for each of those
    /// that it is released for; folded.
    ///
    /// # Errors
    /// The text cannot be read.
    pub(crate) fn value(
        &self,
        (id, recipients): (Id, &[String]),
        now_ms: u64,
        text: &mut dyn Read,
    ) -> io::Result<String> {
        let said = format!("{id} {} {}", now_ms / 1000, text_of(text)?);
        let mut value = format!("{said}\r\n\t{}", self.tag(&said));
        for (number, recipient) in recipients.iter().enumerate() {
            value.push_str(if number % 4 == 0 { "\r\n\t" } else { " " });
            value.push_str(&self.recipient_tag(&said, recipient));
        }
        Ok(value)
    }

    fn recipient_tag(&self, said: &str, recipient: &str) -> String {
        let recipient = recipient.trim_end_matches('.').to_lowercase();
        let mut tag = self.tag(&format!("{said} {recipient}"));
        tag.truncate(RECIPIENT_LETTERS);
        tag
    }

    /// What stands in a value for a recipient, and nowhere else, if he is among those that it names.
    pub(crate) fn tag_of(&self, value: &[u8], recipient: &str) -> Option<String> {
        let (said, _, recipients) = parts(value)?;
        let tag = self.recipient_tag(&said, recipient);
        recipients.contains(&&*tag).then_some(tag)
    }

    /// The signature of a text, as letters.
    pub(crate) fn tag(&self, said: &str) -> String {
        hex(hmac::sign(&self.key, said.as_bytes()).as_ref())
    }

    /// Whether it is the signature of a text; takes the same time whatever is wrong.
    pub(crate) fn is_tag(&self, said: &str, tag: &str) -> bool {
        unhex(tag).is_some_and(|tag| hmac::verify(&self.key, said.as_bytes(), &tag).is_ok())
    }

    /// Whether it is ours, and of this text; of whom, [`Seal::tag_of`] tells. The text is read only if
    /// it is ours.
    pub(crate) fn holds(&self, value: &[u8], text: &Spooled, now_ms: u64) -> bool {
        let Some((said, tag, _)) = parts(value) else { return false };
        let mut words = said.split(' ').skip(1);
        let seconds = words.next().and_then(|seconds| seconds.parse::<u64>().ok()).unwrap_or(0);
        let of = words.next().unwrap_or_default();
        let is_fresh = now_ms.saturating_sub(seconds.saturating_mul(1000)) < HOLDS_MS;
        self.is_tag(&said, tag)
            && is_fresh
            && text_of(&mut Whole { text, place: 0 }).is_ok_and(|text| text == of)
    }
}

/// What a value says, its signature, and those of recipients. It may have been folded anew under way.
fn parts(value: &[u8]) -> Option<(String, &str, Vec<&str>)> {
    let value = std::str::from_utf8(value).ok()?;
    let mut words = value.split_ascii_whitespace();
    let (id, seconds, of) = (words.next()?, words.next()?, words.next()?);
    let tag = words.next()?;
    Some((format!("{id} {seconds} {of}"), tag, words.take(RECIPIENTS_MAX).collect()))
}

/// What the body of a message is: its hash, without the empty lines at its end, which servers on the way
/// may add or take away, and however its lines end. Its header is what they write into.
fn text_of(text: &mut dyn Read) -> io::Result<String> {
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut piece = vec![0; PIECE_BYTES];
    let mut head = Head::default();
    let mut line_ends: u64 = 0;
    loop {
        let length = text.read(&mut piece)?;
        let read = piece.get(..length).unwrap_or_default();
        let behind = head.pass(read);
        if length == 0 && behind.is_empty() {
            break;
        }
        let rest = &*behind;
        for line in rest.split_inclusive(|byte| matches!(byte, b'\r' | b'\n')) {
            let is_ended = line.ends_with(b"\r") || line.ends_with(b"\n");
            let solid = line.get(..line.len() - usize::from(is_ended)).unwrap_or_default();
            if !solid.is_empty() {
                for _ in 0..std::mem::take(&mut line_ends) {
                    hash.update(b"\n");
                }
                hash.update(solid);
            }
            line_ends += u64::from(line.ends_with(b"\n"));
        }
    }
    Ok(hex(hash.finish().as_ref()))
}

/// The header of a message that passes in pieces.
#[derive(Default)]
struct Head {
    lines: Lines,
    /// What has come of a line, before it is known what it is.
    begun: Vec<u8>,
    /// Whether the line under way is one of the header.
    is_told: bool,
    is_over: bool,
}

impl Head {
    /// What of a piece is text, and of the end, which is an empty piece, what was kept back. An empty
    /// line between the two is no part of either: servers put it in where it is missing.
    fn pass<'p>(&mut self, piece: &'p [u8]) -> Cow<'p, [u8]> {
        if self.is_over {
            return piece.into();
        }
        if piece.is_empty() {
            self.is_over = true;
            return std::mem::take(&mut self.begun).into();
        }
        let mut place = 0;
        for line in piece.split_inclusive(|byte| *byte == b'\n') {
            place += line.len();
            if !self.is_told {
                self.begun.extend_from_slice(line);
                let Some(told) = self.lines.tell(&self.begun) else { continue };
                let behind = piece.get(place..).unwrap_or_default();
                let begun = std::mem::take(&mut self.begun);
                self.is_over = matches!(told, Line::Empty | Line::Text);
                match told {
                    Line::Empty => return behind.into(),
                    Line::Text => return [&begun, behind].concat().into(),
                    Line::Field { .. } | Line::Fold | Line::Mailbox => {}
                }
            }
            self.is_told = !line.ends_with(b"\n");
        }
        Cow::default()
    }
}

/// A message in the spool, to be read from its beginning.
struct Whole<'a> {
    text: &'a Spooled,
    place: u64,
}

impl Read for Whole<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = self.text.read_at(self.place, out)?;
        self.place += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn spooled(text: &[u8]) -> std::sync::Arc<Spooled> {
        let settings =
            mpp_config::Spool { message_memory: 1 << 30, memory: 1 << 30, size: 1 << 30 };
        let mut writer = mpp_hub::spool::Spool::new(Path::new("/nowhere"), &settings).begin();
        writer.write(text).unwrap();
        writer.finish()
    }

    #[test]
    fn a_mark_holds_for_one_text_and_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let seal = Seal::open(folder.path(), None).unwrap();
        let (id, now_ms) = (Id::at(1_795_528_230_007), 1_795_528_230_007);
        let text = spooled(b"Subject: a\r\n\r\nbuy\r\nthis\r\n");
        let to = ["Bob@x.example".to_owned(), "eve@x.example".to_owned()];
        let value = seal.value((id, &to), now_ms, &mut Whole { text: &text, place: 0 }).unwrap();
        let tag = |name: &str| seal.tag_of(value.as_bytes(), name);
        assert!(tag("bob@X.example").is_some() && tag("bob@x.example.") == tag("BOB@x.example"));
        assert!(tag("eve@x.example").is_some() && tag("eve@x.example") != tag("bob@x.example"));
        assert!(tag("ann@x.example").is_none() && tag("").is_none());
        // Servers on the way write into the header and at the end.
        for same in ["Received: x\r\n\r\nbuy\r\nthis\r\n\r\n", "\r\nbuy\r\nthis"] {
            assert!(seal.holds(value.as_bytes(), &spooled(same.as_bytes()), now_ms), "{same:?}");
        }
        let folded = value.replace("\r\n\t", " ").replace(' ', "\r\n\t ");
        assert!(seal.holds(folded.as_bytes(), &text, now_ms + HOLDS_MS - 2_000));
        assert!(!seal.holds(value.as_bytes(), &text, now_ms + HOLDS_MS + 1_000));
        for other in ["Subject: a\r\n\r\nbuy\r\nthat\r\n", "\r\nbuy\r\n\r\nthis\r\n", ""] {
            assert!(!seal.holds(value.as_bytes(), &spooled(other.as_bytes()), now_ms), "{other:?}");
        }
        for forged in [
            value.replace(&id.to_string(), "0000000000"),
            value.replacen(' ', " 1", 1),
            value.replacen("\r\n\t", "\r\n\t0", 1),
            value.split_at(60).0.to_owned(),
            String::new(),
            "\0".repeat(1000),
        ] {
            assert!(!seal.holds(forged.as_bytes(), &text, now_ms), "{forged:?}");
        }
        // The key stays, and nobody else has it.
        assert!(Seal::open(folder.path(), None).unwrap().holds(value.as_bytes(), &text, now_ms));
        let other = tempfile::tempdir().unwrap();
        assert!(!Seal::open(other.path(), None).unwrap().holds(value.as_bytes(), &text, now_ms));
        // Two nodes that have one secret know each other's.
        let [one, two] = [&folder, &other].map(|at| Seal::open(at.path(), Some("s")).unwrap());
        let value = one.value((id, &to), now_ms, &mut Whole { text: &text, place: 0 }).unwrap();
        assert!(
            two.holds(value.as_bytes(), &text, now_ms)
                && !seal.holds(value.as_bytes(), &text, now_ms)
        );
        let mode = fs::metadata(folder.path().join("key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn the_text_begins_where_the_header_ends() {
        let of = |message: &str| text_of(&mut message.as_bytes()).unwrap();
        let wanted = of("\r\nno field\r\nA: b\r\n");
        for same in [
            "A: b\r\n\r\nno field\r\nA: b\r\n",
            "A: b\r\nno field\r\nA: b\r\n",
            "From x\r\nA: b\r\n c\r\nD: e\r\nno field\r\nA: b",
            "no field\r\nA: b",
        ] {
            assert_eq!(of(same), wanted, "{same:?}");
        }
        assert_ne!(of("A: b\r\nno field\r\nA: c\r\n"), wanted);
        assert_ne!(of("A: b\r\nbuy\r\nA: b\r\n"), wanted);
        assert_eq!(of("A: b\r\nno fi"), of("\r\nno fi"));
    }

    #[test]
    fn where_a_piece_ends_does_not_matter() {
        let of = |head: usize, line: &str| {
            let text = format!("A: {}\r\n\r\n{}", "x".repeat(head), line.repeat(4_000));
            text_of(&mut text.as_bytes()).unwrap()
        };
        let wanted = of(1, "0123456789012345\r\n\r\n");
        for head in 2..40 {
            assert_eq!(of(head, "0123456789012345\r\n\r\n"), wanted);
        }
        assert_ne!(of(1, "0123456789012345\r\n"), wanted);
    }
}
