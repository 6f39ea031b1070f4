//! Protocol codecs: bytes to events and back. No I/O, no word of what an event means.
//!
//! ```
//! use mpp_wire::policy::Decoder;
//!
//! let mut decoder = Decoder::default();
//! let mut requests = decoder.feed(b"request=smtpd_access_policy\nsender=a@b.example\n\n");
//! let request = requests.next_request().unwrap().unwrap();
//! assert_eq!(request.sender, b"a@b.example");
//! ```

pub mod btree;
pub mod clamd;
pub mod header;
pub mod http;
pub mod ldap;
pub mod milter;
pub mod milter_answer;
pub mod policy;
pub mod proxy_protocol;
pub mod resp;
pub mod smtp;
mod smtp_envelope;
pub mod smtp_server;
pub mod spamd;
