//! HELO, MAIL and RCPT, and what peers say of their clients.

use std::io;
use std::time::Duration;

use mpp_address::Path;
use mpp_config::proxy::{Proxy, Taking};
use mpp_engine::facts::Stage;
use mpp_engine::verdict::{Action, Cause, Verdict};
use tokio::time::timeout;

use super::attributes;
use super::client::Client;
use super::gate::Tally;
use super::offers::Offers;
use super::reply::{self, Answer, NO_HOP, Own};
use super::session::{Next, Session, asked};
use super::transaction::{Parameters, Said, Transaction, knows_parameters};
use crate::scanning::Named;

/// What a filter's next hop offered so long ago is asked anew.
const OFFERS_HOLD: Duration = Duration::from_mins(1);
/// A gateway does not keep a client waiting longer to learn what its next hop offers.
const OFFERS_TIMEOUT: Duration = Duration::from_secs(5);

impl Session {
    pub(super) async fn helo(&mut self, name: String, is_extended: bool) -> io::Result<Next> {
        self.reset();
        self.forget_forwarded();
        if self.client.helo.is_empty() || self.setup.proxy.is_gateway() {
            self.client.helo = name;
        }
        self.is_extended = is_extended;
        if let Some(refusal) = self.judge(Stage::Helo).await {
            return Ok(self.answer(&refusal));
        }
        let host = self.setup.proxy.name_of_host.clone();
        if !is_extended {
            self.is_greeted = true;
            return Ok(self.say(&format!("250 {host}\r\n")));
        }
        let Some(offers) = self.offers().await else {
            self.bye("421 4.4.1 The next hop does not answer\r\n").await?;
            return Ok(Next::Close);
        };
        self.is_greeted = true;
        let mut text = format!("250-{host}\r\n250-PIPELINING\r\n250-CHUNKING\r\n");
        offers.push_lines(&mut text);
        if self.setup.acceptor.is_some() && !self.is_encrypted {
            text.push_str("250-STARTTLS\r\n");
        }
        if !self.setup.proxy.is_gateway() {
            text.push_str("250-XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE\r\n");
        }
        if Client::may_xclient(self.peer, &self.setup.proxy) {
            text.push_str("250-XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT\r\n");
        }
        text.push_str("250 ENHANCEDSTATUSCODES\r\n");
        Ok(self.say(&text))
    }

    /// What can be offered: what all next hops do. Nothing if a filter's does not answer.
    async fn offers(&mut self) -> Option<Offers> {
        let (gate, setup) = (&self.door.gate, &self.setup);
        let is_gateway = setup.proxy.is_gateway();
        let mut all: Option<Offers> = None;
        for (number, hop) in setup.proxy.hops.iter().enumerate() {
            let servers = || hop.servers.iter().map(ToString::to_string);
            let known = servers().find_map(|server| gate.offers_of(&server));
            let known = known.filter(|(_, age)| is_gateway || *age < OFFERS_HOLD);
            let offers = match known {
                Some((offers, _)) => offers,
                // Who did not answer a moment ago is not waited for again.
                None if is_gateway && servers().all(|server| gate.is_down(&server)) => {
                    Offers::default()
                }
                None => {
                    let opened = self.door.pool.take(gate, setup, number);
                    match timeout(OFFERS_TIMEOUT, opened).await {
                        Ok(Ok(hop)) => {
                            let offers = hop.offers.clone();
                            self.door.pool.keep(hop, setup);
                            offers
                        }
                        Ok(Err(trouble)) => {
                            crate::warn(&format!("proxy {}: {trouble}", setup.proxy.name));
                            Offers::default()
                        }
                        Err(_) => Offers::default(),
                    }
                }
            };
            if !is_gateway && offers == Offers::default() && servers().all(|it| gate.is_down(&it)) {
                return None;
            }
            all = Some(all.map_or(offers.clone(), |all| all.both(&offers)));
        }
        let mut offers = all.unwrap_or_default();
        if is_gateway {
            let most = setup.proxy.limits.message_bytes;
            offers.size =
                Some(offers.size.filter(|size| *size > 0).map_or(most, |it| it.min(most)));
        }
        Some(offers)
    }

    /// What a peer says of the client that it speaks for.
    pub(super) fn xforward(&mut self, attributes: &str) -> Next {
        if self.setup.proxy.is_gateway() {
            return self.wrong("502 5.5.1 XFORWARD is not offered\r\n");
        }
        if self.transaction.is_some() {
            return self.wrong("503 5.5.1 Not within a message\r\n");
        }
        if self.forwarder.is_none() {
            let client = self.client.forwarding();
            self.forwarder = Some(std::mem::replace(&mut self.client, client));
        }
        match attributes::take(attributes, (&mut self.client, self.peer), false) {
            Ok(()) => self.say("250 2.0.0 Ok\r\n"),
            Err(reply) => self.wrong(reply),
        }
    }

