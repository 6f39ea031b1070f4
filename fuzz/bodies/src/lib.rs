//! What the fuzz targets do with their bytes. Each says what must hold, not only that nothing
//! panics: where bytes go, that pieces make no difference, that places lie inside their text.
//!
//! `fuzz/fuzz_targets` hands them what libFuzzer finds (nightly); `tests/stable.rs` hands them the
//! seeds and mutations of them, for a bounded time and on a stable toolchain.
#![allow(clippy::missing_panics_doc, reason = "to panic is how they tell")]

mod btree;
mod smtp;
mod store;

use std::collections::BTreeMap;

use mpp_engine::address;
use mpp_engine::identity::{Keyring, Parties, parse_subject};
use mpp_engine::network;
use mpp_engine::question::IdentityKind;
use mpp_settings::diagnostic::Severity;
use mpp_wire::ldap;
use mpp_wire::milter;
use mpp_wire::milter_answer::Answer;
use mpp_wire::policy::{Decoder, Malformed, REQUEST_BYTES_MAX, Request};
use mpp_wire::proxy_protocol;
use mpp_wire::smtp_server;

pub use btree::btree;
pub use smtp::smtp;
pub use store::store;

/// What a decoder made of pieces: requests as text, the fault that ended it, bytes held.
fn decoded<'b>(pieces: impl Iterator<Item = &'b [u8]>) -> (Vec<String>, Option<Malformed>, usize) {
    let mut decoder = Decoder::default();
    let mut seen = Vec::new();
    for piece in pieces {
        let mut requests = decoder.feed(piece);
        while let Some(request) = requests.next_request() {
            match request {
                Ok(request) => seen.push(format!("{request:?}")),
                Err(malformed) => return (seen, Some(malformed), 0),
            }
        }
        drop(requests);
        assert!(decoder.held() <= REQUEST_BYTES_MAX, "an unbounded buffer");
    }
    (seen, None, decoder.held())
}

/// Every byte of a stream belongs to a request, to what is held, or comes after a fault.
pub fn policy(bytes: &[u8]) {
    let (seen, malformed, held) = decoded(std::iter::once(bytes));
    let mut rest = bytes;
    let mut wanted = Vec::new();
    while let Some(end) = rest.windows(2).position(|pair| pair == b"\n\n") {
        let (lines, tail) = rest.split_at(end);
        match Request::parse(lines) {
            Ok(request) if end <= REQUEST_BYTES_MAX => wanted.push(format!("{request:?}")),
            _ => break,
        }
        rest = tail.get(2..).unwrap_or_default();
    }
    assert_eq!(seen, wanted, "requests were lost or made up");
    if malformed.is_none() {
        assert_eq!(held, rest.len(), "bytes were lost or made up");
    }
}

/// Commands up to DATA or BDAT, then text: every byte is handed out or held, nothing that is passed on can be
/// taken for an end of the message by anybody, and pieces make no difference.
pub fn smtp_server(bytes: &[u8]) {
    use smtp_server::{Command, Decoder, Syntax, Text};
    let read = |size: usize| {
        let (mut decoder, mut is_text) = (Decoder::new(Syntax::Strict), false);
        // The chunk under way: what is to come of it, and whether it is the last.
        let mut chunk: Option<(u64, bool)> = None;
        let mut is_chunked = false;
        let (mut seen, mut text) = (Vec::new(), Vec::new());
        for piece in bytes.chunks(size) {
            decoder.feed(piece);
            loop {
                if let Some((left, is_last)) = &mut chunk {
                    match decoder.chunk(left, &mut text) {
                        Text::More => break,
                        Text::BareLineEnd => return (seen, text, true),
                        Text::End => {
                            if *is_last && decoder.end_of_chunks(&mut text) == Text::BareLineEnd {
                                return (seen, text, true);
                            }
                            is_chunked = !*is_last;
                            chunk = None;
                        }
                    }
                    continue;
                }
                if is_text {
                    match decoder.text(&mut text) {
                        Text::More => break,
                        Text::End => is_text = false,
                        Text::BareLineEnd => return (seen, text, true),
                    }
                    continue;
                }
                match decoder.next_command() {
                    Ok(Some(command)) => {
                        is_text = command == Command::Data;
                        if let Command::Rcpt { path, .. } = &command {
                            let again = format!("<{path}>");
                            let read = address::Path::parse(again.as_bytes());
                            assert_eq!(read, Ok((path.clone(), &b""[..])), "read otherwise");
                        }
                        if let Command::Bdat { bytes, is_last } = command {
                            chunk = Some((bytes, is_last));
                        }
                        seen.push(format!("{command:?}"));
                        if is_text || (chunk.is_some() && !is_chunked) {
                            decoder.begin_text();
                            // Messages are apart.
                            text.extend_from_slice(b"\r\n--\r\n");
                        }
                    }
                    Ok(None) => break,
                    Err(fault) => {
                        seen.push(fault.to_string());
                        return (seen, text, true);
                    }
                }
            }
            let most = smtp_server::COMMAND_BYTES_MAX + 2 + size;
            assert!(decoder.held() <= most, "an unbounded buffer");
        }
        (seen, text, false)
    };
    let whole = read(bytes.len().max(1));
    assert_eq!(whole, read(3), "it matters how it is cut");
    let text = String::from_utf8_lossy(&whole.1).replace("\r\n", "");
    assert!(!text.contains(['\r', '\n']), "a bare line end was passed on");
}

