//! Sets of items: a handful in place, more as a compressed bitmap.
//!
//! Most values of labels are those of a few items, a few are those of nearly all. A bitmap holds a
//! hundred thousand items in 12 kB, changes in constant time, and meets others word by word.

use std::borrow::Cow;

use roaring::RoaringBitmap;
use smallvec::SmallVec;

use super::ItemId;

/// More items than these make a bitmap.
const FEW: usize = 16;

#[derive(Clone, Debug)]
pub(super) enum ItemSet {
    /// Ascending.
    Few(SmallVec<[u32; 4]>),
    Many(RoaringBitmap),
}

impl Default for ItemSet {
    fn default() -> Self {
        Self::Few(SmallVec::new())
    }
}

impl ItemSet {
    pub(super) fn insert(&mut self, id: ItemId) {
        match self {
            Self::Few(list) => {
                let Err(at) = list.binary_search(&id.0) else {
                    return;
                };
                if list.len() < FEW {
                    list.insert(at, id.0);
                    return;
                }
                let mut bitmap: RoaringBitmap = list.iter().copied().collect();
                bitmap.insert(id.0);
                *self = Self::Many(bitmap);
            }
            Self::Many(bitmap) => {
                bitmap.insert(id.0);
            }
        }
    }

    pub(super) fn remove(&mut self, id: ItemId) {
        match self {
            Self::Few(list) => {
                if let Ok(at) = list.binary_search(&id.0) {
                    list.remove(at);
                }
            }
            Self::Many(bitmap) => {
                bitmap.remove(id.0);
            }
        }
    }

    pub(super) fn contains(&self, id: ItemId) -> bool {
        match self {
            Self::Few(list) => list.binary_search(&id.0).is_ok(),
            Self::Many(bitmap) => bitmap.contains(id.0),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Few(list) => list.len(),
            Self::Many(bitmap) => usize::try_from(bitmap.len()).unwrap_or(usize::MAX),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Few(list) => list.is_empty(),
            Self::Many(bitmap) => bitmap.is_empty(),
        }
    }

    /// Ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = ItemId> {
        let (few, many) = match self {
            Self::Few(list) => (Some(list.iter().copied()), None),
            Self::Many(bitmap) => (None, Some(bitmap.iter())),
        };
        let (few, many) = (few.into_iter().flatten(), many.into_iter().flatten());
        few.chain(many).map(ItemId)
    }

    pub(super) fn bitmap(&self) -> Cow<'_, RoaringBitmap> {
        match self {
            Self::Few(list) => Cow::Owned(list.iter().copied().collect()),
            Self::Many(bitmap) => Cow::Borrowed(bitmap),
        }
    }

    pub(super) fn add_to(&self, bitmap: &mut RoaringBitmap) {
        match self {
            Self::Few(list) => bitmap.extend(list),
            Self::Many(more) => *bitmap |= more,
        }
    }
}

impl From<RoaringBitmap> for ItemSet {
    fn from(bitmap: RoaringBitmap) -> Self {
        match bitmap.len() > FEW as u64 {
            true => Self::Many(bitmap),
            false => Self::Few(bitmap.iter().collect()),
        }
    }
}
