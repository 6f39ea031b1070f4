//! The keeper of the quarantine: what commands, and in time pages, ask of it. It is the only place that
//! knows both the quarantine and the proxies that released messages leave by.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use mpp_address::Path;
use mpp_config::Quarantine as Settings;
use mpp_config::proxy::{Proxy, Taking};
use mpp_doors::proxy::{Envelope, Gate, Injected};
use mpp_engine::facts::Stage;
use mpp_hub::directory::Answering;
use mpp_hub::quarantine::Holding;
use mpp_hub::spool::{Spool, Spooled};
use mpp_hub::{Asked, Hub, Observed};
use mpp_pages::{Held, Pages};
use mpp_quarantine::{
    Answer, Errand, Opened, Quarantine, Refused, Release, Scope, Search, State, Wanted, What,
};
use serde_json::{Value, json};
use tokio::sync::Mutex;

/// Rows of a page if nobody says otherwise.
const ROWS: u64 = 50;

/// A command waits so long for a next hop.
const PATIENCE: Duration = Duration::from_secs(45);
/// After trouble with what other nodes ask.
const SERVE_PAUSE: Duration = Duration::from_secs(5);
/// The end waits so long for a digest or an errand that is under way.
const STOP_WAIT: Duration = Duration::from_secs(10);

/// Who answers questions about the quarantine.
pub(crate) struct Keeper {
    hub: Arc<Hub>,
    quarantine: Arc<Quarantine>,
    gates: Vec<Arc<Gate>>,
    /// Where mail leaves that no proxy sends, if the settings say so.
    outlet: ArcSwapOption<Gate>,
    spool: Arc<Spool>,
    /// Held while a digest is sent and written down as sent.
    telling: Mutex<()>,
    /// Held while something is done that another node has asked for.
    serving: Mutex<()>,
    is_stopping: AtomicBool,
}

impl Keeper {
    pub(crate) fn new(
        hub: Arc<Hub>,
        quarantine: Arc<Quarantine>,
        (gates, spool): (Vec<Arc<Gate>>, Arc<Spool>),
    ) -> Self {
        let (telling, serving) = (Mutex::default(), Mutex::default());
        let is_stopping = AtomicBool::new(false);
        let outlet = outlet(&hub.live().configuration.quarantine);
        Self { hub, quarantine, gates, outlet: outlet.into(), spool, telling, serving, is_stopping }
    }

    /// Takes other limits.
    pub(crate) fn configure(&self, settings: &Settings) {
        self.quarantine.configure(settings);
        self.outlet.store(outlet(settings));
    }

    /// Answers a request.
    ///
    /// # Errors
    /// Why not, for people.
    pub(crate) async fn answer(self: &Arc<Self>, request: &Value) -> Result<Value, String> {
        let text = |name: &str| request.get(name).and_then(Value::as_str).unwrap_or_default();
        let scope = self.scope(request).await?;
        match text("command") {
            "quarantine-list" => {
                let page = self.quarantine.list(search(request, scope)?).await?;
                let rows: Vec<Value> = page.rows.iter().map(mpp_quarantine::Row::to_json).collect();
                Ok(json!({ "rows": rows, "cursor": page.cursor }))
            }
            "quarantine-show" => Ok(self.quarantine.show(text("id"), &scope).await?.to_json()),
            "quarantine-raw" => {
                let place = request.get("place").and_then(Value::as_u64).unwrap_or(0);
                let piece = self.quarantine.raw(text("id"), &scope, place).await?;
                Ok(json!({ "hex": mpp_hub::hex::hex(&piece) }))
            }
            "quarantine-expire" => {
                let expired = self.quarantine.expire().await?;
                Ok(json!({
                    "too_old": expired.too_old,
                    "too_many": expired.too_many,
                    "of_users": expired.of_users,
                }))
            }
            "quarantine-forget" => {
                self.quarantine.forget_node(text("node")).await?;
                Ok(json!({ "node": text("node") }))
            }
            "quarantine-numbers" => {
                let numbers = self.quarantine.numbers().await?.into_iter();
                let numbers = numbers.map(|(name, number)| (name.to_owned(), json!(number)));
                Ok(Value::Object(numbers.collect()))
            }
            "quarantine-release" => {
                let is_forced = request.get("force").and_then(Value::as_bool).unwrap_or(false);
                self.order(text("id"), Errand { scope, is_forced, ..Errand::default() }).await
            }
            "quarantine-delete" => {
                let what = What::Delete;
                self.order(text("id"), Errand { what, scope, ..Errand::default() }).await
            }
            "quarantine-digest-users" => {
                let (users, next) = self.quarantine.digest_users(text("after")).await?;
                Ok(json!({ "users": users, "next": next }))
            }
            "quarantine-digest" => {
                let is_print = request.get("print").and_then(Value::as_bool).unwrap_or(false);
                let refused = request.get("refused").and_then(Value::as_array);
                let refused = refused.into_iter().flatten().filter_map(Refused::of).collect();
                self.digest(text("user"), refused, is_print).await
            }
            other => Err(format!("unknown command `{other}`")),
        }
    }

