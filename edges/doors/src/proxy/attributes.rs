//! The attributes of XFORWARD and XCLIENT (Postfix, `XFORWARD_README` and `XCLIENT_README`).

use std::fmt::Write as _;
use std::net::IpAddr;

use super::client::Client;

/// A value may be so long.
const VALUE_BYTES_MAX: usize = 255;

/// Takes what a peer says of the client. XCLIENT knows LOGIN, XFORWARD knows IDENT and SOURCE.
///
/// The names are the peer's, and one that is not known is a mistake of it. Values are often what a
/// stranger has said to it (HELO): whatever they are, they must not cost the others.
///
/// # Errors
/// The reply to what is no list of attributes; nothing is taken of it.
pub(crate) fn take(
    attributes: &str,
    (client, peer): (&mut Client, Option<IpAddr>),
    is_xclient: bool,
) -> Result<(), &'static str> {
    const SYNTAX: &str = "501 5.5.4 Syntax error\r\n";
    let mut read = Vec::new();
    for attribute in attributes.split(' ').filter(|word| !word.is_empty()) {
        let (name, value) = attribute.split_once('=').ok_or(SYNTAX)?;
        let value = from_xtext(value);
        let is_nothing = ["[UNAVAILABLE]", "[TEMPUNAVAIL]"]
            .iter()
            .any(|nothing| value.eq_ignore_ascii_case(nothing));
        let name = name.to_ascii_uppercase();
        let is_known = match name.as_str() {
            "NAME" | "ADDR" | "PORT" | "PROTO" | "HELO" => true,
            "LOGIN" | "DESTADDR" | "DESTPORT" => is_xclient,
            "IDENT" | "SOURCE" => !is_xclient,
            _ => false,
        };
        if !is_known {
            return Err("501 5.5.4 Attribute not known\r\n");
        }
        read.push((name, if is_nothing { String::new() } else { value }));
    }
    for (name, value) in read {
        match name.as_str() {
            "NAME" => {
                client.forget_look_up();
                client.reverse_name.clone_from(&value);
                client.name = value;
            }
            "ADDR" => {
                let told = mpp_address::host_address(&value);
                client.is_ours &= told.is_none();
                client.address = told.or(peer);
            }
            "PORT" => client.port = value.parse().unwrap_or(0),
            "PROTO" => client.protocol = value,
            "HELO" => client.helo = value,
            "LOGIN" => client.login = value,
            "IDENT" => client.queue_id = value,
            "SOURCE" => client.is_local = value.eq_ignore_ascii_case("LOCAL"),
            _ => {}
        }
    }
    Ok(())
}

/// The XFORWARD commands for a next hop that takes these attributes, each within 512 bytes.
pub(crate) fn xforward(client: &Client, ident: &str, taken: &[String]) -> Vec<String> {
    let address = client.address.map(|address| match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("IPV6:{v6}"),
    });
    let port = if client.port == 0 { String::new() } else { client.port.to_string() };
    let ident = if client.queue_id.is_empty() { ident } else { &client.queue_id };
    let source = if client.is_local { "LOCAL" } else { "REMOTE" };
    let all = [
        ("NAME", client.name.as_str()),
        ("ADDR", address.as_deref().unwrap_or_default()),
        ("PORT", &port),
        ("PROTO", &client.protocol),
        ("HELO", &client.helo),
        ("IDENT", ident),
        ("SOURCE", source),
    ];
    let mut lines = Vec::new();
    let mut line = String::from("XFORWARD");
    for (name, value) in all {
        if !taken.iter().any(|taken| taken == name) {
            continue;
        }
        let value = if value.is_empty() { "[UNAVAILABLE]".to_owned() } else { to_xtext(value) };
        if line.len() + name.len() + value.len() + 4 > 512 {
            lines.push(std::mem::replace(&mut line, String::from("XFORWARD")));
        }
        // Writing to a string cannot fail.
        let _ = write!(line, " {name}={value}");
    }
    if line.len() > "XFORWARD".len() {
        lines.push(line);
    }
    for line in &mut lines {
        line.push_str("\r\n");
    }
    lines
}

