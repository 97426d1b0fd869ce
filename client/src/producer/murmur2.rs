//! Kafka's hash of keys, exactly, so that a key lands on the same partition whoever sends it.
//!
//! Source: `org.apache.kafka.common.utils.Utils.murmur2` and `toPositive`.

use strandline_protocol::PartitionId;

const SEED: u32 = 0x9747_b28c;
const MIX: u32 = 0x5bd1_e995;

/// Kafka's murmur2 of `bytes`, as Java would print it.
#[must_use]
pub fn murmur2(bytes: &[u8]) -> i32 {
    // Java counts in 32 bits, and so does the length that is mixed in.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let mut hash = SEED ^ length;
    let mut words = bytes.chunks_exact(4);
    for word in words.by_ref() {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(word);
        let mixed = u32::from_le_bytes(bytes).wrapping_mul(MIX);
        let mixed = (mixed ^ (mixed >> 24)).wrapping_mul(MIX);
        hash = hash.wrapping_mul(MIX) ^ mixed;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        let mut word = [0; 4];
        for (slot, byte) in word.iter_mut().zip(rest) {
            *slot = *byte;
        }
        hash = (hash ^ u32::from_le_bytes(word)).wrapping_mul(MIX);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(MIX);
    (hash ^ (hash >> 15)).cast_signed()
}

/// The partition on which Kafka's clients put `key` in a topic of `partitions` partitions; the
/// first if there are none.
#[must_use]
pub fn partition_for_key(key: &[u8], partitions: i32) -> PartitionId {
    // `toPositive` clears the sign; it is not the absolute value.
    let positive = murmur2(key) & i32::MAX;
    PartitionId(positive.checked_rem(partitions).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn the_hash_is_kafkas() {
        let vectors: [(&[u8], i32); 7] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (
                b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            (b"abc", 479_470_107),
            (b"", 275_646_681),
        ];
        for (key, hash) in vectors {
            assert_eq!(murmur2(key), hash, "{}", String::from_utf8_lossy(key));
        }
    }

    #[test]
    fn a_partition_is_never_negative() {
        assert_eq!(
            partition_for_key(b"21", 10),
            PartitionId((-973_932_308 & i32::MAX) % 10)
        );
        for key in 0..1_000_u32 {
            let partition = partition_for_key(&key.to_be_bytes(), 7);
            assert!((0..7).contains(&partition.0), "{partition}");
        }
        assert_eq!(partition_for_key(b"key", 0), PartitionId(0));
    }
}
