//! Mail addresses: from what a client writes to the one form by which everything is compared.
//!
//! A client has many ways to write one address, and a mail server delivers all of them to one
//! mailbox. Whoever compares texts as they were spelled lets himself be told apart from the server by
//! a dot. So there is one form, and this crate is the one place that makes it:
//!
//! * [`Path::parse`] reads what stands in MAIL and RCPT by the letter of RFC 5321, for a gateway;
//! * [`Path::resolve`] reads the same as Postfix does behind its defaults, which forgive much
//!   (comments, phrases, blanks, stray brackets), for filters and milters behind it;
//! * [`canonical`] is the form of the result that is a key.
//!
//! ```
//! use mpp_address::{Path, canonical};
//!
//! let (path, rest) = Path::parse(b"<\"B\\ob\"@Example.ORG.> SIZE=5").unwrap();
//! assert_eq!((path.as_str(), rest), ("Bob@Example.ORG", &b" SIZE=5"[..]));
//! assert_eq!(Path::resolve(b"Bob (home) @ Example.org").unwrap(), Path::parse(b"<Bob@Example.org>").unwrap().0);
//! assert_eq!(canonical(path.as_str()), "bob@example.org");
//! ```

mod form;
mod host;
mod origin;
mod path;
mod resolve;

pub use form::{account, canonical, domain, host_name, is_below, split, unicode_domain};
pub use host::address as host_address;
pub use origin::{may_change, push_stable_sender, push_steady_sender};
pub use path::{NoPath, Path};
