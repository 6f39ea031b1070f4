//! A message of our own making, or one that was held, goes to a next hop without a client.

use std::io;

use mpp_hub::spool::Spooled;
use mpp_wire::smtp::Reply;

use super::deliver::Stuffing;
use super::gate::{Gate, Setup};
use super::next_hop::NextHop;
use super::offers::Offers;

/// Bytes that are read from the spool, and written, at once.
const PIECE_BYTES: usize = 32 * 1024;

/// From whom and to whom a message goes, with what was said of each when it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// The sender; empty is the null sender.
    pub sender: String,
    /// The parameters of MAIL, with a space between two.
    pub parameters: String,
    /// The recipients, each with the parameters of RCPT.
    pub recipients: Vec<(String, String)>,
}

/// What has become of a message for one of its recipients. Texts are for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Injected {
    /// The next hop has taken it.
    Taken(String),
    /// It has not, and will not without being asked again.
    NotTaken(String),
    /// It has got all of it, and was not heard of again.
    Unsure(String),
}

impl Gate {
    /// Sends a message to a hop; returns what has become of it for each of the recipients.
    pub async fn inject(&self, hop: usize, envelope: &Envelope, text: &Spooled) -> Vec<Injected> {
        let setup = self.setup();
        let mut done = vec![None; envelope.recipients.len()];
        let sent = match NextHop::open(self, &setup, hop).await {
            Ok(mut hop) => {
                let sent = Self::send(&setup, &mut hop, envelope, (text, &mut done)).await;
                hop.quit().await;
                sent
            }
            Err(trouble) => Err(Injected::NotTaken(trouble)),
        };
        let nothing = Injected::NotTaken("the next hop has taken none of it".into());
        let rest = sent.err().unwrap_or(nothing);
        done.into_iter().map(|it| it.unwrap_or_else(|| rest.clone())).collect()
    }

    /// Fills in what becomes of it for whom; an error is what becomes of it for all the others.
    async fn send(
        setup: &Setup,
        hop: &mut NextHop,
        envelope: &Envelope,
        (text, done): (&Spooled, &mut [Option<Injected>]),
    ) -> Result<(), Injected> {
        let is_ascii = is_ascii(text).map_err(not_taken)?;
        let parameters = parameters((&hop.offers, setup.proxy.is_gateway()), envelope, is_ascii)?;
        let reply = hop.say(&format!("MAIL FROM:<{}>{parameters}\r\n", envelope.sender)).await;
        taken(reply)?;
        for ((recipient, all), done) in envelope.recipients.iter().zip(done.iter_mut()) {
            let all =
                if hop.offers.dsn { said_before(all, &["NOTIFY", "ORCPT"]) } else { String::new() };
            let rcpt = format!("RCPT TO:<{recipient}>{all}\r\n");
            let reply = hop.say(&rcpt).await.map_err(not_taken)?;
            *done = (!reply.is_positive()).then(|| Injected::NotTaken(said(&reply)));
        }
        let count = done.iter().filter(|done| done.is_none()).count();
        if count == 0 {
            return Ok(());
        }
        if let Some(refusal) = hop.data().await.map_err(not_taken)? {
            return Err(Injected::NotTaken(said(&refusal)));
        }
        let mut stuffed = Vec::with_capacity(PIECE_BYTES * 2);
        let (mut stuffing, mut place) = (Stuffing::default(), 0);
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            // Whatever fails before the last line, the next hop has no message.
            let length = text.read_at(place, &mut piece).map_err(not_taken)?;
            if length == 0 {
                break;
            }
            place += length as u64;
            stuffing.push(piece.get(..length).unwrap_or_default(), &mut stuffed);
            hop.write(&stuffed).await.map_err(not_taken)?;
            stuffed.clear();
        }
        stuffing.end(&mut stuffed);
        let replies = hop.end(&mut stuffed, u32::try_from(count).unwrap_or(u32::MAX)).await;
        let unsure = |error: io::Error| Injected::Unsure(format!("it has not answered: {error}"));
        let replies = replies.map_err(unsure)?;
        let last = replies.last().cloned();
        let mut replies = replies.into_iter();
        for done in done.iter_mut().filter(|done| done.is_none()) {
            // By SMTP one answer speaks for all.
            let Some(reply) = replies.next().or_else(|| last.clone()) else { break };
            *done = Some(match reply.code {
                200..300 => Injected::Taken(said(&reply)),
                400.. => Injected::NotTaken(said(&reply)),
                _ => Injected::Unsure(said(&reply)),
            });
        }
        Ok(())
    }
}

