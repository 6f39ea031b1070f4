//! What the store asks of a file system, in few words: the seam where tests put a full disk, a
//! short write or an I/O error. Reading needs no seam: damaged files say it all.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

/// A file system that files are written to.
pub(crate) trait Disk: Debug + Send + Sync {
    /// Makes an empty file, or empties one.
    fn create(&self, path: &Path) -> io::Result<File> {
        File::create(path)
    }

    /// Appends bytes; if it fails some of them may be there.
    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    /// Makes what was written durable.
    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    /// Gives a file another name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }
}

/// The real one.
#[derive(Debug)]
pub(crate) struct RealDisk;

impl Disk for RealDisk {}
