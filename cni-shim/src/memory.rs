//! Memory for a process that lives a millisecond: handed out of one piece that is there from the start, and not taken
//! back. The C library's allocator asks the kernel for pages, and returns them, a dozen times in the life of a call.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a usual call needs, several times over. Untouched pages cost nothing.
const ROOM: usize = 256 * 1024;

/// The piece; whatever does not fit comes from the C library.
pub(crate) struct Piece {
    bytes: UnsafeCell<[u8; ROOM]>,
    /// Handed out, from the start.
    used: AtomicUsize,
}

#[expect(
    unsafe_code,
    reason = "an allocator gives out one piece of memory to many"
)]
// SAFETY: bytes are only handed out, each to one owner, by the atomic `used`.
unsafe impl Sync for Piece {}

impl Piece {
    pub(crate) const fn new() -> Self {
        Self {
            bytes: UnsafeCell::new([0; ROOM]),
            used: AtomicUsize::new(0),
        }
    }

    /// Where the next allocation of this layout begins and ends, if it fits behind `used`.
    fn place(&self, used: usize, layout: Layout) -> Option<(usize, usize)> {
        let base = self.bytes.get() as usize;
        let start = (base + used).checked_next_multiple_of(layout.align())? - base;
        let end = start.checked_add(layout.size())?;
        (end <= ROOM).then_some((start, end))
    }

    fn offset(&self, pointer: *mut u8) -> Option<usize> {
        let offset = (pointer as usize).checked_sub(self.bytes.get() as usize)?;
        (offset < ROOM).then_some(offset)
    }
}

#[expect(unsafe_code, reason = "the trait of allocators is unsafe")]
// SAFETY: each place is handed out once, aligned and inside of the piece; what is from the C library goes back there.
unsafe impl GlobalAlloc for Piece {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut used = self.used.load(Ordering::Relaxed);
        while let Some((start, end)) = self.place(used, layout) {
            let taken =
                self.used
                    .compare_exchange_weak(used, end, Ordering::Relaxed, Ordering::Relaxed);
            match taken {
                // SAFETY: `start` is inside of the piece.
                Ok(_) => return unsafe { self.bytes.get().cast::<u8>().add(start) },
                Err(other) => used = other,
            }
        }
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if self.offset(pointer).is_none() {
            // SAFETY: not from the piece, so from the C library, with this layout.
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let Some(start) = self.offset(pointer) else {
            // SAFETY: not from the piece, so from the C library, with this layout.
            return unsafe { System.realloc(pointer, layout, new_size) };
        };
        // What was handed out last can grow where it is.
        let (end, new_end) = (start + layout.size(), start.saturating_add(new_size));
        let grown = new_end <= ROOM
            && self
                .used
                .compare_exchange(end, new_end, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if grown {
            return pointer;
        }
        // SAFETY: the caller promises that the new size is valid for this alignment.
        let new =
            unsafe { self.alloc(Layout::from_size_align_unchecked(new_size, layout.align())) };
        if !new.is_null() {
            // SAFETY: both are that long, and the new one was just handed out.
            unsafe { std::ptr::copy_nonoverlapping(pointer, new, layout.size().min(new_size)) };
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(unsafe_code, reason = "an allocator is called with promises")]
    fn pieces_do_not_overlap_and_grow_where_they_are_or_move_with_what_they_hold() {
        let piece = Box::new(Piece::new());
        let layout = |size, align| Layout::from_size_align(size, align).unwrap();
        // SAFETY: each pointer is used with the layout that it was made with, and no more after it was given back.
        unsafe {
            let first = piece.alloc(layout(3, 1));
            first.write_bytes(7, 3);
            let second = piece.alloc(layout(8, 64));
            assert_eq!(second as usize % 64, 0);
            assert!(second as usize >= first as usize + 3);
            second.write_bytes(9, 8);
            // The last one stays where it is.
            assert_eq!(piece.realloc(second, layout(8, 64), 100), second);
            let moved = piece.realloc(first, layout(3, 1), 50);
            assert!(moved as usize >= second as usize + 100);
            assert_eq!(std::slice::from_raw_parts(moved, 3), [7; 3]);
            assert_eq!(std::slice::from_raw_parts(second, 8), [9; 8]);
            // More than there is room for comes from elsewhere, and goes back there.
            let large = piece.alloc(layout(2 * ROOM, 8));
            assert!(piece.offset(large).is_none());
            let larger = piece.realloc(large, layout(2 * ROOM, 8), 3 * ROOM);
            piece.dealloc(larger, layout(3 * ROOM, 8));
            piece.dealloc(moved, layout(50, 1));
        }
    }
}
