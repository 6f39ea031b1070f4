//! `mpp quarantine`: what is held, and what is to become of it.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use mpp_quarantine::Refused;
use mpp_settings::form;
use serde_json::{Map, Value, json};

use super::Failure;
use super::state::{daemon, number, text};
use crate::place::Where;
use crate::{print, refusals, wiring};

/// List, search, show, release and delete what is held.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  mpp quarantine list --user bob@example.org\n  \
    mpp quarantine search invoice 'remind*' --sender @example.com --since 7d\n  \
    mpp quarantine show 1QXN5GZ4W0\n  mpp quarantine release 1QXN5GZ4W0\n  \
    mpp quarantine digest --all")]
pub(crate) struct Quarantine {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List what is held, newest first
    List(List),
    /// Search what is held
    Search(Search),
    /// Show a message: headers, text, names of attachments; nothing active
    Show(Show),
    /// Send messages to those they are held for, once
    Release(Release),
    /// Throw messages away
    Delete(Many),
    /// Throw away now what is too old or too much
    Expire(Expire),
    /// List no more what a node held that is gone for good
    Forget(Forget),
    /// Send users a list of what was held for them, and refused, since the last one
    Digest(Digest),
}

/// Options of all of them.
#[derive(Debug, Args)]
struct Common {
    /// As the owner of this address: only what is held for it
    #[arg(long, value_name = "ADDRESS", conflicts_with = "domain")]
    user: Option<String>,
    /// As whoever looks after this domain: only what is held for it
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
    #[command(flatten)]
    daemon: Where,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct List {
    /// Only those in this state: held, releasing, released, deleted, all
    #[arg(long, value_name = "STATE", default_value = "waiting", hide_default_value = true)]
    only: String,
    /// So many at the most
    #[arg(long, default_value_t = 50, value_name = "COUNT")]
    most: u64,
    /// Go on where the last list ended
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Search {
    /// Words of the subject, all of them; `invoic*` is the beginning of one
    words: Vec<String>,
    /// The envelope sender: an address, or @domain
    #[arg(long, value_name = "ADDRESS")]
    sender: Option<String>,
    /// The recipient: an address, or @domain
    #[arg(long, value_name = "ADDRESS")]
    recipient: Option<String>,
    /// Why it is held: spam, virus, hold
    #[arg(long)]
    reason: Option<String>,
    /// Not longer ago, such as 7d
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Longer ago, such as 1d
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    #[command(flatten)]
    list: List,
}

#[derive(Debug, Args)]
struct One {
    /// The id, or ID@NODE
    id: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Show {
    #[command(flatten)]
    one: One,
    /// The message itself as it came, byte for byte, to train a scanner or to send it on
    #[arg(long, conflicts_with = "json")]
    raw: bool,
}

#[derive(Debug, Args)]
struct Many {
    /// The ids, or ID@NODE
    #[arg(required = true)]
    ids: Vec<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Release {
    #[command(flatten)]
    many: Many,
    /// Send again what may have arrived: its release was begun, and the end of that is not known
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
struct Expire {
    #[command(flatten)]
    daemon: Where,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Forget {
    /// The node, as lists name it
    node: String,
    #[command(flatten)]
    daemon: Where,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("whose").required(true).args(["user", "all"])))]
struct Digest {
    /// The user
    #[arg(long, value_name = "ADDRESS")]
    user: Option<String>,
    /// All for whom something was held since their last digest
    #[arg(long)]
    all: bool,
    /// Print it, and send nothing
    #[arg(long)]
    print: bool,
    #[command(flatten)]
    daemon: Where,
    /// Print a JSON object for each user
    #[arg(long)]
    json: bool,
}

impl Quarantine {
    pub(crate) fn run(&self) -> Result<(), Failure> {
        match &self.action {
            Action::List(list) => list.run(&Map::new()),
            Action::Search(search) => search.run(),
            Action::Show(Show { one, raw: true }) => one.raw(),
            Action::Show(Show { one, raw: false }) => {
                let shown = one.common.ask("quarantine-show", json!({ "id": one.id }))?;
                print::out(&if one.common.json { shown.to_string() } else { message(&shown) });
                Ok(())
            }
            Action::Release(release) => release.run(),
            Action::Delete(many) => many.each("quarantine-delete", &json!({}), |answer| {
                let (id, note) = (text(answer, "id"), text(answer, "note"));
                let said = if note.is_empty() {
                    format!("{id} is deleted")
                } else {
                    format!("{id}  {note}")
                };
                (said, true)
            }),
            Action::Expire(expire) => expire.run(),
            Action::Forget(forget) => forget.run(),
            Action::Digest(digest) => digest.run(),
        }
    }
}

impl One {
    /// Writes the message out as it came.
    fn raw(&self) -> Result<(), Failure> {
        let mut place = 0;
        loop {
            let request = json!({ "id": self.id, "place": place });
            let answer = self.common.ask("quarantine-raw", request)?;
            let piece = mpp_hub::hex::unhex(text(&answer, "hex")).unwrap_or_default();
            if piece.is_empty() {
                return Ok(());
            }
            place += piece.len();
            print::bytes(&piece);
        }
    }
}

impl Common {
    fn ask(&self, command: &str, mut request: Value) -> Result<Value, Failure> {
        if let Some(request) = request.as_object_mut() {
            request.insert("command".into(), json!(command));
            request.insert("user".into(), json!(self.user));
            request.insert("domain".into(), json!(self.domain));
        }
        daemon(&self.daemon, &request)
    }
}

impl List {
    /// Asks for pages until there are as many rows as are wanted: one page looks at so much only.
    fn run(&self, wanted: &Map<String, Value>) -> Result<(), Failure> {
        let mut rows: Vec<Value> = Vec::new();
        let mut cursor = self.cursor.clone();
        loop {
            let mut request = wanted.clone();
            let left = self.most.saturating_sub(rows.len() as u64);
            request.insert("most".into(), json!(left));
            request.insert("state".into(), json!(self.only));
            request.insert("cursor".into(), json!(cursor));
            let mut page = self.common.ask("quarantine-list", Value::Object(request))?;
            if let Some(more) = page.get_mut("rows").and_then(Value::as_array_mut) {
                rows.append(more);
            }
            cursor = page.get("cursor").and_then(Value::as_str).map(str::to_owned);
            if cursor.is_none() || rows.len() as u64 >= self.most {
                break;
            }
        }
        if self.common.json {
            print::out(&json!({ "rows": rows, "cursor": cursor }).to_string());
            return Ok(());
        }
        print::out(&table(&rows, cursor.as_deref()));
        Ok(())
    }
}

impl Search {
    fn run(&self) -> Result<(), Failure> {
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let ago = |period: &Option<String>| -> Result<Value, Failure> {
            let Some(period) = period else { return Ok(Value::Null) };
            let period = form::duration_ms(period);
            let period = period.map_err(|text| Failure(format!("error: {text}")))?;
            Ok(json!(u64::try_from(now_ms).unwrap_or(u64::MAX).saturating_sub(period)))
        };
        let mut wanted = Map::new();
        wanted.insert("words".into(), json!(self.words.join(" ")));
        wanted.insert("sender".into(), json!(self.sender));
        wanted.insert("recipient".into(), json!(self.recipient));
        wanted.insert("reason".into(), json!(self.reason));
        wanted.insert("since_ms".into(), ago(&self.since)?);
        wanted.insert("until_ms".into(), ago(&self.until)?);
        self.list.run(&wanted)
    }
}

impl Many {
    /// Asks for each; what cannot be done is said, and the others are done all the same.
    fn each(
        &self,
        command: &str,
        request: &Value,
        shown: impl Fn(&Value) -> (String, bool),
    ) -> Result<(), Failure> {
        let mut failed = 0;
        for id in &self.ids {
            let mut request = request.clone();
            if let Some(request) = request.as_object_mut() {
                request.insert("id".into(), json!(id));
            }
            match self.common.ask(command, request) {
                Ok(answer) => {
                    let (text, is_done) = shown(&answer);
                    print::out(&if self.common.json { answer.to_string() } else { text });
                    failed += usize::from(!is_done);
                }
                Err(Failure(text)) => {
                    print::error(&text);
                    failed += 1;
                }
            }
        }
        match failed {
            0 => Ok(()),
            failed => Err(Failure(format!("error: {failed} of {} failed", self.ids.len()))),
        }
    }
}

impl Release {
    fn run(&self) -> Result<(), Failure> {
        self.many.each("quarantine-release", &json!({ "force": self.force }), |answer| {
            let rows = answer.get("recipients").and_then(Value::as_array);
            let rows = rows.map_or(&[][..], Vec::as_slice);
            let mut out = text(answer, "id").to_owned();
            if !text(answer, "note").is_empty() {
                let _ = write!(out, "  {}", text(answer, "note"));
            }
            for row in rows {
                let (state, said) = (text(row, "state"), text(row, "said"));
                let what = match state {
                    "released" => "released",
                    "releasing" => "may have got it, which nobody knows",
                    _ => "still held",
                };
                let _ = write!(out, "\n  {}: {what} ({said})", text(row, "address"));
            }
            (out, rows.iter().all(|row| text(row, "state") == "released"))
        })
    }
}

impl Expire {
    fn run(&self) -> Result<(), Failure> {
        let answer = daemon(&self.daemon, &json!({ "command": "quarantine-expire" }))?;
        print::out(&if self.json {
            answer.to_string()
        } else {
            format!(
                "{} too old, {} too many, {} of users who had too much",
                number(&answer, "/too_old"),
                number(&answer, "/too_many"),
                number(&answer, "/of_users")
            )
        });
        Ok(())
    }
}

impl Forget {
    fn run(&self) -> Result<(), Failure> {
        let request = json!({ "command": "quarantine-forget", "node": self.node });
        let answer = daemon(&self.daemon, &request)?;
        let said = format!("what {} holds is not listed any more", self.node);
        print::out(&if self.json { answer.to_string() } else { said });
        Ok(())
    }
}

impl Digest {
    fn run(&self) -> Result<(), Failure> {
        let users = match &self.user {
            Some(user) => vec![user.to_lowercase()],
            None => self.users()?,
        };
        let mut refused = self.refused(&users)?;
        let mut failed = 0;
        for user in &users {
            let refused = refused.remove(user.as_str()).unwrap_or_default();
            match self.one(user, &refused) {
                Err(Failure(text)) if self.all => {
                    print::error(&text);
                    failed += 1;
                }
                done => done?,
            }
        }
        match failed {
            0 => Ok(()),
            failed => Err(Failure(format!("error: {failed} digests were not sent"))),
        }
    }

    /// All for whom there is something new.
    fn users(&self) -> Result<Vec<String>, Failure> {
        let (mut after, mut all) = (String::new(), Vec::new());
        loop {
            let request = json!({ "command": "quarantine-digest-users", "after": after });
            let answer = daemon(&self.daemon, &request)?;
            let users = answer.get("users").and_then(Value::as_array).into_iter().flatten();
            all.extend(users.filter_map(Value::as_str).map(str::to_owned));
            match answer.get("next").and_then(Value::as_str) {
                Some(next) => next.clone_into(&mut after),
                None => return Ok(all),
            }
        }
    }

    /// The last refusals of each of these users, by the decision log.
    fn refused(&self, users: &[String]) -> Result<BTreeMap<String, VecDeque<Refused>>, Failure> {
        if users.is_empty() {
            return Ok(BTreeMap::new());
        }
        let (state, socket) = self.daemon.find()?;
        // The daemon may have lines in memory still.
        drop(mpp_admin::ask(&socket, &json!({ "command": "settle" })));
        let directory = state.join(wiring::LOG);
        let known: HashSet<&str> = users.iter().map(String::as_str).collect();
        // Whose it is the daemon knows better, and looks again.
        refusals::read(&directory, |refused, _| {
            refusals::owners(&refused.recipient).find(|owner| known.contains(&**owner))
        })
        .map_err(|error| Failure(format!("error: {}: {error}", directory.display())))
    }

    fn one(&self, user: &str, refused: &VecDeque<Refused>) -> Result<(), Failure> {
        let refused: Vec<Value> = refused.iter().map(Refused::to_json).collect();
        let request = json!({
            "command": "quarantine-digest", "user": user, "print": self.print, "refused": refused
        });
        let answer = daemon(&self.daemon, &request)?;
        print::out(&if self.json {
            answer.to_string()
        } else if answer.get("text").is_some() {
            text(&answer, "text").replace('\r', "")
        } else {
            format!("{user}: {} messages ({})", number(&answer, "/count"), text(&answer, "said"))
        });
        Ok(())
    }
}

fn recipients(row: &Value) -> impl Iterator<Item = &Value> {
    row.get("recipients").and_then(Value::as_array).into_iter().flatten()
}

fn table(rows: &[Value], cursor: Option<&str>) -> String {
    if rows.is_empty() {
        return "nothing".into();
    }
    let mut out = format!("{:10}  {:20}  {:6}  {:>7}", "id", "when", "why", "points");
    out.push_str("  from, to, subject\n");
    for row in rows {
        let sender = text(row, "sender");
        let to: Vec<&str> = recipients(row).map(|it| text(it, "address")).collect();
        let to = match to.as_slice() {
            [first, second, third, rest @ ..] if !rest.is_empty() => {
                format!("{first}, {second}, {third} and {} others", rest.len())
            }
            all => all.join(", "),
        };
        let mut states: Vec<&str> = recipients(row).map(|it| text(it, "state")).collect();
        states.dedup();
        let mut state =
            if states == ["held"] { String::new() } else { format!(" ({})", states.join(", ")) };
        for (name, before) in [("node", " on "), ("asked", ", asked to ")] {
            if !text(row, name).is_empty() {
                state.push_str(before);
                state.push_str(text(row, name));
            }
        }
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{:10}  {:20}  {:6}  {:>7}  {} -> {to}{state}\n{:12}{}",
            text(row, "id"),
            when(row),
            text(row, "reason"),
            points(row),
            if sender.is_empty() { "<>" } else { sender },
            "",
            text(row, "subject"),
        );
    }
    if let Some(cursor) = cursor {
        let _ = writeln!(out, "more: --cursor {cursor}");
    }
    out
}

fn when(row: &Value) -> String {
    mpp_quarantine::time_text(number(row, "/at_ms"))
}

fn points(row: &Value) -> String {
    let hundredths = row.get("points_x100").and_then(Value::as_i64).unwrap_or(0);
    // Who finds a virus gives no points.
    if hundredths == 0 && text(row, "reason") == "virus" {
        return "-".into();
    }
    let sign = if hundredths < 0 { "-" } else { "" };
    let hundredths = hundredths.unsigned_abs();
    format!("{sign}{}.{:02}", hundredths / 100, hundredths % 100)
}

fn message(shown: &Value) -> String {
    let mut out = format!(
        "id          {}\nwhen        {}\nfrom        {}\nclient      {}\nwhy         {}{}, by \
         policy {}\ntests       {}\nsize        {}\n",
        text(shown, "id"),
        when(shown),
        text(shown, "sender"),
        text(shown, "client"),
        text(shown, "reason"),
        match &*points(shown) {
            "-" => String::new(),
            points => format!(", {points} points"),
        },
        text(shown, "policy"),
        text(shown, "tests"),
        print::size(number(shown, "/bytes")),
    );
    for name in ["node", "asked"] {
        if !text(shown, name).is_empty() {
            let _ = writeln!(out, "{name:10}  {}", text(shown, name));
        }
    }
    for recipient in recipients(shown) {
        let _ = writeln!(
            out,
            "to          {} ({})",
            text(recipient, "address"),
            text(recipient, "state")
        );
    }
    if !text(shown, "trouble").is_empty() {
        let _ = writeln!(out, "\n{}", text(shown, "trouble"));
    }
    out.push('\n');
    for field in shown.get("headers").and_then(Value::as_array).into_iter().flatten() {
        let of = |place: usize| field.get(place).and_then(Value::as_str).unwrap_or_default();
        let _ = writeln!(out, "{}: {}", of(0), of(1));
    }
    let _ = writeln!(out, "\n{}", text(shown, "text").trim_end());
    for part in shown.get("attachments").and_then(Value::as_array).into_iter().flatten() {
        let name = match text(part, "name") {
            "" => "(without a name)",
            name => name,
        };
        let size = print::size(number(part, "/bytes"));
        let _ = writeln!(out, "attached    {name}, {}, {size}", text(part, "type"));
    }
    if shown.get("is_cut").and_then(Value::as_bool).unwrap_or(false) {
        out.push_str("(it goes on)\n");
    }
    out
}