    /// Who is asking.
    async fn scope(&self, request: &Value) -> Result<Scope, String> {
        let text = |name: &str| request.get(name).and_then(Value::as_str).unwrap_or_default();
        match (text("user"), text("domain")) {
            ("", "") => Ok(Scope::All),
            (user, "") => Ok(Scope::User(self.hub.user_of(user).await)),
            ("", domain) => Ok(Scope::Domain(domain.trim_start_matches('@').to_owned())),
            _ => Err("either a user or a domain".into()),
        }
    }

    /// Has something done with a message, by whichever node holds it.
    async fn order(self: &Arc<Self>, name: &str, errand: Errand) -> Result<Value, String> {
        let (id, node) = self.quarantine.holder(name, &errand.scope).await?;
        let errand = Errand { message: id.clone(), ..errand };
        let Some(node) = node else { return self.carry_out(&errand).await };
        let Some(answer) = self.quarantine.order(&node, errand).await? else {
            return Ok(json!({
                "id": id,
                "recipients": [],
                "note": format!("{node} has not answered yet; it will do so when it is back"),
                "is_pending": true,
            }));
        };
        answer
    }

    /// Does something with a message that this node holds.
    async fn carry_out(self: &Arc<Self>, errand: &Errand) -> Answer {
        let Errand { message, what, scope, is_forced, .. } = errand;
        match what {
            What::Release => self.release(message, scope, *is_forced).await,
            What::Delete => {
                self.quarantine.delete(message, scope).await?;
                Ok(json!({ "id": message, "state": State::Deleted.name() }))
            }
        }
    }

    /// Does what other nodes ask of this one, for ever and one after the other.
    pub(crate) async fn serve_others(self: Arc<Self>) {
        loop {
            if let Err(trouble) = self.serve_some().await {
                mpp_hub::say(&format!("quarantine: what other nodes ask is not done: {trouble}"));
                tokio::time::sleep(SERVE_PAUSE).await;
            }
        }
    }

    async fn serve_some(self: &Arc<Self>) -> Result<(), String> {
        for errand in self.quarantine.errands().await? {
            let _busy = self.serving.lock().await;
            if self.is_stopping() {
                // It is begun with at the next start.
                return std::future::pending().await;
            }
            let answer = self.carry_out(&errand).await;
            self.quarantine.errand_done(&errand, &answer).await?;
        }
        Ok(())
    }

    /// Sends a message to those it is held for. It goes on when nobody waits for it any more.
    async fn release(
        self: &Arc<Self>,
        id: &str,
        scope: &Scope,
        is_forced: bool,
    ) -> Result<Value, String> {
        let release = self.quarantine.begin_release((id, scope), is_forced, &self.spool).await?;
        let id = release.id.clone();
        let keeper = Arc::clone(self);
        let send = tokio::spawn(async move { keeper.send_released(release).await });
        match tokio::time::timeout(PATIENCE, send).await {
            Ok(done) => done.unwrap_or_else(|error| Err(error.to_string())),
            Err(_) => Ok(json!({
                "id": id,
                "recipients": [],
                "note": "the next hop takes its time; `mpp quarantine show` says what comes of it",
            })),
        }
    }

