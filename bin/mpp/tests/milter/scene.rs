//! A daemon with a milter whose other side is the test itself.

use mpp_tests::real::address;
use mpp_tests::real::daemon::Daemon;
use mpp_tests::real::milter_peer::{Peer, packet, path};

use crate::{CLIENT, MPP};

pub(crate) const RULES: &str = r#"
[recipients.main]
addresses = ["bob@test.example", "eve@test.example"]

[policy.default.greylist]
mode = "off"
[policy.default.recipient.harvest]
limit = 1000000

[policy.default.message]
add_headers = ["X-Checked: {action} by {policy} for {client}"]
remove_headers = ["X-Checked", "X-Spam-*"]
copy_to = ["archive@example.org"]

[[policy.default.threshold]]
name = "account"
direction = "outbound"
key = "sasl_user"
count = "messages"
limit = 100000
per = "1h"

[policy.moved]
match = { sender = ["moved@x.example"] }
message.redirect_to = "desk@example.org"

[policy.held]
match = { sender = ["held@x.example"] }
[[policy.held.threshold]]
name = "hold"
key = "client"
count = "recipients"
limit = 0
per = "1h"
then = "hold"

[policy.lost]
match = { sender = ["lost@x.example"] }
[[policy.lost.threshold]]
name = "discard"
key = "client"
count = "recipients"
limit = 0
per = "1h"
then = "discard"
"#;

/// A daemon with a milter on TCP and on a unix socket, and where the latter is.
pub(crate) struct Scene {
    pub(crate) mpp: Daemon,
    pub(crate) milter: String,
    pub(crate) tcp: String,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let at = address();
        let mut mpp = Daemon::new(MPP, &at, "");
        let milter = format!("unix:{}", mpp.folder().join("milter").display());
        let scene = Self::text(&at, &milter, RULES);
        mpp.configure(&scene);
        mpp.launch();
        Self { mpp, milter, tcp: format!("{at}:10041") }
    }

    pub(crate) fn text(at: &str, milter: &str, rules: &str) -> String {
        format!(
            "[listen]\npolicy = [\"{at}:10040\"]\nmilter = [\"{milter}\", \"{at}:10041\"]\n\
             milter_rejected = true\n{rules}"
        )
    }

    pub(crate) fn peer(&self) -> Peer {
        Peer::with_client(&self.milter, CLIENT)
    }

    /// What an account has used of its limit.
    pub(crate) fn used(&self, account: &str) -> u64 {
        let said = self.mpp.json(&["ask", "--client", CLIENT, "--user", account]);
        let answers = said["asked"].as_array().unwrap().iter();
        let mut counted = answers.filter_map(|asked| {
            let answer =
                asked[1].as_str()?.strip_prefix("Counted(Counted { granted: true, used: ")?;
            answer.split(',').next()?.parse::<u64>().ok()
        });
        // The request that is asked about would add one.
        counted.next().expect("a threshold for accounts") - 1
    }

    pub(crate) fn open_files(&self) -> usize {
        let process = self.mpp.process();
        std::fs::read_dir(format!("/proc/{process}/fd")).expect("mpp runs").count()
    }

    /// It is alive, and answers as ever.
    pub(crate) fn end(&self) {
        let mut peer = self.peer();
        assert_eq!(message(&mut peer, "a@x.example", &["bob@test.example"]), ORDINARY);
        assert!(self.mpp.runs());
    }
}

/// What an ordinary message is answered at its end.
pub(crate) const ORDINARY: [&str; 3] =
    ["i X-Checked|accept by default for 198.51.100.7", "+ <archive@example.org>", "c"];

/// One message where everything was agreed on: nobody waits for an answer to MAIL. What it is
/// answered at its end.
pub(crate) fn message(peer: &mut Peer, sender: &str, recipients: &[&str]) -> Vec<String> {
    peer.send(&path(b'M', sender));
    for recipient in recipients {
        assert_eq!(peer.ask(&path(b'R', recipient)), ["c"], "{recipient}");
    }
    peer.ask(&packet(b'E', b""))
}
