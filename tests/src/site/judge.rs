//! Who answers: a policy service over a socket, or a reference in this process.

use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::rc::Rc;
use std::time::Duration;

use super::net::Host;

/// When a question is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// At RCPT.
    Rcpt,
    /// When the message is there.
    EndOfMessage,
    /// Later: the scanner found spam, or not.
    Verdict {
        /// What it found.
        spam: bool,
    },
}

/// A question, with what Postfix knows.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// When it is asked.
    pub stage: Stage,
    /// Seconds since 1970.
    pub now: f64,
    /// The client.
    pub host: &'a Host,
    /// Envelope sender.
    pub sender: &'a str,
    /// The recipient; empty after RCPT where there are several.
    pub recipient: &'a str,
    /// How many recipients were accepted; 0 at RCPT.
    pub recipients: usize,
    /// The account.
    pub login: &'a str,
    /// Which transaction.
    pub instance: u64,
    /// Whether a queue file is open.
    pub queued: bool,
    /// Size of the message.
    pub size: u32,
}

/// What Postfix makes of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// No objection.
    Accept,
    /// Temporary failure.
    Later {
        /// What the client reads.
        text: Rc<str>,
        /// Whether the session ends.
        hang_up: bool,
    },
    /// Permanent failure.
    Never {
        /// What the client reads.
        text: Rc<str>,
        /// Whether the session ends.
        hang_up: bool,
    },
}

impl Reply {
    /// An action as Postfix would take it (access(5)).
    pub fn of_action(action: &str) -> Self {
        let (word, text) = action.split_once([' ', '\t']).unwrap_or((action, ""));
        let word = word.to_ascii_uppercase();
        let (code, text) = match word.as_str() {
            "DEFER" | "DEFER_IF_PERMIT" => ("450", text.to_owned()),
            "REJECT" | "DISCARD" => ("554", text.to_owned()),
            code if code.len() == 3 && !text.is_empty() && code.starts_with(['4', '5']) => {
                (code, text.to_owned())
            }
            _ => return Self::Accept,
        };
        let hang_up = matches!(code, "421" | "521");
        let text = Rc::from(format!("{code} {text}"));
        if code.starts_with('4') {
            Self::Later { text, hang_up }
        } else {
            Self::Never { text, hang_up }
        }
    }
}

/// Answers questions.
pub trait Judge {
    /// An answer to a question.
    ///
    /// # Errors
    /// Where the service cannot be reached or its answer cannot be read.
    fn ask(&mut self, ask: &Ask<'_>) -> io::Result<Reply>;
}

/// Accepts everything.
#[derive(Debug)]
pub struct AcceptAll;

impl Judge for AcceptAll {
    fn ask(&mut self, _: &Ask<'_>) -> io::Result<Reply> {
        Ok(Reply::Accept)
    }
}

/// A policy service, over one connection, question by question.
#[derive(Debug)]
pub struct Remote {
    reader: BufReader<TcpStream>,
    request: String,
    line: String,
    record: Option<io::BufWriter<std::fs::File>>,
}

impl Remote {
    /// Connects, waiting up to ten seconds until the service is there.
    ///
    /// # Errors
    /// Where it is not there.
    pub fn connect(to: &str) -> io::Result<Self> {
        let mut tries = 0;
        let stream = loop {
            match TcpStream::connect(to) {
                Ok(stream) => break stream,
                Err(error) if tries == 100 => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
            tries += 1;
        };
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_mins(1)))?;
        Ok(Self {
            reader: BufReader::new(stream),
            request: String::new(),
            line: String::new(),
            record: None,
        })
    }

    /// Also writes each request to a file, in the protocol's form.
    pub fn record(&mut self, file: std::fs::File) {
        self.record = Some(io::BufWriter::new(file));
    }
}

/// Writes a question in the form of the policy protocol, as Postfix 3.7 does.
pub fn encode(ask: &Ask<'_>, out: &mut String) {
    let (request, state) = match ask.stage {
        Stage::Rcpt => ("smtpd_access_policy", "RCPT"),
        Stage::EndOfMessage => ("smtpd_access_policy", "END-OF-MESSAGE"),
        Stage::Verdict { .. } => ("mpp_verdict", "END-OF-MESSAGE"),
    };
    let Ask { now, host, sender, recipient, recipients, login, instance, size, .. } = ask;
    let Host { address, name, reverse, helo, tls } = host;
    let pid = 1000 + instance % 20_000;
    let (seconds, micros) = (0x6900_0000 + instance / 50, (instance * 7919) % 1_000_000);
    let port = 1024 + (instance * 31) % 60_000;
    let queue_id =
        if ask.queued { format!("{:X}", 0x40_0000_0000 + instance) } else { String::new() };
    let (server_port, method) = if login.is_empty() { (25, "") } else { (587, "PLAIN") };
    let _ = write!(
        out,
        "request={request}\nprotocol_state={state}\nprotocol_name=ESMTP\n\
         client_address={address}\nclient_name={name}\nclient_port={port}\n\
         reverse_client_name={reverse}\nserver_address=192.0.2.25\nserver_port={server_port}\n\
         helo_name={helo}\nsender={sender}\nrecipient={recipient}\n\
         recipient_count={recipients}\nqueue_id={queue_id}\n\
         instance={pid:x}.{seconds:x}.{micros:x}.0\nsize={size}\netrn_domain=\nstress=\n\
         sasl_method={method}\nsasl_username={login}\nsasl_sender=\nccert_subject=\n\
         ccert_issuer=\nccert_fingerprint=\nccert_pubkey_fingerprint=\n"
    );
    out.push_str(if *tls {
        "encryption_protocol=TLSv1.3\nencryption_cipher=TLS_AES_256_GCM_SHA384\n\
         encryption_keysize=256\n"
    } else {
        "encryption_protocol=\nencryption_cipher=\nencryption_keysize=0\n"
    });
    out.push_str("policy_context=\n");
    if let Stage::Verdict { spam } = ask.stage {
        out.push_str(if spam { "verdict=spam\n" } else { "verdict=ham\n" });
    }
    let _ = write!(out, "mpp_time={now:.3}\n\n");
}

impl Judge for Remote {
    fn ask(&mut self, ask: &Ask<'_>) -> io::Result<Reply> {
        self.request.clear();
        encode(ask, &mut self.request);
        if let Some(record) = &mut self.record {
            record.write_all(self.request.as_bytes())?;
        }
        self.reader.get_mut().write_all(self.request.as_bytes())?;
        let mut reply = None;
        loop {
            self.line.clear();
            if self.reader.read_line(&mut self.line)? == 0 {
                let what = format!("the service hung up on:\n{}", self.request);
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
            }
            match self.line.trim_end_matches('\n') {
                "" => break,
                line => {
                    if let Some(action) = line.strip_prefix("action=") {
                        reply = Some(Reply::of_action(action));
                    }
                }
            }
        }
        reply.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an answer without action"))
    }
}
