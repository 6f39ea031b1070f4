//! A closed loop: each connection asks again as soon as it was answered, and checks that the answer
//! is one whole answer. A server that stalls is asked less, so look at the longest as well.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mio::net::{TcpStream, UnixStream};
use mio::{Events, Interest, Poll, Token};

use crate::load::{Kind, Requests};

/// Who is asked.
#[derive(Clone, Debug)]
pub enum Target {
    /// Over TCP.
    Tcp(SocketAddr),
    /// Over a unix socket.
    Unix(PathBuf),
}

/// How it is asked.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which triplets.
    pub kind: Kind,
    /// Other triplets for each.
    pub seed: u64,
    /// How many ask at the same time.
    pub connections: usize,
    /// Each request has a connection of its own.
    pub reconnects: bool,
    /// Ends after this time.
    pub time: Duration,
    /// Or after so many requests.
    pub requests: u64,
}

/// How it went.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Answers.
    pub answers: u64,
    /// What was no whole answer, and connections that ended without one.
    pub errors: u64,
    /// How long it took.
    pub seconds: f64,
    /// Microseconds from question to answer: the median, 99 %, and the longest.
    pub p50_us: f64,
    /// See above.
    pub p99_us: f64,
    /// See above.
    pub max_us: f64,
}

impl Report {
    /// Answers a second.
    pub fn rate(&self) -> f64 {
        self.answers as f64 / self.seconds
    }
}

trait Stream: Read + Write {}
impl Stream for TcpStream {}
impl Stream for UnixStream {}

/// Steps of the histogram for each power of two, as a power of two.
const STEPS: u32 = 6;

struct Histogram(Vec<u64>);

impl Histogram {
    fn add(&mut self, took: Duration) {
        let value = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1 << STEPS);
        let power = value.ilog2();
        let step = (value >> (power - STEPS)) & ((1 << STEPS) - 1);
        let place = usize::try_from(u64::from(power) << STEPS | step).unwrap_or(usize::MAX);
        if let Some(count) = self.0.get_mut(place) {
            *count += 1;
        }
    }

    fn us_at(&self, share: f64) -> f64 {
        let wanted = self.0.iter().sum::<u64>() as f64 * share;
        let mut sum = 0;
        for (place, count) in self.0.iter().enumerate() {
            sum += count;
            if sum as f64 >= wanted && sum > 0 {
                let power = (place >> STEPS) as f64;
                let step = (place & ((1 << STEPS) - 1)) as f64;
                return power.exp2() * (1.0 + step / f64::from(1_u32 << STEPS)) / 1e3;
            }
        }
        0.0
    }
}

struct Asker {
    stream: Option<Box<dyn Stream>>,
    asked: Instant,
    answer: Vec<u8>,
}

struct Run<'p> {
    plan: &'p Plan,
    target: &'p Target,
    poll: Poll,
    requests: Requests,
    askers: Vec<Asker>,
    histogram: Histogram,
    report: Report,
    longest: Duration,
}

/// Asks a server.
///
/// # Errors
/// It cannot be reached.
pub fn drive(target: &Target, plan: &Plan) -> io::Result<Report> {
    let begun = Instant::now();
    let idle = || Asker { stream: None, asked: begun, answer: Vec::new() };
    let mut run = Run {
        plan,
        target,
        poll: Poll::new()?,
        requests: Requests::new(plan.kind, plan.seed),
        askers: (0..plan.connections).map(|_| idle()).collect(),
        histogram: Histogram(vec![0; 64 << STEPS]),
        report: Report::default(),
        longest: Duration::ZERO,
    };
    for number in 0..plan.connections {
        run.ask(number, Instant::now())?;
    }
    let mut events = Events::with_capacity(1024);
    while begun.elapsed() < plan.time && run.report.answers < plan.requests {
        match run.poll.poll(&mut events, Some(Duration::from_millis(100))) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            run.hear(event.token().0)?;
        }
    }
    let mut report = run.report;
    report.seconds = begun.elapsed().as_secs_f64();
    // Whoever still waits has waited for so long at least.
    let waiting = run.askers.iter().map(|asker| asker.asked.elapsed()).max();
    report.max_us = run.longest.max(waiting.unwrap_or_default()).as_secs_f64() * 1e6;
    report.p50_us = run.histogram.us_at(0.5);
    report.p99_us = run.histogram.us_at(0.99);
    Ok(report)
}

impl Run<'_> {
    fn connect(&self, number: usize) -> io::Result<Box<dyn Stream>> {
        let token = Token(number);
        Ok(match self.target {
            Target::Tcp(address) => {
                let stream = std::net::TcpStream::connect(address)?;
                if self.plan.reconnects {
                    // Closing with RST: else the ports in TIME-WAIT are the limit.
                    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                }
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                let mut stream = TcpStream::from_std(stream);
                self.poll.registry().register(&mut stream, token, Interest::READABLE)?;
                Box::new(stream)
            }
            Target::Unix(path) => {
                let stream = std::os::unix::net::UnixStream::connect(path)?;
                stream.set_nonblocking(true)?;
                let mut stream = UnixStream::from_std(stream);
                self.poll.registry().register(&mut stream, token, Interest::READABLE)?;
                Box::new(stream)
            }
        })
    }

    fn ask(&mut self, number: usize, now: Instant) -> io::Result<()> {
        let is_open = self.askers.get(number).is_some_and(|asker| asker.stream.is_some());
        let fresh = if is_open { None } else { Some(self.connect(number)?) };
        let Some(asker) = self.askers.get_mut(number) else { return Ok(()) };
        if fresh.is_some() {
            asker.stream = fresh;
        }
        let request = self.requests.make();
        asker.asked = now;
        asker.answer.clear();
        // A request fits into the buffer of an idle socket.
        asker.stream.as_mut().map_or(Ok(()), |stream| stream.write_all(request))
    }

    fn hear(&mut self, number: usize) -> io::Result<()> {
        let Some(asker) = self.askers.get_mut(number) else { return Ok(()) };
        let mut bytes = [0; 2048];
        let read = asker.stream.as_mut().map_or(Ok(0), |stream| stream.read(&mut bytes));
        let length = match read {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(_) => 0,
        };
        asker.answer.extend_from_slice(bytes.get(..length).unwrap_or_default());
        if length > 0 && !asker.answer.ends_with(b"\n\n") {
            return Ok(());
        }
        let now = Instant::now();
        if length > 0 && is_answer(&asker.answer) {
            let took = now - asker.asked;
            self.histogram.add(took);
            self.longest = self.longest.max(took);
            self.report.answers += 1;
        } else {
            self.report.errors += 1;
            asker.stream = None;
        }
        if self.plan.reconnects {
            asker.stream = None;
        }
        self.ask(number, now)
    }
}

/// Whether that is one answer and nothing else.
fn is_answer(bytes: &[u8]) -> bool {
    let line = bytes.strip_prefix(b"action=").and_then(|rest| rest.strip_suffix(b"\n\n"));
    line.is_some_and(|line| !line.is_empty() && line.iter().all(|byte| (0x20..0x7f).contains(byte)))
}
