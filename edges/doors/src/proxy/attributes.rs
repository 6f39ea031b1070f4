//! The attributes of XFORWARD and XCLIENT (Postfix, `XFORWARD_README` and `XCLIENT_README`).

use std::fmt::Write as _;
use std::net::IpAddr;

use super::client::Client;

/// A value may be so long.
const VALUE_BYTES_MAX: usize = 255;

/// Takes what a peer says of the client, all of it or nothing. XCLIENT knows LOGIN, XFORWARD knows
/// IDENT and SOURCE.
///
/// # Errors
/// The reply to what cannot be read.
pub(crate) fn take(
    attributes: &str,
    (client, peer): (&mut Client, Option<IpAddr>),
    is_xclient: bool,
) -> Result<(), &'static str> {
    const SYNTAX: &str = "501 5.5.4 Syntax error\r\n";
    let mut read = Vec::new();
    for attribute in attributes.split(' ').filter(|word| !word.is_empty()) {
        let (name, value) = attribute.split_once('=').ok_or(SYNTAX)?;
        let value = from_xtext(value).ok_or(SYNTAX)?;
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
                let text = value.get(..5).filter(|head| head.eq_ignore_ascii_case("IPV6:"));
                let text = text.and_then(|head| value.get(head.len()..)).unwrap_or(&value);
                client.address = text.parse().ok().map(|it: IpAddr| it.to_canonical()).or(peer);
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

/// A value in xtext (RFC 3461 section 4); nothing if it is none, or holds what no value may.
fn from_xtext(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'+' {
            bytes.push(byte);
            continue;
        }
        let (high, low) =
            (char::from(rest.next()?).to_digit(16)?, char::from(rest.next()?).to_digit(16)?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    let is_fine = bytes.iter().all(u8::is_ascii_graphic);
    (is_fine && bytes.len() <= VALUE_BYTES_MAX).then(|| String::from_utf8(bytes).ok()).flatten()
}

/// A value as xtext, cut off where it is too long; what no value may hold is a question mark.
fn to_xtext(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes().take(VALUE_BYTES_MAX) {
        match byte {
            b'+' | b'=' => drop(write!(text, "+{byte:02X}")),
            byte if byte.is_ascii_graphic() => text.push(char::from(byte)),
            _ => text.push('?'),
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
        for said in ["ADDR", "NAME=x HELO=+0D+0A", "NAME=x WHAT=y", "NAME=x LOGIN=bob", "NAME=+zz"]
        {
            assert!(take(said, (&mut client, None), false).is_err(), "{said}");
            assert_eq!(client.name, "");
        }
        assert!(take("LOGIN=bob DESTPORT=25", (&mut client, None), true).is_ok());
        assert_eq!(client.login, "bob");
        assert!(take("IDENT=x", (&mut client, None), true).is_err());
    }
}
