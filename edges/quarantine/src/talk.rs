//! The conversation with other nodes on the board that they share: who is there, what each holds, and what
//! one asks of another. All of it is done a piece at a time; while the board is away everything waits.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mpp_config::Server;
use mpp_hub::board::{Change, GONE_KEEP_MS, Post};
use mpp_hub::id::Id;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::index::DAMAGED;
use crate::together::{NODES_MAX, Other, Shared, lock};
use crate::told::Mark;
use crate::{Inner, Quarantine, errand};

/// Who is there.
const NODES: &str = "nodes";
/// What nodes ask of each other.
pub(crate) const ORDERS: &str = "orders";
/// What came of it.
const ANSWERS: &str = "answers";
/// What a node holds: a topic for each.
const HELD: &str = "held/";
/// That the own topic was compared with the index: with a name behind it, and its epoch.
const OWN: &str = "own/";

const DAY_MS: u64 = 24 * 3_600_000;
/// An order stands so long.
pub(crate) const ORDER_KEEP_MS: u64 = 30 * DAY_MS;
/// An answer is for whoever waits for it now.
const ANSWER_KEEP_MS: u64 = 3_600_000;
/// A node that says nothing any more is forgotten.
const NODE_KEEP_MS: u64 = 60 * DAY_MS;
/// Orders of all nodes that are shown where messages are listed.
const PENDING_MAX: usize = 10_000;
/// Rows that are read at once.
const ROWS: usize = 300;
/// Between two pieces others have their turn for so long at least.
const PAUSE: Duration = Duration::from_millis(5);
/// So often as the board is looked at, times this, a node says that it is there.
const BEAT_LOOKS: u32 = 10;
/// Looks for which a node that is new waits whether another one has its name.
const CLAIM_LOOKS: u32 = 3;
/// Looks after which a name is free of which nobody has said anything.
const FREE_LOOKS: u32 = 60;
/// Looks after which what has run out is thrown away.
const TIDY_LOOKS: u32 = 600;
/// After trouble so much of what was told and read before is told and read again, since a server that
/// takes another one's place may not have all of it.
const AGAIN_MS: u64 = 60_000;

/// Whether a node may use its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    /// It was not said yet.
    New,
    /// It was said, and may be contradicted.
    Said(Instant),
    /// Nobody has.
    Named,
    /// Another node has the name, and said so then.
    Taken(Instant),
}

/// One node's part of the conversation.
struct Talk {
    /// This process, among those that may have had the same name.
    instance: u64,
    since_ms: u64,
    claim: Claim,
    beats: u64,
    beat_due: Instant,
    tidy_due: Instant,
    /// What was said of the name already.
    has_warned: bool,
    /// That there are more nodes than are followed was said.
    is_crowded: bool,
    nodes: BTreeSet<String>,
    /// What this node was called before, as long as it may still be listed so.
    former: Option<BTreeSet<String>>,
    epoch: u64,
    nodes_next: u64,
    orders_next: u64,
    answers_next: u64,
    keep_ms: u64,
    /// Where comparing the own topic with the index goes on.
    comparing: Option<u64>,
    /// The last moments are to be told and read again.
    is_anew: bool,
    trouble: Option<String>,
}

/// Talks for ever.
pub(crate) async fn keep(inner: &Arc<Inner>) {
    let Some(shared) = &inner.shared else { return std::future::pending().await };
    let every = shared.together.every;
    let mut talk = Talk::new(inner);
    loop {
        let began = Instant::now();
        let is_more = match talk.round(inner, shared).await {
            Ok(is_more) => {
                talk.is_anew = false;
                if talk.trouble.take().is_some() {
                    mpp_hub::say("quarantine: other nodes are told again of what is held");
                }
                is_more
            }
            Err(trouble) => {
                talk.begin_again();
                if talk.trouble.is_none() {
                    mpp_hub::say(&format!("quarantine: other nodes are not told now: {trouble}"));
                }
                talk.trouble = Some(trouble);
                false
            }
        };
        let pause = match (is_more, lock(&shared.waiting).is_empty()) {
            // Much that is new takes half of one processor at the most.
            (true, _) => began.elapsed().max(PAUSE),
            (false, true) => every,
            (false, false) => every / 5,
        };
        // That nobody has rung is as good.
        let _ = timeout(pause, shared.wake.notified()).await;
    }
}

impl Quarantine {
    /// Lets no node list any more what another one holds, until that one says again that it is there.
    ///
    /// # Errors
    /// Nobody is called so, or it is this node; the board is away.
    pub async fn forget_node(&self, name: &str) -> Result<(), String> {
        let name = name.to_owned();
        let forget = |inner: Arc<Inner>| async move {
            let shared = inner.shared.as_ref().ok_or("this node knows no others")?;
            if !shared.others().iter().any(|other| other.name == name) {
                return Err(format!("no other node is called {name}"));
            }
            let gone = Post { id: name.clone(), ..Post::default() };
            let told = shared.together.board.post(NODES, &[gone]).await;
            told.map_err(|trouble| format!("the shared store: {trouble}"))?;
            shared.forget(&name);
            Ok(())
        };
        self.run(forget).await
    }
}

