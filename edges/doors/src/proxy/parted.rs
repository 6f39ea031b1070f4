//! Messages whose recipients were answered apart, by LMTP or since their policies differ: one reply has to
//! speak for all, so the client comes again, and then only those get it who have not got it yet.

use std::io;

use mpp_config::directory::smtp::Protocol;
use mpp_hub::delivered::Leg;
use mpp_hub::spool::Spooled;
use mpp_wire::smtp::Reply;
use xxhash_rust::xxh3::Xxh3;

use super::deliver::Group;
use super::session::Session;
use super::transaction::Transaction;

/// Bytes that are read from the spool at once.
const PIECE_BYTES: usize = 64 * 1024;

/// Who has got a message at this try.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    /// The hash of its text, once it matters; 0 before.
    text: u64,
    recipients: Vec<String>,
}

impl Delivered {
    /// Notes what the next hop has answered for the recipients of a group: by LMTP for each.
    pub(super) fn note(&mut self, group: &Group, replies: &[Reply]) {
        for (place, (recipient, _)) in group.recipients.iter().enumerate() {
            let own = replies.get(place).filter(|_| replies.len() > 1).or_else(|| replies.last());
            if own.is_some_and(Reply::is_positive) {
                self.recipients.push(recipient.clone());
            }
        }
    }
}

impl Session {
    /// Whether a message has to be there whole before it is passed on, since its recipients may be
    /// answered apart, or were when it came the last time.
    pub(super) async fn may_be_parted(&mut self) -> bool {
        let Some(message) = &self.transaction else { return false };
        let hop = message.route.and_then(|route| self.setup.proxy.hops.get(route));
        if hop.is_none_or(|hop| hop.protocol != Protocol::Lmtp) {
            return false;
        }
        message.named.len() > 1 || self.was_parted().await
    }

    /// Whether a message of this sender to one of these recipients was parted lately.
    async fn was_parted(&self) -> bool {
        let Some(message) = &self.transaction else { return false };
        self.door.hub.were_delivered(&legs(message, 0)).await.contains(&true)
    }

    /// Takes those out of the groups who have it already.
    ///
    /// # Errors
    /// The spool cannot be read.
    pub(super) async fn leave_out_delivered(
        &self,
        groups: &mut Vec<Group>,
        text: &Spooled,
    ) -> io::Result<Delivered> {
        let mut delivered = Delivered::default();
        let total: usize = groups.iter().map(|group| group.recipients.len()).sum();
        let Some(message) = &self.transaction else { return Ok(delivered) };
        // One that cannot be parted now may have been, by another way.
        if total == 0 || !self.was_parted().await {
            if groups.len() > 1 || total > 1 {
                delivered.text = hash(text, message.header_bytes)?;
            }
            return Ok(delivered);
        }
        delivered.text = hash(text, message.header_bytes)?;
        for group in groups.iter_mut() {
            let leg = |(recipient, _): &(String, String)| recipient.clone();
            let recipients: Vec<String> = group.recipients.iter().map(leg).collect();
            let legs: Vec<Leg<'_>> = recipients
                .iter()
                .map(|recipient| Leg { sender: &message.sender, recipient, text: delivered.text })
                .collect();
            let mut known = self.door.hub.were_delivered(&legs).await.into_iter();
            group.recipients.retain(|_| !known.next().unwrap_or(false));
        }
        groups.retain(|group| !group.recipients.is_empty());
        Ok(delivered)
    }

    /// The message comes again: who has got it now is remembered until then.
    pub(super) fn note_parted(&self, delivered: &Delivered) {
        let Some(message) = &self.transaction else { return };
        if delivered.recipients.is_empty() || delivered.text == 0 {
            return;
        }
        let (sender, text) = (message.sender.as_str(), delivered.text);
        let mut all = legs(message, 0);
        all.extend(delivered.recipients.iter().map(|recipient| Leg { sender, recipient, text }));
        self.door.hub.note_delivered(&all);
    }
}

/// The message to each of its recipients.
fn legs(message: &Transaction, text: u64) -> Vec<Leg<'_>> {
    let sender = message.sender.as_str();
    let recipients = message.named.iter().map(|named| named.path.as_str());
    recipients.map(|recipient| Leg { sender, recipient, text }).collect()
}

/// The hash of what a client sent: all behind the header that is ours.
fn hash(text: &Spooled, header_bytes: u64) -> io::Result<u64> {
    let (mut place, mut piece, mut hash) = (header_bytes, vec![0; PIECE_BYTES], Xxh3::new());
    loop {
        let length = text.read_at(place, &mut piece)?;
        if length == 0 {
            return Ok(hash.digest().max(1));
        }
        hash.update(piece.get(..length).unwrap_or_default());
        place += length as u64;
    }
}