    /// A peer becomes somebody else: the conversation begins anew.
    pub(super) async fn xclient(&mut self, attributes: &str) -> io::Result<Next> {
        if !Client::may_xclient(self.peer, &self.setup.proxy) {
            return Ok(self.wrong("550 5.7.0 XCLIENT is not for you\r\n"));
        }
        if self.transaction.is_some() {
            return Ok(self.wrong("503 5.5.1 Not within a message\r\n"));
        }
        let before = self.client.address;
        if let Err(reply) = attributes::take(attributes, (&mut self.client, self.peer), true) {
            return Ok(self.wrong(reply));
        }
        if self.client.address != before && self.client.name.is_empty() {
            self.client.look_up(self.setup.names.as_ref());
        }
        let networks = &self.door.hub.live().configuration.networks;
        self.is_spared = self
            .client
            .address
            .is_none_or(|it| networks.local.contains(it) || networks.trusted.contains(it));
        self.is_greeted = false;
        if let Some(refusal) = self.judge(Stage::Connect).await {
            self.bye(&refusal.text).await?;
            return Ok(Next::Close);
        }
        let greeting = format!("220 {} ESMTP mpp\r\n", self.setup.proxy.name_of_host);
        Ok(self.say(&greeting))
    }

    pub(super) async fn mail(&mut self, path: Path, parameters: String) -> io::Result<Next> {
        let proxy = &self.setup.proxy;
        let limits = &proxy.limits;
        let is_gateway = proxy.is_gateway();
        let must_encrypt = proxy.starttls.as_ref().is_some_and(|tls| tls.is_required);
        if !self.is_greeted {
            return Ok(self.wrong("503 5.5.1 HELO first\r\n"));
        }
        if must_encrypt && !self.is_encrypted {
            return Ok(self.wrong("530 5.7.0 STARTTLS first\r\n"));
        }
        if self.transaction.is_some() {
            return Ok(self.wrong("503 5.5.1 One sender a message\r\n"));
        }
        if self.messages >= limits.messages {
            self.bye("421 4.7.0 Enough messages on one connection\r\n").await?;
            return Ok(Next::Close);
        }
        if *self.door.stopping.borrow() {
            self.bye(reply::STOPPING).await?;
            return Ok(Next::Close);
        }
        let most = limits.message_bytes;
        let parameters = match Parameters::read(parameters, is_gateway) {
            Ok(parameters) => parameters,
            Err(reply) => return Ok(self.wrong(reply)),
        };
        if is_gateway && parameters.size.is_some_and(|size| size > most) {
            return Ok(self.wrong("552 5.3.4 Message too big\r\n"));
        }
        if is_gateway && !path.as_str().is_ascii() && !parameters.is_utf8 {
            return Ok(self.wrong("553 5.6.7 This address needs SMTPUTF8\r\n"));
        }
        self.messages += 1;
        self.transaction = Some(Box::new(Transaction {
            instance: format!("{}.{:x}", self.id, self.messages),
            sender: path.as_str().to_owned(),
            parameters,
            ..Transaction::default()
        }));
        if let Some(refusal) = self.judge(Stage::Mail).await {
            self.reset();
            self.count_idle();
            return Ok(self.answer(&refusal));
        }
        Ok(self.say("250 2.1.0 Ok\r\n"))
    }

    pub(super) async fn rcpt(&mut self, named: Path, parameters: String) -> io::Result<Next> {
        let proxy = std::sync::Arc::clone(&self.setup.proxy);
        let Some(message) = &mut self.transaction else {
            return Ok(self.wrong("503 5.5.1 MAIL first\r\n"));
        };
        let path = named.as_str().to_owned();
        message.last_recipient.clone_from(&path);
        let route = match self.may_be_named(&proxy, &named, &parameters) {
            Ok(route) => route,
            Err(answer) => return Ok(self.not_named(&answer)),
        };
        if let Some(refusal) = self.judge(Stage::Rcpt).await {
            return Ok(self.not_named(&refusal));
        }
        let Some(message) = &mut self.transaction else { return Ok(Next::GoOn) };
        message.route = Some(route);
        if message.is_discarded {
            message.recipients += 1;
            return Ok(self.say("250 2.1.5 Ok\r\n"));
        }
        let said = self.say_to_hop(route, &path, &parameters).await;
        let Some(message) = &mut self.transaction else { return Ok(Next::GoOn) };
        let is_taken = matches!(&said, Some(Said::Reply(reply)) if reply.is_positive());
        if is_taken {
            message.recipients += 1;
            let (order, held_by) = std::mem::take(&mut self.order);
            message.named.push(Named { path, parameters, order, held_by });
        } else {
            self.door.hub.take_back(&message.instance, &mut self.desk);
        }
        match said {
            Some(Said::Reply(reply)) if reply.is_positive() => {
                let answer = Answer::from(&reply);
                Ok(self.answer(&answer))
            }
            Some(Said::Reply(reply)) => Ok(self.not_named(&Answer::from(&reply))),
            Some(Said::Cannot(answer)) => Ok(self.not_named(&answer)),
            None => {
                Tally::more(&self.tally().unanswered);
                Ok(self.not_named(&NO_HOP.into()))
            }
        }
    }

