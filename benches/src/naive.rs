//! What a policy server looks like that asks a Redis for each check and waits each time: a thread for
//! each connection, a `GET` for each thing that it wants to know, an `INCR` for a count and a `SET` for
//! what it notes.

use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};

use crate::load::hash;

/// What is looked up for a decision: a block of the client, of its network and of the sender's domain,
/// whether the sender is proven, a correspondent, or has a history, and the triplet.
const LOOKED_UP: [&str; 7] =
    ["block-client", "block-net", "block-domain", "proven", "known", "history", "triplet"];

/// Whether the arguments of a benchmark ask it to be this server, `naive ADDRESS REDIS`; then it
/// answers until it is ended.
///
/// # Panics
/// An address cannot be used.
pub fn serve_if_asked(arguments: &[String]) -> bool {
    match arguments {
        [naive, address, redis] if naive == "naive" => {
            let listener = TcpListener::bind(address).expect("the naive server");
            for stream in listener.incoming().flatten() {
                let redis = redis.clone();
                std::thread::spawn(move || answer(stream, &redis));
            }
            true
        }
        _ => false,
    }
}

fn answer(stream: TcpStream, redis: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let server = TcpStream::connect(redis)?;
    server.set_nodelay(true)?;
    let mut server = BufReader::new(server);
    let mut stream = BufReader::new(stream);
    let (mut line, mut request) = (String::new(), String::new());
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line != "\n" {
            request.push_str(&line);
            continue;
        }
        let field = |name: &str| {
            let found = request.lines().find_map(|line| line.strip_prefix(name));
            found.unwrap_or_default().to_owned()
        };
        let (client, sender) = (field("client_address="), field("sender="));
        let triplet = format!("{client}/{sender}/{}", field("recipient="));
        let number = triplet.bytes().fold(0, |sum, byte| hash(sum ^ u64::from(byte)));
        let mut is_known = false;
        for what in LOOKED_UP {
            is_known = ask(&mut server, &["GET", &format!("{what}:{number:016x}")])?;
        }
        ask(&mut server, &["INCR", &format!("count:{client}")])?;
        if !is_known {
            ask(
                &mut server,
                &["SET", &format!("triplet:{number:016x}"), "1795528230", "EX", "172800"],
            )?;
        }
        let action = if is_known { "DUNNO" } else { "DEFER_IF_PERMIT greylisted" };
        stream.get_mut().write_all(format!("action={action}\n\n").as_bytes())?;
        request.clear();
    }
}

/// Sends one command and waits for its answer; says whether there was a value.
fn ask(server: &mut BufReader<TcpStream>, command: &[&str]) -> io::Result<bool> {
    let mut text = format!("*{}\r\n", command.len());
    for word in command {
        // A string takes whatever is written to it.
        let _ = write!(text, "${}\r\n{word}\r\n", word.len());
    }
    server.get_mut().write_all(text.as_bytes())?;
    let mut line = String::new();
    server.read_line(&mut line)?;
    if line.starts_with('$') && line != "$-1\r\n" {
        line.clear();
        server.read_line(&mut line)?;
        return Ok(true);
    }
    Ok(!line.starts_with('$'))
}
