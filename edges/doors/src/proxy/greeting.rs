//! Before the greeting: who it is, whether there is a place, and whether it speaks too early.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use mpp_engine::facts::Stage;
use mpp_engine::verdict::{Action, Cause, Verdict};
use mpp_wire::proxy_protocol::{Reading, read as read_header};
use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, timeout, timeout_at};

use super::Door;
use super::gate::{Setup, Tally, Visit};
use super::reply::STOPPING;
use super::session::{Session, read};
use crate::listen::Connection;

/// A balancer says who the client is within this time.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves a connection until either side ends it.
pub(super) async fn serve(
    door: Door,
    mut io: Connection,
    mut peer: Option<SocketAddr>,
) -> io::Result<()> {
    let setup = door.gate.setup();
    let (mut first, mut is_own) = (Vec::new(), false);
    let is_balancer = |peer: SocketAddr| {
        setup.proxy.proxy_protocol.iter().any(|net| net.contains(&peer.ip().to_canonical()))
    };
    if peer.is_some_and(is_balancer) {
        let Some(source) = who(&mut io, &mut first).await? else {
            crate::warn(&format!("proxy {}: a balancer that sends no header", setup.proxy.name));
            return Ok(());
        };
        // It speaks for itself where it names nobody: to see whether we are well.
        is_own = source.is_none();
        peer = source.or(peer);
    }
    let mut session = Session::new(door, setup, io, peer);
    session.decoder.feed(&first);
    if is_own {
        session.client.is_ours = true;
        session.is_spared = true;
    }
    let result = Box::pin(begin(&mut session)).await;
    session.reset();
    result
}

async fn begin(session: &mut Session) -> io::Result<()> {
    if !is_peer(session) {
        let from = session.peer.map_or_else(String::new, |peer| peer.to_string());
        crate::warn(&format!("proxy: {from} is no configured peer"));
        return session.bye("554 5.7.1 Not for you\r\n").await;
    }
    if *session.door.stopping.borrow() {
        return session.bye(STOPPING).await;
    }
    let Ok(_place) = enter(session) else {
        Tally::more(&session.tally().turned_away);
        let verdict = Verdict::new(Action::Disconnect, Cause::Connections);
        let reply = session.refuse(Stage::Connect, ("connections", verdict));
        return session.bye(&reply.text).await;
    };
    if let Some(refusal) = session.judge(Stage::Connect).await {
        Tally::more(&session.tally().turned_away);
        return session.bye(&refusal.text).await;
    }
    session.client.look_up(session.setup.names.as_ref());
    if wait(session).await? {
        session.is_early = true;
        if let Some(refusal) = session.judge(Stage::Connect).await {
            Tally::more(&session.tally().turned_away);
            return session.bye(&refusal.text).await;
        }
    }
    let result = session.run().await;
    session.note_end();
    result
}

/// Who the client is, as a balancer says: nothing if it says nothing that can be read.
async fn who(io: &mut Connection, first: &mut Vec<u8>) -> io::Result<Option<Option<SocketAddr>>> {
    let mut bytes = Vec::new();
    let reading = async {
        loop {
            match read_header(&bytes) {
                Reading::Header { source, taken } => return Ok(Some((source, taken))),
                Reading::Malformed => return Ok(None),
                Reading::More => {}
            }
            let mut more = [0; 512];
            let length = io.read(&mut more).await?;
            if length == 0 {
                return Ok::<_, io::Error>(None);
            }
            bytes.extend_from_slice(more.get(..length).unwrap_or_default());
        }
    };
    let Ok(read) = timeout(HEADER_TIMEOUT, reading).await else { return Ok(None) };
    Ok(read?.map(|(source, taken)| {
        first.extend_from_slice(bytes.get(taken..).unwrap_or_default());
        source
    }))
}

/// Whether it may use a filter at all. Everybody may use a gateway.
fn is_peer(session: &Session) -> bool {
    let proxy = &session.setup.proxy;
    // Who can open a unix socket is one.
    let Some(peer) = session.peer.filter(|_| !proxy.is_gateway()) else { return true };
    match &proxy.peers {
        Some(peers) => peers.iter().any(|network| network.contains(&peer)),
        None => session.door.hub.live().configuration.networks.trusted.contains(peer),
    }
}

/// A place within the limits; none is needed where none holds.
fn enter(session: &Session) -> Result<Option<Visit>, ()> {
    let limits = &session.setup.proxy.limits;
    if session.tally().open() > limits.connections as u64 {
        return Err(());
    }
    let client = session.client.address.filter(|_| session.setup.proxy.is_gateway());
    let Some(client) = client.filter(|_| !session.is_spared) else { return Ok(None) };
    let network = session.door.hub.live().configuration.ring.network_of(client);
    let most = (limits.client_connections, limits.network_connections);
    session.door.gate.enter((as_client(client, network), network), most).map(Some).ok_or(())
}

/// By what a client is counted: whoever has an IPv6 address has its network.
fn as_client(client: IpAddr, network: IpNet) -> IpAddr {
    if client.is_ipv6() { network.addr() } else { client }
}

/// Holds the greeting back; returns whether the client did not wait for it.
async fn wait(session: &mut Session) -> io::Result<bool> {
    if session.decoder.held() > 0 {
        return Ok(true);
    }
    let Some(key) = must_wait(&session.setup, session) else { return Ok(false) };
    let until = Instant::now() + Duration::from_millis(session.setup.proxy.greet_delay_ms);
    match timeout_at(until, read(&mut session.io, &mut session.decoder)).await {
        Ok(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(Ok(_)) => Ok(true),
        Ok(Err(error)) => Err(error),
        Err(_) => {
            session.door.gate.waited(key);
            Ok(false)
        }
    }
}

/// What a client is remembered by that has to wait; nothing for one that has not.
fn must_wait(setup: &Setup, session: &Session) -> Option<u64> {
    if setup.proxy.greet_delay_ms == 0 || session.is_spared {
        return None;
    }
    let client: IpAddr = session.client.address?;
    let key = session.door.hub.live().configuration.ring.address(client);
    (!session.door.gate.has_waited(key)).then_some(key)
}
