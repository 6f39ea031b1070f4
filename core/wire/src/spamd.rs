//! The protocol of `SpamAssassin`'s `spamd`, the client's side (spamd/PROTOCOL in its source).
//!
//! ```
//! use mpp_wire::spamd::{request, response};
//!
//! assert_eq!(request("", 5), "SYMBOLS SPAMC/1.5\r\nContent-length: 5\r\n\r\n");
//! let said = b"SPAMD/1.1 0 EX_OK\r\nContent-length: 5\r\nSpam: True ; 7.5 / 5.0\r\n\r\nA,B\r\n";
//! let read = response(said).unwrap();
//! assert_eq!((read.score, read.required, &*read.tests), (7.5, 5.0, "A,B"));
//! ```

/// No response that is of use is longer, in bytes.
pub const RESPONSE_BYTES_MAX: usize = 64 * 1024;

/// What spamd found.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    /// The score.
    pub score: f64,
    /// From which score on it calls a message spam.
    pub required: f64,
    /// The names of the rules that matched, with commas; printable ASCII.
    pub tests: String,
}

/// Asks for score and rules of a message of so many bytes, which follows. `user` must be graphic
/// ASCII; empty for nobody.
pub fn request(user: &str, bytes: u64) -> String {
    let mut text = String::from("SYMBOLS SPAMC/1.5\r\n");
    if !user.is_empty() {
        text.push_str("User: ");
        text.push_str(user);
        text.push_str("\r\n");
    }
    text.push_str("Content-length: ");
    text.push_str(&bytes.to_string());
    text.push_str("\r\n\r\n");
    text
}

/// Reads a whole response.
///
/// # Errors
/// It is none, or spamd could not scan; the text is for people.
pub fn response(bytes: &[u8]) -> Result<Response, String> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.ok_or("what it says is no response")?;
    let head = std::str::from_utf8(bytes.get(..end).unwrap_or_default());
    let mut lines = head.map_err(|_| "what it says is no response")?.split("\r\n");
    let status = lines.next().unwrap_or_default();
    let mut words = status.split(' ').filter(|word| !word.is_empty());
    let is_spamd = words.next().is_some_and(|word| word.starts_with("SPAMD/"));
    match (is_spamd, words.next()) {
        (true, Some("0")) => {}
        (true, Some(_)) => return Err(format!("it says {}", printable(status.as_bytes()))),
        _ => return Err("what it says is no response".into()),
    }
    let mut scores = None;
    let mut length = None;
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("Spam") {
            scores = read_scores(value);
        } else if name.eq_ignore_ascii_case("Content-length") {
            length = value.trim().parse::<usize>().ok();
        }
    }
    let (score, required) = scores.ok_or("it says no score")?;
    let body = bytes.get(end + 4..).unwrap_or_default();
    if length.is_some_and(|length| length > body.len()) {
        return Err("its response is cut off".into());
    }
    Ok(Response { score, required, tests: printable(body.trim_ascii()) })
}

/// ` True ; 1000.0 / 5.0`
fn read_scores(value: &str) -> Option<(f64, f64)> {
    let (score, required) = value.split_once(';')?.1.split_once('/')?;
    let read = |text: &str| text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
    Some((read(score)?, read(required)?))
}

fn printable(bytes: &[u8]) -> String {
    let plain = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
    let shown = bytes.iter().take(1000);
    shown.map(|byte| if plain(byte) { char::from(*byte) } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_response_is_none() {
        for (bytes, wanted) in [
            (&b""[..], "no response"),
            (b"HTTP/1.1 200 OK\r\n\r\n", "no response"),
            (b"SPAMD/1.1 0 EX_OK\r\nSpam: True ; 7.5 / 5.0\r\n", "no response"),
            (b"SPAMD/1.1 76 EX_PROTOCOL\r\n\r\n", "it says SPAMD/1.1 76"),
            (b"SPAMD/1.1 0 EX_OK\r\n\r\n", "no score"),
            (b"SPAMD/1.1 0 EX_OK\r\nSpam: True ; NaN / 5.0\r\n\r\n", "no score"),
            (b"SPAMD/1.1 0 EX_OK\r\nSpam: True ; 1e999 / 5.0\r\n\r\n", "no score"),
            (b"SPAMD/1.1 0 EX_OK\r\nSpam: True\r\n\r\n", "no score"),
            (b"SPAMD/1.1 0 EX_OK\r\nSpam: True ; 1 / 5\r\nContent-length: 9\r\n\r\nA", "cut off"),
        ] {
            let error = response(bytes).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
        let odd = b"SPAMD/1.1 0 EX_OK\r\nSpam: False ; -1.5 / 5.0\r\n\r\nA\x07\r\nB";
        let read = response(odd).unwrap();
        assert_eq!((read.score, &*read.tests), (-1.5, "A???B"));
    }
}
