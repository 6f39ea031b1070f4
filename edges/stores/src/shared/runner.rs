//! The thread that talks to the server: what waits goes there in batches, one at a time.
//!
//! The busier it is, the more a batch holds, so the cost of a trip is shared. A batch of which it is not
//! known whether it was done is sent again, with its number, before anything else.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mpp_hub::clock::{Clock as _, RealClock};
use mpp_hub::store::{Counts, Store as _, StoreError};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::courier::Couriers;
use super::queue::Waiting;
use super::remote::{Batch, Connector, Cursor, Job, Meta, Remote, Trouble};
use super::{Line, Options, lock, open_copy};
use crate::embedded::EmbeddedStore;
use crate::record::Record;

mod news;

/// Jobs of a batch at the most: some milliseconds of the server's time.
const BATCH_MAX: usize = 256;
/// A connection that takes longer is given up.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// A request that takes longer is given up with its connection.
const REQUEST_MAX: Duration = Duration::from_secs(10);
/// How often the log of changes is looked at.
const NEWS_EVERY: Duration = Duration::from_millis(200);
/// How often a piece of what the server holds is counted; behind the last it is asked what time it is.
const COUNTS_EVERY: Duration = Duration::from_millis(200);
/// How often the askers' deadlines are looked at while a request is under way.
const WATCH_EVERY: Duration = Duration::from_millis(20);
/// What waits goes after so long even if nobody rings: who asked is busy with something else.
const BELL_MAX: Duration = Duration::from_millis(2);
/// Where so many ask at once, changes wait for them.
const BUSY: usize = 4;
/// Times to wait before the server is tried again: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Clocks that differ by less are left alone, in milliseconds.
const SKEW_MAX_MS: u64 = 250;
/// Records of one upload.
const UPLOAD: usize = 500;

/// The thread's own.
pub(super) struct Runner {
    line: Arc<Line>,
    copy: Arc<EmbeddedStore>,
    connector: Arc<dyn Connector>,
    runtime: Option<Runtime>,
    options: Options,
    node: u64,
    number: u64,
    /// A batch that may have been done.
    unsure: Option<(Vec<Waiting>, Vec<Record>)>,
    cursor: Cursor,
    postponed: u32,
    /// Which store the copy is one of.
    epoch: u64,
    /// A connection that was made while opening.
    first: Option<Box<dyn Remote>>,
    news_due: Instant,
    counts_due: Instant,
    sweep_due: Instant,
    sweep_from: u64,
    /// Which piece of what the server holds is counted next, and what those before it hold.
    counting: (u64, Counts),
}

impl Runner {
    pub(super) fn open(
        connector: Arc<dyn Connector>,
        options: &Options,
    ) -> Result<(Arc<EmbeddedStore>, Self), StoreError> {
        let unusable = |error: std::io::Error| StoreError::Unusable(error.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(unusable)?;
        let has_copy = options.copy.as_deref().is_some_and(Path::exists);
        let drawn = options.seed.unwrap_or_else(draw);
        let known = if has_copy { Some(open_copy(options, drawn)?) } else { None };
        // If the server has no secret yet it takes the copy's: then what the copy has stays of use.
        let seed = known.as_ref().map_or(drawn, |copy| copy.seed());
        let reached = runtime.block_on(async {
            let remote = within(CONNECT_MAX, connector.connect()).await?;
            let meta = within(REQUEST_MAX, remote.meta(seed, draw())).await?;
            Ok::<_, Trouble>((remote, meta))
        });
        let line = Arc::new(Line::default());
        let (copy, first, epoch) = match (reached, known) {
            (Ok((remote, meta)), known) => {
                let copy = matching(options, known, &meta)?;
                (copy, Some(remote), meta.epoch)
            }
            (Err(trouble), Some(copy)) => {
                line.leave(&trouble.to_string());
                (copy, None, 0)
            }
            (Err(trouble), None) => {
                let place = connector.place();
                return Err(StoreError::Unusable(format!(
                    "the shared store {place} does not answer, and this node has no copy of it to go \
                     on with: {trouble}"
                )));
            }
        };
        // Nothing is asked of the server before the copy has what every node has.
        line.is_away.store(true, Ordering::Release);
        let now = Instant::now();
        let runner = Self {
            line,
            copy: Arc::clone(&copy),
            connector,
            runtime: Some(runtime),
            options: options.clone(),
            node: draw(),
            number: 0,
            unsure: None,
            cursor: Cursor::default(),
            postponed: 0,
            epoch: read_epoch(options).unwrap_or(epoch),
            first,
            news_due: now,
            counts_due: now,
            sweep_due: now,
            sweep_from: 0,
            counting: Default::default(),
        };
        Ok((copy, runner))
    }

    pub(super) fn line(&self) -> &Arc<Line> {
        &self.line
    }

    /// Whether the server has answered.
    pub(super) fn is_reached(&self) -> bool {
        self.first.is_some()
    }

    pub(super) fn run(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.block_on(self.talk());
        }
        self.line.release("the store is closed");
    }

