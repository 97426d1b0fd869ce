//! An ordered map whose copies share what they have in common.
//!
//! *Pattern: versioned value.* An image of the metadata is copied at every change and kept by
//! whoever still reads the old one. Entries lie in sorted chunks behind `Arc`s: a copy costs a
//! pointer per chunk, a change after it one chunk, whatever the map holds in all. At 10,000 topics
//! that is some hundreds of pointers and a hundred entries, where a `BTreeMap` would copy all of
//! them.

use std::{borrow::Borrow, fmt, sync::Arc};

/// The most entries of one chunk; a fuller one is split in two.
const CHUNK_ENTRIES_MAX: usize = 128;

/// A map from `K` to `V` in the order of `K`. Cloning it is cheap; so is changing a clone.
#[derive(Clone)]
pub struct SharedMap<K, V> {
    /// Sorted, none empty.
    chunks: Vec<Arc<Vec<(K, V)>>>,
    len: usize,
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            len: 0,
        }
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    /// An empty map.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many entries there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of `key`.
    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let chunk = self.chunks.get(self.chunk_of(key))?;
        let at = position(chunk, key).ok()?;
        chunk.get(at).map(|(_, value)| value)
    }

    /// The value of `key`, to be changed; copies its chunk if another map shares it.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let index = self.chunk_of(key);
        let chunk = self.chunks.get_mut(index)?;
        let at = position(chunk, key).ok()?;
        Arc::make_mut(chunk).get_mut(at).map(|(_, value)| value)
    }

    /// Sets the value of `key` and returns the one before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let index = self.chunk_of(&key);
        let Some(chunk) = self.chunks.get_mut(index) else {
            self.chunks.push(Arc::new(vec![(key, value)]));
            self.len += 1;
            return None;
        };
        let entries = Arc::make_mut(chunk);
        match position(entries, &key) {
            Ok(at) => entries
                .get_mut(at)
                .map(|(_, before)| std::mem::replace(before, value)),
            Err(at) => {
                entries.insert(at, (key, value));
                self.len += 1;
                if entries.len() > CHUNK_ENTRIES_MAX {
                    // Keys that come in order leave full chunks behind instead of half-full ones.
                    let keep = if at + 1 == entries.len() {
                        CHUNK_ENTRIES_MAX
                    } else {
                        entries.len() / 2
                    };
                    let upper = entries.split_off(keep);
                    self.chunks.insert(index + 1, Arc::new(upper));
                }
                None
            }
        }
    }

    /// Takes the entry of `key` out.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let index = self.chunk_of(key);
        let chunk = self.chunks.get_mut(index)?;
        let at = position(chunk, key).ok()?;
        let entries = Arc::make_mut(chunk);
        let (_, value) = entries.remove(at);
        if entries.is_empty() {
            self.chunks.remove(index);
        }
        self.len -= 1;
        Some(value)
    }

    /// Every entry, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.chunks
            .iter()
            .flat_map(|chunk| chunk.iter().map(|(key, value)| (key, value)))
    }

    /// The entries whose key is `from` or larger, in order.
    pub fn iter_from<'a, Q: Ord + ?Sized>(
        &'a self,
        from: &Q,
    ) -> impl Iterator<Item = (&'a K, &'a V)> + use<'a, K, V, Q>
    where
        K: Borrow<Q>,
    {
        let index = self.chunk_of(from);
        let skipped = self
            .chunks
            .get(index)
            .map_or(0, |chunk| position(chunk, from).unwrap_or_else(|at| at));
        self.chunks
            .iter()
            .skip(index)
            .flat_map(|chunk| chunk.iter().map(|(key, value)| (key, value)))
            .skip(skipped)
    }

    /// The chunk in which `key` is or belongs: the last one that begins at or before it.
    fn chunk_of<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        self.chunks
            .partition_point(|chunk| {
                chunk
                    .first()
                    .is_some_and(|(first, _)| first.borrow() <= key)
            })
            .saturating_sub(1)
    }
}

fn position<K: Ord + Borrow<Q>, V, Q: Ord + ?Sized>(
    chunk: &[(K, V)],
    key: &Q,
) -> Result<usize, usize> {
    chunk.binary_search_by(|(held, _)| held.borrow().cmp(key))
}

impl<K: Ord + Clone + PartialEq, V: Clone + PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        // How entries are spread over chunks tells of the past, not of the content.
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<K: Ord + Clone + Eq, V: Clone + Eq> Eq for SharedMap<K, V> {}

impl<K: Ord + Clone + fmt::Debug, V: Clone + fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn it_is_a_btree_map_whose_copies_stay_as_they_were() {
        let (mut map, mut twin) = (SharedMap::new(), BTreeMap::new());
        let mut kept = Vec::new();
        let mut random = 0x5eed_u64;
        for step in 0..20_000_u64 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let key = (random >> 33) % 1_000;
            if random % 5 < 3 {
                assert_eq!(map.insert(key, step), twin.insert(key, step));
            } else {
                assert_eq!(map.remove(&key), twin.remove(&key));
            }
            if let (Some(left), Some(right)) = (map.get_mut(&(key / 2)), twin.get_mut(&(key / 2))) {
                *left += 1;
                *right += 1;
            }
            assert_eq!(map.get(&key), twin.get(&key));
            assert_eq!(map.len(), twin.len());
            if step % 1_000 == 0 {
                assert!(map.iter().eq(twin.iter()));
                assert!(map.iter_from(&key).eq(twin.range(key..)));
                kept.push((map.clone(), twin.clone()));
            }
        }
        for (map, twin) in kept {
            assert!(map.iter().eq(twin.iter()));
        }
    }

    #[test]
    fn keys_in_order_fill_their_chunks() {
        let mut map = SharedMap::new();
        for key in 0..10 * CHUNK_ENTRIES_MAX {
            map.insert(key, ());
        }
        assert_eq!(map.chunks.len(), 10);
        assert_eq!(map.iter_from(&(5 * CHUNK_ENTRIES_MAX + 3)).count(), 637);
        assert_eq!(map.iter_from(&usize::MAX).count(), 0);
    }

    #[test]
    fn a_change_copies_one_chunk_and_shares_the_others() {
        let mut map = SharedMap::new();
        for key in 0..10_000 {
            map.insert(key, key);
        }
        let before = map.clone();
        map.insert(5_000, 0);
        map.remove(&5_001);
        let chunks = map.chunks.iter().zip(&before.chunks);
        let copied = chunks.filter(|(new, old)| !Arc::ptr_eq(new, old)).count();
        assert_eq!((copied, before.get(&5_001)), (1, Some(&5_001)));
    }
}