fn topic_of(node: &str) -> String {
    format!("{HELD}{node}")
}

impl Talk {
    fn new(inner: &Inner) -> Self {
        let mut drawn = [0; 8];
        // Without a random number the time has to do.
        let _ = SystemRandom::new().fill(&mut drawn);
        let since_ms = inner.clock.now_ms();
        let now = Instant::now();
        Self {
            instance: (u64::from_ne_bytes(drawn) ^ since_ms) >> 1,
            since_ms,
            claim: Claim::New,
            beats: 0,
            beat_due: now,
            tidy_due: now,
            has_warned: false,
            is_crowded: false,
            nodes: BTreeSet::new(),
            former: None,
            epoch: 0,
            nodes_next: 0,
            orders_next: 0,
            answers_next: 0,
            keep_ms: 0,
            comparing: None,
            is_anew: true,
            trouble: None,
        }
    }

    /// After trouble.
    fn begin_again(&mut self) {
        self.is_anew = true;
        self.nodes_next = 0;
        self.orders_next = 0;
        self.answers_next = 0;
        self.beat_due = Instant::now();
    }

    /// Says and reads a piece of everything; whether there is more of anything.
    async fn round(&mut self, inner: &Inner, shared: &Shared) -> Result<bool, String> {
        if self.is_anew {
            inner.index.tell_again().await?;
        }
        let mut is_more = self.meet(inner, shared).await?;
        if self.claim == Claim::Named {
            is_more |= self.tell(inner, shared).await?;
            answer(inner, shared).await?;
        }
        is_more |= self.read_orders(inner, shared).await?;
        // What came of an order is said when the rows are here that it has changed.
        let answers = self.read_answers(shared).await?;
        for other in shared.others() {
            is_more |= match self.follow(inner, shared, &other).await {
                Err(trouble) if trouble.starts_with(DAMAGED) => {
                    // All that was in it can be read again.
                    shared.begin_anew(&other.name).await?;
                    true
                }
                followed => followed?,
            };
        }
        for (id, answer) in answers {
            if let Some(waiting) = lock(&shared.waiting).remove(&id) {
                // Whoever waited may have gone.
                let _ = waiting.send(answer);
            }
        }
        self.tidy(inner, shared).await?;
        Ok(is_more)
    }

    /// Reads who is there, and says that this node is.
    async fn meet(&mut self, inner: &Inner, shared: &Shared) -> Result<bool, String> {
        let every = shared.together.every;
        let board = &shared.together.board;
        if self.former.is_none() {
            self.former = Some(former_names(inner, shared).await?);
        }
        let changes = board.changes(NODES, self.nodes_next, ROWS).await?;
        if changes.epoch != self.epoch && self.epoch != 0 {
            self.begin_again();
            self.epoch = changes.epoch;
            self.comparing = None;
            return Ok(true);
        }
        self.epoch = changes.epoch;
        self.nodes_next = changes.next;
        for Change { id, text } in &changes.changes {
            let said = text.as_ref().and_then(|text| serde_json::from_slice::<Value>(text).ok());
            if id == shared.node() {
                self.heard_of_name(shared, said.as_ref());
            } else if Server::is_name(id) {
                self.heard_of_node(shared, id, said.as_ref()).await?;
            }
        }
        if changes.is_more {
            return Ok(true);
        }
        match self.claim {
            Claim::Said(at) if at.elapsed() >= every * CLAIM_LOOKS => {
                self.claim = Claim::Named;
                // Orders for this node were left alone until now.
                self.orders_next = 0;
            }
            Claim::Taken(at) if at.elapsed() >= every * FREE_LOOKS => {
                self.claim = Claim::New;
                self.beat_due = Instant::now();
            }
            Claim::New | Claim::Said(_) | Claim::Named | Claim::Taken(_) => {}
        }
        let keep_ms = inner.settings().limits.keep_ms;
        if keep_ms != self.keep_ms {
            self.beat_due = Instant::now();
        }
        if !matches!(self.claim, Claim::Taken(_)) && Instant::now() >= self.beat_due {
            self.beats += 1;
            let text = json!({
                "instance": self.instance, "since_ms": self.since_ms, "keep_ms": keep_ms,
                "beat": self.beats,
            });
            let text = Some(text.to_string().into_bytes());
            let post = Post { id: shared.node().to_owned(), text, keep_ms: NODE_KEEP_MS };
            board.post(NODES, &[post]).await?;
            self.beat_due = Instant::now() + every * BEAT_LOOKS;
            if self.claim == Claim::New {
                self.claim = Claim::Said(Instant::now());
            }
        }
        Ok(false)
    }

