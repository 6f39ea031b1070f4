//! Answers that go on: what a client says and is answered, line by line, while somebody watches.

use std::io;
use std::time::Duration;

use mpp_hub::Hub;
use mpp_hub::trace::{Heard, LINES_MAX};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Take};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{sleep, timeout};

/// Who takes no line for so long watches no more: there are few places.
const WRITE_TIMEOUT: Duration = Duration::from_mins(1);
/// Nobody watches longer at once.
const WATCH_MAX: Duration = Duration::from_hours(24 * 7);

/// Whether a request is one that is answered here.
pub(crate) fn is_one(request: &Value) -> bool {
    request.get("command").and_then(Value::as_str) == Some("trace")
}

/// Answers it, until the time is over or the peer closes the connection or says anything.
///
/// # Errors
/// The peer is gone.
pub(crate) async fn run(
    hub: &Hub,
    request: &Value,
    (read, write): (&mut BufReader<Take<OwnedReadHalf>>, &mut OwnedWriteHalf),
) -> io::Result<()> {
    let client = request.get("client").and_then(Value::as_str).unwrap_or_default();
    let mut watch = match hub.watch(client) {
        Ok(watch) => watch,
        Err(text) => return say(write, &json!({ "error": text })).await,
    };
    say(write, &json!({ "ok": "watching" })).await?;
    let time = request.get("for_ms").and_then(Value::as_u64).map(Duration::from_millis);
    let mut end = std::pin::pin!(sleep(time.unwrap_or(WATCH_MAX).min(WATCH_MAX)));
    let mut ignored = String::new();
    loop {
        tokio::select! {
            heard = watch.next() => say(write, &spelled(&heard)).await?,
            () = &mut end => break,
            _ = read.read_line(&mut ignored) => return Ok(()),
        }
    }
    // What was said before the end, and that much at the most.
    for heard in std::iter::from_fn(|| watch.next_now()).take(LINES_MAX) {
        say(write, &spelled(&heard)).await?;
    }
    say(write, &json!({ "end": true })).await
}

async fn say(write: &mut OwnedWriteHalf, line: &Value) -> io::Result<()> {
    timeout(WRITE_TIMEOUT, write.write_all(format!("{line}\n").as_bytes())).await?
}

fn spelled(heard: &Heard) -> Value {
    match heard {
        Heard::Line(line) => json!({
            "time": line.time(),
            "client": line.client.to_string(),
            "session": line.session,
            "speaker": line.speaker.name(),
            "text": line.text,
        }),
        Heard::Lost(lost) => json!({ "lost": lost }),
    }
}
