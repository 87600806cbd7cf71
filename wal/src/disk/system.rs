//! What not every system has: hints about the page cache, and space that is taken ahead of a write.
//! Where one is missing nothing is done. That costs speed, or shows a full disk later, and no data.

use std::fs::File;
use std::io;

/// Says what will be read soon. A hint that is not taken costs nothing but time.
pub(super) fn will_read(file: &File, offset: u64, len: u64) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = advise(file, offset, len, rustix::fs::Advice::WillNeed);
    #[cfg(target_vendor = "apple")]
    let _ = rustix::fs::fcntl_rdadvise(file, offset, len);
    #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
    let _ = (file, offset, len);
}

/// Has the page cache forget what is clean of a part of a file: all behind `offset` if `len` is
/// zero.
///
/// Apple's systems have nothing for it. What is read back after a sync may come from the cache
/// there, and says less about the disk.
pub(super) fn forget(file: &File, offset: u64, len: u64) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    advise(file, offset, len, rustix::fs::Advice::DontNeed)?;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (file, offset, len);
    Ok(())
}

/// Takes the space for a file, so that a full disk shows before anything is written to it. Not every
/// file system can. The file gets no longer by it. The calls of other systems do lengthen it, so
/// they will not do: a file that is half filled would look whole.
pub(super) fn take_space(file: &File, bytes: u64) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::Errno;
        match fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            other => other?,
        }
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (file, bytes);
    Ok(())
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn advise(
    file: &File,
    offset: u64,
    len: u64,
    advice: rustix::fs::Advice,
) -> rustix::io::Result<()> {
    rustix::fs::fadvise(file, offset, std::num::NonZeroU64::new(len), advice)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn neither_a_hint_nor_space_that_is_taken_changes_what_a_file_holds() {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, b"quorate").unwrap();
        take_space(&file, 1 << 20).unwrap();
        will_read(&file, 0, 1 << 20);
        file.sync_data().unwrap();
        for len in [0, 7, 1 << 20] {
            forget(&file, 0, len).unwrap();
            assert_eq!(file.metadata().unwrap().len(), 7);
            let mut bytes = [0; 7];
            file.read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(&bytes, b"quorate");
        }
        // Space for less than there is cuts nothing.
        take_space(&file, 1).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 7);
    }
}
