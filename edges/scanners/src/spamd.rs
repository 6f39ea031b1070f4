//! `SpamAssassin`'s `spamd`.

use std::io;
use std::sync::Arc;

use mpp_config::directory::smtp::Server;
use mpp_config::scanner::Scanner as Settings;
use mpp_engine::scan::{Class, Finding, SPAM};
use mpp_hub::scanner::Letter;
use mpp_wire::spamd::{RESPONSE_BYTES_MAX, request, response};
use tokio::io::AsyncWriteExt as _;

use crate::connect::{PIECE_BYTES, connect, piece, read_all, said_to};
use crate::station::{Dialect, points};

/// What spamd speaks.
pub(crate) struct Spamd;

impl Dialect for Spamd {
    async fn scan(
        &self,
        server: &Server,
        settings: &Settings,
        letter: &Letter,
    ) -> Result<Finding, String> {
        let said = exchange(server, settings, letter).await.map_err(|error| error.to_string())?;
        let read = response(&said)?;
        let points = points(read.score, settings.spam.unwrap_or(read.required));
        Ok(Finding {
            scanner: Arc::clone(&settings.name),
            class: if points >= SPAM { Class::Spam } else { Class::Clean },
            points,
            tests: read.tests,
        })
    }

    async fn greet(&self, server: &Server, _: &Settings) -> Result<String, String> {
        let said = said_to(server, b"PING SPAMC/1.2\r\n\r\n").await?;
        let is_pong = said.starts_with(b"SPAMD/") && said.trim_ascii().ends_with(b"PONG");
        if is_pong { Ok("answers PING".into()) } else { Err("what answers is no spamd".into()) }
    }
}

async fn exchange(server: &Server, settings: &Settings, letter: &Letter) -> io::Result<Vec<u8>> {
    let mut stream = connect(server).await?;
    let head = request(&settings.user, letter.text.bytes());
    stream.write_all(head.as_bytes()).await?;
    let (mut place, mut buffer) = (0, vec![0; PIECE_BYTES]);
    loop {
        let piece = piece(&letter.text, &mut place, &mut buffer)?;
        if piece.is_empty() {
            break;
        }
        stream.write_all(piece).await?;
    }
    stream.shutdown().await?;
    read_all(&mut *stream, RESPONSE_BYTES_MAX).await
}
