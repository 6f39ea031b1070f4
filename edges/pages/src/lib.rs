//! The page behind the links of a digest: it shows what was held, and lets it out when its button is
//! pressed. Programs that look at every link of a message release nothing: only the button does.
//!
//! It speaks plain HTTP/1.1 and belongs behind the web server that has the certificate.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use mpp_hub::directory::Answering;
use mpp_hub::html::escaped;
use tokio::io::{AsyncRead, AsyncWrite};

/// A head of a request takes no longer, and no more bytes.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// A connection lasts no longer.
const CONNECTION_TIMEOUT: Duration = Duration::from_mins(2);

/// A message that a link names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Its name in the quarantine.
    pub id: String,
    /// Whose it is.
    pub user: String,
    /// Who sent it.
    pub sender: String,
    /// Its subject.
    pub subject: String,
    /// When it came, for people.
    pub when: String,
    /// Why it is held.
    pub reason: String,
    /// What has become of it; empty while it waits.
    pub over: String,
}

/// Who answers for the quarantine.
pub trait Pages: Send + Sync {
    /// The message that the secret part of a link names.
    ///
    /// # Errors
    /// The link opens nothing, or nothing any more; for people.
    fn held<'a>(&'a self, token: &'a str) -> Answering<'a, Result<Held, String>>;

    /// Lets it out; what came of it, for people.
    ///
    /// # Errors
    /// As [`Pages::held`].
    fn release<'a>(&'a self, token: &'a str) -> Answering<'a, Result<String, String>>;
}

/// Serves a connection until it ends.
pub async fn serve<IO>(io: IO, pages: Arc<dyn Pages>)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let pages = Arc::clone(&pages);
        async move { Ok::<_, Infallible>(answer(&request, &*pages).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(io), service);
    // What goes wrong on it is the peer's business.
    let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await;
}

async fn answer(request: &Request<Incoming>, pages: &dyn Pages) -> Response<Full<Bytes>> {
    let token =
        request.uri().query().and_then(|query| query.strip_prefix("t=")).unwrap_or_default();
    let (status, body) = match *request.method() {
        Method::GET => match pages.held(token).await {
            Ok(held) => (StatusCode::OK, asking(&held)),
            Err(text) => (StatusCode::NOT_FOUND, saying(&text)),
        },
        Method::POST => match pages.release(token).await {
            Ok(text) => (StatusCode::OK, saying(&text)),
            Err(text) => (StatusCode::CONFLICT, saying(&text)),
        },
        _ => (StatusCode::METHOD_NOT_ALLOWED, saying("Only GET and POST are answered here.")),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        // The link is the secret: it goes nowhere else.
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("x-content-type-options"), "nosniff"),
        (HeaderName::from_static("x-frame-options"), "DENY"),
        (
            HeaderName::from_static("content-security-policy"),
            "default-src 'none'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, POST"));
    }
    response
}

/// The page with the button. The form goes to where it came from, the secret part included.
fn asking(held: &Held) -> String {
    let rows: String = [
        ("For", &held.user),
        ("From", &held.sender),
        ("Subject", &held.subject),
        ("Came", &held.when),
        ("Held as", &held.reason),
        ("Id", &held.id),
    ]
    .map(|(name, value)| {
        format!("<tr><th align=\"left\">{name}</th><td>{}</td></tr>\n", escaped(value))
    })
    .concat();
    if !held.over.is_empty() {
        let over = escaped(&held.over);
        return page(&format!("<h1>{over}</h1>\n<table>\n{rows}</table>\n"));
    }
    page(&format!(
        "<h1>Deliver this message?</h1>\n<table>\n{rows}</table>\n\
         <form method=\"post\"><button>Deliver it to me</button></form>\n"
    ))
}

fn saying(text: &str) -> String {
    page(&format!("<p>{}</p>\n", escaped(text)))
}

fn page(body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>Held mail</title>\
         </head><body>\n{body}</body></html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_wrote_stays_text() {
        let subject = "<script>alert(1)</script>\"'&\u{7}".to_owned();
        let page = asking(&Held { subject, ..Held::default() });
        assert!(!page.contains("<script>") && page.contains("&lt;script&gt;"), "{page}");
        assert!(page.contains("method=\"post\""));
    }
}
