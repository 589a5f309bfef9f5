//! The partition of a customer.

/// The partition, of `count`, of `key`: the namespace of an object, or its name if it has none. The same in every process, on every
/// machine and in every version.
///
/// Rendezvous hashing: each partition draws a number for the key, and the highest wins. An additional partition takes an equal
/// share from each other one, and nothing moves between those.
pub fn partition_of(key: &str, count: u32) -> u32 {
    (0..count.max(1)).max_by_key(|partition| draw(key, u64::from(*partition))).unwrap_or(0)
}

/// The preference of replica `who` for `partition`: replicas that take partitions at the same time try different ones first.
pub(crate) fn preference(who: &str, partition: u32) -> u64 {
    draw(who, u64::from(partition))
}

/// FNV-1a of the key, mixed with the number. The hashers of the standard library may change between releases.
fn draw(key: &str, number: u64) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325_u64;
    let hash = key.bytes().fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    mix(hash ^ mix(number.wrapping_add(0x9e37_79b9_7f4a_7c15)))
}

fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_hash_is_stable_across_versions() {
        // With another result, two processes of different versions would reconcile one customer.
        let known =
            ["customer-acme", "big-client-0815", "", "ahoi-system"].map(|key| [2, 3, 16].map(|n| partition_of(key, n)));
        assert_eq!(known, [[0, 2, 4], [0, 2, 2], [1, 2, 2], [0, 0, 0]]);
    }

    #[test]
    fn partitions_are_about_equal() {
        for count in [2, 3, 5, 16] {
            let mut sizes = vec![0_u32; count as usize];
            for customer in 0..10_000 {
                sizes[partition_of(&format!("customer-{customer:05}"), count) as usize] += 1;
            }
            let even = 10_000 / count;
            let off = sizes.iter().map(|size| size.abs_diff(even) * 100 / even).max().unwrap();
            assert!(off <= 15, "{sizes:?}");
        }
    }

    proptest! {
        #[test]
        fn an_additional_partition_moves_only_objects_to_itself(key in ".{0,40}", count in 1_u32..40) {
            let (before, after) = (partition_of(&key, count), partition_of(&key, count + 1));
            prop_assert!(before < count);
            prop_assert!(after == before || after == count);
        }
    }
}
