//! Locks that the kernel gives back when their holder dies: one sweep per folder, and who else measures on this
//! machine.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
};

use crate::machine::unix_ns;

/// A folder held by this process until it is dropped.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

/// Why a folder could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("{}: another inferbench is running a sweep into this folder; wait for it, or choose another with --out", .0.display())]
    Held(PathBuf),
    /// The lock file cannot be made.
    #[error("{}: {}", .0.display(), .1)]
    Io(PathBuf, io::Error),
}

impl FolderLock {
    /// Takes a folder for this process alone; the folder has to exist.
    ///
    /// # Errors
    /// Where another process holds it, or the lock file cannot be created.
    pub fn take(folder: &Path) -> Result<Self, LockError> {
        let path = folder.join(".inferbench.lock");
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|error| LockError::Io(path.clone(), error))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(LockError::Held(folder.into())),
            Err(TryLockError::Error(error)) => Err(LockError::Io(path, error)),
        }
    }
}

/// This process' entry among those that measure on this machine; gone when dropped.
#[derive(Debug)]
pub struct Presence {
    folder: PathBuf,
    path: PathBuf,
    _file: File,
}

impl Presence {
    /// Enters this process. The entries lie in the folder for temporary files, so containers see each other only
    /// where they share it.
    ///
    /// # Errors
    /// Where the folder for temporary files cannot be written.
    pub fn enter() -> io::Result<Self> {
        let folder = std::env::temp_dir().join("inferbench-running");
        fs::create_dir_all(&folder)?;
        // The number alone is not enough: two containers may both be process 1.
        let path = folder.join(format!("{}-{}", std::process::id(), unix_ns()));
        loop {
            let file = OpenOptions::new().create(true).append(true).open(&path)?;
            file.lock()?;
            // Swept away between its creation and its lock.
            if path.exists() {
                return Ok(Self {
                    folder,
                    path,
                    _file: file,
                });
            }
        }
    }

    /// How many other processes measure now. Entries of dead processes are not locked any more; they are swept away.
    #[must_use]
    pub fn others(&self) -> u32 {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return 0;
        };
        let paths = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| *path != self.path);
        let mut alive = 0;
        for path in paths {
            let Ok(file) = File::open(&path) else {
                continue;
            };
            match file.try_lock_shared() {
                Ok(()) => drop(fs::remove_file(&path)),
                Err(_) => alive += 1,
            }
        }
        alive
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        // Left behind it would be swept away by the next process that looks.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_held_once_and_free_again_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let held = FolderLock::take(folder.path()).unwrap();
        let second = FolderLock::take(folder.path());
        assert!(matches!(second, Err(LockError::Held(path)) if path == folder.path()));
        drop(held);
        FolderLock::take(folder.path()).unwrap();
    }
}