/// A value that was written in xtext (RFC 3461 section 4), made fit to be judged, shown and passed on:
/// what is no xtext is taken as it is, what is no letter is a question mark, and what is too long is cut
/// off.
fn from_xtext(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let escaped = behind.first_chunk().copied().and_then(hexadecimal);
        if let (b'+', Some(byte)) = (first, escaped) {
            bytes.push(byte);
            rest = behind.get(2..).unwrap_or_default();
        } else {
            bytes.push(*first);
            rest = behind;
        }
    }
    let is_letter = |letter: char| !letter.is_control() && !letter.is_whitespace();
    let decoded = String::from_utf8_lossy(&bytes);
    let letters =
        decoded.chars().map(|it| if is_letter(it) && it != '\u{fffd}' { it } else { '?' });
    let mut text = String::with_capacity(bytes.len());
    for letter in letters {
        if text.len() + letter.len_utf8() > VALUE_BYTES_MAX {
            break;
        }
        text.push(letter);
    }
    text
}

fn hexadecimal(digits: [u8; 2]) -> Option<u8> {
    let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
    u8::try_from(high? * 16 + low?).ok()
}

/// A value as xtext, cut off where it is too long; what no value may hold is a question mark.
fn to_xtext(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let mut left = VALUE_BYTES_MAX;
    for letter in value.chars() {
        let Some(rest) = left.checked_sub(letter.len_utf8()) else { break };
        left = rest;
        match letter {
            '+' | '=' => drop(write!(text, "+{:02X}", u32::from(letter))),
            letter if letter.is_ascii_graphic() => text.push(letter),
            letter if letter.is_ascii() || letter.is_control() => text.push('?'),
            letter => {
                for byte in letter.encode_utf8(&mut [0; 4]).bytes() {
                    // Writing to a string cannot fail.
                    let _ = write!(text, "+{byte:02X}");
                }
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_side_writes_the_other_reads() {
        let mut client = Client::default();
        let said =
            "NAME=mx.a.example ADDR=IPV6:2001:db8::1 PORT=4242 PROTO=ESMTP HELO=a+3Db IDENT=ABC";
        take(said, (&mut client, None), false).unwrap();
        let taken: Vec<String> =
            ["NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT"].map(str::to_owned).into();
        assert_eq!(xforward(&client, "", &taken), [format!("XFORWARD {said}\r\n")]);
        assert_eq!(client.helo, "a=b");
        client.helo = "x".repeat(400);
        client.name = "y".repeat(250);
        let lines = xforward(&client, "", &taken);
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().all(|line| line.len() <= 512), "{lines:?}");
        assert!(xforward(&client, "", &[]).is_empty());
    }

    #[test]
    fn what_cannot_be_read_changes_nothing() {
        let mut client = Client::default();
        for said in ["ADDR", "NAME=x WHAT=y", "NAME=x LOGIN=bob"] {
            assert!(take(said, (&mut client, None), false).is_err(), "{said}");
            assert_eq!(client.name, "");
        }
        assert!(take("LOGIN=bob DESTPORT=25", (&mut client, None), true).is_ok());
        assert_eq!(client.login, "bob");
        assert!(take("IDENT=x", (&mut client, None), true).is_err());
    }

    #[test]
    fn one_bad_value_of_a_stranger_costs_no_other() {
        let long = format!("HELO={}", "x".repeat(400));
        for (said, helo) in [
            ("HELO=+C3+A4rzte-pc.example", "ärzte-pc.example"),
            ("HELO=my+20pc", "my?pc"),
            ("HELO=+E4rzte-pc", "?rzte-pc"),
            ("HELO=a+0D+0Ab", "a??b"),
            ("HELO=a+1B[2J", "a?[2J"),
            ("HELO=+zz", "+zz"),
            ("HELO=+", "+"),
            ("HELO=a=b", "a=b"),
            ("HELO=", ""),
            (&*long, &*"x".repeat(255)),
        ] {
            let mut client = Client::default();
            let said = format!("NAME=mx.a.example {said} ADDR=192.0.2.7 IDENT=4Abc");
            take(&said, (&mut client, None), false).unwrap();
            assert_eq!(client.helo, helo, "{said}");
            assert_eq!((&*client.name, &*client.queue_id), ("mx.a.example", "4Abc"));
            assert_eq!(client.address, "192.0.2.7".parse().ok());
            let taken = ["HELO".to_owned()];
            for line in xforward(&client, "", &taken) {
                // The next one reads the same.
                let mut next = Client::default();
                let said = line.trim_end().trim_start_matches("XFORWARD ");
                take(said, (&mut next, None), false).unwrap();
                assert_eq!(next.helo, client.helo);
                assert!(line.len() <= 512 + 400, "{line}");
            }
        }
    }
}
