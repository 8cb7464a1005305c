//! Egress groups: peers that are told the same, with one queue, one memory of what was said and
//! one log of encoded messages.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;

use super::{
    NextHopMode, PathLimit,
    bits::Bits,
    export::Rendered,
    handover::Before,
    held::{Held, Missed},
    ordering::{self, Ordering},
    table::Source,
};
use crate::{
    policy::Filter,
    prefix::Family,
    wire::{NextHop, PeerKind},
};

/// Everything that can change what a peer is told. A knob missing here would send one peer the
/// bytes meant for another.
#[derive(Debug, Clone)]
pub(super) struct GroupKey {
    pub(super) family: Family,
    pub(super) kind: PeerKind,
    pub(super) local_as: u32,
    pub(super) rr_client: bool,
    pub(super) graceful_shutdown: bool,
    pub(super) next_hop_mode: NextHopMode,
    pub(super) next_hop: Option<NextHop>,
    pub(super) four_octet_as: bool,
    pub(super) max_message_len: usize,
    pub(super) extended_next_hop: bool,
    pub(super) as_override: Option<u32>,
    pub(super) remove_private_as: bool,
    /// Several paths of a prefix are told, with identifiers (RFC 7911).
    pub(super) add_path: Option<PathLimit>,
    pub(super) long_lived: StaleTold,
    pub(super) export: Arc<Filter>,
}

/// How long-lived stale routes are told (RFC 9494).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StaleTold {
    /// As they are.
    AsTheyAre,
    /// Not to those without the capability (section 4.3).
    NotAtAll,
    /// For the last resort, where not everyone has the capability (section 4.6).
    Last {
        /// They have not.
        no_export: bool,
    },
}

impl PartialEq for GroupKey {
    fn eq(&self, other: &Self) -> bool {
        let Self {
            family,
            kind,
            local_as,
            rr_client,
            graceful_shutdown,
            next_hop_mode,
            next_hop,
            four_octet_as,
            max_message_len,
            extended_next_hop,
            as_override,
            remove_private_as,
            add_path,
            long_lived,
            export,
        } = self;
        *family == other.family
            && *kind == other.kind
            && *local_as == other.local_as
            && *rr_client == other.rr_client
            && *graceful_shutdown == other.graceful_shutdown
            && *next_hop_mode == other.next_hop_mode
            && *next_hop == other.next_hop
            && *four_octet_as == other.four_octet_as
            && *max_message_len == other.max_message_len
            && *extended_next_hop == other.extended_next_hop
            && *as_override == other.as_override
            && *remove_private_as == other.remove_private_as
            && *add_path == other.add_path
            && *long_lived == other.long_lived
            && (Arc::ptr_eq(export, &other.export) || *export == other.export)
    }
}

/// Prefixes to be told about, each once however often it changes.
#[derive(Debug, Default)]
pub(super) struct Queue {
    ids: Vec<u32>,
    queued: Bits,
    /// `ids[..head]` are done.
    head: usize,
    /// `ids[head..ordered]` are in order of attribute set.
    ordered: usize,
    /// They are being put in order; none is taken meanwhile.
    ordering: Option<Ordering>,
}

