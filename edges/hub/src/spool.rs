//! Where messages wait that something asks to see whole: in memory as far as the settings allow, then
//! in a file that has no name and so leaves nothing behind.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mpp_config::Spool as Settings;

/// The spool of a node.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    settings: Settings,
    /// Bytes in memory, and in all.
    memory: AtomicU64,
    size: AtomicU64,
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
}

impl Spool {
    /// A spool with its files in a folder, which is made when it is needed.
    pub fn new(folder: &Path, settings: &Settings) -> Arc<Self> {
        Arc::new(Self {
            folder: folder.to_owned(),
            settings: settings.clone(),
            memory: AtomicU64::new(0),
            size: AtomicU64::new(0),
        })
    }

    /// Begins a message.
    pub fn begin(self: &Arc<Self>) -> Writer {
        let text = Spooled { spool: Arc::clone(self), memory: Vec::new(), file: None, in_file: 0 };
        Writer { spool: Arc::clone(self), text }
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
        if !Spool::take(&spool.size, length, spool.settings.size) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the spool is full"));
        }
        let text = &mut self.text;
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
