//! How a node hears of what others did: by the server's log, with the answers to a batch and five times a
//! second; and all of it at once where it has not followed the log.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use mpp_engine::question::{Key, Moment, Shelf};

use super::Runner;
use crate::record::Record;
use crate::shared::lock;
use crate::shared::remote::{Cursor, News, Remote, Trouble, Wanted};

/// News of our own blocks wait at most so many looks for those that the server has not heard of.
const PATIENCE: u32 = 5;

impl Runner {
    /// Reads what every node should have.
    pub(super) async fn read_all(&mut self, remote: &dyn Remote) -> Result<(), Trouble> {
        // Where the log ends first, so that nothing between is missed.
        self.cursor = self.watched(remote.news(Cursor::default()), None).await?.cursor;
        let mut from = Some(0);
        while let Some(at) = from {
            let (records, next) = self.watched(remote.page(at, Wanted::Dear), None).await?;
            let now_ms = self.store_now();
            self.copy.take_over(now_ms, &records);
            from = next;
            if self.is_stopped() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes over what has changed; says whether the log has a gap.
    pub(super) async fn read_news(&mut self, remote: &dyn Remote) -> Result<bool, Trouble> {
        let cursor = self.cursor.clone();
        let news = self.watched(remote.news(cursor), None).await?;
        if news.has_gap {
            return Ok(true);
        }
        let is_patient = self.postponed < PATIENCE;
        let is_heard = self.take_news(news, &[], is_patient);
        self.postponed = if is_heard { 0 } else { self.postponed + 1 };
        Ok(false)
    }

    /// Takes over what came with the answers to a batch that told of these. What cannot be taken over
    /// now is read again.
    pub(super) fn hear(&mut self, news: News, told: &[Record]) {
        if !news.has_gap && !news.records.is_empty() {
            self.take_news(news, told, true);
        }
    }

    /// Takes over what has changed; says whether it could be. What is told to the server in this moment,
    /// or is to be told, is newer than what its log says.
    fn take_news(&mut self, mut news: News, told: &[Record], is_patient: bool) -> bool {
        let now_ms = self.store_now();
        let queue = lock(&self.line.queue);
        if queue.open_blocks > 0 && news.has_blocks() && is_patient {
            // Ours would be undone by what the log says of the time before.
            return false;
        }
        let ours: HashSet<_> = queue.news.iter().chain(told).filter_map(noted).collect();
        news.records.retain(|record| {
            let Some((shelf, key)) = noted(record) else { return true };
            let known = self.copy.noted(now_ms, shelf, key);
            let is_older = |known: Moment| {
                matches!(record, Record::Moment { moment, .. } if moment.at_ms < known.at_ms)
            };
            !ours.contains(&(shelf, key)) && !known.is_some_and(is_older)
        });
        self.cursor = news.cursor;
        if !news.records.is_empty() {
            self.copy.take_over(now_ms, &news.records);
            self.line.heard.fetch_add(1, Ordering::AcqRel);
        }
        drop(queue);
        true
    }
}

/// Of what a record says when it was noted, or that it was not.
fn noted(record: &Record) -> Option<(Shelf, Key)> {
    match record {
        Record::Moment { shelf, key, .. } | Record::Forget { shelf, key } => Some((*shelf, *key)),
        _ => None,
    }
}
