//! Message files: a line of JSON that says what is known, and then the text, compressed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use mpp_hub::id::Id;
use mpp_hub::spool::Spooled;

use crate::record::Message;

/// Level of compression: see the ADR.
const LEVEL: i32 = 3;
/// The line may be so long: a thousand recipients fit.
const LINE_BYTES_MAX: u64 = 4 << 20;
const PIECE_BYTES: usize = 64 * 1024;
/// How files are named that are whole, and those that are not yet.
const WHOLE: &str = "msg";
const HALF: &str = "tmp";

/// The files of a folder.
pub(crate) struct Files {
    folder: PathBuf,
    /// Held as long as the process lives: two that repair the same files would spoil them.
    _lock: File,
}

/// What is found in the folder of messages.
pub(crate) enum Found {
    /// A whole file.
    Whole(Id),
    /// A file that was never finished.
    Half(PathBuf),
}

impl Files {
    /// Those of a folder, which is made if it is not there.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        make_folder(folder)?;
        let lock = private().create(true).truncate(false).write(true).open(folder.join("lock"))?;
        lock.try_lock().map_err(|_| io::Error::other("another process uses it"))?;
        Ok(Self { folder: folder.to_owned(), _lock: lock })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder that messages of about the same time are in, and that of such folders.
    fn place(&self, id: Id) -> (PathBuf, PathBuf) {
        let text = id.to_string();
        // Nine hours, and a quarter of one.
        let (first, second) = (text.get(..3).unwrap_or("0"), text.get(3..4).unwrap_or("0"));
        let outer = self.folder.join("messages").join(first);
        let inner = outer.join(second);
        (outer, inner)
    }

    fn path(&self, id: Id) -> PathBuf {
        self.place(id).1.join(format!("{id}.{WHOLE}"))
    }

    /// Writes a message so that it is there after a power cut; returns the bytes that it takes.
    ///
    /// # Errors
    /// The disk is full, or fails. Nothing is left then.
    pub(crate) fn write(&self, message: &Message, text: &Spooled) -> io::Result<u64> {
        let (outer, inner) = self.place(message.id);
        if !inner.is_dir() {
            make_folder(&inner)?;
            for folder in [&outer, &self.folder.join("messages"), &self.folder] {
                sync_folder(folder)?;
            }
        }
        let half = inner.join(format!("{}.{HALF}", message.id));
        let written = write(&half, message, text).and_then(|bytes| {
            fs::rename(&half, self.path(message.id))?;
            sync_folder(&inner)?;
            Ok(bytes)
        });
        if written.is_err() {
            // What cannot be removed now is removed at the next start.
            let _ = fs::remove_file(&half);
            let _ = self.remove(message.id);
        }
        written
    }

    /// What is known of a message, and its text to be read.
    ///
    /// # Errors
    /// There is no such file, or it cannot be read.
    pub(crate) fn read(&self, id: Id) -> io::Result<(Message, impl Read + use<>)> {
        let file = File::open(self.path(id))?;
        let disk_bytes = file.metadata()?.len();
        let mut file = BufReader::new(file);
        let mut line = Vec::new();
        file.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        let value = serde_json::from_slice(&line)?;
        let message = Message::from_json(&value).filter(|message| message.id == id);
        let mut message = message.ok_or_else(|| io::Error::other("it does not say what it is"))?;
        message.disk_bytes = disk_bytes;
        let text = zstd::stream::read::Decoder::with_buffer(file)?.single_frame();
        Ok((message, text))
    }

    /// What is known of a message whose text is there to its end.
    ///
    /// # Errors
    /// It is not, or cannot be read.
    pub(crate) fn read_whole(&self, id: Id) -> io::Result<Message> {
        let (message, mut text) = self.read(id)?;
        let bytes = io::copy(&mut text, &mut io::sink())?;
        if bytes == message.bytes { Ok(message) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Removes a message, and folders that are empty without it. One that is not there is no error.
    ///
    /// # Errors
    /// The disk fails.
    pub(crate) fn remove(&self, id: Id) -> io::Result<()> {
        let removed = fs::remove_file(self.path(id));
        let (outer, inner) = self.place(id);
        // Folders that are not empty stay, which is what is wanted.
        let _ = fs::remove_dir(inner).and_then(|()| fs::remove_dir(outer));
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Puts a file that cannot be read where it is in nobody's way.
    ///
    /// # Errors
    /// It cannot be renamed.
    pub(crate) fn set_aside(&self, id: Id) -> io::Result<PathBuf> {
        let aside = self.path(id).with_extension("damaged");
        fs::rename(self.path(id), &aside)?;
        Ok(aside)
    }

    /// The outer folders, in the order of their times.
    ///
    /// # Errors
    /// They cannot be read.
    pub(crate) fn folders(&self) -> io::Result<Vec<PathBuf>> {
        let folder = self.folder.join("messages");
        if !folder.is_dir() {
            return Ok(Vec::new());
        }
        let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
        let mut folders = entries.collect::<io::Result<Vec<_>>>()?;
        folders.sort();
        Ok(folders)
    }

    /// What is in one of the outer folders.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn find(outer: &Path) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for inner in fs::read_dir(outer)? {
            for entry in fs::read_dir(inner?.path())? {
                let path = entry?.path();
                let ends_with = |what: &str| path.extension().is_some_and(|it| it == what);
                let id = path.file_stem().and_then(|name| Id::parse(&name.to_string_lossy()));
                match id {
                    Some(id) if ends_with(WHOLE) => found.push(Found::Whole(id)),
                    _ if ends_with(HALF) => found.push(Found::Half(path)),
                    _ => {}
                }
            }
        }
        Ok(found)
    }
}

fn write(path: &Path, message: &Message, text: &Spooled) -> io::Result<u64> {
    let mut file = private().write(true).create(true).truncate(true).open(path)?;
    file.write_all(format!("{}\n", message.to_json()).as_bytes())?;
    let mut encoder = zstd::stream::write::Encoder::new(file, LEVEL)?;
    encoder.include_checksum(true)?;
    let (mut place, mut piece) = (0, vec![0; PIECE_BYTES]);
    loop {
        let length = text.read_at(place, &mut piece)?;
        if length == 0 {
            break;
        }
        encoder.write_all(piece.get(..length).unwrap_or_default())?;
        place += length as u64;
    }
    let file = encoder.finish()?;
    file.sync_all()?;
    Ok(file.metadata()?.len())
}

/// Mail is nobody else's business.
pub(crate) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
