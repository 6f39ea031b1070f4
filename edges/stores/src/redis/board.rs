//! The notice board on a Redis: scripts of its own, on a connection of its own. All of it has one hash tag,
//! so a cluster has it in one place.

use mpp_config::store::Redis as Settings;
use mpp_hub::board::{Board, Change, Changes, GONE_KEEP_MS, Post, check};
use mpp_hub::directory::Answering;
use mpp_wire::resp::{Command, Reply};

use super::keys::COMMON;
use super::values::{bytes, list, number};
use super::{Place, Server};
use crate::held::Held;

const POST: &str = include_str!("board_post.lua");
const READ: &str = include_str!("board_read.lua");

/// The board of a store on a Redis. It connects when it is used.
pub fn board(settings: &Settings) -> impl Board + use<> {
    let place = Place { settings: settings.clone(), is_thorough: false };
    OnRedis { place, server: Held::default() }
}

struct OnRedis {
    place: Place,
    server: Held<Server>,
}

impl OnRedis {
    async fn ask(&self, make: impl FnOnce(&Server) -> Command) -> Result<Reply, String> {
        self.server.with(self.place.server(), async |server| server.ask(make(server)).await).await
    }

    async fn changes(&self, topic: &str, since: u64, most: usize) -> Result<Changes, String> {
        let read =
            |server: &Server| call(server, READ, topic, "m").number(since).number(most as u64);
        let mut parts = list(self.ask(read).await?).into_iter();
        let mut next = || parts.next().and_then(number);
        let (Some(epoch), Some(next), Some(is_more)) = (next(), next(), next()) else {
            return Err("the shared store is not made yet".into());
        };
        let mut changes = Vec::new();
        while let (Some(id), Some(text)) = (parts.next(), parts.next()) {
            // A name that is no text is none of ours.
            let id = bytes(id).and_then(|id| String::from_utf8(id).ok());
            changes.extend(id.map(|id| Change { id, text: bytes(text) }));
        }
        Ok(Changes { changes, next, is_more: is_more > 0, epoch })
    }
}

/// A call of one of the scripts, with its keys.
fn call(server: &Server, script: &str, topic: &str, fourth: &str) -> Command {
    let mut command = Command::new(b"EVAL").word(script).number(4);
    for kind in ["qt", "qi", "qg"] {
        command = command.word(server.names.of(COMMON, &format!("{kind}/{topic}")));
    }
    command.word(server.names.of(COMMON, fourth))
}

impl Board for OnRedis {
    fn post<'a>(&'a self, topic: &'a str, posts: &'a [Post]) -> Answering<'a, Result<(), String>> {
        Box::pin(async move {
            check(topic, posts)?;
            let write = |server: &Server| {
                let mut command = call(server, POST, topic, &format!("qn/{topic}"));
                command.push_number(GONE_KEEP_MS);
                for Post { id, text, keep_ms } in posts {
                    command.push(id.as_bytes());
                    command.push_number(u64::from(text.is_some()));
                    command.push_number(*keep_ms);
                    command.push(text.as_deref().unwrap_or_default());
                }
                command
            };
            self.ask(write).await.map(drop)
        })
    }

    fn changes<'a>(
        &'a self,
        topic: &'a str,
        since: u64,
        most: usize,
    ) -> Answering<'a, Result<Changes, String>> {
        Box::pin(self.changes(topic, since, most))
    }
}