    async fn send_released(&self, release: Release) -> Result<Value, String> {
        let Release { id, holding, recipients, text } = release;
        let (mut states, mut rows) = (Vec::new(), Vec::new());
        let recipients = recipients.into_iter().map(|it| (it.address, it.parameters)).collect();
        let (sender, parameters) = (holding.sender.clone(), holding.parameters.clone());
        let envelope = Envelope { sender, parameters, recipients };
        let done = self.send(&holding.route, &envelope, &text).await;
        for (recipient, done) in done {
            let (state, said) = match done {
                Injected::Taken(said) => (State::Released, said),
                Injected::NotTaken(said) => (State::Held, said),
                Injected::Unsure(said) => (State::Releasing, said),
            };
            rows.push(json!({ "address": recipient, "state": state.name(), "said": said }));
            states.push((recipient, state));
        }
        self.quarantine.end_release(&id, states.clone()).await?;
        if states.iter().any(|(_, state)| *state == State::Released) {
            self.teach(&holding, states.first().map_or("", |(recipient, _)| recipient)).await;
        }
        Ok(json!({ "id": id, "recipients": rows, "note": "" }))
    }

    /// Sends a message by way of a proxy, to each recipient where his mail goes now.
    async fn send(
        &self,
        route: &str,
        envelope: &Envelope,
        text: &Spooled,
    ) -> Vec<(String, Injected)> {
        let (name, hop) = route.rsplit_once('/').unwrap_or((route, "0"));
        let Some(gate) = self.gate(name) else {
            let trouble = Injected::NotTaken(NO_WAY_OUT.into());
            let all = envelope.recipients.iter();
            return all.map(|(recipient, _)| (recipient.clone(), trouble.clone())).collect();
        };
        let mut hops: BTreeMap<usize, Vec<(String, String)>> = BTreeMap::new();
        for recipient in &envelope.recipients {
            let path = Path::resolve(recipient.0.as_bytes()).unwrap_or_default();
            let hop = match gate.proxy().takes(&path) {
                Taking::Yes(hop) => hop,
                // Its domain may have gone from the configuration since it was held.
                _ => hop.parse().unwrap_or(0),
            };
            hops.entry(hop).or_default().push(recipient.clone());
        }
        let mut all = Vec::new();
        for (hop, recipients) in hops {
            let envelope = Envelope { recipients, ..envelope.clone() };
            let done = gate.inject(hop, &envelope, text).await;
            all.extend(envelope.recipients.into_iter().map(|(recipient, _)| recipient).zip(done));
        }
        all
    }

    /// The proxy by which mail leaves that came by this door. What came by milter leaves where the
    /// quarantine says, or by whatever proxy there is; so does what came by a proxy that is gone.
    fn gate(&self, name: &str) -> Option<Arc<Gate>> {
        let own = self.gates.iter().find(|gate| *gate.proxy().name == *name);
        let first = self.gates.first().filter(|_| name == "milter");
        own.cloned().or_else(|| self.outlet.load_full()).or_else(|| first.cloned())
    }

    /// That it was wanted enters the histories, as any observation of a clean message does.
    async fn teach(&self, holding: &Holding, recipient: &str) {
        let Some(client) = holding.client else { return };
        let asked = Asked {
            client_name: &holding.client_name,
            helo: &holding.helo,
            sender: &holding.sender,
            recipient,
            sasl_user: &holding.sasl_user,
            instance: &holding.instance,
            recipient_count: 1,
            ..Asked::about("quarantine", Stage::EndOfMessage, client)
        };
        self.hub.observe(&asked, Observed::Clean, &mut mpp_hub::Desk::default()).await;
    }

