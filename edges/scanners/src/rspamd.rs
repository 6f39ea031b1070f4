//! rspamd's normal worker, asked by HTTP (`POST /checkv2`).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::handshake;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use mpp_config::directory::smtp::Server;
use mpp_config::scanner::Scanner as Settings;
use mpp_engine::scan::{Class, Finding, SPAM};
use mpp_hub::scanner::Letter;
use mpp_hub::spool::Spooled;
use serde_json::Value;

use crate::connect::{PIECE_BYTES, connect};
use crate::station::{Dialect, points};

/// No answer is longer, in bytes.
const RESPONSE_BYTES_MAX: usize = 1 << 20;
/// From this score on rspamd marks a message, where it does not say otherwise.
const SPAM_SCORE: f64 = 6.0;

/// What rspamd speaks.
pub(crate) struct Rspamd;

impl Dialect for Rspamd {
    async fn scan(
        &self,
        server: &Server,
        settings: &Settings,
        letter: &Letter,
    ) -> Result<Finding, String> {
        let mut request = Request::builder().method(Method::POST).uri("/checkv2");
        let client = letter.client.to_string();
        let mut fields = vec![
            ("host", "localhost"),
            ("ip", &*client),
            ("helo", &letter.helo),
            ("hostname", &letter.client_name),
            ("from", &letter.sender),
            ("user", &letter.sasl_user),
            ("queue-id", &letter.queue_id),
        ];
        fields.extend(letter.recipients.iter().map(|recipient| ("rcpt", &**recipient)));
        fields.extend(letter.results.iter().map(|(name, value)| (&**name, &**value)));
        if let Some(password) = &settings.password {
            fields.push(("password", password.reveal()));
        }
        for (name, value) in fields {
            // What strangers say may be no value of a header; rspamd goes without it then.
            let name = HeaderName::from_bytes(name.as_bytes());
            let value = HeaderValue::from_bytes(value.as_bytes());
            if let (Ok(name), Ok(value)) = (name, value)
                && !value.is_empty()
            {
                request = request.header(name, value);
            }
        }
        let body = Text { text: Arc::clone(&letter.text), place: 0 };
        let request = request.body(body).map_err(|error| error.to_string())?;
        let response = exchange(server, request).await?;
        finding(response, settings).await
    }

    async fn greet(&self, server: &Server, _: &Settings) -> Result<String, String> {
        let request = Request::builder().uri("/ping").header("host", "localhost");
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
        let response = exchange(server, request).await?;
        let said = collected(response).await?;
        let is_pong = said.trim_ascii().starts_with(b"pong");
        if is_pong { Ok("answers /ping".into()) } else { Err("what answers is no rspamd".into()) }
    }
}

async fn exchange<B>(
    server: &Server,
    request: Request<B>,
) -> Result<Response<hyper::body::Incoming>, String>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = connect(server).await.map_err(|error| error.to_string())?;
    let shaken = handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = shaken.map_err(|error| error.to_string())?;
    // Ends with the sender; what goes wrong is said where the answer is waited for.
    tokio::spawn(async move { drop(connection.await) });
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    if response.status().is_success() {
        Ok(response)
    } else {
        Err(format!("it says {}", response.status()))
    }
}

async fn collected(response: Response<hyper::body::Incoming>) -> Result<Bytes, String> {
    let body = Limited::new(response.into_body(), RESPONSE_BYTES_MAX);
    Ok(body.collect().await.map_err(|error| error.to_string())?.to_bytes())
}

async fn finding(
    response: Response<hyper::body::Incoming>,
    settings: &Settings,
) -> Result<Finding, String> {
    let said = collected(response).await?;
    let said: Value =
        serde_json::from_slice(&said).map_err(|error| format!("it sends no JSON: {error}"))?;
    let score = said.get("score").and_then(Value::as_f64).ok_or("it says no score")?;
    let marks = said.pointer("/thresholds/add header").and_then(Value::as_f64);
    let spam = settings.spam.or(marks).unwrap_or(SPAM_SCORE);
    let points = points(score, spam);
    let symbols = said.get("symbols").and_then(Value::as_object);
    let names: Vec<&str> =
        symbols.into_iter().flatten().map(|(name, _)| &**name).take(100).collect();
    let plain = |letter: char| letter.is_ascii_graphic();
    let tests = names.join(",").chars().filter(|letter| plain(*letter)).take(1000).collect();
    Ok(Finding {
        scanner: Arc::clone(&settings.name),
        class: if points >= SPAM { Class::Spam } else { Class::Clean },
        points,
        tests,
    })
}

/// A message as the body of a request, read from the spool as it is sent.
struct Text {
    text: Arc<Spooled>,
    place: u64,
}

impl Body for Text {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let mut buffer = vec![0; PIECE_BYTES];
        Poll::Ready(match self.text.read_at(self.place, &mut buffer) {
            Ok(0) => None,
            Ok(length) => {
                buffer.truncate(length);
                self.place += length as u64;
                Some(Ok(Frame::data(Bytes::from(buffer))))
            }
            Err(error) => Some(Err(error)),
        })
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.text.bytes().saturating_sub(self.place))
    }
}
