//! Registering memory with a ring: `io_uring_register` as step 3 (registration) needs it.
//!
//! `registration.rs` decides what is registered where; this file only calls. It must not know
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
use ringwire_core::Errno;

use crate::errno::io_errno;

/// The kernel registers no larger piece than this at once (EFAULT, K14).
#[doc(alias = "SZ_1G")]
pub const PIECE_BYTES_MAX: usize = 1 << 30;

fn done(result: io::Result<()>) -> Result<(), Errno> {
    result.map_err(|error| io_errno(&error))
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
mod tests {
    use std::fs::File;
    use std::io::Read as _;
    use std::io::Seek as _;
    use std::os::fd::AsRawFd as _;
    use std::sync::Arc;

    use io_uring::{IoUring, opcode, types};
    use ringwire_arena::{Block, Segment};

    use super::*;
    use crate::errno::errno;
    use crate::registration::{Registrar, Registration, SharedRegistration};

    const SEGMENT_BYTES: usize = 64 << 10;

    /// What the kernel writes into a file when it reads `block` through entry `index`.
    fn through(ring: &mut IoUring, index: u16, block: &Block) -> Result<Vec<u8>, Errno> {
        let fd = rustix::fs::memfd_create("ringwire-test", rustix::fs::MemfdFlags::CLOEXEC);
        let mut file = File::from(fd.map_err(errno)?);
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

    /// Segments of one block each, registered one by one.
    struct Segments {
        registrar: Registrar,
        shared: SharedRegistration,
        all: Vec<Arc<Segment>>,
    }

    impl Segments {
        const MAX: u32 = 5;

        /// With one of them registered; `None` (and a counted skip) where the host refuses.
        fn registered(test: &'static str) -> Option<Segments> {
            let new = || {
                let bytes = 4 * SEGMENT_BYTES;
                let mut registrar =
                    Registrar::new(Registration::Require, bytes, Segments::MAX as u16)?;
                let all = vec![registrar.segment(0, SEGMENT_BYTES)?];
                let shared = registrar.shared().expect("a ring, since it is required");
                Ok::<_, ringwire_core::Error>(Segments { registrar, shared, all })
            };
            new().map_err(|why| ringwire_wire::skip(test, &why.to_string())).ok()
        }

        fn grow(&mut self) {
            let index = self.all.len() as u16;
            self.all.push(self.registrar.segment(index, SEGMENT_BYTES).unwrap());
        }

        /// A block that fills a segment.
        fn full(&self, index: u16, byte: u8) -> Block {
            let mut block = self.all[usize::from(index)].take(SEGMENT_BYTES).unwrap();
            block.spare_mut().fill(byte);
            block.advance(SEGMENT_BYTES);
            block.freeze()
        }

        fn adopt(&self, ring: &IoUring, index: u16) -> Result<(), Errno> {
            let segment = &self.all[usize::from(index)];
            self.shared.adopt(&ring.submitter(), index, segment.base(), segment.bytes())
        }
    }

    impl Drop for Segments {
        fn drop(&mut self) {
            self.all.iter().for_each(Segment::close);
        }
    }

    /// Runs on a thread that did not register the segments.
    fn adopts_and_reads(mut ring: IoUring, mut segments: Segments) {
        sparse(&ring.submitter(), Segments::MAX).unwrap();
        let first = segments.full(0, 1);
        assert_eq!(through(&mut ring, 0, &first), Err(Errno::FAULT), "not adopted yet");
        segments.adopt(&ring, 0).unwrap();
        assert_eq!(through(&mut ring, 0, &first).unwrap(), vec![1; SEGMENT_BYTES]);

        // One more after the ring has cloned.
        segments.grow();
        let second = segments.full(1, 2);
        assert_eq!(through(&mut ring, 1, &second), Err(Errno::FAULT), "not adopted yet");
        segments.adopt(&ring, 1).unwrap();
        assert_eq!(through(&mut ring, 1, &second).unwrap(), vec![2; SEGMENT_BYTES]);

        // Adopting again, in whatever order, loses nothing.
        segments.grow();
        let third = segments.full(2, 3);
        segments.adopt(&ring, 2).unwrap();
        segments.adopt(&ring, 0).unwrap();
        for (index, block) in [&first, &second, &third].into_iter().enumerate() {
            let bytes = vec![index as u8 + 1; SEGMENT_BYTES];
            assert_eq!(through(&mut ring, index as u16, block).unwrap(), bytes);
        }
        // An entry holds its own segment and no other.
        assert_eq!(through(&mut ring, 0, &second), Err(Errno::FAULT));
    }

    #[test]
    fn a_default_ring_of_another_thread_adopts_segments_as_they_come() {
        let Some(segments) = Segments::registered("a_default_ring_adopts") else { return };
        std::thread::spawn(move || adopts_and_reads(IoUring::new(4).unwrap(), segments))
            .join()
            .unwrap();
    }

    #[test]
    fn a_single_issuer_ring_of_another_thread_adopts_segments_as_they_come() {
        let test = "a_single_issuer_ring_adopts";
        let Some(segments) = Segments::registered(test) else { return };
        std::thread::spawn(move || {
            match IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(4) {
                Ok(ring) => adopts_and_reads(ring, segments),
                Err(why) => ringwire_wire::skip(test, &format!("needs 6.1: {why}")),
            }
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_registration_is_cloned_not_made_again() {
        let test = "a_registration_is_cloned";
        let Some(segments) = Segments::registered(test) else { return };
        let ring = IoUring::new(4).unwrap();
        sparse(&ring.submitter(), Segments::MAX).unwrap();
        match segments.shared.clone_into(&ring.submitter()) {
            Ok(()) => {}
            Err(errno) => ringwire_wire::skip(test, &format!("CLONE_BUFFERS: {errno}, needs 6.13")),
        }
    }

    #[test]
    fn a_ring_that_cannot_clone_registers_the_memory_again() {
        let test = "a_ring_that_cannot_clone";
        let Some(segments) = Segments::registered(test) else { return };
        let block = segments.full(0, 7);
        let mut ring = IoUring::new(4).unwrap();
        sparse(&ring.submitter(), Segments::MAX).unwrap();
        let segment = &segments.all[0];
        set(&ring.submitter(), 0, segment.base(), segment.bytes()).unwrap();
        assert_eq!(through(&mut ring, 0, &block).unwrap(), vec![7; SEGMENT_BYTES]);
        clear(&ring.submitter(), 0).unwrap();
        assert_eq!(through(&mut ring, 0, &block), Err(Errno::FAULT));
    }

    #[test]
    fn blocks_outlive_their_arena_and_stay_registered_with_the_ring() {
        let test = "blocks_outlive_their_arena";
        let Some(segments) = Segments::registered(test) else { return };
        let mut ring = IoUring::new(4).unwrap();
        sparse(&ring.submitter(), Segments::MAX).unwrap();
        segments.adopt(&ring, 0).unwrap();
        let block = segments.full(0, 9);
        drop(segments);
        assert_eq!(through(&mut ring, 0, &block).unwrap(), vec![9; SEGMENT_BYTES]);
    }

    #[test]
    fn a_ring_without_a_table_is_given_all_there_is() {
        let test = "a_ring_without_a_table";
        let Some(mut segments) = Segments::registered(test) else { return };
        segments.grow();
        let mut ring = IoUring::new(4).unwrap();
        if let Err(errno) = segments.shared.share_with(&ring.submitter()) {
            return ringwire_wire::skip(test, &format!("CLONE_BUFFERS: {errno}, needs 6.12"));
        }
        for index in 0..2 {
            let block = segments.full(index, 5);
            assert_eq!(through(&mut ring, index, &block).unwrap(), vec![5; SEGMENT_BYTES]);
        }
    }
}