    /// Makes a digest for a user by hand.
    async fn digest(
        &self,
        user: &str,
        refused: Vec<Refused>,
        is_print: bool,
    ) -> Result<Value, String> {
        if !user.contains('@') {
            return Err(format!("`{user}` is no address"));
        }
        let user = self.hub.user_of(user).await;
        let wanted = self.wanted(&user, refused).await;
        if is_print {
            let Some(digest) = self.quarantine.digest(wanted).await? else {
                return Ok(json!({ "user": user, "count": 0, "said": "nothing was held" }));
            };
            let text = String::from_utf8_lossy(&digest.text);
            return Ok(json!({ "user": user, "count": digest.count, "text": text }));
        }
        let told = self.tell(wanted).await.map_err(|untold| untold.text)?;
        let (count, said) = told.unwrap_or((0, "nothing was held".into()));
        Ok(json!({ "user": user, "count": count, "said": said }))
    }

    /// What is wanted of the digest of a user: of these refusals those that are his.
    pub(crate) async fn wanted(&self, user: &str, refused: Vec<Refused>) -> Wanted {
        let mut his = Vec::new();
        for refused in refused {
            if self.hub.user_of(&refused.recipient).await == user {
                his.push(refused);
            }
        }
        Wanted { user: user.to_owned(), refused: his, ..Wanted::default() }
    }

    /// Makes a digest and sends it: how many messages are in it, and what the next hop said; nothing if
    /// there was nothing to tell. One at a time, so that nobody is told twice.
    pub(crate) async fn tell(&self, wanted: Wanted) -> Result<Option<(usize, String)>, Untold> {
        let _alone = self.telling.lock().await;
        if self.is_stopping() {
            return Err(String::from("mpp is stopping").into());
        }
        let Some(digest) = self.quarantine.digest(wanted).await? else { return Ok(None) };
        let user = &digest.user;
        let mut writer = self.spool.begin();
        writer.write(&digest.text).map_err(|error| error.to_string())?;
        let text = writer.finish();
        let recipients = vec![(user.clone(), String::new())];
        let envelope = Envelope { recipients, ..Envelope::default() };
        let done = self.send(&digest.route, &envelope, &text).await;
        match done.into_iter().next() {
            Some((_, Injected::Taken(said))) => {
                self.quarantine.digest_sent(&digest).await?;
                Ok(Some((digest.count, said)))
            }
            Some((_, Injected::NotTaken(said))) => {
                let is_for_good = said.starts_with('5') && said.get(3..4) == Some(" ");
                Err(Untold { is_for_good, text: format!("no digest for {user}: {said}") })
            }
            Some((_, Injected::Unsure(said))) => {
                Err(format!("no digest for {user}: {said}").into())
            }
            None => Err(format!("no digest for {user}").into()),
        }
    }

    /// Where mail for a user goes: the name of a proxy, and the number of its hop.
    pub(crate) fn route_of(&self, user: &str) -> Option<String> {
        let path = Path::parse_bare(user).ok()?;
        let by_proxy = self.gates.iter().find_map(|gate| match gate.proxy().takes(&path) {
            Taking::Yes(hop) => Some(format!("{}/{hop}", gate.proxy().name)),
            _ => None,
        });
        by_proxy
            .or_else(|| self.outlet.load().as_ref().map(|gate| format!("{}/0", gate.proxy().name)))
    }

    /// Begins no more digests and errands, and waits for those that are under way.
    pub(crate) async fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        let end = async {
            drop(self.telling.lock().await);
            drop(self.serving.lock().await);
        };
        // What takes longer is as after a kill.
        let _ = tokio::time::timeout(STOP_WAIT, end).await;
    }

    /// Whether no more digests and errands are begun.
    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    pub(crate) fn quarantine(&self) -> &Quarantine {
        &self.quarantine
    }

    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }
}

/// What is said where nothing can leave.
const NO_WAY_OUT: &str = "the proxy that it came by is gone, or it came by milter: say in \
    `[quarantine]` where it goes, with release_to = \"HOST:PORT\", or configure a [proxy]";