/// What MAIL says of the message, or why it cannot be sent there.
fn parameters(
    (offers, is_gateway): (&Offers, bool),
    envelope: &Envelope,
    is_ascii: bool,
) -> Result<String, Injected> {
    let Envelope { sender, parameters, recipients } = envelope;
    let was_said = |wanted: &str| {
        let mut words = parameters.split(' ');
        words.any(|word| word.eq_ignore_ascii_case(wanted))
    };
    let is_address_utf8 = !sender.is_ascii() || recipients.iter().any(|(it, _)| !it.is_ascii());
    let is_utf8 = is_address_utf8 || was_said("SMTPUTF8");
    // A text that is all ASCII needs it only for its addresses.
    if is_utf8 && !offers.utf8 && (is_address_utf8 || !is_ascii) {
        return Err(Injected::NotTaken("it takes no SMTPUTF8".into()));
    }
    if !is_utf8 && !is_ascii && !offers.eight_bit && is_gateway {
        return Err(Injected::NotTaken("it takes no 8-bit text".into()));
    }
    let is_eight_bit = !is_ascii || was_said("BODY=8BITMIME");
    let mut text = String::new();
    text.push_str(if is_eight_bit && offers.eight_bit { " BODY=8BITMIME" } else { "" });
    text.push_str(if is_utf8 && offers.utf8 { " SMTPUTF8" } else { "" });
    if offers.dsn {
        text.push_str(&said_before(parameters, &["RET", "ENVID"]));
    }
    Ok(text)
}

/// What was said of these when the message came (RFC 3461 section 5.2.1), each with a space before it.
fn said_before(parameters: &str, names: &[&str]) -> String {
    let mut text = String::new();
    for word in parameters.split(' ') {
        let name = word.split_once('=').map_or("", |(name, _)| name);
        let is_fine = word.bytes().all(|byte| byte > b' ' && byte != 0x7f);
        if is_fine && names.iter().any(|wanted| name.eq_ignore_ascii_case(wanted)) {
            text.push(' ');
            text.push_str(word);
        }
    }
    text
}

fn is_ascii(text: &Spooled) -> io::Result<bool> {
    let (mut place, mut piece) = (0, vec![0; PIECE_BYTES]);
    loop {
        let length = text.read_at(place, &mut piece)?;
        if length == 0 {
            return Ok(true);
        }
        if !piece.get(..length).unwrap_or_default().is_ascii() {
            return Ok(false);
        }
        place += length as u64;
    }
}

fn taken(reply: io::Result<Reply>) -> Result<(), Injected> {
    let reply = reply.map_err(not_taken)?;
    if reply.is_positive() { Ok(()) } else { Err(Injected::NotTaken(said(&reply))) }
}

#[allow(clippy::needless_pass_by_value, reason = "it is what `map_err` hands over")]
fn not_taken(error: io::Error) -> Injected {
    Injected::NotTaken(format!("the next hop: {error}"))
}

fn said(reply: &Reply) -> String {
    format!("{} {}", reply.code, reply.text())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_of_a_message_goes_on_with_it_where_it_is_offered() {
        let all = Offers { eight_bit: true, utf8: true, dsn: true, ..Offers::default() };
        let envelope = |parameters: &str, recipient: &str| Envelope {
            sender: "a@x.example".into(),
            parameters: parameters.into(),
            recipients: vec![(recipient.into(), String::new())],
        };
        let said = "SIZE=5 RET=HDRS ENVID=QQ314159 AUTH=<>";
        for (offers, parameters, to, is_ascii, wanted) in [
            (&all, said, "b@y.example", true, Some(" RET=HDRS ENVID=QQ314159")),
            (&all, "BODY=8BITMIME SMTPUTF8", "b@y.example", true, Some(" BODY=8BITMIME SMTPUTF8")),
            (&all, "", "b@y.example", false, Some(" BODY=8BITMIME")),
            (&all, "", "\u{fc}@y.example", true, Some(" SMTPUTF8")),
            (&Offers::default(), said, "b@y.example", true, Some("")),
            // A header in UTF-8 cannot go where nobody takes one.
            (&Offers::default(), "SMTPUTF8", "b@y.example", false, None),
            (&Offers::default(), "SMTPUTF8", "b@y.example", true, Some("")),
            (&Offers::default(), "", "\u{fc}@y.example", true, None),
            (&Offers::default(), "", "b@y.example", false, None),
        ] {
            let got = parameters_of(offers, &envelope(parameters, to), is_ascii);
            assert_eq!(got.as_deref(), wanted, "{parameters} {to}");
        }
        let rcpt = "notify=NEVER ORCPT=rfc822;b@y.example XYZ=1 RET=FULL";
        assert_eq!(
            said_before(rcpt, &["NOTIFY", "ORCPT"]),
            " notify=NEVER ORCPT=rfc822;b@y.example"
        );
        assert_eq!(said_before("NOTIFY=\r\nDATA", &["NOTIFY"]), "");
    }

    fn parameters_of(offers: &Offers, envelope: &Envelope, is_ascii: bool) -> Option<String> {
        parameters((offers, true), envelope, is_ascii).ok()
    }
}
