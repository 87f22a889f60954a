//! The state folder: private to its user, and owned by one process at a time.
//!
//! The owner holds an advisory lock on `DIR/lock`. The kernel releases it when the process ends,
//! however it ends; the process id in the file is for people and may be stale, the lock is not.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use super::OpenError;

/// Makes the folder if it is missing, and locks it. The lock lasts as long as the file is open.
pub(super) fn lock(dir: &Path) -> Result<File, OpenError> {
    create(dir).map_err(|source| OpenError::Io { path: dir.into(), source })?;
    let path = dir.join("lock");
    let failed = |source| OpenError::Io { path: path.clone(), source };
    let mut file = private_file(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(OpenError::Locked { pid: pid_in(&mut file), dir: dir.into() });
        }
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    write_pid(&mut file).map_err(failed)?;
    Ok(file)
}

/// `DIR/muster.db`, made empty and private if it is missing, so that the files which SQLite puts
/// beside it are private too.
pub(super) fn database_file(dir: &Path) -> Result<PathBuf, OpenError> {
    let path = dir.join("muster.db");
    match private_file(&path) {
        Ok(_) => Ok(path),
        Err(source) => Err(OpenError::Io { path, source }),
    }
}

/// Makes the names in the folder, and the folder's own, survive a power cut.
pub(super) fn sync(dir: &Path) -> Result<(), OpenError> {
    let parent = dir.parent().filter(|p| !p.as_os_str().is_empty());
    for path in std::iter::once(dir).chain(parent) {
        // A parent that we may pass through but not read is none of our making.
        match File::open(path).and_then(|folder| folder.sync_all()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(source) => {
                return Err(OpenError::Io { path: path.into(), source });
            }
        }
    }
    Ok(())
}

fn create(dir: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)?;
    // Through links and `..`, so that the error is about this place.
    fs::metadata(dir).map(drop)
}

fn private_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())?;
    file.flush()
}

fn pid_in(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