    async fn talk(&mut self) {
        let mut pause = PAUSES.0;
        while !self.is_stopped() {
            let connected = match self.first.take() {
                Some(remote) => Ok(remote),
                None => within(CONNECT_MAX, self.connector.connect()).await,
            };
            let trouble = match connected {
                Ok(remote) => match self.serve(&*remote).await {
                    Ok(()) => return,
                    Err(trouble) => trouble,
                },
                Err(trouble) => trouble,
            };
            if !self.line.is_away.load(Ordering::Acquire) {
                pause = PAUSES.0;
            }
            self.line.leave(&trouble.0);
            // Woken by every change: only the stop ends the pause.
            let until = Instant::now() + pause;
            while !self.is_stopped() && Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    fn is_stopped(&self) -> bool {
        self.line.stop.load(Ordering::Acquire)
    }

    /// Talks to a server until the store is closed.
    async fn serve(&mut self, remote: &dyn Remote) -> Result<(), Trouble> {
        self.catch_up(remote).await?;
        loop {
            if self.is_stopped() {
                return Ok(());
            }
            self.do_chores(remote).await?;
            let (jobs, news, settling) = self.next_batch();
            if jobs.is_empty() && news.is_empty() {
                if !settling.is_empty() {
                    self.settle(remote, settling).await?;
                    continue;
                }
                if self.line.is_away.load(Ordering::Acquire) {
                    self.try_to_come_back(remote).await?;
                    continue;
                }
                self.rest().await;
                continue;
            }
            self.unsure = Some((jobs, news));
            let is_settled = self.send(remote).await;
            // Those who wait for all that came before wait on.
            lock(&self.line.settling).extend(settling);
            is_settled?;
        }
    }

    /// Waits until there may be something to do.
    async fn rest(&self) {
        let now = Instant::now();
        let mut due = self.news_due.min(self.sweep_due).max(now);
        if lock(&self.line.queue).len() > 0 {
            due = due.min(now + BELL_MAX);
        }
        tokio::select! {
            () = self.line.wake.notified() => {}
            () = tokio::time::sleep_until(due.into()) => {}
        }
    }

    /// What is to be sent next, and who waits until everything was.
    #[allow(clippy::type_complexity, reason = "three parts of one look under the lock")]
    fn next_batch(
        &mut self,
    ) -> (Vec<Waiting>, Vec<Record>, Vec<std::sync::mpsc::Sender<Result<(), String>>>) {
        let settling = std::mem::take(&mut *lock(&self.line.settling));
        let is_rung = self.line.is_rung.swap(false, Ordering::AcqRel);
        let is_away = self.line.is_away.load(Ordering::Acquire);
        let mut queue = lock(&self.line.queue);
        let is_due = is_rung || is_away || !settling.is_empty() || queue.has_enough();
        if !is_due && !queue.has_waited(BELL_MAX) {
            return (Vec::new(), Vec::new(), settling);
        }
        let jobs = queue.take(BATCH_MAX);
        self.line.is_rung.fetch_or(queue.len() > 0, Ordering::AcqRel);
        (jobs, std::mem::take(&mut queue.news), settling)
    }

    /// Sends the batch that may not have been done yet.
    async fn send(&mut self, remote: &dyn Remote) -> Result<(), Trouble> {
        let Some((mut waiting, news)) = self.unsure.take() else { return Ok(()) };
        let jobs: Vec<Job> = waiting.iter_mut().map(|it| std::mem::take(&mut it.job)).collect();
        let asked: Vec<bool> = waiting.iter().map(|it| it.asker.is_some()).collect();
        self.number += 1;
        let askers = asked.iter().filter(|it| **it).count();
        self.line.is_busy.store(askers >= BUSY, Ordering::Release);
        let (node, number) = (self.node, self.number);
        // Who asks hears with the answers what other nodes did before.
        let since = (askers > 0).then(|| self.cursor.clone());
        let since = since.as_ref().filter(|since| **since != Cursor::default());
        let batch = Batch { node, number, jobs: &jobs, news: &news, since };
        let began = Instant::now();
        let done = self.watched(remote.exchange(&batch), Some(&mut waiting)).await;
        let latency = began.elapsed();
        {
            let mut state = lock(&self.line.state);
            state.latency = latency;
            state.batches += 1;
        }
        match done {
            Ok(mut done) => {
                self.take_over_seen(&jobs, &done);
                self.hear(std::mem::take(&mut done.news), &news);
                let mut answers = done.answers.into_iter();
                let mut couriers = Couriers::default();
                for waiting in &mut waiting {
                    let theirs = answers.next().unwrap_or_default();
                    if let Some(asker) = waiting.asker.take() {
                        asker.send(theirs, &mut couriers);
                    }
                }
                couriers.call();
                let mut queue = lock(&self.line.queue);
                for job in &jobs {
                    queue.close_blocks(job);
                }
                Ok(())
            }
            Err(trouble) => {
                for ((waiting, job), was_asked) in waiting.iter_mut().zip(jobs).zip(asked) {
                    if was_asked {
                        waiting.release();
                        waiting.job.now_ms = job.now_ms;
                    } else {
                        waiting.job = job;
                    }
                }
                self.number -= 1;
                self.unsure = Some((waiting, news));
                Err(trouble)
            }
        }
    }

    /// Keeps in the copy what others noted.
    fn take_over_seen(&self, jobs: &[Job], done: &super::remote::Exchanged) {
        if done.seen.is_empty() {
            return;
        }
        let now_ms = jobs.iter().map(|job| job.now_ms).max().unwrap_or(0);
        self.copy.take_over(now_ms, &done.seen);
    }

    /// Waits for a request, and lets those go on alone whose deadline comes first.
    async fn watched<T>(
        &self,
        request: impl Future<Output = Result<T, Trouble>>,
        mut flying: Option<&mut Vec<Waiting>>,
    ) -> Result<T, Trouble> {
        let mut request = std::pin::pin!(request);
        let began = Instant::now();
        let patience = self.options.deadline.saturating_sub(WATCH_EVERY);
        loop {
            if let Ok(done) = timeout(WATCH_EVERY, &mut request).await {
                return done;
            }
            let oldest = flying.as_ref().and_then(|flying| {
                flying.iter().find(|waiting| waiting.asker.is_some()).map(|waiting| waiting.since)
            });
            let oldest = oldest.or_else(|| lock(&self.line.queue).oldest());
            if oldest.is_some_and(|since| since.elapsed() >= patience) {
                self.line.leave("it does not answer in time");
                if let Some(flying) = &mut flying {
                    flying.iter_mut().for_each(Waiting::release);
                }
            }
            if began.elapsed() > REQUEST_MAX {
                return Err(Trouble("it does not answer".into()));
            }
        }
    }

    /// Makes one store of the server's and the copy, after a connection is made.
    async fn catch_up(&mut self, remote: &dyn Remote) -> Result<(), Trouble> {
        let meta = self.watched(remote.meta(self.copy.seed(), draw()), None).await?;
        if meta.seed != self.copy.seed() {
            let text = "another store is in its place: its keys are made with another secret";
            return Err(Trouble(text.into()));
        }
        self.follow_clock(&meta);
        if meta.epoch != self.epoch && self.epoch != 0 {
            mpp_hub::say("the shared store has come back empty: this node tells it what it knows");
            self.upload(remote).await?;
        }
        self.epoch = meta.epoch;
        write_epoch(&self.options, self.epoch);
        if self.unsure.is_some() {
            self.send(remote).await?;
        }
        if self.cursor == Cursor::default() || self.read_news(remote).await? {
            self.read_all(remote).await?;
        }
        Ok(())
    }

    /// Tells an empty server what the copy has.
    async fn upload(&mut self, remote: &dyn Remote) -> Result<(), Trouble> {
        let now_ms = self.store_now();
        for piece in 0.. {
            let Some(records) = self.copy.records(piece, now_ms) else { break };
            for some in records.chunks(UPLOAD) {
                self.watched(remote.put(some.to_vec()), None).await?;
            }
        }
        Ok(())
    }

    /// What is due besides batches.
    async fn do_chores(&mut self, remote: &dyn Remote) -> Result<(), Trouble> {
        let now = Instant::now();
        if now >= self.news_due {
            self.news_due = now + NEWS_EVERY;
            if self.read_news(remote).await? {
                self.read_all(remote).await?;
            }
        }
        if now >= self.counts_due {
            self.counts_due = now + COUNTS_EVERY;
            if self.count_piece(remote).await? {
                let meta = self.watched(remote.meta(self.copy.seed(), draw()), None).await?;
                if meta.epoch != self.epoch {
                    return Err(Trouble("it was emptied".into()));
                }
                self.follow_clock(&meta);
            }
        }
        let sweep_ms = self.line.sweep_ms.load(Ordering::Relaxed);
        if sweep_ms > 0 && now >= self.sweep_due {
            self.sweep_due = now + self.options.sweep_every.max(Duration::from_millis(1));
            let from = self.sweep_from;
            let (gone, next) = self.watched(remote.sweep(self.node, sweep_ms, from), None).await?;
            self.line.swept.fetch_add(gone, Ordering::Relaxed);
            self.sweep_from = next;
            if next == 0 {
                self.line.sweep_ms.store(0, Ordering::Relaxed);
            }
        } else if sweep_ms == 0 {
            self.sweep_due = now + self.options.sweep_every.max(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Counts one piece of what the server holds; says whether it was the last.
    async fn count_piece(&mut self, remote: &dyn Remote) -> Result<bool, Trouble> {
        let (from, mut sum) = self.counting;
        let (counts, next) = self.watched(remote.counts(from), None).await?;
        add(&mut sum, &counts);
        if next.is_none() {
            lock(&self.line.state).counts = sum;
        }
        self.counting = next.map_or_else(Default::default, |next| (next, sum));
        Ok(next.is_none())
    }

    async fn count(&mut self, remote: &dyn Remote) -> Result<(), Trouble> {
        self.counting = Default::default();
        while !self.count_piece(remote).await? {}
        Ok(())
    }

    /// The node is no longer alone, if the server is quick enough and has heard of everything.
    async fn try_to_come_back(&mut self, remote: &dyn Remote) -> Result<(), Trouble> {
        let began = Instant::now();
        self.read_news(remote).await?;
        if began.elapsed() * 2 > self.options.deadline {
            tokio::time::sleep(self.options.deadline).await;
            return Ok(());
        }
        self.line.come_back();
        Ok(())
    }

    async fn settle(
        &mut self,
        remote: &dyn Remote,
        settling: Vec<std::sync::mpsc::Sender<Result<(), String>>>,
    ) -> Result<(), Trouble> {
        while self.options.sweep_every.is_zero() && self.line.sweep_ms.load(Ordering::Relaxed) > 0 {
            self.sweep_due = Instant::now();
            self.do_chores(remote).await?;
        }
        self.read_news(remote).await?;
        self.count(remote).await?;
        if self.line.is_away.load(Ordering::Acquire) {
            self.line.come_back();
        }
        for settled in settling {
            // Whoever waited may have gone.
            let _ = settled.send(Ok(()));
        }
        Ok(())
    }

    fn follow_clock(&self, meta: &Meta) {
        let offset_ms = meta.server_ms.cast_signed() - RealClock.now_ms().cast_signed();
        let is_far = offset_ms.unsigned_abs() > SKEW_MAX_MS;
        let offset_ms = if self.options.follows_clock && is_far { offset_ms } else { 0 };
        let before = self.line.offset_ms.swap(offset_ms, Ordering::Relaxed);
        if (before - offset_ms).unsigned_abs() > SKEW_MAX_MS {
            mpp_hub::say(&format!(
                "the shared store's clock differs by {offset_ms} ms from this machine's: its holds"
            ));
        }
    }

    /// The time of the store now.
    fn store_now(&self) -> u64 {
        if self.options.follows_clock {
            self.line.there(RealClock.now_ms())
        } else {
            self.copy.latest_ms()
        }
    }
}

/// Adds a piece to a sum.
fn add(sum: &mut Counts, piece: &Counts) {
    for (sum, piece) in sum.shelves.iter_mut().zip(piece.shelves) {
        *sum += piece;
    }
    sum.blocks += piece.blocks;
    sum.tallies += piece.tallies;
    sum.histories += piece.histories;
    sum.disk_bytes += piece.disk_bytes;
    sum.memory_bytes += piece.memory_bytes;
}

/// A request that must be done within a time.
async fn within<T>(
    time: Duration,
    request: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Trouble> {
    timeout(time, request).await.unwrap_or_else(|_| Err(Trouble("it does not answer".into())))
}

/// A number that nobody else has.
fn draw() -> u64 {
    crate::embedded::recovery::draw_seed().unwrap_or(1).max(1)
}

/// The copy of that store; that of another one is dropped, since nothing in it can be found.
fn matching(
    options: &Options,
    known: Option<Arc<EmbeddedStore>>,
    meta: &Meta,
) -> Result<Arc<EmbeddedStore>, StoreError> {
    let Some(copy) = known else { return open_copy(options, meta.seed) };
    if copy.seed() == meta.seed {
        return Ok(copy);
    }
    copy.close();
    drop(copy);
    if let Some(folder) = &options.copy {
        let show = folder.display();
        mpp_hub::say(&format!("{show} is the copy of another store: it is dropped"));
        let gone = fs::remove_dir_all(folder);
        gone.map_err(|error| StoreError::Unusable(format!("cannot remove {show}: {error}")))?;
        // Which store it was of is of no use any more.
        let _ = fs::remove_file(epoch_file(folder));
    }
    open_copy(options, meta.seed)
}

fn epoch_file(copy: &Path) -> PathBuf {
    copy.with_extension("epoch")
}

/// Which store the copy on disk is one of.
fn read_epoch(options: &Options) -> Option<u64> {
    let text = fs::read_to_string(epoch_file(options.copy.as_deref()?)).ok()?;
    text.trim().parse().ok()
}

fn write_epoch(options: &Options, epoch: u64) {
    if let Some(copy) = &options.copy {
        let file = epoch_file(copy);
        if let Err(error) = fs::write(&file, format!("{epoch}\n")) {
            mpp_hub::say(&format!("{}: {error}", file.display()));
        }
    }
}