/// Where mail leaves that no proxy sends, if settings say so.
fn outlet(settings: &Settings) -> Option<Arc<Gate>> {
    let servers = &settings.release_to;
    let proxy = Arc::new(Proxy::outlet("release_to", servers));
    let gate = (!servers.is_empty()).then(|| Gate::new(&proxy))?;
    // There is nothing in it that could fail: no certificate and no key.
    gate.inspect_err(|trouble| mpp_hub::say(&format!("quarantine: {trouble}"))).ok().map(Arc::new)
}

/// Why a user was not told.
pub(crate) struct Untold {
    /// The next hop has refused it, and would again.
    pub(crate) is_for_good: bool,
    /// For people.
    pub(crate) text: String,
}

impl From<String> for Untold {
    fn from(text: String) -> Self {
        Self { is_for_good: false, text }
    }
}

/// Why mail is held: what scanners call it, or because a policy wants so.
const REASONS: [&str; 4] = ["spam", "virus", "hold", "clean"];

/// What is looked for.
fn search(request: &Value, scope: Scope) -> Result<Search, String> {
    let text = |name: &str| request.get(name).and_then(Value::as_str).unwrap_or_default();
    let number = |name: &str| request.get(name).and_then(Value::as_u64);
    let states = match text("state") {
        "" | "waiting" => Vec::new(),
        "all" => State::ALL.to_vec(),
        name => {
            let state = State::ALL.into_iter().find(|state| state.name() == name);
            vec![state.ok_or_else(|| {
                format!("`{name}` is no state: held, releasing, released, deleted, all")
            })?]
        }
    };
    let reason = text("reason");
    if !reason.is_empty() && !REASONS.contains(&reason) {
        return Err(format!("`{reason}` is no reason to hold mail: {}", REASONS.join(", ")));
    }
    Ok(Search {
        scope,
        sender: text("sender").to_owned(),
        recipient: text("recipient").to_owned(),
        words: text("words").to_owned(),
        reason: reason.to_owned(),
        since_ms: number("since_ms"),
        after: None,
        until_ms: number("until_ms"),
        states,
        cursor: Some(text("cursor").to_owned()).filter(|cursor| !cursor.is_empty()),
        most: usize::try_from(number("most").unwrap_or(ROWS)).unwrap_or(usize::MAX),
    })
}

/// The keeper, as the pages of digests' links see it.
pub(crate) struct Front(pub(crate) Arc<Keeper>);

impl Pages for Front {
    fn held<'a>(&'a self, token: &'a str) -> Answering<'a, Result<Held, String>> {
        Box::pin(async move {
            let Opened { id, user } = self.0.quarantine.opened(token).ok_or(NOTHING)?;
            let shown = self.0.quarantine.show(&id, &Scope::User(user.clone())).await;
            let row = shown.map_err(|_| NOTHING)?.row;
            let sender = if row.sender.is_empty() { "(nobody)".into() } else { row.sender };
            let over = match row.recipients.iter().map(|(_, state)| *state).min() {
                Some(State::Held) => "",
                Some(State::Releasing) => "This message may be on its way already.",
                Some(State::Released) => "This message was delivered already.",
                Some(State::Deleted) | None => "This message is gone.",
            };
            let over = over.to_owned();
            let when = self.0.quarantine.local_text(row.at_ms).await?;
            let (id, subject, reason) = (row.id, row.subject, row.reason);
            Ok(Held { id, user, sender, subject, when, reason, over })
        })
    }

    fn release<'a>(&'a self, token: &'a str) -> Answering<'a, Result<String, String>> {
        Box::pin(async move {
            let Opened { id, user } = self.0.quarantine.opened(token).ok_or(NOTHING)?;
            let errand = Errand { scope: Scope::User(user), ..Errand::default() };
            let done = self.0.order(&id, errand).await?;
            let state = done.pointer("/recipients/0/state").and_then(Value::as_str);
            match state {
                Some("released") => Ok("It is on its way to you.".into()),
                None => Ok("It will be with you soon.".into()),
                Some(_) => Err("Your mail server does not take it now: try again later.".into()),
            }
        })
    }
}

/// What a link says that opens nothing.
const NOTHING: &str = "This link opens nothing, or nothing any more.";