    /// Somebody has said something of this node's name.
    fn heard_of_name(&mut self, shared: &Shared, said: Option<&Value>) {
        let number = |name: &str| said.and_then(|said| said.get(name)).and_then(Value::as_u64);
        let (Some(instance), Some(since_ms)) = (number("instance"), number("since_ms")) else {
            return;
        };
        // Before this node has said anything, it may be its own word of before.
        if instance == self.instance || self.claim == Claim::New {
            return;
        }
        if !self.has_warned {
            self.has_warned = true;
            mpp_hub::say(&format!(
                "quarantine: two nodes are called {}, of which the one that was there first is known \
                 to the others: say another `server.name` at one of them",
                shared.node()
            ));
        }
        if (since_ms, instance) < (self.since_ms, self.instance) {
            self.claim = Claim::Taken(Instant::now());
        } else {
            self.beat_due = Instant::now();
        }
    }

    /// Another node is there, or is not any more.
    async fn heard_of_node(
        &mut self,
        shared: &Shared,
        name: &str,
        said: Option<&Value>,
    ) -> Result<(), String> {
        let Some(said) = said else {
            self.nodes.remove(name);
            shared.forget(name);
            return Ok(());
        };
        if self.former.as_ref().is_some_and(|former| former.contains(name)) {
            return Ok(());
        }
        let Some(other) = shared.other(name).await? else {
            if !self.is_crowded {
                self.is_crowded = true;
                mpp_hub::say(&format!(
                    "quarantine: {NODES_MAX} other nodes are followed, and {name} is one more: what it \
                     holds is not listed here"
                ));
            }
            return Ok(());
        };
        self.nodes.insert(name.to_owned());
        let keep_ms = said.get("keep_ms").and_then(Value::as_u64).unwrap_or(u64::MAX);
        other.keep_ms.store(keep_ms, Ordering::Relaxed);
        Ok(())
    }

    /// Tells others a piece of what they do not know; whether there is more.
    async fn tell(&mut self, inner: &Inner, shared: &Shared) -> Result<bool, String> {
        let board = &shared.together.board;
        let topic = topic_of(shared.node());
        let keep_ms = inner.settings().limits.keep_ms;
        let mut is_more = false;
        let own = format!("{OWN}{}", shared.node());
        if self.comparing.is_none() && inner.index.mark(&own).await?.epoch != self.epoch {
            inner.index.tell_all().await?;
            self.leave_names(inner, shared).await?;
            self.comparing = Some(0);
        } else if keep_ms != self.keep_ms && self.keep_ms != 0 {
            // Rows stand for as long as messages are kept.
            inner.index.tell_all().await?;
        }
        self.keep_ms = keep_ms;
        if let Some(from) = self.comparing {
            // What stands there and is not here is of an index that was lost.
            let changes = board.changes(&topic, from, ROWS).await?;
            let stands = changes.changes.iter().filter(|change| change.text.is_some());
            let mut lost = Vec::new();
            for id in stands.filter_map(|change| Id::parse(&change.id)) {
                if !inner.index.has(id).await? {
                    lost.push(id);
                }
            }
            inner.index.tell_of(&lost).await?;
            self.comparing = changes.is_more.then_some(changes.next);
            is_more |= changes.is_more;
            if !changes.is_more {
                let mark = Mark { epoch: self.epoch, ..Mark::default() };
                inner.index.set_mark(&own, mark).await?;
            }
        }
        let now_ms = inner.clock.now_ms();
        let untold = inner.index.untold((now_ms, keep_ms.saturating_add(DAY_MS))).await?;
        if !untold.posts.is_empty() {
            board.post(&topic, &untold.posts).await?;
            inner.index.told(&untold, now_ms).await?;
        }
        inner.index.forget_told(now_ms.saturating_sub(AGAIN_MS)).await?;
        Ok(is_more || untold.is_more)
    }

    /// Nobody is called as this node was called before.
    async fn leave_names(&mut self, inner: &Inner, shared: &Shared) -> Result<(), String> {
        for name in former_names(inner, shared).await? {
            let gone = Post { id: name.clone(), ..Post::default() };
            shared.together.board.post(NODES, &[gone]).await?;
            inner.index.drop_mark(&format!("{OWN}{name}")).await?;
        }
        self.former = Some(BTreeSet::new());
        Ok(())
    }

