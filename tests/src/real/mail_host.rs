//! Postfix beside mpp, wired with the lines that `mpp postfix` prints.

use super::daemon::Daemon;
use super::postfix::Postfix;
use super::smtp::{Reply, Who, attempt};
use super::{address, until};

/// A mail host; both servers end with it.
#[derive(Debug)]
pub struct MailHost {
    /// The daemon.
    pub mpp: Daemon,
    /// The Postfix that asks it.
    pub postfix: Postfix,
}

impl MailHost {
    /// Starts mpp with a configuration, then Postfix with the lines for it.
    pub fn start(program: &str, text: &str) -> Self {
        let address = address();
        let mpp = Daemon::start(program, &address, text);
        let lines = mpp.tell(&["postfix"]);
        let postfix = Postfix::start(&address, &lines);
        Self { mpp, postfix }
    }

    /// One message to one recipient, on a connection of its own.
    pub fn attempt(&self, who: Who<'_>, sender: &str, recipient: &str) -> Reply {
        attempt(self.postfix.address(), who, sender, recipient)
    }

    /// The same again and again until it is accepted, as a mail server does.
    pub fn retry(&self, who: Who<'_>, sender: &str, recipient: &str) {
        until(&format!("accepted message from {sender} to {recipient}"), || {
            let reply = self.attempt(who, sender, recipient);
            (reply.code == 250).then_some(())
        });
    }
}
