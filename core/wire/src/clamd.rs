//! The protocol of `ClamAV`'s `clamd`, the client's side: INSTREAM (clamd(8)).
//!
//! ```
//! use mpp_wire::clamd::{Found, response};
//!
//! assert_eq!(response(b"stream: OK\0"), Ok(Found::Nothing));
//! assert_eq!(response(b"stream: Eicar FOUND\0"), Ok(Found::Virus("Eicar".into())));
//! ```

/// No response is longer, in bytes.
pub const RESPONSE_BYTES_MAX: usize = 4096;
/// Begins a stream; chunks follow, each with its length before it.
pub const INSTREAM: &[u8] = b"zINSTREAM\0";
/// Ends a stream.
pub const END: [u8; 4] = [0; 4];

/// What clamd found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// This.
    Virus(String),
}

/// The length that stands before a chunk; a chunk is no longer than that can say.
pub fn length_of(chunk: &[u8]) -> Option<[u8; 4]> {
    Some(u32::try_from(chunk.len()).ok()?.to_be_bytes())
}

/// Reads a whole response, which ends with NUL.
///
/// # Errors
/// It is none, or clamd could not scan; the text is for people.
pub fn response(bytes: &[u8]) -> Result<Found, String> {
    let text = bytes.strip_suffix(&[0]).ok_or("its response is cut off")?;
    let plain = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
    let text: String =
        text.iter().map(|byte| if plain(byte) { char::from(*byte) } else { '?' }).collect();
    let said = text.strip_prefix("stream: ").unwrap_or(&text);
    match said.rsplit_once(' ') {
        None if said == "OK" => Ok(Found::Nothing),
        Some((name, "FOUND")) if !name.is_empty() => Ok(Found::Virus(name.to_owned())),
        Some((what, "ERROR")) => Err(format!("it says {what}")),
        _ => Err("what it says is no response".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_response_is_none() {
        for (bytes, wanted) in [
            (&b""[..], "cut off"),
            (b"stream: OK", "cut off"),
            (b"\0", "no response"),
            (b"stream:  FOUND\0", "no response"),
            (b"stream: maybe\0", "no response"),
            (b"INSTREAM size limit exceeded. ERROR\0", "it says INSTREAM size limit exceeded."),
        ] {
            let error = response(bytes).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
        assert_eq!(response(b"stream: A B\x07 FOUND\0"), Ok(Found::Virus("A B?".into())));
        assert_eq!(length_of(b"abc"), Some([0, 0, 0, 3]));
    }
}
