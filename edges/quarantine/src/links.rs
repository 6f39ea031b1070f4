//! Links by which a user lets out what is held for him: each names one message and one user, for a
//! time, and is signed; whoever has it can release that message to that user and nothing else.

use mpp_hub::hex::{hex, unhex};

use crate::Quarantine;
use crate::seal::Seal;

/// What a link opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The message: its id, with the node that held it if there are several.
    pub id: String,
    /// Whose it is.
    pub user: String,
}

impl Seal {
    /// The secret part of a link to the message of this name.
    pub(crate) fn token(&self, name: &str, user: &str, until_ms: u64) -> String {
        let said = format!("{name} {} {user}", until_ms / 1000);
        format!("{}-{}", hex(said.as_bytes()), self.tag(&format!("link {said}")))
    }

    /// What the secret part of a link opens now.
    pub(crate) fn opened(&self, token: &str, now_ms: u64) -> Option<Opened> {
        let (said, tag) = token.split_once('-')?;
        let said = String::from_utf8(unhex(said)?).ok()?;
        if !self.is_tag(&format!("link {said}"), tag) {
            return None;
        }
        let mut parts = said.splitn(3, ' ');
        let (id, until, user) = (parts.next()?, parts.next()?, parts.next()?);
        let until_ms = until.parse::<u64>().ok()?.checked_mul(1000)?;
        (now_ms < until_ms).then(|| Opened { id: id.to_owned(), user: user.to_owned() })
    }
}

impl Quarantine {
    /// What the secret part of a link opens; nothing if it is none of ours, or too old.
    pub fn opened(&self, token: &str) -> Option<Opened> {
        let inner = self.inner();
        inner.seal.opened(token, inner.clock.now_ms())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_opens_one_message_for_one_user_for_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let seal = Seal::open(folder.path(), None).unwrap();
        let id = "00000003RJ@mx1.test.example";
        let token = seal.token(id, "bob+x@test.example", 10_000);
        let opened = seal.opened(&token, 5_000).unwrap();
        assert_eq!((opened.id, &*opened.user), (id.to_owned(), "bob+x@test.example"));
        assert_eq!(seal.opened(&token, 10_000), None, "too late");
        let other = tempfile::tempdir().unwrap();
        assert_eq!(Seal::open(other.path(), None).unwrap().opened(&token, 5_000), None);
        let eve = seal.token(id, "eve@test.example", 10_000);
        let (said, _) = eve.split_once('-').unwrap();
        let (_, tag) = token.split_once('-').unwrap();
        assert_eq!(seal.opened(&format!("{said}-{tag}"), 5_000), None, "the tag of another");
        for token in ["", "-", "zz-zz", "00-00", &token[1..], &format!("{token}0")] {
            assert_eq!(seal.opened(token, 5_000), None, "{token}");
        }
    }
}
