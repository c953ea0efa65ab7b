//! Registering memory with a ring: `io_uring_register` as step 3 (registration) needs it.
//!
//! `arena/register.rs` decides what is registered where; this file only calls. It must not know
//! arenas or blocks.
//!
//! Registering pins pages and does not touch their bytes: the kernel takes a reference to every
//! page and reads one only for a request that names the table entry. So none of these calls can
//! harm memory by itself, whatever the addresses; a wrong range is refused with EFAULT. What a
//! later request may read is the business of who pushes it. Memory that is unmapped while it is
//! registered stays alive in the kernel, and only there.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use io_uring::types::CloneBuffersFlags;
use io_uring::{IoUring, Submitter};

use crate::error::Errno;

/// The kernel registers no larger piece than this at once (EFAULT, K14).
#[doc(alias = "SZ_1G")]
pub(crate) const PIECE_BYTES_MAX: usize = 1 << 30;

fn done(result: io::Result<()>) -> Result<(), Errno> {
    result.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// Gives the ring an empty table of `entries` buffers.
///
/// # Kernel
///
/// 5.19. EBUSY if the ring has a table.
#[doc(alias = "IORING_REGISTER_BUFFERS2")]
pub(crate) fn sparse(ring: &Submitter<'_>, entries: u32) -> Result<(), Errno> {
    done(ring.register_buffers_sparse(entries))
}

/// Takes the ring's table away; for one that has nothing under way.
#[doc(alias = "IORING_UNREGISTER_BUFFERS")]
pub(crate) fn remove(ring: &Submitter<'_>) -> Result<(), Errno> {
    done(ring.unregister_buffers())
}

/// Registers `bytes` at `base` as entry `index`, in place of what is there.
///
/// # Errors
///
/// ENOMEM: over RLIMIT_MEMLOCK (or out of memory). EFAULT: not mapped, or more than 1 GiB.
#[doc(alias = "IORING_REGISTER_BUFFERS_UPDATE")]
pub(crate) fn set(
    ring: &Submitter<'_>,
    index: u16,
    base: NonNull<u8>,
    bytes: usize,
) -> Result<(), Errno> {
    let piece = libc::iovec { iov_base: base.as_ptr().cast(), iov_len: bytes };
    // SAFETY: the kernel reads the one iovec during the call. It then holds its own references to
    // the pages (file head), so the range need not outlive anything for memory safety.
    done(unsafe { ring.register_buffers_update(u32::from(index), &[piece], None) })
}

/// Empties entry `index`: the pages are let go when the last request that uses them is over, here
/// and on every ring that cloned them.
#[doc(alias = "IORING_REGISTER_BUFFERS_UPDATE")]
pub(crate) fn clear(ring: &Submitter<'_>, index: u16) -> Result<(), Errno> {
    let nothing = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
    // SAFETY: the kernel reads the one iovec during the call; a null base empties the entry and
    // refers to no memory.
    done(unsafe { ring.register_buffers_update(u32::from(index), &[nothing], None) })
}

/// Whether `ring`, which has no table, could clone one: a kernel that can complains about the
/// descriptor that is none, an older one about the call.
///
/// # Kernel
///
/// 6.12.
pub(crate) fn can_clone(ring: &Submitter<'_>) -> bool {
    done(ring.register_buffers_clone(-1)) == Err(Errno::BADF)
}

/// Gives `ring`, which has no table, a copy of `source`'s; the pages are shared, neither pinned nor
/// counted again.
///
/// # Errors
///
/// EINVAL: older than 6.12. Otherwise as [`clone`].
#[doc(alias = "IORING_REGISTER_CLONE_BUFFERS")]
pub(crate) fn clone_onto_nothing(ring: &Submitter<'_>, source: &IoUring) -> Result<(), Errno> {
    done(ring.register_buffers_clone(source.as_raw_fd()))
}

/// Whether these pieces, addresses and lengths, can be registered all at once: registers them with
/// `ring`, which has no table and nothing under way, and takes that back.
///
/// Taking back the whole table ends the count before the call returns. Emptying an entry does not
/// everywhere: Linux 6.1 takes up to a second for it (`io_rsrc_node_ref_zero`, `HZ`).
///
/// # Errors
///
/// As [`set`].
#[doc(alias = "IORING_REGISTER_BUFFERS")]
pub(crate) fn try_out(ring: &Submitter<'_>, pieces: &[(usize, usize)]) -> Result<(), Errno> {
    let piece = |&(base, bytes): &(usize, usize)| libc::iovec {
        iov_base: std::ptr::without_provenance_mut(base),
        iov_len: bytes,
    };
    let pieces: Vec<libc::iovec> = pieces.iter().map(piece).collect();
    // SAFETY: the kernel reads the iovecs during the call. It then holds its own references to the
    // pages (file head), so the range need not outlive anything for memory safety.
    done(unsafe { ring.register_buffers(&pieces) })?;
    remove(ring)
}

/// Makes the ring's table a copy of `source`'s, entry by entry; the pages are shared, neither
/// pinned nor counted again. Entries of the ring that `source` has too may be in use.
///
/// The whole table is cloned, never a part: the first kernels that could clone a part into a full
/// table lost the entries behind it ("io_uring/rsrc: fix lost entries after cloned range"; 6.18.44
/// keeps them).
///
/// # Errors
///
/// EINVAL: older than 6.13, or the two rings are not charged to the same user (one was made with
/// CAP_IPC_LOCK and the other without). EEXIST: `source` is SINGLE_ISSUER and another thread's.
#[doc(alias = "IORING_REGISTER_CLONE_BUFFERS")]
pub(crate) fn clone(ring: &Submitter<'_>, source: &IoUring) -> Result<(), Errno> {
    let replace = CloneBuffersFlags::DST_REPLACE;
    done(ring.register_buffers_clone_offset(source.as_raw_fd(), 0, 0, 0, replace))
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::fs::File;
    use std::io::Read as _;
    use std::io::Seek as _;
    use std::os::fd::AsRawFd as _;

    use io_uring::{IoUring, opcode, types};

    use super::*;
    use crate::arena::{Arena, Block, Registration};

    const SEGMENT_BYTES: usize = 64 << 10;

    /// What the kernel writes into a file when it reads `block` through entry `index`.
    fn through(ring: &mut IoUring, index: u16, block: &Block) -> Result<Vec<u8>, Errno> {
        let fd = rustix::fs::memfd_create("ringwire-test", rustix::fs::MemfdFlags::CLOEXEC)?;
        let mut file = File::from(fd);
        let entry = opcode::WriteFixed::new(
            types::Fd(file.as_raw_fd()),
            block.as_ptr(),
            block.len() as u32,
            index,
        )
        .build();
        // SAFETY: the kernel reads the block until the completion, which is awaited below while
        // `block` is borrowed.
        unsafe { ring.submission().push(&entry) }.unwrap();
        ring.submit_and_wait(1).unwrap();
        let result = ring.completion().next().unwrap().result();
        if result < 0 {
            return Err(Errno::from_raw_os_error(-result));
        }
        assert_eq!(result as usize, block.len());
        file.rewind().unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        Ok(bytes)
    }

    /// A block that fills one segment of the small arenas below.
    fn full_segment(arena: &Arena, byte: u8) -> Block {
        let mut block = arena.alloc(SEGMENT_BYTES).unwrap();
        block.spare_mut().fill(byte);
        block.advance(SEGMENT_BYTES);
        block.freeze()
    }

    /// An arena of four small segments, all registered; `None` (and a counted skip) where the host
    /// refuses.
    fn registered_arena(test: &'static str) -> Option<Arena> {
        let built = Arena::builder()
            .capacity_bytes(4 * SEGMENT_BYTES)
            .segment_bytes(SEGMENT_BYTES)
            .registration(Registration::Require)
            .build();
        match built {
            Ok(arena) => Some(arena),
            Err(why) => {
                ringwire_wire::skip(test, &why.to_string());
                None
            }
        }
    }

    /// Runs on a thread that did not build the arena.
    fn adopts_and_reads(mut ring: IoUring, arena: &Arena) {
        sparse(&ring.submitter(), arena.max_segments()).unwrap();
        let first = full_segment(arena, 1);
        assert_eq!(through(&mut ring, 0, &first), Err(Errno::FAULT), "not adopted yet");
        arena.adopt(&ring.submitter(), 0).unwrap();
        assert_eq!(through(&mut ring, 0, &first).unwrap(), vec![1; SEGMENT_BYTES]);

        // The arena grows after the ring has cloned.
        let before = arena.segment_count();
        let second = full_segment(arena, 2);
        assert_eq!(arena.segment_count(), before + 1);
        assert_eq!(through(&mut ring, 1, &second), Err(Errno::FAULT), "not adopted yet");
        arena.adopt(&ring.submitter(), 1).unwrap();
        assert_eq!(through(&mut ring, 1, &second).unwrap(), vec![2; SEGMENT_BYTES]);

        // Adopting again, in whatever order, loses nothing.
        let third = full_segment(arena, 3);
        arena.adopt(&ring.submitter(), 2).unwrap();
        arena.adopt(&ring.submitter(), 0).unwrap();
        for (index, block) in [&first, &second, &third].into_iter().enumerate() {
            let bytes = vec![index as u8 + 1; SEGMENT_BYTES];
            assert_eq!(through(&mut ring, index as u16, block).unwrap(), bytes);
        }
        // An entry holds its own segment and no other.
        assert_eq!(through(&mut ring, 0, &second), Err(Errno::FAULT));
        assert_eq!(arena.adopt(&ring.submitter(), 3), Err(Errno::NXIO), "no such segment yet");
    }

    #[test]
    fn a_default_ring_of_another_thread_adopts_segments_as_they_come() {
        let Some(arena) = registered_arena("a_default_ring_adopts") else { return };
        std::thread::spawn(move || adopts_and_reads(IoUring::new(4).unwrap(), &arena))
            .join()
            .unwrap();
    }

    #[test]
    fn a_single_issuer_ring_of_another_thread_adopts_segments_as_they_come() {
        let test = "a_single_issuer_ring_adopts";
        let Some(arena) = registered_arena(test) else { return };
        std::thread::spawn(move || {
            match IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(4) {
                Ok(ring) => adopts_and_reads(ring, &arena),
                Err(why) => ringwire_wire::skip(test, &format!("needs 6.1: {why}")),
            }
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_registration_is_cloned_not_made_again() {
        let test = "a_registration_is_cloned";
        let Some(arena) = registered_arena(test) else { return };
        let ring = IoUring::new(4).unwrap();
        sparse(&ring.submitter(), arena.max_segments()).unwrap();
        match arena.clone_into(&ring.submitter()) {
            Ok(()) => {}
            Err(errno) => ringwire_wire::skip(test, &format!("CLONE_BUFFERS: {errno}, needs 6.13")),
        }
    }

    #[test]
    fn a_ring_that_cannot_clone_registers_the_memory_again() {
        let Some(arena) = registered_arena("a_ring_that_cannot_clone") else { return };
        let block = full_segment(&arena, 7);
        let mut ring = IoUring::new(4).unwrap();
        sparse(&ring.submitter(), arena.max_segments()).unwrap();
        let segment = arena.segments()[0];
        let base = NonNull::new(segment.base as *mut u8).unwrap();
        set(&ring.submitter(), 0, base, segment.bytes).unwrap();
        assert_eq!(through(&mut ring, 0, &block).unwrap(), vec![7; SEGMENT_BYTES]);
        clear(&ring.submitter(), 0).unwrap();
        assert_eq!(through(&mut ring, 0, &block), Err(Errno::FAULT));
    }

    #[test]
    fn blocks_outlive_their_arena_and_stay_registered_with_the_ring() {
        let Some(arena) = registered_arena("blocks_outlive_their_arena") else { return };
        let mut ring = IoUring::new(4).unwrap();
        sparse(&ring.submitter(), arena.max_segments()).unwrap();
        arena.adopt(&ring.submitter(), 0).unwrap();
        let block = full_segment(&arena, 9);
        drop(arena);
        assert_eq!(through(&mut ring, 0, &block).unwrap(), vec![9; SEGMENT_BYTES]);
    }
}
