//! rspamd's normal worker, asked by HTTP (`POST /checkv2`). It closes the connection behind each
//! answer, whatever it is asked (3.4 does), so none is kept.

use std::fmt;
use std::sync::Arc;

use mpp_config::directory::smtp::Server;
use mpp_config::scanner::Scanner as Settings;
use mpp_engine::scan::{Class, Finding, SPAM};
use mpp_hub::scanner::Letter;
use mpp_wire::http::request;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::call::{Question, ask};
use crate::station::{Dialect, points};

/// From this score on rspamd marks a message, where it does not say otherwise.
const SPAM_SCORE: f64 = 6.0;
/// Rules of an answer that are named, and bytes of their names.
const TESTS_MAX: usize = 100;
const TESTS_BYTES_MAX: usize = 1000;

/// What rspamd speaks.
pub(crate) struct Rspamd;

impl Dialect for Rspamd {
    async fn scan(
        &self,
        server: &Server,
        settings: &Settings,
        letter: &Letter,
    ) -> Result<Finding, String> {
        let head = head(settings, letter);
        let response = ask(server, Question { head: &head, text: Some(&letter.text) }).await?;
        finding(response.body().map_err(|fault| fault.to_string())?, settings)
    }

    async fn greet(&self, server: &Server, _: &Settings) -> Result<String, String> {
        let head = request("GET /ping", [("host", "localhost")], None);
        let response = ask(server, Question { head: &head, text: None }).await?;
        let said = response.body().map_err(|fault| fault.to_string())?;
        let is_pong = said.trim_ascii().starts_with(b"pong");
        if is_pong { Ok("answers /ping".into()) } else { Err("what answers is no rspamd".into()) }
    }
}

/// What it is told of a message. What strangers say may be no value of a field; it goes without that
/// then.
fn head(settings: &Settings, letter: &Letter) -> String {
    let client = letter.client.to_string();
    let fields = [
        ("host", "localhost"),
        ("ip", &*client),
        ("helo", &*letter.helo),
        ("hostname", &*letter.client_name),
        ("from", &*letter.sender),
        ("user", &*letter.sasl_user),
        ("queue-id", &*letter.queue_id),
    ];
    let recipients = letter.recipients.iter().map(|recipient| ("rcpt", &**recipient));
    let results = letter.results.iter().map(|(name, value)| (&**name, &**value));
    let password = settings.password.as_ref().map(|password| ("password", password.reveal()));
    let fields = fields.into_iter().chain(recipients).chain(results).chain(password);
    request("POST /checkv2", fields, Some(letter.text.bytes()))
}

/// What of an answer is of use. The rest is passed over as it is read.
#[derive(Deserialize)]
struct Said {
    score: Option<f64>,
    #[serde(default)]
    thresholds: Thresholds,
    #[serde(default)]
    symbols: Tests,
}

#[derive(Default, Deserialize)]
struct Thresholds {
    #[serde(rename = "add header")]
    marks: Option<f64>,
}

/// Names of rules with commas between them, in printable ASCII.
#[derive(Default)]
struct Tests(String);

impl<'d> Deserialize<'d> for Tests {
    fn deserialize<D: Deserializer<'d>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'d> Visitor<'d> for Names {
            type Value = Tests;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("rules by name")
            }
            fn visit_map<A: MapAccess<'d>>(self, mut map: A) -> Result<Tests, A::Error> {
                let (mut tests, mut count) = (String::new(), 0);
                while map.next_key_seed(Name(&mut tests, count))?.is_some() {
                    let IgnoredAny = map.next_value()?;
                    count += 1;
                }
                Ok(Tests(tests))
            }
        }
        deserializer.deserialize_map(Names)
    }
}

/// The name of a rule, to be put behind the others.
struct Name<'t>(&'t mut String, usize);

impl<'d> DeserializeSeed<'d> for Name<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'d>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a rule")
    }
    fn visit_str<E>(self, name: &str) -> Result<(), E> {
        let Self(tests, count) = self;
        if count >= TESTS_MAX {
            return Ok(());
        }
        let comma = (count > 0).then_some(',');
        let plain = name.chars().filter(char::is_ascii_graphic);
        let room = TESTS_BYTES_MAX.saturating_sub(tests.len());
        tests.extend(comma.into_iter().chain(plain).take(room));
        Ok(())
    }
}

fn finding(said: &[u8], settings: &Settings) -> Result<Finding, String> {
    let said: Said =
        serde_json::from_slice(said).map_err(|error| format!("it sends no JSON: {error}"))?;
    let score = said.score.ok_or("it says no score")?;
    let spam = settings.spam.or(said.thresholds.marks).unwrap_or(SPAM_SCORE);
    let points = points(score, spam);
    Ok(Finding {
        scanner: Arc::clone(&settings.name),
        class: if points >= SPAM { Class::Spam } else { Class::Clean },
        points,
        tests: said.symbols.0,
    })
}
