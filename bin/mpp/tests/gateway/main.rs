//! The gateway: mpp on port 25 before real mail servers, and before such as do what no real one
//! does on demand.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "test code: what is not as expected ends the test"
)]

mod dialogue;
mod ends;
mod faults;
mod greeting;
mod holding;
mod limits;
mod operation;
mod parted;
mod routes;
mod servers;
mod tls;

use mpp_tests::real::address;
use mpp_tests::real::daemon::Daemon;

pub(crate) const MPP: &str = env!("CARGO_BIN_EXE_mpp");

/// Clients on loopback are strangers here, and may say that they are others.
pub(crate) const RULES: &str = r#"
[networks]
local = ["10.0.0.0/8"]
trusted = []

[recipients.main]
domains = ["test.example"]
addresses = ["bob@test.example", "eve@test.example", "full@test.example", "jörg@test.example"]

[policy.default.greylist]
mode = "off"

[policy.default.recipient.harvest]
limit = 100000

[policy.default.access]
deny.client = ["192.0.2.13"]

[policy.default.trap]
addresses = ["trap@test.example"]
block = "1h"
"#;

/// A daemon with a gateway for `test.example`; where it answers.
pub(crate) fn gateway(next_hop: &str, settings: &str, rules: &str) -> (Daemon, String) {
    let at = address();
    let listen = format!("{at}:10025");
    let mpp = Daemon::start(MPP, &at, &text(&listen, next_hop, settings, rules));
    (mpp, listen)
}

/// Its configuration.
pub(crate) fn text(listen: &str, next_hop: &str, settings: &str, rules: &str) -> String {
    let mut text = format!(
        "[proxy.mx]\nuse = \"gateway\"\nlisten = [\"{listen}\"]\nname = \"mx.test.example\"\n\
         next_hop = [\"{next_hop}\"]\nxclient = [\"127.0.0.0/8\"]\n"
    );
    for (name, value) in
        [("domains", "[\"test.example\"]"), ("greet_delay", "\"0s\""), ("resolve", "false")]
    {
        if !settings.contains(&format!("{name} =")) {
            for part in [name, " = ", value, "\n"] {
                text.push_str(part);
            }
        }
    }
    format!("{text}{settings}\n{rules}")
}
