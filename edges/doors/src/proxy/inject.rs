//! A message of our own making, or one that was held, goes to a next hop without a client.

use std::io;

use mpp_hub::spool::Spooled;
use mpp_wire::smtp::Reply;

use super::deliver::Stuffing;
use super::gate::{Gate, Setup};
use super::next_hop::NextHop;

/// Bytes that are read from the spool, and written, at once.
const PIECE_BYTES: usize = 32 * 1024;

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
    pub async fn inject(
        &self,
        hop: usize,
        (sender, recipients): (&str, &[String]),
        text: &Spooled,
    ) -> Vec<Injected> {
        let setup = self.setup();
        let mut done = vec![None; recipients.len()];
        let sent = match NextHop::open(self, &setup, hop).await {
            Ok(mut hop) => {
                let envelope = (sender, recipients);
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
        (sender, recipients): (&str, &[String]),
        (text, done): (&Spooled, &mut [Option<Injected>]),
    ) -> Result<(), Injected> {
        let parameters = parameters(setup, hop, (sender, recipients), text)?;
        let reply = hop.say(&format!("MAIL FROM:<{sender}>{parameters}\r\n")).await;
        taken(reply)?;
        for (recipient, done) in recipients.iter().zip(done.iter_mut()) {
            let reply = hop.say(&format!("RCPT TO:<{recipient}>\r\n")).await.map_err(not_taken)?;
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
    setup: &Setup,
    hop: &NextHop,
    (sender, recipients): (&str, &[String]),
    text: &Spooled,
) -> Result<&'static str, Injected> {
    let is_utf8 = !sender.is_ascii() || recipients.iter().any(|it| !it.is_ascii());
    let is_eight_bit = !is_ascii(text).map_err(not_taken)?;
    match (is_utf8, is_eight_bit) {
        (true, _) if !hop.offers.utf8 => Err(Injected::NotTaken("it takes no SMTPUTF8".into())),
        (false, true) if !hop.offers.eight_bit && setup.proxy.is_gateway() => {
            Err(Injected::NotTaken("it takes no 8-bit text".into()))
        }
        (true, true) if hop.offers.eight_bit => Ok(" BODY=8BITMIME SMTPUTF8"),
        (true, _) => Ok(" SMTPUTF8"),
        (false, true) if hop.offers.eight_bit => Ok(" BODY=8BITMIME"),
        (false, _) => Ok(""),
    }
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