    /// Reads a piece of what another node holds; whether there is more.
    async fn follow(&self, inner: &Inner, shared: &Shared, other: &Other) -> Result<bool, String> {
        let topic = topic_of(&other.name);
        let now_ms = inner.clock.now_ms();
        let mark = other.index.mark(HELD).await?;
        let mut from = mark.next;
        if self.is_anew {
            from = from.saturating_sub(AGAIN_MS * 1000);
        }
        let changes = shared.together.board.changes(&topic, from, ROWS).await?;
        let is_other = mark.epoch != 0 && mark.epoch != changes.epoch;
        // That rows were removed may not be said any more.
        let was_long_away = mark.next > 0 && now_ms > mark.read_ms + GONE_KEEP_MS - DAY_MS;
        if is_other || was_long_away {
            shared.begin_anew(&other.name).await?;
            return Ok(true);
        }
        let is_due = now_ms > mark.read_ms + DAY_MS / 24;
        if !changes.changes.is_empty() || changes.next != mark.next || is_due {
            other.index.take_over(HELD, &changes, now_ms).await?;
        }
        Ok(changes.is_more)
    }

    /// Reads what nodes ask of each other, and writes down what is asked of this one.
    async fn read_orders(&mut self, inner: &Inner, shared: &Shared) -> Result<bool, String> {
        let changes = shared.together.board.changes(ORDERS, self.orders_next, ROWS).await?;
        if self.orders_next == 0 {
            lock(&shared.pending).clear();
        }
        for Change { id, text } in changes.changes {
            let order = text.as_ref().and_then(|text| Some((errand::read(&id, text)?, text)));
            let Some(((node, errand), text)) = order else {
                lock(&shared.pending).remove(&id);
                continue;
            };
            if node == shared.node() && self.claim == Claim::Named {
                if inner.index.take_errand((&id, text), inner.clock.now_ms()).await? {
                    shared.asked.notify_one();
                } else {
                    // A server that fails over may have lost the answer.
                    inner.index.answer_again(&id).await?;
                }
            }
            let mut pending = lock(&shared.pending);
            if pending.len() < PENDING_MAX {
                pending.insert(id, (node, errand));
            }
        }
        self.orders_next = changes.next;
        Ok(changes.is_more)
    }

    /// Reads what came of orders, if anybody waits for it.
    async fn read_answers(&mut self, shared: &Shared) -> Result<Vec<(String, Value)>, String> {
        if lock(&shared.waiting).is_empty() {
            return Ok(Vec::new());
        }
        let changes = shared.together.board.changes(ANSWERS, self.answers_next, ROWS).await?;
        self.answers_next = changes.next;
        let answer = |Change { id, text }| Some((id, serde_json::from_slice(&text?).ok()?));
        Ok(changes.changes.into_iter().filter_map(answer).collect())
    }

    /// Throws away what has run out and was not taken back by its node.
    async fn tidy(&mut self, inner: &Inner, shared: &Shared) -> Result<(), String> {
        if Instant::now() < self.tidy_due {
            return Ok(());
        }
        self.tidy_due = Instant::now() + shared.together.every * TIDY_LOOKS;
        let now_ms = inner.clock.now_ms();
        for other in shared.others() {
            let keep_ms = match other.keep_ms.load(Ordering::Relaxed) {
                // It has not said so since this node was started.
                u64::MAX => self.keep_ms.max(NODE_KEEP_MS),
                keep_ms => keep_ms,
            };
            let before = Id::at(now_ms.saturating_sub(keep_ms.saturating_add(DAY_MS)));
            while other.index.forget_before(before).await? {
                tokio::time::sleep(PAUSE).await;
            }
            if !self.nodes.contains(&other.name) && other.index.is_empty().await? {
                shared.forget(&other.name);
            }
        }
        inner.index.forget_errands(now_ms.saturating_sub(ORDER_KEEP_MS + DAY_MS)).await
    }
}

/// What this node was called before.
async fn former_names(inner: &Inner, shared: &Shared) -> Result<BTreeSet<String>, String> {
    let topics = inner.index.topics(OWN).await?.into_iter();
    let names = topics.filter_map(|topic| topic.strip_prefix(OWN).map(str::to_owned));
    Ok(names.filter(|name| name != shared.node()).collect())
}

/// Says what came of orders, and takes them from the board.
async fn answer(inner: &Inner, shared: &Shared) -> Result<(), String> {
    let answers = inner.index.untold_answers().await?;
    if answers.is_empty() {
        return Ok(());
    }
    let board = &shared.together.board;
    let post = |(id, answer): &(String, String)| Post {
        id: id.clone(),
        text: Some(answer.clone().into_bytes()),
        keep_ms: ANSWER_KEEP_MS,
    };
    board.post(ANSWERS, &answers.iter().map(post).collect::<Vec<_>>()).await?;
    let ids: Vec<String> = answers.into_iter().map(|(id, _)| id).collect();
    let gone = |id: &String| Post { id: id.clone(), ..Post::default() };
    board.post(ORDERS, &ids.iter().map(gone).collect::<Vec<_>>()).await?;
    inner.index.answers_told(&ids).await
}
