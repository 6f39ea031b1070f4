//! A message under way: what the client said of it, and the next hop that it goes to.

use std::io;

use mpp_config::proxy::Proxy;
use mpp_engine::edits::Edits;
use mpp_hub::spool::Writer;
use mpp_wire::smtp::Reply;

use super::attributes;
use super::client::Client;
use super::deliver::Unstuffing;
use super::gate::HopPlace;
use super::header_filter::HeaderFilter;
use super::next_hop::NextHop;
use super::offers::Offers;
use super::reply::{Answer, Own};
use super::trace_header::Watch;
use crate::scanning::Named;

/// The message under way.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "they are facts, each of its own")]
pub(crate) struct Transaction {
    /// What ties its requests together, in the log and at the next hop.
    pub(crate) instance: String,
    pub(crate) sender: String,
    pub(crate) parameters: Parameters,
    /// Recipients that the next hop has taken.
    pub(crate) recipients: u32,
    /// Recipients that were not taken.
    pub(crate) not_named: u32,
    pub(crate) last_recipient: String,
    /// The number of the hop, once a recipient has said which.
    pub(crate) route: Option<usize>,
    /// The connection, once it is needed.
    pub(crate) hop: Option<NextHop>,
    /// Whether the next hop has taken the sender.
    pub(crate) is_begun: bool,
    /// Whether the next hop has been told to take the text: from then on it can be given up only
    /// with the connection.
    pub(crate) is_text: bool,
    /// Whether the text comes in chunks.
    pub(crate) is_chunked: bool,
    /// Whether it is to be taken and thrown away.
    pub(crate) is_discarded: bool,
    /// What stands against it, whatever else follows.
    pub(crate) fault: Option<Answer>,
    /// Text that the next hop has not been told of: it is, when there is enough of it or all. Nothing once
    /// it was.
    pub(crate) pending: Option<Vec<u8>>,
    /// Its place among those who have a connection to the hop.
    pub(crate) place: Option<HopPlace>,
    /// What is to be written before the text.
    pub(crate) header: String,
    /// How many bytes of the spool that is.
    pub(crate) header_bytes: u64,
    /// Whether it waits in the spool for nothing but answers that may differ.
    pub(crate) is_parted: bool,
    /// What is to be done to it.
    pub(crate) edits: Option<Edits>,
    pub(crate) filter: HeaderFilter,
    /// Takes out what only we may say.
    pub(crate) border: HeaderFilter,
    /// The recipients.
    pub(crate) named: Vec<Named>,
    /// Where it waits, if it is looked into.
    pub(crate) spool: Option<Writer>,
    pub(crate) unstuffing: Unstuffing,
    /// Recipients that the next hop answers for at the end, if they are not those of the client.
    pub(crate) at_hop: Option<u32>,
    pub(crate) watch: Watch,
}

/// The parameters of MAIL.
#[derive(Debug, Default)]
pub(crate) struct Parameters {
    pub(crate) size: Option<u64>,
    pub(crate) is_eight_bit: bool,
    pub(crate) is_utf8: bool,
    /// As they were written.
    all: String,
}

impl Parameters {
    /// Reads the parameters of MAIL. A filter passes on what it does not know; a gateway does not.
    ///
    /// # Errors
    /// The reply.
    pub(crate) fn read(all: String, is_strict: bool) -> Result<Self, &'static str> {
        let mut parameters = Self { all, ..Self::default() };
        for word in parameters.all.split(' ').filter(|word| !word.is_empty()) {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            match name.to_ascii_uppercase().as_str() {
                "SIZE" => match value.parse() {
                    Ok(size) => parameters.size = Some(size),
                    Err(_) => return Err("501 5.5.4 SIZE is a number of bytes\r\n"),
                },
                "BODY" => match value.to_ascii_uppercase().as_str() {
                    "7BIT" => {}
                    "8BITMIME" => parameters.is_eight_bit = true,
                    _ if is_strict => return Err("501 5.5.4 No such BODY\r\n"),
                    _ => {}
                },
                "SMTPUTF8" => parameters.is_utf8 = true,
                "RET" | "ENVID" => {}
                _ if is_strict => return Err("555 5.5.4 Parameter not known\r\n"),
                _ => {}
            }
        }
        Ok(parameters)
    }

    /// All of them as they were written.
    pub(crate) fn all(&self) -> &str {
        &self.all
    }

    /// Those that a next hop takes.
    fn fit(&self, offers: &Offers, is_strict: bool) -> String {
        fitting(&self.all, is_strict, |name| match name {
            "SIZE" => offers.size.is_some(),
            "BODY" => offers.eight_bit,
            "SMTPUTF8" => offers.utf8,
            "RET" | "ENVID" => offers.dsn,
            _ => false,
        })
    }
}

/// Whether the parameters of RCPT are known.
pub(crate) fn knows_parameters(all: &str) -> bool {
    all.split(' ').filter(|word| !word.is_empty()).all(|word| {
        let name = word.split_once('=').map_or("", |(name, _)| name);
        name.eq_ignore_ascii_case("NOTIFY") || name.eq_ignore_ascii_case("ORCPT")
    })
}

