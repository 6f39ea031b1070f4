//! Messages that are looked into: real spamd, rspamd and clamd behind the gateway, while they live and
//! while they die, and such as answer nonsense.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code: what is not as expected ends the test"
)]

mod bytes;
mod faults;
mod milter;
mod queue;
mod verdicts;

use mpp_tests::real::address;
use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::ledger::Ledger;
use mpp_tests::real::raw_smtp::RawSmtp;

pub(crate) const MPP: &str = env!("CARGO_BIN_EXE_mpp");

pub(crate) const CALM: &str = "[networks]\nlocal = [\"10.0.0.0/8\"]\ntrusted = []\n\
    [policy.default.greylist]\nmode = \"off\"\n";

/// A gateway whose messages are looked into, and its next hop.
pub(crate) struct Scene {
    pub(crate) mpp: Daemon,
    pub(crate) listen: String,
    pub(crate) hop: Ledger,
}

impl Scene {
    pub(crate) fn start(scanners: &str, rules: &str) -> Self {
        let (at, hop) = (address(), Ledger::start(|| None));
        let listen = format!("{at}:10025");
        let text = format!(
            "[proxy.mx]\nuse = \"gateway\"\nlisten = [\"{listen}\"]\nname = \"mx.test.example\"\n\
             next_hop = [\"{}\"]\ndomains = [\"test.example\"]\nxclient = [\"127.0.0.0/8\"]\n\
             greet_delay = \"0s\"\nresolve = false\n{scanners}\n{CALM}\n{rules}\n",
            hop.address()
        );
        Self { mpp: Daemon::start(MPP, &at, &text), listen, hop }
    }

    pub(crate) fn client(&self, address: &str) -> RawSmtp {
        let mut raw = RawSmtp::connect(&self.listen);
        let reply = raw.become_client(&format!("ADDR={address} NAME=mx.good.example"));
        assert!(reply.starts_with("250"), "{reply}");
        raw
    }

    /// What became of a message.
    pub(crate) fn send(&self, address: &str, serial: &str, body: &str) -> String {
        self.client(address).message("a@good.example", "bob@test.example", &text(serial, body))
    }

    /// A number of a scanner.
    pub(crate) fn number(&self, scanner: &str, name: &str) -> u64 {
        let status = self.mpp.json(&["status"]);
        let all = status["scanners"].as_array().expect("a list").clone();
        let row = all.iter().find(|row| row["name"] == scanner).expect("the scanner");
        row[name].as_u64().unwrap_or_else(|| panic!("{name}: {row}"))
    }

    pub(crate) fn heard(&self) -> String {
        self.hop.heard().join("\n")
    }
}

/// A message that no rule has anything against.
pub(crate) fn text(serial: &str, body: &str) -> String {
    // A date that is days old is something that scanners have against a message.
    let now = std::process::Command::new("date").args(["-u", "-R"]).output();
    let now = String::from_utf8(now.expect("date(1) comes with the package coreutils").stdout);
    let now = now.expect("it says it in ASCII");
    let now = now.trim_end();
    format!(
        "Serial: {serial}\r\nFrom: A Sender <a@good.example>\r\nTo: bob@test.example\r\n\
         Date: {now}\r\nMessage-Id: <{serial}@good.example>\r\n\
         Subject: minutes of the meeting\r\n\r\nHello Bob,\r\n\r\nplease find the minutes of \
         the meeting below.\r\n\r\n{body}\r\n"
    )
}
