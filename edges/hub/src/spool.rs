//! Where messages wait that something asks to see whole: in memory as far as the settings allow, then
//! in a file that has no name and so leaves nothing behind.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use mpp_config::Spool as Settings;

/// The spool of a node.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    settings: Settings,
    /// Bytes in memory, and in all.
    memory: AtomicU64,
    size: AtomicU64,
    /// Bytes and messages of clients and networks that have a share.
    shares: Mutex<HashMap<IpNet, (u64, usize)>>,
}

/// A message that is being written.
#[derive(Debug)]
pub struct Writer {
    spool: Arc<Spool>,
    text: Spooled,
}

/// A message as it was sent, with dots as they are and CRLF line ends. Its room is given back when it
/// is dropped.
#[derive(Debug)]
pub struct Spooled {
    spool: Arc<Spool>,
    memory: Vec<u8>,
    file: Option<File>,
    /// Bytes in the file.
    in_file: u64,
    /// On whose shares it counts, and with how much.
    whose: Vec<IpNet>,
    counted: u64,
}

impl Spool {
    /// A spool with its files in a folder, which is made when it is needed.
    pub fn new(folder: &Path, settings: &Settings) -> Arc<Self> {
        Arc::new(Self {
            folder: folder.to_owned(),
            settings: settings.clone(),
            memory: AtomicU64::new(0),
            size: AtomicU64::new(0),
            shares: Mutex::default(),
        })
    }

    /// Begins a message.
    pub fn begin(self: &Arc<Self>) -> Writer {
        self.begin_for(&[])
    }

    /// Begins a message of a client and its network, each of which may fill a quarter of the spool, so
    /// that nobody keeps all others out. A message that is the only one of its client may be as large as
    /// there is room.
    pub fn begin_for(self: &Arc<Self>, whose: &[IpNet]) -> Writer {
        let mut whose = whose.to_vec();
        // An IPv6 client is its network.
        whose.dedup();
        let mut shares = self.shares();
        for who in &whose {
            shares.entry(*who).or_default().1 += 1;
        }
        drop(shares);
        let spool = Arc::clone(self);
        let text = Spooled { spool, memory: Vec::new(), file: None, in_file: 0, whose, counted: 0 };
        Writer { spool: Arc::clone(self), text }
    }

    fn shares(&self) -> MutexGuard<'_, HashMap<IpNet, (u64, usize)>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts bytes on shares; whether they have room for them.
    fn take_share(&self, whose: &[IpNet], bytes: u64) -> bool {
        if whose.is_empty() {
            return true;
        }
        let mut shares = self.shares();
        let is_over = |who: &IpNet| {
            let (used, messages) = shares.get(who).copied().unwrap_or_default();
            messages > 1 && used.saturating_add(bytes) > self.settings.size / 4
        };
        if whose.iter().any(is_over) {
            return false;
        }
        for who in whose {
            shares.entry(*who).or_default().0 += bytes;
        }
        true
    }

    /// Bytes that are in it: in memory, and in all.
    pub fn bytes(&self) -> (u64, u64) {
        (self.memory.load(Ordering::Relaxed), self.size.load(Ordering::Relaxed))
    }

    /// Takes room; whether there is any.
    fn take(counter: &AtomicU64, bytes: u64, most: u64) -> bool {
        let before = counter.fetch_add(bytes, Ordering::Relaxed);
        let fits = before.saturating_add(bytes) <= most;
        if !fits {
            counter.fetch_sub(bytes, Ordering::Relaxed);
        }
        fits
    }
}

impl Writer {
    /// Adds bytes.
    ///
    /// # Errors
    /// The spool is full, or its disk is. What was written is of no use any more.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (spool, length) = (&self.spool, bytes.len() as u64);
        let full = |what: &str| io::Error::new(io::ErrorKind::StorageFull, what);
        if !spool.take_share(&self.text.whose, length) {
            return Err(full("its client has filled its share of the spool"));
        }
        let text = &mut self.text;
        text.counted += length;
        if !Spool::take(&spool.size, length, spool.settings.size) {
            return Err(full("the spool is full"));
        }
        let in_memory = text.memory.len() as u64;
        let fits = text.file.is_none()
            && in_memory + length <= spool.settings.message_memory
            && Spool::take(&spool.memory, length, spool.settings.memory);
        if fits {
            text.memory.extend_from_slice(bytes);
            return Ok(());
        }
        // Counted from here on: what fails below is given back with the rest.
        text.in_file += length;
        if text.file.is_none() {
            std::fs::create_dir_all(&spool.folder)?;
            text.file = Some(tempfile::tempfile_in(&spool.folder)?);
        }
        match &mut text.file {
            Some(file) => file.write_all(bytes),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The message is whole.
    pub fn finish(self) -> Arc<Spooled> {
        Arc::new(self.text)
    }
}

impl Spooled {
    /// How long it is, in bytes.
    pub fn bytes(&self) -> u64 {
        self.memory.len() as u64 + self.in_file
    }

