//! Releasing and deleting: each once, for those recipients that whoever asks may speak for.
//!
//! Before a message is sent it is marked as being released, and after that as released. What is found
//! between the two after a crash may have arrived or not: it is not sent again unless somebody says so.

use std::io::{self, Read};
use std::sync::Arc;

use mpp_hub::id::Id;
use mpp_hub::quarantine::{HeldFor, Holding, RELEASED_FIELD};
use mpp_hub::spool::{Spool, Spooled};
use sqlx::Connection as _;

use crate::index::{Index, signed, trouble};
use crate::record::{Row, State};
use crate::search::Scope;
use crate::{Inner, Quarantine, blocking};

const PIECE_BYTES: usize = 64 * 1024;

/// A message that is to be sent now, for these recipients.
#[derive(Clone, Debug)]
pub struct Release {
    /// Its id.
    pub id: String,
    /// Everything that was known when it was held.
    pub holding: Holding,
    /// To whom it is to be sent, as the client named them.
    pub recipients: Vec<HeldFor>,
    /// The message, with the mark that lets it through.
    pub text: Arc<Spooled>,
}

impl Quarantine {
    /// Begins a release: from now on it is not done twice.
    ///
    /// # Errors
    /// There is no such message in this scope; it is released already, or may be and `is_forced`
    /// does not say that it is to be sent all the same; it cannot be read.
    pub async fn begin_release(
        &self,
        (id, scope): (&str, &Scope),
        is_forced: bool,
        spool: &Arc<Spool>,
    ) -> Result<Release, String> {
        let (id, scope, spool) = (id.to_owned(), scope.clone(), Arc::clone(spool));
        self.run(move |inner| begin(inner, (id, scope), is_forced, spool)).await
    }

    /// Notes what has become of a release for each recipient; what is [`State::Held`] waits on.
    ///
    /// # Errors
    /// The index cannot be written.
    pub async fn end_release(&self, id: &str, done: Vec<(String, State)>) -> Result<(), String> {
        let id = Id::parse(id).ok_or("no such message")?;
        self.run(move |inner| async move { inner.settle(id, &done).await }).await
    }

    /// Throws a message away, for those recipients that the scope covers.
    ///
    /// # Errors
    /// There is no such message in this scope, or nobody waits for it; the index cannot be written.
    pub async fn delete(&self, id: &str, scope: &Scope) -> Result<(), String> {
        let (id, scope) = (id.to_owned(), scope.clone());
        let delete = move |inner: Arc<Inner>| async move {
            let (number, row) = inner.index.find(&id, &scope).await?;
            let waiting = row.recipients.iter().filter(|(_, state)| *state <= State::Releasing);
            let changes: Vec<_> =
                waiting.map(|(recipient, _)| (recipient.clone(), State::Deleted)).collect();
            if changes.is_empty() {
                return Err(over(&row));
            }
            inner.settle(number, &changes).await
        };
        self.run(delete).await
    }
}

impl Inner {
    /// Changes states, and removes the file when nobody waits for it any more.
    async fn settle(self: &Arc<Self>, id: Id, changes: &[(String, State)]) -> Result<(), String> {
        let changes: Vec<_> =
            changes.iter().map(|(recipient, state)| (recipient.to_lowercase(), *state)).collect();
        if self.index.change(id, &changes, self.clock.now_ms()).await? {
            self.remove(id).await;
        }
        Ok(())
    }
}

async fn begin(
    inner: Arc<Inner>,
    (id, scope): (String, Scope),
    is_forced: bool,
    spool: Arc<Spool>,
) -> Result<Release, String> {
    let (number, row) = inner.index.find(&id, &scope).await?;
    let claimed = inner.index.claim(number, (&row, is_forced), inner.clock.now_ms()).await?;
    if claimed.is_empty() {
        return Err(over(&row));
    }
    let files = Arc::clone(&inner);
    let wanted = claimed.clone();
    let read = blocking(move || {
        read(&files, (number, &wanted), &spool)
            .map_err(|error| format!("message {number}: {error}"))
    });
    match read.await {
        Ok((holding, text)) => {
            let named = holding.recipients.iter();
            let claimed = named.filter(|it| claimed.contains(&it.address.to_lowercase()));
            let recipients = claimed.cloned().collect();
            Ok(Release { id: number.to_string(), holding, recipients, text })
        }
        Err(trouble) => {
            let back: Vec<_> = claimed.into_iter().map(|it| (it, State::Held)).collect();
            inner.settle(number, &back).await?;
            Err(trouble)
        }
    }
}

/// Why nothing is done any more.
pub(crate) fn over(row: &Row) -> String {
    let id = &row.id;
    let has = |wanted: State| row.recipients.iter().any(|(_, state)| *state == wanted);
    if has(State::Releasing) {
        format!(
            "a release of {id} was begun, and its end is not known: see whether it has arrived; \
             --force sends it again"
        )
    } else if has(State::Released) {
        format!("{id} was released already")
    } else {
        format!("{id} was deleted")
    }
}

/// The message as it is sent, in the spool.
fn read(
    inner: &Inner,
    (id, recipients): (Id, &[String]),
    spool: &Arc<Spool>,
) -> io::Result<(Holding, Arc<Spooled>)> {
    let (_, mut text) = inner.files.read(id)?;
    let value = inner.seal.value((id, recipients), inner.clock.now_ms(), &mut text)?;
    let (message, mut text) = inner.files.read(id)?;
    let mut writer = spool.begin();
    writer.write(format!("{RELEASED_FIELD}: {value}\r\n{}", message.holding.header).as_bytes())?;
    let (mut piece, mut is_first) = (vec![0; PIECE_BYTES], true);
    loop {
        let length = text.read(&mut piece)?;
        if length == 0 {
            return Ok((message.holding, writer.finish()));
        }
        let piece = piece.get(..length).unwrap_or_default();
        if std::mem::take(&mut is_first) && matches!(piece.first(), Some(b' ' | b'\t')) {
            // It has no header, and would go on with ours.
            writer.write(b"\r\n")?;
        }
        writer.write(piece)?;
    }
}

impl Index {
    /// Marks a message as being released for those who wait for it; returns them. Of two who ask at
    /// once, one gets them.
    async fn claim(
        &self,
        id: Id,
        (row, is_forced): (&Row, bool),
        now_ms: u64,
    ) -> Result<Vec<String>, String> {
        let most = if is_forced { State::Releasing } else { State::Held };
        let mut write = self.write.lock().await;
        let mut all = write.begin().await.map_err(trouble)?;
        let mut claimed = Vec::new();
        for (recipient, _) in &row.recipients {
            let one = sqlx::query(
                "UPDATE held SET state = 1, changed_ms = ?4 \
                 WHERE message = ?1 AND recipient = ?2 AND state <= ?3",
            );
            let one = one.bind(signed(id.number())).bind(recipient).bind(most.number());
            let done = one.bind(signed(now_ms)).execute(&mut *all).await.map_err(trouble)?;
            if done.rows_affected() > 0 {
                claimed.push(recipient.clone());
            }
        }
        all.commit().await.map_err(trouble)?;
        Ok(claimed)
    }
}