fn fitting(all: &str, is_strict: bool, fits: impl Fn(&str) -> bool) -> String {
    if !is_strict {
        return if all.is_empty() { String::new() } else { format!(" {all}") };
    }
    let mut text = String::new();
    for word in all.split(' ').filter(|word| !word.is_empty()) {
        let name = word.split_once('=').map_or(word, |(name, _)| name).to_ascii_uppercase();
        if fits(&name) {
            text.push(' ');
            text.push_str(word);
        }
    }
    text
}

/// What came of a recipient at the next hop.
pub(crate) enum Said {
    /// Its answer.
    Reply(Reply),
    /// Not to be said to it at all.
    Cannot(Answer),
}

impl Transaction {
    /// Says a recipient to the next hop, and who the client and the sender are before the first.
    ///
    /// # Errors
    /// The next hop is gone.
    pub(crate) async fn name(
        &mut self,
        proxy: &Proxy,
        client: &Client,
        (path, parameters): (&str, &str),
    ) -> io::Result<Said> {
        let Some(hop) = &mut self.hop else { return Err(io::ErrorKind::NotConnected.into()) };
        let is_strict = proxy.is_gateway();
        let dsn = hop.offers.dsn;
        let rcpt = format!("RCPT TO:<{path}>{}\r\n", fitting(parameters, is_strict, |_| dsn));
        if self.is_begun {
            return hop.say(&rcpt).await.map(Said::Reply);
        }
        let offers = &hop.offers;
        let too_big = offers.size.filter(|most| *most > 0);
        if is_strict && self.parameters.is_eight_bit && !offers.eight_bit {
            return Ok(Said::Cannot(Own(554, "5.6.3 The next hop takes no 8BITMIME").into()));
        }
        if is_strict && self.parameters.is_utf8 && !offers.utf8 {
            return Ok(Said::Cannot(Own(553, "5.6.7 The next hop takes no SMTPUTF8").into()));
        }
        if self.parameters.size.is_some_and(|size| too_big.is_some_and(|most| size > most)) {
            return Ok(Said::Cannot(Own(552, "5.3.4 Message too big").into()));
        }
        let mut lines = attributes::xforward(client, &self.instance, &offers.xforward);
        let before = lines.len();
        let mail = self.parameters.fit(offers, is_strict);
        lines.push(format!("MAIL FROM:<{}>{mail}\r\n", self.sender));
        lines.push(rcpt);
        let mut replies = hop.say_all(&lines).await?;
        // What a next hop does not want to know of the client it need not know.
        replies.drain(..before.min(replies.len()));
        let rcpt = replies.pop();
        match (replies.pop(), rcpt) {
            (Some(mail), Some(rcpt)) if mail.is_positive() => {
                self.is_begun = true;
                Ok(Said::Reply(rcpt))
            }
            (Some(mail), _) => Ok(Said::Reply(mail)),
            (None, _) => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl Transaction {
    /// Adds the recipients that its policy wants, or puts them in place of the others.
    ///
    /// # Errors
    /// The next hop is gone, or does not take one of them: then the message is not to be taken.
    pub(crate) async fn edit_recipients(
        &mut self,
        proxy: &Proxy,
        client: &Client,
    ) -> io::Result<()> {
        let Some(edits) = self.edits.take() else { return Ok(()) };
        let mut count = self.recipients;
        if edits.is_redirected()
            && let Some(hop) = &mut self.hop
        {
            hop.forget().await?;
            self.is_begun = false;
            count = 0;
        }
        for recipient in edits.recipients() {
            match self.name(proxy, client, (recipient, "")).await? {
                Said::Reply(reply) if reply.is_positive() => count += 1,
                _ => return Err(io::Error::other(format!("it does not take {recipient}"))),
            }
        }
        self.at_hop = Some(count);
        for (name, value) in &edits.added {
            for part in [name.as_str(), ": ", value, "\r\n"] {
                self.header.push_str(part);
            }
        }
        self.edits = Some(edits);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_next_hop_does_not_offer_is_not_said_to_it() {
        let all = "SIZE=100 BODY=8BITMIME RET=HDRS SMTPUTF8".to_owned();
        let parameters = Parameters::read(all, true).unwrap();
        assert_eq!((parameters.size, parameters.is_eight_bit), (Some(100), true));
        let offers = Offers { size: Some(0), utf8: true, ..Offers::default() };
        assert_eq!(parameters.fit(&offers, true), " SIZE=100 SMTPUTF8");
        assert_eq!(parameters.fit(&offers, false), " SIZE=100 BODY=8BITMIME RET=HDRS SMTPUTF8");
        for all in ["SIZE=x", "BODY=BINARYMIME", "AUTH=<>", "XYZ"] {
            assert!(Parameters::read(all.to_owned(), true).is_err(), "{all}");
        }
        assert!(Parameters::read("AUTH=<> XYZ=1".to_owned(), false).is_ok());
        assert!(knows_parameters("NOTIFY=NEVER ORCPT=rfc822;a@b"));
        assert!(!knows_parameters("XYZ=1") && !knows_parameters("NOTIFY"));
    }
}