/// What was once a header, or none, stays so however much follows; a header lies inside its bytes,
/// and nobody is asked for more without bound.
pub fn proxy_protocol(bytes: &[u8]) {
    use proxy_protocol::{HEADER_BYTES_MAX, Reading, read};
    let whole = read(bytes);
    assert!(whole != Reading::More || bytes.len() < HEADER_BYTES_MAX, "it waits without bound");
    let mut settled = None;
    for cut in (0..bytes.len().min(HEADER_BYTES_MAX)).chain([bytes.len()]) {
        let now = read(bytes.get(..cut).unwrap_or_default());
        if let Reading::Header { source, taken } = now {
            assert!(taken <= cut, "more than there is");
            let is_plain = source.is_none_or(|it| it.ip() == it.ip().to_canonical());
            assert!(is_plain, "one client under two addresses");
        }
        if let Some(settled) = settled {
            assert_eq!(now, settled, "another answer at {cut}");
        } else if now != Reading::More {
            settled = Some(now);
        }
    }
}

/// A mail server's packets are the same however they are cut, and never more is held than one.
pub fn milter(bytes: &[u8]) {
    let read = |size: usize| {
        let mut decoder = milter::Decoder::default();
        let mut seen = Vec::new();
        for piece in bytes.chunks(size) {
            decoder.feed(piece);
            loop {
                match decoder.next_event() {
                    Ok(Some(event)) => seen.push(format!("{event:?}")),
                    Ok(None) => break,
                    Err(malformed) => return (seen, Some(malformed)),
                }
            }
            assert!(decoder.held() <= milter::PACKET_BYTES_MAX + size, "an unbounded buffer");
        }
        (seen, None)
    };
    assert_eq!(read(bytes.len().max(1)), read(5), "it matters how it is cut");
}

/// Whatever texts an answer to a mail server is made of: it is one packet, its length is true, and
/// no text ends early or begins another line.
pub fn milter_answer(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (name, value) = text.split_once(':').unwrap_or((&text, ""));
    let place = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    // Each with how many bytes come before its texts, and how many texts there are.
    for (answer, before, texts) in [
        (Answer::AddHeader { name, value: value.as_bytes() }, 1, 2),
        (Answer::InsertHeader { place, name, value: value.as_bytes() }, 5, 2),
        (Answer::RemoveHeader { place, name: bytes }, 5, 2),
        (Answer::RemoveRecipient(bytes), 1, 1),
        (Answer::AddRecipientWith { address: name, parameters: value }, 1, 2),
        (Answer::Quarantine(name), 1, 1),
        (Answer::Reply { code: 550, status: "5.7.1", text: value }, 1, 1),
    ] {
        let mut out = Vec::new();
        answer.push(&mut out);
        let (length, packet) = out.split_first_chunk::<4>().unwrap_or((&[0; 4], b""));
        assert_eq!(u32::from_be_bytes(*length) as usize, packet.len());
        let said = packet.get(before..).unwrap_or_default();
        assert_eq!(said.split(|byte| *byte == 0).count(), texts + 1);
        assert!(said.ends_with(b"\0") && !said.contains(&b'\r'));
        // Within the value of a header field a line may be folded.
        let is_fold = |rest: &[u8]| texts == 2 && matches!(rest, [b' ' | b'\t', ..]);
        assert!(said.split(|byte| *byte == b'\n').skip(1).all(is_fold));
    }
}