impl Queue {
    pub(super) fn push(&mut self, id: u32) {
        if self.queued.insert(id) {
            self.ids.push(id);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len() - self.head
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn contains(&self, id: u32) -> bool {
        self.queued.contains(id)
    }

    pub(super) fn ids(&self) -> &[u32] {
        &self.ids[self.head..]
    }

    /// Whether more than `most` wait that are in no order: [`Queue::order`] comes first.
    pub(super) fn is_to_be_ordered(&self, most: usize) -> bool {
        self.ordering.is_some() || self.head >= self.ordered && self.len() > most
    }

    /// Puts all that wait in the order of `set_of`, a portion at a time; `true` once they are.
    pub(super) fn order(&mut self, portion: usize, set_of: impl Fn(u32) -> u32) -> bool {
        let ordering = self.ordering.get_or_insert_with(|| {
            self.ids.drain(..self.head);
            (self.head, self.ordered) = (0, self.ids.len());
            Ordering::new(self.ordered, portion)
        });
        let done = ordering.work(&mut self.ids, set_of);
        if done {
            self.ordering = None;
        }
        done
    }

    /// Takes up to `most` ids. Where more wait, they are put in the order of `set_of` first, so
    /// that prefixes with equal attributes leave in one message.
    pub(super) fn take(&mut self, most: usize, set_of: impl Fn(u32) -> u32) -> Vec<u32> {
        if self.head >= self.ordered && self.len() > most {
            self.ids.drain(..self.head);
            ordering::sort(&mut self.ids, &set_of);
            (self.head, self.ordered) = (0, self.ids.len());
        }
        let batch = self.ids().iter().take(most).copied().collect::<Vec<_>>();
        self.head += batch.len();
        for &id in &batch {
            self.queued.remove(id);
        }
        if self.is_empty() {
            let small = self.ids.capacity() <= 4 * most;
            self.ids = if small {
                std::mem::take(&mut self.ids)
            } else {
                Vec::new()
            };
            self.ids.clear();
            (self.head, self.ordered) = (0, 0);
        }
        batch
    }
}

/// What is sent when all queued at the start has been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marker {
    /// End-of-RIB (RFC 4724, section 2).
    EndOfRib,
    /// End of route refresh (RFC 7313).
    EndOfRefresh,
}

/// A peer in a group.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) source: Source,
    /// Position in the log.
    cursor: u64,
    /// Outstanding.
    pub(super) marker: Option<Marker>,
}

/// Who reads a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readers {
    /// Every member but this one, from which the routes came.
    AllBut(Source),
    /// This member alone.
    Only(Source),
}

/// The routes that a chunk is about.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Their prefixes.
    pub(super) ids: Box<[u32]>,
    /// Which path of each, in groups that tell several; else empty.
    pub(super) numbers: Box<[u8]>,
}

/// Encoded messages for the same readers.
#[derive(Debug)]
struct Chunk {
    readers: Readers,
    data: Bytes,
    /// The prefixes in it, for a member that has to be told anew.
    told: Told,
    emission: u64,
    /// Members whose cursor is not past it.
    unread: usize,
}

/// A group.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) key: GroupKey,
    /// Peers in step share the main group of a key; others catch up in groups of their own.
    pub(super) main: bool,
    pub(super) queue: Queue,
    pub(super) held: Held,
    log: VecDeque<Chunk>,
    /// Position of the front of the log.
    first: u64,
    log_bytes: usize,
    /// By source.
    pub(super) members: Vec<Member>,
    /// Prefixes left of those queued at the start; `None` before the first is taken.
    initial: Option<usize>,
    /// Log position where those end.
    dump_end: Option<u64>,
    /// What another process told the only member, until it is compared.
    pub(super) before: Option<Box<Before>>,
    /// The last attributes that were encoded.
    pub(super) rendered: Option<Rendered>,
}

/// What a member finds at its cursor.
#[derive(Debug)]
pub(super) enum Next {
    Data(Bytes),
    Marker(Marker),
    /// It has read everything that is encoded.
    End,
}

impl Group {
    pub(super) fn new(key: GroupKey, main: bool, held: Held) -> Self {
        Self {
            key,
            main,
            queue: Queue::default(),
            held,
            log: VecDeque::new(),
            first: 0,
            log_bytes: 0,
            members: Vec::new(),
            initial: None,
            dump_end: None,
            before: None,
            rendered: None,
        }
    }

    fn end(&self) -> u64 {
        self.first + self.log.len() as u64
    }

    /// Whether nothing has been said yet, so that a newcomer needs no catching up.
    pub(super) fn is_pristine(&self) -> bool {
        self.held.is_empty() && self.initial.is_none() && self.end() == 0 && self.before.is_none()
    }

    /// Octets that someone has yet to read.
    pub(super) const fn log_bytes(&self) -> usize {
        self.log_bytes
    }

    pub(super) fn oldest_unread(&self) -> Option<u64> {
        self.log.front().map(|chunk| chunk.emission)
    }

    pub(super) fn has_member(&self, source: Source) -> bool {
        self.place(source).is_ok()
    }

    /// Where a member is, or would be. Found without going through all: every one of them is looked
    /// for whenever there is something to tell.
    fn place(&self, source: Source) -> Result<usize, usize> {
        self.members.binary_search_by_key(&source, |m| m.source)
    }

