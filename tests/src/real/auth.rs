//! A server that speaks Dovecot's authentication protocol (version 1.1) and knows everybody: every
//! password is right. Postfix asks it about AUTH PLAIN.

use std::fs::Permissions;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Answers on a unix socket for as long as the test binary runs.
pub fn serve(path: &Path) {
    let listener = UnixListener::bind(path).expect("a folder of our own");
    std::fs::set_permissions(path, Permissions::from_mode(0o666)).expect("our own socket");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A Postfix that goes away in the middle has no more questions.
            std::thread::spawn(move || drop(talk(stream)));
        }
    });
}

fn talk(mut stream: UnixStream) -> io::Result<()> {
    let greeting = "VERSION\t1\t1\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\n\
                    COOKIE\t00000000000000000000000000000000\nDONE\n";
    stream.write_all(greeting.as_bytes())?;
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?;
        let mut fields = line.split('\t');
        if fields.next() != Some("AUTH") {
            continue;
        }
        let id = fields.next().unwrap_or_default();
        let response = fields.find_map(|field| field.strip_prefix("resp=")).unwrap_or_default();
        let user = user_of(response);
        stream.write_all(format!("OK\t{id}\tuser={user}\n").as_bytes())?;
    }
    Ok(())
}

/// The second of the three texts of AUTH PLAIN (RFC 4616), which are between NUL bytes.
fn user_of(response: &str) -> String {
    let bytes = decoded(response);
    let user = bytes.split(|byte| *byte == 0).nth(1).unwrap_or_default();
    String::from_utf8_lossy(user).into_owned()
}

const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn decoded(text: &str) -> Vec<u8> {
    let (mut bits, mut count, mut bytes) = (0_u32, 0, Vec::new());
    for letter in text.bytes() {
        let Some(value) = LETTERS.iter().position(|known| *known == letter) else { break };
        bits = (bits << 6 | value as u32) & 0xff_ffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}

/// What a client says to log in as a user: `AUTH PLAIN ...`.
pub fn plain(user: &str) -> String {
    let text = format!("\0{user}\0secret");
    let mut encoded = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let byte = |place: usize| u32::from(chunk.get(place).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize];
            encoded.push(if place > chunk.len() { '=' } else { char::from(letter) });
        }
    }
    format!("AUTH PLAIN {encoded}")
}
