//! An SMTP client that says what a test tells it to, and who it is by XCLIENT.

use std::fmt;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;

use super::PATIENCE;

/// What a server answered; the lines of a multi-line reply are joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The three digits.
    pub code: u16,
    /// The rest.
    pub text: String,
}

impl Reply {
    /// The id at the end of one of mpp's refusals.
    pub fn id(&self) -> &str {
        let id = self.text.rsplit_once(" (").and_then(|(_, id)| id.strip_suffix(')'));
        id.unwrap_or_else(|| panic!("no id in {self}"))
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.text)
    }
}

/// Who a client claims to be.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// Its address; IPv6 as `IPV6:2001:db8::1`.
    pub address: &'a str,
    /// Its verified name; empty for none.
    pub name: &'a str,
    /// The account it has logged in to; empty for none.
    pub login: &'a str,
}

impl<'a> Who<'a> {
    /// A client without name or account.
    pub fn at(address: &'a str) -> Self {
        Self { address, name: "", login: "" }
    }

    /// The same with a verified name.
    #[must_use]
    pub fn named(self, name: &'a str) -> Self {
        Self { name, ..self }
    }

    /// The same, logged in.
    #[must_use]
    pub fn as_user(self, login: &'a str) -> Self {
        Self { login, ..self }
    }
}

/// One SMTP connection.
#[derive(Debug)]
pub struct Smtp {
    reader: BufReader<TcpStream>,
}

impl Smtp {
    /// Connects and says nothing; the greeting is the first reply.
    pub fn connect_silently(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap_or_else(|e| panic!("{address}: {e}"));
        stream.set_read_timeout(Some(PATIENCE)).expect("a time that is not zero");
        stream.set_nodelay(true).expect("TCP");
        Self { reader: BufReader::new(stream) }
    }

    /// Connects, as the test itself: 127.0.0.1.
    pub fn connect(address: &str) -> Self {
        let mut smtp = Self::connect_silently(address);
        smtp.expect(220);
        smtp.say_expecting("EHLO tests.example", 250);
        smtp
    }

    /// Connects and becomes somebody else.
    pub fn connect_as(address: &str, who: Who<'_>) -> Self {
        let mut smtp = Self::connect(address);
        let name = if who.name.is_empty() { "[UNAVAILABLE]" } else { who.name };
        let login = if who.login.is_empty() { "[UNAVAILABLE]" } else { who.login };
        let line = format!(
            "XCLIENT NAME={name} LOGIN={login} PROTO=ESMTP HELO=client.example ADDR={}",
            who.address
        );
        smtp.say_expecting(&line, 220);
        smtp.say_expecting("EHLO client.example", 250);
        smtp
    }

    /// Says a line and returns the reply to it.
    pub fn say(&mut self, line: &str) -> Reply {
        self.send(format!("{line}\r\n").as_bytes());
        self.reply()
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.reader.get_mut().write_all(bytes).expect("the server takes what is said");
    }

    /// Says a line to which the reply is known.
    pub fn say_expecting(&mut self, line: &str, code: u16) -> Reply {
        let reply = self.say(line);
        assert_eq!(reply.code, code, "to {line:?}: {reply}");
        reply
    }

    fn expect(&mut self, code: u16) {
        let reply = self.reply();
        assert_eq!(reply.code, code, "{reply}");
    }

    /// The next reply.
    pub fn reply(&mut self) -> Reply {
        let mut text = String::new();
        loop {
            let mut line = String::new();
            let length = self.reader.read_line(&mut line).expect("a reply in time");
            assert!(length > 3, "the server closed the connection after {text:?}");
            let code = line.get(..3).and_then(|code| code.parse().ok()).expect("three digits");
            text.push_str(line.get(4..).unwrap_or_default().trim_end());
            if line.as_bytes().get(3) != Some(&b'-') {
                return Reply { code, text };
            }
            text.push('\n');
        }
    }

    /// Whether the server has closed the connection.
    pub fn is_closed(&mut self) -> bool {
        let mut rest = String::new();
        self.reader.read_line(&mut rest).is_ok_and(|length| length == 0)
    }

    /// Begins a transaction: MAIL FROM.
    pub fn mail(&mut self, sender: &str) -> Reply {
        self.say(&format!("MAIL FROM:<{sender}>"))
    }

    /// Names a recipient.
    pub fn rcpt(&mut self, recipient: &str) -> Reply {
        self.say(&format!("RCPT TO:<{recipient}>"))
    }

    /// Sends a message after at least one recipient was taken.
    pub fn data(&mut self) -> Reply {
        self.text("From: a@test.invalid\r\nSubject: test\r\n\r\nA message.")
    }

    /// Sends this message, lines without the last line end.
    pub fn text(&mut self, text: &str) -> Reply {
        self.say_expecting("DATA", 354);
        self.say(&format!("{text}\r\n."))
    }
}

/// One try of one message to one recipient on a connection of its own: the reply to RCPT, or to
/// the message where the recipient was taken.
pub fn attempt(server: &str, who: Who<'_>, sender: &str, recipient: &str) -> Reply {
    let mut smtp = Smtp::connect_as(server, who);
    let mail = smtp.mail(sender);
    if mail.code != 250 {
        return mail;
    }
    let rcpt = smtp.rcpt(recipient);
    if rcpt.code == 250 { smtp.data() } else { rcpt }
}