    /// A peer joins at the end of the log.
    pub(super) fn add(&mut self, source: Source, marker: Option<Marker>) {
        let cursor = self.end();
        if let Err(at) = self.place(source) {
            self.members.insert(
                at,
                Member {
                    source,
                    cursor,
                    marker,
                },
            );
        }
    }

    /// A peer leaves; returns it and what it was not told the last of.
    pub(super) fn remove(&mut self, source: Source) -> Option<(Member, Missed)> {
        let at = self.place(source).ok()?;
        let member = self.members.remove(at);
        let read = (member.cursor - self.first) as usize;
        let mut missed = Missed {
            ids: self.queue.ids().to_vec(),
            paths: Vec::new(),
        };
        for chunk in self.log.iter_mut().skip(read) {
            chunk.unread -= 1;
            let Told { ids, numbers } = &chunk.told;
            missed.ids.extend_from_slice(ids);
            missed
                .paths
                .extend(ids.iter().copied().zip(numbers.iter().copied()));
        }
        self.trim();
        Some((member, missed))
    }

    pub(super) fn refers_to(&self, id: u32) -> bool {
        self.held.contains(id) || self.queue.contains(id)
    }

    /// Takes the next prefixes to encode.
    pub(super) fn take_batch(&mut self, most: usize, set_of: impl Fn(u32) -> u32) -> Vec<u32> {
        let initial = self.initial.unwrap_or_else(|| self.queue.len());
        let batch = self.queue.take(most, set_of);
        self.initial = Some(initial.saturating_sub(batch.len()));
        batch
    }

    /// A batch is in the log. Notes where the initial dump ends.
    pub(super) fn batch_done(&mut self) {
        let all_said = self.initial == Some(0) || self.queue.is_empty();
        if self.dump_end.is_none() && all_said {
            self.initial = Some(0);
            self.dump_end = Some(self.end());
        }
    }

    pub(super) fn append(&mut self, readers: Readers, data: Bytes, told: Told, emission: u64) {
        self.log_bytes += data.len();
        let unread = self.members.len();
        self.log.push_back(Chunk {
            readers,
            data,
            told,
            emission,
            unread,
        });
    }

    /// What the member reads next.
    pub(super) fn read(&mut self, source: Source) -> Next {
        let (first, dump_end) = (self.first, self.dump_end);
        let Ok(at) = self.place(source) else {
            return Next::End;
        };
        loop {
            let member = &mut self.members[at];
            if let Some(marker) = member.marker
                && dump_end.is_some_and(|end| member.cursor >= end)
            {
                member.marker = None;
                return Next::Marker(marker);
            }
            let Some(chunk) = self.log.get_mut((member.cursor - first) as usize) else {
                self.trim();
                return Next::End;
            };
            member.cursor += 1;
            chunk.unread -= 1;
            let for_me = match chunk.readers {
                Readers::AllBut(other) => other != source,
                Readers::Only(one) => one == source,
            };
            if for_me {
                let data = chunk.data.clone();
                self.trim();
                return Next::Data(data);
            }
        }
    }

    /// Whether the member has anything to read or to wait for.
    pub(super) fn is_pending(&self, source: Source) -> bool {
        let Ok(at) = self.place(source) else {
            return false;
        };
        let member = &self.members[at];
        member.cursor < self.end() || member.marker.is_some() || !self.queue.is_empty()
    }

    /// Members that nothing more can be said to here: the log waits for them.
    pub(super) fn laggards(&self, but: Source) -> Vec<Source> {
        let behind = |m: &&Member| m.cursor == self.first && m.source != but;
        self.members
            .iter()
            .filter(behind)
            .map(|m| m.source)
            .collect()
    }

    /// Sets the marker that the member gets at the end of its dump.
    pub(super) fn set_marker(&mut self, source: Source, marker: Option<Marker>) {
        if let Ok(at) = self.place(source) {
            self.members[at].marker = marker;
        }
    }

    fn trim(&mut self) {
        while self.log.front().is_some_and(|chunk| chunk.unread == 0) {
            if let Some(chunk) = self.log.pop_front() {
                self.log_bytes -= chunk.data.len();
                self.first += 1;
            }
        }
    }
}
