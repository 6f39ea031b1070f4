//! `ClamAV`'s `clamd`.

use std::io;
use std::sync::Arc;

use mpp_config::directory::smtp::Server;
use mpp_config::scanner::Scanner as Settings;
use mpp_engine::scan::{Class, Finding};
use mpp_hub::scanner::Letter;
use mpp_wire::clamd::{END, Found, INSTREAM, RESPONSE_BYTES_MAX, length_of, response};
use tokio::io::AsyncWriteExt as _;

use crate::connect::{PIECE_BYTES, connect, piece, read_all, said_to};
use crate::station::Dialect;

/// What clamd speaks.
pub(crate) struct Clamd;

impl Dialect for Clamd {
    async fn scan(
        &self,
        server: &Server,
        settings: &Settings,
        letter: &Letter,
    ) -> Result<Finding, String> {
        let said = exchange(server, letter).await.map_err(|error| error.to_string())?;
        let (class, tests) = match response(&said)? {
            Found::Nothing => (Class::Clean, String::new()),
            Found::Virus(name) => (Class::Virus, name),
        };
        Ok(Finding { scanner: Arc::clone(&settings.name), class, points: 0.0, tests })
    }

    async fn greet(&self, server: &Server, _: &Settings) -> Result<String, String> {
        let said = said_to(server, b"zVERSION\0").await?;
        let text = String::from_utf8_lossy(said.strip_suffix(&[0]).unwrap_or(&said)).into_owned();
        if text.starts_with("ClamAV") { Ok(text) } else { Err("what answers is no clamd".into()) }
    }
}

async fn exchange(server: &Server, letter: &Letter) -> io::Result<Vec<u8>> {
    let mut stream = connect(server).await?;
    stream.write_all(INSTREAM).await?;
    let (mut place, mut buffer) = (0, vec![0; PIECE_BYTES]);
    loop {
        let piece = piece(&letter.text, &mut place, &mut buffer)?;
        if piece.is_empty() {
            break;
        }
        let length = length_of(piece).ok_or(io::ErrorKind::InvalidInput)?;
        // It stops to listen when it has seen enough, and says why.
        if stream.write_all(&length).await.is_err() || stream.write_all(piece).await.is_err() {
            break;
        }
    }
    let _ = stream.write_all(&END).await;
    let _ = stream.flush().await;
    read_all(&mut *stream, RESPONSE_BYTES_MAX).await
}