    /// A recipient that is not taken. "Not now" is no error of whoever asked; so many of them as a
    /// message may have recipients are the normal course of a large one (greylisting, more recipients
    /// than one message may have), and more are not.
    fn not_named(&mut self, answer: &Answer) -> Next {
        let most = self.setup.proxy.limits.recipients;
        if let Some(message) = &mut self.transaction {
            message.not_named += 1;
            if message.not_named > most {
                self.count_error();
            }
        }
        self.answer(answer)
    }

    /// Whether a recipient may be named at all, and the number of its hop, or the reply.
    fn may_be_named(
        &mut self,
        proxy: &Proxy,
        path: &Path,
        parameters: &str,
    ) -> Result<usize, Answer> {
        let Some(message) = &self.transaction else { return Err(NO_HOP.into()) };
        if message.is_chunked {
            return Err(Own(503, "5.5.1 The text has begun").into());
        }
        if !proxy.is_gateway() {
            return Ok(0);
        }
        if message.recipients >= proxy.limits.recipients {
            return Err(Own(452, "4.5.3 Too many recipients").into());
        }
        if !path.as_str().is_ascii() && !message.parameters.is_utf8 {
            return Err(Own(553, "5.6.7 This address needs SMTPUTF8").into());
        }
        if !knows_parameters(parameters) {
            return Err(Own(555, "5.5.4 Parameter not known").into());
        }
        let Taking::Yes(route) = proxy.takes(path) else {
            let verdict = Verdict::new(Action::Reject, Cause::Relay);
            return Err(self.refuse(Stage::Rcpt, ("relay", verdict)));
        };
        if message.route.is_some_and(|other| other != route) {
            // One reply at the end cannot speak for two next hops.
            return Err(Own(452, "4.5.3 Another message for this recipient, please").into());
        }
        Ok(route)
    }

    /// A refusal of the door's own, as it is said.
    pub(super) fn refuse(&mut self, stage: Stage, why: (&'static str, Verdict)) -> Answer {
        let nothing = Transaction::default();
        let message = self.transaction.as_deref().unwrap_or(&nothing);
        let Some(asked) = asked(&self.client, message, stage, self.is_early) else {
            return Own(554, "5.7.1 Not for you").into();
        };
        let judged = self.door.hub.refuse(&asked, why, &mut self.desk);
        let (code, status) = judged.reply.map_or((554, "5.7.1"), |it| (it.code, it.status));
        Answer::new(code, &format!("{status} {}", self.desk.reply))
    }

    /// Says a recipient to its hop, which is connected if it is not; nothing if it does not answer.
    async fn say_to_hop(&mut self, route: usize, path: &str, parameters: &str) -> Option<Said> {
        if self.transaction.as_ref().is_none_or(|message| message.fault.is_some()) {
            return None;
        }
        let has_named = self.transaction.as_ref().is_some_and(|message| !message.named.is_empty());
        let ready = if has_named { self.restore_hop().await } else { self.take_place(route) };
        if let Err(answer) = ready {
            return Some(Said::Cannot(answer));
        }
        let Self { door, setup, client, transaction, .. } = self;
        let message = transaction.as_deref_mut()?;
        loop {
            if message.hop.is_none() {
                match door.pool.take(&door.gate, setup, route).await {
                    Ok(hop) => message.hop = Some(hop),
                    Err(trouble) => {
                        crate::warn(&format!("proxy {}: {trouble}", setup.proxy.name));
                        return None;
                    }
                }
            }
            let said = message.name(&setup.proxy, client, (path, parameters)).await;
            let is_used = message.hop.as_ref().is_some_and(|hop| hop.is_used);
            match said {
                Ok(Said::Reply(reply)) if reply.code != 421 => return Some(Said::Reply(reply)),
                Ok(Said::Cannot(reply)) => return Some(Said::Cannot(reply)),
                // It may have ended while it was kept: nothing was promised by it yet.
                _ if is_used && !message.is_begun => message.hop = None,
                failed => {
                    let what = failed.err().map_or("it ends".to_owned(), |it| it.to_string());
                    crate::warn(&format!("proxy {}: the next hop: {what}", setup.proxy.name));
                    message.hop = None;
                    message.is_begun = false;
                    // Those that it has taken before are gone with it.
                    message.fault = (message.recipients > 0).then(|| NO_HOP.into());
                    return None;
                }
            }
        }
    }
}
