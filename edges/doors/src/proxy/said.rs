//! What a client has said, apart from the bytes that it said it with.

use mpp_address::Path;
use mpp_wire::smtp_server::Command;

/// A command that owns what it needs, so that the decoder is free while it is worked on.
pub(super) enum Said {
    Helo(String, bool),
    Mail(Path, String),
    Rcpt(Path, String),
    Xforward(String),
    Xclient(String),
    Plain(Command<'static>),
}

impl Said {
    /// Whether it is a step towards a message. How many of those there are other limits say; one that
    /// is refused counts when it is.
    pub(super) fn may_lead_to_a_message(&self) -> bool {
        match self {
            Self::Mail(..) | Self::Rcpt(..) | Self::Plain(Command::Data) => true,
            Self::Plain(Command::Bdat { bytes, is_last }) => *bytes > 0 || *is_last,
            _ => false,
        }
    }
}

/// A command as it was said, for those who watch.
pub(super) fn shown(command: &Command<'_>) -> String {
    let with = |verb: &str, rest: &[u8]| format!("{verb} {}", String::from_utf8_lossy(rest));
    let addressed = |verb: &str, path: &Path, parameters: &str| {
        format!("{verb}:<{path}> {parameters}").trim_end().to_owned()
    };
    match command {
        Command::Helo(name) => with("HELO", name),
        Command::Ehlo(name) => with("EHLO", name),
        Command::Mail { path, parameters } => addressed("MAIL FROM", path, parameters),
        Command::Rcpt { path, parameters } => addressed("RCPT TO", path, parameters),
        Command::Xforward(attributes) => with("XFORWARD", attributes),
        Command::Xclient(attributes) => with("XCLIENT", attributes),
        Command::Bdat { bytes, is_last } => {
            format!("BDAT {bytes}{}", if *is_last { " LAST" } else { "" })
        }
        Command::Data => "DATA".to_owned(),
        Command::StartTls => "STARTTLS".to_owned(),
        Command::Rset => "RSET".to_owned(),
        Command::Noop => "NOOP".to_owned(),
        Command::Quit => "QUIT".to_owned(),
        Command::Help => "HELP".to_owned(),
        Command::Vrfy => "VRFY".to_owned(),
        Command::Address => "(what is no address)".to_owned(),
        Command::Syntax => "(what cannot be read)".to_owned(),
        Command::Unknown => "(what is no command)".to_owned(),
    }
}

/// A command without what it borrows from the decoder.
pub(super) fn own(command: Command<'_>) -> Said {
    // What strangers call themselves is judged, shown and passed on as text, whatever it is.
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match command {
        Command::Helo(name) => Said::Helo(text(name), false),
        Command::Ehlo(name) => Said::Helo(text(name), true),
        Command::Mail { path, parameters } => Said::Mail(path, parameters.to_owned()),
        Command::Rcpt { path, parameters } => Said::Rcpt(path, parameters.to_owned()),
        Command::Xforward(attributes) => Said::Xforward(text(attributes)),
        Command::Xclient(attributes) => Said::Xclient(text(attributes)),
        Command::Bdat { bytes, is_last } => Said::Plain(Command::Bdat { bytes, is_last }),
        Command::Data => Said::Plain(Command::Data),
        Command::StartTls => Said::Plain(Command::StartTls),
        Command::Rset => Said::Plain(Command::Rset),
        Command::Noop => Said::Plain(Command::Noop),
        Command::Quit => Said::Plain(Command::Quit),
        Command::Help => Said::Plain(Command::Help),
        Command::Vrfy => Said::Plain(Command::Vrfy),
        Command::Syntax => Said::Plain(Command::Syntax),
        Command::Address => Said::Plain(Command::Address),
        Command::Unknown => Said::Plain(Command::Unknown),
    }
}