/// What an LDAP server sends reads the same however it is cut, and is never held without bound.
pub fn ldap(bytes: &[u8]) {
    let read = |size: usize| {
        let mut decoder = ldap::Decoder::default();
        let mut seen = Vec::new();
        for piece in bytes.chunks(size) {
            decoder.feed(piece);
            loop {
                match decoder.next_message() {
                    Ok(Some(received)) => seen.push(received),
                    Ok(None) => break,
                    Err(malformed) => return (seen, Some(malformed)),
                }
            }
            let most = ldap::MESSAGE_BYTES_MAX + size;
            assert!(decoder.held() <= most, "an unbounded buffer");
        }
        (seen, None)
    };
    let whole = read(bytes.len().max(1));
    assert_eq!(whole, read(7), "it matters how it is cut");
}

/// A stream reads the same however it is cut: the first byte says how.
pub fn policy_split(bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let whole = decoded(std::iter::once(bytes));
    let pieces = decoded(bytes.chunks(usize::from(*cut % 64) + 1));
    assert_eq!(pieces.0, whole.0, "cut into pieces of {}", cut % 64 + 1);
    assert_eq!(pieces.1, whole.1, "cut into pieces of {}", cut % 64 + 1);
    if whole.1.is_none() {
        assert_eq!(pieces.2, whole.2);
    }
}

/// A configuration is taken or explained; every place lies inside its file.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let list = |lines: &str| lines.to_owned();
    let files = BTreeMap::from([
        ("list.txt".to_owned(), list("192.0.2.1\nexample.org\n^trap@\n")),
        ("empty.txt".to_owned(), String::new()),
    ]);
    let compiled = mpp_config::compile("mpp.toml", &text, &files, 7);
    let mut errors = 0;
    for diagnostic in &compiled.diagnostics {
        assert!(!diagnostic.message.is_empty() && !diagnostic.message.contains('\n'));
        let also = diagnostic.also.as_ref().map(|(place, _)| place);
        for place in diagnostic.place.iter().chain(also) {
            let file = compiled.files.get(place.file);
            let inside = file.and_then(|file| file.text.get(place.span.clone()));
            assert!(inside.is_some(), "{diagnostic:?} is outside of its file");
        }
        errors += usize::from(diagnostic.severity == Severity::Error);
    }
    let is_taken = compiled.configuration.is_some();
    assert_eq!(is_taken, errors == 0 && compiled.wanted.is_empty(), "neither taken nor explained");
    let again = mpp_config::compile("mpp.toml", &text, &files, 7);
    assert_eq!(again.diagnostics, compiled.diagnostics, "the same text, another explanation");
}

/// Whatever stands for an address, its parts are of it, and keys can be made.
pub fn address(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes).to_lowercase();
    let (local, domain) = address::split(&text);
    assert!(text.starts_with(local) && text.ends_with(domain));
    let marks = usize::from(text.contains('@'));
    assert_eq!(local.len() + marks + domain.len(), text.len());
    assert!(!domain.contains('@'));
    if let Ok(path) = address::Path::resolve(bytes) {
        let again = address::Path::resolve(format!("<{path}>").as_bytes());
        assert!(again.is_ok(), "{path} is not taken again");
    }
    for push in [address::push_stable_sender, address::push_steady_sender] {
        let (mut once, mut twice) = (String::from("x"), String::new());
        push(&text, &mut once);
        push(&text, &mut twice);
        assert_eq!(once.strip_prefix('x'), Some(twice.as_str()), "it only appends");
        assert!(twice.len() <= text.len() + 5 && twice.ends_with(domain));
    }
    let ring = Keyring::new(9, 24, 64);
    for (kind, _) in IdentityKind::ALL {
        if let Ok(subject) = parse_subject(kind, &text) {
            assert_eq!(ring.subject(&subject), ring.subject(&subject));
        }
    }
    if let Ok(network) = network::parse(&text) {
        assert!(network.contains(&network.addr()));
        assert_eq!(network::parse(&network.to_string()), Ok(network));
    }
    let client = "192.0.2.7".parse().unwrap_or(std::net::Ipv4Addr::UNSPECIFIED.into());
    let parties = Parties {
        client,
        organisation: ring.organisation(&text, client),
        helo: &text,
        sender: &text,
        recipient: &text,
        sasl_user: &text,
    };
    let mut scratch = String::new();
    let keys = ring.keys(&parties, &mut scratch);
    let again = ring.keys(&parties, &mut scratch);
    assert_eq!(format!("{keys:?}"), format!("{again:?}"), "the same address, another key");
}

