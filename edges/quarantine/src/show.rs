//! A message as it may be looked at: headers, plain text, names of attachments. Nothing of it can do
//! anything, on a terminal or in a page.

use std::io::{self, Read as _};
use std::sync::Arc;

use mail_parser::{MessageParser, MimeHeaders as _, PartType};
use mpp_hub::id::Id;
use mpp_wire::header;
use serde_json::{Value, json};

use crate::clean;
use crate::record::{Row, decoded};
use crate::search::Scope;
use crate::skeleton::Skeleton;
use crate::together::Found;
use crate::{Inner, blocking};

/// Bytes of a message that are handed out at once.
const RAW_BYTES: u64 = 1 << 20;
/// Letters of text that are shown.
const TEXT_MAX: usize = 20_000;
/// Header fields, and letters of each.
const FIELDS_MAX: usize = 100;
const FIELD_MAX: usize = 1_000;
/// Attachments, and letters of their names.
const ATTACHMENTS_MAX: usize = 100;
const NAME_MAX: usize = 120;

/// A message to be looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// What the index knows of it.
    pub row: Row,
    /// Header fields: name and value.
    pub headers: Vec<(String, String)>,
    /// Its text, without anything active.
    pub text: String,
    /// What is attached.
    pub attachments: Vec<Attachment>,
    /// Whether it goes on behind what is shown.
    pub is_cut: bool,
    /// Why nothing of it can be shown, if so.
    pub trouble: String,
}

/// A part of a message that is not shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// The name that the sender gave it.
    pub name: String,
    /// The type that the sender gave it.
    pub kind: String,
    /// How long it is, about.
    pub bytes: u64,
}

impl Shown {
    /// As JSON.
    pub fn to_json(&self) -> Value {
        let attachments: Vec<Value> = self
            .attachments
            .iter()
            .map(|it| json!({ "name": it.name, "type": it.kind, "bytes": it.bytes }))
            .collect();
        let mut value = self.row.to_json();
        if let Some(value) = value.as_object_mut() {
            value.insert("headers".into(), json!(self.headers));
            value.insert("text".into(), json!(self.text));
            value.insert("attachments".into(), json!(attachments));
            value.insert("is_cut".into(), json!(self.is_cut));
            value.insert("trouble".into(), json!(self.trouble));
        }
        value
    }
}

/// Shows a message.
pub(crate) async fn show(inner: &Arc<Inner>, id: &str, scope: &Scope) -> Result<Shown, String> {
    let Found { id, row, node } = inner.find(id, scope).await?;
    if let Some(node) = node {
        let trouble = format!("its text lies on {node}: `mpp quarantine show` shows it there");
        return Ok(Shown { row, trouble, ..Shown::default() });
    }
    if !row.is_waiting() {
        let trouble = "nobody waits for it any more: only what the index knows is left".to_owned();
        return Ok(Shown { row, trouble, ..Shown::default() });
    }
    let _one = inner.showing.acquire().await.map_err(|error| error.to_string())?;
    let files = Arc::clone(inner);
    let shown = blocking(move || read(&files, id)).await;
    // A parser that fails on it must not keep it from being released or deleted.
    let shown = shown.unwrap_or_else(|trouble| Shown { trouble, ..Shown::default() });
    Ok(Shown { row, ..shown })
}

/// A piece of a message as it came, from this place on; empty at its end.
pub(crate) async fn raw(
    inner: &Arc<Inner>,
    (id, scope): (&str, &Scope),
    place: u64,
) -> Result<Vec<u8>, String> {
    let Found { id, row, node } = inner.find(id, scope).await?;
    if let Some(node) = node {
        return Err(format!("its text lies on {node}: `mpp quarantine show --raw` shows it there"));
    }
    if !row.is_waiting() {
        return Err("nobody waits for it any more: only what the index knows is left".into());
    }
    let _one = inner.showing.acquire().await.map_err(|error| error.to_string())?;
    let files = Arc::clone(inner);
    let read = move || {
        let (_, mut text) = files.files.read(id)?;
        let mut piece = Vec::new();
        let skipped = io::copy(&mut text.by_ref().take(place), &mut io::sink())?;
        if skipped == place {
            text.take(RAW_BYTES).read_to_end(&mut piece)?;
        }
        Ok(piece)
    };
    blocking(move || read().map_err(|error: io::Error| error.to_string())).await
}

fn read(inner: &Inner, id: Id) -> Result<Shown, String> {
    let (_, text) = inner.files.read(id).map_err(|error| error.to_string())?;
    let skeleton = Skeleton::read(text).map_err(|error| error.to_string())?;
    Ok(take_apart(&skeleton))
}

/// Takes a message apart.
pub(crate) fn take_apart(skeleton: &Skeleton) -> Shown {
    let mut shown = Shown { is_cut: skeleton.is_cut, ..Shown::default() };
    let Some(message) = MessageParser::default().parse(&skeleton.text) else {
        let text = String::from_utf8_lossy(&skeleton.text);
        let (text, is_cut) = clean::lines(&text, TEXT_MAX);
        return Shown { text, is_cut: is_cut || shown.is_cut, ..shown };
    };
    let mut fields = header::fields(&skeleton.text);
    for field in fields.by_ref().take(FIELDS_MAX) {
        let name = String::from_utf8_lossy(field.name);
        // A subject is for people; of others it is seen how they came, but for the charset.
        let value = if field.is("subject") || std::str::from_utf8(field.value()).is_err() {
            decoded(field.value().trim_ascii(), &skeleton.text)
        } else {
            String::from_utf8_lossy(field.value()).into_owned()
        };
        shown.headers.push((clean::line(&name, NAME_MAX), clean::line(&value, FIELD_MAX)));
    }
    shown.is_cut |= fields.next().is_some();
    if let Some(text) = message.body_text(0) {
        let (text, is_cut) = clean::lines(&text, TEXT_MAX);
        shown.text = text;
        shown.is_cut |= is_cut;
    }
    for part in message.attachments().take(ATTACHMENTS_MAX) {
        let kind = part.content_type().map_or_else(String::new, |kind| match kind.subtype() {
            Some(subtype) => format!("{}/{subtype}", kind.ctype()),
            None => kind.ctype().to_owned(),
        });
        let here = match &part.body {
            PartType::Multipart(_) => 0,
            _ => part.len() as u64,
        };
        let (from, to) = (part.offset_body as usize, part.offset_end as usize);
        shown.attachments.push(Attachment {
            name: clean::line(part.attachment_name().unwrap_or_default(), NAME_MAX),
            kind: clean::line(&kind, NAME_MAX),
            bytes: here + skeleton.left_out(from, to),
        });
    }
    shown.is_cut |= message.attachments().count() > ATTACHMENTS_MAX;
    shown
}
