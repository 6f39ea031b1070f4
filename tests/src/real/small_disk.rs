//! A disk that is soon full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system of a few megabytes; gone when dropped.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one on a folder that is not there yet.
    pub fn mount(at: &Path, size: &str) -> Self {
        fs::create_dir(at).expect("our own folder");
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(at)
            .status();
        assert!(status.expect("mount(8)").success(), "only root can mount a small disk");
        Self(at.to_owned())
    }

    /// Takes all the room that is left.
    pub fn fill(&self) -> PathBuf {
        let file = self.0.join("filler");
        // As much as fits: the error at the end is what is wanted.
        fs::write(&file, vec![b'x'; 64 << 20]).expect_err("a small disk");
        file
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // If it cannot be unmounted there is nobody to tell.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