/// What spamd may say: a score that is a number and text that can be shown, or nothing.
pub fn spamd(bytes: &[u8]) {
    if let Ok(read) = mpp_wire::spamd::response(bytes) {
        assert!(read.score.is_finite() && read.required.is_finite());
        assert!(read.tests.len() <= 1000 && !read.tests.chars().any(char::is_control));
    }
}

/// What clamd may say: a virus has a name that can be shown.
pub fn clamd(bytes: &[u8]) {
    if let Ok(mpp_wire::clamd::Found::Virus(name)) = mpp_wire::clamd::response(bytes) {
        assert!(!name.is_empty() && !name.chars().any(char::is_control));
    }
}

/// What a Redis may say: the same replies in whatever pieces they come. How long the pieces are says the
/// first byte.
pub fn resp(bytes: &[u8]) {
    let Some((first, bytes)) = bytes.split_first() else { return };
    let read = |piece: usize| {
        let (mut decoder, mut held) = (mpp_wire::resp::Decoder::default(), Vec::new());
        let mut replies = Vec::new();
        for piece in bytes.chunks(piece) {
            held.extend_from_slice(piece);
            loop {
                let Ok((used, reply)) = decoder.take(&held) else { return (replies, false) };
                held.drain(..used);
                match reply {
                    Some(reply) => replies.push(reply),
                    None => break,
                }
            }
        }
        (replies, true)
    };
    let (whole, in_pieces) = (read(bytes.len().max(1)), read(usize::from(*first) + 1));
    assert_eq!(whole, in_pieces);
}

/// Fields and what follows are the message, and its lines are told apart by pieces as by all of it.
pub fn header(bytes: &[u8]) {
    use mpp_wire::header::{Line, Lines, NAME_BYTES_MAX, fields, text};

    let mut all = fields(bytes);
    let mut together: Vec<u8> = all.by_ref().flat_map(|field| field.bytes.to_vec()).collect();
    let header = together.len();
    together.extend_from_slice(all.rest());
    assert_eq!(together, bytes);
    assert!(bytes.ends_with(text(bytes)));
    let (mut lines, mut place) = (Lines::default(), 0);
    for line in bytes.split_inclusive(|byte| *byte == b'\n').take_while(|it| it.ends_with(b"\n")) {
        let mut ends = 1..=line.len().min(NAME_BYTES_MAX + 64);
        let told = ends.find_map(|end| lines.tell(line.get(..end).unwrap_or_default()));
        let is_over = matches!(told, Some(Line::Empty | Line::Text) | None);
        assert!(place >= header || !is_over, "the header ends before its fields");
        if is_over {
            return;
        }
        place += line.len();
    }
}

/// A response of HTTP: the same in whatever pieces it comes, and no longer than it may be. How long the
/// pieces are says the first byte.
pub fn http(bytes: &[u8]) {
    let Some((first, bytes)) = bytes.split_first() else { return };
    let read = |piece: usize| {
        let mut response = mpp_wire::http::Response::default();
        for piece in bytes.chunks(piece) {
            match response.feed(piece) {
                Ok(false) => {}
                Ok(true) => break,
                Err(fault) => return Err(fault),
            }
        }
        response.body().map(<[u8]>::to_vec)
    };
    let (whole, in_pieces) = (read(bytes.len().max(1)), read(usize::from(*first) + 1));
    if let Ok(whole) = whole {
        assert!(whole.len() <= mpp_wire::http::RESPONSE_BYTES_MAX);
        assert_eq!(in_pieces, Ok(whole));
    }
}
