//! Which partition a customer is on.

/// The partition among `count` that a controller with `--partitions` has `key` on: the namespace of an object, or its name if it has
/// none. The same in every process, on every machine and in every version.
///
/// Each partition draws a number for the key, and the highest wins. One partition more takes its part from all the others
/// alike, and nothing moves between those.
pub fn partition_of(key: &str, count: u32) -> u32 {
    (0..count.max(1)).max_by_key(|partition| draw(key, u64::from(*partition))).unwrap_or(0)
}

/// How much `who` would like to have `partition`: replicas that reach for one at the same time reach for different ones.
pub(crate) fn liking(who: &str, partition: u32) -> u64 {
    draw(who, u64::from(partition))
}

/// FNV-1a over the key, then mixed with the number until every bit depends on every other. Written out here, because
/// the hashers of the standard library may differ from one release to the next.
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
    fn it_is_the_same_for_ever() {
        // Another answer would be two processes of different versions at work on one customer.
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
        fn one_partition_more_takes_and_moves_nothing_else(key in ".{0,40}", count in 1_u32..40) {
            let (before, after) = (partition_of(&key, count), partition_of(&key, count + 1));
            prop_assert!(before < count);
            prop_assert!(after == before || after == count);
        }
    }
}
