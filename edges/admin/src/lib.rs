//! How commands reach the daemon: one JSON object a line over a unix socket, one line back.
//!
//! A request is `{"command": NAME, ...}`; the answer is `{"ok": ...}` or `{"error": TEXT}`. To
//! `trace` more lines follow, until either side ends the connection. The socket is for root and the
//! daemon's user only, so there is no password.

mod handle;
mod status;
mod stream;

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mpp_hub::Hub;
use mpp_hub::directory::Answering;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

/// Bytes of one request at the most.
const REQUEST_BYTES_MAX: u64 = 64 * 1024;

/// What only the process itself can do.
pub trait Control: Send + Sync {
    /// Reads the configuration again, and takes it although lists have lost most of their entries if
    /// that is forced. Returns what to tell the operator.
    ///
    /// # Errors
    /// Why the old one stays, as it is shown to people.
    fn reload(&self, is_forced: bool) -> Result<String, String>;

    /// Facts about the process: version, listeners, configuration.
    fn status(&self) -> Value;

    /// What is counted of each proxy since the start.
    fn proxies(&self) -> Value;

    /// Answers a request whose command begins with `quarantine-`.
    ///
    /// # Errors
    /// Why not, for people.
    fn quarantine<'a>(&'a self, request: &'a Value) -> Answering<'a, Result<Value, String>>;
}

/// Judges a made-up transaction of a request with a hub of one's own.
///
/// # Errors
/// What is wrong with the request, for people.
pub async fn judge(hub: &Hub, request: &Value) -> Result<Value, String> {
    Ok(hub.ask(&handle::asked(request)?).await)
}

/// Answers commands for ever.
///
/// # Errors
/// The socket cannot be used.
pub async fn serve(
    listener: std::os::unix::net::UnixListener,
    hub: Arc<Hub>,
    control: Arc<dyn Control>,
) -> io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (hub, control) = (Arc::clone(&hub), Arc::clone(&control));
        tokio::spawn(async move {
            let (read, mut write) = stream.into_split();
            let mut line = String::new();
            let mut read = tokio::io::BufReader::new(read.take(REQUEST_BYTES_MAX));
            while let Ok(length) = read.read_line(&mut line).await {
                if length == 0 {
                    return;
                }
                let request = serde_json::from_str::<Value>(&line);
                if let Some(request) = request.as_ref().ok().filter(|it| stream::is_one(it)) {
                    // However it ends, nobody is left to talk to.
                    let _ = stream::run(&hub, request, (&mut read, &mut write)).await;
                    return;
                }
                let answer = match request {
                    Ok(request) => handle::answer(&hub, &*control, &request).await,
                    Err(error) => Err(format!("not JSON: {error}")),
                };
                let answer = match answer {
                    Ok(value) => json!({ "ok": value }),
                    Err(text) => json!({ "error": text }),
                };
                if write.write_all(format!("{answer}\n").as_bytes()).await.is_err() {
                    return;
                }
                line.clear();
                read.get_mut().set_limit(REQUEST_BYTES_MAX);
            }
        });
    }
}

/// Asks a daemon. Blocks.
///
/// # Errors
/// Nobody listens there, or what the daemon says against it.
pub fn ask(socket: &Path, request: &Value) -> Result<Value, AskError> {
    begin(socket, request).map(|(answer, _)| answer)
}

/// Asks a daemon for what goes on, says when it has begun, and hands over each line of it until
/// `take` wants no more. Blocks.
///
/// # Errors
/// As [`ask`]; and that the daemon has ended it without saying so, as [`AskError::NotRunning`].
pub fn follow(
    socket: &Path,
    request: &Value,
    begun: impl FnOnce(),
    mut take: impl FnMut(&Value) -> bool,
) -> Result<(), AskError> {
    let (_, mut reader) = begin(socket, request)?;
    reader.get_ref().set_read_timeout(None).map_err(AskError::NotRunning)?;
    begun();
    let mut line = String::new();
    loop {
        line.clear();
        let length = reader.read_line(&mut line).map_err(AskError::NotRunning)?;
        if length == 0 {
            return Err(AskError::NotRunning(io::ErrorKind::UnexpectedEof.into()));
        }
        let said: Value =
            serde_json::from_str(&line).map_err(|error| AskError::Refused(error.to_string()))?;
        if said.get("end").is_some() || !take(&said) {
            return Ok(());
        }
    }
}

/// Sends a request and reads the first line of the answer; what may follow is in the reader.
fn begin(socket: &Path, request: &Value) -> Result<(Value, BufReader<UnixStream>), AskError> {
    let stream = UnixStream::connect(socket).map_err(AskError::NotRunning)?;
    let mut reader = BufReader::new(stream);
    let talk = |reader: &mut BufReader<UnixStream>| -> io::Result<String> {
        reader.get_ref().set_read_timeout(Some(Duration::from_mins(1)))?;
        reader.get_mut().write_all(format!("{request}\n").as_bytes())?;
        let mut line = String::new();
        reader.read_line(&mut line)?;
        Ok(line)
    };
    let line = talk(&mut reader).map_err(AskError::NotRunning)?;
    let mut answer: Value =
        serde_json::from_str(&line).map_err(|error| AskError::Refused(error.to_string()))?;
    match answer.get("error").and_then(Value::as_str) {
        Some(text) => Err(AskError::Refused(text.to_owned())),
        None => Ok((answer.get_mut("ok").map(Value::take).unwrap_or_default(), reader)),
    }
}

/// Why a command got no answer.
#[derive(Debug)]
pub enum AskError {
    /// No daemon is there to ask.
    NotRunning(io::Error),
    /// The daemon says no, and why.
    Refused(String),
}