    /// What of it lies in memory, which is its beginning, and mostly all of it.
    pub fn memory(&self) -> &[u8] {
        &self.memory
    }

    /// Reads from a place on, as much as there is room for; 0 at the end.
    ///
    /// # Errors
    /// The disk fails.
    pub fn read_at(&self, place: u64, out: &mut [u8]) -> io::Result<usize> {
        let in_memory = self.memory.len() as u64;
        match &self.file {
            Some(file) if place >= in_memory => file.read_at(out, place - in_memory),
            _ => {
                let rest = usize::try_from(place).ok().and_then(|place| self.memory.get(place..));
                let rest = rest.unwrap_or_default();
                let length = rest.len().min(out.len());
                if let (Some(to), Some(from)) = (out.get_mut(..length), rest.get(..length)) {
                    to.copy_from_slice(from);
                }
                Ok(length)
            }
        }
    }

    /// The beginning of it, at most so many bytes: for headers.
    ///
    /// # Errors
    /// As [`Spooled::read_at`].
    pub fn head(&self, most: usize) -> io::Result<Cow<'_, [u8]>> {
        let most = most.min(usize::try_from(self.bytes()).unwrap_or(usize::MAX));
        if let Some(head) = self.memory.get(..most) {
            return Ok(Cow::Borrowed(head));
        }
        let mut bytes = vec![0; most];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.read_at(filled as u64, rest)? {
                0 => break,
                length => filled += length,
            }
        }
        bytes.truncate(filled);
        Ok(Cow::Owned(bytes))
    }
}

impl Drop for Spooled {
    fn drop(&mut self) {
        let in_memory = self.memory.len() as u64;
        self.spool.memory.fetch_sub(in_memory, Ordering::Relaxed);
        self.spool.size.fetch_sub(in_memory + self.in_file, Ordering::Relaxed);
        if self.whose.is_empty() {
            return;
        }
        let mut shares = self.spool.shares();
        for who in &self.whose {
            if let Some((used, messages)) = shares.get_mut(who) {
                *used = used.saturating_sub(self.counted);
                *messages -= 1;
                if *messages == 0 {
                    shares.remove(who);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool(message_memory: u64, memory: u64, size: u64) -> (tempfile::TempDir, Arc<Spool>) {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { message_memory, memory, size };
        let spool = Spool::new(&folder.path().join("spool"), &settings);
        (folder, spool)
    }

    #[test]
    fn one_client_does_not_fill_it() {
        let (_folder, spool) = spool(0, 0, 1000);
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let of = |client: &str, network: &str| [net(client), net(network)];
        let mine = of("192.0.2.7/32", "192.0.2.0/24");
        // Alone it may be as large as there is room.
        let mut large = spool.begin_for(&mine);
        large.write(&[0; 900]).unwrap();
        drop(large);
        let mut held: Vec<Writer> = (0..10).map(|_| spool.begin_for(&mine)).collect();
        let taken = held.iter_mut().filter_map(|writer| writer.write(&[0; 100]).ok()).count();
        assert_eq!(taken, 2, "a quarter");
        let mut neighbour = spool.begin_for(&of("192.0.2.8/32", "192.0.2.0/24"));
        assert!(neighbour.write(&[0; 100]).is_err(), "its network has no more");
        let mut other = spool.begin_for(&of("198.51.100.7/32", "198.51.100.0/24"));
        other.write(&[0; 700]).unwrap();
        drop((held, neighbour, other));
        assert_eq!(spool.bytes(), (0, 0));
        assert!(spool.shares().is_empty());
    }

    #[test]
    fn a_message_is_read_as_it_was_written_wherever_it_lies() {
        for message_memory in [0, 5, 7, 1000] {
            let (_folder, spool) = spool(message_memory, 1000, 1000);
            let mut writer = spool.begin();
            for piece in ["Subject: x\r\n", "\r\n", "a long body\r\n"] {
                writer.write(piece.as_bytes()).unwrap();
            }
            let text = writer.finish();
            assert_eq!(text.bytes(), 27);
            assert_eq!(&*text.head(1000).unwrap(), b"Subject: x\r\n\r\na long body\r\n");
            assert_eq!(&*text.head(9).unwrap(), b"Subject: ");
            assert_eq!(spool.bytes().1, 27);
            drop(text);
            assert_eq!(spool.bytes(), (0, 0));
        }
    }

    #[test]
    fn it_has_bounds() {
        let (folder, spool) = spool(100, 150, 300);
        let mut writers: Vec<Writer> = (0..3).map(|_| spool.begin()).collect();
        for writer in &mut writers {
            writer.write(&[b'x'; 100]).unwrap();
        }
        assert_eq!(spool.bytes(), (100, 300), "the others are in files");
        assert!(writers[0].write(b"x").is_err());
        drop(writers);
        assert_eq!(spool.bytes(), (0, 0));
        let left = std::fs::read_dir(folder.path().join("spool")).unwrap().count();
        assert_eq!(left, 0, "no file has a name");
    }
}
