//! What is held: by a real spamd's word and by a policy's, for whom, until when, by which of several
//! nodes, and what survives kill -9, a full disk and a next hop that is down.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code: what is not as expected ends the test"
)]

mod crash;
mod digests;
mod disk;
mod links;
mod nodes;
mod people;
mod release;
mod released;
mod views;

use mpp_tests::real::address;
use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::ledger::Ledger;
use mpp_tests::real::raw_smtp::RawSmtp;
use serde_json::Value;

pub(crate) const MPP: &str = env!("CARGO_BIN_EXE_mpp");

/// Whose mail is held whatever it is.
pub(crate) const HELD: &str = "[policy.held]\nmatch = { recipient = [\"held@test.example\", \
    \"eve@test.example\", \"ann@other.example\"] }\n[[policy.held.threshold]]\nname = \"hold\"\n\
    key = \"client\"\ncount = \"recipients\"\nlimit = 0\nper = \"1h\"\nthen = \"hold\"\n";

/// A gateway with a quarantine, and its next hop.
pub(crate) struct Scene {
    pub(crate) mpp: Daemon,
    pub(crate) listen: String,
    pub(crate) hop: Ledger,
}

/// The configuration of a gateway with this next hop.
pub(crate) fn gateway(listen: &str, hop: &str, rules: &str) -> String {
    format!(
        "[proxy.mx]\nuse = \"gateway\"\nlisten = [\"{listen}\"]\nname = \"mx.test.example\"\n\
         next_hop = [\"{hop}\"]\ndomains = [\"test.example\", \"other.example\"]\n\
         xclient = [\"127.0.0.0/8\"]\ngreet_delay = \"0s\"\nresolve = false\n\
         [networks]\nlocal = [\"10.0.0.0/8\"]\ntrusted = []\n\
         [policy.default.greylist]\nmode = \"off\"\n{rules}\n"
    )
}

impl Scene {
    pub(crate) fn start(rules: &str) -> Self {
        let (at, hop) = (address(), Ledger::start(|| None));
        let listen = format!("{at}:10025");
        let text = gateway(&listen, hop.address(), rules);
        Self { mpp: Daemon::start(MPP, &at, &text), listen, hop }
    }

    /// With variables in the environment of the daemon.
    pub(crate) fn start_with(variables: &[(&str, &str)], rules: &str) -> Self {
        let (at, hop) = (address(), Ledger::start(|| None));
        let listen = format!("{at}:10025");
        let mut mpp = Daemon::new(MPP, &at, &gateway(&listen, hop.address(), rules));
        for (name, value) in variables {
            mpp.set_variable(name, value);
        }
        mpp.launch();
        Self { mpp, listen, hop }
    }

    /// Takes other rules.
    pub(crate) fn reload(&self, rules: &str) {
        self.mpp.configure(&gateway(&self.listen, self.hop.address(), rules));
        self.mpp.tell(&["reload"]);
    }

    pub(crate) fn client(&self) -> RawSmtp {
        let mut raw = RawSmtp::connect(&self.listen);
        let reply = raw.become_client("ADDR=198.51.100.7 NAME=mx.good.example");
        assert!(reply.starts_with("250"), "{reply}");
        raw
    }

    /// Sends a message to some recipients; what is said at its end.
    pub(crate) fn send(&self, recipients: &[&str], text: &str) -> String {
        let mut client = self.client();
        client.expect("MAIL FROM:<a@good.example>", "250");
        for recipient in recipients {
            client.expect(&format!("RCPT TO:<{recipient}>"), "250");
        }
        client.expect("DATA", "354");
        client.say(&format!("{text}\r\n."))
    }

    /// Sends one that must be held; its id.
    pub(crate) fn hold(&self, recipients: &[&str], serial: &str) -> String {
        let reply = self.send(recipients, &text(serial, "Regards"));
        assert!(reply.starts_with("250"), "{reply}");
        self.rows(&["list"])[0]["id"].as_str().expect("an id").to_owned()
    }

    /// The rows of a list.
    pub(crate) fn rows(&self, arguments: &[&str]) -> Vec<Value> {
        let answer = self.mpp.json(&[&["quarantine"], arguments].concat());
        answer["rows"].as_array().expect("a list").clone()
    }

    pub(crate) fn heard(&self) -> String {
        self.hop.heard().join("\n")
    }
}

/// A message that no rule has anything against.
pub(crate) fn text(serial: &str, body: &str) -> String {
    format!(
        "Serial: {serial}\r\nFrom: A Sender <a@good.example>\r\nTo: bob@test.example\r\n\
         Date: Tue, 24 Nov 2026 13:50:30 +0000\r\nMessage-Id: <{serial}@good.example>\r\n\
         Subject: minutes of {serial}\r\n\r\nHello Bob,\r\n\r\nplease find the minutes of \
         the meeting below.\r\n\r\n{body}\r\n"
    )
}
